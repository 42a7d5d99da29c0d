//! What the oracle is told: everything that a client or an observer of the nodes can see.
//!
//! - Owns: nothing; plain values.
//! - Bound: none.
//! - Source: own design.

use super::{
    ledger::{Command, Summary},
    routes::Route,
};
use crate::{
    directory::Directory,
    error::ProposeError,
    id::{NodeId, ShardId},
    raft_group::types::LogId,
};

/// Where a command was proposed: order is promised per client and life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
}

/// What a client was told of a command. A client that was told nothing, because its node died, knows as
/// little as one that was told `Unknown`.
pub(super) type Told = Result<Summary, ProposeError>;

/// One observation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    /// A replica came up with this state, or was given it by a snapshot.
    Loaded { node: NodeId, shard: ShardId, state: Summary },
    /// A replica applied a command.
    Applied { node: NodeId, shard: ShardId, before: Summary, after: Summary, command: Command },
    /// A client proposed a command.
    Proposed { command: Command, shard: ShardId, origin: Origin },
    /// It was told what became of it.
    Told { command: Command, shard: ShardId, told: Told, waited_ms: u64 },
    /// A client asked a shard for its state.
    Asked { question: u64, shard: ShardId },
    /// It was told.
    Answered { question: u64, state: Summary },
    /// A replica acts as the leader of its group.
    Leads { node: NodeId, group: u16, term: u64 },
    /// A replica's log holds an entry; `before` is the one in front of it.
    Logged { node: NodeId, group: u16, before: Option<LogId>, id: LogId, digest: u64 },
    /// A node has started with this end of a log.
    Recovered { node: NodeId, group: u16, last: Option<LogId> },
    /// A node has published a directory.
    Published { node: NodeId, directory: &'a Directory },
    /// A node that runs holds a lease on its directory.
    Relies { node: NodeId, directory: &'a Directory },
    /// The barrier has returned for a new route.
    Subscribed { route: Route, index: u64 },
    /// A route is about to be taken back.
    Unsubscribed { route: Route },
    /// All faults are healed, and the nodes had time to settle: a replica's last state.
    Settled { node: NodeId, shard: ShardId, state: Summary },
}

impl Event<'_> {
    /// Returns numbers that two equal runs have in common.
    pub(super) fn fingerprint(&self) -> [u64; 6] {
        let id = |id: &LogId| (id.leader_id.term << 32) | id.index;
        match *self {
            Self::Loaded { node, shard, state } => {
                [1, node.0, shard.0.into(), state.index, state.digest, state.count]
            }
            Self::Applied { node, shard, after, command, .. } => {
                [2, node.0, shard.0.into(), after.digest, command.client.into(), command.number]
            }
            Self::Proposed { command, shard, origin } => {
                let from = (origin.node.0 << 32) | origin.incarnation;
                [3, command.client.into(), command.number, shard.0.into(), from, 0]
            }
            Self::Told { command, told, .. } => {
                let index = told.map_or_else(|why| why as u64, |state| state.index);
                [4, command.client.into(), command.number, told.is_ok().into(), index, 0]
            }
            Self::Asked { question, shard } => [5, question, shard.0.into(), 0, 0, 0],
            Self::Answered { question, state } => [6, question, state.index, state.digest, 0, 0],
            Self::Leads { node, group, term } => [7, node.0, group.into(), term, 0, 0],
            Self::Logged { node, group, id: entry, digest, .. } => {
                [8, node.0, group.into(), id(&entry), digest, 0]
            }
            Self::Recovered { node, group, last } => {
                [10, node.0, group.into(), last.as_ref().map_or(0, id), 0, 0]
            }
            Self::Published { node, directory } => [11, node.0, directory.index, 0, 0, 0],
            Self::Relies { node, directory } => [12, node.0, directory.index, 0, 0, 0],
            Self::Subscribed { route: Route { node, incarnation, number }, index } => {
                [13, node.0, incarnation, number, index, 0]
            }
            Self::Unsubscribed { route } => [14, route.node.0, route.number, 0, 0, 0],
            Self::Settled { node, shard, state } => {
                [9, node.0, shard.0.into(), state.index, state.digest, 0]
            }
        }
    }
}
