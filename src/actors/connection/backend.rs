//! What a connection asks of the rest of the node, in one place.
//!
//! - Owns: the backend of the current worker thread ([`install`]).
//! - Takes: questions of the connections of its thread. Gives: replies as futures that need not be
//!   polled for the question to be on its way.
//! - Bound: none of its own; each neighbour has its mailbox bound.
//!
//! The real one asks homes, appenders, routers and shards; tests put a double in its place.

use std::{cell::OnceCell, future::Future, pin::Pin, rc::Rc, sync::Arc};

use bytes::Bytes;

use crate::{
    actors::{
        appender::SubmitError,
        home::{Claim, ClaimError, Release},
        line::Line,
        publish::Published,
        topic_router::Subscription,
    },
    auth::{Admission, Credentials, Verdict},
    model::{
        connection_id::ConnectionId,
        id::{AppId, Epoch, Position, SessionKey},
        message::Message,
        topic::TopicFilter,
    },
    shard::command::{Claimed, Command, FiltersFull, Page, Reply, StoredSubscription},
};

/// A reply that comes on the asker's thread.
pub type Later<T> = Pin<Box<dyn Future<Output = T>>>;

/// Whose subscriptions are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Its connection.
    pub connection: ConnectionId,
    /// Tenant.
    pub app: AppId,
    /// Its session.
    pub session: SessionKey,
    /// 0 = nothing durable.
    pub epoch: Epoch,
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Another connection owns the session.
    #[error("another connection owns the session")]
    Fenced,
    /// The shard cannot be read now.
    #[error("the shard cannot be read now")]
    Unavailable,
}

/// Neighbours of the connections of one worker thread.
pub trait Backend: 'static {
    /// Decides who a client is.
    fn authenticate(&self, admission: &Admission, credentials: Credentials) -> Verdict;

    /// Names a session.
    fn session_key(&self, app: AppId, client_id: &str) -> SessionKey;

    /// Asks the session's home; see [`Claim`].
    fn claim(&self, claim: Claim) -> Later<Result<Box<Claimed>, ClaimError>>;

    /// Tells the session's home; see [`Release`].
    fn release(&self, release: Release) -> Later<()>;

    /// Has the session's shard apply a command. Commands of one session are applied in the order of
    /// the calls.
    fn submit(&self, session: SessionKey, command: Command) -> Later<Result<Reply, SubmitError>>;

    /// As `submit`, for what the client publishes: not written behind a failure of `line`.
    fn submit_in_line(
        &self,
        session: SessionKey,
        command: Command,
        line: Line,
    ) -> Later<Result<Reply, SubmitError>>;

    /// Reads on in the log of a durable session.
    fn page(
        &self,
        session: SessionKey,
        epoch: Epoch,
        after: Position,
        messages: usize,
        bytes: usize,
    ) -> Later<Result<Page, PageError>>;

    /// Publishes messages of one client in order; the next batch may come after `taken`. Nothing of QoS 1
    /// or 2 goes out behind a failure of `line`; it is made if there is none and something may fail later.
    fn publish(&self, messages: &[Arc<Message>], line: &mut Option<Line>) -> Published;

    /// Stores messages again that were published before, under the same ids: live receivers have
    /// them, shards know their doubles. The next batch may come after `taken`, here too.
    fn publish_again(&self, messages: &[Arc<Message>], line: &mut Option<Line>) -> Published;

    /// Adds or replaces live subscriptions, shared ones included. Per item: `Ok(new)`, or the session
    /// has its limit of filters; `shared` of them it has in groups. What comes live so far still does, at QoS 0,
    /// until [`take_from_log`](Self::take_from_log).
    fn subscribe(
        &self,
        who: Subscriber,
        items: Vec<StoredSubscription>,
        shared: usize,
        filters_max: u32,
    ) -> Later<Vec<Result<bool, FiltersFull>>>;

    /// Has QoS 1 and 2 of these filters come live too, at QoS 0, where they come from the session's log. Replies the
    /// subscriptions that were changed by it, as they were.
    fn take_live(&self, who: Subscriber, filters: Vec<TopicFilter>) -> Later<Vec<Subscription>>;

    /// Tells whether QoS 1 and 2 of one of these filters come live.
    fn comes_live(&self, who: Subscriber, filters: Vec<TopicFilter>) -> Later<bool>;

    /// Has QoS 1 and 2 of these subscriptions, none of them shared, come from the session's log alone.
    fn take_from_log(&self, who: Subscriber, items: Vec<Subscription>) -> Later<()>;

    /// Waits until every node knows subscriptions that are in force here and, durable ones, stored; `None`:
    /// they do. Per item: whether they all know it.
    fn routed(&self, _who: Subscriber, _items: &[StoredSubscription]) -> Option<Later<Vec<bool>>> {
        None
    }

    /// Removes live subscriptions. Per item: whether there was one.
    fn unsubscribe(
        &self,
        who: Subscriber,
        items: Vec<(Option<Bytes>, TopicFilter)>,
    ) -> Later<Vec<bool>>;

    /// Takes the end of a connection out of its shared groups; the router forgets the rest by itself.
    fn leave(&self, who: Subscriber, shared: Vec<(Bytes, TopicFilter)>);

    /// Begins to send the retained messages that a subscription asks for.
    fn send_retained(&self, who: Subscriber, subscription: StoredSubscription);
}

/// A backend that many connections hold; one word each.
#[derive(Clone)]
pub(in crate::actors) struct SharedBackend(Rc<Boxed>);

struct Boxed(Box<dyn Backend>);

impl std::ops::Deref for SharedBackend {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        &*self.0.0
    }
}

thread_local! {
    static BACKEND: OnceCell<SharedBackend> = const { OnceCell::new() };
}

/// Sets the backend of the current thread; the first one counts.
pub fn install(backend: Box<dyn Backend>) {
    BACKEND.with(|cell| {
        let _ = cell.set(SharedBackend(Rc::new(Boxed(backend))));
    });
}

/// Returns the backend of the current thread.
pub(super) fn backend() -> Option<SharedBackend> {
    BACKEND.try_with(|cell| cell.get().cloned()).ok().flatten()
}
