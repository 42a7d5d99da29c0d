//! Coming and going: nodes that stop, come back, or have no business here.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use super::alone;
use crate::support::{
    cluster::{Cluster, member_settings, own_host},
    node::{Node, own_program},
    packet::{Packet, Version},
    property::SERVER_REFERENCE,
};

/// "Use another server".
const USE_ANOTHER: u8 = 0x9C;

#[test]
fn node_that_stops_hands_over_and_sends_its_clients_elsewhere() {
    let _turn = alone();
    let mut cluster =
        Cluster::start_with(3, &[("cluster.client_address", "elsewhere.example:1883")]);
    for number in [2, 1] {
        let name = format!("guest{number}");
        let mut guest = cluster.broker(number).v5(&name).durable().connect();
        guest.subscribe("a/#", 1);
        let mut old = cluster.broker(number).dial(Version::V4, &format!("old{number}")).connect();
        cluster.stop(number);
        let told = guest.wait_for("DISCONNECT", |packet| match packet {
            Packet::Disconnect { code, props, .. } => Some((*code, props.clone())),
            _ => None,
        });
        assert_eq!(told.0, USE_ANOTHER);
        assert_eq!(told.1.get_text(SERVER_REFERENCE), Some("elsewhere.example:1883"));
        old.expect_closed();
        let mut guest = cluster.broker(3).v5(&name).durable().connect();
        assert!(guest.connack.present, "released before the node went");
        guest.publish("a/b", "still here", 1);
        assert_eq!(guest.expect_publish().text(), "still here");
        guest.disconnect();
        cluster.restart(number);
        cluster.wait_ready();
    }
}

#[test]
fn node_with_a_wrong_secret_or_anothers_id_is_not_let_in() {
    let _turn = alone();
    let host = own_host();
    let settings = |node, join: &[usize], other: &[(&str, &str)]| {
        let mut all = member_settings(&host, node, join);
        all.extend(other.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        all
    };
    let own = settings(1, &[], &[]);
    let own: Vec<_> = own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let first = Node::start_with(&own);
    let wrong = settings(2, &[1], &[("cluster.secret", "another secret of tests")]);
    Node::never_starts(&wrong, "it has another secret");
    let used = settings(1, &[1], &[("cluster.listen", &format!("{host}:7009"))]);
    Node::never_starts(&used, "node id 1 is");
    // The one that is there does not mind.
    let mut client = first.broker().v5("c").durable().connect();
    client.subscribe("a", 1);
    client.publish("a", "x", 1);
    assert_eq!(client.expect_publish().text(), "x");
}

struct Joined(Child);

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn node_that_joins_and_leaves_by_command_says_so_in_json() {
    let _turn = alone();
    let host = own_host();
    let own = member_settings(&host, 1, &[]);
    let own: Vec<_> = own.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let first = Node::start_with(&own);
    let data = first.folder().join("second");
    let mut join = Command::new(own_program());
    join.args(["cluster", "join", &format!("{host}:7001"), "--json", "--data"]).arg(&data);
    join.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let settings = member_settings(&host, 2, &[]);
    for (key, value) in settings.iter().filter(|(key, _)| key != "cluster.join") {
        join.arg("--set").arg(format!("{key}={value}"));
    }
    let join = join.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut second = Joined(join.spawn().unwrap());
    let mut lines = BufReader::new(second.0.stdout.take().unwrap()).lines();
    let mut line = || -> serde_json::Value {
        serde_json::from_str(&lines.next().expect("a line").unwrap()).unwrap()
    };
    let said = line();
    assert_eq!((&said["node"], &said["data"]), (&2.into(), &data.to_str().unwrap().into()));
    TcpStream::connect(said["listeners"]["mqtt"][0].as_str().unwrap()).unwrap();
    let mut leave = Command::new(own_program());
    leave.args(["cluster", "leave", "2", "--json", "--no-wait", "--data"]).arg(first.data());
    assert!(leave.stdout(Stdio::null()).status().unwrap().success());
    assert_eq!(line(), serde_json::json!({ "left": 2 }));
    assert!(second.0.wait().unwrap().success());
}
