//! The machine of the product, and who watches it.
//!
//! - Owns: nothing but the machine. Takes: what the cluster gives a machine. Gives: the same on to the real one, and
//!   to the oracle what came of it.
//! - Bound: that of the machine.
//! - Source: own design.

use std::sync::Arc;

use bytes::Bytes;
use hongqiao_cluster::{
    id::ShardId,
    machine::{Machine, Store, StoreMut},
};

use super::{event::Event, oracle::Oracle};
use crate::shard::{
    command::{decode_batch, decode_replies},
    machine::ShardMachine,
};

pub(super) struct Watched {
    shard: ShardId,
    machine: ShardMachine,
    oracle: Arc<Oracle>,
}

impl Watched {
    pub(super) fn new(shard: ShardId, oracle: Arc<Oracle>) -> Self {
        Self { shard, machine: ShardMachine::new(Arc::new(|_| {})), oracle }
    }
}

impl Machine for Watched {
    fn load(&mut self, store: &dyn Store) {
        self.machine.load(store);
    }

    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        let mut store = Counted { store, writes: 0 };
        let reply = self.machine.apply(index, command, &mut store);
        let commands = decode_batch(command).expect("a batch");
        let replies = decode_replies(&reply).expect("replies");
        let (shard, writes) = (self.shard, store.writes);
        self.oracle.applied(
            (shard, index),
            &Event::Applied { shard, index, commands: &commands, replies: &replies, writes },
        );
        reply
    }

    fn applied(&mut self) {
        self.machine.applied();
    }

    fn query(&self, question: &Bytes, store: &dyn Store) -> Bytes {
        self.machine.query(question, store)
    }
}

/// A store that counts what is changed.
struct Counted<'a> {
    store: &'a mut dyn StoreMut,
    writes: u64,
}

impl Store for Counted<'_> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.store.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<(Bytes, Bytes)> {
        self.store.scan(from, to, limit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        self.store.last(from, to)
    }
}

impl StoreMut for Counted<'_> {
    fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.writes += 1;
        self.store.put(key, value);
    }

    fn put_new(&mut self, key: Vec<u8>, value: Bytes) {
        self.writes += 1;
        self.store.put_new(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes += 1;
        self.store.delete(key);
    }
}
