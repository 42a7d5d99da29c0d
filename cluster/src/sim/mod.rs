//! A deterministic simulation: one seed gives a cluster, its faults and its clients; an oracle watches.
//!
//! ```text
//! seed ─▶ Shape ─▶ World ─▶ every millisecond: Faults, Clients, Hosts ─▶ Oracle ─▶ invariants/*
//!                           Host: the product's groups on twins of disk and network, and its own clock
//! ```
//!
//! - Owns: nothing outside a test. Takes: `HONGQIAO_SIM_RUNS` seeds from `HONGQIAO_SIM_FROM` on, or the one of
//!   `HONGQIAO_SIM_SEED`, shown with the logs of `HONGQIAO_SIM_LOG` (`openraft=debug,hongqiao_cluster=debug`).
//!   Gives: the seed of a broken promise, and how to see it again.
//! - No threads, no real time, no files, no sockets: `cargo sim` builds it (`.cargo/config.toml`).
//! - It lives here and not under `tests/`, because it takes nodes apart: their logs, votes and machines.
//! - Source: own design; openraft's `tests-turmoil`, tigerbeetle's VOPR.

mod world;
mod host;
mod links;
mod boot;
mod shape;
mod faults;
mod changes;
mod hand_overs;
mod workload;
mod routes;
mod ledger;
mod event;
mod oracle;
mod watch;
mod health;
mod trace;
mod panics;
mod invariants;

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use self::{
    oracle::Violation,
    world::{Report, run},
};

/// Seeds that once broke a promise, with a word on it each.
const SEEDS: &str = include_str!("seeds.txt");

/// Lines of a trace that are shown of a failure.
const TRACE_LINES: usize = 60;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn past() -> Vec<u64> {
    let lines = SEEDS.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect()
}

/// A world that broke a promise.
struct Broken {
    seed: u64,
    broken: Violation,
    /// The end of its trace.
    shown: String,
}

impl Broken {
    fn of(seed: u64, report: &Report) -> Option<Self> {
        let broken = report.broken.clone()?;
        let lines: Vec<_> = report.trace.lines().collect();
        let end = lines[lines.len().saturating_sub(TRACE_LINES)..].join("\n");
        let shown = format!("{end}\nseed {seed}; see it again: make sim-replay SEED={seed}");
        Some(Self { seed, broken, shown })
    }
}

/// Runs seeds on all cores; gives those that broke a promise, lowest first.
fn run_all(seeds: &[u64]) -> Vec<Broken> {
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(Vec::new());
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
            let found = Broken::of(*seed, &run(*seed));
            broken.lock().unwrap().extend(found);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut broken = broken.into_inner().unwrap();
    broken.sort_by_key(|broken| broken.seed);
    broken
}

fn demand_none(broken: &[Broken]) {
    if let Some(first) = broken.first() {
        let all = broken.iter().map(|Broken { seed, broken, .. }| format!("{seed}: {broken}\n"));
        let (all, shown) = (all.collect::<String>(), &first.shown);
        panic!("{} worlds broke a promise\n{all}\n{shown}", broken.len());
    }
}

#[test]
fn worlds_when_they_once_broke_a_promise_then_no_longer() {
    demand_none(&run_all(&past()));
}

#[test]
fn worlds_when_run_then_no_promise_is_broken() {
    let from = number("HONGQIAO_SIM_FROM").unwrap_or(1);
    let runs = number("HONGQIAO_SIM_RUNS").unwrap_or(20);
    demand_none(&run_all(&(from..from + runs).collect::<Vec<_>>()));
}

#[test]
fn worlds_when_run_twice_then_the_same_byte_for_byte() {
    for seed in 1..=6 {
        let (one, two) = (run(seed), run(seed));
        let differs = one.trace.lines().zip(two.trace.lines()).find(|(one, two)| one != two);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.trace, two.trace, "seed {seed}");
    }
}

/// `make sim-replay SEED=…`: the whole trace of one world.
#[test]
#[ignore = "shows one world: make sim-replay SEED=…"]
fn world_shown() {
    let seed = number("HONGQIAO_SIM_SEED").expect("HONGQIAO_SIM_SEED=…");
    let levels = env::var("HONGQIAO_SIM_LOG").unwrap_or_else(|_| "hongqiao_cluster=debug".into());
    let report = trace::shown(&levels, || run(seed));
    println!("{:?} after {} ms: {:?}", report.tally, report.now_ms, report.shape);
    assert_eq!(report.broken, None);
}
