//! How a node and its groups do, as plain values for people and metrics.
//!
//! - Owns: nothing. Takes: metrics of openraft, states of links. Gives: `Status`.
//! - Bound: one record per group and per member of it; reading waits for nobody.
//! - Source: own design.

use crate::{
    directory::Led,
    id::{NodeId, ShardId},
    raft_group::{group::Group, lead::Lead},
    transport::LinkState,
};

/// How a node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Which start of it.
    pub incarnation: u64,
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// Its groups by number; the last is the meta group.
    pub groups: Vec<GroupStatus>,
    /// Its links to other members, one per member and class.
    pub links: Vec<LinkState>,
}

/// How one group does, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its number.
    pub shard: ShardId,
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// This node leads it and may act as its leader.
    pub here: bool,
    /// The newest term.
    pub term: u64,
    /// Index of the last entry in the log here.
    pub last: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Members that count for a quorum; empty if this node is no member.
    pub voters: Vec<NodeId>,
    /// Members that follow without counting.
    pub learners: Vec<NodeId>,
    /// How many entries each other member is behind; only known to the leader.
    pub lag: Vec<(NodeId, u64)>,
    /// Milliseconds since a quorum acknowledged the leader; only known to it.
    pub silence_ms: Option<u64>,
}

impl GroupStatus {
    /// Returns who leads, as this node or the directory knows; see [`Lead::leader_or`].
    #[must_use]
    pub fn leader_or(&self, written: Option<Led>) -> Option<NodeId> {
        Lead { leader: self.leader, term: self.term, here: self.here }.leader_or(written)
    }

    pub(crate) fn of(number: u16, group: &Group) -> Self {
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let behind =
            |id: &Option<_>| last.saturating_sub(id.map_or(0, |id: openraft::LogId<u64>| id.index));
        let others = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id);
        let lead = group.lead.now();
        Self {
            shard: ShardId(number),
            leader: lead.leader,
            here: lead.here,
            term: lead.term,
            last,
            applied: metrics.last_applied.map_or(0, |id| id.index),
            voters: members.voter_ids().map(NodeId).collect(),
            learners: members.learner_ids().map(NodeId).collect(),
            lag: others.map(|(id, matched)| (NodeId(*id), behind(matched))).collect(),
            silence_ms: metrics.millis_since_quorum_ack,
        }
    }
}
