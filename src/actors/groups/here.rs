//! What other nodes ask of the groups of this one.
//!
//! - Takes: a message for one of the connected members here; who of them could take what somebody left.
//! - Gives: the message to a member, and how many there are; or that there is none (ONE-HOP: it is not passed on).
//! - Bound: `limits::GROUPS_OFFERS_MAX` offers are remembered, so that one whose answer was lost is not made twice.

use std::sync::Arc;

use actix::{Addr, AsyncContext as _, Handler, Message, ResponseFuture};
use bytes::Bytes;

use super::{
    Choice, Group, GroupKey, Groups, Member, NotAMember, Offer,
    deal::Rest,
    desk::ShareReply,
    give::{Gift, Given},
};
use crate::{
    limits,
    model::{id::MessageId, message::Message as Published, reason::Reason},
};

/// Sent for another node: to one of the connected members here.
#[derive(Clone, Debug, Message)]
#[rtype(result = "ShareReply")]
pub struct DealHere {
    /// Which group.
    pub group: GroupKey,
    /// Of its route.
    pub key: Bytes,
    /// What.
    pub message: Arc<Published>,
    /// Its owner is to be written down.
    pub assign: bool,
    /// It waits at the member, if need be.
    pub forced: bool,
    /// So many members had no room.
    pub passes: u32,
}

/// Sent by a mover of orphans: which connected member here should get the next of what another left?
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Choice")]
pub struct ChooseHere(pub GroupKey);

/// Sent for the mover of another node: to a live member here, as much as it has room for. Replies how many,
/// from the first on, were taken.
#[derive(Clone, Debug, Message)]
#[rtype(result = "usize")]
pub struct OfferHere {
    /// Which group.
    pub group: GroupKey,
    /// The same when it is asked again.
    pub id: MessageId,
    /// What.
    pub messages: Vec<Arc<Published>>,
}

/// Sent by a home to itself: how much of an offer was taken.
#[derive(Message)]
#[rtype(result = "()")]
struct Offered(MessageId, usize);

impl Groups {
    fn deal_here(&mut self, deal: DealHere, own: &Addr<Self>) -> ResponseFuture<ShareReply> {
        let group = self.groups.get_mut(&deal.group);
        let members = group
            .as_ref()
            .map_or(0, |group| u32::try_from(group.members.connected()).unwrap_or(u32::MAX));
        // Members that are away are none of this node.
        let Some(group) = group.filter(|group| group.members.connected() > 0) else {
            return Box::pin(async { ShareReply::Nobody });
        };
        let passed_all = deal.passes >= limits::GROUPS_PASSES_MAX;
        if !deal.forced && (passed_all || !group.members.any_with_room()) {
            return Box::pin(async { ShareReply::NoRoom });
        }
        let Some(member) = group.members.turn_with_room() else {
            return Box::pin(async { ShareReply::Nobody });
        };
        let DealHere { group, key, message, assign, forced, passes } = deal.clone();
        let gift = Gift { group, key, message, assign, forced };
        let given = self.give(gift, member, &own.clone().recipient());
        let own = own.clone();
        Box::pin(async move {
            match given.await {
                Ok(Given::Had) => ShareReply::Taken { members },
                Ok(not_had) => {
                    let _ = match not_had {
                        Given::NoRoom => own.send(Rest(group, member.key)).await,
                        Given::Had | Given::NotMember => {
                            own.send(NotAMember { group, member }).await
                        }
                    };
                    let dealt = own.send(DealHere { passes: passes + 1, ..deal }).await;
                    dealt.unwrap_or(ShareReply::Refused(Reason::ServerShuttingDown))
                }
                Err(reason) => ShareReply::Refused(reason),
            }
        })
    }
}

impl Handler<DealHere> for Groups {
    type Result = ResponseFuture<ShareReply>;

    fn handle(&mut self, deal: DealHere, ctx: &mut Self::Context) -> Self::Result {
        self.deal_here(deal, &ctx.address())
    }
}

impl Handler<ChooseHere> for Groups {
    type Result = Choice;

    fn handle(&mut self, ChooseHere(group): ChooseHere, _ctx: &mut Self::Context) -> Self::Result {
        let group = self.groups.get_mut(&group).filter(|group| group.members.connected() > 0);
        group.map_or(Choice::Nobody, Group::choose)
    }
}

impl Handler<OfferHere> for Groups {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, offer: OfferHere, ctx: &mut Self::Context) -> Self::Result {
        let OfferHere { group, id, messages } = offer;
        if let Some((known, taken)) = self.offered.get(&id.slot())
            && *known == id
        {
            let taken = *taken;
            return Box::pin(async move { taken });
        }
        let is_live = |member: &Member| member.connection.is_some() && member.log().is_none();
        let members = self.groups.get_mut(&group).map(|group| &mut group.members);
        let member = members.and_then(|members| members.turn_of_all(is_live));
        let to = member.and_then(|member| {
            let connection = member.connection?;
            Some((member, connection, self.neighbours.offers.get(connection.worker())?.clone()))
        });
        let Some((member, connection, router)) = to else { return Box::pin(async { 0 }) };
        let offered = router.send(Offer { group, member, connection, messages });
        let own = ctx.address();
        Box::pin(async move {
            let taken = offered.await.unwrap_or(0);
            if taken > 0 {
                let _ = own.send(Offered(id, taken)).await;
            }
            taken
        })
    }
}

impl Handler<Offered> for Groups {
    type Result = ();

    fn handle(&mut self, Offered(id, taken): Offered, _ctx: &mut Self::Context) {
        if self.offered.len() >= limits::GROUPS_OFFERS_MAX {
            self.offered.clear();
        }
        self.offered.insert(id.slot(), (id, taken));
    }
}
