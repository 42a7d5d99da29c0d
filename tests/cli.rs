//! The commands of the binary: what they print, and the exit code that scripts see.

use std::{
    fs,
    process::{Command, Output},
};

fn hongqiao(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hongqiao"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HONGQIAO")) {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_names_every_command_and_exits_with_0() {
    let output = hongqiao(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for command in ["serve", "check-config", "user", "backup", "restore", "version", "completions"]
    {
        assert!(text.contains(command), "{command}\n{text}");
        let output = hongqiao(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(stdout(&output).contains("Usage: hongqiao"), "{command}");
    }
}

#[test]
fn bad_command_line_exits_with_2() {
    for arguments in
        [&[][..], &["dance"], &["serve", "--volume", "11"], &["serve", "--listen", "x"]]
    {
        let output = hongqiao(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn bad_configuration_exits_with_2_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for command in ["serve", "check-config"] {
        let set = "storage.durabilty=os";
        let output = hongqiao(&[command, "--data", data.to_str().unwrap(), "--set", set]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let text = stderr(&output);
        assert!(text.contains("did you mean `storage.durability`?"), "{text}");
        let output = hongqiao(&[command, "--listen", "0.0.0.0:1883"]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert!(stderr(&output).contains("auth.mode = \"password\""), "{command}");
        let output = hongqiao(&[command, "--config", "/nonexistent.toml"]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert!(stderr(&output).contains("/nonexistent.toml"), "{command}");
    }
    assert!(!data.exists());
}

#[test]
fn check_config_tells_what_a_node_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    fs::write(&file, "[auth]\nmode = 'password'\n[storage]\ndurability = 'os'\n").unwrap();
    let file = file.to_str().unwrap();
    let output = hongqiao(&["check-config", "--config", file, "--listen", "[::1]:2883"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("listener mqtt: mqtt on [::1]:2883, password required"), "{text}");
    assert!(text.contains("durability os"), "{text}");
}

#[test]
fn check_config_reads_the_environment() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hongqiao"));
    command.arg("check-config").env("HONGQIAO__LISTENERS__HTTP__ADDRESS", "127.0.0.1:9");
    assert!(stdout(&command.output().unwrap()).contains("http on 127.0.0.1:9"));
    command.env("HONGQIAO__LISTENERS__HTTP__ADRESS", "127.0.0.1:9");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean `listeners.http.address`?"));
}

#[test]
fn version_and_completions_print_to_standard_output() {
    let output = hongqiao(&["version"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with(concat!("hongqiao ", env!("CARGO_PKG_VERSION"))));
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&hongqiao(&["version", "--json"]))).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        let output = hongqiao(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("check-config"), "{shell}");
    }
}

#[test]
fn commands_for_a_running_node_fail_with_1_when_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let target = folder.path().join("backup");
    for arguments in [
        &["backup", target.to_str().unwrap(), "--data", data][..],
        &["user", "put", "acme#chat/ann", "--data", data],
    ] {
        let output = hongqiao(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains("no node runs on"), "{}", stderr(&output));
    }
    assert!(!target.exists());
}

#[test]
fn restore_refuses_what_is_no_backup_and_folders_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let (backup, data) = (folder.path().join("backup"), folder.path().join("data"));
    fs::create_dir_all(backup.join("state")).unwrap();
    let restore =
        || hongqiao(&["restore", backup.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    let output = restore();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is no backup"), "{}", stderr(&output));
    fs::write(backup.join("FORMAT"), "1").unwrap();
    fs::write(backup.join("state/db"), "bytes").unwrap();
    let output = restore();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("FORMAT is damaged"), "{}", stderr(&output));
    // Whole or not there.
    assert!(!data.exists() && fs::read_dir(folder.path()).unwrap().count() == 1);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "mine").unwrap();
    let output = restore();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is not empty"), "{}", stderr(&output));
}
