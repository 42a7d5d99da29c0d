//! What survives a restart: the log of all groups, the state of each, and the marks of the folder.
//!
//! ```text
//! propose → log (one flusher, one fdatasync for all groups) → apply → memory table
//!                                                                       │ checkpoint
//!                                                     log segments ← purge ← state (sled)
//! ```
//!
//! - Owns: everything under the data folder.
//! - Takes: entries and votes of the groups, writes of their machines. Gives: them back at start.
//! - Bound: see each module.
//! - Source: own design; ARCHITECTURE.md, "The write-ahead log".

pub(crate) mod checkpoint;
pub(crate) mod disk;
pub(crate) mod health;
pub(crate) mod shelf;
pub(crate) mod log;
pub(crate) mod state;
pub(crate) mod folder;
pub(crate) mod whole;
mod wake;
#[cfg(feature = "sim")]
pub(crate) mod driven;
#[cfg(any(test, feature = "sim"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod twin;
