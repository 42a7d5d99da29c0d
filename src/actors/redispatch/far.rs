//! Whom the mover of orphans can give something to when the members of groups are on several nodes.
//!
//! - Owns: whose turn it is among the nodes. Takes: a chunk. Gives: a member of this node, a session, or a node
//!   with a live member; makes it an offer.
//! - NO-LOSS: that nobody is there is believed only if every node of the route and every shard has answered, on a
//!   node whose routes are new enough. ONCE: an offer has an id, and is made to the same start of the same node until
//!   that answers or is gone.
//! - Bound: one offer at a time.

use std::{cell::Cell, rc::Rc, sync::Arc};

use actix::Recipient;
use hongqiao_cluster::id::NodeId;

use super::Stuck;
use crate::{
    actors::{
        groups::{
            Choice, ChooseHere, Far, GroupKey, OfferReply, ShareReply, ShareRequest, stored_member,
        },
        peer::PeerError,
    },
    limits,
    model::{id::MessageId, message::Message, route_key},
    shard::query::OrphanChunk,
};

/// See the head of the file.
#[derive(Clone)]
pub struct FarMover {
    /// The other nodes.
    pub far: Arc<Far>,
    /// Groups, by worker.
    pub choose: Vec<Recipient<ChooseHere>>,
    /// Counts turns.
    pub turn: Rc<Cell<usize>>,
}

/// Who gets a chunk.
pub(super) enum To {
    Here(Choice),
    /// A live member there.
    Node(NodeId),
}

impl FarMover {
    pub(super) fn is_on(&self) -> bool {
        self.far.is_on()
    }

    /// Picks who gets the next chunk: whoever is connected, if anyone is.
    pub(super) async fn choose(&self, chunk: &OrphanChunk, group: GroupKey) -> Result<To, Stuck> {
        if !self.far.has_lease() {
            return Err(Stuck);
        }
        let key = route_key::of_group(chunk.app, &chunk.share, chunk.filter.as_bytes());
        let route = self.far.route(&key);
        let others = route.iter().flat_map(|route| route.nodes.iter().map(Some));
        let mut places: Vec<Option<NodeId>> = std::iter::once(None).chain(others).collect();
        self.turn.set(self.turn.get().wrapping_add(1));
        let first = self.turn.get() % places.len();
        places.rotate_left(first);
        let mut all_answered = true;
        for place in places {
            let to = match place {
                None => self.choose_here(group).await?,
                Some(node) => match self.ask(node, group).await {
                    Ok(to) => to,
                    Err(Stuck) => {
                        all_answered = false;
                        continue;
                    }
                },
            };
            if !matches!(to, To::Here(Choice::Nobody)) {
                return Ok(to);
            }
        }
        if let Some(route) = route.filter(|route| !route.shards.is_empty()) {
            let members = self.far.durable_members(&route).await.ok_or(Stuck)?;
            if let Some(session) = members.get(self.turn.get() % members.len().max(1)) {
                return Ok(To::Here(Choice::Stored(stored_member(*session), *session)));
            }
        }
        if all_answered { Ok(To::Here(Choice::Nobody)) } else { Err(Stuck) }
    }

    async fn choose_here(&self, group: GroupKey) -> Result<To, Stuck> {
        let home = self.choose.get(group.home(self.choose.len())).ok_or(Stuck)?;
        Ok(To::Here(home.send(ChooseHere(group)).await.map_err(|_| Stuck)?))
    }

    async fn ask(&self, node: NodeId, group: GroupKey) -> Result<To, Stuck> {
        let incarnation = self.far.incarnation(node).ok_or(Stuck)?;
        let request = ShareRequest::Choose { incarnation, group: group.0 };
        match self.far.ask(node, &request).await {
            Ok(ShareReply::Choice(OfferReply::Stored(session))) => {
                Ok(To::Here(Choice::Stored(stored_member(session), session)))
            }
            Ok(ShareReply::Choice(OfferReply::Live)) => Ok(To::Node(node)),
            Ok(ShareReply::Choice(OfferReply::Nobody)) => Ok(To::Here(Choice::Nobody)),
            Ok(_) | Err(_) => Err(Stuck),
        }
    }

    /// Offers messages to a live member of a node; returns how many were taken.
    pub(super) async fn offer(
        &self,
        node: NodeId,
        group: GroupKey,
        id: MessageId,
        messages: Vec<Arc<Message>>,
    ) -> Result<usize, Stuck> {
        let incarnation = self.far.incarnation(node).ok_or(Stuck)?;
        let request = ShareRequest::Offer { incarnation, group: group.0, id, messages };
        // An answer that is lost may be that of an offer that was taken.
        while self.far.incarnation(node) == Some(incarnation) {
            match self.far.ask(node, &request).await {
                Ok(ShareReply::Offered(taken)) => {
                    return usize::try_from(taken).map_err(|_| Stuck);
                }
                Err(PeerError::Unknown) => tokio::time::sleep(limits::GROUPS_RETRY).await,
                Ok(_) | Err(_) => return Err(Stuck),
            }
        }
        Err(Stuck)
    }
}
