//! Nodes that wait for their cluster: what they say, and how they stop. `docs/operations.md`, "Start and stop".

use std::time::Duration;

use super::alone;
use crate::support::{
    cluster::{Cluster, member_settings, own_host},
    node::Node,
    wait::{let_pass, wait_until_within},
};

/// Who is told that a node goes knows it long before the 5 s after which a silent one is declared down.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn node_that_waits_to_be_let_in_stops_when_it_is_told() {
    let _turn = alone();
    let node = Node::stopped(&member_settings(&own_host(), 2, &[1]));
    for name in ["TERM", "INT"] {
        let mut starting = node.begin();
        starting.says("no member lets this node in yet");
        let status = starting.end(name);
        assert_eq!(status.code(), Some(0), "SIG{name}: {status}\n{}", node.log());
        assert!(!node.data().join("FORMAT").exists(), "it belongs to no cluster");
    }
}

#[test]
fn node_that_waits_for_a_quorum_stops_when_it_is_told() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    cluster.numbers().for_each(|number| cluster.kill(number));
    let node = cluster.node(1);
    let mut starting = node.begin();
    starting.says("waiting for the cluster");
    let status = starting.end("TERM");
    assert_eq!(status.code(), Some(0), "{status}\n{}", node.log());
}

/// Its groups run, it may be leading some, and no client was let in.
#[test]
fn node_that_is_told_to_stop_while_it_starts_tells_the_others() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    cluster.stop(1);
    for later_ms in [0, 20, 80, 200, 500, 1_000] {
        let node = cluster.node(1);
        let mut starting = node.begin();
        starting.says("groups run");
        let_pass(Duration::from_millis(later_ms));
        let status = starting.end("TERM");
        assert_eq!(status.code(), Some(0), "{later_ms} ms: {status}\n{}", node.log());
        wait_until_within(TOLD_WITHIN, "the others know that it has stopped", || {
            cluster.report(2)["nodes"].as_array().unwrap().iter().any(|of| of["up"] == false)
        });
    }
    cluster.restart(1);
    cluster.wait_ready();
}
