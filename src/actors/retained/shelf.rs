//! Where retained messages are read, and where copies of them are stored.
//!
//! - Takes: places in a shard, copies for a session's log. Gives: pages; whether copies are stored.
//! - Bound: none of its own: a page as the caller wants it, one command for a page.
//! - Tests have a shelf of their own, which may fail.

use actix::Addr;
use hongqiao_cluster::{ReadError, id::ShardId};

use super::PAGE;
use crate::{
    actors::{
        appender::{Appender, Submit, SubmitError},
        upkeep::Local,
    },
    model::{
        id::{AppId, SessionKey},
        topic::{TopicFilter, TopicName},
    },
    shard::{
        client::ShardClient,
        command::{Command, Reply, RetainedPage},
    },
};

/// See the file header.
pub trait Shelf {
    /// Returns the shards that may hold what `filter` matches.
    fn shards_of(&self, app: AppId, filter: &TopicFilter) -> Vec<ShardId>;

    /// Reads the next page of one shard.
    fn read(
        &self,
        shard: ShardId,
        scope: (AppId, TopicFilter),
        after: Option<TopicName>,
    ) -> Local<Result<RetainedPage, ReadError>>;

    /// Has the shard of a session carry out a command.
    fn store(&self, session: SessionKey, command: Command) -> Local<Result<Reply, SubmitError>>;
}

/// The shards, wherever they are led.
pub struct NodeShelf {
    /// Reads.
    pub shards: ShardClient,
    /// Of this worker.
    pub appender: Addr<Appender>,
}

impl Shelf for NodeShelf {
    fn shards_of(&self, app: AppId, filter: &TopicFilter) -> Vec<ShardId> {
        self.shards.retained_shards(app, filter)
    }

    fn read(
        &self,
        shard: ShardId,
        scope: (AppId, TopicFilter),
        after: Option<TopicName>,
    ) -> Local<Result<RetainedPage, ReadError>> {
        let shards = self.shards.clone();
        Box::pin(async move { shards.retained(shard, scope, after, PAGE).await })
    }

    fn store(&self, session: SessionKey, command: Command) -> Local<Result<Reply, SubmitError>> {
        let shard = self.shards.session_shard(session);
        let stored = self.appender.send(Submit { shard, command });
        Box::pin(async move { stored.await.unwrap_or(Err(SubmitError::Unavailable)) })
    }
}
