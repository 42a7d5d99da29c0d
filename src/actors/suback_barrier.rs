//! What stands between a subscription and its SUBACK: every node must send, or store, what matches it.
//!
//! - Owns: nothing. Takes: subscriptions that are in force here and, durable ones, in their shard. Gives: per
//!   subscription whether all nodes know it; asks the node that leads the shard.
//! - Bound: `limits::ROUTE_WAIT`, then the answer is no. Nothing on a node alone.
//! - Source: ARCHITECTURE.md "Routes between nodes": a QoS 1 message published after a SUBACK is not missed.

use std::sync::Arc;

use bytes::Bytes;
use hongqiao_cluster::id::{NodeId, ShardId};

use super::{
    durable_routes::DurableRoutes,
    live_routes::LiveRoutes,
    peer::{Class, PeerReply, PeerRequest, Peers},
    route_tables::RouteTables,
};
use crate::{
    limits,
    model::{id::AppId, message::Qos, route_key},
    shard::command::StoredSubscription,
};

/// Says which node leads a shard, as far as this node knows.
pub type LeaderOf = Box<dyn Fn(ShardId) -> Option<NodeId> + Send + Sync>;

/// See the head of the file. Shared by the workers.
pub struct SubackBarrier {
    /// This node.
    pub me: NodeId,
    /// Routes of its live subscribers.
    pub live: Arc<LiveRoutes>,
    /// Routes of the shards that it leads.
    pub durable: Arc<DurableRoutes>,
    /// Say whether there are other nodes.
    pub tables: Arc<RouteTables>,
    /// The way to who leads a shard.
    pub peers: Peers,
    /// Who leads a shard.
    pub leader_of: LeaderOf,
}

impl SubackBarrier {
    /// Tells whether there are no other nodes.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.tables.load().is_alone()
    }

    /// Waits until all nodes know `items`; `None`: they do. `shard`: where a durable session's are stored.
    pub fn passed(
        self: &Arc<Self>,
        app: AppId,
        shard: Option<ShardId>,
        items: &[StoredSubscription],
    ) -> Option<impl Future<Output = Vec<bool>> + Send + use<>> {
        if self.is_alone() {
            return None;
        }
        let key = |item: &StoredSubscription| match &item.share {
            None => route_key::of_filter(app, item.filter.as_bytes()),
            Some(share) => route_key::of_group(app, share, item.filter.as_bytes()),
        };
        // What has QoS 0 comes to a durable session as live messages come.
        let is_stored =
            |item: &StoredSubscription| shard.is_some() && item.options.qos > Qos::AtMostOnce;
        let live_key = |item: &StoredSubscription| match &item.share {
            None if is_stored(item) => route_key::of_filter_qos_0(app, item.filter.as_bytes()),
            _ => key(item),
        };
        let live = self.live.routed(items.iter().map(live_key).collect());
        let stored = |place: &usize| is_stored(&items[*place]);
        let stored: Vec<usize> = (0..items.len()).filter(stored).collect();
        let keys: Vec<Bytes> = stored.iter().map(|place| key(&items[*place])).collect();
        let shard = shard.filter(|_| !keys.is_empty());
        if live.is_none() && shard.is_none() {
            return None;
        }
        let (this, all) = (Arc::clone(self), items.len());
        Some(async move {
            let live = async {
                match live {
                    Some(live) => live.await,
                    None => vec![true; all],
                }
            };
            let durable = async {
                match shard {
                    Some(shard) => this.ensured(shard, keys).await,
                    None => true,
                }
            };
            let (mut passed, durable) = tokio::join!(live, durable);
            stored.into_iter().for_each(|place| passed[place] &= durable);
            passed
        })
    }

    /// Asks whoever leads the shard until it says yes.
    async fn ensured(&self, shard: ShardId, keys: Vec<Bytes>) -> bool {
        let request = PeerRequest::EnsureRoutes { shard, keys };
        let asked = async {
            while !self.ask(shard, &request).await {
                tokio::time::sleep(limits::ROUTE_RETRY).await;
            }
        };
        tokio::time::timeout(limits::ROUTE_WAIT, asked).await.is_ok()
    }

    async fn ask(&self, shard: ShardId, request: &PeerRequest) -> bool {
        match (self.leader_of)(shard) {
            Some(leader) if leader == self.me => {
                let PeerRequest::EnsureRoutes { keys, .. } = request else { return false };
                self.durable.ensure(shard, keys).await.is_ok()
            }
            Some(leader) => {
                let limit = limits::ROUTE_WAIT;
                let reply = self.peers.ask(leader, Class::Control, request, limit).await;
                reply == Ok(PeerReply::Done)
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
