//! Whose turn it is to get retained messages: one subscription of a connection at a time.
//!
//! - Owns: the subscriptions of a worker's connections whose copies have not begun.
//! - Takes: subscriptions that are live; filters that were unsubscribed. Gives: one task per connection.
//! - Bound: one entry per filter of a session: who subscribes again to a filter that still waits gets its
//!   copies once, after the last SUBACK. All entries go with the connection.
//! - Source: own design.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use ahash::AHashMap;

use super::{Receiver, Sending, Source, send};
use crate::{
    actors::worker::Worker,
    model::{connection_id::ConnectionId, topic::TopicFilter},
    shard::command::StoredSubscription,
};

/// A subscription that waits.
struct Turn {
    receiver: Receiver,
    subscription: StoredSubscription,
    sending: Sending,
}

/// What waits, by connection; a connection is here while its task runs.
type Lines = AHashMap<ConnectionId, BTreeMap<TopicFilter, Turn>>;

/// See the file header. One for each worker.
pub struct Turns {
    source: Source,
    lines: RefCell<Lines>,
}

impl Turns {
    /// Creates the turns of the current worker; nothing waits.
    #[must_use]
    pub fn new(source: Source) -> Rc<Self> {
        Rc::new(Self { source, lines: RefCell::default() })
    }

    /// Begins to send what a live subscription asks for, or has it wait for those in front of it.
    pub fn begin(self: &Rc<Self>, receiver: Receiver, subscription: StoredSubscription) {
        let Some(sending) = Worker::with(|worker| Sending::begin(worker, &self.source.tables))
        else {
            return;
        };
        let turn = Turn { receiver, subscription, sending };
        let mut lines = self.lines.borrow_mut();
        if let Some(line) = lines.get_mut(&receiver.connection) {
            line.insert(turn.subscription.filter.clone(), turn);
            return;
        }
        lines.insert(receiver.connection, BTreeMap::new());
        actix_rt::spawn(Rc::clone(self).serve(receiver.connection, turn));
    }

    /// Forgets a subscription whose copies have not begun.
    pub fn forget(&self, connection: ConnectionId, filter: &TopicFilter) {
        if let Some(line) = self.lines.borrow_mut().get_mut(&connection) {
            line.remove(filter);
        }
    }

    async fn serve(self: Rc<Self>, connection: ConnectionId, first: Turn) {
        let mut next = Some(first);
        while let Some(turn) = next.take() {
            let Turn { receiver, subscription, sending } = turn;
            if !send(&self.source, &sending, receiver, &subscription).await {
                break;
            }
            next = self.take_next(connection);
        }
        self.lines.borrow_mut().remove(&connection);
    }

    fn take_next(&self, connection: ConnectionId) -> Option<Turn> {
        let mut lines = self.lines.borrow_mut();
        lines.get_mut(&connection)?.pop_first().map(|(_, turn)| turn)
    }
}
