//! WebSockets: frames, a socket that hides them, and the HTTP port they come through.
//!
//! - Owns: nothing; the parts below. Takes: HTTP requests and bytes. Gives: plain protocol bytes.
//! - Bound: `frame::Rules` per listener.
//! - Source: RFC 6455; MQTT 5.0 §6.

pub mod frame;
pub mod utf8;
pub mod output;
pub mod socket;
pub mod upgrade;
pub mod port;
pub mod mqtt;
