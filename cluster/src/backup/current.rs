//! Waits until this node has what was acknowledged before, group by group, or says of which it cannot tell.
//!
//! - Owns: nothing. Takes: groups, and the way to their leaders. Gives: the groups that may lack something.
//! - Bound: `BACKUP_CURRENT_WAIT` in all; one short question per group and try.
//! - A leader that may read has applied all that was acknowledged before it was asked, so who has applied as much has
//!   it, too.
//! - Source: own design; read indexes as in Raft §6.4.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;

use crate::{
    id::{NodeId, ShardId},
    limits::BACKUP_CURRENT_WAIT,
    membership::orders::{self, Order, Outcome},
    meta::machine::Published,
    raft_group::group::Group,
    transport::Network,
};

/// Between two looks at a group.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Whom to ask.
pub(crate) struct Leaders {
    pub(crate) node: NodeId,
    pub(crate) published: Arc<Published>,
    pub(crate) network: Option<Arc<dyn Network>>,
}

impl Leaders {
    /// Returns the groups that do not have all that was acknowledged before the call, as far as is known here.
    pub(crate) async fn not_current(&self, groups: &[Arc<Group>]) -> Vec<ShardId> {
        let current = join_all(groups.iter().map(|group| async move {
            if !group.is_member() {
                return (ShardId(group.number), false);
            }
            let waited = tokio::time::timeout(BACKUP_CURRENT_WAIT, self.wait_for(group)).await;
            (ShardId(group.number), waited.is_ok())
        }));
        current.await.into_iter().filter(|(_, is)| !is).map(|(group, _)| group).collect()
    }

    async fn wait_for(&self, group: &Group) {
        let goal = loop {
            if let Some(goal) = self.goal(group).await {
                break goal;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        while group.applied_index().is_none_or(|applied| applied < goal) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Returns the last entry that the group's leader has applied; `None`: nobody says it now.
    async fn goal(&self, group: &Group) -> Option<u64> {
        let shard = ShardId(group.number);
        let written = self.published.directory().leader(shard);
        let leader = group.lead.now().leader_or(written)?;
        if leader == self.node {
            return group.read_index();
        }
        let network = self.network.as_ref()?;
        match orders::give(&**network, leader, &Order::ReadIndex { group: shard }).await {
            Ok(Outcome::ReadIndex(index)) => Some(index),
            _ => None,
        }
    }
}
