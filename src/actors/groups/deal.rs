//! Deals messages of groups whose members are on several nodes.
//!
//! - Takes: `Dispatch`, `DispatchAgain` and `GivenBack` while there are, or have been, other nodes. Gives: the message to
//!   a connected member: of this node, or by way of the node that has one; if nobody is connected, to a durable
//!   member.
//! - Choice: nodes in turn, each as often as it has members; a node without any refuses, and another is asked. So no
//!   node is the home of a group, and none is missed when it dies. A member without room is passed over while
//!   another has some.
//! - A node that cannot be reached may have the only member: QoS 1 and 2 wait until it can, or until it is down.
//!   QoS 1 whose answer was lost goes to another member at once, maybe a second time; QoS 2 does not, unless its
//!   owner is written down (`give`).
//! - Bound: the windows of publishers and links; `limits::RELAY_WAIT` per message; `limits::GROUPS_TURNS_MAX` groups.
//! - Source: ARCHITECTURE.md "Shared subscriptions over nodes".

use std::sync::Arc;

use actix::{Addr, AsyncContext as _, Handler, Message, ResponseFuture};
use bytes::Bytes;
use futures_util::future::join_all;
use hongqiao_cluster::id::NodeId;
use tokio::time::Instant;

use super::{
    Dispatch, DispatchAgain, GroupKey, Groups, Member, MemberKey, NotAMember,
    away::{AreAway, NotAway},
    desk::{ShareReply, ShareRequest},
    far::{key_of, stored_member},
    give::{Gift, Given},
    hand_over::{Handed, boxed},
};
use crate::{
    actors::{peer::PeerError, route_tables::GroupRoute},
    clock, limits,
    model::{
        message::{Message as Published, Qos},
        node_set::NodeSet,
        reason::Reason,
    },
};

/// A message that is being dealt.
#[derive(Clone)]
pub(super) struct Deal {
    group: GroupKey,
    /// Of its route.
    key: Bytes,
    message: Arc<Published>,
    /// Nodes that have no member, or cannot be asked now.
    tried: NodeSet,
    /// Some node could not be asked.
    unsent: bool,
    /// An earlier try may have come to this start of this node.
    only: Option<(NodeId, u64)>,
    /// It may have been dealt before: live members get nothing again.
    again: bool,
    /// The durable members were read, and there are none.
    nobody_away: bool,
    /// Some member had no room.
    no_room: bool,
    /// Nobody has room: it waits at whoever is next.
    forced: bool,
    /// So many members had no room.
    passes: u32,
    since: Instant,
}

/// Sent by a home to itself: deal it, or go on.
#[derive(Message)]
#[rtype(result = "Result<(), Reason>")]
struct Step(Box<Deal>);

/// Sent by a home to itself: what a node said of its members.
#[derive(Message)]
#[rtype(result = "()")]
struct Weigh(GroupKey, NodeId, u32);

/// Sent by a home to itself: this member has no room now.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Rest(pub(super) GroupKey, pub(super) MemberKey);

impl Groups {
    pub(super) fn dispatch_far(
        &mut self,
        Dispatch { group, key, messages }: Dispatch,
        own: &Addr<Self>,
    ) -> ResponseFuture<Result<(), Reason>> {
        let deals = messages.into_iter();
        let dealt: Vec<_> =
            deals.map(|message| self.begin(group, key.clone(), message, false, own)).collect();
        Box::pin(async move { join_all(dealt).await.into_iter().collect() })
    }

    pub(super) fn again_far(
        &mut self,
        DispatchAgain { group, key, message }: DispatchAgain,
        own: &Addr<Self>,
    ) -> ResponseFuture<Result<(), Reason>> {
        self.begin(group, key, message, true, own)
    }

    fn begin(
        &mut self,
        group: GroupKey,
        key: Option<Bytes>,
        message: Arc<Published>,
        again: bool,
        own: &Addr<Self>,
    ) -> Handed {
        let key = key.or_else(|| self.groups.get(&group).map(key_of));
        let Some(key) = key.or_else(|| self.neighbours.far.key_of(group, &message)) else {
            tracing::debug!("shared group has no member");
            return boxed(async { Ok(()) });
        };
        let tried = NodeSet::default();
        let since = clock::timer_now();
        self.step(
            Box::new(Deal {
                group,
                key,
                message,
                tried,
                unsent: false,
                only: None,
                again,
                nobody_away: false,
                no_room: false,
                forced: false,
                passes: 0,
                since,
            }),
            own,
        )
    }

    /// Finds who is next, and gives it to them.
    fn step(&mut self, mut deal: Box<Deal>, own: &Addr<Self>) -> Handed {
        if deal.since.elapsed() > limits::RELAY_WAIT {
            return boxed(async { Err(Reason::UnspecifiedError) });
        }
        let far = Arc::clone(&self.neighbours.far);
        let route = far.route(&deal.key);
        let assign = deal.message.id.is_some()
            && deal.message.qos == Qos::ExactlyOnce
            && route.as_ref().is_some_and(|route| !route.shards.is_empty());
        if deal.again {
            // As a live subscription gets nothing again, so does a group of such members.
            if !assign {
                return boxed(async { Ok(()) });
            }
            return self.step_stored(deal, route, own);
        }
        if let Some((node, incarnation)) = deal.only
            && far.incarnation(node) == Some(incarnation)
        {
            return self.step_there(deal, node, assign, own);
        }
        let none = NodeSet::default();
        let nodes = route.as_ref().map_or(&none, |route| &route.nodes);
        let members = self.groups.get_mut(&deal.group).map(|group| &mut group.members);
        let here = members.map_or(0, |members| {
            let has_room = deal.forced || members.any_with_room();
            deal.no_room |= !has_room && members.connected() > 0;
            if has_room { members.connected() } else { 0 }
        });
        match self.far.seats(deal.group).next(here, nodes, &deal.tried, clock::timer_now()) {
            Some(None) => self.step_here(deal, assign, own),
            Some(Some(node)) => self.step_there(deal, node, assign, own),
            None if deal.no_room && !deal.forced => {
                (deal.forced, deal.tried) = (true, NodeSet::default());
                self.step(deal, own)
            }
            None => self.step_stored(deal, route, own),
        }
    }

    fn step_here(&mut self, deal: Box<Deal>, assign: bool, own: &Addr<Self>) -> Handed {
        let group = self.groups.get_mut(&deal.group);
        let Some(member) = group.and_then(|group| group.members.turn_with_room()) else {
            return boxed(async { Ok(()) });
        };
        self.give_deal(deal, member, assign, own)
    }

    fn give_deal(
        &mut self,
        mut deal: Box<Deal>,
        member: Member,
        assign: bool,
        own: &Addr<Self>,
    ) -> Handed {
        let (group, key, message) = (deal.group, deal.key.clone(), Arc::clone(&deal.message));
        let gift = Gift { group, key, message, assign, forced: deal.forced };
        let given = self.give(gift, member, &own.clone().recipient());
        let own = own.clone();
        boxed(async move {
            match given.await? {
                Given::Had => return Ok(()),
                Given::NotMember => {
                    let _ = own.send(NotAMember { group, member }).await;
                    if let MemberKey::Session(session) = member.key {
                        let _ = own.send(NotAway(group, session)).await;
                    }
                }
                Given::NoRoom => {
                    deal.passes += 1;
                    deal.forced |= deal.passes >= limits::GROUPS_PASSES_MAX;
                    let _ = own.send(Rest(group, member.key)).await;
                }
            }
            again(&own, deal).await
        })
    }

    fn step_there(
        &mut self,
        mut deal: Box<Deal>,
        node: NodeId,
        assign: bool,
        own: &Addr<Self>,
    ) -> Handed {
        let far = &self.neighbours.far;
        let Some(incarnation) = far.incarnation(node) else {
            deal.tried.insert(node);
            return self.step(deal, own);
        };
        let (group, key, message) = (deal.group.0, deal.key.clone(), Arc::clone(&deal.message));
        let forced = deal.forced;
        let request = ShareRequest::Deal { incarnation, group, key, assign, forced, message };
        let asked = far.ask(node, &request);
        let own = own.clone();
        boxed(async move {
            let reply = asked.await;
            deal.only = None;
            match reply {
                Ok(ShareReply::Taken { members }) => {
                    // It is only a hint: with a full mailbox the next answer says the same.
                    let _ = own.try_send(Weigh(deal.group, node, members));
                    return Ok(());
                }
                Ok(ShareReply::Refused(reason)) => return Err(reason),
                Ok(ShareReply::NotYet) => {
                    deal.unsent = true;
                    deal.tried.insert(node);
                }
                Ok(ShareReply::NoRoom) => {
                    deal.no_room = true;
                    deal.tried.insert(node);
                }
                Ok(_) => {
                    let _ = own.try_send(Weigh(deal.group, node, 0));
                    deal.tried.insert(node);
                }
                Err(_) if deal.message.qos == Qos::AtMostOnce => {
                    // It may have come there; or there is no room, and QoS 0 is what is left out then.
                    return Ok(());
                }
                Err(PeerError::Unknown) if is_exact(&deal.message) && !assign => {
                    deal.only = Some((node, incarnation));
                    tokio::time::sleep(limits::GROUPS_RETRY).await;
                }
                Err(error) => {
                    tracing::debug!(node = node.0, %error, "a share goes to another node");
                    deal.unsent = true;
                    deal.tried.insert(node);
                }
            }
            again(&own, deal).await
        })
    }

    /// Nobody is connected: a durable member gets it.
    fn step_stored(
        &mut self,
        mut deal: Box<Deal>,
        route: Option<Arc<GroupRoute>>,
        own: &Addr<Self>,
    ) -> Handed {
        if deal.message.qos == Qos::AtMostOnce {
            return boxed(async { Ok(()) });
        }
        let route = route.filter(|route| !route.shards.is_empty() && !deal.nobody_away);
        let Some(route) = route else {
            // Sessions that were members while the node was alone, and whose routes are not known yet.
            let group = self.groups.get_mut(&deal.group);
            let stored = group.and_then(|group| group.members.turn_of_all(|m| m.log().is_some()));
            return match stored {
                Some(member) => self.give_deal(deal, member, false, own),
                None if deal.unsent => wait(deal, own),
                None => boxed(async { Ok(()) }),
            };
        };
        if let Some(session) = self.far.stored_turn(deal.group) {
            self.read_away(deal.group, &route, own);
            let assign = is_exact(&deal.message);
            return self.give_deal(deal, stored_member(session), assign, own);
        }
        let (far, own) = (Arc::clone(&self.neighbours.far), own.clone());
        boxed(async move {
            let Some(sessions) = far.durable_members(&route).await else {
                return Err(Reason::ImplementationSpecificError);
            };
            deal.nobody_away = sessions.is_empty();
            let _ = own.send(AreAway(deal.group, Some(sessions))).await;
            again(&own, deal).await
        })
    }
}

fn is_exact(message: &Published) -> bool {
    message.qos == Qos::ExactlyOnce && message.id.is_some()
}

/// Goes on with a message.
async fn again(own: &Addr<Groups>, deal: Box<Deal>) -> Result<(), Reason> {
    own.send(Step(deal)).await.unwrap_or(Err(Reason::ServerShuttingDown))
}

/// Tries all nodes again soon: one that could not be asked may have the only member.
fn wait(mut deal: Box<Deal>, own: &Addr<Groups>) -> Handed {
    let own = own.clone();
    boxed(async move {
        tokio::time::sleep(limits::GROUPS_RETRY).await;
        (deal.tried, deal.unsent, deal.nobody_away) = (NodeSet::default(), false, false);
        (deal.no_room, deal.forced) = (false, false);
        again(&own, deal).await
    })
}

impl Handler<Step> for Groups {
    type Result = ResponseFuture<Result<(), Reason>>;

    fn handle(&mut self, Step(deal): Step, ctx: &mut Self::Context) -> Self::Result {
        self.step(deal, &ctx.address())
    }
}

impl Handler<Weigh> for Groups {
    type Result = ();

    fn handle(&mut self, Weigh(group, node, members): Weigh, _ctx: &mut Self::Context) {
        if let Some(seats) = self.far.turns.get_mut(&group) {
            seats.weigh(node, members, clock::timer_now());
        }
    }
}

impl Handler<Rest> for Groups {
    type Result = ();

    fn handle(&mut self, Rest(group, who): Rest, _ctx: &mut Self::Context) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.members.rest(who);
        }
    }
}
