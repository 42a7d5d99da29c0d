//! Snapshots of a state on twins: copied while commands go on, sent over links that break, put in its place.

mod installing;
mod transfer;

use std::{io, sync::Arc};

use bytes::Bytes;
use openraft::CommittedLeaderId;

use super::{
    file::{self, Meta},
    install,
    spool::Snapshots,
};
use crate::{
    machine::StoreMut as _,
    options::{Durability, Options},
    raft_group::types::LogId,
    storage::{
        checkpoint::{Checkpointer, Fill, ShardStore},
        disk::Disk,
        health::Health,
        log::Log,
        shelf::{Item, Kind},
        state::{
            kv::Kv as _,
            shard_state::{Applied, Base, ShardState},
        },
        twin::{DiskTwin, KvTwin, ShelfTwin},
    },
};

const GROUP: u16 = 1;
const INSTALL: Item = Item { kind: Kind::Install, group: GROUP };

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

/// What lies below one group, on twins.
struct Ground {
    kv: KvTwin,
    shelf: ShelfTwin,
    store: Arc<ShardStore>,
    checkpointer: Arc<Checkpointer>,
    log: Arc<Log>,
    snapshots: Arc<Snapshots>,
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.log.stop();
    }
}

impl Ground {
    fn new(kv: KvTwin, shelf: ShelfTwin) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(DiskTwin::new());
        let health = Arc::new(Health::default());
        let (log, _) = Log::open(disk.clone(), 2, Durability::Os, health.clone()).unwrap();
        let base = Arc::new(Base { kv: Box::new(kv.clone()), health: health.clone() });
        let fill = Arc::new(Fill::new(1 << 30, health));
        let state = ShardState::open(GROUP, base.clone()).unwrap();
        let store = ShardStore::new(state, GROUP, base.clone(), fill.clone());
        let options = Options::new("unused");
        let stores = vec![store.clone()];
        let checkpointer = Checkpointer::new(stores, base, fill, disk, log.clone(), &options);
        let snapshots = Snapshots::new(Arc::new(shelf.clone()), log.clone());
        Self { kv, shelf, store, checkpointer, log, snapshots }
    }

    fn empty() -> Self {
        Self::new(KvTwin::default(), ShelfTwin::default())
    }

    /// Fills the state with values of its `index`, and writes a checkpoint.
    fn filled(self, index: u64, pairs: usize, value_bytes: usize) -> Self {
        self.fill(index, pairs, value_bytes);
        self
    }

    fn fill(&self, index: u64, pairs: usize, value_bytes: usize) {
        {
            let mut state = self.store.state.lock();
            for number in 0..pairs {
                let value = Bytes::from(vec![u8::try_from(index % 251).unwrap(); value_bytes]);
                state.put(format!("{index} {number:06}").into_bytes(), value);
            }
            state.put(b"index".to_vec(), Bytes::copy_from_slice(&index.to_be_bytes()));
            state.applied = Applied { last: Some(id(index)), ..Applied::default() };
        }
        assert!(self.checkpointer.write(&[&self.store]));
    }

    /// Returns everything in the store.
    fn content(&self) -> Vec<(Bytes, Bytes)> {
        content(&self.kv)
    }

    async fn make_install(&self, of: &Self) {
        self.snapshots.take_over(&of.store, GROUP).await.unwrap();
    }

    async fn install(&self) -> io::Result<Meta> {
        install::install(self.store.clone(), Arc::new(self.shelf.clone())).await
    }
}

fn content(kv: &KvTwin) -> Vec<(Bytes, Bytes)> {
    let mut pairs = Vec::new();
    let mut at = Vec::new();
    while let Some((key, value)) = kv.above(GROUP, &at).unwrap() {
        at = key.to_vec();
        pairs.push((key, value));
    }
    pairs
}

#[tokio::test]
async fn copy_while_commands_go_on_then_checkpoints_wait_only_for_the_copy() {
    let leader = Ground::empty().filled(40, 500, 2_000);
    let _turn = leader.snapshots.turn.lock().await;
    let spool = leader.snapshots.copy(&leader.store, Some(id(40))).await.unwrap();
    // Nothing pins the checkpoint any more: the state moves on, the copy does not.
    assert!(leader.store.pin.try_lock().is_ok());
    leader.fill(41, 10, 10);
    let again = leader.snapshots.copy(&leader.store, Some(id(40))).await.unwrap();
    assert_eq!(again.number, spool.number);
    assert_eq!(leader.snapshots.ready_meta(GROUP), Some(spool.written.meta.clone()));
    let checked = file::check(&leader.shelf, spool.item).unwrap();
    assert_eq!(checked, spool.written.meta);
    // Once the log does not hold what follows, it is of no use.
    leader.log.purge(GROUP, id(41));
    assert_eq!(leader.snapshots.ready_meta(GROUP), None);
    let newer = leader.snapshots.copy(&leader.store, Some(id(40))).await.unwrap();
    assert_ne!(newer.number, spool.number);
    assert_eq!(newer.written.meta.last_log_id, Some(id(41)));
}

#[tokio::test]
async fn copy_that_has_been_sent_while_another_has_the_turn_then_removed_behind_it() {
    let leader = Ground::empty().filled(40, 5, 10);
    let turn = leader.snapshots.turn.lock().await;
    let spool = leader.snapshots.copy(&leader.store, None).await.unwrap();
    leader.snapshots.remove_sent(spool.number + 1).await;
    leader.snapshots.remove_sent(spool.number).await;
    // Both have asked for the turn.
    tokio::task::yield_now().await;
    assert_eq!(leader.shelf.count(), 1, "it may be read just now");
    drop(turn);
    let _turn = leader.snapshots.turn.lock().await;
    assert_eq!((leader.shelf.count(), leader.snapshots.ready_meta(GROUP)), (0, None));
}
