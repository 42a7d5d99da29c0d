//! What the groups of this node know of those on other nodes, and tell them.
//!
//! - Owns: per group whose turn it is among the nodes.
//! - Takes: routes, links, first and last connected members. Gives: where the members of a group are; questions to
//!   other nodes; to `LiveRoutes` the groups that have members here.
//! - Bound: `limits::GROUPS_TURNS_MAX` groups.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use actix::Handler;
use ahash::AHashMap;
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use hongqiao_cluster::id::{NodeId, ShardId};

use super::{
    Group, GroupKey, Groups, Member, MemberKey, Neighbours,
    away::Away,
    desk::{self, ShareReply, ShareRequest},
    seats::Seats,
};
use crate::{
    actors::{
        live_routes::TellGroups,
        peer::{Class, PeerError, Wire, no_wire},
        publish::Beyond,
        route_tables::GroupRoute,
        view::{Start, View},
    },
    limits,
    model::{
        id::{HashKey, SessionKey},
        message::{Message as Published, Qos},
        route_key,
        wire::SubscriptionOptions,
    },
};

/// Reads durable members of a group in a shard, a page at most.
pub type ReadMembers =
    Box<dyn Fn(ShardId, Bytes) -> BoxFuture<'static, Option<Vec<SessionKey>>> + Send + Sync>;

/// What dealing needs to know of the other nodes; shared by the workers.
pub struct Far {
    /// There are other nodes, or were since the start.
    on: AtomicBool,
    beyond: Beyond,
    wire: Arc<dyn Wire>,
    view: View,
    hash_key: HashKey,
    read_members: ReadMembers,
}

impl Far {
    /// Wraps what the node knows of the others.
    #[must_use]
    pub fn new(
        beyond: Beyond,
        wire: Arc<dyn Wire>,
        view: View,
        hash_key: HashKey,
        read_members: ReadMembers,
    ) -> Arc<Self> {
        let on = AtomicBool::new(false);
        Arc::new(Self { on, beyond, wire, view, hash_key, read_members })
    }

    /// Returns what a node knows that has no others; for tests and benches.
    #[must_use]
    pub fn nothing() -> Arc<Self> {
        let read: ReadMembers = Box::new(|_, _| Box::pin(async { None }));
        let view = View::alone(NodeId(0), 0, 1);
        Self::new(Beyond::nothing(), no_wire(), view, HashKey([0; 16]), read)
    }

    /// Tells whether there are other nodes, or have been since the start.
    #[must_use]
    pub fn is_on(&self) -> bool {
        if !self.on.load(Relaxed) && !self.beyond.tables.load().is_alone() {
            self.on.store(true, Relaxed);
        }
        self.on.load(Relaxed)
    }

    pub(super) fn me(&self) -> Start {
        self.view.me()
    }

    pub(super) fn is_gone(&self, start: Start) -> bool {
        self.view.members().is_gone(start)
    }

    /// Returns where the members of a group are.
    #[must_use]
    pub fn route(&self, key: &Bytes) -> Option<Arc<GroupRoute>> {
        self.beyond.tables.load().group(key)
    }

    /// Tells whether the routes here are as new as acknowledged subscriptions need them to be.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.beyond.meta.has_lease()
    }

    /// Finds the route of a group that gets messages like this one.
    pub(super) fn key_of(&self, group: GroupKey, message: &Published) -> Option<Bytes> {
        let tables = self.beyond.tables.load();
        let routes = tables.groups(message.app, &message.topic);
        let is_it = |route: &&Arc<GroupRoute>| {
            GroupKey::new(&self.hash_key, route.app, &route.share, &route.filter) == group
        };
        routes.iter().find(is_it).map(|route| route.key.clone())
    }

    /// Asks a node; on its way when this returns.
    pub fn ask(
        &self,
        node: NodeId,
        request: &ShareRequest,
    ) -> BoxFuture<'static, Result<ShareReply, PeerError>> {
        let body = match desk::encode(request) {
            Ok(body) => body,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let asked = self.wire.request(node, Class::Delivery, body, limits::GROUPS_ASK);
        Box::pin(async move { desk::decode(&asked.await?).map_err(PeerError::Refused) })
    }

    /// Returns the incarnation of another node; `None` while it is down.
    #[must_use]
    pub fn incarnation(&self, node: NodeId) -> Option<u64> {
        self.beyond.tables.load().incarnation(node)
    }

    /// Reads all durable members of a group, a page of each shard; `None`: a shard does not answer.
    pub async fn durable_members(&self, route: &GroupRoute) -> Option<Vec<SessionKey>> {
        let reads = route.shards.iter().map(|shard| self.read_patiently(shard, &route.key));
        let pages = join_all(reads).await;
        Some(pages.into_iter().collect::<Option<Vec<_>>>()?.concat())
    }

    async fn read_patiently(&self, shard: ShardId, key: &Bytes) -> Option<Vec<SessionKey>> {
        let read = async {
            loop {
                if let Some(members) = (self.read_members)(shard, key.clone()).await {
                    return members;
                }
                tokio::time::sleep(limits::GROUPS_RETRY).await;
            }
        };
        tokio::time::timeout(limits::RELAY_WAIT, read).await.ok()
    }
}

/// Returns a durable member of whom nothing but its session is known.
#[must_use]
pub fn stored_member(session: SessionKey) -> Member {
    let options = SubscriptionOptions { qos: Qos::ExactlyOnce, ..Default::default() };
    Member { key: MemberKey::Session(session), connection: None, options, subscription_id: 0 }
}

/// What the groups of one worker remember of those on other nodes.
#[derive(Default)]
pub(super) struct FarState {
    /// `LiveRoutes` is told.
    telling: bool,
    pub(super) turns: AHashMap<GroupKey, Seats>,
    pub(super) away: AHashMap<GroupKey, Away>,
}

pub(super) fn key_of(group: &Group) -> Bytes {
    route_key::of_group(group.app, &group.share, group.filter.as_bytes())
}

impl FarState {
    /// A group has its first connected member here.
    pub(super) fn gained(&self, neighbours: &Neighbours, group: &Group) {
        if self.telling {
            neighbours.far.beyond.live.hold(neighbours.worker, [key_of(group)]);
        }
    }

    /// A group has lost its last connected member here.
    pub(super) fn lost(&self, neighbours: &Neighbours, group: &Group) {
        if self.telling {
            neighbours.far.beyond.live.release(neighbours.worker, &key_of(group));
        }
    }

    pub(super) fn seats(&mut self, group: GroupKey) -> &mut Seats {
        if self.turns.len() >= limits::GROUPS_TURNS_MAX && !self.turns.contains_key(&group) {
            self.turns.clear();
        }
        self.turns.entry(group).or_default()
    }
}

impl Handler<TellGroups> for Groups {
    type Result = ();

    fn handle(&mut self, _: TellGroups, _ctx: &mut Self::Context) {
        self.far.telling = true;
        let groups = self.groups.values().filter(|group| group.members.connected() > 0);
        let Neighbours { far, worker, .. } = &self.neighbours;
        far.beyond.live.hold(*worker, groups.map(key_of));
    }
}
