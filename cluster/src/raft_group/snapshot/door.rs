//! The door to the decoders of snapshots, for `crate::doors` alone.
//!
//! - Owns: nothing. Takes: arbitrary bytes. Gives: nothing; panics where a promise is broken.
//! - Bound: pieces, as everywhere.

use std::{io, path::PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::{
    file::{Meta, Reader, Writer},
    wire::{Answer, Question},
};
use crate::storage::{
    shelf::{Item, Kind, Shelf},
    state::kv::Pair,
};

const ITEM: Item = Item { kind: Kind::Staging, group: 0 };

/// Reads `bytes` as what sender and receiver say, and as a file, as it is and with the right sum.
pub(crate) fn snapshot(bytes: &[u8]) {
    if let Some((group, question)) = Question::decode(Bytes::copy_from_slice(bytes)) {
        let again = Question::decode(question.encode(group));
        assert_eq!(again, Some((group, question)), "a question reads another after being written");
    }
    if let Some(answer) = Answer::decode(bytes) {
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    }
    let sum: [u8; 32] = Sha256::digest(bytes).into();
    for file in [bytes.to_vec(), [bytes, &sum[..]].concat()] {
        let Ok((meta, pairs)) = read(&OneFile(Mutex::new(file))) else { continue };
        let written = OneFile(Mutex::default());
        write(&written, &meta, &pairs).unwrap_or_default();
        assert_eq!(read(&written).ok(), Some((meta, pairs)), "a file reads another one");
    }
}

fn read(file: &OneFile) -> io::Result<(Meta, Vec<Pair>)> {
    let mut reader = Reader::open(file, ITEM)?;
    let mut pairs = Vec::new();
    while let Some(pair) = reader.next()? {
        pairs.push(pair);
    }
    Ok((reader.meta, pairs))
}

fn write(file: &OneFile, meta: &Meta, pairs: &[Pair]) -> io::Result<()> {
    let mut writer = Writer::create(file, ITEM, meta.clone())?;
    pairs.iter().try_for_each(|pair| writer.put(pair))?;
    writer.finish().map(drop)
}

/// A folder with one file.
struct OneFile(Mutex<Vec<u8>>);

impl Shelf for OneFile {
    fn installs(&self) -> io::Result<Vec<u16>> {
        Ok(Vec::new())
    }

    fn create(&self, _item: Item) -> io::Result<()> {
        self.0.lock().clear();
        Ok(())
    }

    fn write(&self, _item: Item, _offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn read(&self, _item: Item, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let file = self.0.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        let to = from.saturating_add(bytes_max).min(file.len());
        Ok(Bytes::copy_from_slice(&file[from..to]))
    }

    fn promote(&self, _group: u16) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _item: Item) -> io::Result<()> {
        Ok(())
    }

    fn path(&self, _item: Item) -> PathBuf {
        PathBuf::new()
    }
}
