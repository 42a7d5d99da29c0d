//! The index of a log: which messages match its filter, in chunks of fixed-size items.
//!
//! - Owns: the layout of an item and of a chunk; reading one log, and several merged by position.
//! - Takes: the store. Gives: items in the order of their positions.
//! - Bound: `CHUNK_ITEMS` in a chunk (under 4 KiB); a reader holds at most `READ_CHUNKS` of them.
//!
//! ```text
//! chunk: version u32 | reserved u32 | messages before u64 | bytes before u64 | items …
//! item:  entry u64 | offset u32 | first offset of its body chunk u32 | size u32 | expires (s) u32
//!        | subscription id u32 | flags u32
//! ```
//! Numbers are little endian.

use std::{cmp::Reverse, collections::BinaryHeap};

use bytes::Bytes;
use hongqiao_cluster::machine::Store;

use super::{
    key,
    record::{Amount, LogStateRecord},
};
use crate::model::{id::Position, message::Qos};

/// Items in a full chunk.
pub(super) const CHUNK_ITEMS: u32 = 96;

const VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;
const ITEM_BYTES: usize = 32;
/// Chunks that a reader asks for at once.
const READ_CHUNKS: usize = 4;

/// One message in one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) position: Position,
    /// Offset of the first message of its body chunk.
    pub(super) chunk: u32,
    /// Bytes of topic, properties and payload.
    pub(super) size: u32,
    /// Seconds since 1970, rounded up; 0 = never.
    pub(super) expires_secs: u32,
    /// In a private log: how it is delivered. The options of a filter's log are the subscriptions'.
    pub(super) private: Option<(Qos, u32)>,
}

impl Item {
    fn write(&self, out: &mut Vec<u8>) {
        let (flags, id) =
            self.private.map_or((0, 0), |(qos, id)| (1 | u32::from(qos as u8) << 1, id));
        out.extend_from_slice(&self.position.entry.to_le_bytes());
        for part in [self.position.offset, self.chunk, self.size, self.expires_secs, id, flags] {
            out.extend_from_slice(&part.to_le_bytes());
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<ITEM_BYTES>()?;
        let part = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let entry = u64::from(part(0)) | u64::from(part(4)) << 32;
        let flags = part(28);
        let qos = Qos::from_bits((flags >> 1 & 3).to_le_bytes()[0]).unwrap_or_default();
        Some(Self {
            position: Position { entry, offset: part(8) },
            chunk: part(12),
            size: part(16),
            expires_secs: part(20),
            private: (flags & 1 == 1).then_some((qos, part(24))),
        })
    }

    /// Tells whether the message has certainly expired.
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_secs != 0 && u64::from(self.expires_secs) * 1_000 <= now_ms
    }
}

/// Starts a chunk; `before` is all that the log held before its first item.
pub(super) fn begin_chunk(before: Amount, items: usize) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(HEAD_BYTES + items * ITEM_BYTES);
    chunk.extend_from_slice(&VERSION.to_le_bytes());
    chunk.extend_from_slice(&[0; 4]);
    chunk.extend_from_slice(&before.messages.to_le_bytes());
    chunk.extend_from_slice(&before.bytes.to_le_bytes());
    chunk
}

/// Copies a chunk, with room for `items` more.
pub(super) fn reopen_chunk(chunk: &Bytes, items: usize) -> Vec<u8> {
    let mut copy = Vec::with_capacity(chunk.len() + items * ITEM_BYTES);
    copy.extend_from_slice(chunk);
    copy
}

pub(super) fn push_item(chunk: &mut Vec<u8>, item: &Item) {
    item.write(chunk);
}

/// Returns the items of a chunk; none of a version that is not known.
pub(super) fn items(chunk: &Bytes) -> impl Iterator<Item = Item> + '_ {
    let known = chunk.first_chunk::<4>().is_some_and(|bytes| u32::from_le_bytes(*bytes) == VERSION);
    let items = if known { chunk.get(HEAD_BYTES..).unwrap_or_default() } else { &[] };
    items.chunks_exact(ITEM_BYTES).filter_map(Item::read)
}

fn amount_before(chunk: &Bytes) -> Amount {
    let number = |at: usize| {
        let bytes = chunk.get(at..).and_then(|bytes| bytes.first_chunk::<8>());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    Amount { messages: number(8), bytes: number(16) }
}

/// Returns how much the log ever stored before `position`.
pub(super) fn amount_at(
    store: &dyn Store,
    log: u64,
    state: &LogStateRecord,
    position: Position,
) -> Amount {
    if position > state.last {
        return state.total;
    }
    if position <= state.trimmed_to {
        return state.trimmed;
    }
    let (from, to) = (key::index(log, Position::START), key::index(log, position));
    let Some((_, chunk)) = store.last(&from, &to) else { return state.trimmed };
    let mut amount = amount_before(&chunk);
    for item in items(&chunk).take_while(|item| item.position < position) {
        amount.add(item.size);
    }
    amount
}

/// Reads one log forwards.
pub(super) struct IndexReader<'a> {
    store: &'a dyn Store,
    log: u64,
    end: Position,
    /// Chunks to come, the next one last.
    chunks: Vec<Bytes>,
    chunk: Bytes,
    at: usize,
    /// Where to look for more chunks; `None`: there are none.
    more: Option<Vec<u8>>,
}

impl<'a> IndexReader<'a> {
    /// Begins at the first item that is not before `from`; ends before `end`.
    pub(super) fn new(store: &'a dyn Store, log: u64, from: Position, end: Position) -> Self {
        let start = key::index(log, Position::START);
        let first = store.last(&start, &key::index(log, from.next()));
        let (chunk, more) = match first {
            Some((key, chunk)) => (chunk, key::after(&key)),
            None => (Bytes::new(), start),
        };
        let mut reader =
            Self { store, log, end, chunks: Vec::new(), chunk, at: HEAD_BYTES, more: Some(more) };
        while reader.peek().is_some_and(|item| item.position < from) {
            reader.at += ITEM_BYTES;
        }
        reader
    }

    pub(super) fn peek(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.chunk.get(self.at..).and_then(Item::read) {
                return (item.position < self.end).then_some(item);
            }
            self.chunk = self.next_chunk()?;
            self.at = HEAD_BYTES;
        }
    }

    pub(super) fn skip(&mut self) {
        self.at += ITEM_BYTES;
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            let from = self.more.take()?;
            let found = self.store.scan(&from, &key::index_end(self.log), READ_CHUNKS);
            if found.len() == READ_CHUNKS {
                self.more = found.last().map(|(key, _)| key::after(key));
            }
            self.chunks.extend(found.into_iter().rev().map(|(_, chunk)| chunk));
        }
        self.chunks.pop()
    }
}

/// Reads several logs as one, by position.
pub(super) struct Merge<'a> {
    readers: Vec<(usize, IndexReader<'a>)>,
    heap: BinaryHeap<Reverse<(Position, usize)>>,
}

impl<'a> Merge<'a> {
    /// Merges readers; the number beside each comes back with its items.
    pub(super) fn new(readers: impl Iterator<Item = (usize, IndexReader<'a>)>) -> Self {
        let mut merge = Self { readers: readers.collect(), heap: BinaryHeap::new() };
        for at in 0..merge.readers.len() {
            merge.refill(at);
        }
        merge
    }

    /// Returns the position of the next item.
    pub(super) fn peek(&self) -> Option<Position> {
        self.heap.peek().map(|Reverse((position, _))| *position)
    }

    /// Returns the next item and the number of its log.
    pub(super) fn next(&mut self) -> Option<(usize, Item)> {
        let Reverse((_, at)) = self.heap.pop()?;
        let (number, reader) = self.readers.get_mut(at)?;
        let found = reader.peek().map(|item| (*number, item));
        reader.skip();
        self.refill(at);
        found
    }

    fn refill(&mut self, at: usize) {
        if let Some((_, reader)) = self.readers.get_mut(at)
            && let Some(item) = reader.peek()
        {
            self.heap.push(Reverse((item.position, at)));
        }
    }
}
