//! The Autobahn cases against the project's WebSocket layer, without those on throughput.
//!
//! `make ws-conformance` runs them all; `tests/clients/ws/run.sh` says what is needed.

use std::process::Command;

#[test]
fn autobahn_cases_when_run_then_all_pass() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/ws/run.sh");
    let output = Command::new(script).arg("short").output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
