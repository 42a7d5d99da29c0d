//! One node on one thread, without disk and network; and a client that talks to it.

use std::{
    cell::RefCell,
    num::{NonZeroU16, NonZeroU32},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor as _, Addr};
use ahash::AHashMap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::{
    MetaChange,
    directory::{Directory, Member},
    id::{NodeId, ShardId},
};

use super::{
    super::{
        backend::{self, Subscriber},
        node::{Node, RetainedCopies},
        options::ListenerOptions,
        start,
    },
    remote::Remote,
    storage::Storage,
};
use crate::{
    actors::{
        appender::Appender,
        durable_routes::{NotLed, Shards, Visit},
        facts::Facts,
        groups::{self, GroupTable, Groups},
        home::{
            Home, Neighbours,
            client::{Duty, Homes},
        },
        hub::{Drain, Hub},
        interest::Interests,
        live_routes::LiveRoutes,
        memory_socket::pair,
        meta::{Meta, fake::FakeMeta},
        peer::Peers,
        publish::{AppQuota, AppQuotas, Beyond, Publisher, Targets},
        redispatch::Moved,
        suback_barrier::SubackBarrier,
        topic_router::TopicRouter,
        upkeep::{self, Meet, Upkeep},
        view::View,
        worker::{LinkLimits, Worker, WorkerConfig},
    },
    auth::{Admission, Authenticator, Credentials, Principal, Verdict},
    front::mqtt::{client::Client, fronts},
    model::{
        id::{AppId, HashKey, SessionKey},
        message::Qos,
        reason::Reason,
        session::admission::Offer,
        topic::{TopicFilter, TopicName},
        wire::{Connack, Connect, DecodeLimits, Delivery, Dialect, SubscriptionOptions, Will},
    },
    shard::{
        command::{Quota, StoredSubscription},
        query::HeldPage,
    },
};

pub(super) const LIMITS: DecodeLimits = DecodeLimits {
    packet_bytes_max: 1 << 20,
    topic_bytes_max: 1_024,
    topic_levels_max: 8,
    filters_per_packet_max: 64,
    user_properties_max: 16,
};

pub(super) fn offer() -> Offer {
    Offer {
        receive_maximum: NonZeroU16::new(8).unwrap(),
        packet_bytes_max: NonZeroU32::new(LIMITS.packet_bytes_max).unwrap(),
        topic_alias_maximum: 4,
        keep_alive_secs_max: 0,
        session_expiry_secs_max: 10_000,
        maximum_qos: Qos::ExactlyOnce,
        retain_available: true,
        client_id_bytes_max: 64,
    }
}

/// Lets in whoever shows no password, and the password "later" after a while.
struct Doorkeeper;

/// Nobody has retained anything.
struct NothingRetained;

impl RetainedCopies for NothingRetained {
    fn begin(&self, _: Subscriber, _: StoredSubscription) {}

    fn forget(&self, _: Subscriber, _: &TopicFilter) {}
}

impl Authenticator for Doorkeeper {
    fn authenticate(&self, admission: &Admission, credentials: Credentials) -> Verdict {
        let principal = Principal { app: admission.app, user: None };
        match credentials.password.as_deref() {
            None => Verdict::Now(Ok(principal)),
            Some(b"later") => Verdict::Later(Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(principal)
            })),
            Some(_) => Verdict::Now(Err(Reason::BadUserNameOrPassword)),
        }
    }
}

/// The node.
pub(super) struct Bench {
    pub(super) storage: Storage,
    pub(super) worker: Rc<Worker>,
    pub(super) hub: Addr<Hub>,
    /// Where the node proposes its routes.
    pub(super) meta: Arc<FakeMeta>,
    listener: RefCell<Arc<ListenerOptions>>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_offer(offer())
    }

    /// Time stands still and jumps to the next timer when nothing else is left to do: what is waited
    /// for comes in the order of its deadlines, however busy the machine is.
    pub(super) fn with_offer(offer: Offer) -> Self {
        Self::among(offer, &[])
    }

    /// A node with another one beside it, whose routes are proposed to `meta`.
    pub(super) fn in_company() -> Self {
        Self::among(offer(), &[NodeId(2)])
    }

    fn among(offer: Offer, others: &[NodeId]) -> Self {
        tokio::time::pause();
        let interests = Interests::new(1);
        let live = Arc::<LiveRoutes>::default();
        let config = WorkerConfig {
            index: 0,
            fronts: fronts(),
            limits: vec![LinkLimits { connect_secs: 10, ..LinkLimits::default() }],
            interests: interests.clone(),
            live_routes: Arc::clone(&live),
            counters: Arc::default(),
        };
        let (worker, router) = Worker::start(config).unwrap();
        let facts = Facts::new(1);
        let storage = Storage::new(&facts);
        let appender = Appender::new(1, storage.propose(), Arc::clone(&facts)).start();
        let hub = Hub::new(Rc::clone(&worker)).start();
        let group_table = Arc::<GroupTable>::default();
        let common =
            AppQuota { quota: QUOTA, retained_messages_max: 100, retained_bytes_max: 1 << 20 };
        let quotas = Arc::new(AppQuotas { common, special: AHashMap::new() });
        let neighbours = groups::Neighbours {
            routers: vec![router.clone().recipient()],
            submit: appender.clone().recipient(),
            shards: 1,
            quotas: Arc::clone(&quotas),
            offers: vec![router.clone().recipient()],
            worker: 0,
            far: groups::Far::nothing(),
        };
        let groups = Groups::new(Arc::clone(&group_table), neighbours).start();
        worker.set_groups(vec![groups.clone()]);
        let meta = if others.is_empty() { FakeMeta::alone() } else { FakeMeta::in_company() };
        let targets = Targets {
            routers: vec![router.clone()],
            groups: vec![groups.clone()],
            interests,
            facts: Arc::clone(&facts),
            group_table,
            hash_key: HashKey([7; 16]),
            shards: 1,
            quotas,
            beyond: Beyond { meta: Arc::new(Arc::clone(&meta)), ..Beyond::nothing() },
        };
        let barrier = routes(&targets, live, &meta, &router, others);
        let publisher = Rc::new(Publisher::new(targets, appender.clone()));
        let upkeep = upkeep(&storage, &publisher, &appender);
        let (view, peers) = (View::alone(NodeId(1), 1, 1), Peers::none());
        let neighbours = Neighbours {
            kick: vec![hub.clone().recipient()],
            grew: vec![hub.clone().recipient()],
            roll: vec![hub.clone().recipient()],
            submit: appender.clone().recipient(),
            look: upkeep.clone().recipient(),
            sweep: upkeep.clone().recipient(),
            groups: vec![groups.clone().recipient()],
            held: Rc::new(|_| Box::pin(async { Some(HeldPage::default()) })),
            peers: peers.clone(),
            view: view.clone(),
        };
        let news = facts.news(ShardId(0));
        let home = Home::new(ShardId(0), neighbours, news).start();
        upkeep.try_send(Meet(home.clone().recipient())).unwrap();
        let node = Node {
            hash_key: HashKey([7; 16]),
            shards: 1,
            authenticator: Arc::new(Doorkeeper),
            homes: Rc::new(Homes {
                view,
                peers,
                claim: vec![home.clone().recipient()],
                release: vec![home.clone().recipient()],
                again: vec![home.recipient()],
                duty: Duty::new(1),
            }),
            appender,
            router,
            groups: vec![groups],
            publisher,
            read_page: storage.read_page(),
            retained: Box::new(NothingRetained),
            barrier: Some(barrier),
        };
        backend::install(Box::new(Rc::new(node)));
        let listener = RefCell::new(options(offer, 1_000, 5));
        Self { storage, worker, hub, meta, listener }
    }

    /// Later connections come in through a listener with these numbers.
    pub(super) fn listen(&self, offer: Offer, connections_max: u32, filters_max: u32) {
        *self.listener.borrow_mut() = options(offer, connections_max, filters_max);
    }

    /// Opens a socket.
    pub(super) fn open(&self, codec: Client) -> Remote {
        let (socket, peer) = pair(1 << 20);
        start(socket, &self.listener.borrow());
        Remote::new(peer, codec)
    }

    /// Opens a socket and connects.
    pub(super) async fn connect(&self, codec: Client, connect: &Connect) -> (Remote, Connack) {
        let mut remote = self.open(codec);
        remote.send(|codec, out| codec.encode_connect(connect, out));
        let connack = remote.connack().await;
        (remote, connack)
    }

    /// A connected v5 client without a session.
    pub(super) async fn client(&self, client_id: &str) -> Remote {
        let (remote, connack) = self.connect(Client::V5, &connect_v5(client_id)).await;
        assert_eq!(connack.reason, Reason::Success);
        remote
    }

    /// A connected v5 client with a session that lasts; tells whether it was there.
    pub(super) async fn durable(&self, client_id: &str) -> (Remote, bool) {
        let (remote, connack) = self.connect(Client::V5, &durable_v5(client_id)).await;
        assert_eq!(connack.reason, Reason::Success);
        (remote, connack.session_present)
    }

    /// Breaks a connection and waits until its session is released.
    pub(super) async fn cut(&self, remote: Remote) {
        remote.peer.close();
        remote.until_closed_quietly().await;
        settle().await;
    }

    /// Names a session.
    pub(super) fn key(&self, client_id: &str) -> SessionKey {
        HashKey([7; 16]).session(AppId(1), client_id)
    }

    /// Ends all connections as at shutdown.
    pub(super) async fn drain(&self) {
        let reason = Reason::ServerShuttingDown;
        let drain = Drain { reason, elsewhere: Vec::new(), durable_only: false };
        self.hub.send(drain).await.unwrap();
    }
}

/// The one shard of the node; it leads it.
struct OwnShard;

impl Shards for OwnShard {
    fn term(&self, _shard: ShardId) -> Option<u64> {
        Some(1)
    }

    fn term_changed(&self, _shard: ShardId, _old: Option<u64>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn filters(
        &self,
        _shard: ShardId,
        _from: u32,
        _visit: Visit,
    ) -> BoxFuture<'static, Result<Option<u32>, NotLed>> {
        Box::pin(async { Ok(None) })
    }
}

/// Starts the routes of a node with these others beside it.
fn routes(
    targets: &Targets,
    live: Arc<LiveRoutes>,
    meta: &Arc<FakeMeta>,
    router: &Addr<TopicRouter>,
    others: &[NodeId],
) -> Arc<SubackBarrier> {
    let tables = Arc::clone(&targets.beyond.tables);
    let member = Member {
        incarnation: 1,
        up: true,
        routes_complete: true,
        cluster_addr: String::new(),
        client_addr: String::new(),
        version: String::new(),
    };
    let nodes = others.iter().map(|node| (*node, member.clone())).collect();
    // The shard has not told its routes: it gets everything.
    let shards = imbl::Vector::from(vec![Vec::new()]);
    let directory = Directory { nodes, shards, ..Directory::default() };
    tables.take(&directory, &[MetaChange::Reloaded]);
    let durable = Arc::clone(&targets.facts.durable_routes);
    let meta: Arc<dyn Meta> = Arc::new(Arc::clone(meta));
    let routers = vec![router.clone().recipient()];
    let tellers = crate::actors::live_routes::Tellers { routers, groups: Vec::new() };
    tokio::spawn(Arc::clone(&live).run(Arc::clone(&meta), tellers));
    tokio::spawn(Arc::clone(&durable).run(ShardId(0), meta, Arc::new(OwnShard)));
    let leader_of = Box::new(|_| Some(NodeId(0)));
    let (me, peers) = (NodeId(0), Peers::none());
    Arc::new(SubackBarrier { me, live, durable, tables, peers, leader_of })
}

fn upkeep(storage: &Storage, publisher: &Rc<Publisher>, appender: &Addr<Appender>) -> Addr<Upkeep> {
    let (storage, publisher) = (storage.clone(), Rc::clone(publisher));
    let neighbours = upkeep::Neighbours {
        held: Rc::new(|_| Box::pin(async { None })),
        gone: Vec::new(),
        peers: Peers::none(),
        view: View::alone(NodeId(1), 1, 1),
        mover: Rc::new(|| Box::pin(async { Moved::All })),
        submit: appender.clone().recipient(),
        groups: Vec::new(),
        is_due: Rc::new(move |now_ms| {
            let due = upkeep::Due { tick: storage.is_due(now_ms), orphans: false };
            Box::pin(async move { due })
        }),
        publish: Rc::new(move |will, progress| {
            let publisher = Rc::clone(&publisher);
            Box::pin(async move { publisher.publish_will(Arc::new(will), progress).await })
        }),
    };
    Upkeep::new(ShardId(0), neighbours).start()
}

pub(super) const QUOTA: Quota = Quota {
    session_messages_max: 1_000,
    session_bytes_max: 1 << 20,
    app_bytes_max: 1 << 24,
    drop_oldest: true,
};

fn options(offer: Offer, connections_max: u32, filters_max: u32) -> Arc<ListenerOptions> {
    let admission = Admission { app_name: "a#b".into(), app: AppId(1), anonymous: true };
    let decode = (offer, LIMITS);
    Arc::new(ListenerOptions::new("test", admission, decode, connections_max, 1 << 16, filters_max))
}

pub(super) fn connect_v5(client_id: &str) -> Connect {
    Connect::new(Dialect::MqttV5, client_id)
}

pub(super) fn durable_v5(client_id: &str) -> Connect {
    Connect { clean_start: false, session_expiry_secs: 1_000, ..connect_v5(client_id) }
}

pub(super) fn connect_v4(client_id: &str) -> Connect {
    Connect::new(Dialect::MqttV4, client_id)
}

pub(super) fn will(topic: &str, payload: &'static [u8]) -> Option<Will> {
    Some(Will {
        topic: TopicName::parse(topic).unwrap(),
        payload: Bytes::from_static(payload),
        qos: Qos::AtLeastOnce,
        retain: false,
        delay_secs: 0,
        expiry_secs: None,
        properties: Bytes::new(),
    })
}

pub(super) fn options_of(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

pub(super) fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub(super) fn delivery(topic: &'static str, qos: Qos, payload: &'static [u8]) -> Delivery<'static> {
    Delivery {
        topic: topic.as_bytes(),
        topic_alias: None,
        qos,
        dup: false,
        retain: false,
        expiry_secs: None,
        properties: &[],
        subscription_ids: &[],
        payload,
    }
}

pub(super) async fn pause(turn: u32) {
    if turn < 50 {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Lets everything that is ready run.
pub(super) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
