//! Sends the retained messages that a new subscription asks for, page by page.
//!
//! - Owns: which subscriptions wait for their turn (`retained/turns.rs`); one task per connection.
//! - Takes: a subscription that is live already. Gives: copies with the retain flag to its connection;
//!   for durable sessions at QoS ≥ 1 copies in the session's own log, so that they survive it.
//! - Bound: `limits::RETAINED_PAGE_MESSAGES` and `PAGE_BYTES_MAX` at a time, for one subscription of a
//!   connection at a time; each page waits until the connection has room, so a slow client holds up only
//!   itself. A copy that is not newer than what the connection has seen
//!   live on that topic since it subscribed is skipped; of copies for the log the shard knows that itself.
//! - Clocks: versions are compared, not times. Only on a node that was always alone its own clock also tells
//!   which copies will come live, too; with several nodes such a message comes twice, first as the copy.
//! - Source: MQTT 5.0 sections 3.3.1.3 and 3.8.3.1.

mod turns;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, num::NonZeroU32, rc::Rc, sync::Arc};

use actix::Addr;

use super::{
    appender::{Appender, Submit},
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
        client::ShardClient,
        command::{Command, StoredSubscription},
        query::PageLimits,
    },
};

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
    /// Reads.
    pub shards: ShardClient,
    /// Of this worker.
    pub appender: Addr<Appender>,
    /// For `Enqueue`.
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

/// Sends everything that `subscription` matches; `false` when the connection has ended.
async fn send(
    source: &Source,
    sending: &Sending,
    receiver: Receiver,
    subscription: &StoredSubscription,
) -> bool {
    let scope = (receiver.app, subscription.filter.clone());
    for shard in source.shards.retained_shards(scope.0, &scope.1) {
        let mut after = None;
        loop {
            // A page is read only for a client that takes it.
            if room(receiver.connection).await.is_none() {
                return false;
            }
            let page = source.shards.retained(shard, scope.clone(), after.take(), PAGE);
            let Ok(page) = page.await else {
                tracing::warn!(shard = shard.0, "retained messages cannot be read now");
                break;
            };
            if !send_page(source, sending, receiver, subscription, page.messages).await {
                return false;
            }
            match page.next {
                Some(topic) => after = Some(topic),
                None => break,
            }
        }
    }
    true
}

/// Sends one page; `false` when the connection has ended.
async fn send_page(
    source: &Source,
    sending: &Sending,
    receiver: Receiver,
    subscription: &StoredSubscription,
    messages: Vec<(Position, Arc<Message>)>,
) -> bool {
    let mut to_log = Vec::new();
    for (version, message) in messages {
        let qos = message.qos.min(subscription.options.qos);
        let own = subscription.options.no_local.then_some(receiver.session);
        if sending.has_overtaken((version, &message), own) {
            continue;
        }
        if receiver.epoch != Epoch::default() && qos > Qos::AtMostOnce {
            to_log.push(message);
            continue;
        }
        let Some(link) = room(receiver.connection).await else { return false };
        // Again: room may have been long in coming.
        if sending.has_overtaken((version, &message), own) {
            continue;
        }
        let id = NonZeroU32::new(subscription.subscription_id);
        let terms = Terms { qos, dup: false, retain: true, subscription_ids: id.as_slice() };
        let now_ms = clock::wall_ms();
        if qos == Qos::AtMostOnce {
            link.send_message(&message, &terms, None, now_ms);
        } else {
            link.send_live(&message, &terms, now_ms);
        }
    }
    enqueue(source, receiver, subscription, to_log).await;
    Worker::with(|worker| worker.find(receiver.connection).is_some()).unwrap_or(false)
}

/// Stores copies in the session's log, one command for a page.
async fn enqueue(
    source: &Source,
    receiver: Receiver,
    subscription: &StoredSubscription,
    messages: Vec<Arc<Message>>,
) {
    if messages.is_empty() {
        return;
    }
    let command = Command::EnqueueRetained {
        key: receiver.session,
        epoch: receiver.epoch,
        filter: subscription.filter.clone(),
        messages: messages.iter().map(retained_copy).collect(),
        quota: source.quotas.of(receiver.app).quota,
    };
    let shard = source.shards.session_shard(receiver.session);
    let reply = source.appender.send(Submit { shard, command }).await;
    if !matches!(reply, Ok(Ok(_))) {
        tracing::warn!(session = ?receiver.session, "retained copies could not be stored");
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
