//! The apps of this node: names to numbers, and their users.
//!
//! - Owns: a table of numbers, filled from shard 0, which alone gives them. They never change.
//! - Takes: names. Gives: numbers; user records for password checks.
//! - Bound: one entry per app that exists; `limits::APP_LOOKUPS_MAX` questions about others at a time.

use std::sync::Arc;

use ahash::AHashMap;
use futures_util::future::BoxFuture;
use hongqiao_cluster::ProposeError;
use parking_lot::RwLock;
use tokio::sync::Semaphore;

use crate::{
    auth::{StoreUnavailable, UserName, UserRecord, UserStore},
    limits,
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
    lookups: Arc<Semaphore>,
}

impl Apps {
    /// Reads the apps that exist, where this node leads their shard; else they are asked for one by one.
    pub(super) async fn load(shards: ShardClient) -> Self {
        let apps = shards.cluster().read(APPS_SHARD, |_, store| query::apps(store)).await;
        let numbers = apps.unwrap_or_default().into_iter().map(|(app, name)| (name, app)).collect();
        let lookups = Arc::new(Semaphore::new(limits::APP_LOOKUPS_MAX));
        Self { shards, numbers: Arc::new(RwLock::new(numbers)), lookups }
    }

    /// Returns the number of an app that any node may have made.
    async fn find_app(&self, name: &str) -> Result<Option<AppId>, StoreUnavailable> {
        if let Some(app) = self.get(name) {
            return Ok(Some(app));
        }
        let _turn = self.lookups.try_acquire().map_err(|_| StoreUnavailable)?;
        let app = self.shards.app(name).await.map_err(|_| StoreUnavailable)?;
        if let Some(app) = app {
            self.numbers.write().insert(name.to_owned(), app);
        }
        Ok(app)
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
        let (apps, name) = (self.clone(), name.clone());
        Box::pin(async move {
            let Some(app) = apps.find_app(name.app()).await? else { return Ok(None) };
            let hash = apps.shards.user(app, name.user()).await.map_err(|_| StoreUnavailable)?;
            Ok(hash.map(|password_hash| UserRecord { app, password_hash }))
        })
    }
}
