//! A snapshot: the shard's last checkpoint, kept as it is for as long as somebody reads it.
//!
//! - Owns: a pin that holds off the next checkpoint of the shard.
//! - Takes: nothing. Gives: the store's pairs, in order, a page at a time.
//! - Bound: building one costs nothing but the checkpoint; data is read only when a follower asks.
//! - Source: openraft 0.9, feature `generic-snapshot-data`.

use std::{fmt, io, sync::Arc};

use crate::storage::{
    checkpoint::{Pin, ShardStore},
    state::kv::Pair,
};

/// Data of a snapshot; empty until a sender fills it.
#[derive(Default)]
pub(crate) struct SnapshotData {
    source: Option<(Arc<ShardStore>, Pin)>,
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotData({:?})", self.source.as_ref().map(|(store, _)| store.shard))
    }
}

impl SnapshotData {
    pub(crate) fn of(store: Arc<ShardStore>, pin: Pin) -> Self {
        Self { source: Some((store, pin)) }
    }

    /// Calls `take` with every pair of the store, in order.
    pub(crate) fn pairs(&self, take: impl FnMut(Pair) -> io::Result<()>) -> io::Result<()> {
        match &self.source {
            Some((store, _)) => pairs(store, take),
            None => Ok(()),
        }
    }
}

/// Calls `take` with every pair of a shard whose pin the caller holds.
pub(crate) fn pairs(
    store: &ShardStore,
    mut take: impl FnMut(Pair) -> io::Result<()>,
) -> io::Result<()> {
    let mut next = store.base.kv.floor(store.shard, &[0])?;
    if next.is_none() {
        next = store.base.kv.above(store.shard, &[0])?;
    }
    while let Some((key, value)) = next {
        next = store.base.kv.above(store.shard, &key)?;
        take((key, value))?;
    }
    Ok(())
}
