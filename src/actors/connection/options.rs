//! What the connections of one listener may use.
//!
//! - Owns: plain values, and how many connections of the listener are open.
//! - Takes: numbers of a validated configuration. Gives: limits to codec, session rules and actor.
//! - Bound: `connections_max`; a socket beyond it is closed before a byte is read.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{
    auth::Admission,
    model::{session::admission::Offer, wire::DecodeLimits},
};

/// One listener, shared by its connections on all threads.
#[derive(Debug)]
pub struct ListenerOptions {
    /// Name in the configuration; for logs and metrics.
    pub name: Arc<str>,
    /// Place of its limits in `WorkerConfig::limits`.
    pub index: u8,
    /// Who may come in, and to which app.
    pub admission: Admission,
    /// What CONNACK grants at most.
    pub offer: Offer,
    /// What the decoder accepts.
    pub decode: DecodeLimits,
    /// Most open connections.
    pub connections_max: u32,
    /// Bytes of unfinished publishes of one client; beyond it reading stops.
    pub inbound_bytes_max: usize,
    /// Most subscriptions of one session.
    pub filters_max: u32,
    /// Open connections.
    open: AtomicU32,
}

impl ListenerOptions {
    /// Puts the options together; nothing is open yet.
    #[must_use]
    pub fn new(
        name: impl Into<Arc<str>>,
        admission: Admission,
        (offer, decode): (Offer, DecodeLimits),
        connections_max: u32,
        inbound_bytes_max: usize,
        filters_max: u32,
    ) -> Self {
        Self {
            name: name.into(),
            index: 0,
            admission,
            offer,
            decode,
            connections_max,
            inbound_bytes_max,
            filters_max,
            open: AtomicU32::new(0),
        }
    }

    /// Says where the limits of its links stand in `WorkerConfig::limits`.
    #[must_use]
    pub fn at(self, index: u8) -> Self {
        Self { index, ..self }
    }

    /// Returns how many connections are open.
    #[must_use]
    pub fn open_connections(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Takes a place for a connection; `None` if all are taken.
    pub(super) fn take_place(self: &Arc<Self>) -> Option<Place> {
        let taken = self.open.fetch_add(1, Relaxed);
        if taken >= self.connections_max {
            self.open.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Place(Arc::clone(self)))
    }
}

/// One open connection of a listener; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<ListenerOptions>);

impl std::ops::Deref for Place {
    type Target = ListenerOptions;

    fn deref(&self) -> &ListenerOptions {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
