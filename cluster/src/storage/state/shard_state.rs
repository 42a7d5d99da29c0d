//! One shard's state as its machine sees it: two memory tables over blocks on disk.
//!
//! - Owns: the active table, the table that a checkpoint writes, how far both are.
//! - Takes: `put`, `delete` of `apply`; `freeze` and `thaw` of the checkpoint. Gives: reads.
//! - Bound: see `table.rs`. A read that meets an error of the disk waits and tries again: `apply`
//!   cannot fail, or the group would end (HEAL).
//! - Source: own design.

use std::{collections::BTreeMap, io, ops::Bound, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{
    blocks::{Blocks, META, stream_key, stream_node},
    kv::{Batch, Kv},
    merge::merge,
    table::Table,
};
use crate::{
    clock,
    limits::{KEY_BYTES_MAX, RETRY_MAX, RETRY_MIN},
    machine::{Store, StoreMut},
    raft_group::types::{LogId, StoredMembership},
    storage::health::Health,
    stream::table::StreamTable,
};

/// How far a state is: stored with it, in the same batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Where each node's stream is; kept in records of its own.
    #[serde(skip)]
    pub(crate) streams: StreamTable,
}

/// What all shards of a node share below their tables.
pub(crate) struct Base {
    pub(crate) kv: Box<dyn Kv>,
    pub(crate) health: Arc<Health>,
}

/// What a checkpoint writes.
pub(crate) struct Frozen {
    pub(crate) table: Table,
    pub(crate) applied: Applied,
}

/// The state of one shard.
pub(crate) struct ShardState {
    shard: u16,
    base: Arc<Base>,
    active: Table,
    frozen: Option<Arc<Frozen>>,
    /// Up to where `active` is.
    pub(crate) applied: Applied,
    /// Up to where the disk is.
    pub(crate) stored: Applied,
    /// Held for reading by whoever walks blocks, for writing while a batch changes them.
    pub(crate) gate: Arc<RwLock<()>>,
}

impl Base {
    /// Asks the store until it answers.
    pub(crate) fn ask<R>(&self, ask: impl Fn(&dyn Kv) -> io::Result<R>) -> R {
        let mut wait = RETRY_MIN;
        loop {
            let generation = self.kv.generation();
            match ask(&*self.kv) {
                Ok(answer) => {
                    if wait > RETRY_MIN {
                        self.health.note_state(None);
                    }
                    return answer;
                }
                Err(error) => self.health.note_state(Some(&error)),
            }
            clock::rest(wait);
            wait = (wait * 2).min(RETRY_MAX);
            if self.kv.generation() == generation
                && let Err(error) = self.kv.reopen()
            {
                self.health.note_state(Some(&error));
            }
        }
    }
}

impl ShardState {
    /// Opens the state of `shard` as its last checkpoint left it.
    pub(crate) fn open(shard: u16, base: Arc<Base>) -> io::Result<Self> {
        let applied = match base.kv.get(shard, META)? {
            Some(meta) => {
                Applied { streams: read_streams(&*base.kv, shard)?, ..decode_meta(&meta)? }
            }
            None => Applied::default(),
        };
        Ok(Self {
            shard,
            base,
            active: Table::default(),
            frozen: None,
            stored: applied.clone(),
            applied,
            gate: Arc::default(),
        })
    }

    /// Bytes of the table that proposals fill.
    pub(crate) fn active_bytes(&self) -> usize {
        self.active.bytes()
    }

    /// Returns whether a checkpoint would write anything.
    pub(crate) fn is_dirty(&self) -> bool {
        self.frozen.is_some() || self.applied != self.stored
    }

    /// Sets the active table aside for a checkpoint. One that is still there comes first.
    pub(crate) fn freeze(&mut self) -> Option<Arc<Frozen>> {
        if self.frozen.is_none() && self.applied != self.stored {
            let table = std::mem::take(&mut self.active);
            self.frozen = Some(Arc::new(Frozen { table, applied: self.applied.clone() }));
        }
        self.frozen.clone()
    }

    /// Forgets the table that is now on disk; gives its bytes.
    pub(crate) fn thaw(&mut self) -> usize {
        let Some(frozen) = self.frozen.take() else { return 0 };
        self.stored = frozen.applied.clone();
        frozen.table.bytes()
    }

    /// Forgets both tables: a snapshot that is `applied` was put into the store.
    pub(crate) fn replaced(&mut self, applied: Applied) {
        self.active = Table::default();
        self.frozen = None;
        self.stored = applied.clone();
        self.applied = applied;
    }

    fn over_blocks<R>(&self, ask: impl Fn(&Blocks<'_>) -> io::Result<R>) -> R {
        let _gate = self.gate.read();
        self.base.ask(|kv| ask(&Blocks { kv, shard: self.shard }))
    }

    /// Returns what the tables know of `key`: nothing, that it is gone, or its value.
    fn in_tables(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.table.get(key));
        self.active.get(key).or_else(frozen).map(|cell| cell.value.clone())
    }

    /// Returns the newest cells of both tables with `from <= key < to`, at most `limit` of each.
    fn tables(
        &self,
        from: &[u8],
        to: Bound<&[u8]>,
        limit: usize,
    ) -> BTreeMap<Bytes, Option<Bytes>> {
        let mut newest = BTreeMap::new();
        let layers = [self.frozen.as_ref().map(|frozen| &frozen.table), Some(&self.active)];
        for table in layers.into_iter().flatten() {
            for (key, cell) in table.range(from, to).take(limit) {
                newest.insert(Bytes::copy_from_slice(key), cell.value.clone());
            }
        }
        newest
    }
}

/// Returns the batch that brings a shard's blocks up to a frozen table, with its meta record.
pub(crate) fn checkpoint_batch(kv: &dyn Kv, shard: u16, frozen: &Frozen) -> io::Result<Batch> {
    let mut batch = merge(&Blocks { kv, shard }, &frozen.table)?;
    batch.push((META.to_vec(), Some(encode_meta(&frozen.applied)?)));
    put_streams(kv, shard, &frozen.applied.streams, &mut batch)?;
    Ok(batch)
}

/// Adds what brings the stored streams up to `streams`.
fn put_streams(
    kv: &dyn Kv,
    shard: u16,
    streams: &StreamTable,
    batch: &mut Batch,
) -> io::Result<()> {
    let stored = stored_streams(kv, shard)?;
    let gone = stored.keys().filter(|node| !streams.has(**node));
    batch.extend(gone.map(|node| (stream_key(*node), None)));
    for (node, place) in streams.encoded()? {
        if stored.get(&node).is_none_or(|stored| *stored != place) {
            batch.push((stream_key(node), Some(place)));
        }
    }
    Ok(())
}

/// Returns the record of each node's stream.
fn stored_streams(kv: &dyn Kv, shard: u16) -> io::Result<BTreeMap<u64, Bytes>> {
    let mut stored = BTreeMap::new();
    let mut at = Bytes::from_static(META);
    while let Some((key, place)) = kv.above(shard, &at)? {
        let Some(node) = stream_node(&key) else { break };
        stored.insert(node, place);
        at = key;
    }
    Ok(stored)
}

/// Reads where each node's stream is.
pub(crate) fn read_streams(kv: &dyn Kv, shard: u16) -> io::Result<StreamTable> {
    StreamTable::decode(stored_streams(kv, shard)?)
}

/// Encodes a meta record; version 1 is the first. Streams are in records of their own, because a value
/// of the store must not grow with the number of nodes.
pub(crate) fn encode_meta(applied: &Applied) -> io::Result<Vec<u8>> {
    let mut meta = vec![1];
    bincode::serialize_into(&mut meta, applied).map_err(io::Error::other)?;
    Ok(meta)
}

pub(crate) fn decode_meta(meta: &[u8]) -> io::Result<Applied> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "unknown version of a meta record");
    match meta.split_first() {
        Some((1, applied)) => bincode::deserialize(applied).map_err(io::Error::other),
        _ => Err(unknown()),
    }
}

impl Store for ShardState {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        match self.in_tables(key) {
            Some(value) => value,
            None => self.over_blocks(|blocks| blocks.get(key)),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<(Bytes, Bytes)> {
        let mut found = Vec::new();
        let mut from = Bytes::copy_from_slice(from);
        while found.len() < limit && from.as_ref() < to {
            from = self.scan_block(&from, to, limit, &mut found);
        }
        found
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Option<(Bytes, Bytes)> {
        let mut to = Bytes::copy_from_slice(to);
        while from < to.as_ref() {
            let range = (from, Bound::Excluded(to.as_ref()));
            let layers = [Some(&self.active), self.frozen.as_ref().map(|frozen| &frozen.table)];
            let in_tables = layers
                .into_iter()
                .flatten()
                .filter_map(|table| table.range(range.0, range.1).next_back())
                .map(|(key, _)| key)
                .max();
            let stored = self.over_blocks(|blocks| {
                let Some((key, value)) = blocks.last(from, &to)? else { return Ok(None) };
                if in_tables.is_some_and(|newer| newer >= key.as_ref()) {
                    return Ok(None);
                }
                Ok(Some((key.clone(), blocks.value(&key, value)?)))
            });
            if stored.is_some() {
                return stored;
            }
            let key = Bytes::copy_from_slice(in_tables?);
            match self.in_tables(&key) {
                Some(Some(value)) => return Some((key, value)),
                // Deleted: look before it.
                _ => to = key,
            }
        }
        None
    }
}

/// How many cells beyond the wanted ones a scan looks at in one step: deleted ones do not count.
const PAGE: usize = 64;

impl ShardState {
    /// Scans one block with what the tables say of its part of the range; gives where to go on.
    fn scan_block(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        found: &mut Vec<(Bytes, Bytes)>,
    ) -> Bytes {
        let page = (limit - found.len()).saturating_add(PAGE);
        // Blocks do not change between finding them and reading their pieces.
        let _gate = self.gate.read();
        let (mut stored, next) =
            self.base.ask(|kv| Blocks { kv, shard: self.shard }.run(from, page));
        let end = next.filter(|next| next.as_ref() < to);
        let end = end.unwrap_or_else(|| Bytes::copy_from_slice(to));
        // A table that was cut short says nothing of the keys behind the cut.
        let end = self.cut(from, &end, page).unwrap_or(end);
        let mut changed = self.tables(from, Bound::Excluded(&end), page).into_iter().peekable();
        stored.retain(|(key, _)| *key < end);
        let mut stored = stored.into_iter().peekable();
        while found.len() < limit {
            let older = match (stored.peek(), changed.peek()) {
                (Some((old, _)), Some((new, _))) if new <= old => {
                    if new == old {
                        stored.next();
                    }
                    false
                }
                (Some(_), _) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            if older && let Some((key, value)) = stored.next() {
                let value =
                    self.base.ask(|kv| Blocks { kv, shard: self.shard }.value(&key, value.clone()));
                found.push((key, value));
            } else if let Some((key, Some(value))) = changed.next() {
                found.push((key, value));
            }
        }
        end
    }

    /// Returns the smallest key at which a table's cells of the range were cut off by `limit`.
    fn cut(&self, from: &[u8], to: &[u8], limit: usize) -> Option<Bytes> {
        let layers = [self.frozen.as_ref().map(|frozen| &frozen.table), Some(&self.active)];
        layers
            .into_iter()
            .flatten()
            .filter_map(|table| table.range(from, Bound::Excluded(to)).nth(limit))
            .map(|(key, _)| Bytes::copy_from_slice(key))
            .min()
    }
}

impl StoreMut for ShardState {
    fn put(&mut self, key: Vec<u8>, value: Bytes) {
        debug_assert!(key.len() <= KEY_BYTES_MAX);
        self.active.put(key, value, false);
    }

    fn put_new(&mut self, key: Vec<u8>, value: Bytes) {
        debug_assert!(key.len() <= KEY_BYTES_MAX);
        self.active.put(key, value, true);
    }

    fn delete(&mut self, key: &[u8]) {
        self.active.delete(key);
    }
}
