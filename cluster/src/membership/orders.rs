//! What one member asks another to do with the groups that it leads.
//!
//! - Owns: the words of [`MemberKind::Order`]. Takes: orders of members. Gives: what came of them.
//! - Bound: messages of at most `CODEC.bytes_max`; an order is carried out where it arrives, never sent on.
//! - Source: own design. Version 1 is the first.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Moves, error::MemberError, progress::Move};
use crate::{
    codec::Codec,
    desks::MemberKind,
    id::{NodeId, ShardId},
    meta::MetaHandle,
    raft_group::{group::Group, members::Report},
    transport::{Class, Desk, LinkError, Network, PeerService, Served},
};

const CODEC: Codec = Codec { version: 1, bytes_max: 64 << 10 };

/// A hand-over takes 3 seconds at most.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);

/// Who does not say at once who the members of a group are is not the one to ask.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// To give the lead of a group to another member.
    Transfer { group: ShardId, to: NodeId },
    /// To say who the members of a group are.
    Report { group: ShardId },
    /// To say what is on the move, as the leader of the meta group knows.
    Moves,
    /// To say which entry holds all that the group has acknowledged, as its leader knows.
    ReadIndex { group: ShardId },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Done,
    Refused(MemberError),
    Report(Report),
    Moves(Vec<Move>),
    ReadIndex(u64),
}

/// Reads bytes as any message, for `crate::doors`.
pub(crate) fn read(bytes: &[u8]) {
    if let Some(order) = CODEC.decode::<Order>(bytes) {
        assert_eq!(CODEC.decode(&CODEC.encode(&order)), Some(order));
    }
    if let Some(outcome) = CODEC.decode::<Outcome>(bytes) {
        assert_eq!(CODEC.decode(&CODEC.encode(&outcome)), Some(outcome));
    }
}

/// Gives an order to another member.
pub(crate) async fn give(
    network: &dyn Network,
    to: NodeId,
    order: &Order,
) -> Result<Outcome, MemberError> {
    let body = CODEC.encode_as(MemberKind::Order as u8, order);
    let time_out = match order {
        Order::Transfer { .. } => ORDER_TIMEOUT,
        Order::Report { .. } | Order::Moves | Order::ReadIndex { .. } => REPORT_TIMEOUT,
    };
    let asked = network.request(to, Class::Control, Desk::Member, body, time_out);
    match asked.await {
        Ok(answer) => CODEC.decode(&answer).ok_or(MemberError::Unknown),
        Err(LinkError::Lost | LinkError::TimedOut) => Err(MemberError::Unknown),
        Err(why) => Err(MemberError::Unavailable(format!("node {}: {why}", to.0))),
    }
}

/// Gives the lead of a group that is led here to another member, by somebody's wish.
pub(crate) async fn transfer(
    group: &Group,
    network: &dyn Network,
    to: NodeId,
) -> Result<(), MemberError> {
    let shard = ShardId(group.number);
    if !group.lead.now().here {
        return Err(MemberError::NoLeader(shard));
    }
    if !group.is_followed_by(to) {
        return Err(MemberError::NotReady(shard, to));
    }
    if !group.is_willing(to, network).await {
        return Err(MemberError::Unwilling(to));
    }
    let handed = group.hand_over(to, network, true).await;
    if handed { Ok(()) } else { Err(MemberError::Stayed(shard)) }
}

/// Carries orders out.
pub(crate) struct OrderClerk {
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) meta: MetaHandle,
    pub(crate) moves: Moves,
}

impl PeerService for OrderClerk {
    fn serve(&self, from: NodeId, _class: Class, body: Bytes) -> Served {
        let (number, to) = match CODEC.decode(&body) {
            Some(Order::Transfer { group, to }) => (group, to),
            Some(Order::Report { group: number }) => {
                let group = self.groups.get(usize::from(number.0));
                let report = group.and_then(|group| group.report());
                let no_leader = Outcome::Refused(MemberError::NoLeader(number));
                let outcome = report.map_or(no_leader, Outcome::Report);
                return Box::pin(std::future::ready(Ok(CODEC.encode(&outcome))));
            }
            Some(Order::ReadIndex { group: number }) => {
                let index = self.groups.get(usize::from(number.0));
                let index = index.and_then(|group| group.read_index());
                let no_leader = Outcome::Refused(MemberError::NoLeader(number));
                let outcome = index.map_or(no_leader, Outcome::ReadIndex);
                return Box::pin(std::future::ready(Ok(CODEC.encode(&outcome))));
            }
            Some(Order::Moves) => {
                let moves = self.moves.lock().moves(&self.meta.directory());
                let answer = CODEC.encode(&Outcome::Moves(moves));
                return Box::pin(std::future::ready(Ok(answer)));
            }
            None => {
                tracing::warn!(from = from.0, "an order cannot be read");
                return Box::pin(std::future::ready(Err("it cannot be read".to_owned())));
            }
        };
        let group = self.groups.get(usize::from(number.0)).cloned();
        let network = self.network.clone();
        Box::pin(async move {
            // Whoever asked may stop waiting: what has begun is ended by itself.
            let done = tokio::spawn(async move {
                match group {
                    Some(group) => transfer(&group, &*network, to).await,
                    None => Err(MemberError::NoShard(number)),
                }
            });
            let outcome = match done.await {
                Ok(Ok(())) => Outcome::Done,
                Ok(Err(why)) => Outcome::Refused(why),
                Err(_) => Outcome::Refused(MemberError::Unknown),
            };
            Ok(CODEC.encode(&outcome))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_when_damaged_or_of_another_version_then_refused() {
        let order = Order::Transfer { group: ShardId(3), to: NodeId(2) };
        let body = CODEC.encode(&order);
        assert_eq!(CODEC.decode(&body), Some(order));
        assert_eq!(CODEC.decode::<Order>(&body[..body.len() - 1]), None);
        let mut newer = body.to_vec();
        newer[0] = CODEC.version + 1;
        assert_eq!(CODEC.decode::<Order>(&newer), None);
        assert_eq!(CODEC.decode::<Order>(&[]), None);
        let refused = Outcome::Refused(MemberError::OldRelease(NodeId(1), "0.0.1".into()));
        assert_eq!(CODEC.decode(&CODEC.encode(&refused)), Some(refused));
    }
}
