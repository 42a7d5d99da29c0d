//! Whole groups on twins: loss of power at any moment, a disk that is full, a store that fails.
//!
//! - Owns: twins and a runtime. Takes: nothing. Gives: failures that name the promise they break.
//! - Bound: tests only. Promises: NO-LOSS, HEAL, BOUNDED.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    CommittedLeaderId, EntryPayload,
    raft::{AppendEntriesRequest, AppendEntriesResponse},
};
use serde::de::DeserializeOwned;
use tokio::{runtime::Runtime, sync::oneshot};

use super::{Groups, Others, Parts};
use crate::{
    clock,
    error::ProposeError,
    id::NodeId,
    limits::{APPEND_TIMEOUT, LEADER_LEASE},
    machine::{Machine, Store, StoreMut},
    options::{Durability, Options},
    raft_group::{
        clerk::RaftClerk,
        types::{Entry, LogId, Proposal, Types, Vote},
        wire,
    },
    storage::{
        disk::Disk,
        health::{DiskState, Health},
        log::Log,
        twin::{DiskTwin, KvTwin, ShelfTwin},
    },
    stream::queue::Caller,
    transport::{Class, PeerService as _},
};

/// A command that begins so leaves nothing behind, as a message that was acknowledged at once.
const GONE: &[u8] = b"gone";

/// Another member, in a term of its own.
const TERM: u64 = 9;

fn next(prev: LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(TERM, 2), prev.index + 1)
}

/// An entry behind `prev`, from that member.
fn request(
    prev: LogId,
    leader_commit: Option<LogId>,
    payload: EntryPayload<Types>,
) -> AppendEntriesRequest<Types> {
    AppendEntriesRequest {
        vote: Vote::new_committed(TERM, 2),
        prev_log_id: Some(prev),
        leader_commit,
        entries: vec![Entry { log_id: next(prev), payload }],
    }
}

static LIVES: AtomicU64 = AtomicU64::new(1);

/// Gives each command the next number and keeps it under it; numbers come from the store alone.
struct Numbers;

fn number(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[1..].try_into().unwrap())
}

impl Machine for Numbers {
    fn load(&mut self, _store: &dyn Store) {}

    fn apply(&mut self, _index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        if command.starts_with(GONE) {
            return Bytes::from_static(&[0; 8]);
        }
        // Not idempotent: replaying a command that is in the state already would count it twice.
        let next = store.last(b"n", b"o").map_or(0, |(key, _)| number(&key) + 1);
        store.put([b"n", &next.to_be_bytes()[..]].concat(), command.clone());
        Bytes::copy_from_slice(&next.to_be_bytes())
    }
}

struct Node {
    runtime: Runtime,
    groups: Groups<Numbers>,
    checkpointer: Option<JoinHandle<()>>,
    flusher: Option<JoinHandle<()>>,
}

fn options() -> Options {
    Options {
        shards: 2,
        checkpoint_interval: Duration::from_millis(5),
        checkpoint_bytes: 1 << 16,
        disk_reserve_bytes: 1_000,
        ..Options::new("twin")
    }
}

impl Node {
    fn start(disk: &DiskTwin, kv: &KvTwin, options: &Options) -> Self {
        let shelf = Arc::new(ShelfTwin::default());
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let health = Arc::new(Health::default());
        let (log, flusher) =
            Log::open(disk.clone(), options.groups(), Durability::Disk, health.clone()).unwrap();
        // Each start is another life, as `Folder` sees to.
        let incarnation = LIVES.fetch_add(1, Ordering::SeqCst);
        let parts = Parts { disk, kv: Box::new(kv.clone()), shelf, log, health, incarnation };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let groups = runtime
            .block_on(Groups::start(
                parts,
                options,
                &|_| Numbers,
                Arc::new(|_, _| {}),
                &Others::none(),
            ))
            .unwrap();
        let purge = groups.purge_after_checkpoints(runtime.handle().clone());
        let worker = groups.checkpointer.clone();
        let checkpointer = std::thread::spawn(move || worker.run(&(Box::new(purge) as _)));
        Self { runtime, groups, checkpointer: Some(checkpointer), flusher: Some(flusher) }
    }

    fn propose_later(
        &self,
        shard: usize,
        command: Bytes,
    ) -> oneshot::Receiver<Result<Bytes, ProposeError>> {
        let (reply, told) = oneshot::channel();
        let permit = self.groups.permits.take(command.len()).unwrap();
        let caller = Caller { reply, _permit: permit };
        assert!(self.groups.groups[shard].queue.push(command, caller, None, None).is_ok());
        told
    }

    fn propose(&self, shard: usize, command: &[u8]) -> Result<u64, ProposeError> {
        let told = self.propose_later(shard, Bytes::copy_from_slice(command));
        let reply = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), told).await.unwrap().unwrap()
        })?;
        Ok(u64::from_be_bytes(reply[..].try_into().unwrap()))
    }

    fn kept(&self, shard: usize) -> Vec<(u64, Bytes)> {
        let found = self.groups.groups[shard].store.state.lock().scan(b"n", b"o", usize::MAX);
        found.into_iter().map(|(key, value)| (number(&key), value)).collect()
    }

    fn last(&self, group: u16) -> LogId {
        self.groups.log.group(group).unwrap().last().unwrap()
    }

    /// Asks as another member does.
    fn ask<R: DeserializeOwned>(&self, question: Bytes) -> R {
        let clerk = RaftClerk { groups: self.groups.groups.clone() };
        let answer = clerk.serve(NodeId(2), Class::Consensus, question);
        wire::read_answer(&self.runtime.block_on(answer).unwrap()).unwrap()
    }

    /// Appends the entry behind `prev`, as another member does that leads.
    fn append(
        &self,
        group: u16,
        prev: LogId,
        leader_commit: Option<LogId>,
    ) -> AppendEntriesResponse<u64> {
        self.ask(wire::append(group, &request(prev, leader_commit, EntryPayload::Blank)))
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = clock::now() + Duration::from_secs(20);
        while !is_so(self) {
            assert!(clock::now() < deadline, "still not so: {what}");
            // Not by the node's own timers: its threads may all wait for a store that fails.
            clock::rest(Duration::from_millis(2));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.runtime.block_on(self.groups.stop());
        self.groups.checkpointer.stop();
        self.checkpointer.take().unwrap().join().unwrap();
        self.groups.log.stop();
        self.flusher.take().unwrap().join().unwrap();
    }
}

#[test]
fn groups_when_power_is_lost_at_any_moment_then_what_was_acknowledged_is_there_once() {
    let options = options();
    let (mut disk, mut kv) = (DiskTwin::new(), KvTwin::default());
    let mut acknowledged = [0_u64; 2];
    for life in 0..12_u64 {
        let node = Node::start(&disk, &kv, &options);
        for (shard, acknowledged) in acknowledged.iter_mut().enumerate() {
            let kept = node.kept(shard);
            // One more than acknowledged may be there: its reply was on the way.
            assert!(kept.len() as u64 >= *acknowledged, "life {life}, shard {shard}");
            assert!(kept.iter().enumerate().all(|(at, (number, _))| at as u64 == *number));
            *acknowledged = kept.len() as u64;
        }
        for round in 0..30 + life * 7 {
            let shard = usize::from(round % 3 == 0);
            let reply = node.propose(shard, &vec![7; 2_000]).unwrap();
            assert_eq!(reply, acknowledged[shard]);
            acknowledged[shard] += 1;
        }
        // More is on its way when the power goes; a part of it is acknowledged just before.
        let mut told: Vec<_> =
            (0..40).map(|_| node.propose_later(0, Bytes::from(vec![8; 3_000]))).collect();
        for told in told.drain(..usize::try_from(life).unwrap() * 3) {
            node.runtime.block_on(told).unwrap().unwrap();
            acknowledged[0] += 1;
        }
        // In this order: what a checkpoint has taken over, the log may forget right after.
        let lost_log = disk.after_power_loss();
        let lost_kv = kv.after_power_loss();
        drop(node);
        (disk, kv) = (lost_log, lost_kv);
    }
}

#[test]
fn groups_when_free_space_falls_below_the_reserve_then_refused_until_it_is_back() {
    let (disk, kv) = (DiskTwin::new(), KvTwin::default());
    let node = Node::start(&disk, &kv, &options());
    assert_eq!(node.propose(0, b"a"), Ok(0));
    disk.0.free_bytes.store(999, Ordering::SeqCst);
    node.wait("full", |node| node.groups.health.state() == DiskState::Full);
    assert_eq!(node.propose(0, b"b"), Err(ProposeError::DiskFull));
    disk.0.free_bytes.store(1 << 30, Ordering::SeqCst);
    node.wait("ready", |node| node.groups.health.state() == DiskState::Ready);
    assert_eq!(node.propose(0, b"c"), Ok(1));
    assert_eq!(node.kept(0).len(), 2, "what was refused was not written");
}

#[test]
fn groups_when_the_log_cannot_be_written_then_waiting_is_refused_and_groups_live_on() {
    let (disk, kv) = (DiskTwin::new(), KvTwin::default());
    let node = Node::start(&disk, &kv, &options());
    assert_eq!(node.propose(0, b"a"), Ok(0));
    // A group without a leader makes its callers wait, whatever the disk does.
    assert_eq!(node.propose(1, b"a"), Ok(0));
    disk.0.fail_writes.store(true, Ordering::SeqCst);
    // Two entries are on their way into the log; what comes behind them has not been written.
    let on_their_way: Vec<_> = (0..2)
        .map(|at| {
            let told = node.propose_later(0, Bytes::from_static(b"b"));
            node.wait("taken", |_| disk.0.calls.lock().len() > at);
            told
        })
        .collect();
    node.wait("failing", |node| node.groups.health.state() != DiskState::Ready);
    assert_eq!(node.propose(1, b"c"), Err(ProposeError::DiskFull));
    disk.0.fail_writes.store(false, Ordering::SeqCst);
    node.wait("ready", |node| node.groups.health.state() == DiskState::Ready);
    for told in on_their_way {
        // Written in the end, or refused before: never lost after a reply.
        let reply = node.runtime.block_on(told).unwrap();
        assert!(matches!(reply, Ok(_) | Err(ProposeError::DiskFull)));
    }
    let before = node.kept(0).len() as u64;
    assert_eq!(node.propose(0, b"d"), Ok(before));
}

#[test]
fn groups_when_the_store_fails_then_tables_stay_bounded_and_everything_is_there_after() {
    let options = options();
    let (disk, kv) = (DiskTwin::new(), KvTwin::default());
    let node = Node::start(&disk, &kv, &options);
    for _ in 0..20 {
        node.propose(0, &[1; 1_000]).unwrap();
    }
    node.wait("a checkpoint", |node| !node.groups.groups[0].store.state.lock().is_dirty());
    kv.0.fail.store(true, Ordering::SeqCst);
    let told: Vec<_> =
        (0..400).map(|_| node.propose_later(0, Bytes::from(vec![2; 1_000]))).collect();
    node.wait("failing", |node| node.groups.health.state() != DiskState::Ready);
    assert!(node.groups.fill.bytes() < options.checkpoint_bytes * 2 + (2 << 20));
    kv.0.fail.store(false, Ordering::SeqCst);
    let mut written = 20;
    for told in told {
        match node.runtime.block_on(told).unwrap() {
            Ok(_) => written += 1,
            Err(why) => assert_eq!(why, ProposeError::DiskFull),
        }
    }
    node.wait("ready", |node| node.groups.health.state() == DiskState::Ready);
    node.wait("a checkpoint", |node| !node.groups.groups[0].store.state.lock().is_dirty());
    assert_eq!(node.kept(0).len(), written);
    drop(node);
    let again = Node::start(&disk, &kv, &options);
    assert_eq!(again.kept(0).len(), written);
}

#[test]
fn groups_when_stopped_while_the_disk_fails_then_they_end_and_callers_are_told() {
    let (disk, kv) = (DiskTwin::new(), KvTwin::default());
    let node = Node::start(&disk, &kv, &options());
    node.propose(0, b"a").unwrap();
    disk.0.fail_writes.store(true, Ordering::SeqCst);
    kv.0.fail.store(true, Ordering::SeqCst);
    let told = node.propose_later(0, Bytes::from_static(b"b"));
    node.wait("failing", |node| node.groups.health.state() != DiskState::Ready);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let started = clock::now();
    drop(node);
    assert!(started.elapsed() < Duration::from_secs(20));
    // An answer, or a closed channel, which the handle reports as an unknown outcome.
    let told = runtime.block_on(told);
    assert!(!matches!(told, Ok(Ok(_))), "nothing was written");
}

/// BOUNDED: tables stay small here, and no checkpoint is due by the clock, so only the log itself can
/// call for one. Without that it would hold all 16 MiB.
#[test]
fn groups_when_entries_leave_no_state_then_the_log_in_memory_stays_bounded() {
    const ROUND_BYTES: usize = 16 * 4_096;
    let options = Options { checkpoint_interval: Duration::from_secs(3_600), ..options() };
    let (disk, kv) = (DiskTwin::new(), KvTwin::default());
    let node = Node::start(&disk, &kv, &options);
    let command = Bytes::from([GONE, &[1; 4_092]].concat());
    let mut most = 0;
    for _ in 0..128 {
        let told: Vec<_> = (0..32).map(|n| node.propose_later(n % 2, command.clone())).collect();
        for told in told {
            let told = node
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(20), told).await });
            told.expect("nothing stands still").unwrap().unwrap();
        }
        most = most.max(node.groups.health.memory.bytes());
    }
    // What waits for room is in front of the log, what is in flight comes on top of its bound.
    let in_flight = 2 * 2 * ROUND_BYTES;
    assert!(most < 3 * options.checkpoint_bytes + in_flight, "{most} bytes of log in memory");
    drop(node);
    // A start takes over what the log holds, and counts it.
    let node = Node::start(&disk, &kv, &options);
    assert_eq!(node.propose(0, b"kept"), Ok(0));
    // What the start purges goes at its own time; nothing comes or goes while all groups are held.
    let logs: Vec<_> =
        (0..options.groups()).map(|group| node.groups.log.group(group).unwrap()).collect();
    let held: usize = logs.iter().map(|log| log.bytes()).sum();
    assert_eq!(node.groups.health.memory.bytes(), held);
    drop(logs);
}

/// HEAL: entries of other groups fill the log, and wait for members that are as full as this one. Were it to
/// wait for them before it takes anything, nobody would ever take anything.
#[test]
fn groups_when_the_log_is_full_of_what_waits_for_others_then_a_member_takes_what_is_to_be_committed()
 {
    let options = options();
    let (disk, kv) = (DiskTwin::new(), KvTwin::default());
    let node = Node::start(&disk, &kv, &options);
    node.propose(0, b"a").unwrap();
    node.wait("a checkpoint", |node| !node.groups.groups[0].store.state.lock().is_dirty());
    node.groups.health.memory.changed(0, options.checkpoint_bytes * 4);
    let first = node.last(0);
    assert_eq!(node.append(0, first, None), AppendEntriesResponse::Success);
    // BOUNDED: what is committed takes room until a checkpoint covers it, and waits for nobody else.
    kv.0.fail.store(true, Ordering::SeqCst);
    let second = next(first);
    assert_eq!(node.append(0, second, Some(second)), AppendEntriesResponse::Success);
    let third = next(second);
    let held_back = AppendEntriesResponse::PartialSuccess(Some(third));
    assert_eq!(node.append(0, third, Some(third)), held_back);
    // Sent again, what is here already is no news.
    assert_eq!(node.append(0, second, Some(third)), AppendEntriesResponse::Success);
    kv.0.fail.store(false, Ordering::SeqCst);
    node.wait("taken", |node| node.append(0, third, Some(third)) != held_back);
    assert_eq!(node.last(0), next(third));
}

/// HEAL, ALONE: a shard without a quorum fills the log, and others have nothing to do with that.
#[test]
fn groups_when_the_log_is_full_of_what_waits_for_others_then_a_leader_goes_on() {
    let options = options();
    let (disk, kv) = (DiskTwin::new(), KvTwin::default());
    let node = Node::start(&disk, &kv, &options);
    node.propose(0, b"a").unwrap();
    node.groups.health.memory.changed(0, options.checkpoint_bytes * 4);
    for number in 0..20 {
        assert_eq!(node.propose(1, b"a"), Ok(number));
    }
}

/// BOUNDED: a leader that is not answered sends the same entries again and again, and openraft queues whatever
/// it is asked to append. It is still heard of: nobody stands against it because a disk here is slow.
#[test]
fn appends_when_the_disk_of_a_follower_stalls_then_one_is_held_and_its_leader_stays() {
    let (disk, kv) = (DiskTwin::new(), KvTwin::default());
    let node = Node::start(&disk, &kv, &options());
    node.propose(0, b"a").unwrap();
    let first = node.last(0);
    assert_eq!(node.append(0, first, None), AppendEntriesResponse::Success);
    disk.0.fail_writes.store(true, Ordering::SeqCst);
    let (group, prev) = (&node.groups.groups[0], next(first));
    let began = clock::now();
    let mut sent = Vec::new();
    while sent.len() < 6 || began.elapsed() < LEADER_LEASE * 2 {
        let commands: Arc<[Bytes]> = Arc::new([Bytes::from_static(&[3; 1 << 10])]);
        sent.push(Arc::downgrade(&commands));
        let payload = EntryPayload::Normal(Proposal { commands, ..Proposal::default() });
        let append = group.append(request(prev, None, payload));
        // As the desk of a link serves it: not longer than the leader waits.
        let served =
            node.runtime.block_on(async { tokio::time::timeout(APPEND_TIMEOUT, append).await });
        assert!(served.is_err(), "answered without a disk");
    }
    let held = sent.iter().filter(|commands| commands.strong_count() > 0).count();
    assert_eq!(held, 1, "of {} sent", sent.len());
    assert!(!node.ask::<bool>(wire::ask(0, Some(next(prev)))), "it would vote for another");
    disk.0.fail_writes.store(false, Ordering::SeqCst);
    // The same entry once more, and what follows it.
    node.wait("written", |node| {
        node.append(0, prev, None) == AppendEntriesResponse::Success && node.last(0) == next(prev)
    });
    assert_eq!(node.append(0, next(prev), None), AppendEntriesResponse::Success);
}
