//! Brings facts from other threads to the connections of this one.
//!
//! - Owns: nothing; looks connections up by id in its worker's table.
//! - Takes: `Kick`, `SessionsGrew`, `Drain`. Gives: the same to the connection's mailbox.
//! - Bound: `limits::HUB_MAILBOX_MESSAGES`; senders that owe no reply use `try_send` and count drops.

use actix::Message;

use crate::model::{connection_id::ConnectionId, reason::Reason};

/// Sent by a home: end this connection and tell it why. Replies once the connection has released
/// its session (its last command for it has been submitted), or at once if it is gone.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Kick {
    /// Whom.
    pub connection: ConnectionId,
    /// What a v5 client is told.
    pub reason: Reason,
}

/// Sent by a home: the logs of these sessions grew; each connection reads on when it can.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct SessionsGrew {
    /// Connections of this worker.
    pub connections: Vec<ConnectionId>,
}

/// Sent by the server at shutdown: tell every client and close. Replies when all are gone.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// What v5 clients are told.
    pub reason: Reason,
}
