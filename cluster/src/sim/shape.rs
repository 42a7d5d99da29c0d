//! What a seed says of a world before it begins.
//!
//! - Owns: plain values. Takes: a seed. Gives: sizes, limits, kinds of faults.
//! - Each world has some kinds of faults only, so that none hides what another alone would show.
//! - Source: own design; swarm testing (Groce and others, 2012), as tigerbeetle's VOPR does.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Members come and go in every so-manieth world.
const CHANGING: u64 = 4;

/// Leads are handed over all the time in those next to them.
const RESTLESS: u64 = 1;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Kill,
    PowerLoss,
    /// The disk takes no writes for a while.
    DiskFails,
    SlowDisk,
    /// A node stands still, its clock does not.
    Pause,
    /// A node's clock runs late or early.
    Skew,
    /// Nodes do not reach each other, one way or both.
    Cut,
    /// One node reaches nobody.
    Isolate,
    Reset,
    /// Frames take longer, each link for itself.
    Delay,
}

const ALONE: [Kind; 6] =
    [Kind::Kill, Kind::PowerLoss, Kind::DiskFails, Kind::SlowDisk, Kind::Pause, Kind::Skew];

const BETWEEN: [Kind; 4] = [Kind::Cut, Kind::Isolate, Kind::Reset, Kind::Delay];

#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) nodes: u64,
    pub(super) shards: u16,
    pub(super) clients: u32,
    /// Faults happen for this long; then they are healed.
    pub(super) faults_ms: u64,
    /// Mean time between two.
    pub(super) fault_every_ms: u64,
    pub(super) kinds: Vec<Kind>,
    pub(super) checkpoint_ms: u64,
    pub(super) segment_bytes: u64,
    /// Most bytes of a command beside its name.
    pub(super) filler_max: usize,
    /// Most commands that a client proposes without waiting.
    pub(super) burst_max: u64,
    /// Mean time between two turns of a client.
    pub(super) turn_ms: u64,
    /// Nodes that may join; 0: members neither come nor go.
    pub(super) spares: u64,
    /// Mean time between two changes of members.
    pub(super) change_every_ms: u64,
    /// Mean time between two wishes that a lead be elsewhere; 0: there are none.
    pub(super) hand_over_every_ms: u64,
}

impl Shape {
    pub(super) fn draw(random: &mut StdRng) -> Self {
        let nodes = *[1_u64, 3, 3, 3, 5].choose(random).unwrap_or(&1);
        let mut kinds = ALONE.to_vec();
        if nodes > 1 {
            kinds.extend(BETWEEN);
        }
        kinds.shuffle(random);
        let some = random.gen_range(1..=kinds.len());
        kinds.truncate(some);
        Self {
            nodes,
            shards: random.gen_range(1..=2),
            clients: random.gen_range(1..=4),
            faults_ms: random.gen_range(2_000..8_000),
            fault_every_ms: random.gen_range(150..1_500),
            kinds,
            checkpoint_ms: *[10, 50, 300, 2_000].choose(random).unwrap_or(&50),
            segment_bytes: 1 << random.gen_range(12..18),
            filler_max: *[0, 100, 1_600, 5_000].choose(random).unwrap_or(&100),
            burst_max: *[1, 4, 16].choose(random).unwrap_or(&4),
            turn_ms: random.gen_range(5..60),
            spares: 0,
            change_every_ms: 0,
            hand_over_every_ms: 0,
        }
    }

    /// Lets members come and go in some worlds of several nodes; all others are what they were without.
    pub(super) fn draw_changes(&mut self, seed: u64) {
        if self.nodes < 2 || !seed.is_multiple_of(CHANGING) {
            return;
        }
        let mut random = StdRng::seed_from_u64(!seed);
        self.spares = random.gen_range(1..=3);
        self.change_every_ms = random.gen_range(800..3_000);
        // Time for some of them.
        self.faults_ms += 6_000;
    }

    /// Lets leads go from node to node in some worlds of several nodes, with many small requests on their way;
    /// all others are what they were without.
    pub(super) fn draw_hand_overs(&mut self, seed: u64) {
        if self.nodes < 2 || seed % CHANGING != RESTLESS {
            return;
        }
        let mut random = StdRng::seed_from_u64(!seed);
        self.hand_over_every_ms = random.gen_range(50..600);
        // Time for some of them: the cluster is made first.
        self.faults_ms += 6_000;
        self.clients += 4;
        self.turn_ms = random.gen_range(2..8);
        (self.burst_max, self.filler_max) = (4, self.filler_max.min(100));
        // What is on its way when a lead changes is what they are about.
        for kind in [Kind::Delay, Kind::SlowDisk] {
            if !self.kinds.contains(&kind) {
                self.kinds.push(kind);
            }
        }
    }

    /// Makes room for the clients of a guest beside one of the world's own, whose commands are bare.
    pub(super) fn host(&mut self, clients: usize) {
        self.clients = 1 + u32::try_from(clients).unwrap_or(0);
        self.filler_max = 0;
    }

    /// Returns how many nodes there may be in all.
    pub(super) fn all_nodes(&self) -> u64 {
        self.nodes + self.spares
    }
}
