//! A network of the run's own: one namespace per node, on a bridge that this process reaches.
//!
//! - Owns: namespaces, pairs of interfaces and the bridge; all are removed at the end.
//! - Takes: how many hosts. Gives: addresses, a wrapper that starts a program on a host, and partitions:
//!   one way between two hosts, as a blackhole route.
//! - Needs: root, and `ip` of iproute2; says so where one is missing.
//! - Source: ip-netns(8), ip-route(8).

use std::process::{Command, Output};

/// Hosts of one run.
pub(super) struct Net {
    name: String,
    hosts: usize,
}

fn ip(words: &str) -> Output {
    Command::new("ip").args(words.split_whitespace()).output().expect("ip of iproute2")
}

fn must(words: &str) {
    let output = ip(words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
}

impl Net {
    /// Tells why there can be no network of its own here.
    pub(super) fn missing() -> Option<&'static str> {
        let found = Command::new("ip").arg("netns").output();
        if !found.is_ok_and(|output| output.status.success()) {
            return Some("`ip netns` is missing (Debian: iproute2)");
        }
        let uid =
            std::fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
        (uid.ok() != Some(0)).then_some("namespaces are made by root alone")
    }

    /// Makes the network.
    pub(super) fn new(hosts: usize) -> Self {
        let net = Self { name: format!("hq{}", std::process::id() % 100_000), hosts };
        let bridge = &net.name;
        must(&format!("link add {bridge} type bridge"));
        must(&format!("addr add {} dev {bridge}", net.subnet(254)));
        must(&format!("link set {bridge} up"));
        for host in 0..hosts {
            let (space, near, far) = (net.space(host), net.near(host), net.far(host));
            must(&format!("netns add {space}"));
            must(&format!("link add {near} type veth peer name {far}"));
            must(&format!("link set {far} netns {space}"));
            must(&format!("link set {near} master {bridge}"));
            must(&format!("link set {near} up"));
            must(&format!("-n {space} addr add {} dev {far}", net.subnet(host + 1)));
            must(&format!("-n {space} link set {far} up"));
            must(&format!("-n {space} link set lo up"));
        }
        net
    }

    fn subnet(&self, last: usize) -> String {
        format!("{}/24", self.ip(last))
    }

    fn ip(&self, last: usize) -> String {
        // Of the range that RFC 2544 keeps for tests; one network per process.
        format!("198.18.{}.{last}", std::process::id() % 256)
    }

    fn space(&self, host: usize) -> String {
        format!("{}n{host}", self.name)
    }

    fn near(&self, host: usize) -> String {
        format!("{}a{host}", self.name)
    }

    fn far(&self, host: usize) -> String {
        format!("{}b{host}", self.name)
    }

    /// The address of a host.
    pub(super) fn address(&self, host: usize) -> String {
        self.ip(host + 1)
    }

    /// What a program is started under to run on a host.
    pub(super) fn wrapper(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec"]
            .iter()
            .map(|word| (*word).to_owned())
            .chain([self.space(host)])
            .collect()
    }

    /// From now on nothing of `from` reaches `to`.
    pub(super) fn cut(&self, from: usize, to: usize) {
        must(&format!("-n {} route add blackhole {}/32", self.space(from), self.address(to)));
    }

    /// Undoes `cut`.
    pub(super) fn mend(&self, from: usize, to: usize) {
        must(&format!("-n {} route del blackhole {}/32", self.space(from), self.address(to)));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // What is left of an earlier step goes with its namespace.
        for host in 0..self.hosts {
            ip(&format!("netns del {}", self.space(host)));
            ip(&format!("link del {}", self.near(host)));
        }
        ip(&format!("link del {}", self.name));
    }
}
