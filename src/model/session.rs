//! The rules of a session's inbound side, pure: what CONNECT is granted, what each publish owes.
//!
//! - Owns: nothing that lives; the connection keeps an [`Intake`](intake::Intake) while one is needed.
//! - Takes: decoded packets and what the listener offers. Gives: terms, acks in order, refusals.
//! - Bound: receive maximum and bytes of unfinished publishes; see [`intake`].
//! - Source: MQTT 5.0 sections 3.1, 3.2, 3.14, 4.3, 4.6 and 4.9.
//!
//! ```text
//! CONNECT ── admission::admit ──► Terms ──► CONNACK
//! PUBLISH ── Intake::begin ──► owe ── (outcome) settle ──► pop_ready ──► PUBACK / PUBREC
//! PUBREL  ── Intake::release ──► PUBCOMP
//! ```

pub mod admission;
pub mod intake;
