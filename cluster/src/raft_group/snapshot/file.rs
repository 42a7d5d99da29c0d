//! The file of a snapshot: everything of a group's state, and what proves that it is whole.
//!
//! ```text
//! magic 8 · group u16 · head length u32 · head (bincode: what openraft knows of it)
//! key length u16 · value length u16 · key · value          ... in key order
//! 0xFFFF · number of pairs u64 · SHA-256 of all before it     little endian
//! ```
//!
//! - Owns: nothing. Takes: pairs. Gives: a file; and its pairs, once its sum is right.
//! - Bound: pieces of `PIECE_BYTES` in memory, whatever the state is; a head of `HEAD_BYTES_MAX`.
//! - Source: own design. A later version has another magic.

use std::io;

use bincode::Options as _;
use bytes::{Buf, BufMut, Bytes};
use openraft::{EmptyNode, SnapshotMeta};
use sha2::{Digest as _, Sha256};

use crate::{
    codec::fixed,
    storage::{
        shelf::{Item, Shelf},
        state::kv::Pair,
    },
};

const MAGIC: [u8; 8] = *b"hqsnap\x00\x01";

/// What is read, written or sent at a time.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// A membership of more nodes than a cluster may have.
const HEAD_BYTES_MAX: usize = 64 << 10;

const END: u16 = u16::MAX;
const DIGEST_BYTES: usize = 32;

/// Bytes behind the end mark.
const TAIL_BYTES: usize = 8 + DIGEST_BYTES;

/// SHA-256 of a file up to it.
pub(crate) type Digest = [u8; DIGEST_BYTES];

/// What openraft knows of a snapshot.
pub(crate) type Meta = SnapshotMeta<u64, EmptyNode>;

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) meta: Meta,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Writes a file from the front.
pub(crate) struct Writer<'a> {
    shelf: &'a dyn Shelf,
    item: Item,
    meta: Meta,
    buffer: Vec<u8>,
    offset: u64,
    pairs: u64,
    sum: Sha256,
}

impl<'a> Writer<'a> {
    pub(crate) fn create(shelf: &'a dyn Shelf, item: Item, meta: Meta) -> io::Result<Self> {
        shelf.create(item)?;
        let head = fixed(HEAD_BYTES_MAX as u64).serialize(&meta).map_err(io::Error::other)?;
        let mut buffer = MAGIC.to_vec();
        buffer.put_u16_le(item.group);
        buffer.put_u32_le(u32::try_from(head.len()).map_err(io::Error::other)?);
        buffer.extend_from_slice(&head);
        Ok(Self { shelf, item, meta, buffer, offset: 0, pairs: 0, sum: Sha256::new() })
    }

    pub(crate) fn put(&mut self, (key, value): &Pair) -> io::Result<()> {
        let length = |bytes: &Bytes| u16::try_from(bytes.len()).map_err(io::Error::other);
        let (key_bytes, value_bytes) = (length(key)?, length(value)?);
        if key_bytes == END {
            return Err(damaged("a key of the state is too long"));
        }
        self.buffer.put_u16_le(key_bytes);
        self.buffer.put_u16_le(value_bytes);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value);
        self.pairs += 1;
        if self.buffer.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sum.update(&self.buffer);
        self.shelf.write(self.item, self.offset, &self.buffer)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> io::Result<Written> {
        self.buffer.put_u16_le(END);
        self.buffer.put_u64_le(self.pairs);
        self.flush()?;
        let digest: Digest = self.sum.finalize().into();
        self.shelf.write(self.item, self.offset, &digest)?;
        Ok(Written { meta: self.meta, bytes: self.offset + DIGEST_BYTES as u64, digest })
    }
}

/// Reads a file from the front.
pub(crate) struct Reader<'a> {
    shelf: &'a dyn Shelf,
    item: Item,
    offset: u64,
    buffer: Bytes,
    /// Of everything that was read, but for the digest at the end.
    sum: Sha256,
    pub(crate) meta: Meta,
    pairs: u64,
}

impl<'a> Reader<'a> {
    /// Opens a file of whatever is in it.
    ///
    /// # Errors
    /// `InvalidData` if it is no snapshot of its group.
    pub(crate) fn open(shelf: &'a dyn Shelf, item: Item) -> io::Result<Self> {
        let (meta, buffer, sum) = (Meta::default(), Bytes::new(), Sha256::new());
        let mut reader = Self { shelf, item, offset: 0, buffer, sum, meta, pairs: 0 };
        let mut head = reader.take(MAGIC.len() + 6)?;
        if head.split_to(MAGIC.len()) != MAGIC[..] {
            return Err(damaged("not a snapshot, or one of another release"));
        }
        if head.get_u16_le() != item.group {
            return Err(damaged("the snapshot of another group"));
        }
        let head_bytes = usize::try_from(head.get_u32_le()).unwrap_or(usize::MAX);
        if head_bytes > HEAD_BYTES_MAX {
            return Err(damaged("the head is too long"));
        }
        let head = reader.take(head_bytes)?;
        reader.meta = fixed(HEAD_BYTES_MAX as u64)
            .deserialize(&head)
            .map_err(|_| damaged("unreadable head"))?;
        Ok(reader)
    }

    /// Returns the next bytes, which go into the sum.
    fn take(&mut self, bytes: usize) -> io::Result<Bytes> {
        let taken = self.take_silently(bytes)?;
        self.sum.update(&taken);
        Ok(taken)
    }

    fn take_silently(&mut self, bytes: usize) -> io::Result<Bytes> {
        if self.buffer.len() < bytes {
            let more = self.shelf.read(self.item, self.offset, PIECE_BYTES)?;
            self.offset += more.len() as u64;
            self.buffer = match self.buffer.is_empty() {
                true => more,
                false => [&self.buffer[..], &more].concat().into(),
            };
        }
        if self.buffer.len() < bytes {
            return Err(damaged("the file is cut off"));
        }
        Ok(self.buffer.split_to(bytes))
    }

    /// Returns the next pair; `None` behind the last, if the file is whole and its sum is right.
    ///
    /// # Errors
    /// `InvalidData` where it can be seen that the file is damaged.
    pub(crate) fn next(&mut self) -> io::Result<Option<Pair>> {
        let key_bytes = self.take(2)?.get_u16_le();
        if key_bytes == END {
            return self.end().map(|()| None);
        }
        let value_bytes = self.take(2)?.get_u16_le();
        let key = self.take(key_bytes.into())?;
        let value = self.take(value_bytes.into())?;
        self.pairs += 1;
        Ok(Some((key, value)))
    }

    fn end(&mut self) -> io::Result<()> {
        const { assert!(TAIL_BYTES < PIECE_BYTES) };
        let pairs = self.take(8)?.get_u64_le();
        let digest = self.take_silently(DIGEST_BYTES)?;
        let sum: Digest = std::mem::take(&mut self.sum).finalize().into();
        let rest = self.shelf.read(self.item, self.offset, 1)?;
        if pairs != self.pairs || digest != sum[..] {
            return Err(damaged("the sum is wrong"));
        }
        if !self.buffer.is_empty() || !rest.is_empty() {
            return Err(damaged("something follows the end"));
        }
        Ok(())
    }
}

/// Reads a whole file; returns what it is if it is whole.
///
/// # Errors
/// `InvalidData` if it is damaged, others if it cannot be read.
pub(crate) fn check(shelf: &dyn Shelf, item: Item) -> io::Result<Meta> {
    let mut reader = Reader::open(shelf, item)?;
    while reader.next()?.is_some() {}
    Ok(reader.meta)
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::{
        raft_group::types::LogId,
        storage::{
            shelf::{Kind, RealShelf},
            twin::ShelfTwin,
        },
    };

    const ITEM: Item = Item { kind: Kind::Staging, group: 3 };

    fn meta(index: u64) -> Meta {
        let last = LogId::new(CommittedLeaderId::new(2, 1), index);
        Meta { last_log_id: Some(last), snapshot_id: "x".into(), ..Meta::default() }
    }

    fn pairs(count: usize, bytes: usize) -> Vec<Pair> {
        let pair = |number: usize| {
            let value = vec![u8::try_from(number % 251).unwrap(); bytes];
            (Bytes::from(format!("key {number:09}")), Bytes::from(value))
        };
        (0..count).map(pair).collect()
    }

    fn write(shelf: &dyn Shelf, pairs: &[Pair]) -> Written {
        let mut writer = Writer::create(shelf, ITEM, meta(9)).unwrap();
        pairs.iter().for_each(|pair| writer.put(pair).unwrap());
        writer.finish().unwrap()
    }

    fn read(shelf: &dyn Shelf) -> io::Result<Vec<Pair>> {
        let mut reader = Reader::open(shelf, ITEM)?;
        std::iter::from_fn(|| reader.next().transpose()).collect()
    }

    #[test]
    fn file_when_written_then_reads_the_same_and_its_length_and_sum_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let real = RealShelf::open(folder.path()).unwrap();
        let twin = ShelfTwin::default();
        for shelf in [&real as &dyn Shelf, &twin] {
            for (count, bytes) in [(0, 0), (1, 0), (3, 4_096), (700, 4_096), (90_000, 7)] {
                let pairs = pairs(count, bytes);
                let written = write(shelf, &pairs);
                assert_eq!(read(shelf).unwrap(), pairs);
                assert_eq!(check(shelf, ITEM).unwrap(), meta(9));
                let length = shelf.read(ITEM, 0, 8 << 20).unwrap().len();
                assert_eq!(written.bytes, length as u64);
                let tail = shelf.read(ITEM, written.bytes - 32, 99).unwrap();
                assert_eq!(tail, written.digest[..]);
            }
        }
    }

    #[test]
    fn file_that_is_cut_extended_or_has_a_bit_turned_then_refused() {
        let twin = ShelfTwin::default();
        let written = write(&twin, &pairs(5, 20));
        let length = usize::try_from(written.bytes).unwrap();
        let whole = twin.read(ITEM, 0, length).unwrap();
        let refused = |bytes: &[u8]| {
            twin.create(ITEM).unwrap();
            twin.write(ITEM, 0, bytes).unwrap();
            check(&twin, ITEM).is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
        };
        assert!(!refused(&whole));
        assert!((0..length).all(|cut| refused(&whole[..cut])));
        assert!(refused(&[&whole[..], b"x"].concat()));
        for bit in 0..length * 8 {
            let mut turned = whole.to_vec();
            turned[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&turned), "bit {bit}");
        }
    }

    #[test]
    fn file_of_another_group_then_refused() {
        let twin = ShelfTwin::default();
        write(&twin, &pairs(1, 1));
        let whole = twin.read(ITEM, 0, 1 << 20).unwrap();
        let other = Item { group: 4, ..ITEM };
        twin.create(other).unwrap();
        twin.write(other, 0, &whole).unwrap();
        assert!(check(&twin, other).is_err());
    }
}
