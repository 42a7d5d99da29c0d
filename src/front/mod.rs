//! Bytes on one side, `model::wire` on the other; no rule of the service lives here.
//!
//! - Owns: codecs and sockets. Takes: bytes of clients. Gives: `Inbound`, and bytes of `Outbound`.
//! - Source: the protocol of each folder.

pub mod transport;
pub mod mqtt;
pub mod ws;
