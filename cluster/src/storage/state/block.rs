//! The bytes of a block: a short run of neighbouring pairs under one sled key.
//!
//! ```text
//! block = version u8 · length of the shared prefix u16 · prefix · pairs
//! pair  = length of the rest of the key u16 · kind u8 · length u32 · rest of the key · value
//! ```
//!
//! - Owns: nothing. Takes: sorted pairs. Gives: bytes, and them back.
//! - Bound: `PIECE_BYTES_MAX`; a value above `INLINE_BYTES_MAX` is kept in pieces beside the block
//!   (kind 1), whose length is all that the block says of it.
//! - Source: own design. Version 1 is the first.

use bytes::{Buf, BufMut, Bytes};

use crate::limits::PIECE_BYTES_MAX;

const VERSION: u8 = 1;
const PAIR_BYTES: usize = 7;

/// A value as a block holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// The value itself.
    Inline(Bytes),
    /// The length of a value kept in pieces.
    Pieces(u32),
}

impl Stored {
    fn bytes(&self) -> usize {
        match self {
            Self::Inline(value) => value.len(),
            Self::Pieces(_) => 0,
        }
    }
}

/// One pair of a block.
pub(crate) type StoredPair = (Bytes, Stored);

/// Returns the most that a pair can add to a block.
pub(crate) fn pair_bytes(key: &[u8], value: &Stored) -> usize {
    PAIR_BYTES + key.len() + value.bytes()
}

/// Encodes sorted pairs.
pub(crate) fn encode(pairs: &[StoredPair]) -> Vec<u8> {
    let prefix = match (pairs.first(), pairs.last()) {
        (Some((first, _)), Some((last, _))) => shared(first, last),
        _ => 0,
    };
    let bytes = pairs.iter().map(|(key, value)| pair_bytes(key, value)).sum::<usize>();
    let mut out = Vec::with_capacity(bytes.min(PIECE_BYTES_MAX) + 3);
    out.put_u8(VERSION);
    out.put_u16_le(u16::try_from(prefix).unwrap_or(0));
    out.put_slice(pairs.first().and_then(|(key, _)| key.get(..prefix)).unwrap_or_default());
    for (key, value) in pairs {
        let rest = key.get(prefix..).unwrap_or_default();
        out.put_u16_le(u16::try_from(rest.len()).unwrap_or(u16::MAX));
        let (kind, length) = match value {
            Stored::Inline(value) => (0, u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Stored::Pieces(length) => (1, *length),
        };
        out.put_u8(kind);
        out.put_u32_le(length);
        out.put_slice(rest);
        if let Stored::Inline(value) = value {
            out.put_slice(value);
        }
    }
    out
}

fn shared(first: &[u8], last: &[u8]) -> usize {
    first.iter().zip(last).take_while(|(a, b)| a == b).count().min(usize::from(u16::MAX))
}

/// Decodes a block, oldest key first; stops at bytes that mean nothing.
pub(crate) fn decode(block: &Bytes) -> Vec<StoredPair> {
    let mut pairs = Vec::new();
    walk(block, |prefix, rest, value| {
        let mut key = Vec::with_capacity(prefix.len() + rest.len());
        key.extend_from_slice(prefix);
        key.extend_from_slice(rest);
        pairs.push((Bytes::from(key), value));
        true
    });
    pairs
}

/// Decodes at most `limit` pairs whose key is not below `from`.
pub(crate) fn decode_from(block: &Bytes, from: &[u8], limit: usize) -> Vec<StoredPair> {
    let mut pairs = Vec::new();
    let mut key = Vec::new();
    walk(block, |prefix, rest, value| {
        key.clear();
        key.extend_from_slice(prefix);
        key.extend_from_slice(rest);
        if key.as_slice() >= from {
            pairs.push((Bytes::copy_from_slice(&key), value));
        }
        pairs.len() < limit
    });
    pairs
}

/// Finds one key without decoding the others.
pub(crate) fn find(block: &Bytes, key: &[u8]) -> Option<Stored> {
    let mut found = None;
    walk(block, |prefix, rest, value| {
        let same = key.strip_prefix(prefix) == Some(rest);
        if same {
            found = Some(value);
        }
        !same
    });
    found
}

/// Calls `visit` with (prefix, rest of the key, value) until it gives `false`.
fn walk(block: &Bytes, mut visit: impl FnMut(&[u8], &[u8], Stored) -> bool) {
    let mut at = block.clone();
    if at.try_get_u8() != Ok(VERSION) {
        return;
    }
    let Ok(prefix) = at.try_get_u16_le() else { return };
    if at.len() < usize::from(prefix) {
        return;
    }
    let prefix = at.split_to(usize::from(prefix));
    while at.len() >= PAIR_BYTES {
        let rest = usize::from(at.get_u16_le());
        let kind = at.get_u8();
        let length = at.get_u32_le();
        let inline = if kind == 0 { usize::try_from(length).unwrap_or(usize::MAX) } else { 0 };
        if at.len() < rest.saturating_add(inline) {
            return;
        }
        let rest = at.split_to(rest);
        let value =
            if kind == 0 { Stored::Inline(at.split_to(inline)) } else { Stored::Pieces(length) };
        if !visit(&prefix, &rest, value) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn block_when_decoded_then_equals_what_was_encoded(
            pairs in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 0..20),
                proptest::collection::vec(any::<u8>(), 0..50),
                0..20,
            )
        ) {
            let pairs: Vec<StoredPair> = pairs
                .into_iter()
                .map(|(key, value)| (Bytes::from(key), Stored::Inline(Bytes::from(value))))
                .collect();
            let block = Bytes::from(encode(&pairs));
            prop_assert_eq!(&decode(&block), &pairs);
            for (key, value) in &pairs {
                prop_assert_eq!(find(&block, key), Some(value.clone()));
            }
        }

        #[test]
        fn block_when_bytes_are_random_then_decoding_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&Bytes::from(bytes));
        }
    }
}
