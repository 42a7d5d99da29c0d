//! What clients feel when a node is killed, as `hongqiao bench failover` measures it.

use std::process::Command;

use super::alone;
use crate::support::cluster::Cluster;

#[test]
fn sessions_when_their_node_is_killed_then_the_others_know_and_serve_them() {
    let _alone = alone();
    let cluster = Cluster::start(3);
    let servers: Vec<_> = cluster.numbers().map(|n| cluster.broker(n).mqtt().to_string()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hongqiao"))
        .args(["bench", "failover", "--protocol", "5", "--server", &servers.join(",")])
        .args(["--kill", &cluster.node(1).pid().to_string(), "--warm-up", "1"])
        .args(["--sessions", "60", "--publishers", "12", "--rate", "300", "--json"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
    let results = &report["results"];
    assert_eq!(results["sessions_moved"], 20, "{results:#}");
    assert_eq!(results["sessions_forgotten"], 0, "{results:#}");
    assert_eq!(results["sessions_not_recovered"], 0, "{results:#}");
    assert!(results["last_session_served_ms"].as_f64().unwrap() > 0.0);
}
