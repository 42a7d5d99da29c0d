//! The rules of the service, pure: no IO, no clock, no async, no actix (PURE-CORE).
//!
//! - Owns: nothing that lives; plain values and functions.
//! - Takes: limits and the time as arguments. Gives: decisions.

pub mod id;
pub mod connection_id;
pub mod topic;
pub mod trie;
pub mod message;
pub mod node_set;
pub mod route;
pub mod route_key;
pub mod reason;
pub mod wire;
pub mod window;
pub mod session;
pub mod reader;
