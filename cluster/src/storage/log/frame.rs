//! Bytes of the log: batches, each one write, and the records of all groups inside them.
//!
//! ```text
//! batch  = magic u32 · crc of the rest of the head u32 · seq u64 · synced u64
//!          · body length u32 · crc of the body u32 · body
//! record = length u32 · kind u8 · group u16 · fields
//! ```
//!
//! - Owns: nothing. Takes: entries, votes, marks. Gives: bytes, and them back.
//! - Bound: a body is at most `u32::MAX` bytes; a length is checked before memory is taken for it.
//! - Source: own design. Integers are little endian. `synced` is the last batch that was known to be
//!   synced when this one was written: it tells a torn tail from damage.

use bytes::{Buf, BufMut, Bytes};
use openraft::{CommittedLeaderId, EntryPayload};

use crate::{
    raft_group::types::{Entry, LogId, Proposal, Vote},
    stream::{
        queue::Asks,
        run::{Origin, Run},
    },
};

pub(crate) const HEAD_BYTES: usize = 32;
const MAGIC: u32 = 0x3142_5148; // "HQB1"

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) synced: u64,
    pub(crate) body_bytes: usize,
    body_crc: u32,
}

/// One thing that the log says about a group.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// The segment begins here; its number tells a reused file from a fresh one.
    Start {
        segment: u64,
    },
    Entry(Entry),
    Vote(Vote),
    Committed(LogId),
    /// Entries from this index on are gone.
    Truncate(u64),
    /// Entries up to this one are gone.
    Purge(LogId),
}

/// Writes the head into the first bytes of `batch`, whose body is complete.
pub(crate) fn seal(batch: &mut [u8], seq: u64, synced: u64) {
    let Some((mut head, body)) = batch.split_at_mut_checked(HEAD_BYTES) else { return };
    let crc = crc32fast::hash(body);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut rest = [0; HEAD_BYTES - 8];
    let mut out = &mut rest[..];
    out.put_u64_le(seq);
    out.put_u64_le(synced);
    out.put_u32_le(length);
    out.put_u32_le(crc);
    head.put_u32_le(MAGIC);
    head.put_u32_le(crc32fast::hash(&rest));
    head.put_slice(&rest);
}

/// Reads a head; `None` if there is none.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let mut head = bytes.get(..HEAD_BYTES)?;
    if head.get_u32_le() != MAGIC || head.get_u32_le() != crc32fast::hash(head) {
        return None;
    }
    let (seq, synced) = (head.get_u64_le(), head.get_u64_le());
    let body_bytes = usize::try_from(head.get_u32_le()).ok()?;
    Some(Head { seq, synced, body_bytes, body_crc: head.get_u32_le() })
}

/// Reads a whole batch; `None` if it is torn or damaged.
pub(crate) fn batch(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let head = head(bytes)?;
    let body = bytes.get(HEAD_BYTES..HEAD_BYTES.checked_add(head.body_bytes)?)?;
    (crc32fast::hash(body) == head.body_crc).then_some((head, body))
}

/// Appends one record.
pub(crate) fn put(out: &mut Vec<u8>, group: u16, record: &Record) {
    match record {
        Record::Entry(entry) => put_entry(out, group, entry),
        Record::Start { segment } => framed(out, 6, group, |out| out.put_u64_le(*segment)),
        Record::Vote(vote) => framed(out, 2, group, |out| {
            out.put_u64_le(vote.leader_id.term);
            out.put_u64_le(vote.leader_id.node_id);
            out.put_u8(u8::from(vote.committed));
        }),
        Record::Committed(id) => framed(out, 3, group, |out| put_log_id(out, id)),
        Record::Truncate(index) => framed(out, 4, group, |out| out.put_u64_le(*index)),
        Record::Purge(id) => framed(out, 5, group, |out| put_log_id(out, id)),
    }
}

/// Appends an entry; the only copy of a command's bytes between the proposer and the disk.
pub(crate) fn put_entry(out: &mut Vec<u8>, group: u16, entry: &Entry) {
    framed(out, 1, group, |out| {
        put_log_id(out, &entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => out.put_u8(0),
            EntryPayload::Normal(proposal) => {
                // Kind 1, of format 1, has commands only.
                out.put_u8(if proposal.runs.is_empty() { 1 } else { 3 });
                if !proposal.runs.is_empty() {
                    put_runs(out, &proposal.runs);
                }
                out.put_u32_le(length(proposal.commands.len()));
                for command in proposal.commands.iter() {
                    out.put_u32_le(length(command.len()));
                    out.extend_from_slice(command);
                }
            }
            EntryPayload::Membership(membership) => {
                out.put_u8(2);
                // Plain maps and integers: this encoding has no case that fails.
                out.extend(bincode::serialize(membership).unwrap_or_default());
            }
        }
    });
}

fn put_runs(out: &mut Vec<u8>, runs: &[Run]) {
    out.put_u32_le(length(runs.len()));
    for run in runs {
        out.put_u64_le(run.origin.node);
        out.put_u64_le(run.origin.incarnation);
        out.put_u64_le(run.epoch);
        out.put_u64_le(run.first);
        out.put_u32_le(run.count);
    }
}

/// Bytes of a run.
const RUN_BYTES: usize = 36;

/// Returns how many bytes [`put_entry`] will write, or a little less.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    let EntryPayload::Normal(proposal) = &entry.payload else { return 256 };
    let commands = proposal.commands.iter().map(|command| 4 + command.len()).sum::<usize>();
    64 + proposal.runs.len() * RUN_BYTES + commands
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn framed(out: &mut Vec<u8>, kind: u8, group: u16, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(kind);
    out.put_u16_le(group);
    fields(out);
    let bytes = length(out.len() - start - 4).to_le_bytes();
    if let Some(slot) = out.get_mut(start..start + 4) {
        slot.copy_from_slice(&bytes);
    }
}

fn put_log_id(out: &mut Vec<u8>, id: &LogId) {
    out.put_u64_le(id.leader_id.term);
    out.put_u64_le(id.leader_id.node_id);
    out.put_u64_le(id.index);
}

/// Reads the next record of a body; `Ok(None)` at its end, `Err` if the bytes mean nothing.
pub(crate) fn take(body: &mut Bytes) -> Result<Option<(u16, Record)>, ()> {
    if body.is_empty() {
        return Ok(None);
    }
    let bytes = usize::try_from(u32_of(body)?).map_err(|_| ())?;
    if bytes < 3 || body.len() < bytes {
        return Err(());
    }
    let mut fields = body.split_to(bytes);
    let kind = fields.get_u8();
    let group = fields.get_u16_le();
    let record = match kind {
        1 => Record::Entry(entry(&mut fields)?),
        2 => {
            let mut vote = Vote::new(u64_of(&mut fields)?, u64_of(&mut fields)?);
            vote.committed = u8_of(&mut fields)? != 0;
            Record::Vote(vote)
        }
        3 => Record::Committed(log_id(&mut fields)?),
        4 => Record::Truncate(u64_of(&mut fields)?),
        5 => Record::Purge(log_id(&mut fields)?),
        6 => Record::Start { segment: u64_of(&mut fields)? },
        _ => return Err(()),
    };
    Ok(Some((group, record)))
}

fn entry(fields: &mut Bytes) -> Result<Entry, ()> {
    let log_id = log_id(fields)?;
    let payload = match u8_of(fields)? {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Normal(proposal(commands(fields)?, Vec::new())),
        3 => {
            let (runs, commands) = (runs(fields)?, commands(fields)?);
            let counted: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
            if runs.is_empty() || counted != commands.len() as u64 {
                return Err(());
            }
            EntryPayload::Normal(proposal(commands, runs))
        }
        2 => EntryPayload::Membership(bincode::deserialize(fields).map_err(|_| ())?),
        _ => return Err(()),
    };
    Ok(Entry { log_id, payload })
}

fn proposal(commands: Vec<Bytes>, runs: Vec<Run>) -> Proposal {
    Proposal { commands: commands.into(), runs: runs.into(), asks: Asks::default() }
}

fn runs(fields: &mut Bytes) -> Result<Vec<Run>, ()> {
    let count = usize::try_from(u32_of(fields)?).map_err(|_| ())?;
    let mut runs = Vec::with_capacity(count.min(fields.len() / RUN_BYTES));
    for _ in 0..count {
        let (node, incarnation) = (u64_of(fields)?, u64_of(fields)?);
        let (epoch, first) = (u64_of(fields)?, u64_of(fields)?);
        let origin = Origin { node, incarnation };
        runs.push(Run { origin, epoch, first, count: u32_of(fields)? });
    }
    Ok(runs)
}

fn commands(fields: &mut Bytes) -> Result<Vec<Bytes>, ()> {
    let count = usize::try_from(u32_of(fields)?).map_err(|_| ())?;
    // Each command takes four bytes at least, so a wrong count cannot take much memory.
    let mut commands = Vec::with_capacity(count.min(fields.len() / 4));
    for _ in 0..count {
        let bytes = usize::try_from(u32_of(fields)?).map_err(|_| ())?;
        if fields.len() < bytes {
            return Err(());
        }
        commands.push(fields.split_to(bytes));
    }
    Ok(commands)
}

fn log_id(fields: &mut Bytes) -> Result<LogId, ()> {
    let leader = CommittedLeaderId::new(u64_of(fields)?, u64_of(fields)?);
    let index = u64_of(fields)?;
    // No log grows that long, and everybody may count on an index behind each.
    if index == u64::MAX { Err(()) } else { Ok(LogId::new(leader, index)) }
}

fn u8_of(fields: &mut Bytes) -> Result<u8, ()> {
    fields.try_get_u8().map_err(|_| ())
}

fn u32_of(fields: &mut Bytes) -> Result<u32, ()> {
    fields.try_get_u32_le().map_err(|_| ())
}

fn u64_of(fields: &mut Bytes) -> Result<u64, ()> {
    fields.try_get_u64_le().map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(proposal: Proposal) -> Vec<u8> {
        let log_id = LogId::new(CommittedLeaderId::new(3, 1), 9);
        let entry = Entry { log_id, payload: EntryPayload::Normal(proposal) };
        let mut out = Vec::new();
        put_entry(&mut out, 2, &entry);
        out
    }

    fn read(bytes: Vec<u8>) -> Result<Proposal, ()> {
        match take(&mut Bytes::from(bytes))? {
            Some((2, Record::Entry(Entry { payload: EntryPayload::Normal(read), .. }))) => Ok(read),
            _ => Err(()),
        }
    }

    #[test]
    fn entry_when_it_has_runs_or_is_of_format_1_then_read_as_written_and_nonsense_refused() {
        let origin = Origin { node: 7, incarnation: 8 };
        let first = Run { origin, epoch: 2, first: 5, count: 2 };
        let opening = Run { epoch: 3, first: 7, count: 0, ..first };
        let command = |text: &'static str| Bytes::from_static(text.as_bytes());
        let commands = vec![command("one"), command("")];
        let whole = written(proposal(commands.clone(), vec![first, opening]));
        let found = read(whole.clone()).unwrap();
        assert_eq!((&found.commands[..], &found.runs[..]), (&commands[..], &[first, opening][..]));
        let old = written(proposal(commands.clone(), Vec::new()));
        let found = read(old).unwrap();
        assert_eq!((&found.commands[..], &found.runs[..]), (&commands[..], &[][..]));
        // Commands that belong to no run, or to none that is here.
        assert!(read(written(proposal(commands, vec![opening]))).is_err());
        assert!(read(written(proposal(Vec::new(), vec![first]))).is_err());
        // A count of runs that no entry can hold.
        let at = whole.len() - (4 + 4 + 3 + 4) - 2 * RUN_BYTES - 4;
        let mut wrong = whole;
        wrong[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(wrong).is_err());
    }
}
