//! Leases under lost and late messages, restarts, new leaders, and clocks that run apart.
//!
//! - Owns: a world of three nodes in virtual time. Takes: random steps. Gives: the step after which a node
//!   relies on a directory that a barrier promised it would not.
//! - Bound: tests only.

use std::time::{Duration, Instant};

use proptest::{collection::vec, prelude::*};

use crate::{
    clock,
    id::NodeId,
    limits::{DOWN_AFTER, LEASE, LEASE_SPAN},
    meta::lease::{Holder, Tracker, Waits},
};

const NODES: usize = 3;

/// How far a clock may run from the true time, in thousandths: two of them by less than a tenth.
const DRIFT: u64 = 45;

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Renew(usize),
    CarryRenewal(usize),
    LoseRenewal(usize),
    CarryGrant(usize),
    LoseGrant(usize),
    Commit,
    Apply(usize),
    Barrier,
    WaitAlone(usize),
    Lead(usize),
    Restart(usize, u64),
}

struct Node {
    rate: u64,
    incarnation: u64,
    applied: u64,
    holder: Holder,
    /// The renewal that is under way.
    asked: Option<Instant>,
}

struct Renewal {
    from: usize,
    incarnation: u64,
    applied: u64,
    sent: Instant,
    to: usize,
}

struct Grant {
    to: usize,
    incarnation: u64,
    sent: Instant,
    index: u64,
}

struct World {
    start: Instant,
    milliseconds: u64,
    nodes: Vec<Node>,
    leader: usize,
    tracker: Tracker,
    last: u64,
    renewals: Vec<Renewal>,
    grants: Vec<Grant>,
    /// Barriers at the leader, since when.
    barriers: Vec<(u64, Instant, Waits)>,
    /// Barriers without a leader: index, whose clock, since when.
    alone: Vec<(u64, usize, Instant)>,
    passed: u64,
}

impl World {
    fn new(rates: [u64; NODES]) -> Self {
        let node = |rate| Node {
            rate,
            incarnation: 1,
            applied: 1,
            holder: Holder::default(),
            asked: None,
        };
        let start = clock::now() + Duration::from_secs(1_000);
        let mut world = Self {
            start,
            milliseconds: 0,
            nodes: rates.map(node).into_iter().collect(),
            leader: 0,
            tracker: Tracker::begin(0, start, std::iter::empty()),
            last: 1,
            renewals: Vec::new(),
            grants: Vec::new(),
            barriers: Vec::new(),
            alone: Vec::new(),
            passed: 0,
        };
        world.lead(0);
        world
    }

    /// What the clock of a node shows.
    fn now(&self, node: usize) -> Instant {
        self.start + Duration::from_micros(self.milliseconds * self.nodes[node].rate)
    }

    fn members(&self) -> Vec<(NodeId, u64)> {
        let of = |(at, node): (usize, &Node)| (NodeId(at as u64), node.incarnation);
        self.nodes.iter().enumerate().map(of).collect()
    }

    fn lead(&mut self, node: usize) {
        // It has applied all of earlier terms before it begins.
        self.nodes[node].applied = self.last;
        self.leader = node;
        let term = self.tracker.term + 1;
        self.tracker = Tracker::begin(term, self.now(node), self.members().into_iter());
        self.barriers.clear();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Wait(milliseconds) => self.milliseconds += milliseconds,
            Step::Renew(node) => {
                let sent = self.now(node);
                let from = &mut self.nodes[node];
                if from.asked.is_none_or(|asked| sent > asked + Duration::from_secs(1)) {
                    from.asked = Some(sent);
                    let (incarnation, applied) = (from.incarnation, from.applied);
                    let to = self.leader;
                    self.renewals.push(Renewal { from: node, incarnation, applied, sent, to });
                }
            }
            Step::CarryRenewal(at) if !self.renewals.is_empty() => {
                let renewal = self.renewals.swap_remove(at % self.renewals.len());
                self.serve(&renewal);
            }
            Step::LoseRenewal(at) if !self.renewals.is_empty() => {
                self.renewals.swap_remove(at % self.renewals.len());
            }
            Step::CarryGrant(at) if !self.grants.is_empty() => {
                let grant = self.grants.swap_remove(at % self.grants.len());
                let node = &mut self.nodes[grant.to];
                // What was on its way to an older start reaches nobody.
                if node.asked == Some(grant.sent) && node.incarnation == grant.incarnation {
                    node.asked = None;
                    node.holder.granted(grant.sent, grant.index);
                }
            }
            Step::LoseGrant(at) if !self.grants.is_empty() => {
                self.grants.swap_remove(at % self.grants.len());
            }
            Step::Commit => {
                self.last += 1;
                self.nodes[self.leader].applied = self.last;
            }
            Step::Apply(node) => {
                let node = &mut self.nodes[node];
                node.applied = self.last.min(node.applied + 1);
            }
            Step::Barrier => {
                let now = self.now(self.leader);
                self.barriers.push((self.last, now, self.tracker.barrier(now, self.last)));
            }
            Step::WaitAlone(node) => self.alone.push((self.last, node, self.now(node))),
            Step::Lead(node) => self.lead(node),
            Step::Restart(node, applied) if node != self.leader => {
                let node = &mut self.nodes[node];
                node.incarnation += 1;
                node.applied = node.applied.min(applied);
                node.holder.give_up();
                node.asked = None;
                let (now, members) = (self.now(self.leader), self.members());
                self.tracker.set_members(now, members.into_iter());
            }
            _ => {}
        }
        self.look();
    }

    fn serve(&mut self, renewal: &Renewal) {
        let &Renewal { from, incarnation, applied, sent, to } = renewal;
        // Another leads now, or the renewal is of a start that is over.
        if to != self.leader || incarnation != self.nodes[from].incarnation {
            return;
        }
        let now = self.now(self.leader);
        self.tracker.renew(now, NodeId(from as u64), incarnation, applied);
        self.grants.push(Grant {
            to: from,
            incarnation,
            sent,
            index: self.nodes[self.leader].applied,
        });
    }

    /// Lets barriers pass, then checks what they have promised.
    fn look(&mut self) {
        let now = self.now(self.leader);
        let (tracker, passed) = (&self.tracker, &mut self.passed);
        self.barriers.retain_mut(|(index, since, waits)| {
            let waits = tracker.waits_until(now, waits);
            assert!(waits.is_none() || now < *since + LEASE_SPAN, "a barrier outlives all leases");
            if waits.is_none() {
                *passed = (*passed).max(*index);
            }
            waits.is_some()
        });
        for (index, node, since) in std::mem::take(&mut self.alone) {
            if self.now(node) >= since + LEASE_SPAN {
                self.passed = self.passed.max(index);
            } else {
                self.alone.push((index, node, since));
            }
        }
        for at in 0..NODES {
            let now = self.now(at);
            let node = &mut self.nodes[at];
            let holds = node.holder.until(node.applied).is_some_and(|until| now < until);
            assert!(
                !holds || node.applied >= self.passed,
                "node {at} relies on {} after a barrier for {}",
                node.applied,
                self.passed
            );
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        4 => (1..700_u64).prop_map(Step::Wait),
        4 => node().prop_map(Step::Renew),
        5 => (0..8_usize).prop_map(Step::CarryRenewal),
        1 => (0..8_usize).prop_map(Step::LoseRenewal),
        5 => (0..8_usize).prop_map(Step::CarryGrant),
        1 => (0..8_usize).prop_map(Step::LoseGrant),
        2 => Just(Step::Commit),
        4 => node().prop_map(Step::Apply),
        2 => Just(Step::Barrier),
        1 => node().prop_map(Step::WaitAlone),
        1 => node().prop_map(Step::Lead),
        1 => (node(), 0..9_u64).prop_map(|(node, applied)| Step::Restart(node, applied)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn barrier_when_passed_then_no_holder_of_a_lease_lacks_its_index(
        rates in [1_000 - DRIFT..=1_000 + DRIFT, 1_000 - DRIFT..=1_000 + DRIFT, 1_000 - DRIFT..=1_000 + DRIFT],
        steps in vec(step(), 1..160),
    ) {
        let mut world = World::new(rates);
        for step in steps {
            world.step(step);
        }
        // Whatever happened: nothing waits longer than the leases that are out.
        world.step(Step::Wait(3_000));
        prop_assert!(world.barriers.is_empty() && world.alone.is_empty());
    }
}

/// The edge that the margin is for: the holder's clock is slow, the leader's is not.
#[test]
fn barrier_when_the_holder_has_a_slow_clock_then_it_waits_until_its_lease_is_over() {
    let mut world = World::new([1_000 + DRIFT, 1_000 - DRIFT, 1_000]);
    world.step(Step::Wait(4_000));
    for step in [Step::Renew(1), Step::CarryRenewal(0), Step::CarryGrant(0), Step::Commit] {
        world.step(step);
    }
    world.step(Step::Barrier);
    let mut waited = 0;
    while !world.barriers.is_empty() {
        world.step(Step::Wait(1));
        waited += 1;
    }
    let lease = u64::try_from(LEASE.as_millis()).unwrap();
    assert!((lease * 1_000 / (1_000 - DRIFT)..=2_300).contains(&waited), "{waited} ms");
}

#[test]
fn barrier_when_everybody_has_applied_then_it_passes_at_once() {
    let mut world = World::new([1_000; NODES]);
    world.step(Step::Wait(5_000));
    world.step(Step::Commit);
    for node in [0, 1] {
        for step in [Step::Apply(node), Step::Renew(node), Step::CarryRenewal(0)] {
            world.step(step);
        }
    }
    // Nobody knows of a lease of node 2, so it is not waited for; but it gets none before it has applied.
    world.step(Step::Barrier);
    assert_eq!(world.passed, 2);
    for step in [Step::Renew(2), Step::CarryRenewal(0), Step::CarryGrant(2)] {
        world.step(step);
    }
    assert_eq!(world.nodes[2].holder.until(1), None);
    assert!(world.nodes[2].holder.until(2).is_some());
}

#[test]
fn tracker_when_a_node_is_silent_then_down_after_five_seconds_unless_the_leader_slept() {
    let start = clock::now();
    let members = [(NodeId(1), 4), (NodeId(2), 7)];
    let mut tracker = Tracker::begin(3, start, members.into_iter());
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    tracker.renew(at(3), NodeId(1), 4, 0);
    assert!(tracker.silent(at(4)).is_empty(), "it began too late to know");
    assert_eq!(tracker.silent(start + DOWN_AFTER), [(NodeId(2), 7)]);
    tracker.resume(at(60));
    assert!(tracker.silent(at(64)).is_empty());
    assert_eq!(tracker.silent(at(65)), [(NodeId(1), 4), (NodeId(2), 7)]);
    tracker.set_members(at(65), [(NodeId(1), 5)].into_iter());
    assert!(tracker.silent(at(66)).is_empty(), "a new incarnation was heard of, the other is down");
}
