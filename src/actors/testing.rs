//! What the tests of the live plane share: a worker on a thread of its own, and a front that is easy to
//! read back.
//!
//! - Owns: nothing. Gives: [`on_worker`], [`TestFront`], [`Got`].

use std::{future::Future, num::NonZeroU16, rc::Rc, sync::Arc, time::Duration};

use actix::Addr;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{
    counters::{Counters, DropCause},
    interest::Interests,
    link::{AnyLink, ClientTerms},
    memory_socket,
    topic_router::TopicRouter,
    worker::{LinkLimits, Worker, WorkerConfig},
};
use crate::model::{
    id::{AppId, SessionKey},
    message::{Message, Qos},
    topic::TopicName,
    wire::{DecodeError, DecodeLimits, Decoded, Delivery, DeliveryHead, Dialect, Front, Outbound},
};

pub(crate) use super::memory_socket::MemoryPeer;

/// The tenant of tests.
pub(crate) const APP: AppId = AppId(1);

/// A wire format of fixed fields: `P`, flags, id, alias, expiry, ids, topic, payload length.
pub(crate) struct TestFront;

/// One delivery, read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) packet_id: u16,
    pub(crate) alias: u16,
    pub(crate) expiry: Option<u32>,
    pub(crate) ids: Vec<u32>,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

impl Front for TestFront {
    fn decode(&self, _: &Bytes, _: &DecodeLimits) -> Result<Decoded, DecodeError> {
        Ok(Decoded::Partial { missing_bytes_min: 1 })
    }

    fn encode(&self, outbound: &Outbound, _: u32, out: &mut BytesMut) {
        if matches!(outbound, Outbound::Pong) {
            out.put_u8(b'.');
        }
    }

    fn encode_delivery_head(&self, delivery: &Delivery<'_>, out: &mut BytesMut) -> DeliveryHead {
        let start = out.len();
        out.put_u8(b'P');
        out.put_u8(delivery.qos as u8);
        out.put_u8(u8::from(delivery.dup));
        out.put_u8(u8::from(delivery.retain));
        out.put_u16(0);
        out.put_u16(delivery.topic_alias.map_or(0, NonZeroU16::get));
        let expiry_at = delivery.expiry_secs.map(|_| out.len() - start);
        out.put_u32(delivery.expiry_secs.unwrap_or(u32::MAX));
        out.put_u8(u8::try_from(delivery.subscription_ids.len()).unwrap());
        for id in delivery.subscription_ids {
            out.put_u32(id.get());
        }
        out.put_u16(u16::try_from(delivery.topic.len()).unwrap());
        out.put_slice(delivery.topic);
        out.put_u32(u32::try_from(delivery.payload.len()).unwrap());
        let packet_id_at = (delivery.qos > Qos::AtMostOnce).then_some(4);
        DeliveryHead { head_bytes: out.len() - start, packet_id_at, expiry_at }
    }
}

/// Reads deliveries back; `.` (a pong) is skipped.
pub(crate) fn parse(mut bytes: BytesMut) -> Vec<Got> {
    let mut all = Vec::new();
    while bytes.has_remaining() {
        if bytes.get_u8() == b'.' {
            continue;
        }
        let mut got = Got { qos: bytes.get_u8(), ..Got::default() };
        got.dup = bytes.get_u8() == 1;
        got.retain = bytes.get_u8() == 1;
        got.packet_id = bytes.get_u16();
        got.alias = bytes.get_u16();
        got.expiry = Some(bytes.get_u32()).filter(|secs| *secs != u32::MAX);
        got.ids = (0..bytes.get_u8()).map(|_| bytes.get_u32()).collect();
        let length = bytes.get_u16().into();
        got.topic = String::from_utf8(bytes.split_to(length).to_vec()).unwrap();
        let length = bytes.get_u32() as usize;
        got.payload = bytes.split_to(length).to_vec();
        all.push(got);
    }
    all
}

/// A worker and its router, on the thread of one test.
pub(crate) struct Bench {
    pub(crate) worker: Rc<Worker>,
    pub(crate) router: Addr<TopicRouter>,
}

/// Runs a test on a fresh thread with an actix system and a worker.
pub(crate) fn on_worker<F, T>(limits: LinkLimits, test: F)
where
    F: FnOnce(Bench) -> T + Send + 'static,
    T: Future<Output = ()> + 'static,
{
    on_worker_for(Duration::from_secs(20), limits, test);
}

/// As [`on_worker`], for at most so long as the runtime counts, whose clock the test may stop.
pub(crate) fn on_worker_for<F, T>(time: Duration, limits: LinkLimits, test: F)
where
    F: FnOnce(Bench) -> T + Send + 'static,
    T: Future<Output = ()> + 'static,
{
    let thread = std::thread::spawn(move || {
        actix::System::new().block_on(async move {
            let (worker, router) = Worker::start(config(limits)).unwrap();
            let test = test(Bench { worker, router });
            tokio::time::timeout(time, test).await.unwrap();
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn config(limits: LinkLimits) -> WorkerConfig {
    WorkerConfig {
        index: 0,
        fronts: [&TestFront, &TestFront, &TestFront],
        limits: vec![limits],
        interests: Interests::new(1),
        live_routes: Arc::default(),
        counters: Arc::new(Counters::default()),
    }
}

impl Bench {
    /// Opens a connection whose client took part in CONNECT with the terms that `change` leaves.
    pub(crate) fn connect(
        &self,
        room: usize,
        change: impl FnOnce(&mut ClientTerms),
    ) -> (Rc<AnyLink>, MemoryPeer) {
        let (socket, peer) = memory_socket::pair(room);
        let link = self.worker.open(socket, 0);
        let mut terms = ClientTerms {
            dialect: Dialect::MqttV5,
            session: SessionKey(u128::from(link.slot()) + 1),
            durable: false,
            receive_maximum: NonZeroU16::MAX,
            packet_bytes_max: u32::MAX,
            topic_alias_maximum: 0,
            keep_alive_secs: 0,
        };
        change(&mut terms);
        link.connect(&terms);
        (link, peer)
    }

    /// Returns how many deliveries were dropped for `cause`.
    pub(crate) fn dropped(&self, cause: DropCause) -> u64 {
        self.worker.counters().dropped[cause as usize].get()
    }
}

/// A message of tests.
pub(crate) fn message(topic: &str, payload: impl Into<Bytes>, qos: Qos) -> Message {
    Message {
        app: APP,
        topic: TopicName::parse(topic).unwrap(),
        publisher: None,
        id: None,
        qos,
        retain: false,
        published_at_ms: 0,
        expires_at_ms: None,
        properties: Bytes::new(),
        payload: payload.into(),
    }
}

/// Lets every other task of the thread run until none is ready.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
