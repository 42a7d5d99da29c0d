//! What happened: what publishers sent and had acknowledged, what subscribers received; and the verdict.
//!
//! - Owns: the numbers of one run. Takes: facts, from the threads of the load. Gives: every broken promise.
//! - Promises: NO-LOSS (acknowledged means delivered to every durable subscriber), ORDER (first receipts of a
//!   publisher's messages ascend), ONCE (what is of QoS 2 all the way comes once), nothing invented,
//!   SESSION-TRUE. Doubles of QoS 1 are counted, not forbidden.
//! - A publish without its acknowledgement is *unknown*: it may be there or not, never out of order.
//! - Pure: no sockets, no clock.

use std::collections::{BTreeMap, HashSet};

/// What is promised of a publisher's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    AtLeastOnce,
    ExactlyOnce,
    /// Wills of sessions of their own: exactly once, in any order.
    Will,
}

/// What one publisher knows of its messages, numbered from 0 without gaps.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    pub(super) kind: Kind,
    /// Numbers handed to a socket at least once.
    pub(super) sent: u64,
    /// Numbers whose acknowledgement said success.
    pub(super) acked: HashSet<u64>,
    /// Numbers that the server refused with a reason; they may be there all the same.
    pub(super) refused: u64,
    /// Times that the session was gone although the server had promised to keep it.
    pub(super) sessions_lost: u64,
}

/// What one durable subscriber received, over all its connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Its subscription has QoS 2.
    pub(super) exactly_once: bool,
    /// Publisher → numbers in the order of their first receipt.
    pub(super) first: BTreeMap<usize, Vec<u64>>,
    known: BTreeMap<usize, HashSet<u64>>,
    /// Publisher → receipts of a number that had been received before.
    doubles: BTreeMap<usize, Vec<u64>>,
    /// See [`Sent::sessions_lost`].
    pub(super) sessions_lost: u64,
}

impl Seen {
    /// Notes a receipt.
    pub(super) fn note(&mut self, publisher: usize, number: u64) {
        if self.known.entry(publisher).or_default().insert(number) {
            self.first.entry(publisher).or_default().push(number);
        } else {
            self.doubles.entry(publisher).or_default().push(number);
        }
    }

    /// Tells whether every acknowledged number has been received.
    pub(super) fn has_all(&self, publisher: usize, sent: &Sent) -> bool {
        let known = self.known.get(&publisher);
        sent.acked.iter().all(|number| known.is_some_and(|known| known.contains(number)))
    }

    /// Returns how many different messages came.
    pub(super) fn received(&self) -> usize {
        self.first.values().map(Vec::len).sum()
    }

    /// Returns how often a message came again.
    pub(super) fn doubled(&self) -> usize {
        self.doubles.values().map(Vec::len).sum()
    }

    fn wrong_of(&self, name: usize, publisher: usize, sent: &Sent, wrong: &mut Vec<String>) {
        let pair = format!("publisher {publisher} to subscriber {name}");
        let first = self.first.get(&publisher).map_or(&[][..], Vec::as_slice);
        if sent.kind != Kind::Will {
            for two in first.windows(2).filter(|two| two[0] >= two[1]) {
                wrong.push(format!("ORDER: {pair}: {} after {}", two[1], two[0]));
            }
        }
        let doubles = self.doubles.get(&publisher).map_or(&[][..], Vec::as_slice);
        if sent.kind != Kind::AtLeastOnce && self.exactly_once && !doubles.is_empty() {
            wrong.push(format!("ONCE: {pair}: {doubles:?} came again"));
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

/// Returns what is wrong with the history, in words; empty if nothing is.
pub(super) fn verdict(sent: &[Sent], seen: &[Seen]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (publisher, sent) in sent.iter().enumerate() {
        if sent.sessions_lost > 0 {
            wrong.push(format!("SESSION-TRUE: publisher {publisher} lost its session"));
        }
    }
    for (name, seen) in seen.iter().enumerate() {
        if seen.sessions_lost > 0 {
            wrong.push(format!("SESSION-TRUE: subscriber {name} lost its session"));
        }
        for (publisher, sent) in sent.iter().enumerate() {
            seen.wrong_of(name, publisher, sent, &mut wrong);
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(kind: Kind, sent: u64, acked: &[u64]) -> Sent {
        Sent { kind, sent, acked: acked.iter().copied().collect(), ..Sent::default() }
    }

    fn seen(exactly_once: bool, numbers: &[u64]) -> Seen {
        let mut seen = Seen { exactly_once, ..Seen::default() };
        numbers.iter().for_each(|number| seen.note(0, *number));
        seen
    }

    #[test]
    fn history_when_right_then_no_verdict() {
        // 2 is unknown, 1 came twice.
        let at_least = seen(true, &[0, 1, 1, 3]);
        assert_eq!((at_least.doubled(), at_least.received()), (1, 3));
        assert!(verdict(&[sent(Kind::AtLeastOnce, 4, &[0, 1, 3])], &[at_least]).is_empty());
        // Down to QoS 1 it may come again.
        let lower = seen(false, &[0, 1, 1]);
        assert!(verdict(&[sent(Kind::ExactlyOnce, 2, &[0, 1])], &[lower]).is_empty());
        let wills = seen(true, &[1, 0]);
        assert!(verdict(&[sent(Kind::Will, 2, &[0, 1])], &[wills]).is_empty());
    }

    #[test]
    fn history_when_a_promise_is_broken_then_it_is_named() {
        for (kind, numbers, named) in [
            (Kind::AtLeastOnce, &[0, 2][..], "NO-LOSS"),
            (Kind::AtLeastOnce, &[0, 2, 1], "ORDER"),
            (Kind::AtLeastOnce, &[0, 1, 2, 9], "INVENTED"),
            (Kind::ExactlyOnce, &[0, 1, 1, 2], "ONCE"),
            (Kind::ExactlyOnce, &[0, 2, 1], "ORDER"),
            (Kind::Will, &[0, 2, 1, 2], "ONCE"),
            (Kind::Will, &[0, 1], "NO-LOSS"),
        ] {
            let wrong = verdict(&[sent(kind, 3, &[0, 1, 2])], &[seen(true, numbers)]);
            assert!(wrong.len() == 1 && wrong[0].starts_with(named), "{numbers:?}: {wrong:?}");
        }
        // One that received nothing at all has lost it all the same.
        assert!(
            verdict(&[sent(Kind::Will, 1, &[0])], &[Seen::default()])[0].starts_with("NO-LOSS")
        );
        let lost = Seen { sessions_lost: 1, ..seen(false, &[0]) };
        let right = sent(Kind::AtLeastOnce, 1, &[0]);
        assert!(verdict(std::slice::from_ref(&right), &[lost])[0].starts_with("SESSION-TRUE"));
        let lost = Sent { sessions_lost: 1, ..right };
        assert!(verdict(&[lost], &[seen(false, &[0])])[0].starts_with("SESSION-TRUE"));
    }
}
