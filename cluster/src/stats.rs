//! Figures of the durable side, as plain values that a metrics module can read.
//!
//! - Owns: nothing. Takes: counters. Gives: `Stats`. Bound: none; reading does not block the log.
//! - Source: own design.

use std::sync::atomic::Ordering;

use crate::storage::health::Health;

pub use crate::storage::health::{DiskState, FLUSH_BUCKETS_US};

/// Figures since the start of the node, and the state of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Flushes of the log, each for all groups.
    pub flushes: u64,
    /// Time they took together, in microseconds.
    pub flush_us: u64,
    /// How many took at most [`FLUSH_BUCKETS_US`]; the last: longer. Not cumulative.
    pub flush_buckets: [u64; 13],
    /// Raft appends flushed.
    pub appends: u64,
    /// Bytes written to the log.
    pub log_written_bytes: u64,
    /// Bytes that the log takes on disk.
    pub log_bytes: u64,
    /// Bytes of log entries held in memory until a checkpoint covers them.
    pub log_memory_bytes: u64,
    /// Bytes in memory tables, not in a checkpoint yet.
    pub table_bytes: u64,
    /// Bytes that the state takes on disk.
    pub state_bytes: u64,
    /// Checkpoints written, each for all shards with changes.
    pub checkpoints: u64,
    /// Time they took together, in microseconds.
    pub checkpoint_us: u64,
    /// Raft entries applied but not in a checkpoint, in the shard where they are most.
    pub checkpoint_lag_entries: u64,
    /// Proposals without a reply.
    pub proposals_waiting: u64,
    /// Bytes of them.
    pub proposals_waiting_bytes: u64,
    /// Times that the disk was tried again.
    pub disk_retries: u64,
    /// Whether the disk takes writes.
    pub disk: DiskState,
}

impl Stats {
    pub(crate) fn of(health: &Health) -> Self {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            flushes: load(&health.flushes),
            flush_us: load(&health.flush_us),
            flush_buckets: health.flush_buckets.each_ref().map(load),
            appends: load(&health.entries),
            log_written_bytes: load(&health.log_written_bytes),
            log_bytes: load(&health.log_bytes),
            log_memory_bytes: health.memory.bytes() as u64,
            table_bytes: 0,
            state_bytes: 0,
            checkpoints: load(&health.checkpoints),
            checkpoint_us: load(&health.checkpoint_us),
            checkpoint_lag_entries: 0,
            proposals_waiting: 0,
            proposals_waiting_bytes: 0,
            disk_retries: load(&health.retries),
            disk: health.state(),
        }
    }
}
