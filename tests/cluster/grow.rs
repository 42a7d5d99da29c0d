//! A cluster that grows and shrinks under load, by the command alone. Promises NO-LOSS, ORDER.

use std::time::Duration;

use super::{alone, load::Load};
use crate::support::{
    cluster::{Cluster, member_settings, own_host, report_of},
    node::Node,
    wait::{let_pass, wait_until_within},
};

#[test]
fn cluster_grows_to_five_and_shrinks_to_three_under_load_and_loses_nothing() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster);
    for number in [4, 5] {
        assert_eq!(cluster.join(1), number);
    }
    cluster.wait_still(3, &[1, 2, 3, 4, 5]);
    // Who founded it, too.
    for (gone, left) in [(2, &[1, 3, 4, 5][..]), (1, &[3, 4, 5])] {
        cluster.shrink(3, gone);
        cluster.wait_still(3, left);
        let log = cluster.node(gone).log();
        assert!(log.contains(&format!("node {gone} has left the cluster")), "{log}");
    }
    let acked = load.end();
    assert!(acked > 100, "only {acked} were acknowledged");
    let folder = cluster.node(2).data().display().to_string();
    cluster.node(2).never_serves(&format!("node 2 was removed from its cluster, and {folder} is"));
}

#[test]
fn one_node_grows_to_three_under_load_and_loses_nothing() {
    let _turn = alone();
    let mut cluster = Cluster::start(1);
    let load = Load::start(&cluster);
    for number in [2, 3] {
        assert_eq!(cluster.join(1), number);
    }
    cluster.wait_still(1, &[1, 2, 3]);
    cluster.wait_ready();
    // The two that came have all that the first one has.
    cluster.kill(1);
    let_pass(Duration::from_secs(5));
    cluster.restart(1);
    let acked = load.end();
    assert!(acked > 100, "only {acked} were acknowledged");
}

/// The new one begins with an empty disk and must not be counted before it holds what the lost one held.
#[test]
fn lost_node_is_replaced_under_load_and_then_another_may_be_lost() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster);
    cluster.kill(3);
    wait_until_within(Duration::from_secs(30), "3 is down", || {
        let report = cluster.report(1);
        report["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|node| node["node"] == 3 && node["up"] == false)
    });
    assert_eq!(cluster.join_with(1, &[("cluster.replaces", "3")]), 4);
    cluster.wait_still(2, &[1, 2, 4]);
    cluster.kill(1);
    let acked = load.end();
    assert!(acked > 100, "only {acked} were acknowledged");
}

/// A node that gave replicas away goes by what the cluster has written down, not by whom it followed last.
#[test]
fn clients_of_every_node_reach_every_shard_once_a_cluster_has_grown() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    for number in [4, 5] {
        assert_eq!(cluster.join(1), number);
    }
    cluster.wait_still(1, &[1, 2, 3, 4, 5]);
    // Leads go where they belong after that, one a second.
    for round in 0..8 {
        for node in cluster.numbers() {
            let id = format!("grown-{round}-{node}");
            let mut client = cluster.broker(node).v5(&id).durable().connect();
            client.subscribe(&id, 1);
            client.publish(&id, "to myself", 1);
            assert_eq!(client.expect_publish().text(), "to myself");
        }
        let_pass(Duration::from_secs(1));
    }
}

#[test]
fn node_without_an_id_is_given_one_and_takes_the_place_of_a_lost_one() {
    let _turn = alone();
    let host = own_host();
    let given = |place, join: &[usize], more: &[(&str, &str)]| {
        let mut settings = member_settings(&host, place, join);
        settings.retain(|(key, _)| key != "cluster.node");
        settings.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        settings
    };
    let start = |settings: Vec<(String, String)>| {
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Node::start_with(&settings)
    };
    let first = start(given(1, &[], &[]));
    let _second = start(given(2, &[1], &[]));
    let mut third = start(given(3, &[1], &[]));
    assert_eq!(report_of(&third)["node"], 3);
    third.kill();
    let nodes = || report_of(&first)["nodes"].clone();
    let ids = || {
        nodes()
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["node"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    wait_until_within(Duration::from_secs(30), "3 is down", || {
        nodes().as_array().unwrap().iter().any(|node| node["node"] == 3 && node["up"] == false)
    });
    let instead = start(given(4, &[2], &[("cluster.replaces", "3")]));
    assert_eq!(report_of(&instead)["node"], 4);
    wait_until_within(Duration::from_secs(60), "3 is removed", || ids() == [1, 2, 4]);
}
