//! What probes hear: `/healthz` and `/readyz` of nodes that wait, drain, or are cut off. `docs/operations.md`, "States".

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::alone;
use crate::support::{
    cluster::{Cluster, member_settings, own_host},
    http_client::get,
    node::{Node, signal},
    wait::{PATIENCE, let_pass, now, wait_until, wait_until_within},
};

/// A node finds out that it is cut off, or a shard is given up, within seconds.
const JUDGED_WITHIN: Duration = Duration::from_secs(20);

/// Asserts that the node is alive, and returns why it is not ready.
fn unready(http: SocketAddr) -> Option<String> {
    assert_eq!(get(http, "/healthz").0, 200, "alive, whatever else");
    match get(http, "/readyz") {
        (200, _) => None,
        (503, body) => {
            let said: serde_json::Value = serde_json::from_str(&body).unwrap();
            Some(said["detail"].as_str().unwrap().to_owned())
        }
        other => panic!("{other:?}"),
    }
}

fn wait_for_reason(http: SocketAddr, part: &str) {
    let start = now();
    loop {
        let reason = unready(http);
        if reason.as_ref().is_some_and(|reason| reason.contains(part)) {
            return;
        }
        assert!(start.elapsed() < JUDGED_WITHIN, "{http}: wanted {part:?}, it says {reason:?}");
        let_pass(Duration::from_millis(20));
    }
}

/// The status of an answer to a request for a WebSocket.
fn upgrade_status(http: SocketAddr) -> String {
    let mut stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: {http}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[9..]).into_owned()
}

#[test]
fn node_that_waits_to_be_let_in_is_alive_and_says_what_it_waits_for() {
    let _turn = alone();
    let host = own_host();
    let (http, mqtt) = (format!("{host}:8082"), format!("{host}:1882"));
    let mut settings = member_settings(&host, 2, &[1]);
    settings.push(("listeners.http.address".to_owned(), http.clone()));
    settings.push(("listeners.mqtt.address".to_owned(), mqtt.clone()));
    let (http, mqtt): (SocketAddr, SocketAddr) = (http.parse().unwrap(), mqtt.parse().unwrap());
    let waiting = Node::stopped(&settings);
    let mut starting = waiting.begin();
    starting.says("no member lets this node in yet");
    let reason = unready(http).expect("it cannot serve");
    assert!(reason.contains("no member of its cluster has let this node in yet"), "{reason}");
    assert_eq!(get(http, "/metrics").0, 503);
    assert_eq!(upgrade_status(http), "503");
    assert!(TcpStream::connect(mqtt).is_err(), "a client that cannot be served tries another node");

    let own = member_settings(&host, 1, &[]);
    let own: Vec<_> = own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let _first = Node::start_with(&own);
    // Each question is answered, by whoever has the port now.
    wait_until_within(JUDGED_WITHIN, "it is let in and serves", || unready(http).is_none());
    assert_eq!(upgrade_status(http), "101");
    assert!(TcpStream::connect(mqtt).is_ok());
}

#[test]
fn node_without_contact_to_the_majority_is_alive_and_not_ready() {
    let _turn = alone();
    let cluster = Cluster::start(3);
    let http = cluster.broker(1).http();
    for pause in ["STOP", "CONT"] {
        for number in [2, 3] {
            signal(cluster.node(number).pid(), pause);
        }
        if pause == "STOP" {
            wait_for_reason(http, "no contact with the leader of the cluster");
        }
    }
    cluster.wait_ready();
}

/// Its leads have nowhere to go, so it drains for as long as it may.
#[test]
fn node_that_drains_is_alive_and_not_ready_until_it_ends() {
    let _turn = alone();
    let mut cluster = Cluster::start_with(3, &[("shutdown.drain_timeout", "4 s")]);
    let broker = cluster.broker(1);
    for number in [2, 3] {
        signal(cluster.node(number).pid(), "STOP");
    }
    signal(cluster.node(1).pid(), "TERM");
    wait_for_reason(broker.http(), "the node is stopping");
    wait_until("no client is let in", || TcpStream::connect(broker.mqtt()).is_err());
    // Still, and on new connections.
    assert_eq!(unready(broker.http()).as_deref(), Some("the node is stopping"));
    assert_eq!(upgrade_status(broker.http()), "503");
    let status = cluster.node_mut(1).wait_end(JUDGED_WITHIN);
    assert_eq!(status.code(), Some(0), "{status}");
    for number in [2, 3] {
        signal(cluster.node(number).pid(), "CONT");
    }
}

/// The metadata has a quorum of five, the shard has one replica of three. Nodes without a replica go by the
/// directory, which says that its last leader is down.
#[test]
fn shard_without_a_leader_makes_every_node_unready() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    for number in [4, 5] {
        assert_eq!(cluster.join(1), number);
    }
    cluster.wait_still(1, &[1, 2, 3, 4, 5]);
    let shards = || -> Vec<serde_json::Value> {
        let report = cluster.report(1);
        let groups = report["groups"].as_array().unwrap().iter();
        groups.filter(|group| group["meta"] == false).cloned().collect()
    };
    cluster.wait_until("leads are where they stay", || {
        shards().iter().all(|shard| shard["leader"] == shard["replicas"][0])
    });
    let replicas = shards()[0]["replicas"].clone();
    let replicas = replicas.as_array().unwrap().iter();
    let replicas: Vec<_> =
        replicas.map(|node| usize::try_from(node.as_u64().unwrap()).unwrap()).collect();
    assert_eq!(replicas.len(), 3);
    for number in &replicas[..2] {
        cluster.kill(*number);
    }
    let left: Vec<_> = cluster.numbers().filter(|number| !replicas[..2].contains(number)).collect();
    for number in &left {
        wait_for_reason(cluster.broker(*number).http(), "has no leader");
    }
    cluster.restart(replicas[0]);
    for number in left {
        let http = cluster.broker(number).http();
        wait_until_within(JUDGED_WITHIN, "ready again", || unready(http).is_none());
    }
}
