//! Why a change of members, of shards' places or of leads is refused: one variant per thing to do about it.
//!
//! - Owns: nothing. Takes: refusals of the directory and of groups. Gives: clear texts; crosses links.
//! - Bound: none.
//! - Source: own design.

use serde::{Deserialize, Serialize};

use crate::{
    error::ProposeError,
    id::{NodeId, ShardId},
    meta::Refusal,
};

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MemberError {
    /// There is no such member.
    #[error("node {} is no member of this cluster", .0.0)]
    NoNode(NodeId),
    /// The node was removed; its id is not given again.
    #[error("node {} was removed from this cluster; its id is not given again", .0.0)]
    Removed(NodeId),
    /// Only who is down can be lost.
    #[error("node {} is up: let it leave, or stop it first and say that it is lost", .0.0)]
    StillUp(NodeId),
    /// It is down, so it can neither help nor take anything.
    #[error("node {} is down: start it, or say that it is lost if it will not come back", .0.0)]
    Down(NodeId),
    /// Nobody would be left.
    #[error("node {} is the last member that stays: a cluster has at least one", .0.0)]
    LastMember(NodeId),
    /// Shards, or the metadata, have or would have no quorum.
    #[error(
        "too few members are up: without node {} a shard or the metadata would have no quorum; start the \
         members that are down first, or say which of them are lost",
        .0.0
    )]
    QuorumLost(NodeId),
    /// It gives everything away and takes nothing.
    #[error("node {} is leaving the cluster", .0.0)]
    Leaving(NodeId),
    /// There is no such shard.
    #[error("there is no shard {}", .0.0)]
    NoShard(ShardId),
    /// It has a replica of the shard already.
    #[error("node {} has a replica of shard {} already", .1.0, .0.0)]
    AlreadyThere(ShardId, NodeId),
    /// It has no replica of the shard.
    #[error("node {} has no replica of shard {}", .1.0, .0.0)]
    NotThere(ShardId, NodeId),
    /// Nobody leads the group, so nobody can be asked.
    #[error("group {} has no leader; see its members in the status of the cluster", .0.0)]
    NoLeader(ShardId),
    /// It does not vote in the group, or lacks too much of its log.
    #[error("node {} cannot lead group {}: it has no vote there, or has not caught up", .1.0, .0.0)]
    NotReady(ShardId, NodeId),
    /// The lead did not change hands in time; it may still do so.
    #[error("the lead of group {} stayed where it was", .0.0)]
    Stayed(ShardId),
    /// A member has a release that does not know of this.
    #[error("node {} runs release {}, which does not know this; upgrade it first", .0.0, .1)]
    OldRelease(NodeId, String),
    /// Nothing was done: the directory cannot be written, or a member cannot be asked, now.
    #[error("it cannot be done now: {0}")]
    Unavailable(String),
    /// It may or may not be done; asking once more does no harm.
    #[error("it is not known whether it was done; look at the status of the cluster")]
    Unknown,
    /// It takes no lead: it stops, or could write nothing.
    #[error("node {} takes no lead now: its disk takes no writes, or it is about to stop", .0.0)]
    Unwilling(NodeId),
}

impl MemberError {
    /// Says what a refusal of the directory means for a node and a shard.
    pub(crate) fn of(why: Refusal, node: NodeId, shard: ShardId) -> Self {
        match why {
            Refusal::NoNode => Self::NoNode(node),
            Refusal::Removed => Self::Removed(node),
            Refusal::StillUp => Self::StillUp(node),
            Refusal::LastMember => Self::LastMember(node),
            Refusal::QuorumLost => Self::QuorumLost(node),
            Refusal::Leaving => Self::Leaving(node),
            Refusal::Down => Self::Down(node),
            Refusal::NoShard => Self::NoShard(shard),
            Refusal::AlreadyThere => Self::AlreadyThere(shard, node),
            Refusal::NotThere => Self::NotThere(shard, node),
            Refusal::Limit
            | Refusal::Full
            | Refusal::HoldsReplicas
            | Refusal::NoRoom
            | Refusal::RoomExists
            | Refusal::OtherFolder
            | Refusal::Unreadable => Self::Unavailable(why.to_string()),
        }
    }
}

impl From<ProposeError> for MemberError {
    fn from(why: ProposeError) -> Self {
        match why {
            ProposeError::Unknown => Self::Unknown,
            refused => Self::Unavailable(refused.to_string()),
        }
    }
}
