//! Hands published messages to everything that must have them: routers, groups, shards.
//!
//! - Owns: nothing.
//! - Takes: batches of one publisher, in order. Gives: an outcome per message, in the same order, and
//!   when the next batch may come.
//! - Bound: one batch per publisher is on its way to routers (back-pressure); QoS 1 and 2 count in their
//!   publisher's window until their outcome is known. Reads snapshots only (NO-WAIT-READ).
//! - Source: ARCHITECTURE.md "One message"; FLUSH-THEN-ACK, ORDER.
//!
//! ```text
//!            ┌─ interest of each worker ─► its topic router (live)
//! publish ───┼─ group table ─────────────► home of the group (one member)
//!            ├─ route table, QoS ≥ 1 ────► appender ─► shards with durable subscribers
//!            └─ retain ──────────────────► appender ─► shard of the topic
//! ```

mod spread;
mod will;
#[cfg(test)]
mod tests;

use std::{cell::Cell, pin::Pin, rc::Rc, sync::Arc};

use actix::{Addr, Handler};
use ahash::AHashMap;
use bytes::Bytes;
use futures_util::future::{FutureExt as _, Shared, try_join_all};
use hongqiao_cluster::id::{Bucket, NodeId, ShardId};
use smallvec::SmallVec;

pub use will::{Fate, Progress};

use super::{
    appender::{Appender, Submit, SubmitError, SubmitInLine},
    facts::Facts,
    groups::{Dispatch, DispatchAgain, GroupKey, GroupTable, Groups},
    interest::Interests,
    line::Line,
    live_routes::LiveRoutes,
    meta::{Meta, NoMeta},
    peer,
    relay::Relay,
    route_tables::RouteTables,
    topic_router::TopicRouter,
};
use crate::{
    model::{
        id::{AppId, HashKey, Position},
        message::{Message, Qos},
        reason::Reason,
    },
    shard::command::{Command, Quota, Reply},
};

/// Says whether a message is taken care of.
pub type Accepted = Result<(), Reason>;

/// What became of one message of a batch.
pub enum Outcome {
    /// Known at once: only live receivers, or none.
    Done(Accepted),
    /// Known when everything that must be flushed is flushed.
    Pending(Part),
}

/// One thing that must happen before a message is accepted.
pub type Part = Pin<Box<dyn Future<Output = Accepted>>>;
pub(super) type Parts = Vec<Part>;

/// The versions of the retained copies that messages of a batch made, by place in the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(Vec<(usize, Position)>);

impl Versions {
    /// Returns that of a message.
    #[must_use]
    pub fn of(&self, place: usize) -> Option<Position> {
        self.0.iter().find(|(at, _)| *at == place).map(|(_, version)| *version)
    }

    /// Notes that of a message, if it made a copy.
    pub fn push(&mut self, place: usize, version: Option<Position>) {
        self.0.extend(version.map(|version| (place, version)));
    }
}

/// What became of a batch.
pub struct Published {
    /// One per message, in the same order; those of QoS 0 are always known.
    pub outcomes: Vec<Outcome>,
    /// Completes when every router has queued its copies. Until then the publisher reads no more: this is
    /// what slows a flood down to the pace of the routers.
    pub taken: Option<Part>,
}

/// What publishing needs to know of the node; shared by the workers.
#[derive(Clone)]
pub struct Targets {
    /// By worker.
    pub routers: Vec<Addr<TopicRouter>>,
    /// By worker.
    pub groups: Vec<Addr<Groups>>,
    /// Which worker has subscribers for a topic.
    pub interests: Interests,
    /// Which shards have durable ones.
    pub facts: Arc<Facts>,
    /// Which shared groups match.
    pub group_table: Arc<GroupTable>,
    /// Keys the hash that places retained messages.
    pub hash_key: HashKey,
    /// How many shards there are.
    pub shards: u16,
    /// What apps may store.
    pub quotas: Arc<AppQuotas>,
    /// The other nodes.
    pub beyond: Beyond,
}

/// What publishing needs to know of the other nodes.
#[derive(Clone)]
pub struct Beyond {
    /// Where they have subscribers, and which shards have.
    pub tables: Arc<RouteTables>,
    /// The way to them.
    pub relay: Arc<Relay>,
    /// Says whether the tables are new enough.
    pub meta: Arc<dyn Meta>,
    /// What they must know of the subscribers here.
    pub live: Arc<LiveRoutes>,
}

impl Beyond {
    /// Returns what a node knows that has no others and no cluster around it; for tests and benches.
    #[must_use]
    pub fn nothing() -> Self {
        let tables = RouteTables::new(NodeId(0));
        let relay = Relay::new(0, peer::no_wire(), Arc::clone(&tables));
        Self { tables, relay, meta: Arc::new(NoMeta), live: Arc::default() }
    }
}

/// What one app may store, over all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppQuota {
    /// For `Append` and `Enqueue`.
    pub quota: Quota,
    /// For `Retain`: most retained messages.
    pub retained_messages_max: u64,
    /// For `Retain`: most bytes of them.
    pub retained_bytes_max: u64,
}

/// What all apps may store.
#[derive(Clone, Debug)]
pub struct AppQuotas {
    /// Every app that is not in the table.
    pub common: AppQuota,
    /// Apps for which the configuration says something else.
    pub special: AHashMap<AppId, AppQuota>,
}

impl AppQuotas {
    /// Returns the quota of an app.
    #[must_use]
    pub fn of(&self, app: AppId) -> &AppQuota {
        self.special.get(&app).unwrap_or(&self.common)
    }
}

/// The publishing side of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    targets: Rc<Targets>,
    appender: Addr<Appender>,
}

impl Publisher {
    /// Creates the publisher of one worker, whose appender is `appender`.
    #[must_use]
    pub fn new(targets: Targets, appender: Addr<Appender>) -> Self {
        Self { targets: Rc::new(targets), appender }
    }

    /// Publishes a batch of one publisher; everything is enqueued before this returns, unless a mailbox
    /// or the window of a node is full. A publisher hands over its next batch after `taken`.
    ///
    /// A batch with a message to be retained reaches subscribers, live and durable, after that is
    /// committed: who subscribes meanwhile finds it in one place or the other.
    ///
    /// Nothing of QoS 1 or 2 goes out behind a failure of `line`, which is made if something may fail later.
    #[must_use]
    pub fn publish(&self, messages: &[Arc<Message>], line: &mut Option<Line>) -> Published {
        if self.may_publish(messages) {
            self.publish_now(messages, line)
        } else {
            self.hold(messages, line.get_or_insert_default())
        }
    }

    fn publish_now(&self, messages: &[Arc<Message>], line: &mut Option<Line>) -> Published {
        if let Some(error) = line.as_ref().and_then(Line::failure) {
            return self.publish_unreliable(messages, error);
        }
        let mut parts: Vec<Parts> = messages.iter().map(|_| Parts::new()).collect();
        self.deal(messages, &mut parts);
        let retained = self.retain(messages, &mut parts, line);
        let mut taken = Parts::new();
        if retained.is_empty() {
            taken.extend(self.spread(messages, &Versions::default(), &mut parts, line));
        } else {
            let line = line.get_or_insert_default();
            let routed = self.spread_after(retained, messages, &mut parts, line);
            // Acknowledged means also: who subscribes from now on gets the copy alone.
            let kept = messages.iter().zip(&mut parts).filter(|(message, _)| message.retain);
            kept.for_each(|(_, parts)| parts.push(Box::pin(routed.clone())));
            taken.push(Box::pin(routed));
        }
        let outcome = |(message, parts): (&Arc<Message>, Parts)| {
            // QoS 0 is not answered: nobody but the next batch waits for it.
            if message.qos == Qos::AtMostOnce {
                taken.extend(parts);
                return Outcome::Done(Ok(()));
            }
            join(parts).map_or(Outcome::Done(Ok(())), Outcome::Pending)
        };
        let outcomes = messages.iter().zip(parts).map(outcome).collect();
        Published { outcomes, taken: join(taken) }
    }

    /// Publishes what has QoS 0, and refuses the rest: something in front of it has failed.
    fn publish_unreliable(&self, messages: &[Arc<Message>], error: SubmitError) -> Published {
        let is_unreliable = |message: &Arc<Message>| message.qos == Qos::AtMostOnce;
        let rest: Vec<_> =
            messages.iter().filter(|message| is_unreliable(message)).cloned().collect();
        let Published { taken, .. } = self.publish_now(&rest, &mut None);
        let outcome = |message: &Arc<Message>| {
            let refused = || accepted(&Err(error));
            Outcome::Done(if is_unreliable(message) { Ok(()) } else { refused() })
        };
        Published { outcomes: messages.iter().map(outcome).collect(), taken }
    }

    /// Stores messages whose first publication may have been cut short: each shard knows its doubles by
    /// their ids, a group's home asks the shards; live receivers get nothing twice (ONCE).
    #[must_use]
    pub fn publish_again(&self, messages: &[Arc<Message>], line: &mut Option<Line>) -> Published {
        if self.may_publish(messages) {
            Published { outcomes: self.publish_again_now(messages, line), taken: None }
        } else {
            self.hold_again(messages, line.get_or_insert_default())
        }
    }

    fn publish_again_now(
        &self,
        messages: &[Arc<Message>],
        line: &mut Option<Line>,
    ) -> Vec<Outcome> {
        if let Some(error) = line.as_ref().and_then(Line::failure) {
            return messages.iter().map(|_| Outcome::Done(accepted(&Err(error)))).collect();
        }
        let mut parts: Vec<Parts> = messages.iter().map(|_| Parts::new()).collect();
        self.deal_by(messages, &mut parts, DispatchAgain::of);
        self.store(messages, &mut parts, line);
        self.retain(messages, &mut parts, line);
        let outcome = |parts| join(parts).map_or(Outcome::Done(Ok(())), Outcome::Pending);
        parts.into_iter().map(outcome).collect()
    }

    /// Appends to the shards with durable subscribers.
    fn store(&self, messages: &[Arc<Message>], parts: &mut [Parts], line: &mut Option<Line>) {
        let tables = self.targets.beyond.tables.load();
        let routes = self.targets.facts.routes.load();
        for (message, parts) in messages.iter().zip(parts) {
            if message.qos == Qos::AtMostOnce {
                continue;
            }
            for shard in tables.shards(message.app, &message.topic, &routes).iter() {
                parts.push(self.submit(shard, self.append_command(message), line));
            }
        }
    }

    fn append_command(&self, message: &Arc<Message>) -> Command {
        let quota = self.targets.quotas.of(message.app).quota;
        Command::Append { message: Arc::clone(message), quota }
    }

    /// Returns what sets the retained message of a topic, and where.
    fn retain_command(&self, message: &Arc<Message>) -> (ShardId, Command) {
        let targets = &self.targets;
        let hash = targets.hash_key.topic(message.app, message.topic.as_str());
        let app = targets.quotas.of(message.app);
        let command = Command::Retain {
            message: Arc::clone(message),
            messages_max: app.retained_messages_max,
            bytes_max: app.retained_bytes_max,
        };
        (Bucket::of(hash).shard(targets.shards), command)
    }

    /// Sets the retained messages; also returns what must be committed before the batch is routed.
    fn retain(
        &self,
        messages: &[Arc<Message>],
        parts: &mut [Parts],
        line: &mut Option<Line>,
    ) -> Vec<Retaining> {
        let mut retained = Vec::new();
        let retains = messages.iter().zip(parts).enumerate().filter(|(_, (m, _))| m.retain);
        for (place, (message, parts)) in retains {
            let (shard, command) = self.retain_command(message);
            let version = Rc::<Cell<Option<Position>>>::default();
            let line = line.get_or_insert_default().clone();
            let submit = SubmitInLine { submit: Submit { shard, command }, line };
            let (reply, set) = (self.appender.send(submit), Rc::clone(&version));
            let part: Part = Box::pin(async move {
                let reply = reply.await.unwrap_or(Err(SubmitError::Unavailable));
                if let Ok(Reply::Retained { version, refused: false }) = reply {
                    set.set(Some(version));
                }
                accepted(&reply)
            });
            let part = part.shared();
            parts.push(Box::pin(part.clone()));
            retained.push(Retaining { place, version, part });
        }
        retained
    }

    fn submit(&self, shard: ShardId, command: Command, line: &mut Option<Line>) -> Part {
        let line = line.get_or_insert_default().clone();
        let submit = SubmitInLine { submit: Submit { shard, command }, line };
        let reply = self.appender.send(submit);
        Box::pin(async move { accepted(&reply.await.unwrap_or(Err(SubmitError::Unavailable))) })
    }

    /// Gives each message to one member of each shared group that it matches.
    fn deal(&self, messages: &[Arc<Message>], parts: &mut [Parts]) {
        self.deal_by(messages, parts, one_of);
    }

    /// Sends the home of each shared group that a message matches what `dispatch` makes of it.
    fn deal_by<D>(
        &self,
        messages: &[Arc<Message>],
        parts: &mut [Parts],
        dispatch: impl Fn(GroupKey, Option<Bytes>, Arc<Message>) -> D,
    ) where
        D: actix::Message<Result = Accepted> + Send + 'static,
        Groups: Handler<D>,
    {
        let homes = &self.targets.groups;
        let table = self.targets.group_table.load();
        let routes = self.targets.beyond.tables.load();
        for (message, parts) in messages.iter().zip(parts) {
            let mut send = |group: GroupKey, key| {
                let Some(home) = homes.get(group.home(homes.len())) else { return };
                let sent = home.send(dispatch(group, key, Arc::clone(message)));
                parts.push(Box::pin(async move {
                    sent.await.unwrap_or(Err(Reason::ServerShuttingDown))
                }));
            };
            let mut routed = SmallVec::<[GroupKey; 2]>::new();
            for route in routes.groups(message.app, &message.topic).iter() {
                let hash_key = &self.targets.hash_key;
                let group = GroupKey::new(hash_key, route.app, &route.share, &route.filter);
                routed.push(group);
                send(group, Some(route.key.clone()));
            }
            for group in table.places(message.app, &message.topic).iter() {
                if !routed.contains(&group) {
                    send(group, None);
                }
            }
        }
    }
}

fn one_of(group: GroupKey, key: Option<Bytes>, message: Arc<Message>) -> Dispatch {
    Dispatch { group, key, messages: vec![message] }
}

/// A retained message that is being stored.
struct Retaining {
    /// In its batch.
    place: usize,
    /// Set when `part` is done, if there is a copy.
    version: Rc<Cell<Option<Position>>>,
    part: Shared<Part>,
}

/// Makes one outcome of several. A failure is told at once. A refusal is told once nothing of the message is under
/// way any more: who is told no goes on behind it, maybe through another node, and what arrives after that would
/// stand behind its successors (ORDER).
fn join(mut parts: Parts) -> Option<Part> {
    if parts.len() < 2 {
        return parts.pop();
    }
    let refused = |part: Part| {
        part.map(|outcome| match outcome {
            Err(Reason::QuotaExceeded) => Ok(true),
            outcome => outcome.map(|()| false),
        })
    };
    Some(Box::pin(async move {
        let refused = try_join_all(parts.into_iter().map(refused)).await?;
        if refused.contains(&true) { Err(Reason::QuotaExceeded) } else { Ok(()) }
    }))
}

/// Translates a shard's reply to an append or a retain.
pub(super) fn accepted(reply: &Result<Reply, SubmitError>) -> Accepted {
    match reply {
        Ok(Reply::Appended { refused: true, .. } | Reply::Retained { refused: true, .. }) => {
            Err(Reason::QuotaExceeded)
        }
        Ok(_) => Ok(()),
        Err(SubmitError::Overloaded | SubmitError::DiskFull | SubmitError::DiskFailing) => {
            Err(Reason::QuotaExceeded)
        }
        Err(SubmitError::Unavailable) => Err(Reason::ImplementationSpecificError),
        Err(SubmitError::Unknown) => Err(Reason::UnspecifiedError),
    }
}
