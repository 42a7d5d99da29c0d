//! What breaks the nodes, and mends them.
//!
//! - Owns: nothing. Takes: the nodes of a run, a time and a seed. Gives: deeds, one after the other, all undone
//!   at the end; how many of each kind.
//! - Bound: one deed at a time. The next one may meet a node that has not recovered yet; then there is no healthy
//!   majority, and the pulse is told so.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{client::World, proxy::Weather, victims::Victims};
use crate::support::{
    node::signal,
    wait::{let_pass, now},
};

/// A node that is mended serves within this time.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
/// Shards of a node with its default settings.
const GROUPS: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    /// `kill -9`, and a start on the same data.
    Kill,
    /// SIGTERM, the end with code 0, and a start on the same data.
    Restart,
    /// SIGSTOP, then SIGCONT: a node that is slow, and does not know it.
    Pause,
    /// The node and the others do not reach each other; clients reach all.
    Cut,
    /// What the node sends to the others is lost.
    CutOut,
    /// What the others send to the node is lost.
    CutIn,
    /// The node and one other do not reach each other; the third one reaches both.
    Apart,
    /// All links of the node are slow, and lose some of what they carry.
    Slow,
    /// All connections of the node to the others end, again and again.
    Reset,
    /// The node has no space on its disk.
    FillDisk,
    /// Some group's lead is given to the node, by an operator's order.
    Transfer,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Deeds(BTreeMap<Deed, u32>);

impl std::fmt::Display for Deeds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (deed, count)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(formatter, "{comma}{deed:?} {count}")?;
        }
        Ok(())
    }
}

/// The one who does it.
pub(super) struct Nemesis<'a> {
    victims: &'a mut Victims,
    world: &'a World,
    random: StdRng,
    /// Nodes under a deed, or not recovered from one.
    broken: Vec<bool>,
    deeds: Deeds,
}

impl<'a> Nemesis<'a> {
    pub(super) fn new(victims: &'a mut Victims, world: &'a World, seed: u64) -> Self {
        let broken = vec![false; victims.nodes.len()];
        let random = StdRng::seed_from_u64(seed);
        Self { victims, world, random, broken, deeds: Deeds::default() }
    }

    /// Breaks nodes for so long.
    pub(super) fn torment(mut self, time: Duration) -> Deeds {
        let start = now();
        while start.elapsed() < time {
            let_pass(Duration::from_millis(self.random.random_range(500..3_000)));
            self.look();
            let victim = self.random.random_range(0..self.broken.len());
            let possible = self.possible();
            let deed = possible[self.random.random_range(0..possible.len())];
            let lasts = Duration::from_millis(self.random.random_range(100..9_000));
            eprintln!("{:?}: {deed:?} of node {} for {lasts:?}", start.elapsed(), victim + 1);
            *self.deeds.0.entry(deed).or_default() += 1;
            self.set_broken(victim, !matches!(deed, Deed::Slow | Deed::Reset | Deed::Transfer));
            self.strike(victim, deed, lasts);
            if self.random.random_bool(0.7) {
                self.wait_for(victim);
            }
        }
        (0..self.broken.len()).for_each(|host| self.wait_for(host));
        self.deeds
    }

    fn possible(&self) -> Vec<Deed> {
        use Deed::{
            Apart, Cut, CutIn, CutOut, FillDisk, Kill, Pause, Reset, Restart, Slow, Transfer,
        };
        let mut possible = vec![Kill, Kill, Pause, Restart];
        if self.victims.proxy.is_some() {
            possible.extend([Cut, CutOut, CutIn, Apart, Slow, Reset, Transfer]);
        }
        if !self.victims.disks.is_empty() {
            possible.push(FillDisk);
        }
        possible
    }

    fn set_broken(&mut self, host: usize, broken: bool) {
        self.broken[host] |= broken;
        self.tell();
    }

    fn tell(&self) {
        let healthy = self.broken.iter().filter(|broken| !**broken).count();
        self.world.pulse().majority(2 * healthy > self.broken.len(), now());
    }

    /// Looks which nodes have recovered.
    fn look(&mut self) {
        for host in 0..self.broken.len() {
            self.broken[host] = self.broken[host] && !self.victims.is_ready(host);
        }
        self.tell();
    }

    fn wait_for(&mut self, host: usize) {
        let start = now();
        self.look();
        while self.broken[host] {
            let log = || self.victims.nodes[host].log();
            let late = start.elapsed() > RECOVERY_PATIENCE;
            assert!(!late, "node {} does not recover (HEAL):\n{}", host + 1, log());
            let_pass(Duration::from_millis(200));
            self.look();
        }
    }

    fn strike(&mut self, victim: usize, deed: Deed, lasts: Duration) {
        match deed {
            Deed::Kill => {
                self.victims.nodes[victim].kill();
                let_pass(lasts);
                self.start(victim);
            }
            Deed::Restart => {
                let node = &mut self.victims.nodes[victim];
                let status = node.terminate();
                assert!(status.success(), "{status} after SIGTERM:\n{}", node.log());
                let_pass(lasts);
                self.start(victim);
            }
            Deed::Pause => {
                let pid = self.victims.nodes[victim].pid();
                signal(pid, "STOP");
                let_pass(lasts);
                signal(pid, "CONT");
            }
            Deed::Cut | Deed::CutOut | Deed::CutIn | Deed::Apart => self.cut(victim, deed, lasts),
            Deed::Slow => self.slow(victim, lasts),
            Deed::Reset => {
                let start = now();
                while start.elapsed() < lasts {
                    self.others(victim).for_each(|other| self.proxy().reset(victim, other));
                    let_pass(Duration::from_millis(self.random.random_range(100..2_000)));
                }
            }
            Deed::FillDisk => {
                self.victims.disks[victim].fill();
                let_pass(lasts);
                self.victims.disks[victim].free();
            }
            Deed::Transfer => {
                let start = now();
                while start.elapsed() < lasts {
                    let group = self.random.random_range(0..GROUPS).to_string();
                    let words = ["transfer", &group, &(victim + 1).to_string()];
                    // Refused where it leads already, or others know better.
                    self.victims.cluster(victim, &words);
                    let_pass(Duration::from_millis(self.random.random_range(100..2_000)));
                }
            }
        }
    }

    fn start(&mut self, victim: usize) {
        let node = &mut self.victims.nodes[victim];
        node.launch();
        self.world.moved(victim, node.broker().mqtt());
    }

    fn proxy(&self) -> &super::proxy::Proxy {
        self.victims.proxy.as_ref().expect("nodes with a proxy between them")
    }

    fn others(&self, victim: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.broken.len()).filter(move |other| *other != victim)
    }

    fn cut(&mut self, victim: usize, deed: Deed, lasts: Duration) {
        let many = if deed == Deed::Apart { 1 } else { self.broken.len() };
        let ways: Vec<_> = self
            .others(victim)
            .take(many)
            .flat_map(|other| {
                let out = (deed != Deed::CutIn).then_some((victim, other));
                let back = (deed != Deed::CutOut).then_some((other, victim));
                out.into_iter().chain(back)
            })
            .collect();
        self.sever(&ways, true);
        let_pass(lasts);
        self.sever(&ways, false);
    }

    /// With hosts of their own the packets are thrown away; on loopback the proxy holds them.
    fn sever(&self, ways: &[(usize, usize)], severed: bool) {
        for (from, to) in ways {
            match &self.victims.net {
                Some(net) if severed => net.cut(*from, *to),
                Some(net) => net.mend(*from, *to),
                None => self.proxy().stall(*from, *to, severed),
            }
        }
    }

    fn slow(&mut self, victim: usize, lasts: Duration) {
        let ways = self.others(victim).flat_map(|other| [(victim, other), (other, victim)]);
        let ways: Vec<_> = ways.collect();
        for (from, to) in &ways {
            let rates = [None, Some(64 * 1_024), Some(512 * 1_024)];
            let weather = Weather {
                delay: Duration::from_millis(self.random.random_range(0..100)),
                jitter: Duration::from_millis(self.random.random_range(0..50)),
                lost_percent: self.random.random_range(0..5),
                bytes_per_second: rates[self.random.random_range(0..rates.len())],
                stalled: false,
            };
            self.proxy().set(*from, *to, weather);
        }
        let_pass(lasts);
        ways.iter().for_each(|(from, to)| self.proxy().set(*from, *to, Weather::default()));
    }
}
