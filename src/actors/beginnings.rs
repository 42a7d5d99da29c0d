//! QoS 2 publishes of a client with a durable session, whose packet ids are being written (ONCE).
//!
//! - Owns: these publishes, in order of receipt, until each may go out or is given up.
//! - Owns, too: which exchange each open packet id is. Exchanges have the lowest numbers that are free, so
//!   that shards remember few of them (`shard/state/recent.rs`).
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
    /// One bit for each exchange that is open.
    taken: Vec<u64>,
}

impl Beginnings {
    /// Goes on with what an earlier connection had open.
    pub(super) fn resume(incoming: &[(u16, MessageId)]) -> Self {
        let mut this = Self::default();
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
        if let Some(word) = self.taken.get_mut(usize::from(number / 64)) {
            *word &= !(1 << (number % 64));
        }
    }

    /// Tells whether an earlier connection opened the packet id: the shard knows it.
    pub(super) fn is_resumed(&self, packet_id: NonZeroU16) -> bool {
        self.open.get(&packet_id.get()).is_some_and(|exchange| exchange.resumed)
    }

    fn take(&mut self, packet_id: u16, exchange: Exchange) {
        self.open.insert(packet_id, exchange);
        let number = exchange.number;
        let word = usize::from(number / 64);
        if self.taken.len() <= word {
            self.taken.resize(word + 1, 0);
        }
        self.taken[word] |= 1 << (number % 64);
    }

    /// There is one: packet ids are 65,535 at most.
    fn lowest_free(&self) -> u16 {
        let free = self.taken.iter().position(|word| *word != u64::MAX);
        let word = free.unwrap_or(self.taken.len());
        let bit = self.taken.get(word).map_or(0, |word| word.trailing_ones());
        u16::try_from(word * 64 + bit as usize).unwrap_or(u16::MAX)
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
        let mut beginnings = Beginnings::default();
        let stuck = beginnings.id_for(PUBLISHER, id(1));
        for number in 2..2_000 {
            let next = beginnings.id_for(PUBLISHER, id(number));
            assert_eq!((next.exchange(), next.slot() == stuck.slot()), (1, false));
            beginnings.close(id(number));
        }
        assert_eq!(beginnings.id_for(PUBLISHER, id(1)).slot(), stuck.slot());
        // A new connection knows it from the shard.
        let mut beginnings = Beginnings::resume(&[(1, stuck)]);
        let many: Vec<u16> =
            (2..=200).map(|number| beginnings.id_for(PUBLISHER, id(number)).exchange()).collect();
        assert_eq!(many, (1..200).collect::<Vec<u16>>());
        beginnings.close(id(1));
        assert_eq!(beginnings.id_for(PUBLISHER, id(300)).exchange(), 0);
    }
}
