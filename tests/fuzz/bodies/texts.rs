//! What the fuzz targets demand of texts that people write; also run by `tests/fuzz_corpus.rs`.
//!
//! - Takes: arbitrary bytes. Gives: nothing; panics where a promise is broken.
//! - Promises: no panic; a configuration is refused in words or read the same twice; a user name that
//!   is taken reads the same after being written again.

use std::{fs, path::PathBuf, process};

use hongqiao::{
    auth::UserName,
    config::{Config, Sources},
};

/// Reads `data` as a configuration file, and each of its lines as `--set` and from the environment.
pub(crate) fn config(data: &[u8]) {
    let path = PathBuf::from(format!("/dev/shm/hongqiao-fuzz-{}.toml", process::id()));
    if fs::write(&path, data).is_ok() {
        load(&Sources { file: Some(path.clone()), ..Sources::default() });
        let _ = fs::remove_file(path);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let assignments = text.lines().take(8).map(str::to_owned).collect();
    load(&Sources { assignments, ..Sources::default() });
    let pairs = text.lines().take(8).filter_map(|line| line.split_once('='));
    let environment =
        pairs.map(|(key, value)| (format!("HONGQIAO__{key}"), value.to_owned())).collect();
    load(&Sources { environment, ..Sources::default() });
}

fn load(sources: &Sources) {
    let tell = || Config::load(sources).map(|config| format!("{config:?}"));
    match (tell(), tell()) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        _ => panic!("read twice, with two outcomes"),
    }
}

/// Reads `data` as a user name.
pub(crate) fn user_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = UserName::parse(text, "demo#demo") {
        assert!(!name.user().contains(['/', '#', '+', '\0']));
        let whole = name.to_string();
        // The default app may take a name beyond the limit, once it is written.
        if let Ok(again) = UserName::parse(&whole, "") {
            assert_eq!(again, name);
        }
    }
}
