//! openraft's own contract suite, on the real disk with sled and on the twins.
//!
//! - Owns: a store per case. Takes: nothing. Gives: a failure that names the case.
//! - Bound: tests only.
//! - Source: openraft 0.9 `testing::Suite`.

use std::sync::Arc;

use bytes::Bytes;
use openraft::testing::{StoreBuilder, Suite};

use super::{
    log_store::LogStore,
    snapshot::spool::Snapshots,
    state_machine::{Shard, StateMachine},
    types::{StorageError, Types},
};
use crate::{
    machine::{Machine, Store, StoreMut},
    options::{Durability, Options},
    storage::{
        checkpoint::{Checkpointer, Fill, ShardStore},
        disk::{Disk, RealDisk},
        health::Health,
        log::Log,
        shelf::{RealShelf, Shelf},
        state::{
            kv::Kv,
            shard_state::{Base, ShardState},
            sled_kv::SledKv,
        },
        twin::{DiskTwin, KvTwin, ShelfTwin},
    },
};

struct Echo;

impl Machine for Echo {
    fn load(&mut self, _store: &dyn Store) {}

    fn apply(&mut self, _index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        store.put(command.to_vec(), command.clone());
        command.clone()
    }
}

struct OnTwins;
struct OnDisk;

/// Stops the flusher of a case when the suite is done with it.
struct Guard(Arc<Log>, Option<tempfile::TempDir>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop();
        drop(self.1.take());
    }
}

fn build(
    disk: Arc<dyn Disk>,
    kv: Box<dyn Kv>,
    shelf: Arc<dyn Shelf>,
) -> (Arc<Log>, LogStore, StateMachine<Echo>) {
    let options = Options::new("unused");
    let health = Arc::new(Health::default());
    let (log, _) = Log::open(disk.clone(), 1, Durability::Disk, health.clone()).unwrap();
    let base = Arc::new(Base { kv, health });
    let fill = Arc::new(Fill::new(options.checkpoint_bytes, base.health.clone()));
    let state = ShardState::open(0, base.clone()).unwrap();
    let store = ShardStore::new(state, 0, base.clone(), fill.clone());
    let checkpointer =
        Checkpointer::new(vec![store.clone()], base, fill, disk, log.clone(), &options);
    let snapshots = Snapshots::new(shelf, log.clone());
    let machine = StateMachine { shard: Shard::open(Echo, store), checkpointer, snapshots };
    (log.clone(), LogStore { log, group: 0, node: None }, machine)
}

impl StoreBuilder<Types, LogStore, StateMachine<Echo>, Guard> for OnTwins {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine<Echo>), StorageError> {
        let shelf = Arc::new(ShelfTwin::default());
        let (log, store, machine) =
            build(Arc::new(DiskTwin::new()), Box::new(KvTwin::default()), shelf);
        Ok((Guard(log, None), store, machine))
    }
}

impl StoreBuilder<Types, LogStore, StateMachine<Echo>, Guard> for OnDisk {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine<Echo>), StorageError> {
        let temp = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&temp.path().join("log"), 0).unwrap();
        let kv = SledKv::open(&temp.path().join("state"), 1, 1 << 20).unwrap();
        let shelf = Arc::new(RealShelf::open(&temp.path().join("snapshots")).unwrap());
        let (log, store, machine) = build(Arc::new(disk), Box::new(kv), shelf);
        Ok((Guard(log, Some(temp)), store, machine))
    }
}

#[test]
fn storage_on_twins_when_the_suite_runs_then_it_passes() {
    Suite::test_all(OnTwins).unwrap();
}

#[test]
fn storage_on_disk_when_the_suite_runs_then_it_passes() {
    Suite::test_all(OnDisk).unwrap();
}
