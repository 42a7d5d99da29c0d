//! What a node counts, as plain numbers gathered at a scrape.
//!
//! - Owns: nothing. Takes: sums over the worker threads, figures of the cluster crate, `/proc`.
//! - Gives: the numbers that `metrics::METRICS` reads.
//! - Bound: causes are constants of the code, so their number is fixed.

use super::ProcessUsage;

/// Durations, counted in buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// Upper bound in seconds, and how many fell between it and the one before (not cumulative). The
    /// last bound is `f64::INFINITY`.
    pub buckets: Vec<(f64, u64)>,
    /// Their sum.
    pub sum_secs: f64,
}

/// What a node counts. `in` and `out` are seen from the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Connections open now.
    pub connections: u64,
    /// Connections opened since the start.
    pub connections_opened: u64,
    /// Connections refused before CONNECT was read, because the listener had its limit.
    pub connections_refused: u64,
    /// PUBLISH packets from clients, by QoS.
    pub messages_in: [u64; 3],
    /// PUBLISH packets to clients, by QoS.
    pub messages_out: [u64; 3],
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Messages that did not reach a receiver, by cause.
    pub dropped: Vec<(&'static str, u64)>,
    /// System calls that wrote to clients.
    pub socket_writes: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Subscriptions of connected clients.
    pub subscriptions: u64,
    /// Filters that other nodes know of.
    pub routes: u64,
    /// Messages that wait for other nodes.
    pub relay_bytes: u64,
    /// Groups that this node leads.
    pub groups_led: u64,
    /// Groups without a leader that this node knows of.
    pub groups_leaderless: u64,
    /// Entries that the slowest follower of a group led here is behind.
    pub follower_lag_entries: u64,
    /// Links to other nodes: class, state, how many.
    pub links: Vec<(&'static str, &'static str, u64)>,
    /// Durable sessions, connected or not.
    pub sessions: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// Messages in the logs of durable sessions, each counted once however many wait for it.
    pub queue_messages: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// Durable commands that wait for a commit.
    pub commands_waiting: u64,
    /// Durable writes that were refused, by cause.
    pub writes_refused: Vec<(&'static str, u64)>,
    /// Flushes of the write-ahead log.
    pub flush: Latencies,
    /// Bytes written to the write-ahead log since the start.
    pub log_written_bytes: u64,
    /// Bytes that the write-ahead log takes on disk.
    pub log_bytes: u64,
    /// Bytes of the write-ahead log that are held in memory.
    pub log_memory_bytes: u64,
    /// Bytes applied but not in a checkpoint yet.
    pub table_bytes: u64,
    /// Bytes that the state takes on disk.
    pub state_bytes: u64,
    /// Checkpoints since the start.
    pub checkpoints: u64,
    /// Time they took together.
    pub checkpoint_secs: f64,
    /// Times that a failing disk was tried again.
    pub disk_retries: u64,
    /// Whether the disk takes durable writes.
    pub disk_writable: bool,
    /// The process.
    pub process: ProcessUsage,
}
