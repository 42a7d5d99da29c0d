//! QoS 2 publishes of a client with a durable session, whose packet ids are being written (ONCE).
//!
//! - Owns: these publishes, in order of receipt, until each may go out or is given up.
//! - Owns, too: which exchange each open packet id is. Exchanges have the lowest numbers that are free in the
//!   range of this claim of the session, so that shards remember few of them (`shard/state/recent.rs`).
//!   What an earlier connection sent may still be on its way to a shard when this one has ended its exchange:
//!   as long as nobody begins another in its place, it is known for what it is.
//! - Takes: replies of the shard in any order. Gives: publishes in order of receipt.
//! - Bound: the receive maximum of the server.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU16,
};

use crate::model::{
    id::{MessageId, SessionKey},
    message::Message,
    session::intake::Ticket,
};

/// Claims of a session until numbers of exchanges come again. Nothing is on its way for longer than some
/// seconds, and a claim that finds the node of the one before silent waits for two.
const RANGES: u16 = 8;

/// Words of bits that are kept when few are in use.
const TAKEN_KEPT: usize = 16;

/// A QoS 2 publish of the client whose packet id is being written.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) ticket: Ticket,
    pub(super) message: Message,
    pub(super) committed: bool,
    /// The packet id carried it before: live receivers have it.
    pub(super) again: bool,
}

#[derive(Clone, Copy, Debug)]
struct Exchange {
    number: u16,
    /// An earlier connection opened it.
    resumed: bool,
}

/// See the file header.
#[derive(Debug, Default)]
pub(super) struct Beginnings {
    queue: VecDeque<Option<Beginning>>,
    /// Number of the first.
    first: u64,
    /// Exchanges by packet id, from PUBLISH to PUBREL.
    open: BTreeMap<u16, Exchange>,
    /// One bit for each exchange that is open, from `base` on.
    taken: Vec<u64>,
    /// First number of this claim's range; where the range is full, the next ones follow.
    base: u16,
}

impl Beginnings {
    /// Goes on with what earlier connections had open.
    pub(super) fn resume(claims: u8, incoming: &[(u16, MessageId)]) -> Self {
        let range = u16::from(claims) % RANGES;
        let mut this = Self { base: range * (u16::MAX / RANGES + 1), ..Self::default() };
        for (packet_id, id) in incoming {
            this.take(*packet_id, Exchange { number: id.exchange(), resumed: true });
        }
        this
    }

    /// Makes the id of a message that comes with this packet id.
    pub(super) fn id_for(&mut self, publisher: SessionKey, packet_id: NonZeroU16) -> MessageId {
        let packet_id = packet_id.get();
        let known = self.open.get(&packet_id).copied();
        let exchange = known.unwrap_or_else(|| {
            let exchange = Exchange { number: self.lowest_free(), resumed: false };
            self.take(packet_id, exchange);
            exchange
        });
        MessageId::in_exchange(publisher, exchange.number, rand::random())
    }

    /// The exchange of this packet id is over, or will be before the packet id is written again.
    pub(super) fn close(&mut self, packet_id: NonZeroU16) {
        let Some(Exchange { number, .. }) = self.open.remove(&packet_id.get()) else { return };
        let (word, bit) = self.place(number);
        if let Some(word) = self.taken.get_mut(word) {
            *word &= !bit;
        }
        // One of an earlier claim may lie far behind the own ones.
        while self.taken.len() > 1 && self.taken.last() == Some(&0) {
            self.taken.pop();
        }
        if self.taken.capacity() > TAKEN_KEPT.max(2 * self.taken.len()) {
            self.taken.shrink_to_fit();
        }
    }

    /// Where the bit of an exchange stands.
    fn place(&self, number: u16) -> (usize, u64) {
        let at = number.wrapping_sub(self.base);
        (usize::from(at / 64), 1 << (at % 64))
    }

    /// Tells whether an earlier connection opened the packet id: the shard knows it.
    pub(super) fn is_resumed(&self, packet_id: NonZeroU16) -> bool {
        self.open.get(&packet_id.get()).is_some_and(|exchange| exchange.resumed)
    }

    fn take(&mut self, packet_id: u16, exchange: Exchange) {
        self.open.insert(packet_id, exchange);
        let (word, bit) = self.place(exchange.number);
        if self.taken.len() <= word {
            self.taken.resize(word + 1, 0);
        }
        self.taken[word] |= bit;
    }

    /// There is one: packet ids are 65,535 at most.
    fn lowest_free(&self) -> u16 {
        let free = self.taken.iter().position(|word| *word != u64::MAX);
        let word = free.unwrap_or(self.taken.len());
        let bit = self.taken.get(word).map_or(0, |word| word.trailing_ones());
        self.base.wrapping_add(u16::try_from(word * 64 + bit as usize).unwrap_or(u16::MAX))
    }

    /// Notes a QoS 2 publish of the client; returns its number.
    pub(super) fn begin(&mut self, beginning: Beginning) -> u64 {
        self.queue.push_back(Some(beginning));
        self.first + self.queue.len() as u64 - 1
    }

    /// Its packet id is written; `known`: it carried this message before.
    pub(super) fn begun(&mut self, number: u64, known: Option<MessageId>) {
        if let Some(beginning) = self.beginning(number).and_then(Option::as_mut) {
            beginning.committed = true;
            if known.is_some() {
                beginning.message.id = known;
                beginning.again = true;
            }
        }
    }

    /// Tells whether no publish waits for its packet id.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Its packet id could not be written; returns its place among the acks.
    pub(super) fn give_up(&mut self, number: u64) -> Option<Ticket> {
        self.beginning(number)?.take().map(|beginning| beginning.ticket)
    }

    /// None of them goes out any more.
    pub(super) fn give_up_all(&mut self) {
        self.first += self.queue.len() as u64;
        self.queue.clear();
    }

    /// Takes the publishes at the front that may go out now, all of one kind: told first whether their packet
    /// ids carried them before.
    pub(super) fn take_begun(&mut self) -> (bool, Vec<Beginning>) {
        let mut ready: Vec<Beginning> = Vec::new();
        while let Some(front) = self.queue.front() {
            let goes = |next: &Beginning| {
                next.committed && ready.first().is_none_or(|first| first.again == next.again)
            };
            if !front.as_ref().is_none_or(goes) {
                break;
            }
            self.first += 1;
            ready.extend(self.queue.pop_front().flatten());
        }
        (ready.first().is_some_and(|first| first.again), ready)
    }

    fn beginning(&mut self, number: u64) -> Option<&mut Option<Beginning>> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.queue.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHER: SessionKey = SessionKey(7);

    fn id(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    #[test]
    fn exchanges_when_packet_ids_go_round_are_few_and_never_shared() {
        let mut beginnings = Beginnings::resume(0, &[]);
        let stuck = beginnings.id_for(PUBLISHER, id(1));
        for number in 2..2_000 {
            let next = beginnings.id_for(PUBLISHER, id(number));
            assert_eq!((next.exchange(), next.slot() == stuck.slot()), (1, false));
            beginnings.close(id(number));
        }
        assert_eq!(beginnings.id_for(PUBLISHER, id(1)).slot(), stuck.slot());
        // A new connection knows it from the shard.
        let mut beginnings = Beginnings::resume(8, &[(1, stuck)]);
        let many: Vec<u16> =
            (2..=200).map(|number| beginnings.id_for(PUBLISHER, id(number)).exchange()).collect();
        assert_eq!(many, (1..200).collect::<Vec<u16>>());
        beginnings.close(id(1));
        assert_eq!(beginnings.id_for(PUBLISHER, id(300)).exchange(), 0);
    }

    #[test]
    fn exchanges_when_the_session_is_claimed_again_then_those_of_late_publishes_stay_theirs() {
        let mut open = Vec::new();
        let mut used = std::collections::BTreeSet::new();
        for claims in 0..u8::try_from(RANGES).unwrap() {
            let mut beginnings = Beginnings::resume(claims, &open);
            for number in 100..164 {
                let next = beginnings.id_for(PUBLISHER, id(number));
                assert!(used.insert(next.exchange()), "{}", next.exchange());
            }
            // The client ends what came before at once, but for one.
            for (packet_id, _) in open.drain(..) {
                beginnings.close(id(packet_id));
            }
            assert!(beginnings.taken.len() <= 2, "no room is kept for what has ended");
            open.push((1, MessageId::in_exchange(PUBLISHER, beginnings.open[&100].number, 7)));
        }
    }

    #[test]
    fn publishes_when_one_in_front_failed_then_none_behind_it_goes_out() {
        let mut beginnings = Beginnings::resume(1, &[]);
        let mut intake = crate::model::session::intake::Intake::default();
        let mut begin = |beginnings: &mut Beginnings| {
            let ticket = intake.owe(None, 0);
            let message = crate::actors::testing::message(
                "t",
                Vec::new(),
                crate::model::message::Qos::ExactlyOnce,
            );
            beginnings.begin(Beginning { ticket, message, committed: false, again: false })
        };
        let numbers = [(); 3].map(|()| begin(&mut beginnings));
        assert!(beginnings.give_up(numbers[0]).is_some());
        beginnings.give_up_all();
        for number in numbers {
            beginnings.begun(number, None);
            assert!(beginnings.give_up(number).is_none());
        }
        assert!(beginnings.take_begun().1.is_empty() && beginnings.is_empty());
        let next = begin(&mut beginnings);
        beginnings.begun(next, None);
        assert_eq!(beginnings.take_begun().1.len(), 1);
    }

    #[test]
    fn exchanges_when_a_range_is_full_then_the_next_ones_follow_without_sharing() {
        let last = u8::try_from(RANGES).unwrap() - 1;
        let mut beginnings = Beginnings::resume(last, &[]);
        let mut numbers: Vec<u16> = (1..=u16::MAX)
            .map(|number| beginnings.id_for(PUBLISHER, id(number)).exchange())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), usize::from(u16::MAX));
    }
}
