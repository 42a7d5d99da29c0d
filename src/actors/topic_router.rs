//! Hands published messages to the subscribers of its own thread.
//!
//! - Owns: the filters of its thread's connections and who subscribed to them (ONE-OWNER).
//! - Takes: `Subscribe`, `Unsubscribe` from connections of its thread; `Publish` from connections of any
//!   thread. Ended connections through the worker, not through the mailbox, so that they are never lost.
//! - Gives: frames to the links of its thread, by direct local writes (rule 6).
//! - Bound: `limits::ROUTER_MAILBOX_MESSAGES`; then senders wait (or drop QoS 0). Runs in progress:
//!   `limits::WALKING_BYTES_MAX`; beyond it the mailbox stands still. Per poll about
//!   `limits::WALK_RECEIVERS_PER_POLL` receivers, then the thread's other tasks have their turn.
//! - Order: per topic, messages reach every receiver in the order in which they came here. Topics
//!   with unfinished runs take turns, so one with 100,000 subscribers does not hold up the others.
//! - Source: MQTT 5.0 sections 3.3.4, 3.8.3.1, 4.6; encode once for many is our own design.
//!
//! ```text
//! Publish ─► runs of one topic ─► filters ─► small: served at once
//!                                        └► large, or the topic has a queue: queued, served in turn
//! run ─► encoded once per (dialect, QoS, retain) ─► links
//! ```

mod live;
mod serve;
mod walks;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    num::NonZeroU32,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use actix::{
    Actor, ActorFuture, Addr, AsyncContext, Context, Handler, Message, MessageResult, Response,
};
use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    live_routes::TellFilters,
    publish::Versions,
    subscribers::{Reach, Subscriber, Subscribers},
    worker::Worker,
};
use crate::{
    clock, limits, model,
    model::{
        connection_id::ConnectionId,
        id::{AppId, Position},
        route_key,
        topic::TopicFilter,
        trie::{FilterId, FilterTrie},
        wire::SubscriptionOptions,
    },
    shard::command::StoredSubscription,
};

use serve::Merge;
use walks::{Done, Run, Walks};

pub use live::{ComesLive, TakeLive};

/// Sent by a connection of the same thread. Replies per item whether the subscription is new for the
/// connection (an old one has its options replaced, without a gap); all `false` if it has ended.
#[derive(Debug, Message)]
#[rtype(result = "Vec<bool>")]
pub struct Subscribe {
    /// Whose.
    pub connection: ConnectionId,
    /// Tenant.
    pub app: AppId,
    /// In order.
    pub items: Vec<Subscription>,
    /// What has its QoS 1 and 2 live so far keeps them live, at QoS 0, even if they come from the session's log
    /// too from now on.
    pub keep_live: bool,
}

/// One subscription without a share name.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// What.
    pub filter: TopicFilter,
    /// How.
    pub options: SubscriptionOptions,
    /// Sent along with deliveries.
    pub id: Option<NonZeroU32>,
}

impl From<&StoredSubscription> for Subscription {
    fn from(stored: &StoredSubscription) -> Self {
        let StoredSubscription { filter, options, subscription_id, .. } = stored;
        let id = NonZeroU32::new(*subscription_id);
        Self { filter: filter.clone(), options: *options, id }
    }
}

/// Sent by a connection of the same thread. Replies per filter whether there was such a subscription.
#[derive(Debug, Message)]
#[rtype(result = "Vec<bool>")]
pub struct Unsubscribe {
    /// Whose.
    pub connection: ConnectionId,
    /// Tenant.
    pub app: AppId,
    /// In order.
    pub filters: Vec<TopicFilter>,
}

/// Sent by connections of any thread, and by the server for wills and HTTP: one batch is all that one
/// read gave. Replies when every subscriber of this thread has its copy queued (or dropped and
/// counted): responsibility is taken.
#[derive(Debug, Default, Message)]
#[rtype(result = "()")]
pub struct Publish {
    /// In the order of sending.
    pub messages: SmallVec<[Arc<model::message::Message>; 1]>,
    /// Of those that made a retained copy, its version.
    pub versions: Versions,
}

impl Publish {
    /// Makes a batch of messages that made no retained copies.
    pub fn of(messages: impl IntoIterator<Item = Arc<model::message::Message>>) -> Self {
        Self { messages: messages.into_iter().collect(), versions: Versions::default() }
    }

    /// Adds a message.
    pub fn push(&mut self, message: Arc<model::message::Message>, version: Option<Position>) {
        self.versions.push(self.messages.len(), version);
        self.messages.push(message);
    }
}

/// Sent for another node: as [`Publish`]; `answer` is dropped when every subscriber of this thread has
/// its copy queued.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Relayed<A: Send + Sync + 'static> {
    /// What.
    pub publish: Publish,
    /// Shared by the routers of all threads.
    pub answer: Arc<A>,
}

/// A small view of a router, for tests and for the control plane.
#[derive(Debug, Message)]
#[rtype(result = "RouterView")]
pub struct Observe;

/// What [`Observe`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RouterView {
    /// Distinct filters.
    pub filters: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Runs that wait for their turn.
    pub runs_waiting: usize,
}

/// The router of one thread.
pub struct TopicRouter {
    worker: Rc<Worker>,
    trie: FilterTrie,
    /// By filter id.
    subscribers: Vec<Subscribers>,
    subscriptions: usize,
    walks: Walks,
    merge: Merge,
    /// Receivers that may still be served in this poll.
    budget: usize,
    /// Slots to give back once no paused run may still name them.
    slots_to_release: Vec<u32>,
    /// The node is not alone: first and last subscribers are told.
    telling: bool,
}

impl TopicRouter {
    /// Starts the router of `worker` on the current arbiter.
    pub(super) fn spawn(worker: Rc<Worker>) -> Addr<Self> {
        Self::new(worker).start()
    }

    fn new(worker: Rc<Worker>) -> Self {
        Self {
            worker,
            trie: FilterTrie::new(),
            subscribers: Vec::new(),
            subscriptions: 0,
            walks: Walks::default(),
            merge: Merge::default(),
            budget: limits::WALK_RECEIVERS_PER_POLL,
            slots_to_release: Vec::new(),
            telling: false,
        }
    }

    fn subscribe(&mut self, slot: u32, app: AppId, item: &Subscription, is_durable: bool) -> bool {
        let (filter, new_filter) = self.trie.insert(app, &item.filter);
        let place = filter.0 as usize;
        if self.subscribers.len() <= place {
            self.subscribers.resize_with(place + 1, Subscribers::default);
        }
        if new_filter {
            let text = &item.filter.as_bytes()[..];
            self.worker.interests().add(self.worker.index(), app, text);
        }
        let list = &mut self.subscribers[place];
        let before = list.reach();
        let is_new = list.insert(Subscriber::new(slot, item.options, item.id, is_durable));
        let after = list.reach();
        self.tell(filter, before, after);
        if is_new {
            self.subscriptions += 1;
            self.worker.counters().subscriptions.add(1);
            if let Some(link) = self.worker.table().get(slot) {
                link.add_filter(filter);
            }
        }
        is_new
    }

    fn unsubscribe(&mut self, slot: u32, filter: FilterId) -> bool {
        let Some(list) = self.subscribers.get_mut(filter.0 as usize) else { return false };
        let before = list.reach();
        if !list.remove(slot) {
            return false;
        }
        let (after, is_empty) = (list.reach(), list.is_empty());
        self.tell(filter, before, after);
        self.subscriptions -= 1;
        self.worker.counters().subscriptions.subtract(1);
        if is_empty {
            self.remove_filter(filter);
        }
        true
    }

    /// Nobody has subscribed to `filter` any more, and nobody walks it.
    fn remove_filter(&mut self, filter: FilterId) {
        if let Some((app, text)) = self.trie.filter(filter) {
            self.worker.interests().remove(self.worker.index(), app, text.as_bytes());
        }
        self.trie.remove(filter);
    }

    /// Tells which routes a filter begins or ceases to need.
    fn tell(&self, filter: FilterId, before: Reach, after: Reach) {
        let filter = if self.telling && before != after { self.trie.filter(filter) } else { None };
        let Some((app, text)) = filter else { return };
        let (live, worker) = (self.worker.live_routes(), self.worker.index());
        // What comes first, so that no message falls between.
        live.hold(worker, keys(app, text, after));
        let gone = Reach { all: before.all && !after.all, qos_0: before.qos_0 && !after.qos_0 };
        keys(app, text, gone).for_each(|key| live.release(worker, &key));
    }

    /// Forgets the connections that ended since the last call.
    fn forget_ended(&mut self) {
        for ended in self.worker.take_ended() {
            for filter in ended.filters {
                self.unsubscribe(ended.slot, filter);
            }
            self.slots_to_release.push(ended.slot);
        }
        if !self.walks.has_merged() {
            for slot in self.slots_to_release.drain(..) {
                self.worker.release_slot(slot);
            }
        }
    }

    /// Takes a batch; `None` if every subscriber has its copy.
    fn take(&mut self, publish: Publish, ctx: &mut Context<Self>) -> Option<oneshot::Receiver<()>> {
        self.forget_ended();
        self.worker.note_fresh(&publish.messages, &publish.versions);
        let waits = self.publish(publish);
        if self.walks.is_full() {
            ctx.wait(Walker { until_room: true });
        }
        waits
    }

    /// Serves or queues one batch; `None` if nothing of it is left to do.
    fn publish(&mut self, publish: Publish) -> Option<oneshot::Receiver<()>> {
        let now_ms = clock::wall_ms();
        let mut done = None;
        for run in walks::runs(publish.messages, now_ms, self.worker.counters()) {
            self.route(run, now_ms, &mut done);
        }
        done.map(|(_, receiver)| receiver)
    }

    fn route(&mut self, run: Run, now_ms: u64, done: &mut Option<(Done, oneshot::Receiver<()>)>) {
        let mut found = SmallVec::new();
        self.trie.matches(run.app(), run.topic(), &mut found);
        if found.is_empty() {
            return;
        }
        let receivers: usize =
            found.iter().map(|filter| self.subscribers[filter.0 as usize].len()).sum();
        if receivers <= self.budget && !self.walks.has_topic(&run) {
            self.budget -= receivers;
            self.serve_now(&run, &found, now_ms);
            return;
        }
        let (done, _) = done.get_or_insert_with(Done::new);
        let done = done.clone();
        self.queue(run, &found, now_ms, done);
    }

    /// Serves queued runs in turn until the poll's budget is used up; `true` if more wait.
    fn poll_walks(&mut self) -> bool {
        self.forget_ended();
        self.budget = limits::WALK_RECEIVERS_PER_POLL;
        self.serve_queued();
        !self.walks.is_empty()
    }
}

impl Actor for TopicRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::ROUTER_MAILBOX_MESSAGES);
        ctx.spawn(Walker { until_room: false });
    }
}

/// Returns the routes that messages of this reach need.
fn keys(app: AppId, filter: &str, reach: Reach) -> impl Iterator<Item = Bytes> {
    let filter = filter.as_bytes();
    let all = reach.all.then(|| route_key::of_filter(app, filter));
    all.into_iter().chain(reach.qos_0.then(|| route_key::of_filter_qos_0(app, filter)))
}

/// Serves queued runs: all its life beside the mailbox, or (`until_room`) instead of it.
struct Walker {
    until_room: bool,
}

impl ActorFuture<TopicRouter> for Walker {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        router: &mut TopicRouter,
        _ctx: &mut Context<TopicRouter>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        router.worker.set_router_waker(cx.waker());
        let more = router.poll_walks();
        if self.until_room && !router.walks.is_full() {
            return Poll::Ready(());
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Handler<Subscribe> for TopicRouter {
    type Result = MessageResult<Subscribe>;

    fn handle(&mut self, subscribe: Subscribe, _ctx: &mut Self::Context) -> Self::Result {
        self.forget_ended();
        let slot = subscribe.connection.slot();
        let living = self.worker.find(subscribe.connection).filter(|link| !link.is_closing());
        let Some(is_durable) = living.map(|link| link.is_durable()) else {
            return MessageResult(vec![false; subscribe.items.len()]);
        };
        self.worker.hold_slot(slot);
        let (app, items) = (subscribe.app, subscribe.items.iter());
        let keep_live = subscribe.keep_live && is_durable;
        let add = |item: &Subscription| match keep_live.then(|| self.kept_live(slot, app, item)) {
            Some(item) => self.subscribe(slot, app, &item, is_durable),
            None => self.subscribe(slot, app, item, is_durable),
        };
        MessageResult(items.map(add).collect())
    }
}

impl Handler<Unsubscribe> for TopicRouter {
    type Result = MessageResult<Unsubscribe>;

    fn handle(&mut self, unsubscribe: Unsubscribe, _ctx: &mut Self::Context) -> Self::Result {
        self.forget_ended();
        let link = self.worker.find(unsubscribe.connection);
        let slot = unsubscribe.connection.slot();
        let remove = |filter: &TopicFilter| {
            let (Some(link), Some(id)) = (&link, self.trie.get(unsubscribe.app, filter)) else {
                return false;
            };
            let removed = self.unsubscribe(slot, id);
            if removed {
                link.remove_filter(id);
            }
            removed
        };
        MessageResult(unsubscribe.filters.iter().map(remove).collect())
    }
}

impl Handler<Publish> for TopicRouter {
    type Result = Response<()>;

    fn handle(&mut self, publish: Publish, ctx: &mut Self::Context) -> Self::Result {
        match self.take(publish, ctx) {
            None => Response::reply(()),
            Some(done) => Response::fut(async move {
                // An error means that the router has ended, and with it the thread.
                let _ = done.await;
            }),
        }
    }
}

impl<A: Send + Sync + 'static> Handler<Relayed<A>> for TopicRouter {
    type Result = ();

    fn handle(&mut self, relayed: Relayed<A>, ctx: &mut Self::Context) {
        let Relayed { publish, answer } = relayed;
        if let Some(done) = self.take(publish, ctx) {
            actix_rt::spawn(async move {
                let _ = done.await;
                drop(answer);
            });
        }
    }
}

impl Handler<TellFilters> for TopicRouter {
    type Result = MessageResult<TellFilters>;

    fn handle(&mut self, tell: TellFilters, _ctx: &mut Self::Context) -> Self::Result {
        self.telling = true;
        let all = u32::try_from(self.subscribers.len()).unwrap_or(u32::MAX);
        let end = all.min(tell.from.saturating_add(limits::ROUTE_WALK_FILTERS));
        let told = (tell.from..end).filter_map(|number| {
            let (app, text) = self.trie.filter(FilterId(number))?;
            Some(keys(app, text, self.subscribers[number as usize].reach()))
        });
        self.worker.live_routes().hold(self.worker.index(), told.flatten());
        MessageResult((end < all).then_some(end))
    }
}

impl Handler<Observe> for TopicRouter {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _observe: Observe, _ctx: &mut Self::Context) -> Self::Result {
        self.forget_ended();
        MessageResult(RouterView {
            filters: self.trie.len(),
            subscriptions: self.subscriptions,
            runs_waiting: self.walks.len(),
        })
    }
}
