//! The memory table: what a group changed since its last checkpoint.
//!
//! - Owns: the newest value of each changed key. Takes: puts and deletes. Gives: them in key order.
//! - Bound: `Options::checkpoint_bytes`, kept by the proposer, which waits while a table is full.
//! - A key that was new and is gone again leaves nothing behind: it never reaches sled.
//! - Source: own design.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
};

use bytes::Bytes;

/// What a pair costs beside its bytes.
const PAIR_BYTES: usize = 96;

/// The newest that is known of a key.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    /// `None`: deleted.
    pub(crate) value: Option<Bytes>,
    /// The machine said that no older layer has the key.
    fresh: bool,
}

/// Changed keys, in order.
#[derive(Debug, Default)]
pub(crate) struct Table {
    cells: BTreeMap<Vec<u8>, Cell>,
    bytes: usize,
}

impl Table {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Cell> {
        self.cells.get(key)
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Bytes, fresh: bool) {
        self.bytes += value.len();
        match self.cells.entry(key) {
            Entry::Vacant(place) => {
                self.bytes += place.key().len() + PAIR_BYTES;
                place.insert(Cell { value: Some(value), fresh });
            }
            // As fresh as it was: whether an older layer has the key does not depend on how often it is put.
            Entry::Occupied(mut known) => {
                let old = known.get_mut().value.replace(value);
                self.bytes -= old.map_or(0, |value| value.len());
            }
        }
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        match self.cells.get_mut(key) {
            Some(cell) if cell.fresh => {
                let value = cell.value.as_ref().map_or(0, Bytes::len);
                self.bytes -= key.len() + value + PAIR_BYTES;
                self.cells.remove(key);
            }
            Some(cell) => self.bytes -= cell.value.take().map_or(0, |value| value.len()),
            None => {
                self.bytes += key.len() + PAIR_BYTES;
                self.cells.insert(key.to_vec(), Cell { value: None, fresh: false });
            }
        }
    }

    /// Returns the cells with `from <= key < to`.
    pub(crate) fn range(
        &self,
        from: &[u8],
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&[u8], &Cell)> {
        // `BTreeMap::range` panics on an inverted range.
        let empty = match to {
            Bound::Excluded(to) => from >= to,
            Bound::Included(to) => from > to,
            Bound::Unbounded => false,
        };
        let cells = (!empty).then(|| self.cells.range::<[u8], _>((Bound::Included(from), to)));
        cells.into_iter().flatten().map(|(key, cell)| (key.as_slice(), cell))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Cell)> {
        self.cells.iter().map(|(key, cell)| (key.as_slice(), cell))
    }

    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_when_a_fresh_key_is_deleted_then_nothing_is_left() {
        let mut table = Table::default();
        table.put(b"a".to_vec(), Bytes::from_static(b"1"), true);
        table.delete(b"a");
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    #[test]
    fn table_when_a_fresh_key_is_put_again_and_deleted_then_nothing_is_left() {
        let mut table = Table::default();
        table.put(b"a".to_vec(), Bytes::from_static(b"1"), true);
        table.put(b"a".to_vec(), Bytes::from_static(b"123"), false);
        assert_eq!(table.bytes(), 1 + 3 + PAIR_BYTES);
        table.delete(b"a");
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    #[test]
    fn table_when_a_key_may_be_older_then_its_deletion_is_kept() {
        let mut table = Table::default();
        table.put(b"a".to_vec(), Bytes::from_static(b"1"), false);
        table.delete(b"a");
        table.put(b"a".to_vec(), Bytes::from_static(b"123"), true);
        table.delete(b"a");
        assert!(table.get(b"a").is_some_and(|cell| cell.value.is_none()));
        assert_eq!(table.bytes(), 1 + PAIR_BYTES);
    }
}
