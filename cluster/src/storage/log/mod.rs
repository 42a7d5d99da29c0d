//! The write-ahead log: one sequence of batches on disk for all groups of this node.
//!
//! ```text
//! RaftCore of each group → append ─┐ encode into the waiting batch
//!                          vote ───┤
//!                          purge ──┘        flusher thread: one write, one fdatasync, then
//!                                           every callback of the batch (FLUSH-THEN-ACK)
//! ```
//!
//! - Owns: each group's entries in memory, the batch that waits for the flusher.
//! - Takes: entries, votes, marks. Gives: a callback once they are as durable as configured.
//! - Bound: bytes of entries in memory are counted in `health.memory`. openraft awaits each callback before the next append, so one append per group waits.
//! - Source: own design; openraft 0.9 `RaftLogStorage`.

mod flusher;
pub(crate) mod frame;
mod group;
mod recover;
#[cfg(test)]
mod tests;

use std::{io, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use self::{flusher::Writer, frame::Record, group::GroupLog, recover::Recovered};
use super::{disk::Disk, health::Health, wake::Wake};
use crate::{
    error::StartError,
    options::Durability,
    raft_group::types::{Entry, LogId, Vote},
};

/// Memory kept between batches.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// Called once, when what was submitted is durable, or never will be.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Replays what is on `disk` and counts the entries found, for `crate::doors`.
pub(crate) fn recovered_entries(disk: &dyn Disk, groups: u16) -> Result<usize, StartError> {
    let found = recover::recover(disk, groups)?;
    Ok(found.groups.iter().map(|group| group.range(..).len()).sum())
}

/// Makes what was found survive the loss of power. After `kill -9` a part of it may be in the page cache
/// only, and the groups are about to build on all of it.
fn sync_found(disk: &dyn Disk, found: &Recovered) -> Result<(), StartError> {
    for segment in &found.segments {
        let synced = disk.create(segment.number, None).and_then(|mut file| file.sync());
        let path = || disk.path(segment.number);
        synced.map_err(|source| StartError::Io { what: "sync", path: path(), source })?;
    }
    let path = || disk.path(0);
    disk.sync_folder().map_err(|source| StartError::Io {
        what: "sync the folder of",
        path: path(),
        source,
    })
}

/// The log of all groups of this node.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    durability: Durability,
    health: Arc<Health>,
    groups: Vec<Mutex<GroupLog>>,
    pending: Mutex<Pending>,
    wake: Wake,
    /// Nothing was on the disk when this was opened.
    pub(crate) was_empty: bool,
}

/// A log that was read, and that nobody writes yet.
pub(crate) struct FoundLog {
    pub(crate) log: Arc<Log>,
    writer: Writer,
}

impl FoundLog {
    /// Begins the first segment, if there is none; it is synced when this returns.
    pub(crate) fn begin(&mut self) -> Result<(), StartError> {
        let path = || self.log.disk.path(1);
        let begun = self.writer.begin();
        begun.map_err(|source| StartError::Io { what: "begin the log in", path: path(), source })
    }

    /// Starts the flusher.
    pub(crate) fn run(self) -> Result<(Arc<Log>, JoinHandle<()>), StartError> {
        let Self { log, writer } = self;
        let flusher = std::thread::Builder::new()
            .name("flusher".into())
            .spawn(move || writer.run())
            .map_err(|source| StartError::Io {
                what: "start the flusher for",
                path: log.disk.path(0),
                source,
            })?;
        Ok((log, flusher))
    }
}

/// What waits for the flusher.
#[derive(Default)]
struct Pending {
    /// Room for the head, then the records.
    batch: Vec<u8>,
    done: Vec<Done>,
    /// The last index of each append in the batch.
    appended: Vec<(u16, u64)>,
    purged: Vec<(u16, u64)>,
    /// The last batch's memory, for the next one.
    spare: Vec<u8>,
    /// A vote is synced even where entries need not be.
    sync: bool,
    /// Somebody waits; without it the batch can wait for the next one.
    urgent: bool,
    stopped: bool,
}

impl Pending {
    fn is_due(&self) -> bool {
        self.urgent || self.stopped
    }

    /// Takes the batch and leaves an empty one; `None` if there was none.
    fn take(&mut self) -> Option<Self> {
        let (stopped, spare) = (self.stopped, std::mem::take(&mut self.spare));
        let batch = std::mem::replace(self, Self { stopped, spare, ..Self::default() });
        (!batch.batch.is_empty()).then_some(batch)
    }
}

impl Log {
    /// Reads what is on `disk` and starts the flusher.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        groups: u16,
        durability: Durability,
        health: Arc<Health>,
    ) -> Result<(Arc<Self>, JoinHandle<()>), StartError> {
        Self::find(disk, groups, durability, health)?.run()
    }

    /// Reads what is on `disk`; nothing is written before [`FoundLog::run`].
    pub(crate) fn find(
        disk: Arc<dyn Disk>,
        groups: u16,
        durability: Durability,
        health: Arc<Health>,
    ) -> Result<FoundLog, StartError> {
        let (log, writer) = Self::recover(disk, groups, durability, health)?;
        Ok(FoundLog { log, writer })
    }

    /// Reads what is on `disk` and starts the flusher as a task, with segments of `segment_bytes`.
    #[cfg(feature = "sim")]
    pub(crate) fn open_driven(
        disk: Arc<dyn Disk>,
        groups: u16,
        durability: Durability,
        health: Arc<Health>,
        segment_bytes: u64,
        delay: super::driven::Delay,
    ) -> Result<Arc<Self>, StartError> {
        let (log, mut writer) = Self::recover(disk, groups, durability, health)?;
        writer.segment_bytes = segment_bytes;
        tokio::spawn(writer.drive(delay));
        Ok(log)
    }

    /// Reads what is on `disk`; gives the log, and the flusher's work for whoever is to do it.
    fn recover(
        disk: Arc<dyn Disk>,
        groups: u16,
        durability: Durability,
        health: Arc<Health>,
    ) -> Result<(Arc<Self>, Writer), StartError> {
        let recovered = recover::recover(&*disk, groups)?;
        sync_found(&*disk, &recovered)?;
        let was_empty = recovered.segments.is_empty();
        let held = recovered.groups.iter().map(GroupLog::bytes).sum();
        health.memory.changed(0, held);
        let log = Arc::new(Self {
            disk,
            durability,
            health,
            groups: recovered.groups.into_iter().map(Mutex::new).collect(),
            pending: Mutex::default(),
            wake: Wake::default(),
            was_empty,
        });
        let writer = Writer::new(log.clone(), recovered.segments, recovered.next_seq);
        Ok((log, writer))
    }

    /// Returns the group's part; an unknown group is a programming error and gets group 0's.
    pub(crate) fn group(&self, group: u16) -> Option<MutexGuard<'_, GroupLog>> {
        self.groups.get(usize::from(group)).map(Mutex::lock)
    }

    /// Checks that a state needs nothing of its log that is gone.
    pub(crate) fn check_behind(
        &self,
        group: u16,
        stored: Option<LogId>,
        folder: &Path,
    ) -> Result<(), StartError> {
        let purged = self.group(group).and_then(|log| log.purged);
        if stored >= purged {
            return Ok(());
        }
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let (stored, purged, path) = (index(stored), index(purged), folder.join("state"));
        Err(StartError::StateBehind { group, path, stored, purged })
    }

    /// Appends entries; they can be read at once, and `done` is called when they are durable.
    pub(crate) fn append(&self, group: u16, entries: impl IntoIterator<Item = Entry>, done: Done) {
        let Some(mut state) = self.group(group) else { return };
        let mut pending = self.pending();
        if let Some(committed) = state.committed {
            frame::put(&mut pending.batch, group, &Record::Committed(committed));
        }
        let mut last = None;
        let before = state.bytes();
        for entry in entries {
            frame::put_entry(&mut pending.batch, group, &entry);
            last = Some((group, entry.log_id.index));
            state.push(entry);
        }
        self.health.memory.changed(before, state.bytes());
        drop(state);
        pending.appended.extend(last);
        pending.done.push(done);
        self.submit(pending);
    }

    pub(crate) fn vote(&self, group: u16, vote: Vote, done: Done) {
        self.mark(group, Record::Vote(vote), Some(done));
    }

    pub(crate) fn truncate(&self, group: u16, index: u64, done: Done) {
        self.mark(group, Record::Truncate(index), Some(done));
    }

    /// Forgets entries up to `id`; written with whatever is flushed next.
    pub(crate) fn purge(&self, group: u16, id: LogId) {
        self.mark(group, Record::Purge(id), None);
    }

    /// Returns the first index from which on a group's entries hold at most `bytes`.
    pub(crate) fn first_within(&self, group: u16, bytes: usize) -> u64 {
        self.group(group).map_or(0, |group| group.first_within(bytes))
    }

    /// Remembers how far the group has committed; written with its next append.
    pub(crate) fn committed(&self, group: u16, id: LogId) {
        if let Some(mut state) = self.group(group) {
            state.committed = Some(id);
        }
    }

    fn mark(&self, group: u16, record: Record, done: Option<Done>) {
        let Some(mut state) = self.group(group) else { return };
        let mut pending = self.pending();
        frame::put(&mut pending.batch, group, &record);
        match &record {
            Record::Purge(id) => pending.purged.push((group, id.index)),
            Record::Vote(_) => pending.sync = true,
            _ => {}
        }
        let before = state.bytes();
        state.apply(record);
        self.health.memory.changed(before, state.bytes());
        drop(state);
        if let Some(done) = done {
            pending.done.push(done);
            self.submit(pending);
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        let mut pending = self.pending.lock();
        if pending.batch.is_empty() {
            pending.batch = std::mem::take(&mut pending.spare);
            pending.batch.resize(frame::HEAD_BYTES, 0);
        }
        pending
    }

    fn submit(&self, mut pending: MutexGuard<'_, Pending>) {
        if pending.stopped {
            let done = std::mem::take(&mut pending.done);
            drop(pending);
            for done in done {
                done(Err(io::Error::other("the log is closed")));
            }
            return;
        }
        let was = std::mem::replace(&mut pending.urgent, true);
        drop(pending);
        if !was {
            self.wake.notify();
        }
    }

    /// Writes marks that wait for a batch, so that segments behind the checkpoint can go.
    pub(crate) fn nudge(&self) {
        let mut pending = self.pending.lock();
        if !pending.purged.is_empty() && !pending.stopped {
            pending.urgent = true;
            drop(pending);
            self.wake.notify();
        }
    }

    /// Ends the flusher after it has written what waits. Later appends fail.
    pub(crate) fn stop(&self) {
        let marks: Vec<_> = (0..u16::try_from(self.groups.len()).unwrap_or(u16::MAX))
            .filter_map(|group| Some((group, self.group(group)?.committed?)))
            .collect();
        // A log that nobody wrote to stays as it is: one that is gone must not look like one that was begun.
        let mut pending = if marks.is_empty() { self.pending.lock() } else { self.pending() };
        for (group, committed) in marks {
            frame::put(&mut pending.batch, group, &Record::Committed(committed));
        }
        pending.stopped = true;
        drop(pending);
        self.wake.notify();
    }

    /// Waits for a batch that somebody waits for; `None` once the log is stopped and drained.
    fn next_batch(&self) -> Option<Pending> {
        let mut pending = self.pending.lock();
        while !pending.is_due() {
            self.wake.wait(&mut pending);
        }
        pending.take()
    }

    #[cfg(feature = "sim")]
    async fn next_batch_driven(&self) -> Option<Pending> {
        self.wake.until(|| self.pending.lock().is_due()).await;
        self.pending.lock().take()
    }

    /// Takes back a written batch's memory, unless it is much.
    fn recycle(&self, mut batch: Vec<u8>) {
        if batch.capacity() <= SPARE_BYTES_MAX {
            batch.clear();
            self.pending.lock().spare = batch;
        }
    }

    /// Waits before another try; gives `true` once the log is stopped.
    fn pause(&self, time: Duration) -> bool {
        let mut pending = self.pending.lock();
        if !pending.stopped {
            let deadline = crate::clock::now() + time;
            while !pending.stopped && self.wake.wait_until(&mut pending, deadline) {}
        }
        pending.stopped
    }
}
