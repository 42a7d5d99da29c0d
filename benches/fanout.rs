//! Fan-out through a router to the links of one thread, beside a plain loop that writes to vectors.
//!
//! - Takes: one message of 256 bytes for 1,000 and for 50,000 receivers. Gives: nanoseconds per
//!   delivery and the ratio; run it with `cargo bench --bench fanout`.
//! - What is counted: matching, encoding once, an outbox per receiver, one write per receiver into a
//!   socket that throws it away. The plain loop copies an encoded packet into one vector per receiver
//!   and empties them: what nobody can do without.

#[path = "support/ratio.rs"]
mod ratio;
#[path = "support/script.rs"]
mod script;

use std::{num::NonZeroU16, rc::Rc, sync::Arc};

use actix::System;
use hongqiao::{
    actors::{
        counters::Counters,
        flusher,
        interest::Interests,
        link::{AnyLink, ClientTerms},
        topic_router::{Publish, Subscribe, Subscription},
        worker::{LinkLimits, Worker, WorkerConfig},
    },
    front::mqtt::fronts,
    model::{
        id::SessionKey,
        topic::TopicFilter,
        wire::{Dialect, SubscriptionOptions},
    },
};
use script::{APP, ScriptSocket, TOPIC};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAYLOAD_BYTES: usize = 256;

fn connect(worker: &Rc<Worker>) -> Rc<AnyLink> {
    // Never says anything, and what is written to it is gone.
    let link = worker.open(ScriptSocket::new(Rc::default(), 0, false), 0);
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
        live_routes: Arc::default(),
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
            let subscribe = Subscribe { connection: link.id(), app: APP, items, keep_live: false };
            router.send(subscribe).await?;
            links.push(link);
        }
        anyhow::Ok((worker, router, links))
    })?;
    let message = script::message(PAYLOAD_BYTES)?;
    let packet = vec![b'p'; PAYLOAD_BYTES + TOPIC.len() + 5];
    let mut vectors = vec![Vec::new(); receivers as usize];
    let rounds = 1_000_000 / receivers;
    let through_router = || {
        system.block_on(async {
            for _ in 0..rounds {
                let _ = router.send(Publish::of([Arc::clone(&message)])).await;
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
