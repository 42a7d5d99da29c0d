//! One million connections in one process over an in-memory transport: bytes each, deliveries a second.
//!
//! - Takes: `--connections N` (1,000,000), `--workers N` (2), `--filters` (each subscribes to a filter of
//!   its own, too). Gives: a table on standard output; exits with 1 if a limit is missed.
//! - What is real: connection actors, codec, links, routers, flusher, wheel. What is not: sockets (a
//!   script of 16 bytes of state each), the homes and shards (the backend below grants everything).
//! - Bound: `BYTES_MAX` of resident memory for a million; `DELIVERIES_PER_SECOND_MIN`.

#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/script.rs"]
mod script;

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix::{Addr, Arbiter, System};
use hongqiao::{
    actors::{
        connection::start,
        counters::Counters,
        interest::Interests,
        topic_router::{Publish, TopicRouter},
        worker::Worker,
    },
    clock,
};
use script::{Script, ScriptSocket, TOPIC};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Resident bytes that a million connected, subscribed and served connections may take.
const BYTES_MAX: u64 = 900_000_000;
const DELIVERIES_PER_SECOND_MIN: f64 = 5_000_000.0;
const ROUNDS: usize = 10;
const PAYLOAD_BYTES: usize = 64;

thread_local! {
    static SCRIPT: Rc<Script> = Rc::default();
}

/// One worker thread as the bench sees it.
struct Thread {
    arbiter: Arbiter,
    counters: Arc<Counters>,
    router: Addr<TopicRouter>,
}

fn spawn(index: u8, interests: &Interests) -> Thread {
    let counters = Arc::new(Counters::default());
    let arbiter = Arbiter::new();
    let place = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&place);
    let (interests, shared) = (interests.clone(), Arc::clone(&counters));
    arbiter.spawn_fn(move || {
        if let Some((_, router)) = crowd::start_worker(index, &interests, &shared) {
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
        let listener = crowd::listener();
        self.arbiter.spawn(async move {
            for number in first..first + count {
                let script = SCRIPT.with(Rc::clone);
                start(ScriptSocket::new(script, number, distinct), &listener);
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
    let message = script::message(PAYLOAD_BYTES).unwrap_or_else(|_| std::process::abort());
    // 3.1.1: fixed header 2, topic length 2.
    let frame = (2 + 2 + TOPIC.len() + PAYLOAD_BYTES) as u64;
    let start = clock::now();
    let publish = |thread: &Thread| thread.router.send(Publish::of([Arc::clone(&message)]));
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
    println!("{}", machine::line());
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
