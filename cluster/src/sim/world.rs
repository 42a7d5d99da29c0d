//! One world: machines, faults, clients and an oracle, from one seed, in one thread.
//!
//! ```text
//! every millisecond:  faults ─▶ clients ─▶ each machine's millisecond, in random order ─▶ oracle
//! phase one: faults          phase two: all healed; the cluster must settle, and take one more round
//! ```
//!
//! - Owns: all of it. Takes: a seed. Gives: a trace, and the first promise that was broken.
//! - Bound: `SETTLE_MS` of virtual time for the second phase.
//! - Source: own design; phases as in tigerbeetle's VOPR.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{
    changes::{Changes, Ground},
    faults::{Faults, Targets},
    guest::{Guest, MakeMachine, Stage},
    hand_overs::{self, HandOvers},
    health,
    host::{Death, Host, Place},
    links::Links,
    oracle::{Oracle, Violation},
    panics,
    routes::Subscribers,
    shape::Shape,
    trace::{self, Trace},
    watch::Watch,
    workload::{Client, Tally, Turn},
};
use crate::{
    error::StartError,
    id::{NodeId, ShardId},
    runtime,
};

/// The nodes are looked into this often.
const WATCH_EVERY_MS: u64 = 10;

/// Without faults the cluster has settled within this time.
const SETTLE_MS: u64 = 30_000;

/// Members that leave may take this much longer: one that is lost is declared down first.
const CHANGES_SETTLE_MS: u64 = 60_000;

/// What came of a world.
#[derive(Debug)]
pub struct Report {
    /// All that happened, line by line.
    pub trace: String,
    /// The first promise that was broken.
    pub broken: Option<Violation>,
    pub(super) tally: Tally,
    pub(super) shape: Shape,
    pub(super) now_ms: u64,
}

pub(super) struct World {
    now_ms: u64,
    shape: Shape,
    random: StdRng,
    hosts: Vec<Host>,
    links: Links,
    clients: Vec<Client>,
    guest: Option<Box<dyn Guest>>,
    machines: Option<MakeMachine>,
    /// The guest shall begin nothing new.
    ending: bool,
    subscribers: Subscribers,
    faults: Faults,
    changes: Changes,
    hand_overs: HandOvers,
    watch: Watch,
    oracle: Arc<Oracle>,
    trace: Trace,
    questions: u64,
    tally: Tally,
}

/// Runs the world of `seed` to its end, or to the first broken promise.
#[cfg(test)]
pub(super) fn run(seed: u64) -> Report {
    run_with(seed, None)
}

/// As `run`, with clients and machines of somebody else.
pub fn run_guest(seed: u64, guest: Box<dyn Guest>) -> Report {
    run_with(seed, Some(guest))
}

fn run_with(seed: u64, guest: Option<Box<dyn Guest>>) -> Report {
    runtime::set_seed(Some(seed));
    panics::watch();
    let mut world = World::new(seed, guest);
    if catch_unwind(AssertUnwindSafe(|| world.live())).is_err() {
        world.oracle.complain("NO-PANIC", panics::taken().unwrap_or_default());
    }
    let broken = world.oracle.broken();
    if let Some(broken) = &broken {
        world.trace.line(broken.at_ms, broken);
    }
    let World { trace, tally, shape, now_ms, .. } = world;
    runtime::set_seed(None);
    Report { trace: trace.text().to_owned(), broken, tally, shape, now_ms }
}

impl World {
    fn new(seed: u64, guest: Option<Box<dyn Guest>>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut shape = Shape::draw(&mut random);
        shape.draw_changes(seed);
        shape.draw_hand_overs(seed);
        if let Some(guest) = &guest {
            shape.host(guest.clients());
        }
        let mut hosts: Vec<Host> =
            (1..=shape.all_nodes()).map(|node| Host::new(NodeId(node), &mut random)).collect();
        for host in hosts.iter_mut().filter(|host| host.node.0 > shape.nodes) {
            host.place = Place::Unused;
        }
        let links = Links::new(shape.all_nodes(), &mut random);
        let home = |client: u32| usize::try_from(client).unwrap_or(0) % hosts.len();
        let mut clients: Vec<_> = (0..shape.clients).map(|id| Client::new(id, home(id))).collect();
        if guest.is_some() {
            clients.iter_mut().skip(1).for_each(Client::serve);
        }
        let machines = guest.as_ref().map(|guest| guest.machines());
        let mut trace = Trace::default();
        trace.line(0, format_args!("seed {seed}: {shape:?}"));
        Self {
            now_ms: 0,
            shape,
            random,
            hosts,
            links,
            clients,
            guest,
            machines,
            ending: false,
            subscribers: Subscribers::default(),
            faults: Faults::default(),
            changes: Changes::default(),
            hand_overs: HandOvers::default(),
            watch: Watch::default(),
            oracle: Arc::new(Oracle::new()),
            trace,
            questions: 0,
            tally: Tally::default(),
        }
    }

    fn live(&mut self) {
        for at in 0..self.hosts.len() {
            self.start(at);
        }
        while self.now_ms < self.shape.faults_ms && self.goes_on() {
            let starts = self.with_faults(Faults::step);
            starts.into_iter().for_each(|at| self.start(at));
            self.clients_act();
            self.hand_over();
            self.pass();
        }
        if self.goes_on() {
            self.changes.over = true;
            let starts = self.with_faults(Faults::heal);
            starts.into_iter().for_each(|at| self.start(at));
            self.settle();
        }
        let (events, digest) = self.oracle.fingerprint();
        let tally = self.tally;
        self.trace.line(self.now_ms, format_args!("{events} events, {digest:016x}, {tally:?}"));
    }

    fn goes_on(&self) -> bool {
        self.oracle.broken().is_none()
    }

    fn with_faults(
        &mut self,
        step: impl FnOnce(&mut Faults, u64, &mut Targets<'_>) -> Vec<usize>,
    ) -> Vec<usize> {
        let mut targets = Targets {
            hosts: &mut self.hosts,
            links: &mut self.links,
            shape: &self.shape,
            random: &mut self.random,
            trace: &mut self.trace,
        };
        step(&mut self.faults, self.now_ms, &mut targets)
    }

    fn start(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if host.place != Place::Member {
            return;
        }
        host.start(&self.shape, &self.links, &self.oracle, self.machines.as_ref());
        let (node, life) = (host.node.0, host.incarnation);
        self.trace.line(self.now_ms, format_args!("node {node}: start {life}"));
    }

    fn clients_act(&mut self) {
        if self.guest.is_some() {
            return self.guest_acts(false);
        }
        let mut turn = Turn {
            now_ms: self.now_ms,
            hosts: &self.hosts,
            shape: &self.shape,
            oracle: &self.oracle,
            random: &mut self.random,
            questions: &mut self.questions,
            tally: &mut self.tally,
        };
        for client in &mut self.clients {
            client.act(&mut turn);
        }
        self.subscribers.act(&mut turn);
    }

    fn guest_acts(&mut self, ending: bool) {
        let Some(guest) = &mut self.guest else { return };
        let turn = Turn {
            now_ms: self.now_ms,
            hosts: &self.hosts,
            shape: &self.shape,
            oracle: &self.oracle,
            random: &mut self.random,
            questions: &mut self.questions,
            tally: &mut self.tally,
        };
        // The first client is the world's own, for its last round.
        let clients = self.clients.get_mut(1..).unwrap_or_default();
        guest.act(&mut Stage { turn, clients, trace: &mut self.trace }, ending);
    }

    fn change(&mut self) {
        let mut ground = Ground {
            now_ms: self.now_ms,
            hosts: &mut self.hosts,
            links: &self.links,
            shape: &self.shape,
            random: &mut self.random,
            trace: &mut self.trace,
        };
        let starts = self.changes.step(&mut ground);
        starts.into_iter().for_each(|at| self.start(at));
    }

    fn hand_over(&mut self) {
        let mut ground = hand_overs::Ground {
            now_ms: self.now_ms,
            hosts: &self.hosts,
            shape: &self.shape,
            random: &mut self.random,
        };
        self.hand_overs.step(&mut ground);
    }

    /// Lets a millisecond pass, and looks at what came of it.
    fn pass(&mut self) {
        self.change();
        self.oracle.set_time(self.now_ms);
        trace::set_time(self.now_ms);
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        order.shuffle(&mut self.random);
        let now_ms = self.now_ms;
        self.hosts.iter_mut().for_each(|host| host.wake(now_ms));
        self.links.tick();
        for at in order {
            self.hosts[at].tick(self.now_ms);
        }
        self.now_ms += 1;
        for client in &mut self.clients {
            client.listen(self.now_ms, &self.hosts, &self.oracle, &mut self.tally);
        }
        if let Some(message) = panics::taken() {
            self.oracle.complain("NO-PANIC", message);
        }
        self.look_at_starts();
        for host in &self.hosts {
            if self.now_ms.is_multiple_of(WATCH_EVERY_MS) {
                self.watch.look(host, self.now_ms, &self.oracle, &mut self.trace);
            }
        }
    }

    /// A node that finds no member to join ends, and is started again; any other end is a broken promise.
    fn look_at_starts(&mut self) {
        for at in 0..self.hosts.len() {
            let Some(error) = self.hosts[at].start_error() else { continue };
            let node = self.hosts[at].node.0;
            let line = format!("node {node} does not start: {error}");
            if !matches!(error, StartError::Join { .. }) {
                self.oracle.complain("HEAL", line);
                return;
            }
            self.trace.line(self.now_ms, line);
            self.with_faults(|faults, now_ms, targets| {
                faults.crash(at, Death::Kill, now_ms, targets);
                Vec::new()
            });
        }
    }

    /// Waits until the cluster is whole and quiet, and takes a last round of commands.
    fn settle(&mut self) {
        let changes = if self.shape.spares > 0 { CHANGES_SETTLE_MS } else { 0 };
        let deadline = self.now_ms + SETTLE_MS + changes;
        self.pass_until(deadline, "whole", |world| health::unwhole(&world.hosts, &world.shape));
        let left = |world: &Self| world.guest.as_ref().and_then(|guest| guest.missing());
        self.ending = true;
        self.pass_until(deadline, "drained", left);
        let quiet = |world: &Self| {
            let open = world.clients.iter().map(Client::open).sum::<usize>();
            (open > 0).then(|| format!("{open} commands without an outcome"))
        };
        self.pass_until(deadline, "quiet", quiet);
        for shard in (0..self.shape.shards).map(ShardId) {
            for at in 0..self.hosts.len() {
                if self.hosts[at].place == Place::Member {
                    self.last_round(at, shard, deadline);
                }
            }
        }
        // Whoever has begun to move meanwhile, to be level, is to arrive: the leader may not be among the replicas.
        self.pass_until(deadline, "even", |world| {
            health::unwhole(&world.hosts, &world.shape).or_else(|| health::uneven(&world.hosts))
        });
        if self.goes_on() {
            health::report(&self.hosts, &self.oracle);
            self.trace.line(self.now_ms, "settled");
        }
    }

    /// Lets time pass until nothing is `missing`.
    fn pass_until(
        &mut self,
        deadline: u64,
        phase: &str,
        missing: impl Fn(&Self) -> Option<String>,
    ) {
        while let Some(what) = missing(self).filter(|_| self.goes_on()) {
            if self.now_ms >= deadline {
                self.oracle.complain("HEAL", format!("without faults, not {phase} yet: {what}"));
                return;
            }
            if self.ending {
                self.guest_acts(true);
            }
            let starts = self.with_faults(Faults::step);
            starts.into_iter().for_each(|at| self.start(at));
            self.pass();
        }
    }

    /// Every node takes a command for every shard, after a few tries at most.
    fn last_round(&mut self, at: usize, shard: ShardId, deadline: u64) {
        let before = self.tally.acknowledged;
        while self.tally.acknowledged == before && self.goes_on() {
            let mut turn = Turn {
                now_ms: self.now_ms,
                hosts: &self.hosts,
                shape: &self.shape,
                oracle: &self.oracle,
                random: &mut self.random,
                questions: &mut self.questions,
                tally: &mut self.tally,
            };
            self.clients[0].propose(at, shard, &mut turn);
            let untold = |world: &Self| {
                let open = world.clients[0].open();
                (open > 0).then(|| format!("no word on the last command at {at} for {shard:?}"))
            };
            self.pass_until(deadline, "serving", untold);
            self.pass();
        }
    }
}
