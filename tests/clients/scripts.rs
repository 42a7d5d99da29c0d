//! paho-mqtt (Python) and MQTT.js (Node, headless Chromium): each a script with its own scenarios.
//!
//! A script takes the address, prints a line per scenario and exits with 0 if all passed. `make tools`
//! installs what they need; a missing tool is a failure that says so.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::broker::broker;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn run(program: &Path, arguments: &[&str]) {
    let output =
        Command::new(program).args(arguments).current_dir(root()).output().unwrap_or_else(
            |error| panic!("{}: {error}; get it with: make tools", program.display()),
        );
    assert!(
        output.status.success(),
        "{} {arguments:?}:\n{}\n{}",
        program.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn python() -> PathBuf {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "paho-mqtt is missing; get it with: make tools");
    python
}

fn node(script: &str, url: &str) {
    let installed = root().join("tests/clients/node_modules/mqtt").exists();
    assert!(installed, "MQTT.js is missing; get it with: make tools");
    run(Path::new("node"), &[&format!("tests/clients/mqttjs/{script}"), url]);
}

fn websocket_url() -> String {
    let (addr, path) = broker().websocket();
    format!("ws://{addr}{path}")
}

#[test]
fn paho_mqtt_over_tcp_passes_its_scenarios() {
    let port = broker().mqtt().port().to_string();
    run(&python(), &["tests/clients/paho_client.py", "127.0.0.1", &port]);
}

#[test]
fn paho_mqtt_over_websocket_passes_its_scenarios() {
    let port = broker().http().port().to_string();
    run(&python(), &["tests/clients/paho_client.py", "127.0.0.1", &port, "websockets"]);
}

#[test]
fn mqttjs_in_node_over_tcp_passes_its_scenarios() {
    node("node.js", &format!("mqtt://{}", broker().mqtt()));
}

#[test]
fn mqttjs_in_node_over_websocket_passes_its_scenarios() {
    node("node.js", &websocket_url());
}

#[test]
fn mqttjs_in_chromium_passes_its_scenarios() {
    let chromium = std::env::var("CHROMIUM").unwrap_or("/usr/bin/chromium".to_owned());
    assert!(Path::new(&chromium).exists(), "Chromium is missing; get it with: make tools");
    node("browser.js", &websocket_url());
}
