//! What breaks the nodes, and mends them.
//!
//! - Owns: the nodes of a run. Takes: a time and a seed. Gives: faults, one after the other, all healed at
//!   the end.
//! - Bound: at most one node is broken at a time, so that a majority can go on.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{client::World, net::Net};
use crate::support::{
    node::{Node, free_port, signal},
    wait::{let_pass, now},
};

const SECRET: &str = "known to all nodes of a test";
/// Credentials of the clients where nodes listen on more than loopback.
pub(super) const USER: (&str, &str) = ("demo#demo/chaos", "a password for one run");
/// Every node leads or follows everything within this time.
const FORM_PATIENCE: Duration = Duration::from_secs(60);

/// The nodes of a run.
pub(super) struct Victims {
    nodes: Vec<Node>,
    // After the nodes: their namespaces go last.
    net: Option<Net>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9`, and a start on the same data.
    Kill,
    /// SIGSTOP, then SIGCONT: a node that is slow, and does not know it.
    Pause,
    /// The node and the others do not reach each other; clients reach all.
    Cut,
    /// What the node sends to the others is lost.
    CutOut,
    /// What the others send to the node is lost.
    CutIn,
}

impl Victims {
    pub(super) fn alone() -> Self {
        Self { nodes: vec![Node::start()], net: None }
    }

    /// Three nodes on loopback.
    pub(super) fn three() -> Self {
        let mut ports: Vec<String> = Vec::new();
        let mut nodes = Vec::new();
        for number in 0..3 {
            ports.push(free_port().to_string());
            let node = Node::start_with(&[
                ("cluster.node", &(number + 1).to_string()),
                ("cluster.listen", &ports[number]),
                ("cluster.secret", SECRET),
                ("cluster.join", &joining(&ports[..number])),
                ("storage.durability", "os"),
            ]);
            nodes.push(node);
        }
        Self::formed(Self { nodes, net: None })
    }

    /// Three nodes, each in a network namespace of its own.
    pub(super) fn three_hosts() -> Self {
        let net = Net::new(3);
        let mut members: Vec<String> = Vec::new();
        let mut nodes = Vec::new();
        for host in 0..3 {
            members.push(format!("{}:7001", net.address(host)));
            let wrapper = net.wrapper(host);
            let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
            let settings = [
                ("listeners.mqtt.address", format!("{}:1883", net.address(host))),
                ("auth.mode", "password".to_owned()),
                ("cluster.node", (host + 1).to_string()),
                ("cluster.listen", members[host].clone()),
                ("cluster.secret", SECRET.to_owned()),
                ("cluster.join", joining(&members[..host])),
            ];
            let settings: Vec<_> =
                settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
            nodes.push(Node::start_under(&wrapper, &settings));
        }
        put_user(&net, &nodes[0]);
        Self::formed(Self { nodes, net: Some(net) })
    }

    /// Waits until every node says that it can serve.
    fn formed(mut self) -> Self {
        let start = now();
        while !self
            .nodes
            .iter_mut()
            .enumerate()
            .all(|(at, node)| is_ready(self.net.as_ref(), at, node))
        {
            assert!(start.elapsed() < FORM_PATIENCE, "no cluster:\n{}", self.nodes[0].log());
            let_pass(Duration::from_millis(100));
        }
        eprintln!("three nodes are ready after {:?}", start.elapsed());
        self
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.broker().mqtt()).collect()
    }

    pub(super) fn user(&self) -> Option<(&'static str, &'static str)> {
        self.net.as_ref().map(|_| USER)
    }

    fn faults(&self) -> &'static [Fault] {
        use Fault::{Cut, CutIn, CutOut, Kill, Pause};
        if self.net.is_some() { &[Kill, Kill, Pause, Cut, CutOut, CutIn] } else { &[Kill, Pause] }
    }

    /// Breaks nodes for so long.
    pub(super) fn torment(&mut self, world: &World, time: Duration, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let start = now();
        while start.elapsed() < time {
            let_pass(Duration::from_millis(random.random_range(500..3_000)));
            let victim = random.random_range(0..self.nodes.len());
            let faults = self.faults();
            let fault = faults[random.random_range(0..faults.len())];
            let lasts = Duration::from_millis(random.random_range(100..9_000));
            eprintln!("{:?}: {fault:?} of node {} for {lasts:?}", start.elapsed(), victim + 1);
            self.strike(world, victim, fault, lasts);
        }
    }

    fn strike(&mut self, world: &World, victim: usize, fault: Fault, lasts: Duration) {
        let node = &mut self.nodes[victim];
        match fault {
            Fault::Kill => {
                node.kill();
                let_pass(lasts);
                node.launch();
                world.moved(victim, node.broker().mqtt());
            }
            Fault::Pause => {
                signal(node.pid(), "STOP");
                let_pass(lasts);
                signal(node.pid(), "CONT");
            }
            Fault::Cut | Fault::CutOut | Fault::CutIn => {
                let Some(net) = &self.net else { return };
                let others = (0..self.nodes.len()).filter(|other| *other != victim);
                let ways: Vec<_> = others
                    .flat_map(|other| {
                        let out = (fault != Fault::CutIn).then_some((victim, other));
                        let back = (fault != Fault::CutOut).then_some((other, victim));
                        out.into_iter().chain(back)
                    })
                    .collect();
                ways.iter().for_each(|(from, to)| net.cut(*from, *to));
                let_pass(lasts);
                ways.iter().for_each(|(from, to)| net.mend(*from, *to));
            }
        }
    }
}

fn joining(members: &[String]) -> String {
    let quoted: Vec<String> = members.iter().map(|member| format!("{member:?}")).collect();
    format!("[{}]", quoted.join(","))
}

/// Runs a program on the host of a node.
fn on_host(net: Option<&Net>, host: usize, program: &str) -> Command {
    let wrapper = net.map(|net| net.wrapper(host)).unwrap_or_default();
    let mut words = wrapper.iter().map(String::as_str).chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}

fn is_ready(net: Option<&Net>, host: usize, node: &Node) -> bool {
    let url = format!("http://{}/readyz", node.broker().http());
    let asked =
        on_host(net, host, "curl").args(["-sf", "-m", "2", "-o", "/dev/null", &url]).status();
    asked.expect("curl").success()
}

fn put_user(net: &Net, node: &Node) {
    let mut command = on_host(Some(net), 0, env!("CARGO_BIN_EXE_hongqiao"));
    command.args(["user", "put", USER.0, "--password-stdin", "--data"]).arg(node.data());
    let mut put = command.stdin(Stdio::piped()).spawn().unwrap();
    writeln!(put.stdin.take().unwrap(), "{}", USER.1).unwrap();
    assert!(put.wait().unwrap().success(), "{}", node.log());
}
