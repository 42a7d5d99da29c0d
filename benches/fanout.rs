//! Fan-out through a router to the links of one thread, beside a plain loop that writes to vectors.
//!
//! - Takes: one message of 256 bytes for 1,000 and for 50,000 receivers. Gives: nanoseconds per
//!   delivery and the ratio; run it with `cargo bench --bench fanout`.
//! - What is counted: matching, encoding once, an outbox per receiver, one write per receiver into a
//!   socket that throws it away. The plain loop copies an encoded packet into one vector per receiver
//!   and empties them: what nobody can do without.

#[path = "support/ratio.rs"]
mod ratio;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    num::NonZeroU16,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use actix::System;
use bytes::{Bytes, BytesMut};
use hongqiao::{
    actors::{
        counters::Counters,
        flusher,
        interest::Interests,
        link::{AnyLink, ClientTerms},
        socket::Socket,
        topic_router::{Publish, Subscribe, Subscription},
        worker::{LinkLimits, Worker, WorkerConfig},
    },
    front::mqtt::fronts,
    model::{
        id::{AppId, SessionKey},
        message::{Message, Qos},
        topic::{TopicFilter, TopicName},
        wire::{Dialect, SubscriptionOptions},
    },
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const APP: AppId = AppId(1);
const TOPIC: &str = "room/0042/messages";
const PAYLOAD_BYTES: usize = 256;

/// Takes everything and keeps nothing.
struct Sink;

impl Socket for Sink {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn try_read(&self, _: &mut BytesMut) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn close(&self) {}

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

fn message() -> anyhow::Result<Arc<Message>> {
    Ok(Arc::new(Message {
        app: APP,
        topic: TopicName::parse(TOPIC)?,
        publisher: None,
        id: None,
        qos: Qos::AtMostOnce,
        retain: false,
        published_at_ms: 0,
        expires_at_ms: None,
        properties: Bytes::new(),
        payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES]),
    }))
}

fn connect(worker: &Rc<Worker>) -> Rc<AnyLink> {
    let link = worker.open(Sink, 0);
    link.connect(&ClientTerms {
        dialect: Dialect::MqttV4,
        session: SessionKey(link.slot().into()),
        durable: false,
        receive_maximum: NonZeroU16::MAX,
        packet_bytes_max: u32::MAX,
        topic_alias_maximum: 0,
        keep_alive_secs: 0,
    });
    link
}

/// Returns how many bytes the plain loop moved.
fn plain(packet: &[u8], receivers: &mut [Vec<u8>]) -> u64 {
    let mut bytes = 0;
    for receiver in receivers.iter_mut() {
        receiver.extend_from_slice(packet);
    }
    for receiver in receivers {
        bytes += receiver.len() as u64;
        receiver.clear();
    }
    bytes
}

fn bench(receivers: u32) -> anyhow::Result<()> {
    let system = System::new();
    let counters = Arc::new(Counters::default());
    let config = WorkerConfig {
        index: 0,
        fronts: fronts(),
        limits: vec![LinkLimits::default()],
        interests: Interests::new(1),
        counters: Arc::clone(&counters),
    };
    let (worker, router, links) = system.block_on(async {
        let (worker, router) = Worker::start(config)?;
        let mut links = Vec::new();
        for _ in 0..receivers {
            let link = connect(&worker);
            let options = SubscriptionOptions::default();
            let filter = TopicFilter::parse(TOPIC)?;
            let items = vec![Subscription { filter, options, id: None }];
            router.send(Subscribe { connection: link.id(), app: APP, items }).await?;
            links.push(link);
        }
        anyhow::Ok((worker, router, links))
    })?;
    let message = message()?;
    let packet = vec![b'p'; PAYLOAD_BYTES + TOPIC.len() + 5];
    let mut vectors = vec![Vec::new(); receivers as usize];
    let rounds = 1_000_000 / receivers;
    let through_router = || {
        system.block_on(async {
            for _ in 0..rounds {
                let messages = [Arc::clone(&message)].into_iter().collect();
                let _ = router.send(Publish { messages }).await;
            }
            flusher::flush_all(&worker);
            counters.bytes_out.get()
        })
    };
    let through_vectors = || (0..rounds).map(|_| plain(&packet, &mut vectors)).sum();
    ratio::compare(
        &format!("1 -> {receivers}, {PAYLOAD_BYTES} bytes, per delivery"),
        rounds * receivers,
        vec![("router", Box::new(through_router)), ("plain loop", Box::new(through_vectors))],
    );
    drop(links);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    // A worker belongs to its thread.
    for receivers in [1_000, 50_000] {
        let thread = std::thread::spawn(move || bench(receivers));
        thread.join().map_err(|_| anyhow::anyhow!("the bench panicked"))??;
    }
    Ok(())
}
