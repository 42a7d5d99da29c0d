//! What an operator reads while a node dies and comes back: a line for each news, not a storm.

use std::time::Duration;

use super::alone;
use crate::support::{cluster::Cluster, wait::let_pass};

/// Level and message of what a node has said since `from` bytes.
fn said(cluster: &Cluster, number: usize, from: usize) -> Vec<(String, String)> {
    let log = cluster.node(number).log();
    let lines = log[from..].lines().filter_map(|line| serde_json::from_str(line).ok());
    let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or("").to_owned();
    lines.map(|line| (text(&line, "level"), text(&line, "message"))).collect()
}

#[test]
fn log_when_a_node_dies_and_comes_back_then_each_news_once() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    for number in cluster.numbers() {
        // Nodes that join are told nothing but what is so.
        let log = cluster.node(number).log();
        assert!(!log.contains("another cluster"), "node {number}:\n{log}");
    }
    let others = [1, 2];
    let from = others.map(|number| cluster.node(number).log().len());
    cluster.kill(3);
    cluster.wait_until("node 3 is declared down", || {
        cluster.report(1)["nodes"].as_array().unwrap().iter().any(|node| node["up"] == false)
    });
    // Retries go on each second.
    let_pass(Duration::from_secs(5));
    cluster.restart(3);
    cluster.wait_ready();
    let mut declared = 0;
    for (number, from) in others.into_iter().zip(from) {
        let said = said(&cluster, number, from);
        let count = |text| said.iter().filter(|(_, message)| message == text).count();
        assert_eq!(count("node out of reach"), 1, "node {number}: {said:#?}");
        assert_eq!(count("node in reach"), 1, "node {number}: {said:#?}");
        declared += count("node is silent, declared down");
        let bad = said.iter().filter(|(level, _)| level == "WARN" || level == "ERROR");
        assert!(bad.count() <= 2, "node {number}: {said:#?}");
        assert!(said.len() <= 20, "node {number}: {said:#?}");
    }
    assert_eq!(declared, 1);
}
