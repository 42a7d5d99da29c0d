//! A cluster of real server processes on this machine, in one line.
//!
//! - Owns: the nodes with their data folders. Takes: how many. Gives: nodes by number, from 1.
//! - Ports: peers meet on loopback addresses that no other cluster of this machine uses, so that a node
//!   that is started again finds its port free.
//! - Bound: `START_PATIENCE` to be ready; nodes end with the test.

use std::{
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use super::{
    broker::Broker,
    http_client::{get, get_as_owner, post_as_owner},
    node::Node,
    wait::{let_pass, now, wait_until_within},
};

/// How long a node may take to join, and a cluster to be ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of these tests";

pub(crate) struct Cluster {
    host: String,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts a cluster and waits until every node can serve.
    pub(crate) fn start(nodes: usize) -> Self {
        Self::start_with(nodes, &[])
    }

    /// The same, with these settings (`section.key`, value) on every node.
    pub(crate) fn start_with(count: usize, settings: &[(&str, &str)]) -> Self {
        let host = own_host();
        let mut cluster = Self { host, nodes: Vec::new() };
        for node in 1..=count {
            let own = member_settings(&cluster.host, node, if node == 1 { &[] } else { &[1] });
            let own = own.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            // Clients find a node that is started again where it was.
            let listen = format!("{}:{}", cluster.host, 1_880 + node);
            let own = own.chain([("listeners.mqtt.address", listen.as_str())]);
            let all: Vec<_> = own.chain(settings.iter().copied()).collect();
            cluster.nodes.push(Node::start_with(&all));
        }
        cluster.wait_ready();
        cluster
    }

    /// Starts one more node, which joins the cluster of another; returns its number.
    pub(crate) fn join(&mut self, member: usize) -> usize {
        self.join_with(member, &[])
    }

    /// The same, with these settings.
    pub(crate) fn join_with(&mut self, member: usize, settings: &[(&str, &str)]) -> usize {
        let number = self.nodes.len() + 1;
        let own = member_settings(&self.host, number, &[member]);
        let own = own.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let all: Vec<_> = own.chain(settings.iter().copied()).collect();
        self.nodes.push(Node::start_with(&all));
        number
    }

    /// Returns a node; the first is 1.
    pub(crate) fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    pub(crate) fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    /// Returns where a running node listens.
    pub(crate) fn broker(&self, number: usize) -> Broker {
        self.node(number).broker()
    }

    /// Returns the address of all nodes.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the numbers of all nodes.
    pub(crate) fn numbers(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.nodes.len()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, number: usize) {
        self.node_mut(number).kill();
    }

    /// SIGTERM, and the end of the process.
    pub(crate) fn stop(&mut self, number: usize) {
        let status = self.node_mut(number).terminate();
        assert!(status.success(), "{status}:\n{}", self.node(number).log());
    }

    /// Starts a node again on its data.
    pub(crate) fn restart(&mut self, number: usize) {
        self.node_mut(number).launch();
    }

    /// Waits until every running node says that it can serve, and, if all run, every group has a replica
    /// on each.
    pub(crate) fn wait_ready(&self) {
        let running = self.numbers().filter(|number| self.node(*number).is_running());
        let running: Vec<usize> = running.collect();
        for number in running.iter().copied() {
            let start = now();
            loop {
                let (status, body) = get(self.broker(number).http(), "/readyz");
                if status == 200 {
                    break;
                }
                let log = || self.node(number).log();
                assert!(start.elapsed() < READY_PATIENCE, "node {number}: {body}\n{}", log());
                let_pass(Duration::from_millis(50));
            }
        }
        if running.len() == self.nodes.len() {
            self.wait_until("every group has all its replicas", || {
                running.iter().all(|number| self.is_whole(*number))
            });
        }
    }

    /// What a node says of the cluster.
    pub(crate) fn report(&self, number: usize) -> serde_json::Value {
        report_of(self.node(number))
    }

    /// Has a node leave for good, by a command to another; waits until its process has ended by itself.
    pub(crate) fn shrink(&mut self, by: usize, number: usize) {
        let data = self.node(by).data();
        let order = serde_json::json!({ "node": number });
        post_as_owner(self.broker(by).http(), &data, "/api/v1/cluster/leave", &order);
        let status = self.node_mut(number).wait_end(READY_PATIENCE);
        assert!(status.success(), "{status}:\n{}", self.node(number).log());
    }

    /// Waits until a node says that just these are members, and that nothing is on the move.
    pub(crate) fn wait_still(&self, by: usize, members: &[u64]) {
        self.wait_until("nothing is on the move", || {
            let report = self.report(by);
            let nodes = report["nodes"].as_array().unwrap().iter().map(|node| &node["node"]);
            let moving = ["members_moving", "groups_moving"];
            nodes.eq(members) && moving.iter().all(|key| report[key] == serde_json::json!([]))
        });
    }

    fn is_whole(&self, number: usize) -> bool {
        let report = self.report(number);
        let groups = report["groups"].as_array().unwrap();
        let replicas = self.nodes.len().min(3);
        let has_all = |group: &serde_json::Value| {
            group["voters"].as_array().unwrap().len() == replicas && !group["leader"].is_null()
        };
        report["has_lease"] == true
            && report["nodes"].as_array().unwrap().iter().all(|node| node["up"] == true)
            && groups.iter().all(has_all)
    }

    /// Waits for something that only happens after time-outs of the cluster.
    pub(crate) fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until_within(READY_PATIENCE, what, condition);
    }
}

/// What a running node says of its cluster.
pub(crate) fn report_of(node: &Node) -> serde_json::Value {
    get_as_owner(node.broker().http(), &node.data(), "/api/v1/cluster")
}

/// Returns the settings of a member of the cluster on `host` that joins the named ones.
pub(crate) fn member_settings(host: &str, node: usize, join: &[usize]) -> Vec<(String, String)> {
    let address = |node: usize| format!("{host}:{}", 7_000 + node);
    let join: Vec<_> = join.iter().map(|node| format!("\"{}\"", address(*node))).collect();
    let settings = [
        ("cluster.node", node.to_string()),
        ("cluster.listen", address(node)),
        ("cluster.secret", SECRET.to_owned()),
        ("cluster.join", format!("[{}]", join.join(","))),
        // Groups beat whether they have work or not; tests run beside each other.
        ("storage.shards", "4".to_owned()),
    ];
    settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A loopback address of this cluster alone; outgoing connections never take its ports.
pub(crate) fn own_host() -> String {
    static COUNT: AtomicU16 = AtomicU16::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{}.{}", 1 + high % 250, low, 1 + count % 250)
}
