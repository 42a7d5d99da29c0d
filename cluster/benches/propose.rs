//! Acknowledged operations per second of one node, beside a raw append with the same flushes.
//!
//! - Shape: 16 shards, concurrent callers, each proposing 64 messages of 256 B at a time, its next
//!   proposal after the reply; the machine stores every message under a key of its own.
//! - Baseline: one file, one thread, the same bytes per entry, one write (and fdatasync) per 16 entries.
//! - Gives: rates, CPU time per message and ratios on stdout.
//! - Bound: each row runs for `SECONDS`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]
#![allow(clippy::cast_possible_truncation)]

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hongqiao_cluster::{Cluster, Durability, Machine, Options, Store, StoreMut, id::ShardId};

const SHARDS: u16 = 16;
const MESSAGES: usize = 64;
const MESSAGE_BYTES: usize = 256;
const SECONDS: u64 = 5;

/// Stores each message of a command under the next position.
struct Mailbox {
    next: u64,
    keep: bool,
}

impl Machine for Mailbox {
    fn load(&mut self, store: &dyn Store) {
        self.next = store.last(&[], &[0xFF]).map_or(0, |_| 0);
    }

    fn apply(&mut self, _index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        for at in (0..command.len()).step_by(MESSAGE_BYTES) {
            let mut key = b"bucket-log-".to_vec();
            key.extend_from_slice(&self.next.to_be_bytes());
            store.put_new(key.clone(), command.slice(at..at + MESSAGE_BYTES));
            self.next += 1;
            if !self.keep {
                store.delete(&key);
            }
        }
        Bytes::new()
    }
}

fn main() {
    let folder = std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into());
    println!("{SHARDS} shards, {MESSAGES} x {MESSAGE_BYTES} B per proposal, {SECONDS} s per row");
    for durability in [Durability::Disk, Durability::Os] {
        let temp = tempfile::tempdir_in(&folder).unwrap();
        let baseline = raw(temp.path(), durability);
        println!("{durability:?}: raw append {baseline:>12.0} messages/s  1.00 x");
        for (callers, keep) in [(8, true), (32, true), (128, true), (32, false)] {
            let temp = tempfile::tempdir_in(&folder).unwrap();
            let row = node(temp.path(), durability, callers, keep);
            let what = if keep { "kept" } else { "acknowledged at once" };
            println!(
                "{durability:?}: {callers:3} callers, {what:20} {:>9.0} messages/s  {:.3} x  {:.2} us CPU each  p99 {:.1} ms",
                row.rate,
                row.rate / baseline,
                row.cpu_us,
                row.p99_ms,
            );
        }
    }
    idle(&folder);
}

fn raw(folder: &Path, durability: Durability) -> f64 {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(folder.join("raw"))
        .unwrap();
    let batch = vec![7; usize::from(SHARDS) * MESSAGES * MESSAGE_BYTES];
    let started = Instant::now();
    let mut rounds = 0;
    while started.elapsed() < Duration::from_secs(2) && rounds < 4_000 {
        file.write_all_at(&batch, rounds * batch.len() as u64).unwrap();
        if durability == Durability::Disk {
            file.sync_data().unwrap();
        }
        rounds += 1;
    }
    (rounds as usize * usize::from(SHARDS) * MESSAGES) as f64 / started.elapsed().as_secs_f64()
}

struct Row {
    rate: f64,
    cpu_us: f64,
    p99_ms: f64,
}

fn node(folder: &Path, durability: Durability, callers: u16, keep: bool) -> Row {
    let options = Options { durability, shards: SHARDS, ..Options::new(folder.join("data")) };
    let node = Cluster::start(options, |_| Mailbox { next: 0, keep }, Arc::new(|_, _| {})).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let command = Bytes::from(vec![7; MESSAGES * MESSAGE_BYTES]);
    let cpu = cpu_seconds();
    let started = Instant::now();
    let mut latencies = runtime.block_on(async {
        let mut tasks = Vec::new();
        for caller in 0..callers {
            let (handle, stop, count) = (node.handle(), stop.clone(), count.clone());
            let command = command.clone();
            tasks.push(tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut round = caller;
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    round = round.wrapping_add(1);
                    handle.propose(ShardId(round % SHARDS), command.clone()).await.unwrap();
                    latencies.push(started.elapsed());
                    count.fetch_add(MESSAGES as u64, Ordering::Relaxed);
                }
                latencies
            }));
        }
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    let elapsed = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    let stats = node.handle().stats();
    if std::env::var("BENCH_STATS").is_ok() {
        println!("{stats:?}");
    }
    node.shutdown();
    latencies.sort_unstable();
    let messages = count.load(Ordering::Relaxed) as f64;
    Row {
        rate: messages / elapsed,
        cpu_us: cpu * 1e6 / messages,
        p99_ms: latencies[latencies.len() * 99 / 100].as_secs_f64() * 1e3,
    }
}

/// What a node costs that nobody talks to, and how long its start takes.
fn idle(folder: &str) {
    let temp = tempfile::tempdir_in(folder).unwrap();
    let options = Options { shards: SHARDS, ..Options::new(temp.path().join("data")) };
    for start in ["first start", "restart"] {
        let started = Instant::now();
        let node = Cluster::start(
            options.clone(),
            |_| Mailbox { next: 0, keep: true },
            Arc::new(|_, _| {}),
        )
        .unwrap();
        let took = started.elapsed();
        let cpu = cpu_seconds();
        let (_never, wait) = std::sync::mpsc::channel::<()>();
        let _ = wait.recv_timeout(Duration::from_secs(5));
        let idle = (cpu_seconds() - cpu) / 5.0;
        println!(
            "{start}: {:.0} ms; idle: {:.2} % of one core",
            took.as_secs_f64() * 1e3,
            idle * 100.0
        );
        node.shutdown();
    }
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
