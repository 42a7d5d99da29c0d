//! What it costs to propose where the leader is not: three nodes in one process, links over loopback.
//!
//! - Shape: one shard, led by one node; callers propose 256 B each, the next after the reply; in turn at
//!   the leader and at a follower.
//! - Gives: rate, p50 and p99, CPU time of the whole process per command, and the follower's ratio.
//! - Bound: each row runs for `SECONDS`, in `TURNS` turns; the best of a row's turns is shown.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]

use std::{
    fs,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hongqiao_cluster::{
    Cluster, ClusterHandle, Durability, Machine, Options, Peering, Secret, Store, StoreMut,
    id::{NodeId, ShardId},
};
use tokio::runtime::Runtime;

const SECONDS: u64 = 2;
const TURNS: usize = 3;
const SHARD: ShardId = ShardId(0);

struct Mailbox;

impl Machine for Mailbox {
    fn load(&mut self, _store: &dyn Store) {}

    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        store.put_new(index.to_be_bytes().to_vec(), command.clone());
        Bytes::new()
    }
}

fn start(folder: &std::path::Path, node: u64, addresses: &[String]) -> Cluster<Mailbox> {
    let own = &addresses[usize::try_from(node).unwrap() - 1];
    let join = if node == 1 { Vec::new() } else { vec![addresses[0].clone()] };
    let peering = Peering {
        listen: own.parse().unwrap(),
        advertise: own.clone(),
        secret: Secret::new(b"secret of a bench"),
        join,
    };
    let options = Options {
        node: NodeId(node),
        shards: 1,
        durability: Durability::Os,
        peering: Some(peering),
        ..Options::new(folder.join(node.to_string()))
    };
    Cluster::start(options, |_| Mailbox, Arc::new(|_: &_, _: &_| {})).unwrap()
}

struct Row {
    rate: f64,
    p50_us: u128,
    p99_us: u128,
    cpu_us: f64,
}

fn run(runtime: &Runtime, handle: &ClusterHandle<Mailbox>, callers: usize) -> Row {
    let stop = Arc::new(AtomicBool::new(false));
    let command = Bytes::from(vec![7; 256]);
    let (cpu, started) = (cpu_seconds(), Instant::now());
    let mut all: Vec<Duration> = runtime.block_on(async {
        let task = |handle: ClusterHandle<Mailbox>| {
            let (stop, command) = (stop.clone(), command.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    handle.propose(SHARD, command.clone()).await.unwrap();
                    latencies.push(started.elapsed());
                }
                latencies
            })
        };
        let tasks: Vec<_> = (0..callers).map(|_| task(handle.clone())).collect();
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    all.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    let count = all.len() as f64;
    Row {
        rate: count / took,
        p50_us: all[all.len() / 2].as_micros(),
        p99_us: all[all.len() * 99 / 100].as_micros(),
        cpu_us: cpu * 1e6 / count,
    }
}

fn main() {
    let folder = std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into());
    let temp = tempfile::tempdir_in(folder).unwrap();
    let ports: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = ports.iter().map(|p| p.local_addr().unwrap().to_string()).collect();
    drop(ports);
    let nodes: Vec<_> = (1..=3).map(|node| start(temp.path(), node, &addresses)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let settled = || {
        let full = |node: &Cluster<Mailbox>| {
            node.handle().status().groups.iter().all(|group| group.voters.len() == 3)
        };
        nodes.iter().all(full)
    };
    while !settled() {
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    }
    runtime.block_on(async { tokio::time::sleep(Duration::from_secs(2)).await });
    println!("3 nodes, 1 shard, 256 B per command, os, best of {TURNS} turns of {SECONDS} s");
    for callers in [1, 16, 256] {
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let leads = |node: &&Cluster<Mailbox>| node.handle().leadership(SHARD).borrow().here;
            let leader = nodes.iter().find(leads).unwrap();
            let other = nodes.iter().find(|node| !leads(node)).unwrap();
            local.push(run(&runtime, &leader.handle(), callers));
            remote.push(run(&runtime, &other.handle(), callers));
        }
        let best = |rows: Vec<Row>| rows.into_iter().max_by(|a, b| a.rate.total_cmp(&b.rate));
        let (local, remote) = (best(local).unwrap(), best(remote).unwrap());
        for (what, row) in [("leader", &local), ("follower", &remote)] {
            println!(
                "{callers:3} callers at the {what:8} {:>7.0}/s  {:.2} x  p50 {:>6} us  p99 {:>6} us  {:>6.1} us CPU each",
                row.rate,
                row.rate / local.rate,
                row.p50_us,
                row.p99_us,
                row.cpu_us,
            );
        }
    }
    nodes.into_iter().for_each(Cluster::shutdown);
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
