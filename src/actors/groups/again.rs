//! A message that its publisher sends again goes to a durable member of a group, unless one has it.
//!
//! - Owns: which messages of this life of the node live members had; which are dealt again just now.
//! - Takes: `DispatchAgain`. Gives: `IsKnown` to every shard, then the message to one durable member.
//! - NO-LOSS, ONCE: the id of a share is made of the message's id and the group. The shard that stored it
//!   knows it even if its member has acknowledged it or ended, so all shards are asked, not only those of
//!   the members; behind the first `Share`, if that is still on its way. Only if none knows it is it dealt.
//!   What is dealt again twice at a time is dealt once.
//! - Live members get nothing again. What one of them had is remembered here, in memory: after a crash a
//!   durable member gets it.
//! - Bound: a question to each shard per resend and group; two times `limits::GROUPS_LIVE_EXCHANGES`.

use std::{mem, sync::Arc};

use actix::{
    ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, Message, ResponseFuture,
    WrapFuture as _,
};
use ahash::AHashMap;
use bytes::Bytes;
use futures_util::future::{FutureExt as _, Shared, join_all};
use hongqiao_cluster::id::ShardId;

use super::{
    GroupKey, Groups, Member,
    hand_over::{Handed, Turn, boxed},
};
use crate::{
    actors::{
        appender::{Submit, SubmitError},
        publish,
    },
    limits,
    model::{
        id::MessageId,
        message::{Message as Published, Qos},
        reason::Reason,
    },
    shard::command::{Command, Reply},
};

/// Sent by a publisher's worker: the first time may have been cut short. Replies when a durable member
/// has the message, or needs none.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), Reason>")]
pub struct DispatchAgain {
    /// Which group.
    pub group: GroupKey,
    /// The key of its route, if the directory has one.
    pub key: Option<Bytes>,
    /// What.
    pub message: Arc<Published>,
}

impl DispatchAgain {
    /// Deals one message again.
    #[must_use]
    pub fn of(group: GroupKey, key: Option<Bytes>, message: Arc<Published>) -> Self {
        Self { group, key, message }
    }
}

/// Sent by a home to itself: no shard knows the message.
#[derive(Message)]
#[rtype(result = "Result<(), Reason>")]
pub(super) struct Unknown {
    pub(super) group: GroupKey,
    pub(super) message: Arc<Published>,
}

/// Done when a message that is dealt again is stored.
pub(super) type UnderWay = Shared<Handed>;

/// What live members were given, by exchange and group; the oldest are forgotten.
#[derive(Default)]
pub(super) struct DealtLive {
    newer: AHashMap<u64, MessageId>,
    older: AHashMap<u64, MessageId>,
}

impl DealtLive {
    pub(super) fn insert(&mut self, share: MessageId) {
        self.newer.insert(share.slot(), share);
        if self.newer.len() >= limits::GROUPS_LIVE_EXCHANGES {
            self.older = mem::take(&mut self.newer);
        }
    }

    pub(super) fn contains(&self, share: MessageId) -> bool {
        let newest = self.newer.get(&share.slot()).or_else(|| self.older.get(&share.slot()));
        newest == Some(&share)
    }
}

/// Takes out of `messages` what is dealt again just now, and waits for that instead.
pub(super) fn join(
    under_way: &AHashMap<MessageId, UnderWay>,
    group: GroupKey,
    messages: &mut Vec<Arc<Published>>,
) -> Vec<Handed> {
    let mut joined = Vec::new();
    messages.retain(|message| {
        let id = message.id.map(|id| id.in_group(group.0));
        let found = id.and_then(|id| under_way.get(&id));
        joined.extend(found.map(|done| boxed(done.clone())));
        found.is_none()
    });
    joined
}

impl Groups {
    /// Asks every shard whether it stored a share.
    fn is_known(&self, id: MessageId) -> impl Future<Output = Result<bool, Reason>> + 'static {
        let ask = |shard| {
            let command = Command::IsKnown { id };
            self.neighbours.submit.send(Submit { shard: ShardId(shard), command })
        };
        let asked: Vec<_> = (0..self.neighbours.shards).map(ask).collect();
        async move {
            let mut known = false;
            for reply in join_all(asked).await {
                let reply = reply.unwrap_or(Err(SubmitError::Unavailable));
                known |= reply == Ok(Reply::Known(true));
                // One that does not answer may be the one that knows it.
                publish::accepted(&reply)?;
            }
            Ok(known)
        }
    }

    fn durable_turn(&mut self, group: GroupKey) -> Option<Member> {
        let members = &mut self.groups.get_mut(&group)?.members;
        let is_durable = |member: &Member| member.log().is_some();
        members.turn(is_durable).or_else(|| members.turn_of_all(is_durable))
    }
}

impl Handler<DispatchAgain> for Groups {
    type Result = ResponseFuture<Result<(), Reason>>;

    fn handle(&mut self, again: DispatchAgain, ctx: &mut Self::Context) -> Self::Result {
        if self.neighbours.far.is_on() {
            return self.again_far(again, &ctx.address());
        }
        let nothing_to_do = Box::pin(async { Ok(()) });
        let Some(id) = again.message.id.map(|id| id.in_group(again.group.0)) else {
            return nothing_to_do;
        };
        if let Some(under_way) = self.under_way.get(&id) {
            return Box::pin(under_way.clone());
        }
        let is_durable = |member: &Member| member.log().is_some();
        let group = self.groups.get(&again.group);
        if again.message.qos == Qos::AtMostOnce
            || !group.is_some_and(|group| group.members.any(is_durable))
            || self.dealt_live.contains(id)
        {
            return nothing_to_do;
        }
        let (known, own): (_, Addr<Self>) = (self.is_known(id), ctx.address());
        let under_way = boxed(async move {
            if known.await? {
                return Ok(());
            }
            own.send(Unknown { group: again.group, message: again.message })
                .await
                .unwrap_or(Err(Reason::ServerShuttingDown))
        })
        .shared();
        self.under_way.insert(id, under_way.clone());
        let done = under_way.clone().into_actor(self);
        ctx.spawn(done.map(move |_, this, _| drop(this.under_way.remove(&id))));
        Box::pin(under_way)
    }
}

impl Handler<Unknown> for Groups {
    type Result = ResponseFuture<Result<(), Reason>>;

    fn handle(
        &mut self,
        Unknown { group, message }: Unknown,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        let Some(member) = self.durable_turn(group) else { return Box::pin(async { Ok(()) }) };
        let handed = self.hand_over(group, (member, vec![message]), Turn::Durable, &ctx.address());
        Box::pin(async move { join_all(handed).await.into_iter().collect() })
    }
}
