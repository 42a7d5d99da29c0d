//! The log on twins: order of calls, loss of power, torn tails, damage, a disk that fails.
//!
//! - Owns: twins. Takes: nothing. Gives: failures that name the promise they break.
//! - Bound: tests only. Promises: FLUSH-THEN-ACK, NO-LOSS, HEAL.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload};

use super::{Log, frame};
use crate::{
    clock,
    error::StartError,
    limits::{SEGMENT_BYTES, SEGMENTS_HELD_MAX},
    options::Durability,
    raft_group::types::{Entry, LogId, Proposal, Vote},
    storage::{
        disk::{Disk, RealDisk},
        health::{DiskState, Health},
        twin::{Call, DiskTwin},
    },
};

const WAIT: Duration = Duration::from_secs(20);

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 7), index)
}

fn entry(index: u64, bytes: usize) -> Entry {
    let fill = u8::try_from(index % 251).unwrap();
    let commands = Arc::from([Bytes::from(vec![fill; bytes])]);
    let payload = EntryPayload::Normal(Proposal { commands, ..Proposal::default() });
    Entry { log_id: id(index), payload }
}

struct Opened {
    log: Arc<Log>,
    health: Arc<Health>,
    flusher: JoinHandle<()>,
}

impl Opened {
    fn of(disk: Arc<dyn Disk>, durability: Durability) -> Result<Self, StartError> {
        let health = Arc::new(Health::default());
        let (log, flusher) = Log::open(disk, 2, durability, health.clone())?;
        Ok(Self { log, health, flusher })
    }

    fn on(disk: &DiskTwin) -> Self {
        Self::of(Arc::new(disk.clone()), Durability::Disk).unwrap()
    }

    fn append_later(&self, group: u16, entries: Vec<Entry>) -> mpsc::Receiver<bool> {
        let (tell, told) = mpsc::sync_channel(1);
        let done = Box::new(move |result: std::io::Result<()>| {
            let _ = tell.send(result.is_ok());
        });
        self.log.append(group, entries, done);
        told
    }

    fn append(&self, group: u16, index: u64, bytes: usize) {
        assert!(self.append_later(group, vec![entry(index, bytes)]).recv_timeout(WAIT).unwrap());
    }

    fn indexes(&self, group: u16) -> Vec<u64> {
        self.log.group(group).unwrap().range(..).iter().map(|entry| entry.log_id.index).collect()
    }

    fn stop(self) {
        self.log.stop();
        self.flusher.join().unwrap();
    }
}

#[test]
fn log_when_durability_is_disk_then_synced_before_every_callback() {
    let disk = DiskTwin::new();
    let opened = Opened::on(&disk);
    for index in 0..50 {
        let calls = disk.clone();
        let (tell, told) = mpsc::sync_channel(1);
        let done = Box::new(move |_| {
            calls.0.calls.lock().push(Call::Done);
            let _ = tell.send(());
        });
        opened.log.append(0, [entry(index, 100)], done);
        told.recv_timeout(WAIT).unwrap();
    }
    let calls = disk.0.calls.lock().clone();
    let mut unsynced = false;
    for call in calls {
        match call {
            Call::Write => unsynced = true,
            Call::Sync => unsynced = false,
            Call::Done => assert!(!unsynced, "called back before the sync"),
        }
    }
    opened.stop();
}

#[test]
fn log_when_power_is_lost_then_every_acknowledged_entry_is_there() {
    let disk = DiskTwin::new();
    let opened = Opened::on(&disk);
    for index in 0..300 {
        opened.append(u16::from(index % 3 == 0), index, 10_000);
        if index % 50 == 0 {
            let vote = Vote::new_committed(index, 7);
            let (tell, told) = mpsc::sync_channel(1);
            opened.log.vote(0, vote, Box::new(move |_| tell.send(()).unwrap()));
            told.recv_timeout(WAIT).unwrap();
            let lost = disk.after_power_loss();
            // What is on its way when the power goes may be there or not, but nothing else.
            let again = Opened::on(&lost);
            let expected = |group: u16| -> Vec<u64> {
                (0..=index).filter(|index| u16::from(index % 3 == 0) == group).collect()
            };
            assert_eq!(again.indexes(0), expected(0));
            assert_eq!(again.indexes(1), expected(1));
            assert_eq!(again.log.group(0).unwrap().vote, Some(vote));
            again.stop();
        }
    }
    opened.stop();
}

/// FLUSH-THEN-ACK over two crashes: what a start finds in the page cache counts as written, so it must be.
#[test]
fn log_when_power_is_lost_after_a_kill_then_what_the_start_between_found_is_there() {
    let disk = DiskTwin::new();
    let opened = Opened::of(Arc::new(disk.clone()), Durability::Os).unwrap();
    for index in 0..20 {
        opened.append(0, index, 100);
    }
    let killed = disk.after_kill();
    let between = Opened::on(&killed);
    assert_eq!(between.indexes(0).len(), 20);
    between.append(0, 20, 100);
    let lost = Opened::on(&killed.after_power_loss());
    assert_eq!(lost.indexes(0), (0..=20).collect::<Vec<_>>());
    for opened in [lost, between, opened] {
        opened.stop();
    }
}

/// Otherwise its old batches look like damage as soon as the segments in front of it are behind a checkpoint.
#[test]
fn log_when_a_reused_segment_was_not_begun_then_it_goes_before_others_follow() {
    let disk = DiskTwin::new();
    let opened = Opened::on(&disk);
    for index in 0..20 {
        opened.append(0, index, 100);
    }
    opened.stop();
    let spare = disk.0.files.lock()[&1].clone();
    disk.0.files.lock().insert(2, spare);
    let opened = Opened::on(&disk);
    opened.append(0, 20, 100);
    opened.stop();
    let disk = disk.after_power_loss();
    // What a checkpoint leaves if the power goes between two removals.
    disk.0.files.lock().remove(&1);
    let opened = Opened::on(&disk);
    assert_eq!(opened.indexes(0), [20]);
    opened.stop();
}

#[test]
fn log_when_durability_is_os_then_survives_a_kill_but_may_lose_power() {
    let disk = DiskTwin::new();
    let opened = Opened::of(Arc::new(disk.clone()), Durability::Os).unwrap();
    for index in 0..20 {
        opened.append(0, index, 100);
    }
    let killed = Opened::on(&disk.after_kill());
    assert_eq!(killed.indexes(0).len(), 20);
    killed.stop();
    // The node must start again whatever is left (HEAL).
    let lost = Opened::on(&disk.after_power_loss());
    assert!(lost.indexes(0).len() <= 20);
    lost.append(1, 0, 10);
    lost.stop();
    opened.stop();
}

#[test]
fn log_when_the_tail_is_torn_anywhere_then_cut_there_and_goes_on() {
    let disk = DiskTwin::new();
    let opened = Opened::on(&disk);
    for index in 0..5 {
        opened.append(0, index, 40);
    }
    let before = disk.0.files.lock()[&1].bytes.len();
    opened.append(0, 5, 40);
    let after = disk.0.files.lock()[&1].bytes.len();
    opened.stop();
    for cut in before..after {
        for garbage in [false, true] {
            let torn = disk.after_kill();
            {
                let mut files = torn.0.files.lock();
                let bytes = &mut files.get_mut(&1).unwrap().bytes;
                bytes.truncate(cut);
                if garbage {
                    bytes.resize(cut + 100, 0xA5);
                }
            }
            for starts in 1..3 {
                let again = Opened::on(&torn);
                assert_eq!(again.indexes(0).len(), 4 + starts, "cut at {cut}, start {starts}");
                again.append(0, 4 + starts as u64, 40);
                again.stop();
            }
        }
    }
}

#[test]
fn log_when_damaged_before_its_end_then_refused_with_file_and_offset() {
    let disk = DiskTwin::new();
    let opened = Opened::on(&disk);
    let mut offsets = Vec::new();
    for index in 0..6 {
        offsets.push(disk.0.files.lock().get(&1).map_or(0, |file| file.bytes.len()));
        opened.append(0, index, 40);
    }
    opened.stop();
    for damaged_at in [offsets[1] + 2, offsets[2] + 30, offsets[3] + frame::HEAD_BYTES + 5] {
        let damaged = disk.after_kill();
        damaged.0.files.lock().get_mut(&1).unwrap().bytes[damaged_at] ^= 0x10;
        let expected = *offsets.iter().rev().find(|offset| **offset <= damaged_at).unwrap() as u64;
        match Opened::of(Arc::new(damaged), Durability::Disk) {
            Err(StartError::LogDamaged { path, offset }) => {
                assert_eq!((path.to_str(), offset), (Some("twin/1.log"), expected));
            }
            _ => panic!("byte {damaged_at} must be missed"),
        }
    }
}

#[test]
fn log_when_the_disk_is_full_for_a_while_then_waits_and_goes_on() {
    let disk = DiskTwin::new();
    let opened = Opened::on(&disk);
    opened.append(0, 0, 100);
    for flag in [&disk.0.fail_writes, &disk.0.fail_syncs] {
        flag.store(true, Ordering::SeqCst);
        let next = opened.indexes(0).len() as u64;
        let told = opened.append_later(0, vec![entry(next, 100)]);
        let other = opened.append_later(1, vec![entry(next, 100)]);
        // Two tries have failed by then, however late the flusher was.
        let (tried, deadline) = (opened.health.retries.load(Ordering::SeqCst), clock::now() + WAIT);
        while opened.health.retries.load(Ordering::SeqCst) < tried + 2 {
            assert!(clock::now() < deadline, "the disk is not tried again");
            clock::rest(Duration::from_millis(2));
        }
        assert!(told.try_recv().is_err(), "acknowledged too early");
        assert_ne!(opened.health.state(), DiskState::Ready);
        flag.store(false, Ordering::SeqCst);
        assert!(told.recv_timeout(WAIT).unwrap() && other.recv_timeout(WAIT).unwrap());
        // The log goes on; proposals come once somebody has seen free space.
        opened.health.note_free(1, 0);
        assert_eq!(opened.health.state(), DiskState::Ready);
    }
    let lost = Opened::on(&disk.after_power_loss());
    assert_eq!((lost.indexes(0), lost.indexes(1)), (vec![0, 1, 2], vec![1, 2]));
    lost.stop();
    opened.stop();
}

#[test]
fn log_when_truncated_and_purged_then_the_same_after_a_restart() {
    let disk = DiskTwin::new();
    let opened = Opened::on(&disk);
    for index in 0..10 {
        opened.append(0, index, 10);
    }
    let (tell, told) = mpsc::sync_channel(1);
    opened.log.truncate(0, 7, Box::new(move |_| tell.send(()).unwrap()));
    told.recv_timeout(WAIT).unwrap();
    opened.log.purge(0, id(3));
    opened.log.committed(0, id(5));
    opened.append(0, 7, 10);
    opened.stop();
    let again = Opened::on(&disk.after_power_loss());
    assert_eq!(again.indexes(0), [4, 5, 6, 7]);
    let group = again.log.group(0).unwrap();
    assert_eq!((group.purged, group.committed), (Some(id(3)), Some(id(5))));
    drop(group);
    again.stop();
}

#[test]
fn log_when_segments_are_behind_every_group_then_reused_and_removed() {
    let temp = tempfile::tempdir().unwrap();
    let open = || {
        let disk = Arc::new(RealDisk::open(temp.path(), 1 << 16).unwrap());
        Opened::of(disk, Durability::Os).unwrap()
    };
    let opened = open();
    // Group 1 has one entry in the first segment, and holds it back.
    opened.append(1, 0, 10);
    for index in 0..100 {
        opened.append(0, index, 1 << 20);
        if index > 0 {
            opened.log.purge(0, id(index - 1));
        }
    }
    let segments = || RealDisk::open(temp.path(), 0).unwrap().segments().unwrap();
    assert!(segments().contains(&1) && segments().len() >= 3);
    opened.log.purge(1, id(0));
    for index in 100..250 {
        opened.append(0, index, 1 << 20);
        opened.log.purge(0, id(index - 1));
    }
    opened.append(0, 250, 10);
    assert!(segments().len() <= 3, "{:?}", segments());
    opened.stop();
    let again = open();
    assert_eq!((again.indexes(0), again.indexes(1)), (vec![249, 250], vec![]));
    assert_eq!(again.log.group(1).unwrap().purged, Some(id(0)));
    again.append(1, 1, 10);
    again.stop();
}

/// A follower of a shard in which nothing happens keeps its entries: it may lead next.
#[test]
fn log_when_a_group_hardly_writes_then_it_holds_back_few_segments_and_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::open(temp.path(), 1 << 16).unwrap());
    let segments = || disk().segments().unwrap().len() as u64;
    for durability in [Durability::Os, Durability::Disk] {
        let opened = Opened::of(disk(), durability).unwrap();
        let quiet = opened.indexes(1).len() as u64;
        opened.append(1, quiet, 10);
        opened.append(1, quiet + 1, 2 << 20);
        let first = opened.indexes(0).last().map_or(0, |last| last + 1);
        for index in first..first + 300 {
            opened.append(0, index, 1 << 20);
            opened.log.purge(0, id(index));
            assert!(segments() <= SEGMENTS_HELD_MAX + 3, "{} segments", segments());
        }
        let bytes = opened.health.log_bytes.load(Ordering::Relaxed);
        assert!(bytes <= segments() * SEGMENT_BYTES, "{bytes} bytes are counted");
        opened.stop();
        let again = Opened::of(disk(), durability).unwrap();
        assert_eq!(again.indexes(1), (0..quiet + 2).collect::<Vec<_>>());
        again.stop();
    }
}
