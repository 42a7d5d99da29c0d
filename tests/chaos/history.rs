//! What happened: what publishers sent and had acknowledged, what subscribers received; and the verdict.
//!
//! - Owns: the numbers of one run. Takes: facts, from the threads of the load. Gives: every broken promise.
//! - Promises: NO-LOSS (acknowledged means delivered to every durable subscriber), ORDER (first receipts of a
//!   publisher's messages ascend), nothing invented. Doubles of QoS 1 are counted, not forbidden.
//! - A publish without its acknowledgement is *unknown*: it may be there or not, never out of order.
//! - Pure: no sockets, no clock.

use std::collections::{BTreeMap, HashSet};

/// What one publisher knows of its messages, numbered from 0 without gaps.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// Numbers handed to a socket at least once.
    pub(super) sent: u64,
    /// Numbers whose PUBACK said success.
    pub(super) acked: HashSet<u64>,
    /// Numbers that the server refused with a reason; they may be there all the same.
    pub(super) refused: u64,
}

/// What one durable subscriber received, over all its connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Publisher → numbers in the order of their first receipt.
    pub(super) first: BTreeMap<usize, Vec<u64>>,
    known: BTreeMap<usize, HashSet<u64>>,
    /// Receipts of a number that had been received before.
    pub(super) doubles: u64,
    /// Times that the session was gone although the server had promised to keep it.
    pub(super) sessions_lost: u64,
}

impl Seen {
    /// Notes a receipt.
    pub(super) fn note(&mut self, publisher: usize, number: u64) {
        if self.known.entry(publisher).or_default().insert(number) {
            self.first.entry(publisher).or_default().push(number);
        } else {
            self.doubles += 1;
        }
    }

    /// Tells whether every acknowledged number has been received.
    pub(super) fn has_all(&self, publisher: usize, sent: &Sent) -> bool {
        let known = self.known.get(&publisher);
        sent.acked.iter().all(|number| known.is_some_and(|known| known.contains(number)))
    }
}

/// Returns what is wrong with the history, in words; empty if nothing is.
pub(super) fn verdict(sent: &[Sent], seen: &[Seen]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, seen) in seen.iter().enumerate() {
        if seen.sessions_lost > 0 {
            wrong.push(format!("SESSION-TRUE: subscriber {name} lost its session"));
        }
        for (publisher, sent) in sent.iter().enumerate() {
            let pair = format!("publisher {publisher} to subscriber {name}");
            let first = seen.first.get(&publisher).map_or(&[][..], Vec::as_slice);
            for pair_of in first.windows(2).filter(|two| two[0] >= two[1]) {
                wrong.push(format!("ORDER: {pair}: {} after {}", pair_of[1], pair_of[0]));
            }
            if let Some(number) = first.iter().find(|number| **number >= sent.sent) {
                wrong.push(format!("INVENTED: {pair}: {number} was never sent"));
            }
            let received: HashSet<&u64> = first.iter().collect();
            let mut lost: Vec<_> =
                sent.acked.iter().filter(|number| !received.contains(number)).collect();
            lost.sort_unstable();
            if let Some(first) = lost.first() {
                let (count, of) = (lost.len(), sent.acked.len());
                wrong.push(format!("NO-LOSS: {pair}: {count} of {of} lost, the first {first}"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(sent: u64, acked: &[u64]) -> Sent {
        Sent { sent, acked: acked.iter().copied().collect(), refused: 0 }
    }

    fn seen(numbers: &[u64]) -> Seen {
        let mut seen = Seen::default();
        numbers.iter().for_each(|number| seen.note(0, *number));
        seen
    }

    #[test]
    fn history_when_right_then_no_verdict() {
        // 2 is unknown, 1 came twice.
        let seen = seen(&[0, 1, 1, 3]);
        assert_eq!(seen.doubles, 1);
        assert!(verdict(&[sent(4, &[0, 1, 3])], &[seen]).is_empty());
    }

    #[test]
    fn history_when_a_promise_is_broken_then_it_is_named() {
        for (numbers, named) in
            [(&[0, 2][..], "NO-LOSS"), (&[0, 2, 1], "ORDER"), (&[0, 1, 2, 9], "INVENTED")]
        {
            let wrong = verdict(&[sent(3, &[0, 1, 2])], &[seen(numbers)]);
            assert!(wrong.len() == 1 && wrong[0].starts_with(named), "{numbers:?}: {wrong:?}");
        }
        let lost = Seen { sessions_lost: 1, ..seen(&[0]) };
        assert!(verdict(&[sent(1, &[0])], &[lost])[0].starts_with("SESSION-TRUE"));
    }
}
