//! Reads the log at start: cuts a torn tail, refuses damage.
//!
//! A batch that cannot be read is a torn tail unless a later batch says that it was synced once:
//! then acknowledged messages would be lost, and the node does not start on its own.
//!
//! - Owns: nothing. Takes: the segments of a disk. Gives: each group's log, the next sequence number.
//! - Bound: one segment in memory at a time, beside the entries found.
//! - Source: own design.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    flusher::Segment,
    frame::{self, HEAD_BYTES, Record},
    group::GroupLog,
};
use crate::{error::StartError, storage::disk::Disk};

/// What was on the disk.
pub(super) struct Recovered {
    pub(super) groups: Vec<GroupLog>,
    pub(super) segments: VecDeque<Segment>,
    pub(super) next_seq: u64,
}

/// Where reading stopped before the end of the log.
#[derive(Clone, Copy)]
struct Cut {
    segment: u64,
    offset: usize,
}

/// What a segment is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Replayed,
    /// Its beginning never reached the disk.
    NotBegun,
    BehindGap,
}

struct Reader<'a> {
    disk: &'a dyn Disk,
    found: Recovered,
    /// Number of the next batch; `None` before the first one.
    expected: Option<u64>,
    cut: Option<Cut>,
}

/// Replays all segments of `disk` for `groups` groups.
pub(super) fn recover(disk: &dyn Disk, groups: u16) -> Result<Recovered, StartError> {
    let numbers = disk.segments().map_err(|source| io(disk, 0, "list the folder of", source))?;
    let groups = (0..groups).map(|_| GroupLog::default()).collect();
    let found = Recovered { groups, segments: VecDeque::new(), next_seq: 1 };
    let mut reader = Reader { disk, found, expected: None, cut: None };
    let mut gap = false;
    for number in &numbers {
        let bytes = disk.read(*number).map_err(|source| io(disk, *number, "read", source))?;
        let place = reader.segment(*number, &Bytes::from(bytes), gap)?;
        gap |= place == Place::BehindGap;
        if place != Place::Replayed {
            // Nothing proves that what is missing was ever promised; what follows it cannot be kept. One
            // that was not begun has to go before others come behind it: it may be full of an older
            // segment's batches, and would look like damage once those in front of it are gone.
            tracing::warn!(segment = number, ?place, "dropping a log segment");
            disk.remove(*number).map_err(|source| io(disk, *number, "remove", source))?;
        }
    }
    for group in &mut reader.found.groups {
        group.settle();
    }
    reader.found.next_seq = reader.expected.unwrap_or(1);
    Ok(reader.found)
}

fn io(disk: &dyn Disk, segment: u64, what: &'static str, source: std::io::Error) -> StartError {
    StartError::Io { what, path: disk.path(segment), source }
}

impl Reader<'_> {
    /// Replays one segment, unless it must go.
    fn segment(&mut self, number: u64, bytes: &Bytes, gap: bool) -> Result<Place, StartError> {
        let Some(start) = first_seq(bytes, number).filter(|_| !gap) else {
            // Never begun, or a reused file whose beginning did not reach the disk.
            self.refuse_if_promised(bytes)?;
            if self.expected.is_none() {
                self.tear(number, 0, bytes)?;
                self.expected = Some(1);
            }
            return Ok(if gap { Place::BehindGap } else { Place::NotBegun });
        };
        match self.expected {
            // A batch that was not acknowledged may be there twice; replaying it twice is harmless.
            Some(expected) if start > expected => {
                self.refuse_if_promised(bytes)?;
                return Ok(Place::BehindGap);
            }
            _ => self.expected = Some(start),
        }
        self.cut = None;
        self.batches(number, bytes)?;
        Ok(Place::Replayed)
    }

    fn batches(&mut self, number: u64, bytes: &Bytes) -> Result<(), StartError> {
        let groups = self.found.groups.len();
        let mut segment = Segment::new(number, groups);
        let mut offset = 0;
        let mut expected = self.expected.unwrap_or(1);
        while let Some((head, _)) = bytes.get(offset..).and_then(frame::batch) {
            if head.seq != expected {
                break;
            }
            let end = offset + HEAD_BYTES + head.body_bytes;
            let body = bytes.slice(offset + HEAD_BYTES..end);
            self.replay(body, &mut segment).map_err(|()| self.damaged(number, offset))?;
            offset = end;
            expected += 1;
        }
        self.expected = Some(expected);
        segment.bytes = offset as u64;
        self.found.segments.push_back(segment);
        self.tear(number, offset, bytes.get(offset..).unwrap_or_default())
    }

    fn replay(&mut self, mut body: Bytes, segment: &mut Segment) -> Result<(), ()> {
        while let Some((group, record)) = frame::take(&mut body)? {
            if let Record::Entry(entry) = &record {
                segment.note(group, entry.log_id.index);
            }
            self.found.groups.get_mut(usize::from(group)).ok_or(())?.apply(record);
        }
        Ok(())
    }

    /// Ends a segment here, unless something behind proves that more was promised.
    fn tear(&mut self, segment: u64, offset: usize, rest: &[u8]) -> Result<(), StartError> {
        self.cut = Some(Cut { segment, offset });
        self.refuse_if_promised(rest)
    }

    /// Looks for a batch written after the missing one was synced.
    fn refuse_if_promised(&self, bytes: &[u8]) -> Result<(), StartError> {
        let expected = self.expected.unwrap_or(1);
        let magic = bytes.windows(HEAD_BYTES).enumerate();
        for (offset, head) in magic.filter_map(|(at, bytes)| Some((at, frame::head(bytes)?))) {
            let proof = head.seq > expected && head.synced >= expected;
            if proof && bytes.get(offset..).and_then(frame::batch).is_some() {
                let cut = self.cut.unwrap_or(Cut { segment: 0, offset });
                return Err(self.damaged(cut.segment, cut.offset));
            }
        }
        Ok(())
    }

    fn damaged(&self, segment: u64, offset: usize) -> StartError {
        StartError::LogDamaged { path: self.disk.path(segment), offset: offset as u64 }
    }
}

/// Returns the number of the first batch if the segment was begun under this name.
fn first_seq(bytes: &Bytes, number: u64) -> Option<u64> {
    let (head, _) = frame::batch(bytes)?;
    let mut body = bytes.slice(HEAD_BYTES..HEAD_BYTES + head.body_bytes);
    match frame::take(&mut body) {
        Ok(Some((_, Record::Start { segment }))) if segment == number => Some(head.seq),
        _ => None,
    }
}
