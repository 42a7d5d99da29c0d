//! Clients on any node: sessions resumed elsewhere, takeovers across nodes. Promises SESSION-TRUE, FENCED, ONCE.

use super::alone;
use crate::support::{
    broker::Broker,
    cluster::Cluster,
    half_done::HalfDone,
    mqtt_client::{Client, Received},
    packet::{Packet, Version},
    wait::{PATIENCE, now},
};

/// "Session taken over".
const TAKEN_OVER: u8 = 0x8E;

#[test]
fn clients_of_three_nodes_share_sessions_and_take_them_over() {
    let _turn = alone();
    let cluster = Cluster::start(3);
    any_node_serves(&cluster);
    session_goes_on_elsewhere(&cluster);
    takeover_in_both_directions(&cluster);
    claims_at_the_same_moment(&cluster);
}

fn any_node_serves(cluster: &Cluster) {
    for number in cluster.numbers() {
        let client = format!("any{number}");
        let mut first = cluster.broker(number).v5(&client).durable().connect();
        assert!(!first.connack.present);
        first.subscribe(&format!("own/{number}"), 1);
        for from in cluster.numbers() {
            let mut publisher = cluster.broker(from).v5("publisher").connect();
            publisher.publish(&format!("own/{number}"), &from.to_string(), 1);
            assert_eq!(first.expect_publish().text(), from.to_string());
        }
        first.disconnect();
    }
}

/// A session moves from node to node with what waits and what is half done.
fn session_goes_on_elsewhere(cluster: &Cluster) {
    let dial = |number: usize| cluster.broker(number).v5("to").durable().manual();
    let mut to = dial(1).connect();
    to.subscribe("a", 2);
    let mut from = cluster.broker(2).v5("from").durable().connect();
    let half_done = HalfDone::begin(&mut to, &mut from);
    to.cut();
    let mut from = cluster.broker(3).v5("from").durable().connect();
    half_done.send_again(&mut from);
    let mut to = dial(2).connect();
    half_done.end_one_and_two(&mut to);
    assert_eq!(to.expect_publish().text(), "three");
    to.cut();
    let mut to = dial(3).connect();
    HalfDone::end_three(&mut to);
    HalfDone::end_half(&mut to);
    to.disconnect();
}

/// Whoever comes later has the session, whichever of the two nodes, or a third one, is its home.
fn takeover_in_both_directions(cluster: &Cluster) {
    for round in 0..8 {
        // Names hash to different shards, so that every node is the home of some.
        let name = format!("moves{round}");
        for durable in [true, false] {
            let dial = |number: usize, version| {
                let dial = cluster.broker(number).dial(version, &name);
                if durable { dial.durable() } else { dial }
            };
            let mut old = dial(1, Version::V5).connect();
            for number in [2, 3, 1, 2] {
                let new = dial(number, Version::V5).connect();
                assert_eq!(new.connack.present, durable, "{name} at {number}");
                old.expect_disconnect(&[TAKEN_OVER]);
                old.expect_closed();
                old = new;
            }
            old.ping();
            let mut last = dial(3, Version::V4).connect();
            old.expect_disconnect(&[TAKEN_OVER]);
            last.ping();
            last.disconnect();
        }
    }
}

/// Of connections that claim one client id at the same moment exactly one lives.
fn claims_at_the_same_moment(cluster: &Cluster) {
    for round in 0..10 {
        let durable = round % 2 == 0;
        let name = format!("twin{round}");
        let brokers: Vec<Broker> = cluster.numbers().map(|number| cluster.broker(number)).collect();
        let handles: Vec<_> = brokers
            .into_iter()
            .map(|broker| {
                let dial = broker.v5(&name);
                let dial = if durable { dial.durable() } else { dial };
                std::thread::spawn(move || dial.ask())
            })
            .collect();
        let mut clients: Vec<_> =
            handles.into_iter().map(|handle| handle.join().unwrap()).collect();
        // Whoever was let in and taken over at once has his CONNACK in front of the end.
        let start = now();
        while clients.len() > 1 && start.elapsed() < PATIENCE {
            clients.retain_mut(answers);
        }
        assert_eq!(clients.len(), 1, "{name}");
        assert!(answers(&mut clients[0]), "{name}");
    }
}

/// Returns whether a connection lives; one that was refused, or ended, does not.
fn answers(client: &mut Client) -> bool {
    client.send_raw(&[0xC0, 0])
        && matches!(client.receive(PATIENCE), Received::Packet(Packet::Pingresp))
}
