//! What a worker is told at its start: encodings, listeners, limits.
//!
//! - Owns: plain values. Takes: the configuration. Gives: limits to links.
//! - Bound: `limits::LISTENERS_MAX` listeners.

use std::sync::Arc;

use crate::{
    actors::{counters::Counters, interest::Interests, live_routes::LiveRoutes},
    model::wire::{DIALECTS, Front},
};

/// What a worker is told at its start.
#[derive(Clone)]
pub struct WorkerConfig {
    /// Which worker; the high byte of its connection ids.
    pub index: u8,
    /// The encodings, by [`Dialect`](crate::model::wire::Dialect).
    pub fronts: [&'static dyn Front; DIALECTS],
    /// Limits of links, by listener; at most `limits::LISTENERS_MAX`. A link knows its place here.
    pub limits: Vec<LinkLimits>,
    /// Which workers have subscribers of what; shared by all.
    pub interests: Interests,
    /// What other nodes must know of that; shared by all.
    pub live_routes: Arc<LiveRoutes>,
    /// Read by metrics.
    pub counters: Arc<Counters>,
}

/// Limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// Most deliveries in an outbox; beyond it QoS 0 is dropped and QoS 1 and 2 wait.
    pub outbox_messages_max: u32,
    /// Most bytes in an outbox, likewise.
    pub outbox_bytes_max: u32,
    /// Most QoS 1 and 2 deliveries of a session without storage that wait for a place in the window;
    /// beyond it the client is disconnected with "quota exceeded".
    pub pending_messages_max: u32,
    /// Most bytes of those, likewise.
    pub pending_bytes_max: u32,
    /// Most topic aliases that the server uses towards one client.
    pub topic_aliases_max: u16,
    /// Seconds from the opening of a connection to its CONNECT.
    pub connect_secs: u16,
    /// Seconds that a closed connection may take to read the rest and close its own side.
    pub linger_secs: u16,
}

impl LinkLimits {
    /// What a link has whose listener nobody configured.
    pub const DEFAULT: Self = Self {
        outbox_messages_max: 10_000,
        outbox_bytes_max: 4 * 1024 * 1024,
        pending_messages_max: 1_000,
        pending_bytes_max: 4 * 1024 * 1024,
        topic_aliases_max: 32,
        connect_secs: 10,
        linger_secs: 5,
    };
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
