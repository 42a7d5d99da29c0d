//! One million connections in one process over an in-memory transport: bytes each, deliveries a second.
//!
//! - Takes: `--connections N` (1,000,000), `--workers N` (2), `--filters` (each subscribes to a filter of
//!   its own, too). Gives: a table on standard output; exits with 1 if a limit is missed.
//! - What is real: connection actors, codec, links, routers, flusher, wheel. What is not: sockets (a
//!   script of 16 bytes of state each), the homes and shards (the backend below grants everything).
//! - Bound: `BYTES_MAX` of resident memory for a million; `DELIVERIES_PER_SECOND_MIN`.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use actix::{Addr, Arbiter, System};
use bytes::{BufMut as _, Bytes, BytesMut};
use hongqiao::{
    actors::{
        appender::SubmitError,
        connection::{
            backend::{self, Backend, Later, PageError, Subscriber},
            options::ListenerOptions,
            start,
        },
        counters::Counters,
        home::{Claim, ClaimError, Release},
        interest::Interests,
        publish::{Outcome, Published},
        socket::Socket,
        topic_router::{Publish, Subscribe, Subscription, TopicRouter},
        worker::{LinkLimits, Worker, WorkerConfig},
    },
    auth::{Admission, Credentials, Principal, Verdict},
    clock,
    front::mqtt::fronts,
    model::{
        id::{AppId, Epoch, HashKey, Position, SessionKey},
        message::{Message, Qos},
        session::admission::Offer,
        topic::{TopicFilter, TopicName},
        wire::DecodeLimits,
    },
    shard::command::{Claimed, Command, FiltersFull, Page, Reply, StoredSubscription},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Resident bytes that a million connected, subscribed and served connections may take.
const BYTES_MAX: u64 = 900_000_000;
const DELIVERIES_PER_SECOND_MIN: f64 = 5_000_000.0;
const ROUNDS: usize = 10;
const APP: AppId = AppId(1);
const TOPIC: &str = "news/all";
const PAYLOAD_BYTES: usize = 64;

/// What the sockets of a worker share: how far the script is.
#[derive(Default)]
struct Script {
    stage: Cell<u8>,
}

/// A client that says one packet per stage, and reads everything.
struct ScriptSocket {
    script: Rc<Script>,
    number: u32,
    said: Cell<u8>,
    distinct: bool,
}

impl ScriptSocket {
    fn say(&self, stage: u8, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        if stage == 1 {
            let id = format!("c{}", self.number);
            body.put_slice(b"\0\x04MQTT\x04\x02\0\x3c");
            put_text(&mut body, &id);
            out.put_u8(0x10);
        } else {
            body.put_u16(1);
            put_text(&mut body, TOPIC);
            body.put_u8(0);
            if self.distinct {
                put_text(&mut body, &format!("device/{:07}/inbox", self.number));
                body.put_u8(0);
            }
            out.put_u8(0x82);
        }
        out.put_u8(u8::try_from(body.len()).unwrap_or(127));
        out.put_slice(&body);
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

impl Socket for ScriptSocket {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The bench wakes every link when the script goes on.
        if self.said.get() < self.script.stage.get() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let stage = self.said.get() + 1;
        if stage > self.script.stage.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = buffer.len();
        self.say(stage, buffer);
        self.said.set(stage);
        Ok(buffer.len() - before)
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

/// Grants everything; subscriptions go to the real router.
struct Grant {
    router: Addr<TopicRouter>,
    hash_key: HashKey,
}

impl Backend for Grant {
    fn authenticate(&self, admission: &Admission, _: Credentials) -> Verdict {
        Verdict::Now(Ok(Principal { app: admission.app, user: None }))
    }

    fn session_key(&self, app: AppId, client_id: &str) -> SessionKey {
        self.hash_key.session(app, client_id)
    }

    fn claim(&self, _: Claim) -> Later<Result<Box<Claimed>, ClaimError>> {
        Box::pin(async { Ok(Box::default()) })
    }

    fn release(&self, _: Release) -> Later<()> {
        Box::pin(async {})
    }

    fn submit(&self, _: SessionKey, _: Command) -> Later<Result<Reply, SubmitError>> {
        Box::pin(async { Ok(Reply::Done) })
    }

    fn page(
        &self,
        _: SessionKey,
        _: Epoch,
        _: Position,
        _: usize,
        _: usize,
    ) -> Later<Result<Page, PageError>> {
        Box::pin(async { Ok(Page::default()) })
    }

    fn publish(&self, _: &[Arc<Message>]) -> Published {
        Published { outcomes: Vec::new(), taken: None }
    }

    fn publish_again(&self, messages: &[Arc<Message>]) -> Vec<Outcome> {
        messages.iter().map(|_| Outcome::Done(Ok(()))).collect()
    }

    fn subscribe(
        &self,
        who: Subscriber,
        items: Vec<StoredSubscription>,
        _: usize,
        _: u32,
    ) -> Later<Vec<Result<bool, FiltersFull>>> {
        let item = |item: StoredSubscription| Subscription {
            filter: item.filter,
            options: item.options,
            id: NonZeroU32::new(item.subscription_id),
        };
        let items = items.into_iter().map(item).collect();
        let sent = self.router.send(Subscribe { connection: who.connection, app: who.app, items });
        Box::pin(async move { sent.await.unwrap_or_default().into_iter().map(Ok).collect() })
    }

    fn unsubscribe(&self, _: Subscriber, _: Vec<(Option<Bytes>, TopicFilter)>) -> Later<Vec<bool>> {
        Box::pin(async { Vec::new() })
    }

    fn leave(&self, _: Subscriber, _: Vec<(Bytes, TopicFilter)>) {}

    fn send_retained(&self, _: Subscriber, _: StoredSubscription) {}
}

/// One worker thread as the bench sees it.
struct Thread {
    arbiter: Arbiter,
    counters: Arc<Counters>,
    router: Addr<TopicRouter>,
}

thread_local! {
    static SCRIPT: Rc<Script> = Rc::default();
}

fn listener() -> Arc<ListenerOptions> {
    let decode = DecodeLimits {
        packet_bytes_max: 1 << 20,
        topic_bytes_max: 1_024,
        topic_levels_max: 32,
        filters_per_packet_max: 64,
        user_properties_max: 64,
    };
    let offer = Offer {
        receive_maximum: NonZeroU16::MAX,
        packet_bytes_max: NonZeroU32::MAX,
        topic_alias_maximum: 0,
        keep_alive_secs_max: 0,
        session_expiry_secs_max: 0,
        maximum_qos: Qos::ExactlyOnce,
        retain_available: true,
        client_id_bytes_max: 64,
    };
    let admission = Admission { app_name: "demo#demo".into(), app: APP, anonymous: true };
    let all = u32::MAX;
    Arc::new(ListenerOptions::new("million", admission, (offer, decode), all, 1 << 20, 64))
}

fn spawn(index: u8, interests: &Interests) -> Thread {
    let counters = Arc::new(Counters::default());
    let config = WorkerConfig {
        index,
        fronts: fronts(),
        limits: vec![LinkLimits { connect_secs: 600, ..LinkLimits::default() }],
        interests: interests.clone(),
        counters: Arc::clone(&counters),
    };
    let arbiter = Arbiter::new();
    let place = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&place);
    arbiter.spawn_fn(move || {
        if let Ok((_, router)) = Worker::start(config) {
            let hash_key = HashKey([7; 16]);
            backend::install(Box::new(Grant { router: router.clone(), hash_key }));
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(router);
        }
    });
    let router = loop {
        if let Some(router) = place.lock().unwrap_or_else(PoisonError::into_inner).take() {
            break router;
        }
        std::thread::yield_now();
    };
    Thread { arbiter, counters, router }
}

impl Thread {
    /// Opens `count` connections in bites, so that the thread's other tasks run between them.
    fn open(&self, first: u32, count: u32, distinct: bool) {
        let listener = listener();
        self.arbiter.spawn(async move {
            for number in first..first + count {
                let script = SCRIPT.with(Rc::clone);
                let socket = ScriptSocket { script, number, said: Cell::new(0), distinct };
                start(socket, &listener);
                if number % 1_000 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }

    /// Lets every client say its next packet.
    fn go_on(&self, stage: u8) {
        self.arbiter.spawn_fn(move || {
            SCRIPT.with(|script| script.stage.set(stage));
            Worker::with(|worker| worker.for_each(|link| link.wake()));
        });
    }
}

/// Returns the resident memory of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

/// Returns the processor time that this process has used; ticks are hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Waits until the threads have together counted `want`.
async fn until(threads: &[Thread], want: u64, count: impl Fn(&Counters) -> u64) {
    loop {
        let have: u64 = threads.iter().map(|thread| count(&thread.counters)).sum();
        if have >= want {
            return;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// Publishes one message on all threads and waits until its last byte is written.
async fn fan_out(threads: &[Thread], connections: u64) -> f64 {
    let written = |counters: &Counters| counters.bytes_out.get();
    let before: u64 = threads.iter().map(|thread| written(&thread.counters)).sum();
    let message = Arc::new(Message {
        app: APP,
        topic: TopicName::parse(TOPIC).unwrap_or_else(|_| std::process::abort()),
        publisher: None,
        id: None,
        qos: Qos::AtMostOnce,
        retain: false,
        published_at_ms: 0,
        expires_at_ms: None,
        properties: Bytes::new(),
        payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES]),
    });
    // 3.1.1: fixed header 2, topic length 2.
    let frame = (2 + 2 + TOPIC.len() + PAYLOAD_BYTES) as u64;
    let start = clock::now();
    let publish = |thread: &Thread| {
        thread.router.send(Publish { messages: [Arc::clone(&message)].into_iter().collect() })
    };
    let sent: Vec<_> = threads.iter().map(publish).collect();
    for reply in sent {
        let _ = reply.await;
    }
    until(threads, before + frame * connections, written).await;
    start.elapsed().as_secs_f64()
}

/// What the bench was told.
struct Arguments {
    connections: u32,
    workers: u8,
    distinct: bool,
}

fn arguments() -> Arguments {
    let all: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u32| {
        let value = all.iter().position(|argument| argument == name);
        value.and_then(|place| all.get(place + 1)?.parse().ok()).unwrap_or(default)
    };
    Arguments {
        connections: number("--connections", 1_000_000),
        workers: u8::try_from(number("--workers", 2)).unwrap_or(2),
        distinct: all.iter().any(|argument| argument == "--filters"),
    }
}

#[expect(clippy::print_stdout, reason = "a bench talks to a person")]
async fn run(arguments: &Arguments) -> bool {
    let (connections, workers) = (arguments.connections, arguments.workers);
    let interests = Interests::new(workers.into());
    let threads: Vec<_> = (0..workers).map(|index| spawn(index, &interests)).collect();
    let total = u64::from(connections);
    let empty = resident();
    let each = |bytes: u64| bytes.saturating_sub(empty) as f64 / total as f64;
    let report = |what: &str| {
        let bytes = resident();
        println!("  {what:<34} {:>8.1} MB  {:>7.1} B each", bytes as f64 / 1e6, each(bytes));
    };
    println!("{connections} connections, {workers} workers");
    report("empty");
    let share = connections / u32::from(workers);
    for (index, thread) in (0..).zip(&threads) {
        let rest =
            if index + 1 == u32::from(workers) { connections % u32::from(workers) } else { 0 };
        thread.open(index * share, share + rest, arguments.distinct);
    }
    until(&threads, total, |counters| counters.connections.get()).await;
    report("open");
    for (stage, bytes, what) in [(1, 4, "connected"), (2, 5, "subscribed")] {
        let bytes = bytes + u64::from(stage == 2 && arguments.distinct);
        let before: u64 = threads.iter().map(|thread| thread.counters.bytes_out.get()).sum();
        threads.iter().for_each(|thread| thread.go_on(stage));
        until(&threads, before + bytes * total, |counters| counters.bytes_out.get()).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        report(what);
    }
    let first = fan_out(&threads, total).await;
    report("delivered one message each");
    let bytes = resident();
    let mut times = vec![first];
    let cpu = cpu_seconds();
    for _ in 1..ROUNDS {
        times.push(fan_out(&threads, total).await);
    }
    let cpu = (cpu_seconds() - cpu) / (ROUNDS - 1) as f64 * 1e6 / total as f64;
    times.sort_by(f64::total_cmp);
    let median = total as f64 / times[ROUNDS / 2];
    let (slowest, fastest) = (total as f64 / times[ROUNDS - 1], total as f64 / times[0]);
    println!(
        "  deliveries/s                       {:>8.2} M   [{:.2}, {:.2}]",
        median / 1e6,
        slowest / 1e6,
        fastest / 1e6
    );
    println!("  CPU s per million deliveries       {cpu:>8.3}");
    let memory_ok = connections < 1_000_000 || bytes <= BYTES_MAX;
    if !memory_ok {
        println!("  missed: {bytes} bytes, at most {BYTES_MAX}");
    }
    let rate_ok = median >= DELIVERIES_PER_SECOND_MIN;
    if !rate_ok {
        println!("  missed: at least {:.1} M deliveries/s", DELIVERIES_PER_SECOND_MIN / 1e6);
    }
    memory_ok && rate_ok
}

fn main() {
    let arguments = arguments();
    let fine = System::new().block_on(run(&arguments));
    // The arbiters are not joined: dropping a million actors one by one proves nothing.
    std::process::exit(i32::from(!fine))
}
