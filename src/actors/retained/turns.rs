//! Whose turn it is to get retained messages: one subscription of a connection at a time.
//!
//! - Owns: the subscriptions of a worker's connections whose copies have not begun, or stand still.
//! - Takes: subscriptions that are live; filters that were unsubscribed. Gives: one task per connection.
//! - Bound: one entry per filter of a session: who subscribes again to a filter that still waits gets its
//!   copies once, after the last SUBACK. All entries go with the connection. What stands still is tried again
//!   behind all others, after a pause of `limits::RETAINED_RETRY_MAX` at most.
//! - Source: own design.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use ahash::AHashMap;

use super::{Left, Outcome, Receiver, Sending, Source, send};
use crate::{
    actors::worker::Worker,
    limits,
    model::{connection_id::ConnectionId, topic::TopicFilter},
    shard::command::StoredSubscription,
};

/// A subscription that waits.
struct Turn {
    receiver: Receiver,
    subscription: StoredSubscription,
    sending: Sending,
    /// Once it has begun.
    left: Option<Left>,
}

/// The subscriptions of one connection.
#[derive(Default)]
struct Line {
    waiting: BTreeMap<TopicFilter, Turn>,
    /// What could not be read or stored; its turn comes when nothing else waits.
    stuck: BTreeMap<TopicFilter, Turn>,
    /// Whose copies are on their way, unless the client has unsubscribed since.
    serving: Option<TopicFilter>,
}

/// What waits, by connection; a connection is here while its task runs.
type Lines = AHashMap<ConnectionId, Line>;

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
        let turn = Turn { receiver, subscription, sending, left: None };
        let filter = turn.subscription.filter.clone();
        let mut lines = self.lines.borrow_mut();
        if let Some(line) = lines.get_mut(&receiver.connection) {
            line.stuck.remove(&filter);
            line.waiting.insert(filter, turn);
            return;
        }
        lines.insert(receiver.connection, Line { serving: Some(filter), ..Line::default() });
        actix_rt::spawn(Rc::clone(self).serve(receiver.connection, turn));
    }

    /// Forgets a subscription whose copies have not begun, or stand still.
    pub fn forget(&self, connection: ConnectionId, filter: &TopicFilter) {
        if let Some(line) = self.lines.borrow_mut().get_mut(&connection) {
            line.waiting.remove(filter);
            line.stuck.remove(filter);
            line.serving.take_if(|serving| serving == filter);
        }
    }

    async fn serve(self: Rc<Self>, connection: ConnectionId, first: Turn) {
        let (mut next, mut pause) = (Some(first), limits::READER_RETRY);
        while let Some(mut turn) = next.take() {
            match turn.send(&self.source).await {
                Outcome::Ended => break,
                Outcome::Done => pause = limits::READER_RETRY,
                Outcome::Stuck => self.put_back(connection, turn),
            }
            next = self.take_next(connection);
            if next.is_none() && self.is_stuck(connection) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::RETAINED_RETRY_MAX);
                self.try_again(connection);
                next = self.take_next(connection);
            }
        }
        self.lines.borrow_mut().remove(&connection);
    }

    fn take_next(&self, connection: ConnectionId) -> Option<Turn> {
        let mut lines = self.lines.borrow_mut();
        let line = lines.get_mut(&connection)?;
        let (filter, turn) = line.waiting.pop_first()?;
        line.serving = Some(filter);
        Some(turn)
    }

    /// Keeps a turn that stands still, unless its client has unsubscribed, or subscribed again, meanwhile.
    fn put_back(&self, connection: ConnectionId, turn: Turn) {
        let mut lines = self.lines.borrow_mut();
        let Some(line) = lines.get_mut(&connection) else { return };
        let filter = line.serving.take();
        if let Some(filter) = filter.filter(|filter| !line.waiting.contains_key(filter)) {
            line.stuck.insert(filter, turn);
        }
    }

    fn is_stuck(&self, connection: ConnectionId) -> bool {
        self.lines.borrow().get(&connection).is_some_and(|line| !line.stuck.is_empty())
    }

    /// Has what stood still wait for its turn again.
    fn try_again(&self, connection: ConnectionId) {
        if let Some(line) = self.lines.borrow_mut().get_mut(&connection) {
            let stuck = std::mem::take(&mut line.stuck);
            line.waiting.extend(stuck);
        }
    }
}

impl Turn {
    async fn send(&mut self, source: &Source) -> Outcome {
        let Self { receiver, subscription, sending, left } = self;
        let begun = left.is_some();
        let left = left.get_or_insert_with(|| {
            let shards = source.shelf.shards_of(receiver.app, &subscription.filter);
            shards.into_iter().map(|shard| (shard, None)).collect()
        });
        let outcome = send(source, sending, *receiver, subscription, left).await;
        if outcome == Outcome::Stuck && !begun {
            let (session, shards) = (receiver.session, left.len());
            tracing::warn!(?session, shards, "retained messages cannot be read or stored yet");
        }
        outcome
    }
}
