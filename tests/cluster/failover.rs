//! What clients feel when a node is killed, as `hongqiao bench failover` measures it.

use std::process::Command;

use super::{alone, load::PATIENCE};
use crate::support::{cluster::Cluster, mqtt_client::message};

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
    assert_eq!(results["not_acknowledged"], 0, "{results:#}");
    assert!(results["last_session_served_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn publish_to_the_durable_session_of_a_dead_node_does_not_wait_until_the_node_is_declared_down() {
    let _alone = alone();
    let mut cluster = Cluster::start(3);
    let mut sessions: Vec<_> =
        (0..4).map(|n| cluster.broker(3).v5(&format!("session-{n}")).durable().connect()).collect();
    for (n, session) in sessions.iter_mut().enumerate() {
        session.subscribe(&format!("to/{n}"), 1);
    }
    let mut publisher = cluster.broker(1).v5("publisher").connect();
    publisher.patience = PATIENCE;
    cluster.kill(3);
    for n in 0..4 {
        // 0x83: the shard's leader was killed and there is none yet; then the connection would end.
        let code = publisher.publish_code(message(&format!("to/{n}"), "after", 1));
        assert_eq!(code, 0, "to/{n}");
    }
    let report = cluster.report(1);
    let nodes = report["nodes"].as_array().unwrap();
    let is_up = |node: &serde_json::Value| node["node"] == 3 && node["up"] == true;
    assert!(nodes.iter().any(is_up), "acknowledged only after the end of the node: {report:#}");
    for n in 0..4 {
        let mut back = cluster.broker(2).v5(&format!("session-{n}")).durable().connect();
        back.patience = PATIENCE;
        assert_eq!(back.expect_texts(1), ["after"]);
    }
}
