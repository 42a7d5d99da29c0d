//! A store in memory: the twin of what `cluster` gives a machine, for tests and benches.
//!
//! - Owns: every pair, sorted. Gives: exactly what the traits promise. Bound: the caller's memory.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use hongqiao_cluster::machine::{Store, StoreMut};

/// Sorted pairs in memory; equal content means equal stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStore {
    pairs: BTreeMap<Vec<u8>, Bytes>,
}

impl MemoryStore {
    /// Returns how many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Walks all pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.pairs.iter().map(|(key, value)| (&key[..], value))
    }

    fn range(&self, from: &[u8], to: &[u8]) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Bytes)> {
        // `range` panics for inverted bounds.
        self.pairs.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to.max(from))))
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.pairs.get(key).cloned()
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<(Bytes, Bytes)> {
        let copy = |(key, value): (&Vec<u8>, &Bytes)| (Bytes::copy_from_slice(key), value.clone());
        self.range(from, to).take(limit).map(copy).collect()
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        let (key, value) = self.range(from, to).next_back()?;
        Some((Bytes::copy_from_slice(key), value.clone()))
    }
}

impl StoreMut for MemoryStore {
    fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.pairs.insert(key, value);
    }

    fn put_new(&mut self, key: Vec<u8>, value: Bytes) {
        debug_assert!(!self.pairs.contains_key(&key), "the machine said that it is new: {key:?}");
        self.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.pairs.remove(key);
    }
}
