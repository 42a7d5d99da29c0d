//! The composition root: starts cluster, actors and fronts, and stops them in reverse.
//!
//! - Owns: everything that runs. Takes: a validated [`Config`]. Gives: nothing back until stopped.
//! - Bound: `shutdown.drain_timeout` from SIGTERM to the return, however far the start is.
//!
//! ```text
//! start: signals ─► HTTP answers probes ─► shards ─► apps, users ─► workers and their actors ─► listeners ─► banner
//! stop:  no new clients ─► leads handed over ─► clients are told, sessions released ─► HTTP ─► workers
//!        ─► shards (last checkpoint)
//! ```

mod signals;
mod early;
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
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hongqiao_cluster::{Cluster, ClusterHandle};
use tokio::sync::watch;

use self::{
    apps::Apps,
    early::Early,
    listeners::HttpBound,
    signals::Told,
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
    front::ws::port::{Phase, PortSettings},
    http::{AdminToken, HttpState},
    limits,
    shard::{client::ShardClient, command::Quota, machine::ShardMachine},
};

pub use crate::banner::Form;

/// Runs one node until it is told to stop; prints where it serves in this form.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(config: &Config, form: Form) -> anyhow::Result<()> {
    let mut running = None;
    let ran = actix::System::new().block_on(live(config, form, &mut running));
    if let Some(cluster) = running {
        cluster.shutdown();
    }
    ran
}

/// From the start to the last client; the durable side goes on in `running`, until the caller ends it.
async fn live(
    config: &Config,
    form: Form,
    running: &mut Option<Cluster<ShardMachine>>,
) -> anyhow::Result<()> {
    // First of all: whoever waits for a cluster, or leads in it already, ends in order, too.
    let told = signals::listen()?;
    let http = listeners::bind_http(config, worker_threads(config))?;
    let early = Early::open(&http, PortSettings::new(config.http.request_timeout))?;
    early.waits_for(boot::waits_for(config));
    let facts = Facts::new(config.storage.shards);
    let Some((cluster, tables)) = boot::start(config, &facts, &told).await? else { return Ok(()) };
    let handle = cluster.handle();
    *running = Some(cluster);
    let shards = ShardClient::new(handle.clone());
    let started = tokio::select! {
        biased;
        () = signals::heard(&told) => {
            tracing::info!("told to stop before clients were let in");
            early.waits_for("the node is stopping");
            Ok(None)
        }
        () = departure::removed(&handle) => departure::refuse(&handle).map(|()| None),
        serving = start(config, form, shards, facts, tables, (http, &early)) => serving.map(Some),
    };
    match started {
        Ok(Some(serving)) => serving.until_told(config, form, &told).await,
        ended => {
            // It may lead, and others may wait for it.
            drain::leave(&handle, &[], config.shutdown.drain_timeout).await;
            ended.map(drop)
        }
    }
}

/// A node that lets clients in.
struct Serving {
    cluster: ClusterHandle<ShardMachine>,
    workers: Workers,
    folder: DataFolder,
    /// What the control plane says of itself.
    stopping: Arc<AtomicBool>,
    /// Of the listeners.
    phase: watch::Sender<Phase>,
}

async fn start(
    config: &Config,
    form: Form,
    shards: ShardClient,
    facts: Arc<Facts>,
    tables: Arc<RouteTables>,
    (http, early): (HttpBound, &Early),
) -> anyhow::Result<Serving> {
    early.waits_for("this node is no member of its cluster yet");
    peering::wait_for_membership(shards.cluster()).await;
    early.waits_for("the shards of apps and users have no leader yet");
    let apps = Apps::load(shards.clone()).await;
    boot::create_apps(config, &apps).await?;
    let demo_password = boot::create_demo_user(config, &shards, &apps).await?;
    early.waits_for("the worker threads are starting");
    let shared = shared(config, &shards, &apps, &facts, tables)?;
    // Before there is any deadline to keep.
    Timekeeper::start(&shared).await;
    let workers = Workers::start(worker_threads(config), &shared).await?;
    let cluster = shards.cluster().clone();
    let hubs = workers.hubs.iter().map(|hub| hub.clone().recipient()).collect();
    actix_rt::spawn(drain::end_released_clients(shared.view.clone(), hubs));
    let (stopping, admin_token) = (Arc::new(AtomicBool::new(false)), AdminToken::generate());
    let api = api::Api {
        standing: Standing::watch(shards.cluster(), &shared.view),
        shards,
        apps: apps.clone(),
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
    early.waits_for("other nodes have not told all their routes yet");
    peering::wait_for_routes(&shared.beyond.tables).await;
    let prepared = listeners::bind(config, &apps, worker_threads(config), http)?;
    let listening = listeners::listening(&prepared);
    let folder = DataFolder::new(&config.storage.data_dir);
    let (phase, follow) = watch::channel(Phase::Open);
    let settings = PortSettings::new(config.http.request_timeout);
    early.leave();
    listeners::accept(prepared, &workers.arbiters, &http_state, settings, &follow).await?;
    let node = cluster.node().0;
    say(&banner::running(form, node, config, &listening, demo_password.as_deref()));
    // Last, because scripts wait for these files.
    folder.announce(&listening, admin_token.secret())?;
    Ok(Serving { cluster, workers, folder, stopping, phase })
}

impl Serving {
    /// Serves until the operator or the cluster ends it, and leaves in order.
    async fn until_told(self, config: &Config, form: Form, told: &Told) -> anyhow::Result<()> {
        let Self { cluster, workers, folder, stopping, phase } = self;
        let departed = departure::due_or(signals::heard(told), &cluster).await;
        let has_left = departed.is_some();
        tracing::info!(has_left, "stopping: no new connections, clients are told");
        stopping.store(true, Ordering::Relaxed);
        // Probes hear of it as long as it takes; clients are not let in any more.
        phase.send_replace(Phase::Away);
        drain::leave(&cluster, &workers.hubs, config.shutdown.drain_timeout).await;
        folder.withdraw();
        phase.send_replace(Phase::Ended);
        // Until the last request is answered; nobody else follows the phase.
        let _ = tokio::time::timeout(limits::HTTP_LINGER, phase.closed()).await;
        workers.stop();
        departure::end(&cluster, departed, form).await
    }
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
