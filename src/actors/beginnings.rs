//! QoS 2 publishes of a client with a durable session, whose packet ids are being written (ONCE).
//!
//! - Owns: these publishes, in order of receipt, until each may go out or is given up.
//! - Takes: replies of the shard in any order. Gives: publishes in order of receipt.
//! - Bound: the receive maximum of the server.

use std::collections::VecDeque;

use crate::model::{id::MessageId, message::Message, session::intake::Ticket};

/// A QoS 2 publish of the client whose packet id is being written.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) ticket: Ticket,
    pub(super) message: Message,
    pub(super) committed: bool,
    /// The packet id carried it before: live receivers have it.
    pub(super) again: bool,
}

/// See the file header.
#[derive(Debug, Default)]
pub(super) struct Beginnings {
    queue: VecDeque<Option<Beginning>>,
    /// Number of the first.
    first: u64,
}

impl Beginnings {
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

    /// Takes the publishes at the front that may go out now.
    pub(super) fn take_begun(&mut self) -> Vec<Beginning> {
        let mut ready = Vec::new();
        while let Some(front) = self.queue.front() {
            if front.as_ref().is_some_and(|beginning| !beginning.committed) {
                break;
            }
            self.first += 1;
            ready.extend(self.queue.pop_front().flatten());
        }
        ready
    }

    fn beginning(&mut self, number: u64) -> Option<&mut Option<Beginning>> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.queue.get_mut(place)
    }
}
