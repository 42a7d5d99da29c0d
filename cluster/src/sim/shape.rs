//! What a seed says of a world before it begins.
//!
//! - Owns: plain values. Takes: a seed. Gives: sizes, limits, kinds of faults.
//! - Each world has some kinds of faults only, so that none hides what another alone would show.
//! - Source: own design; swarm testing (Groce and others, 2012), as tigerbeetle's VOPR does.

use rand::{Rng, rngs::StdRng, seq::SliceRandom};

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
        }
    }
}
