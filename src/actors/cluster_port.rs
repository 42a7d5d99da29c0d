//! The cluster crate as routes and relays need it.
//!
//! - Owns: nothing but the handle. Takes: changes of routes, questions about shards, frames for other nodes.
//! - Gives: what the cluster answers, in the words of `meta.rs`, `durable_routes.rs` and `peer.rs`.
//! - Bound: none of its own.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::{
    ClusterHandle, Lead, LinkError, MetaCommand, MetaReply, PeerService, Place, Served, Store,
    id::{NodeId, ShardId},
};
use tokio::sync::watch;

use super::{
    durable_routes::{NotLed, Shards, Visit},
    meta::{Meta, MetaError, RouteChange, Standing},
    peer::{Class, Desks, PeerError, Wire},
};
use crate::{
    limits,
    shard::{machine::ShardMachine, query},
};

/// Wraps the handle of a running member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClusterPort(pub ClusterHandle<ShardMachine>);

impl ClusterPort {
    /// Returns who leads a shard, as far as this node knows.
    #[must_use]
    pub fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        let lead = *self.0.leadership(shard).borrow();
        lead.leader_or(self.0.meta().directory().leader(shard))
    }

    fn command(&self, change: RouteChange) -> MetaCommand {
        let node = self.0.node();
        let at = |incarnation| Place::Node { node, incarnation };
        let of = |shard, term| Place::Shard { shard, term };
        match change {
            RouteChange::AddLive { incarnation, keys } => {
                MetaCommand::AddRoutes { place: at(incarnation), keys }
            }
            RouteChange::RemoveLive { incarnation, keys } => {
                MetaCommand::RemoveRoutes { place: at(incarnation), keys }
            }
            RouteChange::Complete { incarnation } => {
                MetaCommand::RoutesComplete { node, incarnation }
            }
            RouteChange::Led { shard, term } => MetaCommand::ShardLed { shard, node, term },
            RouteChange::AddDurable { shard, term, keys } => {
                MetaCommand::AddRoutes { place: of(shard, term), keys }
            }
            RouteChange::RemoveDurable { shard, term, keys } => {
                MetaCommand::RemoveRoutes { place: of(shard, term), keys }
            }
        }
    }
}

impl Meta for ClusterPort {
    fn propose(&self, change: RouteChange) -> BoxFuture<'static, Result<u64, MetaError>> {
        let proposed = self.0.meta().propose(self.command(change));
        Box::pin(async move {
            match proposed.await {
                Ok((MetaReply::Done, index)) => Ok(index),
                Ok((MetaReply::Fenced, _)) => Err(MetaError::Fenced),
                Ok((reply, _)) => {
                    tracing::error!(?reply, "routes are refused");
                    Err(MetaError::Unavailable)
                }
                Err(_) => Err(MetaError::Unavailable),
            }
        })
    }

    fn barrier(&self, index: u64) -> BoxFuture<'static, ()> {
        let meta = self.0.meta().clone();
        Box::pin(async move { meta.barrier(index).await })
    }

    fn has_lease(&self) -> bool {
        self.0.meta().has_lease()
    }

    fn standing(&self) -> Standing {
        let (directory, node) = (self.0.meta().directory(), self.0.node());
        let member = directory.nodes.get(&node).filter(|member| member.up);
        let incarnation = member.map(|member| member.incarnation);
        Standing { alone: directory.is_alone(node), incarnation }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.meta().changed()
    }

    fn routes_of(&self, shard: ShardId) -> BoxFuture<'static, Vec<Bytes>> {
        let directory = self.0.meta().directory();
        let collect = move || {
            let routes = directory.routes.iter().filter(|(_, places)| places.has_shard(shard));
            routes.map(|(key, _)| key.clone()).collect()
        };
        // Millions of routes take a while; a task that is gone means that the node is stopping.
        let collected = tokio::task::spawn_blocking(collect);
        Box::pin(async move { collected.await.unwrap_or_default() })
    }
}

impl Shards for ClusterPort {
    fn term(&self, shard: ShardId) -> Option<u64> {
        let lead = *self.0.leadership(shard).borrow();
        lead.here.then_some(lead.term)
    }

    fn term_changed(&self, shard: ShardId, old: Option<u64>) -> BoxFuture<'static, ()> {
        let mut leadership = self.0.leadership(shard);
        Box::pin(async move {
            let is_other = |lead: &Lead| lead.here.then_some(lead.term) != old;
            let stopped = leadership.wait_for(is_other).await.is_err();
            if stopped {
                // The cluster has stopped: nothing changes any more.
                std::future::pending::<()>().await;
            }
        })
    }

    fn filters(
        &self,
        shard: ShardId,
        from: u32,
        mut visit: Visit,
    ) -> BoxFuture<'static, Result<Option<u32>, NotLed>> {
        let cluster = self.0.clone();
        Box::pin(async move {
            let ask = move |machine: &ShardMachine, _: &dyn Store| {
                query::visit_routes(machine, from, limits::ROUTE_WALK_FILTERS, &mut *visit)
            };
            cluster.read(shard, ask).await.map_err(|_| NotLed)
        })
    }
}

impl Wire for ClusterPort {
    fn request(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let answer = self.0.request(to, class, body, time_out);
        Box::pin(async move { answer.await.map_err(error_of) })
    }

    fn cast(&self, to: NodeId, class: Class, body: Bytes) -> Result<(), PeerError> {
        self.0.cast(to, class, body).map_err(error_of)
    }
}

impl PeerService for Desks {
    fn serve(&self, from: NodeId, class: Class, body: Bytes) -> Served {
        self.dispatch(from, class, &body)
    }
}

fn error_of(error: LinkError) -> PeerError {
    match error {
        LinkError::Unreachable | LinkError::NoCluster => PeerError::Unreachable,
        LinkError::Full => PeerError::Full,
        LinkError::Lost | LinkError::TimedOut => PeerError::Unknown,
        LinkError::TooLong => {
            PeerError::Refused("the body is longer than a frame may be".to_owned())
        }
        LinkError::Refused(why) | LinkError::Denied(why) => PeerError::Refused(why),
    }
}
