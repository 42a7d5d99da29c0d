//! Reads of one shard's blocks: a key, a range, the last key of a range.
//!
//! ```text
//! 0            meta: last applied entry, membership
//! 0 · node     where the node's stream is (u64, big endian)
//! 1 · fence    a block with the pairs from `fence` up to the next fence
//! 2 · key · n  piece `n` (u32, big endian) of a value too large for a block
//! ```
//!
//! - Owns: nothing. Takes: a `Kv` and a shard. Gives: pairs.
//! - Bound: one block at a time.
//! - Source: own design; the leaves of a B-tree, kept in a store that orders and caches them.

use std::io;

use bytes::{BufMut, Bytes};

use super::{
    block::{self, Stored, StoredPair},
    kv::Kv,
};
use crate::limits::PIECE_BYTES_MAX;

/// Key of the shard's meta record.
pub(crate) const META: &[u8] = &[0];
const BLOCK: u8 = 1;
const PIECE: u8 = 2;

/// One shard's pairs on disk.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    pub(crate) kv: &'a dyn Kv,
    pub(crate) shard: u16,
}

/// A block, and where it begins.
pub(crate) struct Block {
    pub(crate) fence: Bytes,
    pub(crate) bytes: Bytes,
}

/// Returns the store's key of a node's stream.
pub(crate) fn stream_key(node: u64) -> Vec<u8> {
    [META, &node.to_be_bytes()].concat()
}

/// Returns whose stream it is the key of.
pub(crate) fn stream_node(key: &[u8]) -> Option<u64> {
    let node = key.strip_prefix(META)?;
    Some(u64::from_be_bytes(node.try_into().ok()?))
}

/// Returns the store's key of the block that begins at `fence`.
pub(crate) fn block_key(fence: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + fence.len());
    key.push(BLOCK);
    key.extend_from_slice(fence);
    key
}

/// Returns the store's key of a piece.
pub(crate) fn piece_key(key: &[u8], number: u32) -> Vec<u8> {
    let mut piece = Vec::with_capacity(5 + key.len());
    piece.push(PIECE);
    piece.extend_from_slice(key);
    piece.put_u32(number);
    piece
}

/// Returns how many pieces a value of `length` bytes has.
pub(crate) fn pieces(length: u32) -> u32 {
    length.div_ceil(u32::try_from(PIECE_BYTES_MAX).unwrap_or(u32::MAX))
}

impl Blocks<'_> {
    /// Returns the block that holds `key` if any does.
    pub(crate) fn holding(&self, key: &[u8]) -> io::Result<Option<Block>> {
        Ok(self.kv.floor(self.shard, &block_key(key))?.and_then(block_of))
    }

    /// Returns the first block that begins after `key`.
    pub(crate) fn after(&self, key: &[u8]) -> io::Result<Option<Block>> {
        Ok(self.kv.above(self.shard, &block_key(key))?.and_then(block_of))
    }

    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let Some(block) = self.holding(key)? else { return Ok(None) };
        match block::find(&block.bytes, key) {
            Some(stored) => self.value(key, stored).map(Some),
            None => Ok(None),
        }
    }

    /// Puts the pieces of a value together.
    pub(crate) fn value(&self, key: &[u8], stored: Stored) -> io::Result<Bytes> {
        let length = match stored {
            Stored::Inline(value) => return Ok(value),
            Stored::Pieces(length) => length,
        };
        let mut value = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        for number in 0..pieces(length) {
            let piece = self.kv.get(self.shard, &piece_key(key, number))?;
            let missing = || io::Error::new(io::ErrorKind::InvalidData, "a piece is missing");
            value.extend_from_slice(&piece.ok_or_else(missing)?);
        }
        Ok(value.into())
    }

    /// Returns at most `limit` pairs from `from` to the end of the block that may hold it, or of the
    /// first later one that has any; and where the pairs behind them begin.
    pub(crate) fn run(
        &self,
        from: &[u8],
        limit: usize,
    ) -> io::Result<(Vec<StoredPair>, Option<Bytes>)> {
        let mut block = match self.holding(from)? {
            Some(block) => Some(block),
            None => self.after(from)?,
        };
        while let Some(at) = block {
            let mut pairs = block::decode_from(&at.bytes, from, limit.saturating_add(1));
            if pairs.len() > limit {
                return Ok((pairs.drain(..limit).collect(), pairs.pop().map(|(key, _)| key)));
            }
            let next = self.after(&at.fence)?;
            if !pairs.is_empty() {
                return Ok((pairs, next.map(|next| next.fence)));
            }
            block = next;
        }
        Ok((Vec::new(), None))
    }

    /// Returns the last pair with `from <= key < to`.
    pub(crate) fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<StoredPair>> {
        let mut below = to.to_vec();
        // The block that holds `to` may hold what is before it; then the ones before that.
        let mut block = self.holding(&below)?;
        while let Some(at) = block {
            let mut pairs = block::decode(&at.bytes);
            pairs.retain(|(key, _)| key.as_ref() < to);
            if let Some((key, value)) = pairs.pop() {
                return Ok((key.as_ref() >= from).then_some((key, value)));
            }
            if at.fence.as_ref() < from || at.fence.is_empty() {
                return Ok(None);
            }
            below.clear();
            below.extend_from_slice(&at.fence);
            block = self.before(&below)?;
        }
        Ok(None)
    }

    /// Returns the last block that begins before `fence`.
    fn before(&self, fence: &[u8]) -> io::Result<Option<Block>> {
        // Nothing lies between a key and itself with a zero byte behind it, so the greatest key
        // below `fence` is found by asking for what is not above its predecessor.
        let mut key = block_key(fence);
        match key.pop() {
            Some(0) | None => {}
            Some(last) => {
                key.push(last - 1);
                key.resize(key.len() + crate::limits::KEY_BYTES_MAX + 8, 0xFF);
            }
        }
        Ok(self.kv.floor(self.shard, &key)?.and_then(block_of))
    }
}

fn block_of((key, bytes): (Bytes, Bytes)) -> Option<Block> {
    (key.first() == Some(&BLOCK)).then(|| Block { fence: key.slice(1..), bytes })
}
