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

use std::sync::Arc;

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{
    faults::{Faults, Targets},
    host::Host,
    oracle::{Oracle, Violation},
    panics,
    shape::Shape,
    trace::Trace,
    watch::Watch,
    workload::{Client, Tally, Turn},
};
use crate::{
    id::{NodeId, ShardId},
    runtime,
};

/// The nodes are looked into this often.
const WATCH_EVERY_MS: u64 = 10;

/// Without faults the cluster has settled within this time.
const SETTLE_MS: u64 = 30_000;

/// What came of a world.
pub(super) struct Report {
    pub(super) trace: String,
    pub(super) broken: Option<Violation>,
    pub(super) tally: Tally,
    pub(super) shape: Shape,
    pub(super) now_ms: u64,
}

pub(super) struct World {
    now_ms: u64,
    shape: Shape,
    random: StdRng,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    faults: Faults,
    watch: Watch,
    oracle: Arc<Oracle>,
    trace: Trace,
    questions: u64,
    tally: Tally,
}

/// Runs the world of `seed` to its end, or to the first broken promise.
pub(super) fn run(seed: u64) -> Report {
    runtime::set_seed(Some(seed));
    panics::watch();
    let mut world = World::new(seed);
    world.live();
    let broken = world.oracle.broken();
    if let Some(broken) = &broken {
        world.trace.line(broken.at_ms, format_args!("{}: {}", broken.invariant, broken.what));
    }
    let World { trace, tally, shape, now_ms, .. } = world;
    runtime::set_seed(None);
    Report { trace: trace.text().to_owned(), broken, tally, shape, now_ms }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let shape = Shape::draw(&mut random);
        let hosts: Vec<Host> =
            (1..=shape.nodes).map(|node| Host::new(NodeId(node), &mut random)).collect();
        let home = |client: u32| usize::try_from(client).unwrap_or(0) % hosts.len();
        let clients = (0..shape.clients).map(|id| Client::new(id, home(id))).collect();
        let mut trace = Trace::default();
        trace.line(0, format_args!("seed {seed}: {shape:?}"));
        Self {
            now_ms: 0,
            shape,
            random,
            hosts,
            clients,
            faults: Faults::default(),
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
            self.pass();
        }
        if self.goes_on() {
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
            shape: &self.shape,
            random: &mut self.random,
            trace: &mut self.trace,
        };
        step(&mut self.faults, self.now_ms, &mut targets)
    }

    fn start(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.start(&self.shape, &self.oracle);
        let (node, life) = (host.node.0, host.incarnation);
        self.trace.line(self.now_ms, format_args!("node {node}: start {life}"));
    }

    fn clients_act(&mut self) {
        let mut turn = Turn {
            hosts: &self.hosts,
            shape: &self.shape,
            oracle: &self.oracle,
            random: &mut self.random,
            questions: &mut self.questions,
            tally: &mut self.tally,
        };
        for client in &mut self.clients {
            client.act(self.now_ms, &mut turn);
        }
    }

    /// Lets a millisecond pass, and looks at what came of it.
    fn pass(&mut self) {
        self.oracle.set_time(self.now_ms);
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        order.shuffle(&mut self.random);
        for at in order {
            self.hosts[at].tick(self.now_ms);
        }
        self.now_ms += 1;
        for client in &mut self.clients {
            client.listen(&self.hosts, &self.oracle, &mut self.tally);
        }
        if let Some(message) = panics::taken() {
            self.oracle.complain("NO-PANIC", message);
        }
        for host in &self.hosts {
            if let Some(error) = host.start_error() {
                let node = host.node.0;
                self.oracle.complain("HEAL", format!("node {node} does not start: {error}"));
            }
            if self.now_ms.is_multiple_of(WATCH_EVERY_MS) {
                self.watch.look(host, self.now_ms, &self.oracle, &mut self.trace);
            }
        }
    }

    /// Waits until the cluster is whole and quiet, and takes a last round of commands.
    fn settle(&mut self) {
        let deadline = self.now_ms + SETTLE_MS;
        let is_whole = |world: &Self| world.hosts.iter().all(|host| host.handle().is_some());
        self.pass_until(deadline, "nodes that start", is_whole);
        let is_quiet = |world: &Self| world.clients.iter().all(|client| client.open() == 0);
        self.pass_until(deadline, "clients that were told", is_quiet);
        for shard in (0..self.shape.shards).map(ShardId) {
            for at in 0..self.hosts.len() {
                self.last_round(at, shard, deadline);
            }
        }
        self.pass_until(deadline, "replicas that are equal", Self::is_even);
        for host in &self.hosts {
            Watch::settle(host, &self.oracle);
        }
        self.trace.line(self.now_ms, "settled");
    }

    fn pass_until(&mut self, deadline: u64, what: &str, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) && self.goes_on() {
            if self.now_ms >= deadline {
                self.oracle.complain("HEAL", format!("without faults still no {what}"));
                return;
            }
            self.pass();
        }
    }

    /// Every node takes a command for every shard, after a few tries at most.
    fn last_round(&mut self, at: usize, shard: ShardId, deadline: u64) {
        let before = self.tally.acknowledged;
        while self.tally.acknowledged == before && self.goes_on() {
            let mut turn = Turn {
                hosts: &self.hosts,
                shape: &self.shape,
                oracle: &self.oracle,
                random: &mut self.random,
                questions: &mut self.questions,
                tally: &mut self.tally,
            };
            self.clients[0].propose(at, shard, &mut turn);
            let is_told = |world: &Self| world.clients[0].open() == 0;
            self.pass_until(deadline, "acknowledgement", is_told);
            self.pass();
        }
    }

    /// Returns whether all replicas of a shard have applied the same.
    fn is_even(&self) -> bool {
        (0..usize::from(self.shape.shards)).all(|shard| {
            let handles = self.hosts.iter().filter_map(Host::handle);
            let replicas = handles.filter_map(|handle| handle.shared().groups.shards.get(shard));
            let states: Vec<_> = replicas.map(|replica| replica.machine.lock().summary).collect();
            states.windows(2).all(|pair| pair[0] == pair[1])
        })
    }
}
