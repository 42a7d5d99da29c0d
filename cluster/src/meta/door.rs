//! The way of `doors.rs` to the machine of the meta group, and the store in memory that tests run it on.
//!
//! - Owns: every pair, sorted. Takes: arbitrary bytes. Gives: nothing; panics where a promise is broken.
//! - Bound: tests and fuzz targets only.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use super::{
    command::{self, MetaCommand},
    leases::{Answer, Ask},
    machine::{MetaMachine, Published, no_sink},
};
use crate::{
    directory::RoomKind,
    id::{NodeId, ShardId},
    limits::{LEASE_BYTES_MAX, META_ENTRY_BYTES_MAX},
    machine::{Machine, Store, StoreMut},
    meta::RoomCommand,
};

/// A store in memory that counts what is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryStore {
    pub(super) pairs: BTreeMap<Vec<u8>, Bytes>,
    /// Writes since this was last taken.
    pub(super) writes: usize,
}

impl MemoryStore {
    fn range(&self, from: &[u8], to: &[u8]) -> impl DoubleEndedIterator<Item = (Bytes, Bytes)> {
        let range = (Bound::Included(from), Bound::Excluded(to.max(from)));
        let copy = |(key, value): (&Vec<u8>, &Bytes)| (Bytes::copy_from_slice(key), value.clone());
        self.pairs.range::<[u8], _>(range).map(copy)
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.pairs.get(key).cloned()
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<(Bytes, Bytes)> {
        self.range(from, to).take(limit).collect()
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        self.range(from, to).next_back()
    }
}

impl StoreMut for MemoryStore {
    fn put(&mut self, key: Vec<u8>, value: Bytes) {
        assert!(key.len() <= crate::limits::KEY_BYTES_MAX, "a key is too long for the store");
        self.writes += 1;
        self.pairs.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes += 1;
        self.pairs.remove(key);
    }
}

/// Applies `bytes` to a machine with a few things in it, and reads them as words about leases.
pub(crate) fn meta_batch(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let commands: Option<Vec<MetaCommand>> = command::decode(&bytes, META_ENTRY_BYTES_MAX);
    if let Some(commands) = &commands {
        assert_eq!(command::encode(commands), bytes, "commands read another after being written");
    }
    if let Some(ask) = command::decode::<Ask>(&bytes, LEASE_BYTES_MAX) {
        assert_eq!(command::encode(&ask), bytes, "a question reads another after being written");
    }
    if let Some(answer) = command::decode::<Answer>(&bytes, LEASE_BYTES_MAX) {
        assert_eq!(command::encode(&answer), bytes, "an answer reads another after being written");
    }
    let mut store = MemoryStore::default();
    let published = Published::new(no_sink());
    let mut machine = MetaMachine::new(4, published.clone());
    machine.apply(1, &command::encode(&furniture()), &mut store);
    machine.apply(2, &bytes, &mut store);
    machine.applied();
    let directory = published.directory();
    MetaMachine::new(4, published.clone()).load(&store);
    assert_eq!(published.directory(), directory, "a start finds another directory");
}

/// Things that commands may be about.
fn furniture() -> Vec<MetaCommand> {
    let (owner, facts) = (Bytes::from_static(b"u"), Bytes::new());
    let room = |room: &'static [u8], kind| {
        let room = Bytes::from_static(room);
        let (owner, facts) = (owner.clone(), facts.clone());
        MetaCommand::Room(RoomCommand::Create { room, kind, owner, facts })
    };
    let up = |node| MetaCommand::NodeUp {
        node: NodeId(node),
        incarnation: 1,
        cluster_addr: String::new(),
        client_addr: String::new(),
        version: String::new(),
    };
    let led = MetaCommand::ShardLed { shard: ShardId(0), node: NodeId(1), term: 1 };
    vec![up(1), up(2), led, room(b"r", RoomKind::Room), room(b"g", RoomKind::Group)]
}
