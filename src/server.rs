//! The composition root: starts cluster, actors and fronts, and stops them in reverse.
//!
//! - Owns: everything that runs. Takes: a validated [`Config`]. Gives: nothing back until stopped.
//! - Bound: `shutdown.drain_timeout` from SIGTERM to the return.
//!
//! ```text
//! start: shards ─► apps, users ─► workers and their actors ─► listeners ─► banner
//! stop:  listeners ─► leads handed over ─► clients are told, sessions released ─► workers ─► shards (last checkpoint)
//! ```

mod boot;
mod apps;
mod workers;
mod homes;
mod listeners;
mod api;
mod peering;
mod report;
mod orders;
pub mod recovery;
mod standing;
mod timekeeper;
mod drain;
mod departure;

use std::{
    cell::Cell,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::{
    apps::Apps,
    standing::Standing,
    timekeeper::Timekeeper,
    workers::{Shared, Workers},
};
use crate::{
    actors::{
        cluster_port::ClusterPort,
        facts::Facts,
        publish::{AppQuota, AppQuotas, Beyond},
        relay::Relay,
        route_tables::RouteTables,
    },
    auth::{PasswordUsers, Verifier},
    banner,
    config::{Config, Drop, Quotas},
    data_folder::DataFolder,
    front::ws::port::PortSettings,
    http::{AdminToken, HttpState},
    shard::{client::ShardClient, command::Quota},
};

/// Runs one node until it is told to stop.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let facts = Facts::new(config.storage.shards);
    let (cluster, tables) = boot::start(config, &facts)?;
    let shards = ShardClient::new(cluster.handle());
    let handle = cluster.handle();
    let ran = actix::System::new().block_on(async {
        let booted = Cell::new(false);
        tokio::select! {
            ran = serve(config, shards, facts, tables, &booted) => ran,
            // Later `serve` itself sees to it, with its clients.
            () = departure::removed_before(&handle, &booted) => departure::refuse(&handle),
        }
    });
    cluster.shutdown();
    ran
}

async fn serve(
    config: &Config,
    shards: ShardClient,
    facts: Arc<Facts>,
    tables: Arc<RouteTables>,
    booted: &Cell<bool>,
) -> anyhow::Result<()> {
    peering::wait_for_membership(shards.cluster()).await;
    let apps = Apps::load(shards.clone()).await;
    boot::create_apps(config, &apps).await?;
    let demo_password = boot::create_demo_user(config, &shards, &apps).await?;
    let prepared = listeners::bind(config, &apps, worker_threads(config))?;
    let shared = shared(config, &shards, &apps, &facts, tables)?;
    // Before there is any deadline to keep.
    Timekeeper::start(&shared).await;
    let workers = Workers::start(worker_threads(config), &shared).await?;
    let cluster = shards.cluster().clone();
    let hubs = workers.hubs.iter().map(|hub| hub.clone().recipient()).collect();
    actix_rt::spawn(drain::end_released_clients(shared.view.clone(), hubs));
    let (stopping, admin_token) = (Arc::new(AtomicBool::new(false)), AdminToken::generate());
    let api = api::Api {
        standing: Standing::watch(shards.cluster()),
        shards,
        apps,
        counters: workers.counters.clone(),
        beyond: shared.beyond.clone(),
        facts,
        stopping: Arc::clone(&stopping),
        backing_up: Arc::default(),
        totals: Arc::default(),
    };
    let http_state = HttpState {
        node: Arc::new(api),
        admin_token: admin_token.clone(),
        body_bytes_max: config.http.body_bytes_max,
    };
    peering::wait_for_routes(&shared.beyond.tables).await;
    let listening = listeners::listening(&prepared);
    let folder = DataFolder::new(&config.storage.data_dir);
    let (stop, stopped) = watch::channel(false);
    let settings = PortSettings::new(config.http.request_timeout);
    listeners::accept(prepared, &workers.arbiters, &http_state, settings, &stopped).await?;
    say(&banner::text(config, &listening, demo_password.as_deref()));
    // Last, because scripts wait for these files.
    folder.announce(&listening, admin_token.secret())?;
    booted.set(true);
    let departed = departure::due_or(wait_for_signal(), &cluster).await?;
    let has_left = departed.is_some();
    tracing::info!(has_left, "stopping: no new connections, clients are told");
    stopping.store(true, Ordering::Relaxed);
    let _ = stop.send(true);
    drain::leave(&cluster, &workers, config.shutdown.drain_timeout).await;
    folder.withdraw();
    workers.stop();
    departure::end(&cluster, departed).await
}

/// What all workers share.
fn shared(
    config: &Config,
    shards: &ShardClient,
    apps: &Apps,
    facts: &Arc<Facts>,
    tables: Arc<RouteTables>,
) -> anyhow::Result<Shared> {
    let (beyond, view) = (beyond(shards, tables), peering::view(shards.cluster()));
    Ok(Shared {
        shards: shards.clone(),
        peers: peering::peers(shards.cluster()),
        far: workers::far(shards, &beyond, &view),
        view,
        facts: Arc::clone(facts),
        beyond,
        quotas: Arc::new(quotas(config, apps)),
        authenticator: Arc::new(PasswordUsers::new(Arc::new(apps.clone()), Verifier::start()?)),
        limits: listeners::link_limits(config),
    })
}

/// What publishing needs to know of other nodes.
fn beyond(shards: &ShardClient, tables: Arc<RouteTables>) -> Beyond {
    let port = Arc::new(ClusterPort(shards.cluster().clone()));
    let boot = shards.cluster().incarnation();
    let relay = Relay::new(boot, Arc::clone(&port) as _, Arc::clone(&tables));
    Beyond { tables, relay, meta: port, live: Arc::default() }
}

/// Prints for people. A closed standard output is no reason to stop.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Waits for SIGTERM or SIGINT.
async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// One core is left to consensus, storage and the kernel's half of networking. On two cores a second
/// worker costs more in wakes between threads than it gives (ARCHITECTURE.md, "Worker threads").
fn worker_threads(config: &Config) -> usize {
    match config.workers.threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().max(2) - 1),
        threads => threads,
    }
}

/// What apps may store, over all shards.
fn quotas(config: &Config, apps: &Apps) -> AppQuotas {
    let common = app_quota(&config.quotas);
    let special = config
        .apps
        .keys()
        .filter_map(|name| Some((apps.get(name)?, app_quota(&config.quotas_of(name)))));
    AppQuotas { common, special: special.collect() }
}

fn app_quota(quotas: &Quotas) -> AppQuota {
    AppQuota {
        quota: Quota {
            session_messages_max: quotas.session_messages_max,
            session_bytes_max: quotas.session_bytes_max,
            app_bytes_max: quotas.app_bytes_max,
            drop_oldest: quotas.drop == Drop::Oldest,
        },
        retained_messages_max: quotas.retained_messages_max,
        retained_bytes_max: quotas.retained_bytes_max,
    }
}
