//! One group's part of the log, as it is in memory.
//!
//! - Owns: vote, committed, purged, and every entry that is not purged.
//! - Takes: records, in log order: from openraft while running, from the segments at start.
//! - Gives: entries by index, without touching the disk.
//! - Bound: entries are purged behind each checkpoint, so at most about two checkpoints' worth stay.
//! - Source: openraft 0.9 `RaftLogStorage`.

use std::{
    collections::VecDeque,
    ops::{Bound, RangeBounds},
};

use super::frame::Record;
use crate::raft_group::types::{Entry, LogId, Vote};

/// The log of one group.
#[derive(Debug, Default)]
pub(crate) struct GroupLog {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    entries: VecDeque<Entry>,
}

impl GroupLog {
    /// Takes over what a record says. Replaying records twice changes nothing.
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Start { .. } => {}
            Record::Entry(entry) => self.push(entry),
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Committed(id) => self.committed = self.committed.max(Some(id)),
            Record::Truncate(index) => self.truncate(index),
            Record::Purge(id) => self.purge(id),
        }
    }

    /// Appends an entry; an entry already there with its index is replaced, with all behind it.
    pub(crate) fn push(&mut self, entry: Entry) {
        if Some(entry.log_id.index) <= self.purged.map(|id| id.index) {
            return;
        }
        self.truncate(entry.log_id.index);
        self.entries.push_back(entry);
    }

    pub(crate) fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= index) {
            self.entries.pop_back();
        }
    }

    pub(crate) fn purge(&mut self, id: LogId) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= id.index) {
            self.entries.pop_front();
        }
        self.purged = self.purged.max(Some(id));
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    pub(crate) fn range(&self, range: impl RangeBounds<u64>) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|entry| entry.log_id.index) else {
            return Vec::new();
        };
        let next = first.saturating_add(self.entries.len() as u64);
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let (from, to) = (from.max(first), to.min(next));
        let place = |index: u64| usize::try_from(index - first).unwrap_or(usize::MAX);
        if from >= to {
            return Vec::new();
        }
        self.entries.range(place(from)..place(to)).cloned().collect()
    }

    /// Ends a replay: what says more than the entries that were found is taken back.
    pub(crate) fn settle(&mut self) {
        if self.committed > self.last() {
            self.committed = self.last();
        }
    }

    /// Returns the records that a new segment begins with, so that older ones can go.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Record> {
        let vote = self.vote.map(Record::Vote);
        let purged = self.purged.map(Record::Purge);
        let committed = self.committed.map(Record::Committed);
        [vote, purged, committed].into_iter().flatten()
    }
}
