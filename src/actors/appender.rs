//! Gathers durable commands of one worker thread into one proposal per shard.
//!
//! - Owns: commands that wait for the proposal in front of them.
//! - Takes: `Submit`. Gives: the shard's reply, once committed, flushed and applied (FLUSH-THEN-ACK).
//! - Bound: `limits::APPEND_WAITING_BYTES` per shard; beyond it `SubmitError::Overloaded`.
//! - Order: commands of one worker to one shard are applied in the order of submission.

use actix::Message;
use hongqiao_cluster::id::ShardId;

use crate::shard::command::{Command, Reply};

/// Sent by connections and homes.
#[derive(Debug, Message)]
#[rtype(result = "Result<Reply, SubmitError>")]
pub struct Submit {
    /// Which shard.
    pub shard: ShardId,
    /// What.
    pub command: Command,
}

/// Why a command has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Nothing was written: too much waits already. Retry later; 0x97.
    #[error("too many durable writes wait")]
    Overloaded,
    /// Nothing was written: the disk is full or failing; 0x97.
    #[error("the disk takes no writes")]
    DiskFull,
    /// Nothing was written: the shard has no leader here; 0x88.
    #[error("the shard has no leader")]
    Unavailable,
    /// It may or may not have been written; a retry may store it twice unless it carries an id.
    #[error("the outcome of the write is unknown")]
    Unknown,
}
