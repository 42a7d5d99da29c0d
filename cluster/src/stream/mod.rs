//! Ordered streams of commands: from each node to each group, whoever leads it.
//!
//! ```text
//! propose ─▶ Sender ─┬─ leader here ──▶ proposer ─▶ entry (runs of streams) ─▶ apply ─▶ StreamTable
//!   (numbers, keeps) └─ leader there ─▶ driver ─▶ link ─▶ desk ─▶ its proposer      skips, refuses
//!          replies ◀── settle ◀─────────── outcome of each run ◀──────────────────────────┘
//! ```
//!
//! - Owns: what was proposed here and has no outcome yet; per group the place of each node's stream.
//! - Takes: commands in the order of the calls. Gives: each applied at most once, in that order.
//! - Bound: permits before a sender, `STREAM_REQUESTS_MAX` requests behind it; `STREAM_NODES_MAX` streams
//!   per group and `REPLIES_KEPT_MAX` replies.
//! - Source: own design; sessions as in section 6.3 of the Raft dissertation, fenced by epochs.

pub(crate) mod run;
pub(crate) mod sender;
pub(crate) mod table;
pub(crate) mod replies;
pub(crate) mod door;
pub(crate) mod apply;
pub(crate) mod queue;
pub(crate) mod seek;
pub(crate) mod driver;
pub(crate) mod wire;
pub(crate) mod desk;
pub(crate) mod question;

#[cfg(test)]
mod tests;
