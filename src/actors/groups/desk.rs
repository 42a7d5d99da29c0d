//! What nodes ask each other about shared groups, on the link for delivery.
//!
//! - Owns: the closed lists [`ShareRequest`] and [`ShareReply`] with their encoding; its first byte tells them from
//!   frames of the relay.
//! - Takes: bytes of a peer. Gives: what is asked to the group's home here; the reply as bytes.
//! - Bound: `limits::PEER_MESSAGE_BYTES_MAX`; the windows of the links. Rubbish is an error to its link.

use std::sync::Arc;

use actix::{MessageResponse, Recipient};
use bincode::Options as _;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::{Served, id::NodeId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Choice, ChooseHere, DealHere, GroupKey, OfferHere};
use crate::{
    actors::{
        peer::{PeerError, codec},
        view::View,
    },
    model::{
        id::{MessageId, SessionKey},
        message::Message,
        reason::Reason,
    },
};

/// The first byte; batches of the relay begin with 1.
pub const VERSION: u8 = 2;

/// What one node asks another about its members of a group. New variants go at the end.
///
/// `incarnation` is that of the asked: another start has other members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields are explained at `DealHere`, `ChooseHere` and `OfferHere`")]
pub enum ShareRequest {
    /// To one connected member. → [`ShareReply::Taken`], [`ShareReply::Nobody`] or [`ShareReply::NoRoom`]
    Deal {
        incarnation: u64,
        group: u128,
        key: Bytes,
        assign: bool,
        forced: bool,
        message: Arc<Message>,
    },
    /// Who could get what another left? → [`ShareReply::Choice`]
    Choose { incarnation: u64, group: u128 },
    /// To a live member, as much as it has room for. → [`ShareReply::Offered`]
    Offer { incarnation: u64, group: u128, id: MessageId, messages: Vec<Arc<Message>> },
}

/// What a node answers. New variants go at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, MessageResponse)]
pub enum ShareReply {
    /// A member has it, or its log.
    Taken {
        /// How many are connected there.
        members: u32,
    },
    /// There is no connected member.
    Nobody,
    /// No connected member has room now.
    NoRoom,
    /// This node does not know yet that it is the start that was asked.
    NotYet,
    /// A member could not be given it.
    Refused(Reason),
    /// Who could get more.
    Choice(OfferReply),
    /// So many were taken.
    Offered(u32),
}

/// Who of another node could get what a member left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfferReply {
    /// Nobody.
    Nobody,
    /// The log of this session.
    Stored(SessionKey),
    /// A live member.
    Live,
}

/// Who answers on this node; each list by worker.
pub struct GroupsDesk {
    /// Groups.
    pub deal: Vec<Recipient<DealHere>>,
    /// Groups.
    pub choose: Vec<Recipient<ChooseHere>>,
    /// Groups.
    pub offer: Vec<Recipient<OfferHere>>,
    /// Who this node is.
    pub view: View,
}

type Serving = BoxFuture<'static, ShareReply>;

impl GroupsDesk {
    /// Serves what came from a peer; what is asked goes into its mailbox before this returns.
    pub fn serve(&self, from: NodeId, body: &Bytes) -> Served {
        let request = match decode::<ShareRequest>(body) {
            Ok(request) => request,
            Err(problem) => {
                return Box::pin(async move { Err(format!("node {}: {problem}", from.0)) });
            }
        };
        let reply = self.answer(request);
        Box::pin(async move { encode(&reply.await).map_err(|error| error.to_string()) })
    }

    fn answer(&self, request: ShareRequest) -> Serving {
        let me = self.view.me().incarnation;
        match request {
            ShareRequest::Deal { incarnation, group, key, assign, forced, message } => {
                let group_key = GroupKey(group);
                let deal = DealHere { group: group_key, key, message, assign, forced, passes: 0 };
                if incarnation > me {
                    return Box::pin(async { ShareReply::NotYet });
                }
                let home = home(&self.deal, group).filter(|_| incarnation == me);
                let Some(home) = home else { return Box::pin(async { ShareReply::Nobody }) };
                let dealt = home.send(deal);
                Box::pin(async move {
                    dealt.await.unwrap_or(ShareReply::Refused(Reason::ServerShuttingDown))
                })
            }
            ShareRequest::Choose { incarnation, group } => {
                let home = home(&self.choose, group).filter(|_| incarnation == me);
                let chosen = home.map(|home| home.send(ChooseHere(GroupKey(group))));
                Box::pin(async move {
                    let Some(chosen) = chosen else {
                        return ShareReply::Choice(OfferReply::Nobody);
                    };
                    ShareReply::Choice(match chosen.await {
                        Ok(Choice::Stored(_, session)) => OfferReply::Stored(session),
                        Ok(Choice::Live(_)) => OfferReply::Live,
                        Ok(Choice::Nobody) | Err(_) => OfferReply::Nobody,
                    })
                })
            }
            ShareRequest::Offer { incarnation, group, id, messages } => {
                let home = home(&self.offer, group).filter(|_| incarnation == me);
                let offer = OfferHere { group: GroupKey(group), id, messages };
                let offered = home.map(|home| home.send(offer));
                Box::pin(async move {
                    let Some(offered) = offered else { return ShareReply::Offered(0) };
                    let taken = offered.await.unwrap_or(0);
                    ShareReply::Offered(u32::try_from(taken).unwrap_or(u32::MAX))
                })
            }
        }
    }
}

fn home<T>(homes: &[T], group: u128) -> Option<&T> {
    homes.get(GroupKey(group).home(homes.len()))
}

/// Encodes what goes to a peer.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes, PeerError> {
    let mut out = vec![VERSION];
    let written = codec().serialize_into(&mut out, value);
    written.map_err(|error| PeerError::Refused(format!("too large to be sent: {error}")))?;
    Ok(Bytes::from(out))
}

/// Decodes what came from a peer; all of it must be used.
pub(super) fn decode<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, String> {
    let rest = bytes.strip_prefix(&[VERSION]).ok_or("is no message about groups")?;
    codec().deserialize(rest).map_err(|error| format!("malformed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{actors::testing, model::message::Qos};

    #[test]
    fn request_and_reply_read_the_same_and_cut_anywhere_not_at_all() {
        let message = Arc::new(testing::message("a/b", "x", Qos::ExactlyOnce));
        let key = Bytes::from_static(b"\x02key");
        let requests = [
            ShareRequest::Deal {
                incarnation: 1,
                group: u128::MAX,
                key,
                assign: true,
                forced: false,
                message: Arc::clone(&message),
            },
            ShareRequest::Choose { incarnation: 1, group: 2 },
            ShareRequest::Offer {
                incarnation: 1,
                group: 2,
                id: MessageId(7),
                messages: vec![Arc::clone(&message), message],
            },
        ];
        for request in requests {
            let whole = encode(&request).unwrap();
            assert_eq!(decode(&whole), Ok(request));
            for end in 0..whole.len() {
                assert!(decode::<ShareRequest>(&whole.slice(..end)).is_err(), "{end}");
            }
            assert!(decode::<ShareRequest>(&Bytes::from([&whole[..], &[0]].concat())).is_err());
        }
        for reply in [
            ShareReply::Taken { members: 3 },
            ShareReply::Refused(Reason::QuotaExceeded),
            ShareReply::Choice(OfferReply::Stored(SessionKey(9))),
        ] {
            assert_eq!(decode(&encode(&reply).unwrap()), Ok(reply));
        }
    }
}
