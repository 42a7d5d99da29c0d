//! The register of one shard's sessions: who is online where; takeover; news from the log.
//!
//! - Owns: session key → connection, for the shard it leads (soft state, rule 4).
//! - Takes: `Claim`, `Release`, shard facts. Gives: `Kick`, `SessionsGrew` to hubs; commands to the
//!   appender.
//! - Bound: one entry per online session; claims of one key wait for each other, at most
//!   `limits::CLAIMS_WAITING_MAX`, then `ClaimError::Busy`.
//! - Source: design of takeover in ARCHITECTURE.md (FENCED, SESSION-TRUE).

use actix::Message;

use crate::{
    model::{
        connection_id::ConnectionId,
        id::{AppId, Epoch, SessionKey},
    },
    shard::command::{Claimed, InflightOut, StoredWill},
};

/// Sent by a connection after CONNECT was authenticated. The old connection of this key, if any, is
/// kicked and has released before the reply comes (at most 2 s).
#[derive(Debug, Message)]
#[rtype(result = "Result<Box<Claimed>, ClaimError>")]
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
    /// Stored with durable sessions; a non-durable connection keeps its will itself and passes `None`.
    pub will: Option<Box<StoredWill>>,
    /// The claimant.
    pub connection: ConnectionId,
}

/// Why a CONNECT cannot be served now. Nothing was changed, or it is unknown whether it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The shard has no leader or its disk refuses writes; 0x88, in 3.1.1 code 3.
    #[error("the session's shard cannot write")]
    Unavailable,
    /// Too many claims of one client id wait; 0x89, in 3.1.1 code 3.
    #[error("too many connections claim this client id")]
    Busy,
}

/// Sent by a connection that ends, durable or not; after it the connection sends nothing more for the
/// session. Replies when the release is committed (durable) or done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Release {
    /// Which session.
    pub key: SessionKey,
    /// Who; a release by a connection that no longer owns the entry changes nothing in the register.
    pub connection: ConnectionId,
    /// 0 = non-durable: only the register is changed.
    pub epoch: Epoch,
    /// Changed by DISCONNECT.
    pub expiry_secs: Option<u32>,
    /// DISCONNECT 0x00 came.
    pub will_dropped: bool,
    /// Deliveries sent and not acknowledged.
    pub inflight: Vec<InflightOut>,
}
