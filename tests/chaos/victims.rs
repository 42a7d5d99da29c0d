//! The nodes of a run, and what lies between and below them.
//!
//! - Owns: nodes, their disks, the proxy between them, their network; all go with it, nodes first.
//! - Takes: how many nodes, on loopback or on hosts of their own. Gives: a cluster that can serve.
//! - Bound: `FORM_PATIENCE` to form.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Output, Stdio},
    time::Duration,
};

use super::{
    disk::Disk,
    net::Net,
    proxy::{Host, Proxy},
};
use crate::support::{
    node::{Node, free_port},
    wait::{let_pass, now},
};

const SECRET: &str = "known to all nodes of a test";
/// Credentials of the clients where nodes listen on more than loopback.
const USER: (&str, &str) = ("demo#demo/chaos", "a password for one run");
/// Every node leads or follows everything within this time.
const FORM_PATIENCE: Duration = Duration::from_secs(60);
const NODES: usize = 3;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) struct Victims {
    pub(super) nodes: Vec<Node>,
    /// Only of hosts of their own.
    pub(super) disks: Vec<Disk>,
    pub(super) proxy: Option<Proxy>,
    pub(super) net: Option<Net>,
}

impl Victims {
    pub(super) fn alone() -> Self {
        Self { nodes: vec![Node::start()], disks: Vec::new(), proxy: None, net: None }
    }

    /// Three nodes on loopback.
    pub(super) fn three() -> Self {
        let hosts: Vec<_> = (0..NODES).map(|_| Host { back: free_port(), alias: None }).collect();
        let fronts = [SocketAddr::new(LOOPBACK, 0); NODES];
        let proxy = Proxy::new(hosts.clone(), &fronts).unwrap();
        let nodes = (0..NODES).map(|host| {
            let settings = member(&proxy, &hosts, host);
            let more = [("storage.durability", "os".to_owned())];
            start(&[], settings.into_iter().chain(more), |_| ())
        });
        let nodes = nodes.collect();
        Self { nodes, disks: Vec::new(), proxy: Some(proxy), net: None }.formed()
    }

    /// Three nodes, each in a network namespace and on a disk of its own.
    pub(super) fn three_hosts() -> Self {
        let net = Net::new(NODES);
        let host = |host| Host {
            back: SocketAddr::new(net.address(host), 7_001),
            alias: Some(net.alias(host)),
        };
        let hosts: Vec<_> = (0..NODES).map(host).collect();
        let fronts: Vec<_> =
            (0..NODES).map(|host| SocketAddr::new(net.alias(host), 7_001)).collect();
        let proxy = Proxy::new(hosts.clone(), &fronts).unwrap();
        let mut victims =
            Self { nodes: Vec::new(), disks: Vec::new(), proxy: None, net: Some(net) };
        for host in 0..NODES {
            let net = victims.net.as_ref().unwrap();
            let more = [
                ("listeners.mqtt.address", format!("{}:1883", net.address(host))),
                ("auth.mode", "password".to_owned()),
            ];
            let settings = member(&proxy, &hosts, host).into_iter().chain(more);
            let disks = &mut victims.disks;
            let node = start(&net.wrapper(host), settings, |data| disks.push(Disk::new(data)));
            victims.nodes.push(node);
        }
        victims.proxy = Some(proxy);
        victims.put_user();
        victims.formed()
    }

    /// Waits until every node says that it can serve.
    fn formed(self) -> Self {
        let start = now();
        while !(0..self.nodes.len()).all(|host| self.is_ready(host)) {
            assert!(start.elapsed() < FORM_PATIENCE, "no cluster:\n{}", self.nodes[0].log());
            let_pass(Duration::from_millis(100));
        }
        eprintln!("{} nodes are ready after {:?}", self.nodes.len(), start.elapsed());
        self
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.broker().mqtt()).collect()
    }

    pub(super) fn user(&self) -> Option<(&'static str, &'static str)> {
        self.net.as_ref().map(|_| USER)
    }

    /// The node says that it can serve.
    pub(super) fn is_ready(&self, host: usize) -> bool {
        let url = format!("http://{}/readyz", self.nodes[host].broker().http());
        let mut ask = self.on_host(host, "curl");
        let asked = ask.args(["-sf", "-m", "2", "-o", "/dev/null", &url]).status();
        asked.expect("curl").success()
    }

    /// How many groups a node leads, as another sees it.
    pub(super) fn led_by(&self, seen_from: usize, host: usize) -> usize {
        self.groups(seen_from).iter().filter(|group| group["leader"] == host + 1).count()
    }

    /// Every group has a replica on every node, as one of them sees it.
    pub(super) fn are_grown(&self, seen_from: usize) -> bool {
        let voters = |group: &serde_json::Value| group["voters"].as_array().unwrap().len();
        self.groups(seen_from).iter().all(|group| voters(group) == self.nodes.len())
    }

    fn groups(&self, seen_from: usize) -> Vec<serde_json::Value> {
        let report = self.cluster(seen_from, &["status", "--json"]);
        assert!(report.status.success(), "{report:?}");
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        report["groups"].as_array().unwrap().clone()
    }

    /// Runs `hongqiao cluster` on the host of a node, for this node.
    pub(super) fn cluster(&self, host: usize, words: &[&str]) -> Output {
        let mut command = self.on_host(host, env!("CARGO_BIN_EXE_hongqiao"));
        command.arg("cluster").args(words).arg("--data").arg(self.nodes[host].data());
        command.output().unwrap()
    }

    /// Prepares a program on the host of a node.
    pub(super) fn on_host(&self, host: usize, program: &str) -> Command {
        let wrapper = self.net.as_ref().map(|net| net.wrapper(host)).unwrap_or_default();
        let mut words = wrapper.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words);
        command
    }

    fn put_user(&self) {
        let mut command = self.on_host(0, env!("CARGO_BIN_EXE_hongqiao"));
        let node = &self.nodes[0];
        command.args(["user", "put", USER.0, "--password-stdin", "--data"]).arg(node.data());
        let mut put = command.stdin(Stdio::piped()).spawn().unwrap();
        writeln!(put.stdin.take().unwrap(), "{}", USER.1).unwrap();
        assert!(put.wait().unwrap().success(), "{}", node.log());
    }

    /// Panics that any node has logged.
    pub(super) fn panics(&self) -> Vec<String> {
        let logs = self.nodes.iter().map(Node::log).collect::<Vec<_>>();
        let lines = logs.iter().flat_map(|log| log.lines());
        lines.filter(|line| line.contains("panicked at")).map(str::to_owned).collect()
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if node.is_running() {
                node.kill();
            }
            if !self.disks.is_empty() && std::thread::panicking() {
                // The folder of a failed test is kept; what is on its disk goes with the disk.
                let copy = node.folder().join("kept");
                let _ = Command::new("cp").arg("-r").arg(node.data()).arg(copy).status();
            }
        }
        // A folder cannot be removed as long as something is mounted there.
        self.disks.clear();
    }
}

fn member(proxy: &Proxy, hosts: &[Host], host: usize) -> Vec<(&'static str, String)> {
    let join: Vec<_> = (0..host).map(|other| format!("\"{}\"", proxy.front(other))).collect();
    vec![
        ("cluster.node", (host + 1).to_string()),
        ("cluster.listen", hosts[host].back.to_string()),
        ("cluster.advertise", proxy.front(host).to_string()),
        ("cluster.secret", SECRET.to_owned()),
        ("cluster.join", format!("[{}]", join.join(","))),
    ]
}

fn start(
    wrapper: &[String],
    settings: impl Iterator<Item = (&'static str, String)>,
    prepare: impl FnOnce(&std::path::Path),
) -> Node {
    let settings: Vec<_> = settings.collect();
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    Node::start_prepared(&wrapper, prepare, &settings)
}
