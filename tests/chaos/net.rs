//! A network of the run's own: one namespace per node, on a bridge that this process reaches.
//!
//! ```text
//! namespace of node 1 ── veth ──┐
//! namespace of node 2 ── veth ──┼── bridge: this process, and an address that stands for each node:
//! namespace of node 3 ── veth ──┘   behind it the proxy (`proxy.rs`)
//! ```
//!
//! - Owns: namespaces, pairs of interfaces and the bridge; all are removed at the end, however that comes.
//! - Takes: how many hosts. Gives: addresses, a wrapper that starts a program on a host, and partitions:
//!   one way between two hosts, as a blackhole route.
//! - Needs: root, and `ip` of iproute2; says so where one is missing.
//! - Source: ip-netns(8), ip-route(8).

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{Command, Output},
};

use super::undo::Undo;

/// Hosts of one run.
pub(super) struct Net {
    name: String,
    _undo: Undo,
}

fn ip(words: &str) -> Output {
    Command::new("ip").args(words.split_whitespace()).output().expect("ip of iproute2")
}

fn must(words: &str) {
    let output = ip(words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
}

/// Tells why there can be no network of its own here, and what to do about it.
pub(super) fn missing() -> Option<&'static str> {
    let found = Command::new("ip").arg("netns").output();
    if !found.is_ok_and(|output| output.status.success()) {
        return Some("`ip netns` is missing; get it with: apt-get install iproute2");
    }
    let owner =
        std::fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    (owner.ok() != Some(0)).then_some(
        "network namespaces and small disks are made by root alone; run it as root (sudo -E make chaos)",
    )
}

impl Net {
    /// Makes the network.
    pub(super) fn new(hosts: usize) -> Self {
        let name = format!("hq{}", std::process::id() % 100_000);
        let gone = (0..hosts).flat_map(|host| {
            // What is left of an earlier step goes with its namespace.
            let (space, near) = (space(&name, host), near(&name, host));
            [format!("ip netns del {space}"), format!("ip link del {near}")]
        });
        let gone: Vec<String> = gone.chain([format!("ip link del {name}")]).collect();
        let net = Self { _undo: Undo::of(&gone), name };
        let bridge = &net.name;
        must(&format!("link add {bridge} type bridge"));
        must(&format!("addr add {}/24 dev {bridge}", address(254)));
        must(&format!("link set {bridge} up"));
        for host in 0..hosts {
            let (space, near) = (space(bridge, host), near(bridge, host));
            let far = format!("{bridge}b{host}");
            must(&format!("addr add {}/24 dev {bridge}", net.alias(host)));
            must(&format!("netns add {space}"));
            must(&format!("link add {near} type veth peer name {far}"));
            must(&format!("link set {far} netns {space}"));
            must(&format!("link set {near} master {bridge}"));
            must(&format!("link set {near} up"));
            must(&format!("-n {space} addr add {}/24 dev {far}", net.address(host)));
            must(&format!("-n {space} link set {far} up"));
            must(&format!("-n {space} link set lo up"));
        }
        net
    }

    /// The address of a host, for clients.
    pub(super) fn address(&self, host: usize) -> IpAddr {
        address(u8::try_from(host + 1).expect("few hosts"))
    }

    /// The address that stands for a host, for the other ones.
    pub(super) fn alias(&self, host: usize) -> IpAddr {
        address(u8::try_from(host + 101).expect("few hosts"))
    }

    /// What a program is started under to run on a host.
    pub(super) fn wrapper(&self, host: usize) -> Vec<String> {
        let words = ["ip", "netns", "exec", &space(&self.name, host)];
        words.into_iter().map(str::to_owned).collect()
    }

    /// From now on nothing of `from` reaches `to`.
    pub(super) fn cut(&self, from: usize, to: usize) {
        let space = space(&self.name, from);
        must(&format!("-n {space} route add blackhole {}/32", self.alias(to)));
    }

    /// Undoes `cut`.
    pub(super) fn mend(&self, from: usize, to: usize) {
        let space = space(&self.name, from);
        must(&format!("-n {space} route del blackhole {}/32", self.alias(to)));
    }
}

fn space(net: &str, host: usize) -> String {
    format!("{net}n{host}")
}

fn near(net: &str, host: usize) -> String {
    format!("{net}a{host}")
}

/// Of the range that RFC 2544 keeps for tests; one network per process.
fn address(last: u8) -> IpAddr {
    let [.., process] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(198, 18, process, last))
}
