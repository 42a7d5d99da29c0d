//! The ordered key-value store below the state: what is asked of it.
//!
//! - Owns: nothing. Takes: atomic batches per shard, small values only. Gives: neighbours of a key.
//! - Bound: values of at most `PIECE_BYTES_MAX` bytes.
//! - Source: own design; implemented by sled and by a memory twin, held by one contract suite.

use std::io;

use bytes::Bytes;

/// Changes to one shard, applied all or not at all.
pub(crate) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A pair.
pub(crate) type Pair = (Bytes, Bytes);

/// Ordered pairs of every shard, in one place.
pub(crate) trait Kv: Send + Sync + 'static {
    /// Returns the value of `key`.
    fn get(&self, shard: u16, key: &[u8]) -> io::Result<Option<Bytes>>;
    /// Returns the pair with the greatest key not above `key`.
    fn floor(&self, shard: u16, key: &[u8]) -> io::Result<Option<Pair>>;
    /// Returns the pair with the smallest key above `key`.
    fn above(&self, shard: u16, key: &[u8]) -> io::Result<Option<Pair>>;
    /// Applies `batch`; it is durable after the next `flush`.
    fn apply(&self, shard: u16, batch: Batch) -> io::Result<()>;
    /// Returns when everything applied before survives the loss of power.
    fn flush(&self) -> io::Result<()>;
    /// Opens the store again after an error; what was not flushed is gone.
    fn reopen(&self) -> io::Result<()>;
    /// Closes the store for good and gives its files back.
    fn close(&self);
    /// Counts successful calls of `reopen`: a change means that unflushed batches may be gone.
    fn generation(&self) -> u64;
    /// Returns how many bytes the store takes on disk.
    fn disk_bytes(&self) -> u64;
}
