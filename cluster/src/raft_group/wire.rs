//! What members of a group say to each other, as bytes.
//!
//! ```text
//! request = version u8 · kind u8 · group u16 · head (bincode) · entries, as in the log
//! ```
//!
//! - Owns: nothing. Takes: requests and answers of openraft. Gives: bytes, and them back.
//! - Bound: heads and answers of at most `HEAD_BYTES_MAX`; a frame bounds the entries. Bytes of another
//!   version or without sense are an error, never a panic.
//! - Source: own design. Version 1 is the first. Integers are little endian.

use bincode::Options as _;
use bytes::{Buf, BufMut, Bytes};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::types::{Entry, LogId, Types, Vote};
use crate::{
    codec::fixed,
    storage::log::frame::{self, Record},
};

const VERSION: u8 = 1;

/// Most bytes of a head or an answer: log ids, votes, and the text of a refusal.
const HEAD_BYTES_MAX: u64 = 4_096;

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const ASK: u8 = 3;
const ELECT: u8 = 4;
const WILLING: u8 = 5;
const PLEDGE: u8 = 6;

/// A request of one member to another.
#[derive(Debug)]
pub(crate) enum Request {
    /// Entries of the leader, or its heartbeat.
    Append(AppendEntriesRequest<Types>),
    /// A candidate asks for a vote.
    Vote(VoteRequest<u64>),
    /// Somebody who hears of no leader asks whether a candidate would get a vote.
    Ask {
        /// The last entry of his log.
        last: Option<LogId>,
    },
    /// The leader wants this member to take over, as it has pledged to.
    Elect {
        /// That of the pledge.
        serial: u64,
        /// And to keep the lead for a while, although another should have it.
        pinned: bool,
    },
    /// The leader wants to know whether this member would take over.
    Willing,
    /// The leader wants this member to take over if it says so within the time of a pledge, and only then.
    Pledge {
        /// Another one for each.
        serial: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev: Option<LogId>,
    committed: Option<LogId>,
}

fn options() -> impl bincode::Options {
    fixed(HEAD_BYTES_MAX).allow_trailing_bytes()
}

fn begun(kind: u8, group: u16, head: &impl Serialize, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + 256 + capacity);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u16_le(group);
    // Plain integers: this encoding has no case that fails.
    let _ = options().serialize_into(&mut out, head);
    out
}

fn bytes_of(entries: &[Entry]) -> usize {
    entries.iter().map(frame::entry_bytes).sum()
}

/// Encodes entries for another member; their commands are copied once, into the frame.
pub(crate) fn append(group: u16, request: &AppendEntriesRequest<Types>) -> Bytes {
    let AppendEntriesRequest { vote, prev_log_id, leader_commit, entries } = request;
    let head = AppendHead { vote: *vote, prev: *prev_log_id, committed: *leader_commit };
    let mut out = begun(APPEND, group, &head, bytes_of(entries));
    for entry in entries {
        frame::put_entry(&mut out, group, entry);
    }
    out.into()
}

pub(crate) fn vote(group: u16, request: &VoteRequest<u64>) -> Bytes {
    begun(VOTE, group, &(request.vote, request.last_log_id), 0).into()
}

pub(crate) fn ask(group: u16, last: Option<LogId>) -> Bytes {
    begun(ASK, group, &last, 0).into()
}

pub(crate) fn elect(group: u16, serial: u64, pinned: bool) -> Bytes {
    begun(ELECT, group, &(serial, pinned), 0).into()
}

pub(crate) fn pledge(group: u16, serial: u64) -> Bytes {
    begun(PLEDGE, group, &serial, 0).into()
}

pub(crate) fn willing(group: u16) -> Bytes {
    begun(WILLING, group, &(), 0).into()
}

fn take<T: DeserializeOwned>(from: &mut Bytes) -> Option<T> {
    let mut rest = &from[..];
    let value = options().deserialize_from(&mut rest).ok()?;
    let read = from.len() - rest.len();
    from.advance(read);
    Some(value)
}

/// Reads a request and the group that it is for.
pub(crate) fn request(body: &Bytes) -> Option<(u16, Request)> {
    let mut fields = body.clone();
    let (version, kind) = (fields.try_get_u8().ok()?, fields.try_get_u8().ok()?);
    let group = fields.try_get_u16_le().ok()?;
    if version != VERSION {
        return None;
    }
    let request = match kind {
        APPEND => {
            let head: AppendHead = take(&mut fields)?;
            Request::Append(AppendEntriesRequest {
                vote: head.vote,
                prev_log_id: head.prev,
                leader_commit: head.committed,
                entries: entries(group, &fields, head.prev)?,
            })
        }
        VOTE => {
            let (vote, last_log_id) = take(&mut fields)?;
            Request::Vote(VoteRequest { vote, last_log_id })
        }
        ASK => Request::Ask { last: take(&mut fields)? },
        ELECT => {
            let (serial, pinned) = take(&mut fields)?;
            Request::Elect { serial, pinned }
        }
        WILLING => Request::Willing,
        PLEDGE => Request::Pledge { serial: take(&mut fields)? },
        _ => return None,
    };
    Some((group, request))
}

/// Reads entries that follow `prev` without a gap. They share one piece of memory of their own: the
/// log keeps them, and must not keep what else came over the link.
fn entries(group: u16, fields: &Bytes, prev: Option<LogId>) -> Option<Vec<Entry>> {
    let mut rest = Bytes::copy_from_slice(fields);
    let mut entries = Vec::new();
    let mut next = prev.map_or(0, |id| id.index + 1);
    while let Some((of, record)) = frame::take(&mut rest).ok()? {
        let Record::Entry(entry) = record else { return None };
        if of != group || entry.log_id.index != next {
            return None;
        }
        next += 1;
        entries.push(entry);
    }
    Some(entries)
}

/// Encodes an answer.
pub(crate) fn answer(answer: &impl Serialize) -> Bytes {
    let mut out = vec![VERSION];
    let _ = options().serialize_into(&mut out, answer);
    out.into()
}

/// Reads an answer.
pub(crate) fn read_answer<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let (version, fields) = body.split_first()?;
    if *version != VERSION {
        return None;
    }
    options().deserialize(fields).ok()
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload, raft::AppendEntriesResponse};
    use proptest::prelude::*;

    use super::*;
    use crate::raft_group::types::Proposal;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 3), index)
    }

    fn entry(index: u64, commands: &[&'static [u8]]) -> Entry {
        let commands = commands.iter().map(|command| Bytes::from_static(command)).collect();
        let payload = EntryPayload::Normal(Proposal { commands, ..Proposal::default() });
        Entry { log_id: id(2, index), payload }
    }

    fn appended() -> AppendEntriesRequest<Types> {
        let blank = Entry { log_id: id(2, 9), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 3),
            prev_log_id: Some(id(1, 7)),
            leader_commit: Some(id(1, 6)),
            entries: vec![entry(8, &[b"a", b""]), blank, entry(10, &[b"ccc"])],
        }
    }

    #[test]
    fn append_when_written_then_reads_the_same() {
        let written = appended();
        let body = append(5, &written);
        let Some((5, Request::Append(read))) = request(&body) else { panic!("unreadable") };
        assert_eq!((read.vote, read.prev_log_id), (written.vote, written.prev_log_id));
        assert_eq!(read.leader_commit, written.leader_commit);
        assert_eq!(append(5, &read), body);
        let heartbeat = AppendEntriesRequest { entries: Vec::new(), ..appended() };
        let Some((0, Request::Append(read))) = request(&append(0, &heartbeat)) else { panic!() };
        assert!(read.entries.is_empty());
    }

    #[test]
    fn entries_when_not_in_a_row_or_of_another_group_then_refused() {
        let gap = AppendEntriesRequest { prev_log_id: Some(id(1, 6)), ..appended() };
        assert!(request(&append(5, &gap)).is_none());
        let mut other = append(5, &appended()).to_vec();
        other[2] = 6;
        assert!(request(&other.into()).is_none());
    }

    #[test]
    fn answer_when_of_another_version_or_cut_then_refused() {
        let body = answer(&AppendEntriesResponse::<u64>::PartialSuccess(Some(id(4, 4))));
        let read: AppendEntriesResponse<u64> = read_answer(&body).unwrap();
        assert_eq!(read, AppendEntriesResponse::PartialSuccess(Some(id(4, 4))));
        assert!(read_answer::<AppendEntriesResponse<u64>>(&body[..body.len() - 1]).is_none());
        let mut newer = body.to_vec();
        newer[0] = 2;
        assert!(read_answer::<AppendEntriesResponse<u64>>(&newer).is_none());
    }

    #[test]
    #[ignore = "writes seeds for the fuzzer to the folder that SEEDS names"]
    fn make_seeds() {
        let folder = std::path::PathBuf::from(std::env::var("SEEDS").unwrap());
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
        let heartbeat = AppendEntriesRequest { entries: Vec::new(), ..appended() };
        let vote = VoteRequest { vote: Vote::new(3, 2), last_log_id: Some(id(2, 9)) };
        write("append", &append(5, &appended()));
        write("heartbeat", &append(0, &heartbeat));
        write("vote", &super::vote(1, &vote));
        write("ask", &ask(1, None));
        write("elect", &elect(1, 7, true));
        write("willing", &willing(1));
        write("pledge", &pledge(1, 7));
    }

    proptest! {
        #[test]
        fn requests_when_damaged_then_never_a_panic(cut in 0..200_usize, at in 0..200_usize, bit in 0..8_u8) {
            let mut body = append(5, &appended()).to_vec();
            let length = body.len();
            body[at % length] ^= 1_u8 << bit;
            body.truncate(length - cut % length);
            let _ = request(&body.into());
        }
    }
}
