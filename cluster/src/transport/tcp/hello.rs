//! The words of the handshake, and what they prove.
//!
//! ```text
//! caller                                    listener
//!   Hello  versions, class, ids, nonce  ──▶
//!                                       ◀──  Greeting  versions, ids, nonce
//!   Proof  HMAC(secret, both so far)    ──▶
//!                                       ◀──  Welcome   HMAC(secret, both so far)
//! ```
//!
//! - Owns: nothing. Takes: bytes of anybody. Gives: messages; proofs, compared in constant time.
//! - Bound: a message of `MESSAGE_BYTES_MAX`.
//! - Both proofs cover both nonces, so neither serves twice, and name their side, so neither serves the
//!   other. Ids, versions and class are covered too. What follows is neither signed nor encrypted: the
//!   secret keeps strangers out of a network that can be trusted, it does not replace one.
//! - A later version may append fields to any message; they are covered and passed over.
//! - Source: own design; HMAC-SHA256 by RFC 2104 and FIPS 180-4.

use bytes::{Buf as _, BufMut as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::super::{Class, ClusterId};
use crate::id::NodeId;

/// Begins every message; whoever answers otherwise is no node.
const MAGIC: [u8; 8] = *b"hongqiao";

/// Magic and length.
pub(crate) const PREFIX_BYTES: usize = 10;

/// Longest message with its prefix.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512;

/// Length of nonces and proofs.
const DIGEST_BYTES: usize = 32;

/// 256 bits: a nonce or a proof.
pub(crate) type Digest = [u8; DIGEST_BYTES];

/// What the caller wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// One question of somebody who need not be a member.
    Knock,
    /// Everything of one class.
    Link(Class),
}

/// Who one side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    /// Oldest and newest protocol version that it speaks.
    pub(crate) versions: (u16, u16),
    /// Zeros if it knows none yet.
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    /// Made at random by each process: two of them with one node id are told apart by it.
    pub(crate) instance: [u8; 16],
    pub(crate) nonce: Digest,
}

/// Why the other side does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it speaks protocol versions {0} to {1} only; upgrade one release at a time")]
    Versions(u16, u16),
    #[error("it has another secret; set the same [cluster] secret on all nodes")]
    Secret,
    #[error("it belongs to another cluster; a node joins with an empty data folder")]
    Cluster,
    #[error("node id {} is used by another running process; give each node an id of its own", .0.0)]
    NodeTaken(NodeId),
    #[error("it is node {}; two entries of the configuration may share an address", .0.0)]
    OtherNode(NodeId),
    #[error("it is not ready yet")]
    NotReady,
    #[error("it has too many connections")]
    Busy,
    #[error("it is this process itself")]
    Itself,
    #[error("this node was removed from the cluster; its id is not given again")]
    Removed,
    #[error("it belongs to no cluster yet")]
    NoCluster,
    #[error("for a reason that this release does not know ({0})")]
    Unknown(u8),
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Hello { purpose: Purpose, to: Option<NodeId>, party: Party },
    Greeting(Party),
    Proof(Digest),
    Welcome(Digest),
    Refused(Refusal),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Garbled {
    #[error("it does not speak the protocol of nodes")]
    Magic,
    #[error("a message of the handshake is too long")]
    TooLong,
    #[error("a message of the handshake cannot be read")]
    Unreadable,
}

/// Returns how many bytes follow a prefix.
///
/// # Errors
/// If they are too many, or the prefix is that of another protocol.
pub(crate) fn rest_bytes(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, Garbled> {
    let (magic, mut length) = prefix.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Garbled::Magic);
    }
    match usize::from(length.get_u16_le()) {
        rest if rest <= MESSAGE_BYTES_MAX - PREFIX_BYTES => Ok(rest),
        _ => Err(Garbled::TooLong),
    }
}

/// Returns the version that both sides speak.
pub(crate) fn common_version(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0.max(theirs.0)).then_some(newest)
}

impl Message {
    /// Returns the message with its prefix.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self {
            Self::Hello { purpose, to, party } => {
                rest.put_u8(1);
                party.put(&mut rest);
                rest.put_u8(match purpose {
                    Purpose::Knock => 0,
                    Purpose::Link(class) => *class as u8,
                });
                rest.put_u64_le(to.map_or(0, |to| to.0));
            }
            Self::Greeting(party) => {
                rest.put_u8(2);
                party.put(&mut rest);
            }
            Self::Proof(digest) => {
                rest.put_u8(3);
                rest.put_slice(digest);
            }
            Self::Welcome(digest) => {
                rest.put_u8(4);
                rest.put_slice(digest);
            }
            Self::Refused(refusal) => {
                rest.put_u8(5);
                refusal.put(&mut rest);
            }
        }
        let mut all = MAGIC.to_vec();
        all.put_u16_le(u16::try_from(rest.len()).unwrap_or(u16::MAX));
        all.extend_from_slice(&rest);
        all
    }

    /// Reads what follows the prefix.
    ///
    /// # Errors
    /// If a field lacks or says nothing that is known.
    pub(crate) fn decode(mut rest: &[u8]) -> Result<Self, Garbled> {
        let rest = &mut rest;
        match rest.try_get_u8().map_err(unreadable)? {
            1 => {
                let party = Party::take(rest)?;
                let purpose = match rest.try_get_u8().map_err(unreadable)? {
                    0 => Purpose::Knock,
                    1 => Purpose::Link(Class::Consensus),
                    2 => Purpose::Link(Class::Control),
                    3 => Purpose::Link(Class::Delivery),
                    _ => return Err(Garbled::Unreadable),
                };
                let to = rest.try_get_u64_le().map_err(unreadable)?;
                Ok(Self::Hello { purpose, to: (to != 0).then_some(NodeId(to)), party })
            }
            2 => Ok(Self::Greeting(Party::take(rest)?)),
            3 => Ok(Self::Proof(array(rest)?)),
            4 => Ok(Self::Welcome(array(rest)?)),
            5 => Ok(Self::Refused(Refusal::take(rest)?)),
            _ => Err(Garbled::Unreadable),
        }
    }
}

impl Party {
    fn put(&self, to: &mut Vec<u8>) {
        to.put_u16_le(self.versions.0);
        to.put_u16_le(self.versions.1);
        to.put_slice(&self.cluster);
        to.put_u64_le(self.node.0);
        to.put_u64_le(self.incarnation);
        to.put_slice(&self.instance);
        to.put_slice(&self.nonce);
    }

    fn take(rest: &mut &[u8]) -> Result<Self, Garbled> {
        let mut number = || rest.try_get_u16_le().map_err(unreadable);
        let versions = (number()?, number()?);
        let cluster = array(rest)?;
        let mut number = || rest.try_get_u64_le().map_err(unreadable);
        let (node, incarnation) = (NodeId(number()?), number()?);
        let (instance, nonce) = (array(rest)?, array(rest)?);
        Ok(Self { versions, cluster, node, incarnation, instance, nonce })
    }
}

impl Refusal {
    /// Returns what the side that refuses says in its own log.
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::Versions(..) => "it speaks none of our protocol versions",
            Self::Secret => "it does not know the secret of the cluster",
            Self::Cluster => "it belongs to another cluster",
            Self::NodeTaken(_) => "its node id is used by another running process",
            Self::OtherNode(_) => "it looks for another node at this address",
            Self::NotReady => "this node is not ready yet",
            Self::Busy => "there are too many connections",
            Self::Itself => "it is this process itself",
            Self::Removed => "it was removed from the cluster",
            Self::NoCluster => "this node belongs to no cluster yet",
            Self::Unknown(_) => "for an unknown reason",
        }
    }

    fn put(self, to: &mut Vec<u8>) {
        let (code, one, two) = match self {
            Self::Versions(min, max) => (1, min.into(), max.into()),
            Self::Secret => (2, 0, 0),
            Self::Cluster => (3, 0, 0),
            Self::NodeTaken(node) => (4, node.0, 0),
            Self::OtherNode(node) => (5, node.0, 0),
            Self::NotReady => (6, 0, 0),
            Self::Busy => (7, 0, 0),
            Self::Itself => (8, 0, 0),
            Self::Removed => (9, 0, 0),
            Self::NoCluster => (10, 0, 0),
            Self::Unknown(code) => (code, 0, 0),
        };
        to.put_u8(code);
        to.put_u64_le(one);
        to.put_u64_le(two);
    }

    fn take(rest: &mut &[u8]) -> Result<Self, Garbled> {
        let code = rest.try_get_u8().map_err(unreadable)?;
        let mut number = || rest.try_get_u64_le().map_err(unreadable);
        let (one, two) = (number()?, number()?);
        let version = |number| u16::try_from(number).unwrap_or(u16::MAX);
        Ok(match code {
            1 => Self::Versions(version(one), version(two)),
            2 => Self::Secret,
            3 => Self::Cluster,
            4 => Self::NodeTaken(NodeId(one)),
            5 => Self::OtherNode(NodeId(one)),
            6 => Self::NotReady,
            7 => Self::Busy,
            8 => Self::Itself,
            9 => Self::Removed,
            10 => Self::NoCluster,
            code => Self::Unknown(code),
        })
    }
}

/// Which side a proof is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Listener,
}

/// The secret that all nodes of a cluster share.
#[derive(Clone)]
pub(crate) struct Secret(Hmac<Sha256>);

impl Secret {
    pub(crate) fn new(secret: &[u8]) -> Self {
        // A key of any length is allowed; the error type is that of other algorithms.
        Self(Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default())))
    }

    /// Returns what `side` proves with: that it knows the secret and has seen both messages.
    pub(crate) fn proof(&self, side: Side, hello: &[u8], greeting: &[u8]) -> Digest {
        self.over(side, hello, greeting).finalize().into_bytes().into()
    }

    /// Returns whether `proof` is that of `side`, in a time that does not depend on it.
    pub(crate) fn proves(&self, side: Side, hello: &[u8], greeting: &[u8], proof: &Digest) -> bool {
        self.over(side, hello, greeting).verify_slice(proof).is_ok()
    }

    fn over(&self, side: Side, hello: &[u8], greeting: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(match side {
            Side::Caller => b"hongqiao link, caller\0",
            Side::Listener => b"hongqiao link, listen\0",
        });
        // Both begin with their length, so no other pair of messages reads the same.
        mac.update(hello);
        mac.update(greeting);
        mac
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Garbled> {
    let (first, after) = rest.split_first_chunk::<N>().ok_or(Garbled::Unreadable)?;
    *rest = after;
    Ok(*first)
}

fn unreadable(_: bytes::TryGetError) -> Garbled {
    Garbled::Unreadable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(versions: (u16, u16)) -> Party {
        Party {
            versions,
            cluster: [1; 16],
            node: NodeId(7),
            incarnation: 8,
            instance: [2; 16],
            nonce: [3; 32],
        }
    }

    #[test]
    fn messages_when_cut_or_extended_then_refused_or_the_same() {
        let refusals = [
            Refusal::Versions(3, 9),
            Refusal::Secret,
            Refusal::Cluster,
            Refusal::NodeTaken(NodeId(5)),
            Refusal::OtherNode(NodeId(6)),
            Refusal::NotReady,
            Refusal::Busy,
            Refusal::Itself,
            Refusal::Unknown(99),
        ];
        let mut messages = vec![
            Message::Greeting(party((1, 2))),
            Message::Proof([9; 32]),
            Message::Welcome([8; 32]),
        ];
        messages.extend(refusals.map(Message::Refused));
        for purpose in [Purpose::Knock].into_iter().chain(Class::ALL.map(Purpose::Link)) {
            for to in [None, Some(NodeId(4))] {
                messages.push(Message::Hello { purpose, to, party: party((1, 1)) });
            }
        }
        for message in messages {
            let bytes = message.encode();
            let rest = rest_bytes(bytes.first_chunk().unwrap()).unwrap();
            assert_eq!(rest, bytes.len() - PREFIX_BYTES);
            let mut rest = bytes[PREFIX_BYTES..].to_vec();
            for cut in 0..rest.len() {
                assert_eq!(Message::decode(&rest[..cut]), Err(Garbled::Unreadable));
            }
            rest.extend_from_slice(b"of a later version");
            assert_eq!(Message::decode(&rest), Ok(message));
        }
    }

    #[test]
    fn prefix_of_another_protocol_or_too_long_then_refused() {
        assert_eq!(rest_bytes(b"GET / HTTP"), Err(Garbled::Magic));
        assert_eq!(rest_bytes(b"hongqiao\xff\xff"), Err(Garbled::TooLong));
    }

    #[test]
    fn versions_then_the_newest_that_both_speak() {
        for (ours, theirs, common) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((1, 2), (2, 3), Some(2)),
            ((1, 1), (2, 2), None),
            ((3, 4), (1, 2), None),
        ] {
            assert_eq!(common_version(ours, theirs), common, "{ours:?} {theirs:?}");
            assert_eq!(common_version(theirs, ours), common, "{theirs:?} {ours:?}");
        }
    }

    #[test]
    fn proof_when_anything_differs_then_proves_nothing() {
        let secret = Secret::new(b"sixteen bytes at least");
        let (hello, greeting) = (b"hello".as_slice(), b"greeting".as_slice());
        let proof = secret.proof(Side::Caller, hello, greeting);
        assert!(secret.proves(Side::Caller, hello, greeting, &proof));
        assert!(!secret.proves(Side::Listener, hello, greeting, &proof));
        assert!(!secret.proves(Side::Caller, b"hellp", greeting, &proof));
        assert!(!secret.proves(Side::Caller, hello, b"greetinh", &proof));
        assert!(!Secret::new(b"another").proves(Side::Caller, hello, greeting, &proof));
    }

    /// RFC 4231, test case 2: the proofs rest on HMAC-SHA256 and no variant of it.
    #[test]
    fn hmac_is_that_of_the_specification() {
        let mut mac = Secret::new(b"Jefe").0;
        mac.update(b"what do ya want for nothing?");
        let digest: Digest = mac.finalize().into_bytes().into();
        assert_eq!(digest[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(digest[28..], [0x64, 0xec, 0x38, 0x43]);
    }
}
