//! What goes wrong, and when: crashes at a chosen write, disks that refuse or take long, clocks, links.
//!
//! - Owns: the time of the next fault, and what will be healed when. Takes: a seed's random numbers.
//! - Gives: changes to hosts and links; a line of the trace for each.
//! - Bound: faults last seconds, not for ever; `heal` ends all.
//! - Source: own design.

use std::sync::atomic::Ordering;

use rand::{Rng, rngs::StdRng, seq::SliceRandom};

use super::{
    host::{Death, Host},
    links::Links,
    shape::{Kind, Shape},
    trace::Trace,
};
use crate::id::NodeId;

/// What ends a fault.
#[derive(Clone, Debug)]
enum Cure {
    Start(usize),
    DiskWorks(usize),
    DiskAtSpeed(usize),
    ClockRight(usize),
    Awake(usize, Vec<(NodeId, NodeId)>),
    Connected(Vec<(NodeId, NodeId)>),
    LinksAtSpeed,
}

#[derive(Default)]
pub(super) struct Faults {
    next_ms: u64,
    /// Crashes that wait for their write: the host, how, until when.
    planned: Vec<(usize, Death, u64)>,
    cures: Vec<(u64, Cure)>,
}

/// What faults may touch.
pub(super) struct Targets<'a> {
    pub(super) hosts: &'a mut [Host],
    pub(super) links: &'a mut Links,
    pub(super) shape: &'a Shape,
    pub(super) random: &'a mut StdRng,
    pub(super) trace: &'a mut Trace,
}

impl Faults {
    /// Cures what is due; brings new faults if it is time.
    pub(super) fn step(&mut self, now_ms: u64, targets: &mut Targets<'_>) -> Vec<usize> {
        self.crash_where_power_went(now_ms, targets);
        let starts = self.cure(now_ms, targets);
        if now_ms >= self.next_ms {
            let every = targets.shape.fault_every_ms;
            self.next_ms = now_ms + targets.random.gen_range(1..=every * 2);
            if let Some(kind) = targets.shape.kinds.choose(targets.random) {
                self.begin(*kind, now_ms, targets);
            }
        }
        starts
    }

    /// Ends all faults; gives the hosts to start.
    pub(super) fn heal(&mut self, now_ms: u64, targets: &mut Targets<'_>) -> Vec<usize> {
        self.next_ms = u64::MAX;
        // A crash that waits for its write happens now: a start must follow the last one.
        for (at, death, _) in std::mem::take(&mut self.planned) {
            self.crash(at, death, now_ms, targets);
        }
        for (due, _) in &mut self.cures {
            *due = now_ms;
        }
        targets.trace.line(now_ms, "all faults healed");
        self.cure(now_ms, targets)
    }

    fn crash_where_power_went(&mut self, now_ms: u64, targets: &mut Targets<'_>) {
        let went = |planned: &(usize, Death, u64)| targets.hosts[planned.0].power.is_cut();
        let (gone, mut waiting): (Vec<_>, Vec<_>) = self.planned.drain(..).partition(went);
        let (late, rest) = waiting.drain(..).partition(|planned| planned.2 <= now_ms);
        self.planned = rest;
        let late: Vec<_> = late;
        for (at, death, _) in gone.into_iter().chain(late) {
            self.crash(at, death, now_ms, targets);
        }
    }

    pub(super) fn crash(
        &mut self,
        at: usize,
        death: Death,
        now_ms: u64,
        targets: &mut Targets<'_>,
    ) {
        let host = &mut targets.hosts[at];
        let node = host.node.0;
        host.paused_until = 0;
        if host.crash(death, targets.links) {
            // Most come back soon, some only after their peers have given them up.
            let long = targets.random.gen_ratio(1, 6);
            let away = if long { 5_000..9_000 } else { 0..1_500 };
            let back = now_ms + targets.random.gen_range(away);
            targets.trace.line(now_ms, format_args!("node {node}: {death:?}, back at {back}"));
            self.cures.push((back, Cure::Start(at)));
        }
    }

    fn cure(&mut self, now_ms: u64, targets: &mut Targets<'_>) -> Vec<usize> {
        let (due, waiting): (Vec<_>, Vec<_>) =
            self.cures.drain(..).partition(|(due, _)| *due <= now_ms);
        self.cures = waiting;
        let mut starts = Vec::new();
        for (_, cure) in due {
            if !matches!(cure, Cure::Start(_)) {
                targets.trace.line(now_ms, format_args!("{cure:?}"));
            }
            match cure {
                Cure::Start(at) => starts.push(at),
                Cure::DiskWorks(at) => set_failing(&targets.hosts[at], false),
                Cure::DiskAtSpeed(at) => {
                    targets.hosts[at].disk_ms_max.store(1, Ordering::Relaxed);
                }
                Cure::ClockRight(at) => targets.hosts[at].clock_rate = 1_000,
                Cure::Awake(at, cuts) => {
                    targets.hosts[at].paused_until = 0;
                    targets.links.heal(&cuts);
                }
                Cure::Connected(cuts) => targets.links.heal(&cuts),
                Cure::LinksAtSpeed => {
                    targets.links.set_delay_ms(2);
                    targets.links.set_resets(0);
                }
            }
        }
        starts
    }

    fn begin(&mut self, kind: Kind, now_ms: u64, targets: &mut Targets<'_>) {
        let at = targets.random.gen_range(0..targets.hosts.len());
        let node = targets.hosts[at].node.0;
        match kind {
            Kind::Kill => self.plan(at, Death::Kill, now_ms, targets),
            Kind::PowerLoss => self.plan(at, Death::PowerLoss, now_ms, targets),
            Kind::DiskFails => {
                let until = now_ms + targets.random.gen_range(10..2_000);
                set_failing(&targets.hosts[at], true);
                self.cures.push((until, Cure::DiskWorks(at)));
                targets.trace.line(now_ms, format_args!("node {node}: disk fails until {until}"));
            }
            Kind::SlowDisk => {
                let until = now_ms + targets.random.gen_range(100..3_000);
                let slowest = *[5, 50, 400].choose(targets.random).unwrap_or(&50);
                targets.hosts[at].disk_ms_max.store(slowest, Ordering::Relaxed);
                self.cures.push((until, Cure::DiskAtSpeed(at)));
                let what = format_args!("node {node}: disk takes {slowest} ms until {until}");
                targets.trace.line(now_ms, what);
            }
            Kind::Pause => {
                let longest = if targets.random.gen_ratio(1, 5) { 4_000 } else { 300 };
                let until = now_ms + targets.random.gen_range(5..longest);
                self.pause(at, until, targets);
                targets.trace.line(now_ms, format_args!("node {node}: pauses until {until}"));
            }
            Kind::Skew => {
                let until = now_ms + targets.random.gen_range(500..5_000);
                let rate = targets.random.gen_range(950..=1_050);
                targets.hosts[at].clock_rate = rate;
                self.cures.push((until, Cure::ClockRight(at)));
                targets.trace.line(now_ms, format_args!("node {node}: clock at {rate}/1000"));
            }
            Kind::Cut | Kind::Isolate | Kind::Reset | Kind::Delay => {
                self.trouble_links(kind, node, now_ms, targets);
            }
        }
    }

    fn pause(&mut self, at: usize, until: u64, targets: &mut Targets<'_>) {
        let host = &mut targets.hosts[at];
        if host.paused_until == 0 && host.is_alive() {
            host.paused_until = until;
            let cuts = targets.links.around(&[host.node]);
            targets.links.cut(&cuts);
            self.cures.push((until, Cure::Awake(at, cuts)));
        }
    }

    fn trouble_links(&mut self, kind: Kind, node: u64, now_ms: u64, targets: &mut Targets<'_>) {
        let long = targets.random.gen_ratio(1, 4);
        let until = now_ms + targets.random.gen_range(if long { 3_000..8_000 } else { 20..2_500 });
        let cuts = match kind {
            Kind::Cut => targets.links.some_cuts(targets.random),
            Kind::Isolate => targets.links.around(&[NodeId(node)]),
            Kind::Reset => {
                let other = NodeId(targets.random.gen_range(1..=targets.shape.nodes));
                targets.links.reset(NodeId(node), other);
                targets.links.set_resets(*[0, 2_000, 20_000].choose(targets.random).unwrap_or(&0));
                self.cures.push((until, Cure::LinksAtSpeed));
                targets.trace.line(now_ms, format_args!("links of {node} and {other:?} reset"));
                return;
            }
            _ => {
                let longest = *[10, 60, 300].choose(targets.random).unwrap_or(&10);
                targets.links.set_delay_ms(longest);
                self.cures.push((until, Cure::LinksAtSpeed));
                let line = format_args!("links take up to {longest} ms until {until}");
                targets.trace.line(now_ms, line);
                return;
            }
        };
        targets.links.cut(&cuts);
        targets.trace.line(now_ms, format_args!("cut until {until}: {cuts:?}"));
        self.cures.push((until, Cure::Connected(cuts)));
    }

    fn plan(&mut self, at: usize, death: Death, now_ms: u64, targets: &mut Targets<'_>) {
        let host = &targets.hosts[at];
        if !host.is_alive() || self.planned.iter().any(|planned| planned.0 == at) {
            return;
        }
        let writes = targets.random.gen_range(0..40);
        host.power.cut_after(writes);
        let node = host.node.0;
        let line = format_args!("node {node}: {death:?} after {writes} writes");
        targets.trace.line(now_ms, line);
        self.planned.push((at, death, now_ms + 2_000));
    }
}

fn set_failing(host: &Host, fails: bool) {
    host.disk.0.fail_writes.store(fails, Ordering::SeqCst);
}
