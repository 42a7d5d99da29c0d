//! One Raft group: a shard of durable state, replicated by openraft.
//!
//! ```text
//! propose → permits → queue → proposer (gathers an entry) → RaftCore → log store → flusher
//!                                   replies ← Answer ← RaftCore ← state machine ← committed
//! ```
//!
//! - Owns: the group's machine and its place in log and state.
//! - Takes: commands. Gives: replies, once flushed and applied (FLUSH-THEN-ACK).
//! - Bound: permits before the queue, `ENTRIES_IN_FLIGHT_MAX` behind it.
//! - Source: openraft 0.9.

pub(crate) mod permits;
pub(crate) mod types;
pub(crate) mod snapshot;
pub(crate) mod log_store;
pub(crate) mod state_machine;
pub(crate) mod wire;
pub(crate) mod network;
pub(crate) mod room;
pub(crate) mod proposer;
pub(crate) mod lead;
pub(crate) mod group;
pub(crate) mod clerk;
pub(crate) mod pulse;
pub(crate) mod members;
mod purge;
#[cfg(test)]
mod suite;
