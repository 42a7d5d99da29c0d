//! Turns a frozen memory table into changed blocks: what a checkpoint writes.
//!
//! - Owns: nothing. Takes: the shard's blocks and a table. Gives: one batch for the store.
//! - Bound: a batch is at most a few times the table; each block is read and written once.
//! - Small neighbours are joined when one of them is rewritten; keys that only grow fill their blocks.
//! - Source: own design; the leaf level of a B-tree, rewritten in key order.

use std::{io, iter::Peekable};

use bytes::Bytes;

use super::{
    block::{self, Stored, StoredPair},
    blocks::{Block, Blocks, block_key, piece_key, pieces},
    kv::Batch,
    table::{Cell, Table},
};
use crate::limits::{INLINE_BYTES_MAX, PIECE_BYTES_MAX};

/// A block with fewer bytes takes in the next one if that is small, too.
const JOIN_BELOW_BYTES: usize = PIECE_BYTES_MAX / 4;
/// Room for pairs: a block less its version and the length of its prefix.
const ROOM_BYTES: usize = PIECE_BYTES_MAX - 3;

/// Returns the changes that bring `blocks` up to `table`.
pub(crate) fn merge(blocks: &Blocks<'_>, table: &Table) -> io::Result<Batch> {
    let mut batch = Batch::with_capacity(table.len() / 4 + 1);
    let mut cells = table.iter().peekable();
    while let Some((key, _)) = cells.peek() {
        let held = blocks.holding(key)?;
        let mut next = match &held {
            Some(block) => blocks.after(&block.fence)?,
            None => blocks.after(key)?,
        };
        let old = held.as_ref().map(|block| block::decode(&block.bytes)).unwrap_or_default();
        let grows = grows(&old, &mut cells, next.as_ref());
        let mut pairs = join(old, &mut cells, next.as_ref(), &mut batch);
        while size(&pairs) < JOIN_BELOW_BYTES
            && let Some(small) = next.take_if(|next| next.bytes.len() < PIECE_BYTES_MAX / 2)
        {
            batch.push((block_key(&small.fence), None));
            next = blocks.after(&small.fence)?;
            pairs.extend(join(block::decode(&small.bytes), &mut cells, next.as_ref(), &mut batch));
        }
        write(held.map(|block| block.fence), &pairs, grows, &mut batch);
    }
    Ok(batch)
}

/// Whether the first change comes behind all that the block holds: such blocks are filled up.
fn grows<'a>(
    old: &[StoredPair],
    cells: &mut Peekable<impl Iterator<Item = (&'a [u8], &'a Cell)>>,
    next: Option<&Block>,
) -> bool {
    let first = cells.peek().filter(|(key, _)| next.is_none_or(|next| *key < next.fence.as_ref()));
    match (old.last(), first) {
        (Some((last, _)), Some((first, _))) => *first > last.as_ref(),
        _ => true,
    }
}

/// Joins old pairs with the changes before the next block; the newer wins.
fn join<'a>(
    old: Vec<StoredPair>,
    cells: &mut Peekable<impl Iterator<Item = (&'a [u8], &'a Cell)>>,
    next: Option<&Block>,
    batch: &mut Batch,
) -> Vec<StoredPair> {
    let mut pairs = Vec::with_capacity(old.len());
    let mut old = old.into_iter().peekable();
    while let Some((key, cell)) =
        cells.next_if(|(key, _)| next.is_none_or(|next| *key < next.fence.as_ref()))
    {
        while let Some(pair) = old.next_if(|(old, _)| old.as_ref() < key) {
            pairs.push(pair);
        }
        if let Some((_, stored)) = old.next_if(|(old, _)| old.as_ref() == key) {
            remove_pieces(key, &stored, cell, batch);
        }
        if let Some(value) = &cell.value {
            pairs.push((Bytes::copy_from_slice(key), store(key, value, batch)));
        }
    }
    pairs.extend(old);
    pairs
}

/// Removes the pieces of an old value that the new one does not overwrite.
fn remove_pieces(key: &[u8], old: &Stored, new: &Cell, batch: &mut Batch) {
    let Stored::Pieces(length) = old else { return };
    let kept = match &new.value {
        Some(value) if value.len() > INLINE_BYTES_MAX => {
            pieces(u32::try_from(value.len()).unwrap_or(u32::MAX))
        }
        _ => 0,
    };
    for number in kept..pieces(*length) {
        batch.push((piece_key(key, number), None));
    }
}

/// Returns what a block says of a value; a large one goes to pieces beside it.
fn store(key: &[u8], value: &Bytes, batch: &mut Batch) -> Stored {
    if value.len() <= INLINE_BYTES_MAX {
        return Stored::Inline(value.clone());
    }
    for (number, piece) in (0_u32..).zip(value.chunks(PIECE_BYTES_MAX)) {
        batch.push((piece_key(key, number), Some(piece.to_vec())));
    }
    Stored::Pieces(u32::try_from(value.len()).unwrap_or(u32::MAX))
}

fn size(pairs: &[StoredPair]) -> usize {
    pairs.iter().map(|(key, value)| block::pair_bytes(key, value)).sum()
}

/// Writes pairs as one block or several; the first keeps the fence that was there.
fn write(fence: Option<Bytes>, pairs: &[StoredPair], grows: bool, batch: &mut Batch) {
    if pairs.is_empty() {
        batch.extend(fence.map(|fence| (block_key(&fence), None)));
        return;
    }
    let total = size(pairs);
    let target = if grows { ROOM_BYTES } else { total.div_ceil(total.div_ceil(ROOM_BYTES)) };
    let mut fence = fence;
    let mut start = 0;
    let mut bytes = 0;
    for (at, (key, value)) in pairs.iter().enumerate() {
        let pair = block::pair_bytes(key, value);
        if at > start && (bytes + pair > ROOM_BYTES || bytes >= target) {
            emit(&mut fence, pairs.get(start..at), batch);
            (start, bytes) = (at, 0);
        }
        bytes += pair;
    }
    emit(&mut fence, pairs.get(start..), batch);
}

fn emit(fence: &mut Option<Bytes>, pairs: Option<&[StoredPair]>, batch: &mut Batch) {
    let Some(pairs) = pairs else { return };
    if let Some(fence) = fence.take().or_else(|| pairs.first().map(|(key, _)| key.clone())) {
        batch.push((block_key(&fence), Some(block::encode(pairs))));
    }
}
