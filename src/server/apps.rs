//! The apps of this node: names to numbers, and their users.
//!
//! - Owns: a table of numbers, filled from shard 0, which alone gives them.
//! - Takes: names. Gives: numbers; user records for password checks.
//! - Bound: one entry per app.

use std::sync::Arc;

use ahash::AHashMap;
use futures_util::future::BoxFuture;
use hongqiao_cluster::ProposeError;
use parking_lot::RwLock;

use crate::{
    auth::{StoreUnavailable, UserName, UserRecord, UserStore},
    model::id::AppId,
    shard::{
        client::{APPS_SHARD, ShardClient},
        command::{Command, Reply},
        query,
    },
};

/// Names and numbers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Apps {
    shards: ShardClient,
    numbers: Arc<RwLock<AHashMap<String, AppId>>>,
}

impl Apps {
    /// Reads the apps that exist.
    pub(super) async fn load(shards: ShardClient) -> anyhow::Result<Self> {
        let apps = shards.cluster().read(APPS_SHARD, |_, store| query::apps(store)).await?;
        let numbers = apps.into_iter().map(|(app, name)| (name, app)).collect();
        Ok(Self { shards, numbers: Arc::new(RwLock::new(numbers)) })
    }

    /// Returns the number of an app that exists.
    pub(super) fn get(&self, name: &str) -> Option<AppId> {
        self.numbers.read().get(name).copied()
    }

    /// Returns the number of an app; makes it if it does not exist.
    pub(super) async fn create(&self, name: &str) -> Result<AppId, ProposeError> {
        if let Some(app) = self.get(name) {
            return Ok(app);
        }
        let command = Command::CreateApp { name: name.to_owned() };
        match self.shards.propose(APPS_SHARD, command).await? {
            Reply::App(app) => {
                self.numbers.write().insert(name.to_owned(), app);
                Ok(app)
            }
            _ => Err(ProposeError::Unknown),
        }
    }

    /// Creates a user, or changes its password.
    pub(super) async fn put_user(
        &self,
        name: &UserName,
        password_hash: String,
    ) -> Result<(), ProposeError> {
        let app = self.create(name.app()).await?;
        let shard = self.shards.user_shard(app, name.user());
        let command = Command::PutUser { app, name: name.user().to_owned(), password_hash };
        self.shards.propose(shard, command).await.map(|_| ())
    }
}

impl UserStore for Apps {
    fn find(
        &self,
        name: &UserName,
    ) -> BoxFuture<'static, Result<Option<UserRecord>, StoreUnavailable>> {
        let Some(app) = self.get(name.app()) else { return Box::pin(async { Ok(None) }) };
        let (shards, user) = (self.shards.clone(), name.user().to_owned());
        Box::pin(async move {
            let hash = shards.user(app, &user).await.map_err(|_| StoreUnavailable)?;
            Ok(hash.map(|password_hash| UserRecord { app, password_hash }))
        })
    }
}
