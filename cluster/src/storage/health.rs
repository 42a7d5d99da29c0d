//! Whether the disk takes writes: looked at before every proposal, set by whoever meets an error.
//!
//! - Owns: three flags, the figures of the flusher, the count of log bytes in memory.
//! - Takes: errors and successes of the log and of the checkpoint, free space once per checkpoint tick.
//! - Gives: `DiskState`; plain numbers for metrics.
//! - Bound: none; never blocks.
//! - Source: own design.

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use crate::error::ProposeError;

/// Upper bounds of the flush latency buckets, in microseconds; the last bucket has none.
pub const FLUSH_BUCKETS_US: [u64; 12] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 200_000, 1_000_000];

/// What the disk can do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// It takes writes.
    Ready,
    /// It has less free space than the reserve; proposals are refused.
    Full,
    /// Writing or syncing fails; it is tried again until it works. Proposals are refused.
    Failing,
}

impl DiskState {
    /// Returns why a proposal is refused, if it is.
    pub(crate) fn refusal(self) -> Option<ProposeError> {
        match self {
            Self::Ready => None,
            Self::Full => Some(ProposeError::DiskFull),
            Self::Failing => Some(ProposeError::DiskFailing),
        }
    }
}

/// State and figures of the disk, shared by all that use it.
#[derive(Debug, Default)]
pub(crate) struct Health {
    low: AtomicBool,
    log_failing: AtomicBool,
    state_failing: AtomicBool,
    full: AtomicBool,
    pub(crate) memory: LogMemory,
    pub(crate) flushes: AtomicU64,
    pub(crate) flush_us: AtomicU64,
    pub(crate) flush_buckets: [AtomicU64; 13],
    pub(crate) log_written_bytes: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint_us: AtomicU64,
}

/// Bytes of log entries that are held in memory, of all groups.
#[derive(Debug, Default)]
pub(crate) struct LogMemory {
    bytes: AtomicUsize,
    /// Signalled when they become fewer.
    pub(crate) freed: Notify,
}

impl LogMemory {
    pub(crate) fn changed(&self, before: usize, after: usize) {
        if after < before {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
            self.freed.notify_waiters();
        } else {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Health {
    pub(crate) fn state(&self) -> DiskState {
        let low = self.low.load(Ordering::Relaxed);
        let failing =
            self.log_failing.load(Ordering::Relaxed) || self.state_failing.load(Ordering::Relaxed);
        match (low || failing, low || self.full.load(Ordering::Relaxed)) {
            (false, _) => DiskState::Ready,
            (true, true) => DiskState::Full,
            (true, false) => DiskState::Failing,
        }
    }

    /// Compares free space with the reserve. Space must pass it by an eighth before writes are
    /// taken again, so that a disk at the edge does not flap.
    pub(crate) fn note_free(&self, free_bytes: u64, reserve_bytes: u64) {
        let low = self.low.load(Ordering::Relaxed);
        let limit =
            if low { reserve_bytes.saturating_add(reserve_bytes / 8) } else { reserve_bytes };
        let now_low = free_bytes < limit;
        if now_low != low {
            self.low.store(now_low, Ordering::Relaxed);
            if now_low {
                tracing::error!(free_bytes, reserve_bytes, "disk full: durable writes are refused");
            } else {
                tracing::info!(free_bytes, "disk has space again: durable writes are taken");
            }
        }
    }

    /// A disk that had no space for one write has too little, even if the next one fits: that one may have
    /// taken what was kept in reserve. The next look at the free space tells.
    fn note_full(&self, is_full: bool) {
        self.full.store(is_full, Ordering::Relaxed);
        if is_full && !self.low.swap(true, Ordering::Relaxed) {
            tracing::error!("disk full: durable writes are refused");
        }
    }

    pub(crate) fn note_log(&self, error: Option<&std::io::Error>) {
        self.note(&self.log_failing, error, "log");
    }

    pub(crate) fn note_state(&self, error: Option<&std::io::Error>) {
        self.note(&self.state_failing, error, "state");
    }

    fn note(&self, flag: &AtomicBool, error: Option<&std::io::Error>, what: &'static str) {
        match error {
            Some(error) => {
                self.retries.fetch_add(1, Ordering::Relaxed);
                // A store that could not be opened again has told why before.
                if error.kind() != ErrorKind::NotConnected {
                    self.note_full(super::disk::is_full(error));
                }
                let was = flag.swap(true, Ordering::Relaxed);
                // No try mends that; whoever stopped the node here would lose what can still be read.
                if !was && error.kind() == ErrorKind::InvalidData {
                    let ways = crate::error::TWO_WAYS;
                    tracing::error!(%error, what, "damaged, part of it cannot be read: {ways}");
                } else if !was {
                    tracing::error!(%error, what, "disk failing: trying again until it works");
                }
            }
            None => {
                if flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed) {
                    tracing::info!(what, "disk works again");
                }
            }
        }
    }

    pub(crate) fn note_flush(&self, took: Duration, bytes: u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = FLUSH_BUCKETS_US.iter().take_while(|bound| **bound < us).count();
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.flush_us.fetch_add(us, Ordering::Relaxed);
        self.log_written_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(count) = self.flush_buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_when_space_hovers_at_the_reserve_then_state_does_not_flap() {
        let health = Health::default();
        health.note_free(800, 800);
        assert_eq!(health.state(), DiskState::Ready);
        health.note_free(799, 800);
        assert_eq!(health.state(), DiskState::Full);
        health.note_free(850, 800);
        assert_eq!(health.state(), DiskState::Full);
        health.note_free(900, 800);
        assert_eq!(health.state(), DiskState::Ready);
    }

    #[test]
    fn health_when_the_log_fails_then_failing_until_it_works() {
        let health = Health::default();
        health.note_log(Some(&std::io::Error::other("broken")));
        assert_eq!(health.state(), DiskState::Failing);
        health.note_log(Some(&std::io::Error::from(std::io::ErrorKind::StorageFull)));
        assert_eq!(health.state(), DiskState::Full);
        health.note_log(Some(&std::io::Error::other("broken")));
        health.note_free(900, 800);
        assert_eq!(health.state(), DiskState::Failing);
        health.note_log(None);
        assert_eq!(health.state(), DiskState::Ready);
    }

    #[test]
    fn health_when_a_write_found_no_space_then_full_until_space_was_seen() {
        let health = Health::default();
        health.note_log(Some(&std::io::Error::from(std::io::ErrorKind::StorageFull)));
        health.note_log(None);
        assert_eq!(health.state(), DiskState::Full);
        health.note_free(899, 800);
        assert_eq!(health.state(), DiskState::Full);
        health.note_free(900, 800);
        assert_eq!(health.state(), DiskState::Ready);
    }
}
