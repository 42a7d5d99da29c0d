//! One node on one thread, without disk and network; and a client that talks to it.

use std::{
    cell::RefCell,
    num::{NonZeroU16, NonZeroU32},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, Addr, Context, Handler};
use bytes::{Bytes, BytesMut};
use hongqiao_cluster::id::ShardId;

use super::super::{backend, node::Node, options::ListenerOptions, start};
use crate::{
    actors::{
        appender::{Appender, Propose, SubmitError},
        facts::{Facts, News},
        groups::{DeliverTo, GroupTable, Groups},
        home::{Home, Neighbours},
        hub::{Drain, Hub},
        interest::Interests,
        link::Terms,
        memory_socket::{MemoryPeer, pair},
        publish::{Publisher, Targets},
        upkeep::Look,
        worker::{LinkLimits, Worker, WorkerConfig},
    },
    auth::{Admission, Authenticator, Credentials, Principal, Verdict},
    front::mqtt::{
        client::{Client, DecodedFromServer, FromServer},
        fronts,
    },
    model::{
        id::{AppId, HashKey},
        message::Qos,
        reason::Reason,
        session::admission::Offer,
        topic::TopicName,
        wire::{
            Ack, AckKind, Connack, Connect, DecodeLimits, Delivery, Dialect, Disconnect,
            SubackCode, SubscriptionOptions, Will,
        },
    },
    shard::command::Quota,
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

struct NoUpkeep;

impl Actor for NoUpkeep {
    type Context = Context<Self>;
}

impl Handler<Look> for NoUpkeep {
    type Result = ();

    fn handle(&mut self, _: Look, _: &mut Self::Context) {}
}

/// Hands messages of shared groups to links, as the router does.
struct Dealer;

impl Actor for Dealer {
    type Context = Context<Self>;
}

impl Handler<DeliverTo> for Dealer {
    type Result = ();

    fn handle(&mut self, deliver: DeliverTo, _: &mut Self::Context) {
        let found = Worker::with(|worker| worker.find(deliver.member.connection)).flatten();
        for (link, message) in found.iter().cycle().zip(&deliver.messages) {
            let qos = message.qos.min(deliver.member.options.qos);
            link.send_live(message, &Terms { qos, ..Terms::default() }, 0);
        }
    }
}

/// The node.
pub(super) struct Bench {
    pub(super) worker: Rc<Worker>,
    pub(super) hub: Addr<Hub>,
    listener: RefCell<Arc<ListenerOptions>>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_offer(offer())
    }

    pub(super) fn with_offer(offer: Offer) -> Self {
        let interests = Interests::new(1);
        let config = WorkerConfig {
            index: 0,
            fronts: fronts(),
            limits: vec![LinkLimits { connect_secs: 10, ..LinkLimits::default() }],
            interests: interests.clone(),
            counters: Arc::default(),
        };
        let (worker, router) = Worker::start(config).unwrap();
        let propose: Propose = Rc::new(|_, _| Box::pin(async { Err(SubmitError::Unavailable) }));
        let appender = Appender::new(1, propose).start();
        let hub = Hub::new(Rc::clone(&worker)).start();
        let group_table = Arc::<GroupTable>::default();
        let groups =
            Groups::new(Arc::clone(&group_table), vec![Dealer.start().recipient()]).start();
        let neighbours = Neighbours {
            kick: vec![hub.clone().recipient()],
            grew: vec![hub.clone().recipient()],
            submit: appender.clone().recipient(),
            look: NoUpkeep.start().recipient(),
        };
        let news = Arc::<News>::default();
        let home = Home::new(ShardId(0), (1, 1), [], neighbours, news).start();
        let targets = Targets {
            routers: vec![router.clone()],
            groups: vec![groups.clone()],
            interests: Arc::new(interests),
            facts: Facts::new(1),
            group_table,
            hash_key: HashKey([7; 16]),
            shards: 1,
            quota: QUOTA,
            retained_messages_max: 100,
            retained_bytes_max: 1 << 20,
        };
        let node = Node {
            hash_key: HashKey([7; 16]),
            shards: 1,
            authenticator: Arc::new(Doorkeeper),
            claim: vec![home.clone().recipient()],
            release: vec![home.recipient()],
            appender: appender.clone(),
            router,
            groups: vec![groups],
            publisher: Rc::new(Publisher::new(targets, appender)),
            read_page: Box::new(|_, _, _, _, _| {
                Box::pin(async { Err(backend::PageError::Unavailable) })
            }),
            send_retained: Box::new(|_, _| {}),
        };
        backend::install(Box::new(Rc::new(node)));
        Self { worker, hub, listener: RefCell::new(options(offer, 1_000, 5)) }
    }

    /// Later connections come in through a listener with these numbers.
    pub(super) fn listen(&self, offer: Offer, connections_max: u32, filters_max: u32) {
        *self.listener.borrow_mut() = options(offer, connections_max, filters_max);
    }

    /// Opens a socket.
    pub(super) fn open(&self, codec: Client) -> Remote {
        let (socket, peer) = pair(1 << 20);
        start(socket, &self.listener.borrow());
        Remote { peer, codec, input: BytesMut::new(), last_id: 0 }
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

    /// Ends all connections as at shutdown.
    pub(super) async fn drain(&self) {
        self.hub.send(Drain { reason: Reason::ServerShuttingDown }).await.unwrap();
    }
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
    Connect {
        dialect: Dialect::MqttV5,
        client_id: client_id.to_owned(),
        clean_start: true,
        keep_alive_secs: 0,
        session_expiry_secs: 0,
        receive_maximum: NonZeroU16::MAX,
        packet_bytes_max: None,
        topic_alias_maximum: 0,
        request_response_information: false,
        request_problem_information: true,
        authentication_method: None,
        user_name: None,
        password: None,
        will: None,
    }
}

pub(super) fn connect_v4(client_id: &str) -> Connect {
    Connect { dialect: Dialect::MqttV4, ..connect_v5(client_id) }
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

/// The client's end of a connection.
pub(super) struct Remote {
    pub(super) peer: MemoryPeer,
    codec: Client,
    input: BytesMut,
    last_id: u16,
}

/// What a client sees of a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: Qos,
    pub(super) packet_id: Option<NonZeroU16>,
    pub(super) dup: bool,
    pub(super) retain: bool,
    pub(super) subscription_ids: Vec<u32>,
}

impl Remote {
    pub(super) fn send(&self, write: impl FnOnce(Client, &mut BytesMut)) {
        let mut out = BytesMut::new();
        write(self.codec, &mut out);
        self.peer.send(&out);
    }

    fn next_id(&mut self) -> NonZeroU16 {
        self.last_id += 1;
        id(self.last_id)
    }

    /// Sends a PUBLISH; returns its packet id.
    pub(super) fn publish(&mut self, delivery: &Delivery<'_>) -> Option<NonZeroU16> {
        let packet_id = (delivery.qos > Qos::AtMostOnce).then(|| self.next_id());
        self.publish_as(delivery, packet_id);
        packet_id
    }

    pub(super) fn publish_as(&self, delivery: &Delivery<'_>, packet_id: Option<NonZeroU16>) {
        self.send(|codec, out| write_publish(codec, delivery, packet_id, out));
    }

    pub(super) fn ack(&self, kind: AckKind, packet_id: NonZeroU16, reason: Reason) {
        self.send(|codec, out| codec.encode_ack(Ack { kind, packet_id, reason }, out));
    }

    pub(super) async fn subscribe(&mut self, filter: &str, qos: Qos) -> SubackCode {
        self.subscribe_all(None, &[(filter, options_of(qos))]).await[0]
    }

    pub(super) async fn subscribe_all(
        &mut self,
        subscription_id: Option<u32>,
        items: &[(&str, SubscriptionOptions)],
    ) -> Vec<SubackCode> {
        let packet_id = self.next_id();
        let subscription_id = subscription_id.and_then(NonZeroU32::new);
        self.send(|codec, out| {
            codec.encode_subscribe(packet_id, subscription_id, items.iter().copied(), out);
        });
        match self.receive().await {
            FromServer::Suback { packet_id: echoed, codes } if echoed == packet_id => codes,
            other => panic!("no SUBACK: {other:?}"),
        }
    }

    pub(super) async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<Reason> {
        let packet_id = self.next_id();
        self.send(|codec, out| {
            codec.encode_unsubscribe(packet_id, filters.iter().copied(), out);
        });
        match self.receive().await {
            FromServer::Unsuback { packet_id: echoed, reasons } if echoed == packet_id => reasons,
            other => panic!("no UNSUBACK: {other:?}"),
        }
    }

    pub(super) fn disconnect(&self, reason: Reason, session_expiry_secs: Option<u32>) {
        let disconnect = Disconnect { reason, session_expiry_secs };
        self.send(|codec, out| codec.encode_disconnect(&disconnect, out));
    }

    fn try_receive(&mut self) -> Option<FromServer> {
        self.input.extend_from_slice(&self.peer.take());
        let bytes = self.input.clone().freeze();
        match self.codec.decode(&bytes, &LIMITS).unwrap() {
            DecodedFromServer::Packet { packet, consumed } => {
                let _ = self.input.split_to(consumed);
                Some(packet)
            }
            DecodedFromServer::Partial { .. } => None,
        }
    }

    /// Waits for one packet.
    pub(super) async fn receive(&mut self) -> FromServer {
        self.maybe_receive().await.expect("nothing came in time")
    }

    async fn maybe_receive(&mut self) -> Option<FromServer> {
        for turn in 0..400 {
            if let Some(packet) = self.try_receive() {
                return Some(packet);
            }
            pause(turn).await;
        }
        None
    }

    /// Asks for a pong and expects it before anything else.
    pub(super) async fn expect_silence(&mut self) {
        settle().await;
        self.send(|codec, out| codec.encode_ping(out));
        assert_eq!(self.receive().await, FromServer::Pong);
    }

    pub(super) async fn connack(&mut self) -> Connack {
        match self.receive().await {
            FromServer::Connack { connack, .. } => *connack,
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    pub(super) async fn got(&mut self) -> Got {
        match self.receive().await {
            FromServer::Publish { publish, subscription_ids } => Got {
                topic: publish.topic.map_or_else(String::new, |name| name.as_str().to_owned()),
                payload: publish.payload.to_vec(),
                qos: publish.qos,
                packet_id: publish.packet_id,
                dup: publish.dup,
                retain: publish.retain,
                subscription_ids: subscription_ids.iter().map(|id| id.get()).collect(),
            },
            other => panic!("no PUBLISH: {other:?}"),
        }
    }

    pub(super) async fn expect_ack(
        &mut self,
        kind: AckKind,
        packet_id: NonZeroU16,
        reason: Reason,
    ) {
        assert_eq!(self.receive().await, FromServer::Ack(Ack { kind, packet_id, reason }));
    }

    /// Expects the end: v5 with this DISCONNECT before it.
    pub(super) async fn expect_end(&mut self, reason: Option<Reason>) {
        let told = match self.until_closed().await {
            Some(FromServer::Disconnect(disconnect)) => Some(disconnect.reason),
            Some(other) => panic!("neither DISCONNECT nor the end: {other:?}"),
            None => None,
        };
        assert_eq!(told, reason);
    }

    /// Waits for the end of the stream; returns what came before it.
    pub(super) async fn until_closed(&mut self) -> Option<FromServer> {
        for turn in 0..400 {
            if self.peer.is_closed() {
                return self.try_receive();
            }
            pause(turn).await;
        }
        panic!("not closed in time; got {:?}", self.try_receive());
    }
}

pub(super) fn write_publish(
    codec: Client,
    delivery: &Delivery<'_>,
    packet_id: Option<NonZeroU16>,
    out: &mut BytesMut,
) {
    let start = out.len();
    let head = codec.encode_publish(delivery, out);
    if let (Some(at), Some(packet_id)) = (head.packet_id_at, packet_id) {
        out[start + at..start + at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
    }
    out.extend_from_slice(delivery.payload);
}

async fn pause(turn: u32) {
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
