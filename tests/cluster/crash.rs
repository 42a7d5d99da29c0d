//! The end of a node under load: nothing that was acknowledged is lost. Promises NO-LOSS, ORDER, HEAL.

use std::time::Duration;

use super::{
    alone,
    load::{Load, PATIENCE},
};
use crate::support::{cluster::Cluster, mqtt_client::Client, wait::let_pass};

#[test]
fn node_killed_under_load_loses_nothing_and_comes_back() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    for victim in 1..=3 {
        let load = Load::start(&cluster);
        let_pass(Duration::from_secs(2));
        cluster.kill(victim);
        let_pass(Duration::from_secs(8));
        let acked = load.end();
        assert!(acked > 100, "victim {victim}: only {acked} were acknowledged");
        cluster.restart(victim);
        cluster.wait_ready();
    }
}

#[test]
fn will_of_a_killed_nodes_client_is_published_once() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    let mut watcher = cluster.broker(1).v5("watcher").durable().connect();
    watcher.subscribe("will/#", 1);
    // Of each kind some: a durable session, and none, as most devices have that tell their presence so.
    let victim = |n: usize| {
        let (broker, name) = (cluster.broker(3), format!("v{n}"));
        let dial = match n % 3 {
            0 => broker.v4(&name),
            1 => broker.v5(&name).durable(),
            _ => broker.v5(&name),
        };
        dial.will(&format!("will/{n}"), &n.to_string(), 1).connect()
    };
    let _victims: Vec<Client> = (0..6).map(victim).collect();
    let _others = cluster.broker(2).v5("other").durable().will("will/other", "other", 1).connect();
    let _clean = cluster.broker(2).v4("clean").will("will/clean", "clean", 1).connect();
    cluster.kill(3);
    watcher.patience = PATIENCE;
    let mut texts = watcher.expect_texts(6);
    texts.sort();
    assert_eq!(texts, ["0", "1", "2", "3", "4", "5"]);
    cluster.restart(3);
    cluster.wait_ready();
    watcher.expect_silence_for(Duration::from_secs(8));
    let back = cluster.broker(3).v5("v1").durable().connect();
    assert!(back.connack.present);
    watcher.expect_silence();
}
