//! The snapshot that this node sends: a copy of a checkpoint, so that checkpoints can go on.
//!
//! - Owns: the spool file, and the turn to send. Takes: a group. Gives: a file that stays as it is.
//! - Bound: one file at a time, and one sender of it; whoever only waits for an install has no turn. It is used again, by the same follower after a broken link or by another, as
//!   long as the log holds what follows it; it is removed when it has been sent.
//! - Source: own design.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use rand::RngCore as _;

use super::{
    file::{Meta, Writer, Written},
    meta, pairs,
};
use crate::{
    raft_group::types::LogId,
    runtime::{self, ThreadRng},
    storage::{
        checkpoint::ShardStore,
        log::Log,
        shelf::{Item, Kind, Shelf},
    },
};

/// A copy that is ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    pub(crate) item: Item,
    /// Tells it from every other one.
    pub(crate) number: u64,
    pub(crate) written: Written,
}

/// The snapshots that pass through a node.
pub(crate) struct Snapshots {
    pub(crate) shelf: Arc<dyn Shelf>,
    log: Arc<Log>,
    /// Held while one is copied and sent; the file goes only with it.
    pub(super) turn: tokio::sync::Mutex<()>,
    spool: Mutex<Option<Spool>>,
}

impl Snapshots {
    pub(crate) fn new(shelf: Arc<dyn Shelf>, log: Arc<Log>) -> Arc<Self> {
        Arc::new(Self { shelf, log, turn: tokio::sync::Mutex::default(), spool: Mutex::default() })
    }

    /// Returns the copy of this group, if the log still holds what follows it.
    pub(crate) fn ready(&self, group: u16) -> Option<Spool> {
        let spool = self.spool.lock().clone().filter(|spool| spool.item.group == group)?;
        let purged = self.log.group(group)?.purged;
        (spool.written.meta.last_log_id >= purged).then_some(spool)
    }

    /// Returns what a follower of this group would be sent, if it is not the newest checkpoint.
    pub(crate) fn ready_meta(&self, group: u16) -> Option<Meta> {
        self.ready(group).map(|spool| spool.written.meta)
    }

    /// Returns a copy of this group that holds `least`: the one that is there, or a new one. The caller
    /// has the turn.
    pub(super) async fn copy(
        &self,
        store: &Arc<ShardStore>,
        least: Option<LogId>,
    ) -> io::Result<Spool> {
        let ready = self.ready(store.shard);
        if let Some(spool) = ready.filter(|spool| spool.written.meta.last_log_id >= least) {
            return Ok(spool);
        }
        self.remove().await?;
        let item = Item { kind: Kind::Spool, group: store.shard };
        let pin = store.pin.clone().lock_owned().await;
        let (shelf, source) = (self.shelf.clone(), store.clone());
        let written = runtime::aside(move || {
            let _pin = pin;
            write(&*shelf, item, &source)
        });
        let written = written.await.unwrap_or_else(|| Err(stopping()))?;
        let spool = Spool { item, number: ThreadRng.next_u64(), written };
        *self.spool.lock() = Some(spool.clone());
        Ok(spool)
    }

    /// Makes a group's install file of another store's state, without a link in between.
    pub(crate) async fn take_over(&self, source: &Arc<ShardStore>, group: u16) -> io::Result<()> {
        let pin = source.pin.clone().lock_owned().await;
        let (shelf, source) = (self.shelf.clone(), source.clone());
        let copied = runtime::aside(move || {
            let _pin = pin;
            write(&*shelf, Item { kind: Kind::Staging, group }, &source)?;
            shelf.promote(group)
        });
        copied.await.unwrap_or_else(|| Err(stopping()))
    }

    /// Removes this copy, if it is still there: now, or when who sends it, or another, has had the turn.
    pub(super) async fn remove_sent(self: &Arc<Self>, number: u64) {
        if let Ok(_turn) = self.turn.try_lock() {
            return self.remove_in_turn(number).await;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let _turn = this.turn.lock().await;
            this.remove_in_turn(number).await;
        });
    }

    async fn remove_in_turn(&self, number: u64) {
        let is_there = self.spool.lock().as_ref().is_some_and(|spool| spool.number == number);
        if is_there && let Err(error) = self.remove().await {
            tracing::warn!(%error, "cannot remove the copy of a snapshot");
        }
    }

    /// Removes the copy, if there is one. The caller has the turn.
    async fn remove(&self) -> io::Result<()> {
        let Some(spool) = self.spool.lock().take() else { return Ok(()) };
        let shelf = self.shelf.clone();
        let removed = runtime::aside(move || shelf.remove(spool.item));
        removed.await.unwrap_or_else(|| Err(stopping()))
    }
}

/// Copies a state whose pin the caller holds; half a file is removed.
pub(super) fn write(shelf: &dyn Shelf, item: Item, store: &ShardStore) -> io::Result<Written> {
    let stored = store.state.lock().stored.clone();
    let copied = Writer::create(shelf, item, meta(&stored)).and_then(|mut writer| {
        pairs(store, |pair| writer.put(&pair))?;
        writer.finish()
    });
    if copied.is_err() {
        let _ = shelf.remove(item);
    }
    copied
}

pub(super) fn stopping() -> io::Error {
    io::Error::other("the node is stopping")
}
