//! Starts the durable side and makes sure that what every node needs is there.
//!
//! - Owns: nothing that stays. Takes: the configuration. Gives: a running [`Cluster`], the numbers of the
//!   apps, and at the first start the demo user's password.
//! - Blocks: opening replays the log; it runs before any worker starts.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use hongqiao_cluster::{
    Cluster, Durability, Options,
    id::{NodeId, ShardId},
};

use super::apps::Apps;
use crate::{
    actors::{facts::Facts, route_tables::RouteTables},
    auth,
    banner::{DEMO_APP, DEMO_USER},
    config::{self, Config},
    shard::{
        client::ShardClient,
        command::{Command, Reply},
        machine::{FactSink, ShardMachine},
    },
};

/// Opens the data folder and starts all shards; facts go to `facts`, routes of the cluster to `tables`.
pub(super) fn start(
    config: &Config,
    facts: &Arc<Facts>,
    tables: &Arc<RouteTables>,
) -> anyhow::Result<Cluster<ShardMachine>> {
    let storage = &config.storage;
    let mut options = Options::new(&storage.data_dir);
    options.node = NodeId(config.cluster.node);
    options.shards = storage.shards;
    options.durability = match storage.durability {
        config::Durability::Disk => Durability::Disk,
        config::Durability::Os => Durability::Os,
    };
    options.threads = config.workers.cluster_threads;
    options.cache_bytes = storage.cache_bytes;
    options.checkpoint_interval = storage.checkpoint_interval;
    options.checkpoint_bytes =
        usize::try_from(storage.checkpoint_bytes).context("storage.checkpoint_bytes")?;
    options.disk_reserve_bytes = storage.disk_reserve_bytes;
    let make = |shard: ShardId| {
        let facts = Arc::clone(facts);
        let sink: FactSink = Arc::new(move |fact| facts.take(shard, fact));
        ShardMachine::new(sink)
    };
    let tables = Arc::clone(tables);
    let take = move |directory: &_, changes: &[_]| tables.take(directory, changes);
    Cluster::start(options, make, Arc::new(take)).context("the data folder cannot be opened")
}

/// Creates the apps that the configuration names.
pub(super) async fn create_apps(config: &Config, apps: &Apps) -> anyhow::Result<()> {
    let mut names: BTreeSet<&str> = config.apps.keys().map(String::as_str).collect();
    names.extend(config.listeners_enabled().map(|(_, listener)| listener.app.as_str()));
    if config.auth.demo_user {
        names.insert(DEMO_APP);
    }
    for name in names {
        apps.create(name).await.with_context(|| format!("app {name} cannot be created"))?;
    }
    Ok(())
}

/// Creates the demo user if there is none; returns its password then, to be shown once.
pub(super) async fn create_demo_user(
    config: &Config,
    shards: &ShardClient,
    apps: &Apps,
) -> anyhow::Result<Option<String>> {
    if !config.auth.demo_user {
        return Ok(None);
    }
    let app = apps.create(DEMO_APP).await?;
    let shard = shards.user_shard(app, DEMO_USER);
    if shards.user(app, DEMO_USER).await?.is_some() {
        return Ok(None);
    }
    let password = auth::generate_password();
    let password_hash = auth::hash_password(password.as_bytes())?;
    let command = Command::PutUser { app, name: DEMO_USER.to_owned(), password_hash };
    match shards.propose(shard, command).await? {
        Reply::Done => Ok(Some(password)),
        reply => anyhow::bail!("unexpected reply to a new user: {reply:?}"),
    }
}
