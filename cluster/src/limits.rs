//! Every bound of this crate, with its unit.
//!
//! - Owns: nothing. Gives: constants; what an operator may change is in `Options`.
//! - Source: own design; figures in ARCHITECTURE.md, "The write-ahead log".

use std::time::Duration;

/// Most commands that one Raft entry carries; a command's index is the entry's times this, plus its
/// place in the entry.
pub(crate) const ENTRY_COMMANDS_MAX: usize = 4_096;

/// A Raft entry takes no further command once it holds this many bytes.
pub(crate) const ENTRY_BYTES_TARGET: usize = 1 << 20;

/// Entries of one group between proposer and reply: one is flushed while the next is gathered.
pub(crate) const ENTRIES_IN_FLIGHT_MAX: usize = 2;

/// After this time the outcome of a proposal is unknown to its caller.
pub(crate) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads of this node that run or wait for their turn on the cluster's threads.
pub(crate) const READS_MAX: usize = 64;

/// A log segment takes no further batch beyond this many bytes.
pub(crate) const SEGMENT_BYTES: u64 = 32 << 20;

/// Segments kept for reuse; writing over old bytes spares the file system its metadata.
pub(crate) const SEGMENTS_SPARE_MAX: usize = 2;

/// Most bytes of a sled value: larger ones end up in files that sled never syncs.
pub(crate) const PIECE_BYTES_MAX: usize = 4_096;

/// Values up to this size share a block with their neighbours.
pub(crate) const INLINE_BYTES_MAX: usize = 1_536;

/// Longest key of the state.
pub(crate) const KEY_BYTES_MAX: usize = 1_024;

/// First wait after an error of the disk; doubled up to `RETRY_MAX`.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(10);

/// Longest wait between two tries of the disk.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(INLINE_BYTES_MAX + 2 * KEY_BYTES_MAX + 64 < PIECE_BYTES_MAX);
