//! The one thread that writes the log: gathers, writes, syncs, calls back.
//!
//! - Owns: the open segment, the list of segments, the sequence number of the next batch.
//! - Takes: the batch that gathered while the last one was written. Gives: its callbacks.
//! - Bound: segments of `SEGMENT_BYTES`, removed once behind every group's checkpoint. What groups keep of the
//!   oldest ones is written again (`carry`) before all hold more than `SEGMENTS_HELD_MAX` and twice what is kept.
//! - An error is tried again until it works (HEAL); a failed sync is never trusted: the batch is
//!   written to another segment, because the kernel may have dropped the pages it could not write.
//! - Source: own design; "fsyncgate" (PostgreSQL, 2018) for the rule on failed syncs.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Log, Pending, frame};
use crate::{
    clock,
    limits::{
        CARRY_BYTES, RETRY_MAX, RETRY_MIN, SEGMENT_BYTES, SEGMENTS_HELD_MAX, SEGMENTS_SPARE_MAX,
    },
    options::Durability,
    storage::disk::{SegmentFile, is_full},
};

/// A segment, and what keeps it from being removed.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    /// Index after the last entry that this segment holds of each group; 0: none.
    pub(crate) ends: Vec<u64>,
}

impl Segment {
    pub(crate) fn new(number: u64, groups: usize) -> Self {
        Self { number, bytes: 0, ends: vec![0; groups] }
    }

    pub(crate) fn note(&mut self, group: u16, index: u64) {
        if let Some(end) = self.ends.get_mut(usize::from(group)) {
            *end = (*end).max(index + 1);
        }
    }
}

/// The flusher's state.
pub(super) struct Writer {
    log: Arc<Log>,
    file: Option<Box<dyn SegmentFile>>,
    segments: VecDeque<Segment>,
    spare: Vec<u64>,
    next_seq: u64,
    /// The last batch known to be synced.
    synced: u64,
    /// Index after the last purged entry of each group, as far as that is on disk.
    purged: Vec<u64>,
    /// A segment takes no further batch beyond this.
    pub(super) segment_bytes: u64,
}

impl Writer {
    pub(super) fn new(log: Arc<Log>, segments: VecDeque<Segment>, next_seq: u64) -> Self {
        let purged =
            log.groups.iter().map(|g| g.lock().purged.map_or(0, |id| id.index + 1)).collect();
        let bytes = segments.iter().map(|segment| segment.bytes).sum();
        log.health.log_bytes.store(bytes, Ordering::Relaxed);
        // What was read at start is synced, but need not be all that was there: nothing counts as synced.
        Self {
            log,
            file: None,
            segments,
            spare: Vec::new(),
            next_seq,
            synced: 0,
            purged,
            segment_bytes: SEGMENT_BYTES,
        }
    }

    pub(super) fn run(mut self) {
        while let Some(mut batch) = self.log.next_batch() {
            let started = clock::now();
            let outcome = self.write_until_done(&mut batch);
            self.log.health.note_flush(started.elapsed(), batch.batch.len() as u64);
            self.finish(batch, &outcome);
        }
        self.end();
    }

    /// Does what `run` does as a task of a simulation; each try of the disk takes `delay`.
    #[cfg(feature = "sim")]
    pub(super) async fn drive(mut self, delay: crate::storage::driven::Delay) {
        while let Some(mut batch) = self.log.next_batch_driven().await {
            let mut wait = RETRY_MIN;
            let outcome = loop {
                tokio::time::sleep(delay()).await;
                let Err(error) = self.attempt(&mut batch, wait) else { break Ok(()) };
                if self.log.pending.lock().stopped && wait >= RETRY_MAX {
                    break Err(error);
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_MAX);
            };
            self.finish(batch, &outcome);
        }
        self.end();
    }

    /// Counts a batch and calls its callers back.
    fn finish(&mut self, mut batch: Pending, outcome: &io::Result<()>) {
        let entries = batch.appended.len() as u64;
        self.log.health.entries.fetch_add(entries, Ordering::Relaxed);
        self.log.recycle(std::mem::take(&mut batch.batch));
        for done in batch.done {
            done(outcome.as_ref().copied().map_err(|error| io::Error::from(error.kind())));
        }
        if outcome.is_ok() && !batch.purged.is_empty() {
            self.note_purged(&batch.purged);
        }
    }

    fn end(&mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.sync()
        {
            tracing::warn!(%error, "cannot sync the log at the end");
        }
    }

    /// Writes the batch, however often the disk refuses; gives up only when the node stops.
    fn write_until_done(&mut self, batch: &mut Pending) -> io::Result<()> {
        let mut wait = RETRY_MIN;
        while let Err(error) = self.attempt(batch, wait) {
            if self.log.pause(wait) && wait >= RETRY_MAX {
                return Err(error);
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
        Ok(())
    }

    /// Writes the batch once; tells the node's health. The first try is the one with `RETRY_MIN`.
    fn attempt(&mut self, batch: &mut Pending, wait: Duration) -> io::Result<()> {
        let written = self.write(batch);
        match &written {
            Ok(()) if wait > RETRY_MIN => self.log.health.note_log(None),
            Ok(()) => {}
            Err(error) => {
                self.log.health.note_log(Some(error));
                if is_full(error)
                    && let Err(error) = self.log.disk.release_reserve()
                {
                    tracing::warn!(%error, "cannot give up the reserve");
                }
            }
        }
        written
    }

    fn write(&mut self, batch: &mut Pending) -> io::Result<()> {
        let bytes = batch.batch.len() as u64;
        let used = self.segments.back().map_or(0, |segment| segment.bytes);
        if self.file.is_none() || used + bytes > self.segment_bytes {
            self.rotate()?;
        }
        frame::seal(&mut batch.batch, self.next_seq, self.synced);
        let sync = batch.sync || self.log.durability == Durability::Disk;
        self.put(&batch.batch, sync)?;
        if let Some(segment) = self.segments.back_mut() {
            for (group, index) in &batch.appended {
                segment.note(*group, *index);
            }
        }
        Ok(())
    }

    /// Writes a sealed batch behind the last one; counts it only once it is as durable as asked.
    fn put(&mut self, batch: &[u8], sync: bool) -> io::Result<()> {
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        file.write_at(batch, segment.bytes)?;
        if sync && let Err(error) = file.sync() {
            self.file = None;
            return Err(error);
        }
        segment.bytes += batch.len() as u64;
        if sync {
            self.synced = self.next_seq;
        }
        self.next_seq += 1;
        self.log.health.log_bytes.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Begins the first segment, if there is none.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if self.segments.is_empty() { self.rotate() } else { Ok(()) }
    }

    /// Begins a segment with all that older ones say beside entries.
    fn rotate(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            if let Err(error) = file.sync() {
                self.file = None;
                return Err(error);
            }
            self.synced = self.next_seq - 1;
        }
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        // A spare file whose renaming fails is not tried twice.
        let file = self.log.disk.create(number, self.spare.pop())?;
        self.log.disk.sync_folder()?;
        let mut batch = vec![0; frame::HEAD_BYTES];
        frame::put(&mut batch, 0, &frame::Record::Start { segment: number });
        for (group, state) in (0_u16..).zip(&self.log.groups) {
            for mark in state.lock().marks() {
                frame::put(&mut batch, group, &mark);
            }
        }
        self.file = Some(file);
        self.segments.push_back(Segment::new(number, self.log.groups.len()));
        frame::seal(&mut batch, self.next_seq, self.synced);
        if let Err(error) = self.put(&batch, true) {
            // The next try takes another number: this file may hold half a beginning.
            self.file = None;
            return Err(error);
        }
        if let Err(error) = self.carry() {
            // Segments stay until the next one is begun; what waits to be written is more urgent.
            tracing::warn!(%error, "cannot shorten the log");
        }
        Ok(())
    }

    /// Writes again what groups keep of the oldest segments, so that these can go. A group that hardly writes
    /// would hold back all that others have written since.
    fn carry(&mut self) -> io::Result<()> {
        for _ in 0..self.log.groups.len() {
            let kept: usize = self.log.groups.iter().map(|group| group.lock().bytes()).sum();
            let most = SEGMENTS_HELD_MAX * self.segment_bytes + 2 * kept as u64;
            let held: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
            let oldest = self.segments.front().filter(|_| held > most);
            let holds = oldest.and_then(|oldest| {
                oldest.ends.iter().zip(&self.purged).position(|(end, purged)| end > purged)
            });
            let Some(group) = holds else { break };
            self.carry_group(group)?;
            self.remove_behind();
        }
        Ok(())
    }

    /// Writes all that a group keeps into the open segment. In pieces: an entry that is there already changes
    /// nothing when it is replayed, so that half of them is no harm.
    fn carry_group(&mut self, group: usize) -> io::Result<()> {
        let number = u16::try_from(group).unwrap_or(u16::MAX);
        let Some(entries) = self.log.group(number).map(|group| group.range(..)) else {
            return Ok(());
        };
        let mut batch = vec![0; frame::HEAD_BYTES];
        for entry in &entries {
            frame::put_entry(&mut batch, number, entry);
            if batch.len() >= CARRY_BYTES {
                self.put_carried(&mut batch)?;
            }
        }
        self.put_carried(&mut batch)?;
        let last = entries.last().map(|entry| entry.log_id.index);
        if let (Some(open), Some(last)) = (self.segments.back_mut(), last) {
            open.note(number, last);
        }
        // Counts for older segments only once it outlives them.
        self.sync()?;
        for end in self.segments.iter_mut().rev().skip(1).filter_map(|one| one.ends.get_mut(group))
        {
            *end = 0;
        }
        Ok(())
    }

    fn put_carried(&mut self, batch: &mut Vec<u8>) -> io::Result<()> {
        if batch.len() > frame::HEAD_BYTES {
            frame::seal(batch, self.next_seq, self.synced);
            self.put(batch, false)?;
            batch.truncate(frame::HEAD_BYTES);
        }
        Ok(())
    }

    fn note_purged(&mut self, purged: &[(u16, u64)]) {
        for (group, index) in purged {
            if let Some(end) = self.purged.get_mut(usize::from(*group)) {
                *end = (*end).max(index + 1);
            }
        }
        self.remove_behind();
    }

    /// Removes segments that hold nothing but purged entries, oldest first.
    fn remove_behind(&mut self) {
        let mut synced = self.log.durability == Durability::Disk;
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|segment| self.is_behind(segment))
        {
            // What replaces the segment must outlive it, also where entries are not synced.
            if !synced && self.sync().is_err() {
                return;
            }
            synced = true;
            let Some(segment) = self.segments.pop_front() else { return };
            self.log.health.log_bytes.fetch_sub(segment.bytes, Ordering::Relaxed);
            let keep = self.spare.len() < SEGMENTS_SPARE_MAX;
            let gone = if keep {
                self.log.disk.retire(segment.number)
            } else {
                self.log.disk.remove(segment.number)
            };
            match gone {
                Ok(()) if keep => self.spare.push(segment.number),
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "cannot remove a log segment"),
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            if let Err(error) = file.sync() {
                self.file = None;
                return Err(error);
            }
            self.synced = self.next_seq - 1;
        }
        Ok(())
    }

    fn is_behind(&self, segment: &Segment) -> bool {
        segment.ends.iter().zip(&self.purged).all(|(end, purged)| end <= purged)
    }
}
