//! Joins of chat rooms per second at the handles of three nodes in one process, with readers beside them.
//!
//! - Shape: `ROOMS` rooms; on each node `CALLERS` callers, each with one join under way at a time, of a new user
//!   of a random room. One reader per node reads pages of members in its directory meanwhile, a thousand a second.
//! - Baseline: one thread that appends the same joins to a file, one flush per `BATCH` of them, and keeps them
//!   in a map.
//! - Gives: joins/s and their latency, reads/s and the longest one, ratios on stdout.
//! - Bound: each row runs for `SECONDS`. In the environment `NODES`, `ROOMS` and `SECONDS` set other numbers.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]
#![allow(clippy::cast_possible_truncation)]

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hongqiao_cluster::{
    Cluster, Durability, Machine, MetaCommand, MetaHandle, MetaReply, Options, Peering, Role,
    RoomCommand, RoomKind, RoomReply, Secret, Store, StoreMut, id::NodeId, no_sink,
};

static ROOMS: LazyLock<u64> = LazyLock::new(|| told("ROOMS", 1_000));
static SECONDS: LazyLock<u64> = LazyLock::new(|| told("SECONDS", 5));
const CALLERS: u64 = 256;
const BATCH: usize = 256;

/// Shards take no part.
struct Nothing;

impl Machine for Nothing {
    fn load(&mut self, _store: &dyn Store) {}

    fn apply(&mut self, _index: u64, _command: &Bytes, _store: &mut dyn StoreMut) -> Bytes {
        Bytes::new()
    }
}

fn main() {
    let folder = std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into());
    let (nodes, rooms, seconds) = (told("NODES", 3), *ROOMS, *SECONDS);
    println!("{nodes} nodes, {rooms} rooms, {CALLERS} callers per node, {seconds} s per row");
    for durability in [Durability::Disk, Durability::Os] {
        let temp = tempfile::tempdir_in(&folder).unwrap();
        let baseline = raw(temp.path(), durability);
        println!("{durability:?}: raw append and map {baseline:>9.0} joins/s  1.00 x");
        let temp = tempfile::tempdir_in(&folder).unwrap();
        let cluster = form(temp.path(), durability, nodes);
        let row = run(&cluster);
        println!(
            "{durability:?}: {:>9.0} joins/s  {:.3} x  {:.1} us CPU each  p50 {:.1} ms  p99 {:.1} ms; \
             {:.0} reads/s beside them, the longest {:.2} ms",
            row.joins,
            row.joins / baseline,
            row.cpu_us,
            row.p50_ms,
            row.p99_ms,
            row.reads,
            row.longest_read_ms
        );
        for node in cluster {
            node.shutdown();
        }
    }
}

/// Returns a number of the environment.
fn told(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap())
}

fn room(number: u64) -> Bytes {
    Bytes::from(format!("demo#demo/{number}"))
}

fn user(number: u64) -> Bytes {
    Bytes::from(format!("demo#demo/user-{number}"))
}

fn raw(folder: &Path, durability: Durability) -> f64 {
    let path = folder.join("raw");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
    let mut members = BTreeMap::new();
    let started = Instant::now();
    let mut number = 0;
    let mut batch = Vec::new();
    while started.elapsed() < Duration::from_secs(2) {
        batch.clear();
        for _ in 0..BATCH {
            let key = (room(number % *ROOMS), user(number));
            batch.extend_from_slice(&key.0);
            batch.extend_from_slice(&key.1);
            members.insert(key, number);
            number += 1;
        }
        file.write_all(&batch).unwrap();
        if durability == Durability::Disk {
            file.sync_data().unwrap();
        }
    }
    number as f64 / started.elapsed().as_secs_f64()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts nodes and waits until each is a member that may rely on its directory.
fn form(folder: &Path, durability: Durability, nodes: u64) -> Vec<Cluster<Nothing>> {
    let first = free_address();
    let start = |node: u64| {
        let listen = if node == 1 { first } else { free_address() };
        let join = if node == 1 { Vec::new() } else { vec![first.to_string()] };
        let secret = Secret::new(b"a secret of thirty-two characters");
        let peering = Peering { listen, advertise: listen.to_string(), secret, join };
        let options = Options {
            durability,
            shards: 1,
            node: NodeId(node),
            peering: (nodes > 1).then_some(peering),
            ..Options::new(folder.join(format!("data-{node}")))
        };
        Cluster::start(options, |_| Nothing, no_sink()).unwrap()
    };
    let cluster: Vec<_> = (1..=nodes).map(start).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    let (_never, wait) = std::sync::mpsc::channel::<()>();
    let is_formed = |node: &Cluster<Nothing>| {
        let handle = node.handle();
        handle.meta().directory().nodes.len() as u64 == nodes && handle.meta().has_lease()
    };
    while !cluster.iter().all(is_formed) {
        assert!(Instant::now() < deadline, "the nodes have not met");
        let _ = wait.recv_timeout(Duration::from_millis(20));
    }
    cluster
}

struct Row {
    joins: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
    reads: f64,
    longest_read_ms: f64,
}

fn run(cluster: &[Cluster<Nothing>]) -> Row {
    let handles: Vec<_> = cluster.iter().map(|node| node.handle().meta().clone()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(make_rooms(&handles[0]));
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = handles.iter().map(|meta| reader(meta.clone(), stop.clone())).collect();
    let numbers = Arc::new(AtomicU64::new(0));
    let cpu = cpu_seconds();
    let started = Instant::now();
    let mut latencies = runtime.block_on(async {
        let mut tasks = Vec::new();
        for (node, meta) in (1..).zip(&handles) {
            let from = Some((NodeId(node), meta.incarnation()));
            for _ in 0..CALLERS {
                let (meta, stop, numbers) = (meta.clone(), stop.clone(), numbers.clone());
                tasks.push(tokio::spawn(join(meta, from, stop, numbers)));
            }
        }
        tokio::time::sleep(Duration::from_secs(*SECONDS)).await;
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    let elapsed = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    let reads: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    latencies.sort_unstable();
    let at = |share: usize| latencies[latencies.len() * share / 100].as_secs_f64() * 1e3;
    let longest = reads.iter().map(|(_, longest)| *longest).max().unwrap();
    Row {
        joins: latencies.len() as f64 / elapsed,
        cpu_us: cpu * 1e6 / latencies.len() as f64,
        p50_ms: at(50),
        p99_ms: at(99),
        reads: reads.iter().map(|(count, _)| *count).sum::<u64>() as f64 / elapsed,
        longest_read_ms: longest.as_secs_f64() * 1e3,
    }
}

async fn make_rooms(meta: &MetaHandle) {
    let proposed: Vec<_> = (0..*ROOMS)
        .map(|number| {
            let (kind, owner, facts) = (RoomKind::Room, user(0), Bytes::new());
            let room = room(number);
            meta.propose(MetaCommand::Room(RoomCommand::Create { room, kind, owner, facts }))
        })
        .collect();
    for proposed in proposed {
        let (reply, _) = proposed.await.unwrap();
        assert_eq!(reply, MetaReply::Room(RoomReply::Done));
    }
}

/// Joins one new user after the other; each has the reply before the next.
async fn join(
    meta: MetaHandle,
    from: Option<(NodeId, u64)>,
    stop: Arc<AtomicBool>,
    numbers: Arc<AtomicU64>,
) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        // Spreads users over rooms without a pattern that neighbours share.
        let room = room(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % *ROOMS);
        let command = RoomCommand::Join { room, user: user(number), role: Role::Member, from };
        let started = Instant::now();
        let (reply, _) = meta.propose(MetaCommand::Room(command)).await.unwrap();
        assert!(matches!(reply, MetaReply::Room(RoomReply::Joined { new: true, .. })), "{reply:?}");
        latencies.push(started.elapsed());
    }
    latencies
}

/// Reads a page of members of one room after the other, a thousand times a second.
fn reader(meta: MetaHandle, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(u64, Duration)> {
    std::thread::spawn(move || {
        let (mut count, mut longest, mut members) = (0, Duration::ZERO, 0);
        let (_never, pause) = std::sync::mpsc::channel::<()>();
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..10 {
                let room = room(count % *ROOMS);
                let started = Instant::now();
                let directory = meta.directory();
                members += directory.rooms.members(&room, None).take(50).count();
                longest = longest.max(started.elapsed());
                count += 1;
            }
            let _ = pause.recv_timeout(Duration::from_millis(10));
        }
        std::hint::black_box(members);
        (count, longest)
    })
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
