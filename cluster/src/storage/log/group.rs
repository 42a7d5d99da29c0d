//! One group's part of the log, as it is in memory.
//!
//! - Owns: vote, committed, purged, and every entry that is not purged.
//! - Takes: records, in log order: from openraft while running, from the segments at start.
//! - Gives: entries by index, without touching the disk.
//! - Bound: entries are purged behind each checkpoint; their bytes are counted, and call for a checkpoint or
//!   hold proposals back when they are many (`storage/checkpoint.rs`, `Fill`).
//! - Source: openraft 0.9 `RaftLogStorage`.

use std::{
    collections::VecDeque,
    ops::{Bound, Range, RangeBounds},
};

use bytes::Bytes;
use openraft::EntryPayload;

use super::frame::Record;
use crate::{
    raft_group::types::{Entry, LogId, Vote},
    stream::run::Run,
};

/// The log of one group.
#[derive(Debug, Default)]
pub(crate) struct GroupLog {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    entries: VecDeque<Entry>,
    /// What they hold in memory.
    bytes: usize,
}

/// What an entry holds beside its commands: itself, and a handle per command.
const ENTRY_BYTES: usize = size_of::<Entry>() + 32;

/// Places for entries that an empty log keeps.
const SPARE_ENTRIES_MAX: usize = 1_024;

fn bytes_of(entry: &Entry) -> usize {
    let EntryPayload::Normal(proposal) = &entry.payload else { return ENTRY_BYTES };
    let commands = proposal.commands.iter();
    ENTRY_BYTES
        + proposal.runs.len() * size_of::<Run>()
        + commands.map(|command| command.len() + size_of::<Bytes>()).sum::<usize>()
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

    /// Appends an entry; another one with its index is replaced, with all behind it. One that is there already
    /// stays, and what is behind it: it was written again (`Writer::carry`).
    pub(crate) fn push(&mut self, entry: Entry) {
        if Some(entry.log_id.index) <= self.purged.map(|id| id.index) || self.holds(entry.log_id) {
            return;
        }
        self.truncate(entry.log_id.index);
        self.bytes += bytes_of(&entry);
        self.entries.push_back(entry);
    }

    pub(crate) fn truncate(&mut self, index: u64) {
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.log_id.index >= index) {
            self.bytes -= bytes_of(&entry);
        }
    }

    pub(crate) fn purge(&mut self, id: LogId) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.log_id.index <= id.index) {
            self.bytes -= bytes_of(&entry);
        }
        // What a burst needed is given back with it.
        if self.entries.is_empty() && self.entries.capacity() > SPARE_ENTRIES_MAX {
            self.entries = VecDeque::new();
        }
        self.purged = self.purged.max(Some(id));
    }

    /// Returns what the entries hold in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    /// Returns the first entries of a range, until they hold `bytes`; one at least if there is any.
    pub(crate) fn run(&self, range: Range<u64>, bytes: usize) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|entry| entry.log_id.index) else {
            return Vec::new();
        };
        let place = |index: u64| usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX);
        let (from, to) = (place(range.start), place(range.end).min(self.entries.len()));
        if range.start < first || from >= to {
            return Vec::new();
        }
        let mut held = 0;
        let fits = |entry: &&Entry| {
            let fits = held < bytes;
            held += bytes_of(entry);
            fits
        };
        self.entries.range(from..to).take_while(fits).cloned().collect()
    }

    /// Returns the first index from which on the entries hold at most `bytes`.
    pub(crate) fn first_within(&self, bytes: usize) -> u64 {
        let mut held = 0;
        let fits = |entry: &&Entry| {
            held += bytes_of(entry);
            held <= bytes
        };
        let first = self.entries.iter().rev().take_while(fits).last();
        first.map_or_else(|| self.last().map_or(0, |id| id.index + 1), |entry| entry.log_id.index)
    }

    /// Returns whether any entry names a voter beside `node`.
    pub(crate) fn has_other_voters(&self, node: u64) -> bool {
        self.entries.iter().any(|entry| match &entry.payload {
            EntryPayload::Membership(members) => members.voter_ids().any(|id| id != node),
            EntryPayload::Blank | EntryPayload::Normal(_) => false,
        })
    }

    /// Returns whether this entry is in the log, or was until it was purged.
    pub(crate) fn has(&self, id: LogId) -> bool {
        let first = self.entries.front().map(|entry| entry.log_id.index);
        if first.is_some_and(|first| first <= id.index) {
            self.holds(id)
        } else {
            self.purged >= Some(id)
        }
    }

    fn holds(&self, id: LogId) -> bool {
        let first = self.entries.front().map(|entry| entry.log_id.index);
        let place = first.and_then(|first| usize::try_from(id.index.checked_sub(first)?).ok());
        place.and_then(|at| self.entries.get(at)).is_some_and(|entry| entry.log_id == id)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::CommittedLeaderId;

    use super::*;
    use crate::raft_group::types::Proposal;

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn entry(index: u64, bytes: usize) -> Entry {
        let commands = Arc::from([Bytes::from(vec![0; bytes])]);
        Entry {
            log_id: id(index),
            payload: EntryPayload::Normal(Proposal { commands, ..Proposal::default() }),
        }
    }

    fn held(log: &GroupLog) -> usize {
        log.entries.iter().map(bytes_of).sum()
    }

    #[test]
    fn run_when_entries_are_large_then_few_but_never_none() {
        let mut log = GroupLog::default();
        for index in 5..=20 {
            log.push(entry(index, 1_000));
        }
        let run = |range, bytes| {
            log.run(range, bytes).iter().map(|entry| entry.log_id.index).collect::<Vec<_>>()
        };
        assert_eq!(run(5..21, 1), [5]);
        assert_eq!(run(6..9, 1 << 20), [6, 7, 8]);
        assert_eq!(run(6..21, 2_500), [6, 7, 8]);
        assert_eq!(run(20..99, 9_999), [20]);
        assert!(run(4..9, 9_999).is_empty() && run(21..22, 9_999).is_empty());
        assert_eq!(
            [log.first_within(0), log.first_within(2_500), log.first_within(1 << 20)],
            [21, 19, 5]
        );
    }

    #[test]
    fn bytes_when_entries_come_go_and_are_replaced_then_those_that_are_held() {
        let mut log = GroupLog::default();
        for index in 1..=5_000 {
            log.push(entry(index, 100));
            assert_eq!(log.bytes(), held(&log));
        }
        assert!(log.bytes() >= 5_000 * 100);
        // One that is there already changes nothing; another one in its place does.
        log.push(entry(4_000, 100));
        assert_eq!((log.bytes(), log.last()), (held(&log), Some(id(5_000))));
        let other = LogId::new(CommittedLeaderId::new(2, 1), 4_000);
        log.push(Entry { log_id: other, ..entry(4_000, 7) });
        assert_eq!((log.bytes(), log.last()), (held(&log), Some(other)));
        assert!(log.has(id(1)) && log.has(other) && !log.has(id(4_000)) && !log.has(id(4_001)));
        log.truncate(3_000);
        log.purge(id(2_000));
        assert!(log.has(id(1_999)) && log.has(id(2_999)) && !log.has(id(3_000)));
        assert_eq!(log.bytes(), held(&log));
        // Purged ones do not come back.
        log.push(entry(1_500, 100));
        assert_eq!((log.bytes(), log.entries.len()), (held(&log), 999));
        log.purge(id(9_999));
        assert_eq!((log.bytes(), log.entries.capacity()), (0, 0));
    }
}
