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

use actix::{Actor as _, Addr, Arbiter};
use anyhow::Context as _;
use tokio::sync::oneshot;

use super::homes::{Hubs, home_client, serve_peers, start_homes};
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
        groups::{self, Far, GroupKey, GroupTable, Groups, Join, Member, MemberKey, ReadMembers},
        home::client::{Duty, Homes},
        hub::Hub,
        interest::Interests,
        live_routes::Tellers,
        peer::Peers,
        publish::{AppQuotas, Beyond, Publisher, Targets},
        relay::Arrivals,
        retained,
        suback_barrier::SubackBarrier,
        topic_router::TopicRouter,
        view::View,
        worker::{LinkLimits, Worker, WorkerConfig},
    },
    auth::Authenticator,
    front::mqtt,
    limits,
    model::topic::TopicFilter,
    shard::{client::ShardClient, command::StoredSubscription, query},
};

/// Sessions or members that are read from a shard at once while starting.
pub(super) const LOAD_PAGE: usize = 1_024;

/// What all workers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) shards: ShardClient,
    pub(super) peers: Peers,
    pub(super) view: View,
    pub(super) facts: Arc<Facts>,
    pub(super) beyond: Beyond,
    /// Members of shared groups on other nodes.
    pub(super) far: Arc<Far>,
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
pub(super) struct First {
    pub(super) router: Addr<TopicRouter>,
    pub(super) hub: Addr<Hub>,
    pub(super) appender: Addr<Appender>,
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
                live_routes: Arc::clone(&shared.beyond.live),
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
        let (barrier, arrivals) = start_routes(&arbiters, &first, &targets, shared);
        // Before anything is published: by then every group has its members.
        join_durable_members(&groups, shared).await?;
        let hubs = Hubs::of(&first);
        let homes = start_homes(&arbiters, &first, &hubs, &targets, shared).await?;
        let duty = Duty::new(shared.view.shards());
        serve_peers(hubs, &homes, &duty, (arrivals, &groups), shared);
        for (arbiter, first) in arbiters.iter().zip(&first) {
            let (targets, shared) = (targets.clone(), shared.clone());
            let (router, appender) = (first.router.clone(), first.appender.clone());
            let (homes, duty) = (homes.clone(), Arc::clone(&duty));
            let barrier = Some(Arc::clone(&barrier));
            let install = move || {
                let publisher = Rc::new(Publisher::new(targets.clone(), appender.clone()));
                let homes = Rc::new(home_client(homes, duty, &shared));
                if Worker::with(|worker| worker.index()) == Some(0) {
                    actix_rt::spawn(Rc::clone(&homes).pay());
                }
                let node = connection_node(&targets, &shared, (router, appender, homes), publisher);
                let node = Node { barrier, ..node };
                backend::install(Box::new(Rc::new(node)));
                Worker::with(|worker| worker.set_groups(targets.groups));
            };
            on(arbiter, install).await?;
        }
        let hubs = first.into_iter().map(|first| first.hub).collect();
        Ok(Self { arbiters, hubs, counters })
    }
}

impl Workers {
    /// Ends the threads.
    pub(super) fn stop(&self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}

fn start_first(
    config: WorkerConfig,
    shards: ShardClient,
    facts: Arc<Facts>,
) -> anyhow::Result<First> {
    let (worker, router) = Worker::start(config)?;
    let hub = Hub::new(worker).start();
    let count = shards.cluster().shards();
    let propose = Rc::new(move |shard, batch, behind| {
        let proposed = shards.propose_batch(shard, batch, behind);
        let order = proposed.order();
        (order, Box::pin(async move { proposed.await.map_err(SubmitError::from) }) as _)
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
) -> (Arc<SubackBarrier>, Arc<Arrivals>) {
    let port = ClusterPort(shared.shards.cluster().clone());
    let meta = Arc::clone(&shared.beyond.meta);
    let tellers = Tellers {
        routers: first.iter().map(|first| first.router.clone().recipient()).collect(),
        groups: targets.groups.iter().map(|groups| groups.clone().recipient()).collect(),
    };
    actix_rt::spawn(Arc::clone(&shared.beyond.live).run(Arc::clone(&meta), tellers));
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
    let (me, leads) = (port.0.node(), port.clone());
    let barrier = Arc::new(SubackBarrier {
        me,
        live: Arc::clone(&shared.beyond.live),
        durable,
        tables,
        peers: shared.peers.clone(),
        leader_of: Box::new(move |shard| leads.leader_of(shard)),
    });
    (barrier, arrivals)
}

async fn start_groups(
    arbiters: &[Arbiter],
    first: &[First],
    table: &Arc<GroupTable>,
    shared: &Shared,
) -> anyhow::Result<Vec<Addr<Groups>>> {
    let mut groups = Vec::new();
    for (worker, (arbiter, own)) in arbiters.iter().zip(first).enumerate() {
        let neighbours = groups::Neighbours {
            routers: first.iter().map(|first| first.router.clone().recipient()).collect(),
            submit: own.appender.clone().recipient(),
            shards: shared.shards.cluster().shards(),
            quotas: Arc::clone(&shared.quotas),
            offers: first.iter().map(|first| first.router.clone().recipient()).collect(),
            worker: u8::try_from(worker).context("workers.threads")?,
            far: Arc::clone(&shared.far),
        };
        let table = Arc::clone(table);
        groups.push(on(arbiter, move || Groups::new(table, neighbours).start()).await?);
    }
    Ok(groups)
}

/// What the groups need to know of those on other nodes.
pub(super) fn far(shards: &ShardClient, beyond: &Beyond, view: &View) -> Arc<Far> {
    let (wire, hash_key) = (Arc::new(ClusterPort(shards.cluster().clone())), shards.hash_key());
    let shards = shards.clone();
    let read_members: ReadMembers = Box::new(move |shard, key| {
        let shards = shards.clone();
        let limit = u32::try_from(limits::GROUP_MEMBERS_PAGE).unwrap_or(u32::MAX);
        Box::pin(async move { shards.group_members(shard, key, None, limit).await.ok() })
    });
    Far::new(beyond.clone(), wire, view.clone(), hash_key, read_members)
}

/// Durable sessions stay members of their shared groups while a node that is alone is down. If there are others,
/// they are found in their shards.
async fn join_durable_members(groups: &[Addr<Groups>], shared: &Shared) -> anyhow::Result<()> {
    if !shared.view.is_alone() {
        return Ok(());
    }
    let hash_key = shared.shards.hash_key();
    for shard in shared.shards.shards() {
        let mut after = None;
        loop {
            let page = shared.shards.cluster().read(shard, move |machine, store| {
                query::shared_members(machine, store, after, LOAD_PAGE)
            });
            let Ok(page) = page.await else {
                if !shared.view.is_alone() {
                    // The node has just come to a cluster: the shard is led elsewhere.
                    return Ok(());
                }
                tokio::time::sleep(limits::ROUTE_RETRY).await;
                continue;
            };
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

/// The backend of one worker's connections.
fn connection_node(
    targets: &Targets,
    shared: &Shared,
    (router, appender, homes): (Addr<TopicRouter>, Addr<Appender>, Rc<Homes>),
    publisher: Rc<Publisher>,
) -> Node {
    let pages = shared.shards.clone();
    let shelf = retained::NodeShelf { shards: shared.shards.clone(), appender: appender.clone() };
    let source = retained::Source {
        shelf: Rc::new(shelf),
        quotas: Arc::clone(&shared.quotas),
        tables: Arc::clone(&shared.beyond.tables),
    };
    Node {
        hash_key: targets.hash_key,
        shards: targets.shards,
        authenticator: Arc::clone(&shared.authenticator),
        homes,
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
