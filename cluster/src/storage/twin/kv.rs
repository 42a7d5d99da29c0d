//! A store in memory; `reopen` and a crash forget what was not flushed, as sled does.
//!
//! - Owns: pairs, and the batches that were not flushed. Takes: the calls of the state.
//! - Gives: the store as a crash leaves it: what was flushed, and any number of the batches after it, oldest
//!   first. sled keeps its tail in the memory of the process, so `kill -9` is no better than power loss.
//! - Bound: tests only.
//! - Source: own design.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Dice, nothing,
    power::{Power, Write},
};
use crate::storage::state::kv::{Batch, Kv, Pair};

type Trees = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

/// A store in memory.
#[derive(Clone, Default)]
pub(crate) struct KvTwin(pub(crate) Arc<KvState>);

#[derive(Default)]
pub(crate) struct KvState {
    pairs: Mutex<Pairs>,
    pub(crate) fail: AtomicBool,
    generation: AtomicU64,
    power: Arc<Power>,
}

#[derive(Default)]
struct Pairs {
    now: Trees,
    flushed: Trees,
    unflushed: Vec<(u16, Batch)>,
}

fn apply(trees: &mut Trees, shard: u16, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => {
                assert!(value.len() <= crate::limits::PIECE_BYTES_MAX);
                trees.insert((shard, key.clone()), value.clone())
            }
            None => trees.remove(&(shard, key.clone())),
        };
    }
}

impl KvTwin {
    fn check(&self) -> io::Result<()> {
        if self.0.fail.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }

    pub(crate) fn after_power_loss(&self) -> Self {
        self.after_crash_with(Arc::default(), &mut nothing)
    }

    /// Returns the store after a crash that `dice` decides.
    pub(crate) fn after_crash_with(&self, power: Arc<Power>, dice: Dice<'_>) -> Self {
        let pairs = self.0.pairs.lock();
        let mut kept = pairs.flushed.clone();
        for (shard, batch) in pairs.unflushed.iter().take(dice(pairs.unflushed.len() + 1)) {
            apply(&mut kept, *shard, batch);
        }
        let pairs = Pairs { now: kept.clone(), flushed: kept, unflushed: Vec::new() };
        Self(Arc::new(KvState { pairs: Mutex::new(pairs), power, ..KvState::default() }))
    }

    pub(crate) fn len(&self, shard: u16) -> usize {
        self.0.pairs.lock().now.keys().filter(|key| key.0 == shard).count()
    }
}

fn owned(((_, key), value): (&(u16, Vec<u8>), &Vec<u8>)) -> Pair {
    (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
}

impl Kv for KvTwin {
    fn get(&self, shard: u16, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.check()?;
        let pairs = self.0.pairs.lock();
        Ok(pairs.now.get(&(shard, key.to_vec())).map(|v| Bytes::copy_from_slice(v)))
    }

    fn floor(&self, shard: u16, key: &[u8]) -> io::Result<Option<Pair>> {
        self.check()?;
        let (from, to) = ((shard, Vec::new()), (shard, key.to_vec()));
        Ok(self.0.pairs.lock().now.range(from..=to).next_back().map(owned))
    }

    fn above(&self, shard: u16, key: &[u8]) -> io::Result<Option<Pair>> {
        self.check()?;
        let mut key = key.to_vec();
        key.push(0);
        let to = (shard + 1, Vec::new());
        Ok(self.0.pairs.lock().now.range((shard, key)..to).next().map(owned))
    }

    /// Without power it says yes and does nothing: the log behind it does not move either.
    fn apply(&self, shard: u16, batch: Batch) -> io::Result<()> {
        self.check()?;
        let mut pairs = self.0.pairs.lock();
        apply(&mut pairs.now, shard, &batch);
        if self.0.power.write() == Write::Whole {
            pairs.unflushed.push((shard, batch));
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.check()?;
        if self.0.power.write() == Write::Whole {
            let pairs = &mut *self.0.pairs.lock();
            for (shard, batch) in pairs.unflushed.drain(..) {
                apply(&mut pairs.flushed, shard, &batch);
            }
        }
        Ok(())
    }

    fn reopen(&self) -> io::Result<()> {
        self.check()?;
        let mut pairs = self.0.pairs.lock();
        pairs.now = pairs.flushed.clone();
        pairs.unflushed.clear();
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
