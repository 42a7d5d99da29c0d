//! Shared subscriptions: one message of a group goes to one of its members.
//!
//! - Owns: the groups whose home is this worker, with their members on all workers.
//! - Takes: `Join`, `Leave`, `SessionsGone`, `DispatchAgain` (`again`), `Dispatch` (a publish matched a group, or a live member left
//!   with messages that it had not acknowledged), `Choose` (a durable one left some; `redispatch`).
//! - Gives: `DeliverTo` to the router of the member's worker; for members with a durable session and
//!   QoS ≥ 1 a `Share` to the session's shard, flushed before the reply.
//! - Bound: one entry per member; `limits::GROUPS_MAILBOX_MESSAGES`.
//! - Choice: connected members in turn; without any, members with a durable session in turn.
//! - Source: MQTT 5.0 section 4.8.2. Redelivery goes by group, so by filter, never by topic.
//!
//! ```text
//! publish ─(GroupTable snapshot)─► Dispatch ─► home of the group ─┬► DeliverTo ─► router ─► link
//!                                                                ├► Share ─► shard (durable)
//!                                                                └► another node (`far`)
//! ```

mod table;
mod again;
mod hand_over;
mod members;
mod far;
mod away;
mod deal;
mod seats;
mod give;
mod back;
mod here;
mod desk;

use std::sync::Arc;

use actix::{Actor, AsyncContext as _, Context, Handler, Message, Recipient, ResponseFuture};
use ahash::AHashMap;
use bytes::Bytes;
use futures_util::future::join_all;
use smallvec::SmallVec;
use tokio::sync::Semaphore;

pub use again::DispatchAgain;
use again::{DealtLive, UnderWay};
pub(in crate::actors) use back::anew;
pub use desk::{GroupsDesk, OfferReply, ShareReply, ShareRequest, VERSION as SHARES_VERSION};
use far::FarState;
pub use far::{Far, ReadMembers, stored_member};
use hand_over::Turn;
pub use here::{ChooseHere, DealHere, OfferHere};
use members::Members;
pub use table::{GroupKey, GroupSet, GroupTable};

use super::{appender::Submit, publish::AppQuotas};
use crate::{
    limits,
    model::{
        connection_id::ConnectionId,
        id::{AppId, MessageId, SessionKey},
        message::{Message as Published, Qos},
        reason::Reason,
        topic::TopicFilter,
        wire::SubscriptionOptions,
    },
};

/// Sent by a connection that subscribes. Replies whether it is a new member; an old one gets the new
/// options.
#[derive(Clone, Debug, Message)]
#[rtype(result = "bool")]
pub struct Join {
    /// Which group.
    pub group: GroupKey,
    /// Tenant.
    pub app: AppId,
    /// Its share name.
    pub share: Bytes,
    /// What the group subscribes to.
    pub filter: TopicFilter,
    /// Who.
    pub member: Member,
}

/// Sent by a connection that unsubscribes or ends. Replies whether it was a member.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub struct Leave {
    /// Which group.
    pub group: GroupKey,
    /// Who.
    pub who: MemberKey,
    /// Only the connection of a durable session ended: it stays a member.
    pub stays: bool,
}

/// Sent by the upkeep of a shard: these durable sessions have ended.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct SessionsGone(pub Vec<SessionKey>);

/// Sent by a publisher's worker: each message goes to one member. Replies when that member, or its
/// log, has it; a group without members has nobody to wait for.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), Reason>")]
pub struct Dispatch {
    /// Which group.
    pub group: GroupKey,
    /// The key of its route, if the directory has one.
    pub key: Option<Bytes>,
    /// In order of publication.
    pub messages: Vec<Arc<Published>>,
}

/// Sent by the link or the router of a live member that left without what it was given: another gets it, now or
/// when that is possible (`back`).
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct GivenBack {
    /// Which group.
    pub group: GroupKey,
    /// In order of publication.
    pub messages: Vec<Arc<Published>>,
}

/// Sent by a home to the router of the member's worker. If the member is gone the router sends the
/// messages back; if it has no room, those from the first on that found none are the reply.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Vec<Arc<Published>>")]
pub struct DeliverTo {
    /// Whose message it is.
    pub group: GroupKey,
    /// On which terms.
    pub member: Member,
    /// Who gets it.
    pub connection: ConnectionId,
    /// What.
    pub messages: Vec<Arc<Published>>,
    /// They wait there, if need be: nobody else has room.
    pub forced: bool,
}

/// Sent by the mover of orphans: who should get the next of what a member left?
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Choice")]
pub struct Choose(pub GroupKey);

/// The answer to [`Choose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, actix::MessageResponse)]
pub enum Choice {
    /// The group has no member that could.
    Nobody,
    /// Into the log of this session.
    Stored(Member, SessionKey),
    /// To the link of this connected member.
    Live(Member),
}

/// Sent by whoever learns from the shard that a durable session is no member any more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct NotAMember {
    /// Which group.
    pub group: GroupKey,
    /// As it was known; one that has joined again since stays.
    pub member: Member,
}

/// Sent by the mover of orphans to the router of the member's worker. Replies how many of the messages,
/// from the first on, the member had room for.
#[derive(Clone, Debug, Message)]
#[rtype(result = "usize")]
pub struct Offer {
    /// Whose messages they are.
    pub group: GroupKey,
    /// On which terms.
    pub member: Member,
    /// Who gets them.
    pub connection: ConnectionId,
    /// What.
    pub messages: Vec<Arc<Published>>,
}

/// Sent by a router that did not find a member: this connection of it is gone.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Gone {
    /// Which group.
    pub group: GroupKey,
    /// Who.
    pub who: MemberKey,
    /// Which; one that came since stays.
    pub connection: ConnectionId,
}

/// Names a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberKey {
    /// A session that ends with its connection.
    Connection(ConnectionId),
    /// A durable one, connected or not.
    Session(SessionKey),
}

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub key: MemberKey,
    /// Its connection, while there is one.
    pub connection: Option<ConnectionId>,
    /// Its options for this subscription.
    pub options: SubscriptionOptions,
    /// Its subscription identifier; 0 = none.
    pub subscription_id: u32,
}

impl Member {
    /// Returns the session whose log takes what the member is to get with QoS 1 or 2.
    fn log(&self) -> Option<SessionKey> {
        match self.key {
            MemberKey::Session(key) if self.options.qos > Qos::AtMostOnce => Some(key),
            MemberKey::Session(_) | MemberKey::Connection(_) => None,
        }
    }
}

struct Group {
    app: AppId,
    share: Bytes,
    filter: TopicFilter,
    members: Members,
}

/// Where messages go from here.
#[derive(Clone)]
pub struct Neighbours {
    /// By worker.
    pub routers: Vec<Recipient<DeliverTo>>,
    /// By worker.
    pub offers: Vec<Recipient<Offer>>,
    /// Of this worker.
    pub submit: Recipient<Submit>,
    /// How many shards there are.
    pub shards: u16,
    /// For `Share`.
    pub quotas: Arc<AppQuotas>,
    /// Of which worker these groups are.
    pub worker: u8,
    /// The members on other nodes.
    pub far: Arc<Far>,
}

/// See the file header.
pub struct Groups {
    groups: AHashMap<GroupKey, Group>,
    /// Groups of which a durable session is a member.
    of_session: AHashMap<SessionKey, SmallVec<[GroupKey; 1]>>,
    table: Arc<GroupTable>,
    neighbours: Neighbours,
    dealt_live: DealtLive,
    /// Messages that are dealt again, by the id of the share.
    under_way: AHashMap<MessageId, UnderWay>,
    far: FarState,
    /// How much of the offers for other nodes was taken, by slot.
    offered: AHashMap<u64, (MessageId, usize)>,
    /// Room for what came back and cannot be dealt now.
    back: Arc<Semaphore>,
}

type Share = (Member, Vec<Arc<Published>>);

/// Sent by a home to itself: this member has no room for these now.
#[derive(Message)]
#[rtype(result = "Result<(), Reason>")]
struct NoRoom {
    group: GroupKey,
    who: MemberKey,
    messages: Vec<Arc<Published>>,
    /// So many members had none.
    passes: u32,
}

impl Groups {
    /// Creates the groups of one worker.
    #[must_use]
    pub fn new(table: Arc<GroupTable>, neighbours: Neighbours) -> Self {
        Self {
            groups: AHashMap::new(),
            of_session: AHashMap::new(),
            table,
            neighbours,
            dealt_live: DealtLive::default(),
            under_way: AHashMap::new(),
            far: FarState::default(),
            offered: AHashMap::new(),
            back: back::room(),
        }
    }

    fn remove(&mut self, key: GroupKey, who: MemberKey) -> bool {
        let Some(group) = self.groups.get_mut(&key) else { return false };
        let was_here = group.members.connected() > 0;
        let left = group.members.remove(who);
        if was_here && group.members.connected() == 0 {
            self.far.lost(&self.neighbours, group);
        }
        if group.members.is_empty() {
            self.table.change(group.app, &group.filter, |set| set.0.retain(|each| *each != key));
            self.groups.remove(&key);
        }
        if let (true, MemberKey::Session(session)) = (left, who)
            && let Some(groups) = self.of_session.get_mut(&session)
        {
            groups.retain(|each| *each != key);
            if groups.is_empty() {
                self.of_session.remove(&session);
            }
        }
        left
    }
}

impl Group {
    /// Deals messages to members in turn; each member gets its share in order.
    fn deal(&mut self, messages: Vec<Arc<Published>>) -> Vec<Share> {
        let mut dealt: Vec<Share> = Vec::new();
        let mut at = 0;
        for message in messages {
            let Some(member) = self.members.turn_with_room() else { break };
            // Rounds go over the same members in the same order.
            let begins = dealt.first().is_none_or(|(first, _)| first.key == member.key);
            at = if begins { 0 } else { at + 1 };
            match dealt.get_mut(at) {
                Some((_, share)) => share.push(message),
                None => dealt.push((member, vec![message])),
            }
        }
        dealt
    }

    /// Picks who gets the next of what another member left: whoever is connected, if anyone is.
    fn choose(&mut self) -> Choice {
        let fits = |member: &Member| member.connection.is_some() || member.log().is_some();
        let Some(member) = self.members.turn(fits) else { return Choice::Nobody };
        member.log().map_or(Choice::Live(member), |key| Choice::Stored(member, key))
    }
}

impl Actor for Groups {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::GROUPS_MAILBOX_MESSAGES);
    }
}

impl Handler<Join> for Groups {
    type Result = bool;

    fn handle(&mut self, join: Join, _ctx: &mut Self::Context) -> Self::Result {
        let group = self.groups.entry(join.group).or_insert_with(|| {
            self.table.change(join.app, &join.filter, |set| set.0.push(join.group));
            let (app, share, filter) = (join.app, join.share.clone(), join.filter.clone());
            Group { app, share, filter, members: Members::default() }
        });
        let was_here = group.members.connected() > 0;
        let new = group.members.put(join.member);
        if !was_here && group.members.connected() > 0 {
            self.far.gained(&self.neighbours, group);
        }
        if let (true, MemberKey::Session(session)) = (new, join.member.key) {
            self.of_session.entry(session).or_default().push(join.group);
        }
        new
    }
}

impl Handler<Leave> for Groups {
    type Result = bool;

    fn handle(&mut self, leave: Leave, _ctx: &mut Self::Context) -> Self::Result {
        // Durable members that are away are found in their shards once there are other nodes.
        if !leave.stays || self.neighbours.far.is_on() {
            return self.remove(leave.group, leave.who);
        }
        let Some(group) = self.groups.get_mut(&leave.group) else { return false };
        group.members.disconnect(leave.who)
    }
}

impl Handler<SessionsGone> for Groups {
    type Result = ();

    fn handle(&mut self, gone: SessionsGone, _ctx: &mut Self::Context) {
        for session in gone.0 {
            let who = MemberKey::Session(session);
            for key in self.of_session.get(&session).cloned().unwrap_or_default() {
                // One that is connected has come back: the shard says so if it has not.
                let member = self.groups.get(&key).and_then(|group| group.members.get(who));
                if member.is_some_and(|member| member.connection.is_none()) {
                    self.remove(key, who);
                }
            }
        }
    }
}

impl Handler<NotAMember> for Groups {
    type Result = ();

    fn handle(&mut self, not: NotAMember, _ctx: &mut Self::Context) {
        let group = self.groups.get(&not.group);
        let known = group.and_then(|group| group.members.get(not.member.key));
        if known == Some(&not.member) {
            self.remove(not.group, not.member.key);
        }
    }
}

impl Handler<Gone> for Groups {
    type Result = ();

    fn handle(&mut self, gone: Gone, _ctx: &mut Self::Context) {
        let Some(group) = self.groups.get_mut(&gone.group) else { return };
        let known = group.members.get(gone.who);
        if known.is_none_or(|member| member.connection != Some(gone.connection)) {
            return;
        }
        match gone.who {
            MemberKey::Session(_) if !self.neighbours.far.is_on() => {
                group.members.disconnect(gone.who);
            }
            who => drop(self.remove(gone.group, who)),
        }
    }
}

impl Handler<Choose> for Groups {
    type Result = Choice;

    fn handle(&mut self, Choose(group): Choose, _ctx: &mut Self::Context) -> Self::Result {
        self.groups.get_mut(&group).map_or(Choice::Nobody, Group::choose)
    }
}

impl Handler<Dispatch> for Groups {
    type Result = ResponseFuture<Result<(), Reason>>;

    fn handle(&mut self, dispatch: Dispatch, ctx: &mut Self::Context) -> Self::Result {
        if self.neighbours.far.is_on() {
            return self.dispatch_far(dispatch, &ctx.address());
        }
        let Some(group) = self.groups.get_mut(&dispatch.group) else {
            tracing::debug!(messages = dispatch.messages.len(), "shared group has no member");
            return Box::pin(async { Ok(()) });
        };
        let mut messages = dispatch.messages;
        let mut handed = Vec::new();
        if !self.under_way.is_empty() {
            handed = again::join(&self.under_way, dispatch.group, &mut messages);
        }
        let own = ctx.address();
        for share in group.deal(messages) {
            handed.extend(self.hand_over(dispatch.group, share, Turn::Any { passes: 0 }, &own));
        }
        Box::pin(async move { join_all(handed).await.into_iter().collect() })
    }
}

impl Handler<NoRoom> for Groups {
    type Result = ResponseFuture<Result<(), Reason>>;

    fn handle(&mut self, no_room: NoRoom, ctx: &mut Self::Context) -> Self::Result {
        let NoRoom { group: key, who, messages, passes } = no_room;
        let Some(group) = self.groups.get_mut(&key) else { return Box::pin(async { Ok(()) }) };
        group.members.rest(who);
        let passes = if group.members.any_with_room() { passes } else { u32::MAX };
        let (own, mut handed) = (ctx.address(), Vec::new());
        for share in group.deal(messages) {
            handed.extend(self.hand_over(key, share, Turn::Any { passes }, &own));
        }
        Box::pin(async move { join_all(handed).await.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests;
