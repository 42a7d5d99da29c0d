//! Twins of the disk and of the store: they record calls, forget what was not synced, or fail.
//!
//! - Owns: what a test would otherwise find on a disk. Takes: the same calls. Gives: what a test asks.
//! - Bound: none; tests only.
//! - Source: own design.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    disk::{Disk, SegmentFile},
    state::kv::{Batch, Kv, Pair},
};

/// What was asked of a disk, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Sync,
    /// Noted by a test, between the calls of the log.
    Done,
}

#[derive(Default, Clone)]
pub(crate) struct FileTwin {
    pub(crate) bytes: Vec<u8>,
    pub(crate) synced: Vec<u8>,
}

/// A disk in memory.
#[derive(Clone, Default)]
pub(crate) struct DiskTwin(pub(crate) Arc<DiskState>);

#[derive(Default)]
pub(crate) struct DiskState {
    pub(crate) files: Mutex<BTreeMap<u64, FileTwin>>,
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) fail_writes: AtomicBool,
    pub(crate) fail_syncs: AtomicBool,
    pub(crate) free_bytes: AtomicU64,
}

impl DiskTwin {
    pub(crate) fn new() -> Self {
        let disk = Self::default();
        disk.0.free_bytes.store(u64::MAX, Ordering::SeqCst);
        disk
    }

    /// Returns the disk as it is after the power was cut: without what was not synced.
    pub(crate) fn after_power_loss(&self) -> Self {
        let mut files = self.0.files.lock().clone();
        for file in files.values_mut() {
            file.bytes.clone_from(&file.synced);
        }
        Self::of(files)
    }

    /// Returns a copy of the disk as the operating system sees it: after `kill -9`.
    pub(crate) fn after_kill(&self) -> Self {
        Self::of(self.0.files.lock().clone())
    }

    fn of(files: BTreeMap<u64, FileTwin>) -> Self {
        let disk = Self::new();
        *disk.0.files.lock() = files;
        disk
    }
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl Disk for DiskTwin {
    fn segments(&self) -> io::Result<Vec<u64>> {
        Ok(self.0.files.lock().keys().copied().collect())
    }

    fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        Ok(self.0.files.lock().get(&segment).map(|file| file.bytes.clone()).unwrap_or_default())
    }

    fn create(&self, to: u64, _from: Option<u64>) -> io::Result<Box<dyn SegmentFile>> {
        if self.0.fail_writes.load(Ordering::SeqCst) {
            return Err(full());
        }
        self.0.files.lock().entry(to).or_default();
        Ok(Box::new(OpenTwin { disk: self.clone(), segment: to }))
    }

    fn retire(&self, segment: u64) -> io::Result<()> {
        self.remove(segment)
    }

    fn remove(&self, segment: u64) -> io::Result<()> {
        self.0.files.lock().remove(&segment);
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn release_reserve(&self) -> io::Result<()> {
        Ok(())
    }

    fn hold_reserve(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.0.free_bytes.load(Ordering::SeqCst))
    }

    fn path(&self, segment: u64) -> PathBuf {
        format!("twin/{segment}.log").into()
    }
}

struct OpenTwin {
    disk: DiskTwin,
    segment: u64,
}

impl SegmentFile for OpenTwin {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.0.calls.lock().push(Call::Write);
        let offset = usize::try_from(offset).unwrap();
        let mut files = self.disk.0.files.lock();
        let file = &mut files.entry(self.segment).or_default().bytes;
        // A failing write may leave a part of its bytes behind.
        let fails = self.disk.0.fail_writes.load(Ordering::SeqCst);
        let taken = if fails { bytes.len() / 2 } else { bytes.len() };
        file.resize(file.len().max(offset + taken), 0);
        file[offset..offset + taken].copy_from_slice(&bytes[..taken]);
        if fails { Err(full()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.disk.0.fail_syncs.load(Ordering::SeqCst) {
            return Err(io::Error::other("the twin does not sync"));
        }
        self.disk.0.calls.lock().push(Call::Sync);
        let mut files = self.disk.0.files.lock();
        let file = files.entry(self.segment).or_default();
        file.synced.clone_from(&file.bytes);
        Ok(())
    }
}

type Trees = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

/// A store in memory; `reopen` forgets what was not flushed, as sled does.
#[derive(Clone, Default)]
pub(crate) struct KvTwin(pub(crate) Arc<KvState>);

#[derive(Default)]
pub(crate) struct KvState {
    now: Mutex<Trees>,
    flushed: Mutex<Trees>,
    pub(crate) fail: AtomicBool,
    generation: AtomicU64,
}

impl KvTwin {
    fn check(&self) -> io::Result<()> {
        if self.0.fail.load(Ordering::SeqCst) { Err(full()) } else { Ok(()) }
    }

    pub(crate) fn after_power_loss(&self) -> Self {
        let kv = Self::default();
        kv.0.now.lock().clone_from(&self.0.flushed.lock());
        kv.0.flushed.lock().clone_from(&self.0.flushed.lock());
        kv
    }

    pub(crate) fn len(&self, shard: u16) -> usize {
        self.0.now.lock().keys().filter(|key| key.0 == shard).count()
    }
}

fn owned(((_, key), value): (&(u16, Vec<u8>), &Vec<u8>)) -> Pair {
    (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
}

impl Kv for KvTwin {
    fn get(&self, shard: u16, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.check()?;
        Ok(self.0.now.lock().get(&(shard, key.to_vec())).map(|v| Bytes::copy_from_slice(v)))
    }

    fn floor(&self, shard: u16, key: &[u8]) -> io::Result<Option<Pair>> {
        self.check()?;
        let from = (shard, Vec::new());
        Ok(self.0.now.lock().range(from..=(shard, key.to_vec())).next_back().map(owned))
    }

    fn above(&self, shard: u16, key: &[u8]) -> io::Result<Option<Pair>> {
        self.check()?;
        let mut key = key.to_vec();
        key.push(0);
        let to = (shard + 1, Vec::new());
        Ok(self.0.now.lock().range((shard, key)..to).next().map(owned))
    }

    fn apply(&self, shard: u16, batch: Batch) -> io::Result<()> {
        self.check()?;
        let mut now = self.0.now.lock();
        for (key, value) in batch {
            match value {
                Some(value) => {
                    assert!(value.len() <= crate::limits::PIECE_BYTES_MAX);
                    now.insert((shard, key), value)
                }
                None => now.remove(&(shard, key)),
            };
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.check()?;
        self.0.flushed.lock().clone_from(&self.0.now.lock());
        Ok(())
    }

    fn reopen(&self) -> io::Result<()> {
        self.check()?;
        self.0.now.lock().clone_from(&self.0.flushed.lock());
        self.0.generation.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn close(&self) {}

    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::SeqCst)
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
