//! What a home is asked, and what it answers; these cross nodes as they are.
//!
//! - Owns: nothing; values. Takes: nothing. Gives: messages of [`super::Home`].
//! - Bound: a claim is as large as its client id and its will.

use actix::Message;
use hongqiao_cluster::id::NodeId;
use serde::{Deserialize, Serialize};

use crate::{
    actors::view::Start,
    model::{
        connection_id::ConnectionId,
        id::{AppId, Epoch, SessionKey},
    },
    shard::command::{Claimed, InflightOut, StoredWill},
};

/// What a connection asks after CONNECT was authenticated. The old connection of this key, if any, is
/// kicked and has released before the reply comes (at most 2 s).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which session.
    pub key: SessionKey,
    /// Tenant.
    pub app: AppId,
    /// As the client sent it or the server assigned it.
    pub client_id: String,
    /// Forget what was.
    pub clean_start: bool,
    /// 0 = the session ends with its connection; `epoch` 0 in the reply says that nothing durable
    /// exists.
    pub expiry_secs: u32,
    /// Committed with the claim. Without a durable session the shard holds nothing else of the connection.
    pub will: Option<Box<StoredWill>>,
    /// The claimant.
    pub connection: ConnectionId,
}

impl Claim {
    /// Tells whether the shard will hold something of the connection, whatever it holds now.
    #[must_use]
    pub fn stores(&self) -> bool {
        self.expiry_secs > 0 || self.will.is_some()
    }
}

/// Sent for a connection of a node: see [`Claim`].
#[derive(Debug, Message)]
#[rtype(result = "Result<Granted, ClaimError>")]
pub struct ClaimBy {
    /// The node of the connection.
    pub by: Start,
    /// What it asks.
    pub claim: Claim,
}

/// The session is the claimant's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// What is known of the session.
    pub claimed: Box<Claimed>,
    /// The term in which the home granted it. Once a later one has called the roll, it is not worth
    /// anything: that home may not know of it.
    pub term: u64,
}

/// Why a CONNECT cannot be served now. Nothing was changed, or it is unknown whether it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ClaimError {
    /// The shard has no leader or its disk refuses writes; 0x88, in 3.1.1 code 3.
    #[error("the session's shard cannot write")]
    Unavailable,
    /// Too many claims of one client id wait; 0x89, in 3.1.1 code 3.
    #[error("too many connections claim this client id")]
    Busy,
    /// Another node leads the shard, or will: ask there.
    #[error("the session's home is elsewhere")]
    Moved {
        /// The leader, if it is known.
        to: Option<NodeId>,
    },
}

/// What a connection says that ends, durable or not; after it the connection sends nothing more for the
/// session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which session.
    pub key: SessionKey,
    /// Who; a release by a connection that no longer owns the entry changes nothing in the register.
    pub connection: ConnectionId,
    /// Of the durable session or of the will; 0 = the shard holds nothing: only the register is changed.
    pub epoch: Epoch,
    /// Changed by DISCONNECT.
    pub expiry_secs: Option<u32>,
    /// DISCONNECT 0x00 came.
    pub will_dropped: bool,
    /// Deliveries sent and not acknowledged.
    pub inflight: Vec<InflightOut>,
}

/// Sent for a connection of a node: see [`Release`]. Replies `true` when the release is committed
/// (durable) or done; `false`: it has to be sent again, perhaps elsewhere.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct ReleaseBy {
    /// The node of the connection.
    pub by: Start,
    /// What it says.
    pub release: Release,
}

/// Sent by the upkeep of the shard: nothing durable is left of these sessions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SessionsEnded(pub Vec<SessionKey>);

/// Sent for a node that has connections which this home may not know of. Replies whether it is led here.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub struct CallAgain(pub Start);

/// Sent by anyone who wants to know whether a session is online; replies with its connection.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<(Start, ConnectionId)>")]
pub struct WhoIs(pub SessionKey);
