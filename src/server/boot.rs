//! Starts the durable side and makes sure that what every node needs is there.
//!
//! - Owns: nothing that stays. Takes: the configuration. Gives: a running [`Cluster`], the numbers of the
//!   apps, and at the first start the demo user's password.
//! - Blocks: opening replays the log, and may wait for a member: on a thread of its own, before any worker starts.

use std::{cell::OnceCell, collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use hongqiao_cluster::{
    Cluster, Durability, MetaSink, Options, Peering, ReadError, Secret, StartError,
    id::{NodeId, ShardId},
};

use tokio::sync::oneshot;

use super::{
    apps::Apps,
    signals::{self, Told},
};
use crate::{
    actors::{facts::Facts, route_tables::RouteTables},
    auth,
    banner::{DEMO_APP, DEMO_USER},
    clock,
    config::{self, Config},
    limits,
    shard::{
        client::ShardClient,
        command::{Command, Reply},
        machine::{FactSink, ShardMachine},
    },
};

/// What a start may wait for before it has shards, for people.
pub(super) fn waits_for(config: &Config) -> &'static str {
    if config.cluster.join.is_empty() {
        "the data folder is being opened"
    } else {
        "the data folder is being opened, or no member of its cluster has let this node in yet"
    }
}

/// The durable side, and the tables of what the directory says of routes.
pub(super) type Started = (Cluster<ShardMachine>, Arc<RouteTables>);

/// Opens the data folder and starts all shards, on a thread of its own: that may wait for a member, and signals
/// are heard meanwhile. `None`: the node was told to stop before there was anything to end.
pub(super) async fn start(
    config: &Config,
    facts: &Arc<Facts>,
    told: &Told,
) -> anyhow::Result<Option<Started>> {
    let (tell, mut started) = oneshot::channel();
    let (own, facts, given_up) = (config.clone(), Arc::clone(facts), told.clone());
    let work = move || drop(tell.send(open(&own, &facts, given_up)));
    std::thread::Builder::new().name("boot".into()).spawn(work).context("no thread to start on")?;
    let too_late = async {
        signals::heard(told).await;
        tokio::time::sleep(config.shutdown.drain_timeout).await;
    };
    let started = tokio::select! {
        biased;
        started = &mut started => started.context("the start broke off")?,
        () = too_late => {
            tracing::warn!("the data folder is still being opened; it is left as by a crash");
            return Ok(None);
        }
    };
    match started {
        Err(error) if matches!(error.downcast_ref(), Some(StartError::GivenUp)) => Ok(None),
        other => other.map(Some),
    }
}

/// Facts go to `facts`, routes of the cluster to the tables that it gives back.
fn open(config: &Config, facts: &Arc<Facts>, given_up: Told) -> anyhow::Result<Started> {
    let storage = &config.storage;
    let mut options = Options::new(&storage.data_dir);
    options.node = NodeId(config.cluster.node);
    options.replaces = Some(NodeId(config.cluster.replaces)).filter(|node| *node != NodeId::NONE);
    options.founds_with = config.cluster.founds_with(&host_name());
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
    options.client_addr = config.cluster.client_address.clone();
    options.peering = peering(&config.cluster);
    options.given_up = Some(given_up);
    let make = |shard: ShardId| {
        let facts = Arc::clone(facts);
        let sink: FactSink = Arc::new(move |fact| facts.take(shard, fact));
        ShardMachine::new(sink)
    };
    let mut known = None;
    let sink = |node| {
        let tables = Arc::clone(known.insert(RouteTables::new(node)));
        let take = move |directory: &_, changes: &[_]| tables.take(directory, changes);
        Arc::new(take) as MetaSink
    };
    let started = Cluster::start_known(options, make, sink);
    let cluster = started.context("the data folder cannot be opened")?;
    let tables = known.context("the node has no tables")?;
    Ok((cluster, tables))
}

/// The name of this machine; in a container that of the container, in Kubernetes that of the pod.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}

fn peering(cluster: &config::Cluster) -> Option<Peering> {
    Some(Peering {
        listen: cluster.listen?,
        advertise: cluster.advertised()?,
        secret: Secret::new(cluster.secret.bytes()),
        join: cluster.join.clone(),
    })
}

/// Tries until the cluster takes it: while it starts, shards have no leader yet.
async fn patiently<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = anyhow::Result<T>>,
{
    let (start, mut said) = (clock::now(), 0);
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => {
                let due = start.elapsed().as_secs() / limits::BOOT_SAYS_EVERY.as_secs();
                if due > said {
                    said = due;
                    tracing::warn!(%error, "waiting for the cluster: {what}");
                }
            }
        }
        tokio::time::sleep(limits::HOME_RETRY).await;
    }
}

/// Creates the apps that the configuration names.
pub(super) async fn create_apps(config: &Config, apps: &Apps) -> anyhow::Result<()> {
    let mut names: BTreeSet<&str> = config.apps.keys().map(String::as_str).collect();
    names.extend(config.listeners_enabled().map(|(_, listener)| listener.app.as_str()));
    if config.auth.demo_user {
        names.insert(DEMO_APP);
    }
    for name in names {
        let create = || async move { Ok(apps.create(name).await?) };
        if config.cluster.listen.is_some() {
            patiently("apps cannot be created", create).await;
        } else {
            create().await.with_context(|| format!("app {name} cannot be created"))?;
        }
    }
    Ok(())
}

/// Whether this node is the one that makes the cluster, if there is none.
fn makes_cluster(config: &Config) -> bool {
    config.cluster.join.is_empty() || config.cluster.founds_with(&host_name()).is_some()
}

/// Creates the demo user if there is none; returns its password then, to be shown once.
pub(super) async fn create_demo_user(
    config: &Config,
    shards: &ShardClient,
    apps: &Apps,
) -> anyhow::Result<Option<String>> {
    // One node makes it: the one that makes the cluster.
    if !(config.auth.demo_user && makes_cluster(config)) {
        return Ok(None);
    }
    let demo = DemoUser::default();
    if config.cluster.listen.is_none() {
        let start = clock::now();
        loop {
            match demo.make(shards, apps).await {
                // Where the disk is slow a shard leads itself a moment later than the one of the apps.
                Err(error)
                    if error.is::<ReadError>() && start.elapsed() < limits::BOOT_SAYS_EVERY =>
                {
                    tokio::time::sleep(limits::HOME_RETRY).await;
                }
                made => return made,
            }
        }
    }
    let make = || demo.make(shards, apps);
    Ok(patiently("the demo user cannot be created", make).await)
}

/// A user that may have to be made more than once: nobody knows whether an attempt failed.
#[derive(Default)]
struct DemoUser {
    /// Password and hash, once it was clear that there is no such user.
    new: OnceCell<(String, String)>,
}

impl DemoUser {
    /// Returns the password of the new user; `None` if there was one before.
    async fn make(&self, shards: &ShardClient, apps: &Apps) -> anyhow::Result<Option<String>> {
        let app = apps.create(DEMO_APP).await?;
        if self.new.get().is_none() {
            if shards.user(app, DEMO_USER).await?.is_some() {
                return Ok(None);
            }
            let password = auth::generate_password();
            let hash = auth::hash_password(password.as_bytes())?;
            let _ = self.new.set((password, hash));
        }
        let Some((password, hash)) = self.new.get() else { return Ok(None) };
        let (name, password_hash) = (DEMO_USER.to_owned(), hash.clone());
        let command = Command::PutUser { app, name, password_hash };
        match shards.propose(shards.user_shard(app, DEMO_USER), command).await? {
            Reply::Done => Ok(Some(password.clone())),
            reply => anyhow::bail!("unexpected reply to a new user: {reply:?}"),
        }
    }
}
