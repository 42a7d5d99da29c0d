//! The typed face of the shards for actors and HTTP: reads of state, and single proposals.
//!
//! - Owns: nothing but the handle.
//! - Takes: keys and places. Gives: pages and records; answers are computed on the cluster's own threads,
//!   never on an arbiter.
//! - Bound: what the caller asks for, per page; the cluster bounds the reads under way.

use std::sync::Arc;

use bytes::Bytes;
use hongqiao_cluster::{
    ClusterHandle, Lead, Order, ProposeError, Proposed, ReadError,
    id::{Bucket, ShardId},
};
use tokio::sync::watch;

use super::{
    ask::{Answer, Question},
    command::{self, Command, Page, Reply, RetainedPage},
    machine::ShardMachine,
    query,
};
use crate::{
    clock,
    model::{
        id::{AppId, Epoch, HashKey, Position, SessionKey},
        topic::{TopicFilter, TopicName},
    },
};

/// The shard that gives numbers to apps.
pub const APPS_SHARD: ShardId = ShardId(0);

/// Reads of all shards, wherever they are led. Cheap to clone.
#[derive(Clone)]
pub struct ShardClient {
    cluster: ClusterHandle<ShardMachine>,
    hash_key: HashKey,
    leads: Arc<[watch::Receiver<Lead>]>,
}

impl ShardClient {
    /// Wraps the handle of a running cluster member.
    #[must_use]
    pub fn new(cluster: ClusterHandle<ShardMachine>) -> Self {
        let hash_key = HashKey(cluster.hash_key());
        let shards = (0..cluster.shards()).map(ShardId);
        let leads = shards.map(|shard| cluster.leadership(shard)).collect();
        Self { cluster, hash_key, leads }
    }

    /// Returns the handle.
    #[must_use]
    pub fn cluster(&self) -> &ClusterHandle<ShardMachine> {
        &self.cluster
    }

    /// Returns the secret that keys name hashes.
    #[must_use]
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// Returns the shard of a session.
    #[must_use]
    pub fn session_shard(&self, key: SessionKey) -> ShardId {
        key.bucket().shard(self.cluster.shards())
    }

    /// Returns every shard.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.cluster.shards()).map(ShardId)
    }

    /// Reads on in the queue of a durable session; see [`query::page`].
    ///
    /// # Errors
    /// The inner one when the epoch is not the session's; the outer one when the shard cannot be read.
    pub async fn page(
        &self,
        key: SessionKey,
        epoch: Epoch,
        after: Position,
        limits: query::PageLimits,
    ) -> Result<Result<Page, query::Fenced>, ReadError> {
        let question = Question::Page { key, epoch, after, limits, now_ms: clock::wall_ms() };
        match self.ask(self.session_shard(key), question).await? {
            Answer::Page(page) => Ok(page),
            _ => Err(ReadError::Unavailable),
        }
    }

    /// Reads retained messages of the topics that `filter` matches, in one shard.
    ///
    /// # Errors
    /// The shard cannot be read now.
    pub async fn retained(
        &self,
        shard: ShardId,
        (app, filter): (AppId, TopicFilter),
        after: Option<TopicName>,
        limits: query::PageLimits,
    ) -> Result<RetainedPage, ReadError> {
        let now_ms = clock::wall_ms();
        match self.ask(shard, Question::Retained { app, filter, after, limits, now_ms }).await? {
            Answer::Retained(page) => Ok(page),
            _ => Err(ReadError::Unavailable),
        }
    }

    /// Returns the password hash of a user.
    ///
    /// # Errors
    /// The shard cannot be read now.
    pub async fn user(&self, app: AppId, name: &str) -> Result<Option<String>, ReadError> {
        let question = Question::User { app, name: name.to_owned() };
        match self.ask(self.user_shard(app, name), question).await? {
            Answer::User(hash) => Ok(hash),
            _ => Err(ReadError::Unavailable),
        }
    }

    /// Returns the number of an app.
    ///
    /// # Errors
    /// The shard cannot be read now.
    pub async fn app(&self, name: &str) -> Result<Option<AppId>, ReadError> {
        match self.ask(APPS_SHARD, Question::App { name: name.to_owned() }).await? {
            Answer::App(app) => Ok(app),
            _ => Err(ReadError::Unavailable),
        }
    }

    /// Lists durable members of a shared group, named by its route key, in one shard.
    ///
    /// # Errors
    /// The shard cannot be read now.
    pub async fn group_members(
        &self,
        shard: ShardId,
        key: Bytes,
        after: Option<SessionKey>,
        limit: u32,
    ) -> Result<Vec<SessionKey>, ReadError> {
        match self.ask(shard, Question::Members { key, after, limit }).await? {
            Answer::Members(members) => Ok(members),
            _ => Err(ReadError::Unavailable),
        }
    }

    /// Asks a shard; without encoding where this node leads it.
    async fn ask(&self, shard: ShardId, question: Question) -> Result<Answer, ReadError> {
        if self.leads(shard) {
            let answer = move |machine: &ShardMachine, store: &dyn hongqiao_cluster::Store| {
                question.answer(machine, store)
            };
            return self.cluster.read(shard, answer).await;
        }
        let question = question.encode().map_err(|_| ReadError::Unavailable)?;
        let answer = self.cluster.query(shard, question).await?;
        // Its messages may be held for long; what came over a link shares its memory with more.
        Answer::decode(&Bytes::copy_from_slice(&answer)).map_err(|_| ReadError::Unavailable)
    }

    /// Tells whether this node leads a shard.
    #[must_use]
    pub fn leads(&self, shard: ShardId) -> bool {
        self.leads.get(usize::from(shard.0)).is_some_and(|lead| lead.borrow().here)
    }

    /// Returns the shards that may hold retained messages for `filter`: one for an exact filter.
    #[must_use]
    pub fn retained_shards(&self, app: AppId, filter: &TopicFilter) -> Vec<ShardId> {
        if filter.has_wildcard() {
            return self.shards().collect();
        }
        let hash = self.hash_key.topic(app, filter.as_str());
        vec![Bucket::of(hash).shard(self.cluster.shards())]
    }

    /// Proposes one command and waits for its reply; for the server's own rare changes. Connections use
    /// their worker's appender.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, shard: ShardId, command: Command) -> Result<Reply, ProposeError> {
        let batch = command::encode_batch(&[command]);
        let replies = self.cluster.propose(shard, batch).await?;
        let replies = command::decode_replies(&replies).map_err(|_| ProposeError::Unknown)?;
        replies.into_iter().next().ok_or(ProposeError::Unknown)
    }

    /// Returns the shard of a user.
    #[must_use]
    pub fn user_shard(&self, app: AppId, user: &str) -> ShardId {
        Bucket::of(self.hash_key.user(app, user)).shard(self.cluster.shards())
    }
}

/// Encoded batches go to a shard through here; see `actors::appender`.
impl ShardClient {
    /// Proposes an encoded batch; enqueued by the call itself. `behind`: the order of one whose outcome has
    /// not been seen; if that one fails, so does this.
    pub fn propose_batch(&self, shard: ShardId, batch: Bytes, behind: Option<Order>) -> Proposed {
        self.cluster.propose_behind(shard, batch, behind)
    }
}
