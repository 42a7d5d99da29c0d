//! What a Raft group replicates: the trait that the server implements, and the store it writes to.
//!
//! - Owns: nothing.
//! - Takes: committed commands in log order. Gives: a reply for each, and writes to the store.
//! - Bound: a key of at most 1 KiB; a value of any size, which the storage splits into pieces.
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

    /// Sets a `key` that surely does not exist, such as one with a new position in it: if it is
    /// deleted before the next checkpoint, neither ever reaches the disk. With a key that exists
    /// after all, a later `delete` may leave its old value behind.
    fn put_new(&mut self, key: Vec<u8>, value: Bytes) {
        self.put(key, value);
    }

    /// Removes `key` if it is there.
    fn delete(&mut self, key: &[u8]);
}

/// The state of one Raft group. Same commands, same order: same state, on every node (PURE-CORE).
pub trait Machine: Send + 'static {
    /// Rebuilds what is held in memory from the store: at start, and after a snapshot was installed.
    fn load(&mut self, store: &dyn Store);

    /// Applies one committed command. `index` grows from command to command, with gaps: it is made of
    /// the index of the Raft entry and the command's place in it.
    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes;

    /// Called once after each batch of [`Machine::apply`], before anybody else sees the state.
    fn applied(&mut self) {}

    /// Answers an encoded question, on the node that leads the group. It changes nothing.
    ///
    /// Keep it to a page: `apply` waits meanwhile.
    fn query(&self, question: &Bytes, store: &dyn Store) -> Bytes {
        let _ = (question, store);
        Bytes::new()
    }
}
