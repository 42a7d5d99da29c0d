//! The state of the groups: memory tables over blocks of ordered pairs.
//!
//! ```text
//! apply → active table ─ checkpoint ─→ frozen table ─→ blocks of at most 4 KiB ─→ sled
//! reads ←──── active ←──────────────── frozen ←────────── blocks
//! ```
//!
//! - Owns: everything a machine puts. Takes: writes of `apply`. Gives: reads over all three layers.
//! - Bound: see `table.rs` and `block.rs`.
//! - Source: own design; the layers of a log-structured tree, with sled below.

pub(crate) mod block;
pub(crate) mod blocks;
pub(crate) mod kv;
pub(crate) mod merge;
pub(crate) mod shard_state;
pub(crate) mod sled_kv;
pub(crate) mod table;
#[cfg(test)]
mod tests;
