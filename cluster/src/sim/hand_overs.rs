//! Leads that go from node to node by somebody's wish, while clients have requests on their way to them.
//!
//! - Owns: when the next one is due. Takes: hosts. Gives: orders to nodes.
//! - Bound: one order at a time; a hand-over that cannot be comes to nothing.
//! - Source: own design. A request that reaches a leader before those in front of it is what streams between
//!   nodes must bear (`crate::stream::table`); no other fault changes leads so often.

use rand::{Rng, rngs::StdRng, seq::SliceRandom};

use super::{
    host::{Host, Place, Visit},
    shape::Shape,
};
use crate::id::ShardId;

#[derive(Default)]
pub(super) struct HandOvers {
    next_ms: u64,
}

/// What they may touch.
pub(super) struct Ground<'a> {
    pub(super) now_ms: u64,
    pub(super) hosts: &'a [Host],
    pub(super) shape: &'a Shape,
    pub(super) random: &'a mut StdRng,
}

impl HandOvers {
    /// Orders the next one if it is due.
    pub(super) fn step(&mut self, ground: &mut Ground<'_>) {
        let every = ground.shape.hand_over_every_ms;
        if every == 0 || ground.now_ms < self.next_ms {
            return;
        }
        self.next_ms = ground.now_ms + ground.random.gen_range(1..=every * 2);
        let shard = ShardId(ground.random.gen_range(0..ground.shape.shards));
        let members: Vec<_> =
            ground.hosts.iter().filter(|host| host.place == Place::Member).collect();
        let (from, to) = (members.choose(ground.random), members.choose(ground.random));
        let Some((from, to)) = from.zip(to) else { return };
        let Some(Visit { handle, runtime, .. }) = &from.visit() else { return };
        let (handle, to) = ((*handle).clone(), to.node);
        // What becomes of it shows in who leads.
        runtime.spawn(async move { handle.transfer(shard, to).await });
    }
}
