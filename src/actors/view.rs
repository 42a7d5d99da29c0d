//! What the actors of this node know of the cluster: who leads which shard, which starts of which nodes are up.
//!
//! - Owns: nothing but the receiving ends; the cluster tells.
//! - Takes: changes. Gives: the newest value without waiting, and a wake when it changes.
//! - Bound: one entry per node and per shard.
//! - A channel that is closed says that nothing changes any more.

use std::sync::Arc;

use hongqiao_cluster::{
    Lead, Led,
    id::{NodeId, ShardId},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::shard::command::Holder;

/// One start of a node: what an older one left behind is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Start {
    /// Node id.
    pub node: NodeId,
    /// Number of the start.
    pub incarnation: u64,
}

impl Start {
    /// Returns the start that a holder of a session belongs to.
    #[must_use]
    pub fn of(holder: &Holder) -> Self {
        Self { node: NodeId(holder.node), incarnation: holder.incarnation }
    }
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The start that counts.
    pub start: Start,
    /// Not declared down.
    pub up: bool,
}

/// All members, and which of them this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// This start of this node. It changes if the others declared this node down meanwhile.
    pub me: Start,
    /// This node is the only member. A node that has not heard of its cluster yet is not alone.
    pub alone: bool,
    /// Every node that is known, this one too.
    pub all: Vec<Member>,
    /// By shard: the newest leader that the cluster has written down.
    pub leaders: Vec<Option<Led>>,
}

impl Members {
    /// Returns a cluster of one.
    #[must_use]
    pub fn alone(me: Start) -> Self {
        let all = vec![Member { start: me, up: true }];
        Self { me, alone: true, all, leaders: Vec::new() }
    }

    /// Returns the starts that are up.
    pub fn up(&self) -> impl Iterator<Item = Start> {
        self.all.iter().filter(|member| member.up).map(|member| member.start)
    }

    /// Tells whether nothing is left of a start: its node is down, or has started again since. A node that
    /// is not known yet may be new.
    #[must_use]
    pub fn is_gone(&self, start: Start) -> bool {
        self.bound(start.node).is_some_and(|bound| start.incarnation < bound)
    }

    /// Returns, by node, the lowest incarnation that is not gone.
    pub fn bounds(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.all.iter().map(|Member { start, up }| {
            (start.node, start.incarnation.saturating_add(u64::from(!up)))
        })
    }

    fn bound(&self, node: NodeId) -> Option<u64> {
        self.bounds().find(|(known, _)| *known == node).map(|(_, bound)| bound)
    }
}

/// See the file header. Cheap to clone.
#[derive(Clone)]
pub struct View {
    leads: Arc<[watch::Receiver<Lead>]>,
    members: watch::Receiver<Arc<Members>>,
}

impl View {
    /// Makes a view of what the cluster tells; `leads` by shard.
    #[must_use]
    pub fn new(leads: Vec<watch::Receiver<Lead>>, members: watch::Receiver<Arc<Members>>) -> Self {
        Self { leads: leads.into(), members }
    }

    /// Makes the view of a cluster of one that never changes, for tests of single parts.
    #[must_use]
    pub fn alone(node: NodeId, incarnation: u64, shards: u16) -> Self {
        let members = Arc::new(Members::alone(Start { node, incarnation }));
        let lead = Lead { leader: Some(node), term: 0, here: true };
        let leads = (0..shards).map(|_| watch::Sender::new(lead).subscribe()).collect();
        Self { leads, members: watch::Sender::new(members).subscribe() }
    }

    /// Returns who leads a shard.
    #[must_use]
    pub fn lead(&self, shard: ShardId) -> Lead {
        self.leads.get(usize::from(shard.0)).map(|lead| *lead.borrow()).unwrap_or_default()
    }

    /// Returns the node to ask about a shard.
    #[must_use]
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let written = self.members.borrow().leaders.get(usize::from(shard.0)).copied().flatten();
        self.lead(shard).leader_or(written)
    }

    /// Returns how many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.leads.len()).unwrap_or(u16::MAX)
    }

    /// Returns who leads a shard, and how that changes.
    #[must_use]
    pub fn watch_lead(&self, shard: ShardId) -> Option<watch::Receiver<Lead>> {
        self.leads.get(usize::from(shard.0)).cloned()
    }

    /// Returns the members.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.borrow())
    }

    /// Returns the members, and how they change.
    #[must_use]
    pub fn watch_members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// Returns this start of this node.
    #[must_use]
    pub fn me(&self) -> Start {
        self.members.borrow().me
    }

    /// Tells whether there is no other node.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.members.borrow().alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(node: u64, incarnation: u64) -> Start {
        Start { node: NodeId(node), incarnation }
    }

    #[test]
    fn start_is_gone_when_its_node_is_down_or_started_again() {
        let all =
            vec![Member { start: start(1, 5), up: true }, Member { start: start(2, 7), up: false }];
        let members = Members { me: start(1, 5), alone: false, all, leaders: Vec::new() };
        for (of, gone) in [
            (start(1, 4), true),
            (start(1, 5), false),
            // The directory here may be behind.
            (start(1, 6), false),
            (start(2, 6), true),
            (start(2, 7), true),
            (start(2, 8), false),
            (start(3, 1), false),
        ] {
            assert_eq!(members.is_gone(of), gone, "{of:?}");
        }
        assert_eq!(members.up().collect::<Vec<_>>(), [start(1, 5)]);
    }
}
