//! Bytes of one connection in each of its states, beside what nobody can do without.
//!
//! - Takes: `--connections N` (65,536, so that tables which double are full). Gives: bytes that live in the
//!   allocator, per connection, and how many times those of a bare task; run it with
//!   `cargo bench --bench actor_memory`.
//! - What is counted: bytes asked of the allocator and not given back, so neither its own rounding nor the
//!   registration of a socket with the runtime. Resident memory over real sockets is measured by
//!   `hongqiao bench idle`.
//! - Baselines: a tokio task that holds the same socket and awaits it; the same in an actix actor with
//!   the stock `Context`, kept alive by a stream.

#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/script.rs"]
mod script;

use std::{alloc::System as SystemAllocator, future::poll_fn, rc::Rc, sync::Arc};

use actix::{Actor, AsyncContext as _, Context, StreamHandler, System};
use futures_util::stream;
use hongqiao::actors::{
    connection::start, counters::Counters, interest::Interests, socket::Socket as _,
    topic_router::Publish, worker::Worker,
};
use script::{Script, ScriptSocket};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<SystemAllocator> = &INSTRUMENTED_SYSTEM;

const PAYLOAD_BYTES: usize = 64;
/// More turns of the loop than any state takes.
const TURNS_MAX: u32 = 1_000_000;

/// Returns the bytes that live now.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// One line of the table.
struct Row {
    state: &'static str,
    bytes: f64,
}

/// An actor as the manual of actix shows it.
struct Stock {
    socket: ScriptSocket,
}

impl Actor for Stock {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.add_stream(stream::pending::<()>());
    }
}

impl StreamHandler<()> for Stock {
    fn handle(&mut self, (): (), _: &mut Self::Context) {
        self.socket.close();
    }
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Measures `open` per connection; nothing it makes ends before the process does.
async fn baseline(state: &'static str, connections: u32, open: impl Fn(ScriptSocket)) -> Row {
    let script = Rc::<Script>::default();
    let before = live();
    for number in 0..connections {
        open(ScriptSocket::new(Rc::clone(&script), number, false));
    }
    settle().await;
    Row { state, bytes: (live() - before) as f64 / f64::from(connections) }
}

/// Takes `connections` real ones through their states.
async fn states(connections: u32, distinct: bool) -> anyhow::Result<Vec<Row>> {
    let counters = Arc::new(Counters::default());
    let started = crowd::start_worker(0, &Interests::new(1), &counters);
    let (worker, router) = started.ok_or_else(|| anyhow::anyhow!("the worker did not start"))?;
    let (listener, script) = (crowd::listener(), Rc::<Script>::default());
    let before = live();
    let bytes = || (live() - before) as f64 / f64::from(connections);
    for number in 0..connections {
        start(ScriptSocket::new(Rc::clone(&script), number, distinct), &listener);
    }
    settle().await;
    let mut rows = vec![Row { state: "before CONNECT", bytes: bytes() }];
    let subscribed = if distinct { "with two subscriptions" } else { "with one subscription" };
    let mut written = 0;
    // CONNACK has 4 bytes, SUBACK 4 and one for each filter.
    let answers = [(1, 4, "connected"), (2, 5 + u64::from(distinct), subscribed)];
    for (stage, answer, state) in answers {
        script.stage.set(stage);
        Worker::with(|worker| worker.for_each(|link| link.wake()));
        written += answer * u64::from(connections);
        until(&counters, written).await?;
        rows.push(Row { state, bytes: bytes() });
    }
    router.send(Publish::of([script::message(PAYLOAD_BYTES)?])).await?;
    let frame = 2 + 2 + script::TOPIC.len() + PAYLOAD_BYTES;
    until(&counters, written + u64::try_from(frame)? * u64::from(connections)).await?;
    rows.push(Row { state: "after one delivery", bytes: bytes() });
    drop(worker);
    Ok(rows)
}

/// Waits until so many bytes are written, and what led there is put away.
async fn until(counters: &Counters, bytes_out: u64) -> anyhow::Result<()> {
    for _ in 0..TURNS_MAX {
        if counters.bytes_out.get() >= bytes_out {
            settle().await;
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
    anyhow::bail!("{} of {bytes_out} bytes were written", counters.bytes_out.get())
}

fn connections() -> u32 {
    let all: Vec<String> = std::env::args().collect();
    let place = all.iter().position(|argument| argument == "--connections");
    place.and_then(|place| all.get(place + 1)?.parse().ok()).unwrap_or(65_536)
}

#[expect(clippy::print_stdout, reason = "a bench talks to a person")]
fn main() -> anyhow::Result<()> {
    let connections = connections();
    let mut rows = System::new().block_on(async {
        let task = |socket: ScriptSocket| {
            actix::spawn(async move { poll_fn(|context| socket.poll_read_ready(context)).await });
        };
        let actor = |socket: ScriptSocket| drop(Stock { socket }.start());
        vec![
            baseline("a bare task", connections, task).await,
            baseline("a stock actor", connections, actor).await,
        ]
    });
    // A worker belongs to its thread.
    for distinct in [false, true] {
        let run = move || System::new().block_on(states(connections, distinct));
        let thread = std::thread::spawn(run).join();
        rows.extend(thread.map_err(|_| anyhow::anyhow!("the bench panicked"))??);
    }
    println!("{}", machine::line());
    println!("live bytes of one of {connections} connections");
    let bare = rows.first().map_or(1.0, |row| row.bytes);
    for Row { state, bytes } in &rows {
        println!("  {state:<24} {bytes:>7.1} B  {:>6.2} x", bytes / bare);
    }
    Ok(())
}
