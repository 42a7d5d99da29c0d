//! Durable state of one shard: commands in, replies and facts out, on an ordered key-value store.
//!
//! ```text
//! actors ── encode_batch ──► Raft entry ──► machine ──► state (the only writer) ──► store
//!        ◄── decode_replies ──────────────────┘ └── facts ──►     queries ◄──────────┘
//! ```

pub mod command;
pub mod encoding;
pub mod machine;
pub mod client;
pub mod query;
pub mod ask;
pub mod memory_store;
#[doc(hidden)]
pub mod doors;
mod state;
mod key;
mod record;
pub(crate) mod body;
mod index;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "sim"))]
#[allow(clippy::expect_used, clippy::print_stdout)]
mod sim;
