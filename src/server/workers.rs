//! Starts the worker threads and their actors, in three rounds, because they know each other.
//!
//! - Owns: the arbiters. Takes: the durable side and the configuration. Gives: addresses to the
//!   listeners and to the control plane.
//! - Rounds: routers, hubs and appenders; then groups; then homes and upkeeps, and the connections'
//!   backend.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::{Actor as _, Addr, Arbiter, Recipient};
use anyhow::Context as _;
use hongqiao_cluster::id::ShardId;
use tokio::sync::oneshot;

use crate::{
    actors::{
        appender::{Appender, SubmitError},
        cluster_port::ClusterPort,
        connection::{
            backend::{self, PageError},
            node::{Node, RetainedCopies},
        },
        counters::Counters,
        facts::Facts,
        groups::{self, GroupKey, GroupTable, Groups, Join, Member, MemberKey},
        home::{self, Claim, Home, Release},
        hub::Hub,
        interest::Interests,
        live_routes::LiveRoutes,
        peer::{Desks, Peers},
        publish::{AppQuotas, Beyond, Publisher, Targets},
        redispatch::{Moved, Mover, ReadOrphan},
        relay::Arrivals,
        retained,
        suback_barrier::SubackBarrier,
        topic_router::TopicRouter,
        upkeep::{self, Meet, Upkeep},
        worker::{LinkLimits, Worker, WorkerConfig},
    },
    auth::Authenticator,
    clock,
    front::mqtt,
    limits,
    model::{id::SessionKey, topic::TopicFilter},
    shard::{client::ShardClient, command::StoredSubscription, query},
};

/// Sessions or members that are read from a shard at once while starting.
const LOAD_PAGE: usize = 1_024;

/// What all workers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) shards: ShardClient,
    pub(super) facts: Arc<Facts>,
    pub(super) beyond: Beyond,
    pub(super) live_routes: Arc<LiveRoutes>,
    pub(super) quotas: Arc<AppQuotas>,
    pub(super) authenticator: Arc<dyn Authenticator>,
    /// By listener.
    pub(super) limits: Vec<LinkLimits>,
}

/// The running workers.
pub(super) struct Workers {
    pub(super) arbiters: Vec<Arbiter>,
    pub(super) hubs: Vec<Addr<Hub>>,
    pub(super) counters: Vec<Arc<Counters>>,
}

/// The actors of the first round.
struct First {
    router: Addr<TopicRouter>,
    hub: Addr<Hub>,
    appender: Addr<Appender>,
}

/// The homes of one worker.
struct Homes {
    claim: Vec<(ShardId, Recipient<Claim>)>,
    release: Vec<(ShardId, Recipient<Release>)>,
}

/// Runs `make` on an arbiter and waits for what it returns.
pub(super) async fn on<T: Send + 'static>(
    arbiter: &Arbiter,
    make: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let (tx, rx) = oneshot::channel();
    arbiter.spawn_fn(move || {
        let _ = tx.send(make());
    });
    rx.await.context("a worker thread ended while starting")
}

impl Workers {
    /// Starts `count` workers.
    pub(super) async fn start(count: usize, shared: &Shared) -> anyhow::Result<Self> {
        let arbiters: Vec<_> = (0..count).map(|_| Arbiter::new()).collect();
        let counters: Vec<_> = (0..count).map(|_| Arc::<Counters>::default()).collect();
        let interests = Interests::new(count);
        let mut first = Vec::new();
        for (index, arbiter) in arbiters.iter().enumerate() {
            let config = WorkerConfig {
                index: u8::try_from(index).context("workers.threads")?,
                fronts: mqtt::fronts(),
                limits: shared.limits.clone(),
                interests: interests.clone(),
                live_routes: Arc::clone(&shared.live_routes),
                counters: Arc::clone(&counters[index]),
            };
            let (shards, facts) = (shared.shards.clone(), Arc::clone(&shared.facts));
            first.push(on(arbiter, move || start_first(config, shards, facts)).await??);
        }
        let table = Arc::<GroupTable>::default();
        let groups = start_groups(&arbiters, &first, &table, shared).await?;
        let targets = Targets {
            routers: first.iter().map(|first| first.router.clone()).collect(),
            groups: groups.clone(),
            interests,
            facts: Arc::clone(&shared.facts),
            group_table: table,
            hash_key: shared.shards.hash_key(),
            shards: shared.shards.cluster().shards(),
            quotas: Arc::clone(&shared.quotas),
            beyond: shared.beyond.clone(),
        };
        let barrier = start_routes(&arbiters, &first, &targets, shared);
        // Before anything is published: by then every group has its members.
        join_durable_members(&groups, shared).await?;
        let homes = start_homes(&arbiters, &first, &targets, shared).await?;
        for (arbiter, first) in arbiters.iter().zip(&first) {
            let (targets, shared) = (targets.clone(), shared.clone());
            let (router, appender) = (first.router.clone(), first.appender.clone());
            let (claim, release) = (homes.claim.clone(), homes.release.clone());
            let barrier = Some(Arc::clone(&barrier));
            let install = move || {
                let publisher = Rc::new(Publisher::new(targets.clone(), appender.clone()));
                let node = connection_node(&targets, &shared, (router, appender), publisher);
                let (claim, release) = (by_shard(claim), by_shard(release));
                let node = Node { claim, release, barrier, ..node };
                backend::install(Box::new(Rc::new(node)));
                Worker::with(|worker| worker.set_groups(targets.groups));
            };
            on(arbiter, install).await?;
        }
        let hubs = first.into_iter().map(|first| first.hub).collect();
        Ok(Self { arbiters, hubs, counters })
    }
}

fn by_shard<T>(mut list: Vec<(ShardId, T)>) -> Vec<T> {
    list.sort_by_key(|(shard, _)| *shard);
    list.into_iter().map(|(_, each)| each).collect()
}

fn start_first(
    config: WorkerConfig,
    shards: ShardClient,
    facts: Arc<Facts>,
) -> anyhow::Result<First> {
    let (worker, router) = Worker::start(config)?;
    let hub = Hub::new(worker).start();
    let count = shards.cluster().shards();
    let propose = Rc::new(move |shard, batch| {
        let proposed = shards.propose_batch(shard, batch);
        Box::pin(async move { proposed.await.map_err(SubmitError::from) }) as _
    });
    let appender = Appender::new(count, propose, facts).start();
    Ok(First { router, hub, appender })
}

/// Starts what tells other nodes of subscribers here, and takes what they send.
fn start_routes(
    arbiters: &[Arbiter],
    first: &[First],
    targets: &Targets,
    shared: &Shared,
) -> Arc<SubackBarrier> {
    let port = ClusterPort(shared.shards.cluster().clone());
    let meta = Arc::clone(&shared.beyond.meta);
    let routers = first.iter().map(|first| first.router.clone().recipient()).collect();
    actix_rt::spawn(Arc::clone(&shared.live_routes).run(Arc::clone(&meta), routers));
    let durable = Arc::clone(&shared.facts.durable_routes);
    for shard in shared.shards.shards() {
        let leads = Arc::new(port.clone());
        actix_rt::spawn(Arc::clone(&durable).run(shard, Arc::clone(&meta), leads));
    }
    // What one node sends is handed on by one thread; the second worker has less to do than the first.
    let handles: Vec<_> = arbiters.iter().map(Arbiter::handle).collect();
    let next = AtomicUsize::new(handles.len().saturating_sub(1));
    let spawn = Box::new(move |task| {
        let at = next.fetch_add(1, Ordering::Relaxed) % handles.len();
        if let Some(handle) = handles.get(at) {
            handle.spawn(task);
        }
    });
    let routers = targets.routers.clone();
    let tables = Arc::clone(&shared.beyond.tables);
    let arrivals = Arrivals::new(routers, targets.interests.clone(), Arc::clone(&tables), spawn);
    let desks = Desks {
        kick: first.iter().map(|first| first.hub.clone().recipient()).collect(),
        grew: first.iter().map(|first| first.hub.clone().recipient()).collect(),
        durable_routes: Arc::clone(&durable),
        arrivals,
    };
    port.0.set_service(Arc::new(desks));
    let (me, leads) = (port.0.node(), port.clone());
    Arc::new(SubackBarrier {
        me,
        live: Arc::clone(&shared.live_routes),
        durable,
        tables,
        peers: Peers::new(Arc::new(port)),
        leader_of: Box::new(move |shard| leads.leader_of(shard)),
    })
}

async fn start_groups(
    arbiters: &[Arbiter],
    first: &[First],
    table: &Arc<GroupTable>,
    shared: &Shared,
) -> anyhow::Result<Vec<Addr<Groups>>> {
    let mut groups = Vec::new();
    for (arbiter, own) in arbiters.iter().zip(first) {
        let neighbours = groups::Neighbours {
            routers: first.iter().map(|first| first.router.clone().recipient()).collect(),
            submit: own.appender.clone().recipient(),
            shards: shared.shards.cluster().shards(),
            quotas: Arc::clone(&shared.quotas),
        };
        let table = Arc::clone(table);
        groups.push(on(arbiter, move || Groups::new(table, neighbours).start()).await?);
    }
    Ok(groups)
}

/// Starts the home and the upkeep of every shard; shards are dealt to the workers in turn.
async fn start_homes(
    arbiters: &[Arbiter],
    first: &[First],
    targets: &Targets,
    shared: &Shared,
) -> anyhow::Result<Homes> {
    let mut homes = Homes { claim: Vec::new(), release: Vec::new() };
    let hubs: Vec<_> = first.iter().map(|first| first.hub.clone()).collect();
    for shard in shared.shards.shards() {
        let at = usize::from(shard.0) % arbiters.len();
        let durable = durable_sessions(&shared.shards, shard).await?;
        let (shared, targets, hubs) = (shared.clone(), targets.clone(), hubs.clone());
        let appender = first[at].appender.clone();
        let start = move || start_home(shard, durable, &shared, &targets, &hubs, &appender);
        let home = on(&arbiters[at], start).await?;
        homes.claim.push((shard, home.clone().recipient()));
        homes.release.push((shard, home.recipient()));
    }
    Ok(homes)
}

fn start_home(
    shard: ShardId,
    durable: Vec<SessionKey>,
    shared: &Shared,
    targets: &Targets,
    hubs: &[Addr<Hub>],
    appender: &Addr<Appender>,
) -> Addr<Home> {
    let groups: Vec<_> = targets.groups.iter().map(|each| each.clone().recipient()).collect();
    let upkeep = upkeep_neighbours(shard, shared, targets, appender, groups.clone());
    let upkeep = Upkeep::new(shard, upkeep).start();
    let neighbours = home::Neighbours {
        kick: hubs.iter().map(|hub| hub.clone().recipient()).collect(),
        grew: hubs.iter().map(|hub| hub.clone().recipient()).collect(),
        submit: appender.clone().recipient(),
        look: upkeep.clone().recipient(),
        groups,
    };
    let cluster = shared.shards.cluster();
    let who = (cluster.node().0, cluster.incarnation());
    let home = Home::new(shard, who, durable, neighbours, shared.facts.news(shard)).start();
    let meet = upkeep.send(Meet(home.clone().recipient()));
    actix_rt::spawn(meet);
    home
}

fn upkeep_neighbours(
    shard: ShardId,
    shared: &Shared,
    targets: &Targets,
    appender: &Addr<Appender>,
    groups: Vec<Recipient<groups::SessionsGone>>,
) -> upkeep::Neighbours {
    let publisher = Rc::new(Publisher::new(targets.clone(), appender.clone()));
    let shards = shared.shards.clone();
    let holders = shared.shards.cluster().clone();
    let start = (holders.node().0, holders.incarnation());
    upkeep::Neighbours {
        submit: appender.clone().recipient(),
        groups,
        mover: mover(shard, shared, targets, appender),
        start,
        held_before: Rc::new(move |after| {
            let cluster = holders.clone();
            Box::pin(async move {
                let limit = limits::STALE_SESSIONS_LOOKED;
                let ask = move |machine: &_, _: &dyn hongqiao_cluster::Store| {
                    query::held_before(machine, start, after, limit)
                };
                cluster.read(shard, ask).await.ok()
            })
        }),
        is_due: Rc::new(move |now_ms| {
            let cluster = shards.cluster().clone();
            Box::pin(async move {
                let ask = move |machine: &_, store: &dyn hongqiao_cluster::Store| upkeep::Due {
                    tick: query::is_due(machine, store, now_ms),
                    orphans: query::has_orphans(machine),
                };
                cluster.read(shard, ask).await.unwrap_or_default()
            })
        }),
        publish: Rc::new(move |message| {
            let publisher = Rc::clone(&publisher);
            Box::pin(async move { publisher.publish_one(Arc::new(message)).await.is_ok() })
        }),
    }
}

/// Moves what members of shared groups left in `shard`, one round for each call.
fn mover(
    shard: ShardId,
    shared: &Shared,
    targets: &Targets,
    appender: &Addr<Appender>,
) -> Rc<dyn Fn() -> upkeep::Local<Moved>> {
    let cluster = shared.shards.cluster().clone();
    let read: ReadOrphan = Rc::new(move |after| {
        let cluster = cluster.clone();
        let (messages, bytes) = (limits::ORPHAN_CHUNK_MESSAGES, limits::ORPHAN_CHUNK_BYTES);
        let (limits, now_ms) = (query::PageLimits { messages, bytes }, clock::wall_ms());
        Box::pin(async move {
            let ask = move |machine: &_, store: &dyn hongqiao_cluster::Store| {
                query::orphan_after(machine, store, after, limits, now_ms)
            };
            cluster.read(shard, ask).await.ok().flatten()
        })
    });
    let mover = Mover {
        shard,
        shards: targets.shards,
        hash_key: targets.hash_key,
        read,
        submit: appender.clone().recipient(),
        choose: targets.groups.iter().map(|each| each.clone().recipient()).collect(),
        not_a_member: targets.groups.iter().map(|each| each.clone().recipient()).collect(),
        offer: targets.routers.iter().map(|each| each.clone().recipient()).collect(),
        quotas: Arc::clone(&targets.quotas),
    };
    Rc::new(move || {
        let mover = mover.clone();
        Box::pin(async move { mover.round().await })
    })
}

async fn durable_sessions(shards: &ShardClient, shard: ShardId) -> anyhow::Result<Vec<SessionKey>> {
    let mut keys: Vec<SessionKey> = Vec::new();
    loop {
        let after = keys.last().copied();
        let page = shards.cluster().read(shard, move |machine, store| {
            query::sessions_durable(machine, store, after, LOAD_PAGE)
        });
        let page = page.await?;
        let is_last = page.len() < LOAD_PAGE;
        keys.extend(page.into_iter().map(|session| session.key));
        if is_last {
            return Ok(keys);
        }
    }
}

/// Durable sessions stay members of their shared groups while the node is down.
async fn join_durable_members(groups: &[Addr<Groups>], shared: &Shared) -> anyhow::Result<()> {
    let hash_key = shared.shards.hash_key();
    for shard in shared.shards.shards() {
        let mut after = None;
        loop {
            let page = shared.shards.cluster().read(shard, move |machine, store| {
                query::shared_members(machine, store, after, LOAD_PAGE)
            });
            let page = page.await?;
            for (session, app, item) in page.members {
                let Some(share) = &item.share else { continue };
                let group = GroupKey::new(&hash_key, app, share, &item.filter);
                let member = Member {
                    key: MemberKey::Session(session),
                    connection: None,
                    options: item.options,
                    subscription_id: item.subscription_id,
                };
                let join = Join { group, app, share: share.clone(), filter: item.filter, member };
                groups[group.home(groups.len())].send(join).await?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    Ok(())
}

/// The backend of one worker's connections, without the homes.
fn connection_node(
    targets: &Targets,
    shared: &Shared,
    (router, appender): (Addr<TopicRouter>, Addr<Appender>),
    publisher: Rc<Publisher>,
) -> Node {
    let pages = shared.shards.clone();
    let source = retained::Source {
        shards: shared.shards.clone(),
        appender: appender.clone(),
        quotas: Arc::clone(&shared.quotas),
        tables: Arc::clone(&shared.beyond.tables),
    };
    Node {
        hash_key: targets.hash_key,
        shards: targets.shards,
        authenticator: Arc::clone(&shared.authenticator),
        claim: Vec::new(),
        release: Vec::new(),
        appender,
        router,
        groups: targets.groups.clone(),
        publisher,
        read_page: Box::new(move |session, epoch, after, messages, bytes| {
            let shards = pages.clone();
            let limits = query::PageLimits { messages, bytes };
            Box::pin(async move {
                match shards.page(session, epoch, after, limits).await {
                    Ok(Ok(page)) => Ok(page),
                    Ok(Err(query::Fenced)) => Err(PageError::Fenced),
                    Err(_) => Err(PageError::Unavailable),
                }
            })
        }),
        retained: Box::new(RetainedTurns(retained::Turns::new(source))),
        barrier: None,
    }
}

/// Retained messages for the connections of one worker.
struct RetainedTurns(Rc<retained::Turns>);

impl RetainedCopies for RetainedTurns {
    fn begin(&self, who: backend::Subscriber, subscription: StoredSubscription) {
        let backend::Subscriber { connection, app, session, epoch } = who;
        self.0.begin(retained::Receiver { connection, app, session, epoch }, subscription);
    }

    fn forget(&self, who: backend::Subscriber, filter: &TopicFilter) {
        self.0.forget(who.connection, filter);
    }
}
