//! The state against a plain map, on both stores; what a failing store and a crash leave.
//!
//! - Owns: twins and temporary folders. Takes: random operations. Gives: the first difference.
//! - Bound: tests only. Promises: NO-LOSS, HEAL.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use openraft::CommittedLeaderId;
use proptest::prelude::*;

use super::{
    kv::Kv,
    shard_state::{Base, ShardState, checkpoint_batch},
    sled_kv::SledKv,
};
use crate::{
    machine::{Store, StoreMut},
    raft_group::types::LogId,
    storage::{health::Health, twin::KvTwin},
    stream::{
        run::{Origin, Run},
        table::StreamTable,
    },
};

#[derive(Clone, Debug)]
enum Step {
    Put(u16, usize),
    PutNew(usize),
    /// One of the last that were new, if it is still there.
    PutAgain(u16, usize),
    Delete(u16),
    DeleteNew(u16),
    Freeze,
    Write,
    Scan(u16, u16, usize),
    Last(u16, u16),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..300_u16;
    prop_oneof![
        20 => (key.clone(), prop_oneof![0..200_usize, 1_400..1_700_usize, 4_000..9_000_usize])
            .prop_map(|(key, bytes)| Step::Put(key, bytes)),
        20 => (0..300_usize).prop_map(Step::PutNew),
        10 => (key.clone(), 0..300_usize).prop_map(|(key, bytes)| Step::PutAgain(key, bytes)),
        10 => key.clone().prop_map(Step::Delete),
        10 => key.clone().prop_map(Step::DeleteNew),
        2 => Just(Step::Freeze),
        3 => Just(Step::Write),
        4 => (key.clone(), key.clone(), 0..400_usize).prop_map(|(a, b, n)| Step::Scan(a, b, n)),
        4 => (key.clone(), key).prop_map(|(a, b)| Step::Last(a, b)),
        1 => Just(Step::Reopen),
    ]
}

fn key(number: u16) -> Vec<u8> {
    // Keys of two lengths, so that some are prefixes of others.
    let mut key = format!("key-{:03}", number / 2).into_bytes();
    key.extend(vec![0; usize::from(number % 2)]);
    key
}

fn new_key(number: u64) -> Vec<u8> {
    [b"new", &number.to_be_bytes()[..]].concat()
}

struct World {
    base: Arc<Base>,
    state: ShardState,
    model: BTreeMap<Vec<u8>, Vec<u8>>,
    steps: u64,
    next: u64,
}

impl World {
    fn new(kv: Box<dyn Kv>) -> Self {
        let base = Arc::new(Base { kv, health: Arc::new(Health::default()) });
        let state = ShardState::open(0, base.clone()).unwrap();
        Self { base, state, model: BTreeMap::new(), steps: 0, next: 0 }
    }

    fn put(&mut self, key: Vec<u8>, bytes: usize, new: bool) {
        let value: Vec<u8> =
            (0..bytes).map(|at| u8::try_from((at + bytes) % 251).unwrap()).collect();
        self.model.insert(key.clone(), value.clone());
        let put = if new { ShardState::put_new } else { ShardState::put };
        put(&mut self.state, key, Bytes::from(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.model.remove(key);
        self.state.delete(key);
    }

    /// Does what a checkpoint does: in two halves, so that steps come in between.
    fn write(&mut self) {
        if let Some(frozen) = self.state.freeze() {
            let batch = checkpoint_batch(&*self.base.kv, 0, &frozen).unwrap();
            self.base.kv.apply(0, batch).unwrap();
            self.base.kv.flush().unwrap();
            self.state.thaw();
        }
    }

    fn run(&mut self, step: &Step) {
        self.steps += 1;
        self.state.applied.last = Some(LogId::new(CommittedLeaderId::new(1, 1), self.steps));
        self.move_streams();
        match *step {
            Step::Put(number, bytes) => self.put(key(number), bytes, false),
            Step::PutNew(bytes) => {
                self.next += 1;
                self.put(new_key(self.next), bytes, true);
            }
            Step::PutAgain(number, bytes) => {
                let key = self.recent_key(number);
                if self.model.contains_key(&key) {
                    self.put(key, bytes, false);
                }
            }
            Step::Delete(number) => self.delete(&key(number)),
            Step::DeleteNew(number) => self.delete(&self.recent_key(number)),
            Step::Freeze => drop(self.state.freeze()),
            Step::Write => self.write(),
            Step::Scan(from, to, limit) => self.check_scan(&key(from), &key(to), limit),
            Step::Last(from, to) => self.check_last(&key(from), &key(to)),
            Step::Reopen => {
                self.write();
                self.write();
                let streams = self.state.applied.streams.clone();
                self.state = ShardState::open(0, self.base.clone()).unwrap();
                assert_eq!(self.state.applied.streams, streams);
                let last = self.state.applied.last.map(|id| id.index);
                assert_eq!(last, Some(self.steps));
            }
        }
    }

    fn recent_key(&self, number: u16) -> Vec<u8> {
        new_key(self.next.saturating_sub(u64::from(number / 8)))
    }

    /// Streams come, move on and go, as those of nodes do.
    fn move_streams(&mut self) {
        let streams = &mut self.state.applied.streams;
        if self.steps.is_multiple_of(97) {
            *streams = StreamTable::default();
        }
        let origin = Origin { node: self.steps % 7, incarnation: self.steps };
        streams.admit(&Run { origin, epoch: 1, first: 1, count: 3 }, self.steps);
    }

    fn streams(&self) -> usize {
        self.state.applied.streams.encoded().unwrap().len()
    }

    fn check_scan(&self, from: &[u8], to: &[u8], limit: usize) {
        let found = self.state.scan(from, to, limit);
        let expected: Vec<_> = self
            .model
            .iter()
            .filter(|(key, _)| from <= key.as_slice() && key.as_slice() < to)
            .take(limit)
            .map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone())))
            .collect();
        assert!(found == expected, "scan {from:?}..{to:?}");
    }

    fn check_last(&self, from: &[u8], to: &[u8]) {
        let in_range = |key: &&Vec<u8>| from <= key.as_slice() && key.as_slice() < to;
        let expected = self.model.keys().rev().find(in_range).cloned();
        let found = self.state.last(from, to);
        assert_eq!(found.as_ref().map(|(key, _)| key.to_vec()), expected);
        assert_eq!(
            found.map(|(_, v)| v.to_vec()),
            expected.and_then(|key| self.model.get(&key).cloned())
        );
    }

    fn check_all(&self) {
        self.check_scan(b"", &[0xFF], usize::MAX);
        self.check_scan(b"", &[0xFF], 10);
        self.check_last(b"", &[0xFF]);
        for number in 0..300 {
            let key = key(number);
            assert_eq!(self.state.get(&key).map(|v| v.to_vec()), self.model.get(&key).cloned());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn state_on_the_twin_when_steps_are_random_then_equals_a_map(
        steps in proptest::collection::vec(step(), 1..400)
    ) {
        let twin = KvTwin::default();
        let mut world = World::new(Box::new(twin.clone()));
        for step in steps {
            world.run(&step);
        }
        world.check_all();
        world.write();
        world.write();
        world.check_all();
        // Everything deleted: no block and no piece stays behind.
        let keys: Vec<_> = world.model.keys().cloned().collect();
        for key in keys {
            world.delete(&key);
        }
        world.run(&Step::Write);
        let records = 1 + world.streams();
        prop_assert_eq!(twin.len(0), records, "only the meta record and streams are left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn state_on_sled_when_steps_are_random_then_equals_a_map(
        steps in proptest::collection::vec(step(), 200..600)
    ) {
        let temp = tempfile::tempdir().unwrap();
        let mut world = World::new(Box::new(SledKv::open(temp.path(), 1, 4 << 20).unwrap()));
        for step in steps {
            world.run(&step);
        }
        world.check_all();
        let blobs = std::fs::read_dir(temp.path().join("blobs")).map_or(0, Iterator::count);
        prop_assert_eq!(blobs, 0, "sled does not sync blobs");
    }
}

#[test]
fn state_when_a_key_comes_and_goes_between_checkpoints_then_the_store_never_sees_it() {
    let twin = KvTwin::default();
    let mut world = World::new(Box::new(twin.clone()));
    for _ in 0..1_000 {
        world.run(&Step::PutNew(200));
        world.run(&Step::DeleteNew(0));
    }
    assert_eq!(world.state.active_bytes(), 0);
    world.run(&Step::Write);
    assert_eq!(twin.len(0), 1 + world.streams());
}

#[test]
fn state_when_positions_grow_then_blocks_are_filled() {
    let twin = KvTwin::default();
    let mut world = World::new(Box::new(twin.clone()));
    for _ in 0..20 {
        for _ in 0..100 {
            world.run(&Step::PutNew(256));
        }
        world.run(&Step::Write);
    }
    // 2,000 pairs of 267 bytes and 7 of frame fit into 143 blocks of 4 KiB at best.
    assert!(twin.len(0) < 160, "{} blocks", twin.len(0));
}

#[test]
fn state_when_the_store_fails_for_a_while_then_a_read_waits_and_answers() {
    let twin = KvTwin::default();
    let mut world = World::new(Box::new(twin.clone()));
    world.run(&Step::Put(1, 100));
    world.run(&Step::Write);
    twin.0.fail.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| world.state.get(&key(1)).is_some());
        while world.base.health.retries.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        assert!(!read.is_finished());
        twin.0.fail.store(false, Ordering::SeqCst);
        assert!(read.join().unwrap());
    });
    // Back in time to what was flushed, and whole.
    assert_eq!(twin.after_power_loss().len(0), twin.len(0));
}

#[test]
fn sled_when_a_snapshot_was_left_half_written_then_opens_with_all_data() {
    let temp = tempfile::tempdir().unwrap();
    for half in [&b""[..], b"short", &[7; 500]] {
        let kv = SledKv::open(temp.path(), 1, 4 << 20).unwrap();
        kv.apply(0, vec![(b"key".to_vec(), Some(half.to_vec()))]).unwrap();
        kv.flush().unwrap();
        kv.close();
        // As a kill or a full disk leaves it: sled writes it under this name, then renames it.
        std::fs::write(temp.path().join("snap.00000000FFFFFFFF.generating"), half).unwrap();
        let kv = SledKv::open(temp.path(), 1, 4 << 20).unwrap();
        assert_eq!(kv.get(0, b"key").unwrap().as_deref(), Some(half));
        std::fs::write(temp.path().join("snap.00000000FFFFFFFF.generating"), half).unwrap();
        kv.reopen().unwrap();
        assert_eq!(kv.get(0, b"key").unwrap().as_deref(), Some(half));
    }
}

/// A thread of sled's own may be the last to let go of the file, just after the last handle is dropped.
#[test]
fn sled_when_something_of_it_lives_a_moment_longer_then_closed_only_once_its_file_is_free() {
    let temp = tempfile::tempdir().unwrap();
    for reopens in [true, false] {
        let kv = SledKv::open(temp.path(), 1, 4 << 20).unwrap();
        let (close, closing) = std::sync::mpsc::channel();
        let last = kv.handle().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                closing.recv().unwrap();
                // The other thread is in its wait by then, or about to be.
                crate::clock::rest(Duration::from_millis(50));
                drop(last);
            });
            close.send(()).unwrap();
            if reopens {
                kv.reopen().unwrap();
            }
            kv.close();
            SledKv::open(temp.path(), 1, 4 << 20).unwrap();
        });
    }
}
