//! The meta group: members, placement, routes, rooms; and who may rely on what it knows.
//!
//! ```text
//! propose → batch → meta group's log → machine ─ once per applied batch ─→ Directory → sink → index announced
//! ```
//!
//! - Owns: the machine of the meta group and the directory that everybody reads.
//! - Takes: `MetaCommand`. Gives: `Directory`, `MetaChange`, barriers, leases.
//! - Bound: `limits::META_*`.
//! - Source: own design; ARCHITECTURE.md "The directory". META-SMALL: no messages, nobody's presence.

pub(crate) mod command;
mod record;
pub(crate) mod machine;
mod members;
mod leaving;
mod routes;
mod rooms;
mod batch;
mod lease;
mod leases;
mod barrier;
mod keeper;
mod door;
pub(crate) mod handle;
#[cfg(test)]
pub(crate) mod local;

#[cfg(test)]
mod tests;

pub use command::{MetaCommand, MetaReply, Place, Refusal, RoomCommand, RoomReply};
pub use handle::{MetaHandle, MetaProposed};
pub use machine::{MetaChange, MetaSink, no_sink};
pub(crate) use {door::meta_batch, keeper::Addresses};
