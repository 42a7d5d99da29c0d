//! Links between nodes: requests, answers and casts, in order per peer and class.
//!
//! ```text
//! request ─▶ window ─▶ queue of (peer, class) ─▶ one connection ─▶ Service of the peer
//!    answer or LinkError ◀────────────────────── the same one ◀─────┘
//! ```
//!
//! - Owns: the words of the transport. `tcp` carries them over sockets, `memory` inside one process.
//! - Takes: bodies of at most `FRAME_BYTES_MAX`. Gives: the peer's answer, or what is known of its fate.
//! - Bound: per peer and class `LINK_REQUESTS_MAX` requests and `LINK_BYTES_MAX` bytes under way;
//!   beyond that `LinkError::Full` at once.
//! - Source: own design; three classes as in garage `src/net/message.rs`.

mod reply;
pub(crate) mod tcp;
#[doc(hidden)]
pub mod door;
#[cfg(any(test, feature = "sim"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod memory;
#[cfg(test)]
mod contract;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::id::NodeId;

/// What a link carries. Each class has a connection of its own, so a full one holds up no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Votes, log entries, proposals.
    Consensus = 1,
    /// Membership, leases, questions, snapshots.
    Control = 2,
    /// Messages on their way to receivers.
    Delivery = 3,
}

impl Class {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Consensus, Self::Control, Self::Delivery];

    /// Returns its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Control => "control",
            Self::Delivery => "delivery",
        }
    }
}

/// Which desk of the peer a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Desk {
    /// openraft's own requests.
    Raft = 1,
    /// Commands for a shard that the peer leads.
    Propose = 2,
    /// Questions to the machine of a shard that the peer leads.
    Query = 3,
    /// Join, renew, barrier. The only desk that answers who is not a member.
    Member = 4,
    /// What the server's nodes ask each other; see [`PeerService`].
    Server = 5,
    /// Pieces of snapshots.
    Snapshot = 6,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not sent: there is no link to that node now.
    #[error("the node cannot be reached")]
    Unreachable,
    /// Not sent: whoever listens there belongs to no cluster yet.
    #[error("it belongs to no cluster yet")]
    NoCluster,
    /// Not sent: too much is under way to that node. Later there is room again.
    #[error("too much is under way to the node")]
    Full,
    /// Not sent, and never will be: the body is longer than a frame may be.
    #[error("the body is longer than a frame may be")]
    TooLong,
    /// Sent, and the link broke: the peer may or may not have acted.
    #[error("the link broke before the answer")]
    Lost,
    /// Sent, and not answered in time: the peer may or may not have acted.
    #[error("the node did not answer in time")]
    TimedOut,
    /// The other side does not let this node in, and will not as things are: why.
    #[error("{0}")]
    Denied(String),
    /// The peer said no, and why.
    #[error("the node refused: {0}")]
    Refused(String),
}

impl LinkError {
    /// Returns whether the peer surely has not seen the request.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Unreachable | Self::NoCluster | Self::Full | Self::TooLong)
    }

    /// Returns whether the peer surely has not done what was asked: it has not seen it, or said no.
    #[must_use]
    pub fn is_not_done(&self) -> bool {
        self.is_unsent() || matches!(self, Self::Refused(_))
    }
}

/// What a request gets: bytes, or the text of a refusal.
pub type Served = BoxFuture<'static, Result<Bytes, String>>;

/// Where the server answers what its nodes ask each other.
pub trait PeerService: Send + Sync + 'static {
    /// Serves one request or cast; what a cast gets back is dropped.
    ///
    /// - Called in the order of sending per peer and class; the futures then run side by side. The
    ///   call itself must not block.
    /// - The future is dropped when the peer no longer waits: what must go on is spawned.
    /// - `body` shares memory with its neighbours of the link; copy what is kept.
    fn serve(&self, from: NodeId, class: Class, body: Bytes) -> Served;
}

/// What a node does with the requests of its peers; same rules as [`PeerService::serve`].
pub(crate) trait Service: Send + Sync + 'static {
    /// Serves one request or cast. `from` of a knock is who the other side says to be, and need not
    /// be a member.
    fn serve(&self, from: NodeId, class: Class, desk: Desk, body: Bytes) -> Served;
}

/// The id of a cluster, made at its formation.
pub(crate) type ClusterId = [u8; 16];

/// The way to other nodes. All calls return at once and are allowed on any thread.
pub(crate) trait Network: Send + Sync + 'static {
    /// Says who serves requests; until then peers are refused.
    fn set_service(&self, service: Arc<dyn Service>);

    /// Says which cluster this node belongs to; until then it can only knock, and peers are refused.
    fn set_cluster(&self, cluster: ClusterId);

    /// Replaces the peers, with their `host:port`. A link whose address changed is made anew.
    fn set_peers(&self, peers: BTreeMap<NodeId, String>);

    /// Says which nodes were removed from the cluster: their connections end, and they are told so.
    fn set_removed(&self, removed: BTreeSet<NodeId>);

    /// Watches whether a peer has said that this node was removed.
    fn removed(&self) -> watch::Receiver<bool>;

    /// Takes the id that the cluster has given to a node that had none.
    fn set_node(&self, node: NodeId);

    /// Returns every address behind a `host:port`, to be knocked at one by one.
    fn resolve(&self, address: String) -> BoxFuture<'static, Vec<String>> {
        Box::pin(std::future::ready(vec![address]))
    }

    /// Asks a peer. Enqueued by the call, not by the poll: the order of calls is the order of serving.
    ///
    /// - Dropping the future cancels nothing. Not to oneself.
    fn request(
        &self,
        to: NodeId,
        class: Class,
        desk: Desk,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>>;

    /// Tells a peer something, in order with the requests, without an answer.
    ///
    /// # Errors
    /// `Unreachable` and `Full`: not sent. Without an error it may still get lost with the link.
    fn cast(&self, to: NodeId, class: Class, desk: Desk, body: Bytes) -> Result<(), LinkError>;

    /// Asks the [`Desk::Member`] of whoever listens at `address`, on a connection of its own: the way in
    /// for a node that knows neither the cluster nor its members.
    ///
    /// - `Denied` is for ever, as things are; `NoCluster` means that it has none either.
    fn knock(
        &self,
        address: String,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>>;

    /// Returns how every link to a peer does.
    fn links(&self) -> Vec<LinkState>;

    /// Ends everything: nobody is served, nobody is reached, the service is let go.
    fn stop(&self);
}

/// How one link does: what this node asks of a peer in one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The peer.
    pub peer: NodeId,
    /// Its address.
    pub address: String,
    /// What it carries.
    pub class: Class,
    /// Whether requests can be sent.
    pub connected: bool,
    /// For how long it has been so.
    pub since: Duration,
    /// Protocol version spoken; 0 until there was a connection.
    pub version: u16,
    /// Connections made so far.
    pub connects: u64,
    /// Bytes sent and received since the node started.
    pub bytes_out: u64,
    /// See `bytes_out`.
    pub bytes_in: u64,
    /// Requests and casts sent.
    pub frames_out: u64,
    /// Answers received.
    pub frames_in: u64,
    /// Requests without an answer yet.
    pub in_flight: u64,
    /// Bytes of them.
    pub in_flight_bytes: u64,
    /// Requests and casts that were refused because too much was under way.
    pub refused_full: u64,
    /// Why the last connection, or the last try of one, ended.
    pub last_error: Option<String>,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
