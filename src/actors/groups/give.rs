//! Gives one message to one member of a group whose members are on several nodes.
//!
//! - Takes: a member of this node, or a durable one of any. Gives: `DeliverTo`, or `Share` to the shard of its
//!   session; says whether it was a member.
//! - ONCE: a QoS 2 message of a group with durable members is assigned first, in the shard of the group. Whoever
//!   deals it a second time finds the first owner, and gives it to that one again, whose shard knows its id.
//!   What a live member was assigned is over with its node.
//! - Bound: a round of assigning for each owner whose session has ended.

use std::sync::Arc;

use actix::{Handler, Message, Recipient};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use hongqiao_cluster::id::Bucket;

use super::{DeliverTo, Far, GroupKey, Groups, Member};
use crate::{
    actors::{
        appender::{Submit, SubmitError},
        publish,
        view::Start,
    },
    model::{
        id::{MessageId, SessionKey},
        message::{Message as Published, Qos},
        reason::Reason,
        route_key::{self, RouteKey},
    },
    shard::command::{Command, Quota, Reply, ShareOwner},
};

/// How giving came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// Somebody has it.
    Had,
    /// That session is no member any more, and nobody has it.
    NotMember,
    /// It has no room now, and nobody has it.
    NoRoom,
}

pub(super) type Giving = LocalBoxFuture<'static, Result<Given, Reason>>;

/// A message for a member of a group.
#[derive(Clone)]
pub(super) struct Gift {
    pub(super) group: GroupKey,
    /// Of its route.
    pub(super) key: Bytes,
    pub(super) message: Arc<Published>,
    /// Its owner is to be written down.
    pub(super) assign: bool,
    /// It waits at the member, if need be.
    pub(super) forced: bool,
}

/// Sent by a home to itself: a live member gets the message with this id now.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct NoteLive(MessageId);

impl Gift {
    pub(super) fn share_id(&self) -> Option<MessageId> {
        self.message.id.map(|id| id.in_group(self.group.0))
    }
}

/// What storing a share needs.
struct Store {
    gift: Gift,
    submit: Recipient<Submit>,
    far: Arc<Far>,
    shards: u16,
    quota: Quota,
}

impl Groups {
    /// Gives a message to a member; what it needs is sent when this returns, unless it is to be assigned.
    pub(super) fn give(
        &mut self,
        gift: Gift,
        member: Member,
        note: &Recipient<NoteLive>,
    ) -> Giving {
        let stored = member.log().filter(|_| gift.message.qos > Qos::AtMostOnce);
        let store = Store {
            submit: self.neighbours.submit.clone(),
            far: Arc::clone(&self.neighbours.far),
            shards: self.neighbours.shards,
            quota: self.neighbours.quotas.of(gift.message.app).quota,
            gift,
        };
        match (stored, store.gift.share_id().filter(|_| store.gift.assign)) {
            (Some(key), None) => Box::pin(async move { store.store(key).await }),
            (Some(key), Some(id)) => Box::pin(async move { store.store_assigned(id, key).await }),
            (None, id) => self.give_live(store, member, id, note),
        }
    }

    fn give_live(
        &mut self,
        store: Store,
        member: Member,
        assign: Option<MessageId>,
        note: &Recipient<NoteLive>,
    ) -> Giving {
        let had = Box::pin(async { Ok(Given::Had) });
        let id = store.gift.share_id();
        if id.is_some_and(|id| self.dealt_live.contains(id)) {
            return had;
        }
        let Some(connection) = member.connection else { return had };
        let Some(router) = self.neighbours.routers.get(connection.worker()).cloned() else {
            return had;
        };
        let Gift { group, message, .. } = store.gift.clone();
        // Whoever is written down as its owner has it.
        let forced = store.gift.forced || assign.is_some();
        let deliver = DeliverTo { group, member, connection, messages: vec![message], forced };
        let note = note.clone();
        let Some(id) = assign else {
            let sent = router.send(deliver);
            return Box::pin(async move {
                let back = sent.await.map_err(|_| Reason::ServerShuttingDown)?;
                if !back.is_empty() {
                    return Ok(Given::NoRoom);
                }
                if let Some(id) = id {
                    note.send(NoteLive(id)).await.map_err(|_| Reason::ServerShuttingDown)?;
                }
                Ok(Given::Had)
            });
        };
        Box::pin(async move {
            let me = store.far.me();
            let wanted = ShareOwner::Live { node: me.node.0, incarnation: me.incarnation };
            if let Some(given) = store.assigned(id, wanted).await? {
                return Ok(given);
            }
            note.send(NoteLive(id)).await.map_err(|_| Reason::ServerShuttingDown)?;
            router.send(deliver).await.map_err(|_| Reason::ServerShuttingDown)?;
            Ok(Given::Had)
        })
    }
}

impl Store {
    /// Stores the message for a session.
    async fn store(&self, session: SessionKey) -> Result<Given, Reason> {
        let Gift { group, key, message, .. } = &self.gift;
        let Ok(RouteKey::Group(_, share, filter)) = route_key::parse(key) else {
            return Err(Reason::ImplementationSpecificError);
        };
        let command = Command::Share {
            key: session,
            share,
            filter,
            id: message.id.map(|id| id.in_group(group.0)),
            messages: vec![Arc::clone(message)],
            quota: self.quota,
        };
        let shard = session.bucket().shard(self.shards);
        let reply = self.submit.send(Submit { shard, command }).await;
        let reply = reply.unwrap_or(Err(SubmitError::Unavailable));
        if reply == Ok(Reply::Fenced) {
            return Ok(Given::NotMember);
        }
        publish::accepted(&reply).map(|()| Given::Had)
    }

    async fn store_assigned(&self, id: MessageId, session: SessionKey) -> Result<Given, Reason> {
        match self.assigned(id, ShareOwner::Session(session)).await? {
            Some(given) => Ok(given),
            None => self.store(session).await,
        }
    }

    /// Writes down that `wanted` gets the message; `None`: now it may have it. If another one was to have it,
    /// it has it after this.
    async fn assigned(&self, id: MessageId, wanted: ShareOwner) -> Result<Option<Given>, Reason> {
        let shard = Bucket::of(self.gift.group.0).shard(self.shards);
        let mut instead = None;
        loop {
            let command = Command::Assign { id, owner: wanted, instead };
            let reply = self.submit.send(Submit { shard, command }).await;
            let reply = reply.unwrap_or(Err(SubmitError::Unavailable));
            publish::accepted(&reply)?;
            let Ok(Reply::Assigned(owner)) = reply else {
                return Err(Reason::ImplementationSpecificError);
            };
            if owner == wanted {
                return Ok(None);
            }
            let is_over = match owner {
                ShareOwner::Session(session) => self.store(session).await? == Given::NotMember,
                ShareOwner::Live { node, incarnation } => self
                    .far
                    .is_gone(Start { node: hongqiao_cluster::id::NodeId(node), incarnation }),
            };
            if !is_over {
                return Ok(Some(Given::Had));
            }
            instead = Some(owner);
        }
    }
}

impl Handler<NoteLive> for Groups {
    type Result = ();

    fn handle(&mut self, NoteLive(id): NoteLive, _ctx: &mut Self::Context) {
        self.dealt_live.insert(id);
    }
}
