//! A store in memory that counts what is written.
//!
//! - Owns: every pair, sorted. Takes: writes. Gives: what the traits promise. Bound: tests only.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use crate::machine::{Store, StoreMut};

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
        assert!(key.len() <= crate::limits::KEY_BYTES_MAX);
        self.writes += 1;
        self.pairs.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes += 1;
        self.pairs.remove(key);
    }
}
