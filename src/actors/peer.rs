//! What the servers of one cluster ask each other, and who answers on arrival.
//!
//! - Owns: the closed lists [`PeerRequest`] and [`PeerReply`] with their versioned encoding.
//! - Takes: questions of this node's actors ([`Peers`]); bytes of other nodes ([`dispatch`](Desks::dispatch)).
//! - Gives: replies, or why there is none; a request is on its way when the call returns.
//! - Bound: `limits::PEER_MESSAGE_BYTES_MAX` each way; the windows of the links.
//! - Rubbish is an error to the link it came by, which drops it; it never panics.
//! - Source: own design; message traits of garage's `net` crate.
//!
//! ```text
//! actor ─ Peers::ask ─► link ─► Desks::dispatch ─► mailbox of the actor that owns the matter
//!       ◄────────────── reply ◄───────────────────────────┘
//! ```

mod desks;

use std::{fmt, sync::Arc, time::Duration};

use bincode::Options as _;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::id::{NodeId, ShardId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    home::{Claim, ClaimError, Granted, Release},
    hub::Kick,
};
use crate::{
    limits,
    model::{connection_id::ConnectionId, id::SessionKey},
};

pub use desks::Desks;
pub(in crate::actors) use desks::gone_among;
/// Which of the links to a peer; the server never uses that of consensus.
pub use hongqiao_cluster::Class;

/// The newest encoding that this release writes, and the oldest that it reads.
const VERSION: u8 = 1;

/// What one node asks another. New variants go at the end.
///
/// `incarnation` is that of the asker where its connections are meant, that of the asked where those are:
/// names of connections are worth nothing to another start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields are explained at the variant or by their type")]
pub enum PeerRequest {
    /// End a connection of yours. → [`PeerReply::Done`] once it has released its session
    Kick { incarnation: u64, kick: Kick },
    /// The logs of these sessions of yours grew. → [`PeerReply::Done`]
    SessionsGrew { incarnation: u64, connections: Vec<ConnectionId> },
    /// A connection of mine asks for a session of a shard of yours. → [`PeerReply::Claimed`]
    Claim { incarnation: u64, claim: Box<Claim> },
    /// A connection of mine has ended. → [`PeerReply::Released`]
    Release { incarnation: u64, release: Box<Release> },
    /// I lead this shard since this term: which connections of it have you? → [`PeerReply::Roll`]
    RollCall { incarnation: u64, shard: u16, term: u64, from: RollFrom },
    /// You do not know all of my connections: call the roll. → [`PeerReply::Done`]
    CallAgain { incarnation: u64, shard: u16 },
    /// Which of these connections of yours are gone? → [`PeerReply::Gone`]
    GoneAmong { incarnation: u64, connections: Vec<ConnectionId> },
    /// Sent when a durable subscription is committed: answer when every node knows these routes of a shard
    /// that you lead. → [`PeerReply::Done`], or [`PeerReply::NotLed`]
    EnsureRoutes {
        /// Which.
        shard: ShardId,
        /// Keys of filters with subscribers there.
        keys: Vec<Bytes>,
    },
    /// What does your system's clock say? → [`PeerReply::Time`]
    Time,
}

/// Where a roll call goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollFrom {
    /// Worker thread.
    pub worker: u8,
    /// Slot in its table.
    pub slot: u32,
}

/// What a node answers. New variants go at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields are explained at the variant or by their type")]
pub enum PeerReply {
    /// Taken care of.
    Done,
    /// It is not known where to put it: the asker counts on more workers or shards than there are.
    NoSuchPlace,
    /// Who is to answer is stopping, or not what the asker takes it for.
    Stopping,
    /// What became of a claim.
    Claimed(Result<Granted, ClaimError>),
    /// `false`: not here, or not now.
    Released(bool),
    /// Connections without storage, and where the next part begins.
    Roll { connections: Vec<(SessionKey, ConnectionId)>, next: Option<RollFrom> },
    /// Those that are gone.
    Gone(Vec<ConnectionId>),
    /// The node does not lead that shard.
    NotLed,
    /// Its system's clock, milliseconds since 1970.
    Time { system_ms: u64 },
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nothing was sent: there is no link to the node.
    #[error("the node cannot be reached")]
    Unreachable,
    /// Nothing was sent: too much is under way to the node.
    #[error("too much is under way to the node")]
    Full,
    /// It was sent, and may have been served.
    #[error("no answer came")]
    Unknown,
    /// The node refused it, or answered what cannot be read.
    #[error("the node refused: {0}")]
    Refused(String),
}

/// The links to the other nodes, as far as the server uses them; a double in tests.
pub trait Wire: Send + Sync + 'static {
    /// Sends a question; enqueued by the call, not by the first poll.
    fn request(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// Sends what has no answer.
    ///
    /// # Errors
    /// Nothing was sent.
    fn cast(&self, to: NodeId, class: Class, body: Bytes) -> Result<(), PeerError>;
}

/// The asking side. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    wire: Arc<dyn Wire>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Peers")
    }
}

impl Peers {
    /// Wraps the links of a node.
    #[must_use]
    pub fn new(wire: Arc<dyn Wire>) -> Self {
        Self { wire }
    }

    /// Returns the peers of a node that has none.
    #[must_use]
    pub fn none() -> Self {
        Self::new(no_wire())
    }

    /// Asks a node; the question is on its way when this returns, in the order of the calls of one class.
    pub fn ask(
        &self,
        to: NodeId,
        class: Class,
        request: &PeerRequest,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        let body = match encode(request) {
            Ok(body) => body,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let answer = self.wire.request(to, class, body, time_out);
        Box::pin(async move { decode(&answer.await?).map_err(PeerError::Refused) })
    }

    /// Tells a node; nobody learns whether it arrived.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn tell(&self, to: NodeId, class: Class, request: &PeerRequest) -> Result<(), PeerError> {
        self.wire.cast(to, class, encode(request)?)
    }
}

/// Returns links that lead nowhere.
#[must_use]
pub fn no_wire() -> Arc<dyn Wire> {
    Arc::new(NoWire)
}

/// A node alone.
struct NoWire;

impl Wire for NoWire {
    fn request(
        &self,
        _to: NodeId,
        _class: Class,
        _body: Bytes,
        _time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        Box::pin(async { Err(PeerError::Unreachable) })
    }

    fn cast(&self, _to: NodeId, _class: Class, _body: Bytes) -> Result<(), PeerError> {
        Err(PeerError::Unreachable)
    }
}

/// Fixed-width integers, within the bound.
pub(in crate::actors) fn codec() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(limits::PEER_MESSAGE_BYTES_MAX)
}

/// Encodes what goes to a peer.
pub(in crate::actors) fn encode<T: Serialize>(value: &T) -> Result<Bytes, PeerError> {
    let mut out = vec![VERSION];
    let written = codec().serialize_into(&mut out, value);
    written.map_err(|error| PeerError::Refused(format!("too large to be sent: {error}")))?;
    Ok(Bytes::from(out))
}

/// Decodes what came from a peer; all of it must be used.
pub(in crate::actors) fn decode<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            codec().deserialize(rest).map_err(|error| format!("malformed: {error}"))
        }
        Some((version, _)) => Err(format!("has version {version}, newest known is {VERSION}")),
        None => Err("is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests;
