//! What a Raft group replicates: the trait that the server implements, and the store it writes to.
//!
//! - Owns: nothing.
//! - Takes: committed commands in log order. Gives: a reply for each, and writes to the store.
//! - Bound: a value may be of any size; the storage splits it into pieces of at most 4 KiB.
//! - Source: own design; `RaftStateMachine` of openraft without its types.

use bytes::Bytes;

/// Reads of one group's ordered key-value state: what is checkpointed, and over it what is not yet.
///
/// A transient disk error is retried inside; reads do not fail.
pub trait Store {
    /// Returns the value of `key`.
    fn get(&self, key: &[u8]) -> Option<Bytes>;

    /// Returns at most `limit` pairs with `from <= key < to`, in key order.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<(Bytes, Bytes)>;

    /// Returns the last pair with `from <= key < to`.
    fn last(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)>;
}

/// Writes of one group's state; they become durable with the next checkpoint, in one batch with the
/// index of the last applied entry.
pub trait StoreMut: Store {
    /// Sets `key`.
    fn put(&mut self, key: Vec<u8>, value: Bytes);

    /// Removes `key` if it is there.
    fn delete(&mut self, key: &[u8]);
}

/// The state of one Raft group. Same commands, same order: same state, on every node (PURE-CORE).
pub trait Machine: Send + 'static {
    /// Rebuilds what is held in memory from the store: at start, and after a snapshot was installed.
    fn load(&mut self, store: &dyn Store);

    /// Applies one committed command; `index` is that of its Raft entry and grows.
    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes;
}
