//! How many deliveries may be under way: what keeps a QoS 0 load from piling up in the server.
//!
//! - Owns: one count, shared by publishers and receivers of a load.
//! - Takes: deliveries expected and deliveries seen. Gives: room. Bound: its limit.
//! - Waiting publishers are woken when half of the limit is free, so that they write batches.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Notify, futures::Notified};

#[derive(Debug)]
pub(super) struct Credit {
    limit: u64,
    outstanding: AtomicU64,
    waiting: AtomicBool,
    room: Notify,
}

impl Credit {
    /// At most `limit` deliveries under way.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            outstanding: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            room: Notify::new(),
        }
    }

    /// How many deliveries may still be caused.
    pub(super) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.outstanding.load(Ordering::Acquire))
    }

    /// Some deliveries will come.
    pub(super) fn take(&self, count: u64) {
        self.outstanding.fetch_add(count, Ordering::AcqRel);
    }

    /// Some deliveries came.
    pub(super) fn give(&self, count: u64) {
        let below = |outstanding: u64| Some(outstanding.saturating_sub(count));
        let before = self.outstanding.fetch_update(Ordering::AcqRel, Ordering::Acquire, below);
        let left = before.unwrap_or(0).saturating_sub(count);
        if left <= self.limit / 2 && self.waiting.load(Ordering::Acquire) {
            self.waiting.store(false, Ordering::Release);
            self.room.notify_waiters();
        }
    }

    /// Resolves when there is room again; look at [`room`](Self::room) after calling and before awaiting.
    pub(super) fn notified(&self) -> Notified<'_> {
        let notified = self.room.notified();
        self.waiting.store(true, Ordering::Release);
        notified
    }

    /// Gives up waiting for what did not come; tells how much that was.
    pub(super) fn forgive(&self) -> u64 {
        self.outstanding.swap(0, Ordering::AcqRel)
    }
}
