//! The latest replies of a group, for senders that lost their leader before the answer.
//!
//! - Owns: replies in memory; a replica rebuilds them by replaying its log, a snapshot brings none.
//! - Takes: the replies of each run as it is applied. Gives: them back, for as long as they are kept.
//! - Bound: `REPLIES_KEPT_MAX` replies, `REPLIES_KEPT_BYTES_MAX` bytes; the oldest go first, run by run.
//! - Source: own design.

use std::collections::VecDeque;

use bytes::Bytes;

use super::run::{Origin, Run};
use crate::limits::{REPLIES_KEPT_BYTES_MAX, REPLIES_KEPT_MAX};

/// See the file header.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    runs: VecDeque<KeptRun>,
    count: usize,
    bytes: usize,
}

#[derive(Debug)]
struct KeptRun {
    origin: Origin,
    epoch: u64,
    first: u64,
    replies: Vec<Bytes>,
}

/// What a reply takes beside its bytes.
const REPLY_BYTES: usize = size_of::<Bytes>();

fn bytes_of(replies: &[Bytes]) -> usize {
    size_of::<KeptRun>() + replies.iter().map(|reply| reply.len() + REPLY_BYTES).sum::<usize>()
}

impl Kept {
    /// Keeps the replies to the last commands of `run`, from its `known`th on.
    pub(crate) fn keep(&mut self, run: &Run, known: u32, replies: Vec<Bytes>) {
        if replies.is_empty() {
            return;
        }
        self.count += replies.len();
        self.bytes += bytes_of(&replies);
        let first = run.first.saturating_add(u64::from(known));
        self.runs.push_back(KeptRun { origin: run.origin, epoch: run.epoch, first, replies });
        while self.count > REPLIES_KEPT_MAX || self.bytes > REPLIES_KEPT_BYTES_MAX {
            let Some(oldest) = self.runs.pop_front() else { break };
            self.count -= oldest.replies.len();
            self.bytes -= bytes_of(&oldest.replies);
        }
    }

    /// Returns what is still known of the commands `from..=last` of a stream, in order.
    pub(crate) fn find(
        &self,
        origin: Origin,
        epoch: u64,
        from: u64,
        last: u64,
    ) -> Vec<(u64, Bytes)> {
        // A stream's runs follow each other; so do their replies.
        let of_stream = |run: &&KeptRun| run.origin == origin && run.epoch == epoch;
        let replies = self.runs.iter().filter(of_stream);
        replies
            .flat_map(|run| (run.first..).zip(run.replies.iter().cloned()))
            .filter(|(seq, _)| (from..=last).contains(seq))
            .collect()
    }

    /// Forgets all: the state came from elsewhere.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_when_more_come_than_it_holds_then_the_latest_are_found_and_bytes_stay_bounded() {
        let origin = Origin { node: 1, incarnation: 1 };
        let mut kept = Kept::default();
        for first in (1..2_000).step_by(2) {
            let run = Run { origin, epoch: 1, first, count: 2 };
            let reply = |seq: u64| Bytes::from(vec![u8::try_from(seq % 251).unwrap(); 3_000]);
            kept.keep(&run, 0, vec![reply(first), reply(first + 1)]);
            let other = Run { origin: Origin { node: 2, incarnation: 1 }, ..run };
            kept.keep(&other, 1, vec![Bytes::from_static(b"other")]);
            assert!(kept.bytes <= REPLIES_KEPT_BYTES_MAX);
        }
        let held: usize = kept.runs.iter().map(|run| bytes_of(&run.replies)).sum();
        assert_eq!(kept.bytes, held);
        let found = kept.find(origin, 1, 1_990, 1_999);
        assert_eq!(
            found.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(),
            (1_990..2_000).collect::<Vec<_>>()
        );
        assert_eq!(found[0].1[0], u8::try_from(1_990 % 251).unwrap());
        assert!(kept.find(origin, 1, 1, 100).is_empty());
        assert!(kept.find(origin, 2, 1, 9_999).is_empty());
        kept.clear();
        assert!(kept.find(origin, 1, 1, 9_999).is_empty());
    }
}
