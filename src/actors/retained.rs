//! Sends the retained messages that a new subscription asks for, page by page.
//!
//! - Owns: which subscriptions wait for their turn (`retained/turns.rs`); one task per connection.
//! - Takes: a subscription that is live already. Gives: copies with the retain flag to its connection;
//!   for durable sessions at QoS ≥ 1 copies in the session's own log, so that they survive it.
//! - Bound: `limits::RETAINED_PAGE_MESSAGES` and `PAGE_BYTES_MAX` at a time, for one subscription of a
//!   connection at a time; each page waits until the connection has room, so a slow client holds up only
//!   itself. What cannot be read or stored now is tried again for as long as the connection is there, and holds
//!   up neither other shards nor other subscriptions. A copy that is not newer than what the connection has seen
//!   live on that topic since it subscribed is skipped; of copies for the log the shard knows that itself.
//! - Clocks: versions are compared, not times. Only on a node that was always alone its own clock also tells
//!   which copies will come live, too; with several nodes such a message comes twice, first as the copy.
//! - Source: MQTT 5.0 sections 3.3.1.3 and 3.8.3.1.

mod shelf;
mod turns;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, num::NonZeroU32, rc::Rc, sync::Arc};

use hongqiao_cluster::id::ShardId;

use super::{
    link::{AnyLink, Terms},
    publish::AppQuotas,
    route_tables::RouteTables,
    worker::Worker,
};
use crate::{
    clock, limits,
    model::{
        connection_id::ConnectionId,
        id::{AppId, Epoch, Position, SessionKey},
        message::{Message, Qos},
        topic::TopicName,
    },
    shard::{
        command::{Command, Reply, StoredSubscription},
        query::PageLimits,
    },
};

pub use shelf::{NodeShelf, Shelf};
pub use turns::Turns;

/// What is read at a time.
const PAGE: PageLimits =
    PageLimits { messages: limits::RETAINED_PAGE_MESSAGES, bytes: limits::PAGE_BYTES_MAX };

/// Whose subscription it is.
#[derive(Clone, Copy, Debug)]
pub struct Receiver {
    /// Connection.
    pub connection: ConnectionId,
    /// Tenant.
    pub app: AppId,
    /// Session.
    pub session: SessionKey,
    /// 0 = nothing durable.
    pub epoch: Epoch,
}

/// What the task needs of the node.
#[derive(Clone)]
pub struct Source {
    /// Reads, and stores copies.
    pub shelf: Rc<dyn Shelf>,
    /// For `EnqueueRetained`.
    pub quotas: Arc<AppQuotas>,
    /// Say whether other nodes have stored messages, too.
    pub tables: Arc<RouteTables>,
}

/// Which topics of a worker got a new retained message while retained messages are being sent.
///
/// - Takes: a note of the router for each such message. Gives: whether a copy has been overtaken.
/// - Bound: `limits::FRESH_TOPICS_MAX`; beyond it the oldest notes are forgotten, and a copy may come
///   after a newer message. Empty while nothing is being sent.
#[derive(Debug, Default)]
pub struct FreshTopics {
    senders: usize,
    notes: VecDeque<Note>,
    /// Notes ever made.
    made: u64,
}

#[derive(Debug)]
struct Note {
    app: AppId,
    topic: TopicName,
    publisher: Option<SessionKey>,
    /// Of the copy that it made, if it made one.
    version: Option<Position>,
}

impl FreshTopics {
    /// Notes a message that is handed to live subscribers, and the version of the copy that it made.
    pub(super) fn note(&mut self, message: &Message, version: Option<Position>) {
        if self.senders == 0 || !message.retain {
            return;
        }
        if self.notes.len() >= limits::FRESH_TOPICS_MAX {
            self.notes.pop_front();
        }
        let (app, topic) = (message.app, message.topic.clone());
        self.notes.push_back(Note { app, topic, publisher: message.publisher, version });
        self.made += 1;
    }

    /// Tells whether `copy`, of `version`, was overtaken since `since` notes had been made: by itself, or by a
    /// later one; messages of two nodes may come in another order than their copies were stored in. `own`: a
    /// publisher whose messages this receiver does not get (no-local).
    fn has_overtaken(
        &self,
        (version, copy): (Position, &Message),
        since: u64,
        own: Option<SessionKey>,
    ) -> bool {
        let news = usize::try_from(self.made - since).unwrap_or(usize::MAX);
        self.notes.iter().rev().take(news).any(|note| {
            note.app == copy.app
                && note.topic == copy.topic
                && (own.is_none() || note.publisher != own)
                && note.version.is_none_or(|noted| noted >= version)
        })
    }
}

/// Keeps notes being made for as long as it lives; made when the subscription is live.
struct Sending {
    worker: Rc<Worker>,
    since: u64,
    /// Wall clock at which the subscription was live; `None`: messages were stamped by clocks of several
    /// nodes, and time tells nothing.
    began_ms: Option<u64>,
}

impl Sending {
    fn begin(worker: &Rc<Worker>, tables: &RouteTables) -> Self {
        let mut fresh = worker.fresh_topics.borrow_mut();
        fresh.senders += 1;
        let began_ms = tables.load().was_always_alone().then(clock::wall_ms);
        Self { worker: Rc::clone(worker), since: fresh.made, began_ms }
    }

    /// Tells whether the receiver has, or will have, this message or a newer one live.
    fn has_overtaken(&self, copy: (Position, &Message), own: Option<SessionKey>) -> bool {
        // What came in since is routed after it is committed, so the subscription gets it live. The upper
        // bound keeps messages of a clock that was ahead once.
        let published_ms = copy.1.published_at_ms;
        let came_since = self.began_ms.is_some_and(|began_ms| published_ms > began_ms);
        if came_since && published_ms <= clock::wall_ms() {
            return true;
        }
        self.worker.fresh_topics.borrow().has_overtaken(copy, self.since, own)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut fresh = self.worker.fresh_topics.borrow_mut();
        fresh.senders -= 1;
        if fresh.senders == 0 {
            fresh.notes = VecDeque::new();
        }
    }
}

/// What is left of the copies of one subscription: shards, and behind which topic to go on there.
type Left = VecDeque<(ShardId, Option<TopicName>)>;

/// How far the copies of a subscription, or of a page, got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All are sent, or stored.
    Done,
    /// What is left cannot be read or stored now.
    Stuck,
    /// The connection has ended.
    Ended,
}

/// Sends what is left of everything that `subscription` matches. A shard that fails has its next turn behind the
/// others.
async fn send(
    source: &Source,
    sending: &Sending,
    receiver: Receiver,
    subscription: &StoredSubscription,
    left: &mut Left,
) -> Outcome {
    let mut failed = 0;
    while let Some((shard, after)) = left.front().cloned() {
        if failed >= left.len() {
            return Outcome::Stuck;
        }
        // A page is read only for a client that takes it.
        if room(receiver.connection).await.is_none() {
            return Outcome::Ended;
        }
        let scope = (receiver.app, subscription.filter.clone());
        let Ok(page) = source.shelf.read(shard, scope, after).await else {
            failed += 1;
            left.rotate_left(1);
            continue;
        };
        match send_page(source, sending, receiver, subscription, page.messages).await {
            Outcome::Ended => return Outcome::Ended,
            Outcome::Stuck => {
                failed += 1;
                left.rotate_left(1);
                continue;
            }
            Outcome::Done => failed = 0,
        }
        left.pop_front();
        if let Some(topic) = page.next {
            left.push_front((shard, Some(topic)));
        }
    }
    Outcome::Done
}

/// Sends one page: all of it, or nothing of it if its copies for the log cannot be stored now.
async fn send_page(
    source: &Source,
    sending: &Sending,
    receiver: Receiver,
    subscription: &StoredSubscription,
    messages: Vec<(Position, Arc<Message>)>,
) -> Outcome {
    let qos_of = |message: &Message| message.qos.min(subscription.options.qos);
    let own = subscription.options.no_local.then_some(receiver.session);
    let is_durable = receiver.epoch != Epoch::default();
    let (to_log, to_send): (Vec<_>, Vec<_>) = messages
        .into_iter()
        .filter(|(version, message)| !sending.has_overtaken((*version, message), own))
        .partition(|(_, message)| is_durable && qos_of(message) > Qos::AtMostOnce);
    let enqueued = enqueue(source, receiver, subscription, to_log).await;
    if enqueued != Outcome::Done {
        return enqueued;
    }
    for (version, message) in to_send {
        let Some(link) = room(receiver.connection).await else { return Outcome::Ended };
        // Again: room may have been long in coming.
        if sending.has_overtaken((version, &message), own) {
            continue;
        }
        let qos = qos_of(&message);
        let id = NonZeroU32::new(subscription.subscription_id);
        let terms = Terms { qos, dup: false, retain: true, subscription_ids: id.as_slice() };
        let now_ms = clock::wall_ms();
        if qos == Qos::AtMostOnce {
            link.send_message(&message, &terms, None, now_ms);
        } else {
            link.send_live(&message, &terms, now_ms);
        }
    }
    let is_there = Worker::with(|worker| worker.find(receiver.connection).is_some());
    if is_there == Some(true) { Outcome::Done } else { Outcome::Ended }
}

/// Stores copies in the session's log, one command for a page. A page whose outcome nobody knows is stored
/// again, so its copies may come twice; the other choice is that they never come.
async fn enqueue(
    source: &Source,
    receiver: Receiver,
    subscription: &StoredSubscription,
    messages: Vec<(Position, Arc<Message>)>,
) -> Outcome {
    if messages.is_empty() {
        return Outcome::Done;
    }
    let command = Command::EnqueueRetained {
        key: receiver.session,
        epoch: receiver.epoch,
        filter: subscription.filter.clone(),
        messages: messages.iter().map(|(_, message)| retained_copy(message)).collect(),
        quota: source.quotas.of(receiver.app).quota,
    };
    match source.shelf.store(receiver.session, command).await {
        Ok(Reply::Fenced) => Outcome::Ended,
        Ok(_) => Outcome::Done,
        Err(_) => Outcome::Stuck,
    }
}

/// The copy as the receiver sees it.
fn retained_copy(message: &Arc<Message>) -> Arc<Message> {
    if message.retain {
        return Arc::clone(message);
    }
    Arc::new(Message { retain: true, ..Message::clone(message) })
}

/// Waits until the connection has room for another copy; `None` when it has ended.
async fn room(connection: ConnectionId) -> Option<Rc<AnyLink>> {
    loop {
        let link = Worker::with(|worker| worker.find(connection)).flatten()?;
        if link.is_closing() {
            return None;
        }
        let (_, waiting) = link.live_deliveries();
        if link.outbox_bytes() < limits::RETAINED_OUTBOX_BYTES
            && waiting < limits::RETAINED_PAGE_MESSAGES
        {
            return Some(link);
        }
        tokio::time::sleep(limits::RETAINED_PAUSE).await;
    }
}
