//! What is on the move between members, for people and for tests.
//!
//! - Owns: plain values. Takes: the directory, and what leaders say of their groups. Gives: [`Progress`].
//! - Bound: one record per member and per shard on the move.
//! - Source: own design.

use serde::{Deserialize, Serialize};

use crate::{
    directory::Leaving,
    id::{NodeId, ShardId},
};

/// What is on the move. Empty once everything is where it shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Members that get replicas or give them away.
    pub members: Vec<MemberProgress>,
    /// Groups that are on their way; one at a time, beside those that are stuck.
    pub moves: Vec<Move>,
}

impl Progress {
    /// Returns whether nothing is on the move.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.members.is_empty() && self.moves.is_empty()
    }
}

/// How far a member is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberProgress {
    /// The member.
    pub node: NodeId,
    /// How it is on its way out; `None`: it stays, and shards move to it or away.
    pub leaving: Option<Leaving>,
    /// Replicas of shards that it still has to get.
    pub to_get: usize,
    /// Replicas of shards that it still has to give away.
    pub to_give: usize,
}

/// One group on its way to other members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The shard, or the meta group.
    pub shard: ShardId,
    /// Who shall vote in it.
    pub to: Vec<NodeId>,
    /// Who votes now; empty while no leader can be asked.
    pub now: Vec<NodeId>,
    /// Entries that new members still lack.
    pub behind: Vec<(NodeId, u64)>,
    /// Bytes of a snapshot that were sent to a new member, and bytes in all; only its leader knows.
    pub snapshot: Option<(u64, u64)>,
    /// It has made no step for a while; other shards go on meanwhile.
    pub stuck: bool,
}
