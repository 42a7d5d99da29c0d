//! The neighbours of a worker's connections as they really are.
//!
//! - Owns: addresses. Takes: questions of connections. Gives: their replies.
//! - Bound: each mailbox has its own; a question that meets a full one waits there.

use std::{rc::Rc, sync::Arc};

use actix::Addr;
use bytes::Bytes;
use futures_util::future::join_all;
use hongqiao_cluster::id::ShardId;

use super::backend::{Backend, Later, PageError, Subscriber};
use crate::{
    actors::{
        appender::{Appender, Submit, SubmitError, SubmitInLine},
        groups::{GroupKey, Groups, Join, Leave, Member, MemberKey},
        home::{Claim, ClaimError, Release, client::Homes},
        line::Line,
        publish::{Published, Publisher},
        suback_barrier::SubackBarrier,
        topic_router::{ComesLive, Subscribe, Subscription, TakeLive, TopicRouter, Unsubscribe},
        worker::Worker,
    },
    auth::{Admission, Authenticator, Credentials, Verdict},
    model::{
        id::{AppId, Epoch, HashKey, Position, SessionKey},
        message::Message,
        topic::TopicFilter,
    },
    shard::command::{Claimed, Command, FiltersFull, Page, Reply, StoredSubscription},
};

/// Reads a page of a session's log.
pub type ReadPage =
    Box<dyn Fn(SessionKey, Epoch, Position, usize, usize) -> Later<Result<Page, PageError>>>;

/// Sends the retained messages that new subscriptions ask for.
pub trait RetainedCopies {
    /// Begins to send what a subscription asks for, after those of its connection that came first.
    fn begin(&self, who: Subscriber, subscription: StoredSubscription);

    /// Forgets a subscription whose copies have not begun.
    fn forget(&self, who: Subscriber, filter: &TopicFilter);
}

/// Where the neighbours of one worker are.
pub struct Node {
    /// Keys the hashes of names.
    pub hash_key: HashKey,
    /// How many shards there are.
    pub shards: u16,
    /// Knows the clients.
    pub authenticator: Arc<dyn Authenticator>,
    /// Of any node.
    pub homes: Rc<Homes>,
    /// Of this worker.
    pub appender: Addr<Appender>,
    /// Of this worker.
    pub router: Addr<TopicRouter>,
    /// By worker.
    pub groups: Vec<Addr<Groups>>,
    /// Of this worker.
    pub publisher: Rc<Publisher>,
    /// Reads logs.
    pub read_page: ReadPage,
    /// Sends retained messages.
    pub retained: Box<dyn RetainedCopies>,
    /// Knows when other nodes know subscriptions; `None` for tests of a node alone.
    pub barrier: Option<Arc<SubackBarrier>>,
}

type Existing = Vec<Result<bool, FiltersFull>>;

impl Node {
    fn shard(&self, session: SessionKey) -> ShardId {
        session.bucket().shard(self.shards)
    }

    fn group(&self, app: AppId, share: &Bytes, filter: &TopicFilter) -> (GroupKey, Addr<Groups>) {
        let key = GroupKey::new(&self.hash_key, app, share, filter);
        (key, self.groups[key.home(self.groups.len())].clone())
    }

    /// Joins a group; `true` if the session was no member.
    fn join(&self, who: Subscriber, item: &StoredSubscription, share: &Bytes) -> Later<bool> {
        let (group, home) = self.group(who.app, share, &item.filter);
        let member = Member {
            key: member_key(who),
            connection: Some(who.connection),
            options: item.options,
            subscription_id: item.subscription_id,
        };
        let joined = home.send(Join {
            group,
            app: who.app,
            share: share.clone(),
            filter: item.filter.clone(),
            member,
        });
        Box::pin(async move { joined.await.unwrap_or(false) })
    }

    /// Leaves a group; `stays`: only the connection ends, a durable session stays a member.
    fn quit(
        &self,
        who: Subscriber,
        share: &Bytes,
        filter: &TopicFilter,
        stays: bool,
    ) -> Later<bool> {
        let (group, home) = self.group(who.app, share, filter);
        let left = home.send(Leave { group, who: member_key(who), stays });
        Box::pin(async move { left.await.unwrap_or(false) })
    }

    /// Asks router and groups at the same time; replies in the order of `items`.
    fn add(&self, who: Subscriber, items: &[StoredSubscription]) -> Later<Vec<bool>> {
        let plain = items.iter().filter(|item| item.share.is_none());
        let plain: Vec<_> = plain.map(Subscription::from).collect();
        let routed = (!plain.is_empty()).then(|| {
            let (connection, app) = (who.connection, who.app);
            self.router.send(Subscribe { connection, app, items: plain, keep_live: true })
        });
        let joins = items.iter().map(|item| {
            let share = item.share.as_ref()?;
            Some(self.join(who, item, share))
        });
        merge(joins.collect(), routed)
    }
}

fn member_key(who: Subscriber) -> MemberKey {
    if who.epoch == Epoch::default() {
        MemberKey::Connection(who.connection)
    } else {
        MemberKey::Session(who.session)
    }
}

/// Replies of groups and of the router, in the order in which the items were given.
fn merge<M>(
    groups: Vec<Option<Later<bool>>>,
    routed: Option<actix::dev::Request<TopicRouter, M>>,
) -> Later<Vec<bool>>
where
    M: actix::Message<Result = Vec<bool>> + Send + 'static,
    TopicRouter: actix::Handler<M>,
{
    Box::pin(async move {
        let mut routed = match routed {
            Some(request) => request.await.unwrap_or_default().into_iter(),
            None => Vec::new().into_iter(),
        };
        let mut all = Vec::with_capacity(groups.len());
        for group in groups {
            all.push(match group {
                Some(reply) => reply.await,
                None => routed.next().unwrap_or(false),
            });
        }
        all
    })
}

impl Backend for Rc<Node> {
    fn authenticate(&self, admission: &Admission, credentials: Credentials) -> Verdict {
        self.authenticator.authenticate(admission, credentials)
    }

    fn session_key(&self, app: AppId, client_id: &str) -> SessionKey {
        self.hash_key.session(app, client_id)
    }

    fn claim(&self, claim: Claim) -> Later<Result<Box<Claimed>, ClaimError>> {
        self.homes.claim(self.shard(claim.key), claim)
    }

    fn release(&self, release: Release) -> Later<()> {
        self.homes.release(self.shard(release.key), release)
    }

    fn submit(&self, session: SessionKey, command: Command) -> Later<Result<Reply, SubmitError>> {
        let reply = self.appender.send(Submit { shard: self.shard(session), command });
        Box::pin(async move { reply.await.unwrap_or(Err(SubmitError::Unavailable)) })
    }

    fn submit_in_line(
        &self,
        session: SessionKey,
        command: Command,
        line: Line,
    ) -> Later<Result<Reply, SubmitError>> {
        let submit = Submit { shard: self.shard(session), command };
        let reply = self.appender.send(SubmitInLine { submit, line });
        Box::pin(async move { reply.await.unwrap_or(Err(SubmitError::Unavailable)) })
    }

    fn page(
        &self,
        session: SessionKey,
        epoch: Epoch,
        after: Position,
        messages: usize,
        bytes: usize,
    ) -> Later<Result<Page, PageError>> {
        (self.read_page)(session, epoch, after, messages, bytes)
    }

    fn publish(&self, messages: &[Arc<Message>], line: &mut Option<Line>) -> Published {
        self.publisher.publish(messages, line)
    }

    fn publish_again(&self, messages: &[Arc<Message>], line: &mut Option<Line>) -> Published {
        self.publisher.publish_again(messages, line)
    }

    fn subscribe(
        &self,
        who: Subscriber,
        items: Vec<StoredSubscription>,
        shared: usize,
        filters_max: u32,
    ) -> Later<Existing> {
        let link = Worker::with(|worker| worker.find(who.connection)).flatten();
        let have = shared + link.map_or(0, |link| link.filters());
        let room = (filters_max as usize).saturating_sub(have);
        if items.len() <= room {
            let added = self.add(who, &items);
            return Box::pin(async move { added.await.into_iter().map(Ok).collect() });
        }
        // Only the owners know which of them are new: those over the limit are taken back.
        let (node, added) = (Self::clone(self), self.add(who, &items));
        Box::pin(async move {
            let added = added.await;
            let mut room = room;
            let keep = |new: &bool| {
                let fits = !new || room > 0;
                room -= usize::from(*new && fits);
                fits
            };
            let kept: Vec<bool> = added.iter().map(keep).collect();
            let over = items.into_iter().zip(&kept).filter(|(_, kept)| !**kept);
            let over = over.map(|(item, _)| (item.share, item.filter)).collect();
            node.unsubscribe(who, over).await;
            let reply = |(new, kept)| if kept { Ok(new) } else { Err(FiltersFull) };
            added.into_iter().zip(kept).map(reply).collect()
        })
    }

    fn take_live(&self, who: Subscriber, filters: Vec<TopicFilter>) -> Later<Vec<Subscription>> {
        let (connection, app) = (who.connection, who.app);
        let replaced = self.router.send(TakeLive { connection, app, filters });
        Box::pin(async move { replaced.await.unwrap_or_default() })
    }

    fn comes_live(&self, who: Subscriber, filters: Vec<TopicFilter>) -> Later<bool> {
        let (connection, app) = (who.connection, who.app);
        let answer = self.router.send(ComesLive { connection, app, filters });
        Box::pin(async move { answer.await.unwrap_or(false) })
    }

    fn take_from_log(&self, who: Subscriber, items: Vec<Subscription>) -> Later<()> {
        let (connection, app) = (who.connection, who.app);
        let taken = self.router.send(Subscribe { connection, app, items, keep_live: false });
        Box::pin(async move {
            // An error means that the router has ended, and with it the thread.
            let _ = taken.await;
        })
    }

    fn routed(&self, who: Subscriber, items: &[StoredSubscription]) -> Option<Later<Vec<bool>>> {
        let shard = (who.epoch != Epoch::default()).then(|| self.shard(who.session));
        let passed = self.barrier.as_ref()?.passed(who.app, shard, items)?;
        Some(Box::pin(passed))
    }

    fn unsubscribe(
        &self,
        who: Subscriber,
        items: Vec<(Option<Bytes>, TopicFilter)>,
    ) -> Later<Vec<bool>> {
        let plain = items.iter().filter(|(share, _)| share.is_none());
        let filters: Vec<_> = plain.map(|(_, filter)| filter.clone()).collect();
        filters.iter().for_each(|filter| self.retained.forget(who, filter));
        let routed = (!filters.is_empty()).then(|| {
            self.router.send(Unsubscribe { connection: who.connection, app: who.app, filters })
        });
        let quits = items.iter().map(|(share, filter)| {
            let share = share.as_ref()?;
            Some(self.quit(who, share, filter, false))
        });
        merge(quits.collect(), routed)
    }

    fn leave(&self, who: Subscriber, shared: Vec<(Bytes, TopicFilter)>) {
        let stays = matches!(member_key(who), MemberKey::Session(_));
        let left: Vec<_> =
            shared.iter().map(|(share, filter)| self.quit(who, share, filter, stays)).collect();
        actix::spawn(async move {
            join_all(left).await;
        });
    }

    fn send_retained(&self, who: Subscriber, subscription: StoredSubscription) {
        self.retained.begin(who, subscription);
    }
}
