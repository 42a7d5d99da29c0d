//! Small text files that say whose a folder is: `name = value` lines, replaced whole.
//!
//! - Takes: a text, or a path to one. Gives: fields, and errors that name the file.
//! - Bound: after a crash either the old or the new file is there.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::error::StartError;

/// Replaces a file so that after a crash either the old or the new one is there.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Names what was done to which file when it failed.
pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_path_buf();
    move |source| StartError::Io { what, path, source }
}

/// Reads one field.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))
        .map(str::trim)
}

pub(super) fn unhex(text: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(number.to_be_bytes())
}

/// Returns secrets and ids as they are written.
pub(super) fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Refuses a folder that was made for something else than is configured.
pub(super) fn same(
    path: &Path,
    field: &'static str,
    found: u64,
    configured: u64,
) -> Result<(), StartError> {
    if found == configured {
        return Ok(());
    }
    Err(StartError::Mismatch { path: path.into(), field, found, configured })
}
