//! A deterministic simulation: one seed gives a cluster, its faults and its clients; an oracle watches.
//!
//! ```text
//! seed ─▶ Shape ─▶ World ─▶ every millisecond: Faults, Clients, Hosts ─▶ Oracle ─▶ invariants/*
//!                           Host: the product's groups on twins of disk and network, and its own clock
//! ```
//!
//! - Owns: nothing outside a test. Takes: `HONGQIAO_SIM_RUNS` seeds from `HONGQIAO_SIM_FROM` on, or the one of
//!   `HONGQIAO_SIM_SEED`. Gives: the seed of a broken promise, and how to see it again.
//! - No threads, no real time, no files, no sockets: `cargo sim` builds it (`.cargo/config.toml`).
//! - It lives here and not under `tests/`, because it takes nodes apart: their logs, votes and machines.
//! - Source: own design; openraft's `tests-turmoil`, tigerbeetle's VOPR.

mod world;
mod host;
mod boot;
mod shape;
mod faults;
mod workload;
mod ledger;
mod event;
mod oracle;
mod watch;
mod trace;
mod panics;
mod invariants;

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use self::world::{Report, run};

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

fn tell(seed: u64, report: &Report) -> String {
    let lines: Vec<_> = report.trace.lines().collect();
    let end = lines[lines.len().saturating_sub(TRACE_LINES)..].join("\n");
    format!("{end}\nseed {seed} breaks a promise; see it again: make sim-replay SEED={seed}")
}

/// Runs seeds on all cores; gives those that broke a promise, with what to show of them.
fn run_all(seeds: &[u64]) -> Vec<(u64, String)> {
    let next = AtomicU64::new(0);
    let broken = Mutex::new(Vec::new());
    let work = || {
        while let Some(seed) =
            seeds.get(usize::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap())
        {
            let report = run(*seed);
            if report.broken.is_some() {
                broken.lock().unwrap().push((*seed, tell(*seed, &report)));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    broken.into_inner().unwrap()
}

fn demand_none(broken: &[(u64, String)]) {
    if let Some((_, text)) = broken.iter().min() {
        let seeds: Vec<_> = broken.iter().map(|(seed, _)| seed).collect();
        panic!("{} worlds broke a promise: {seeds:?}\n{text}", broken.len());
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
    let report = run(seed);
    println!("{}", report.trace);
    println!("{:?} after {} ms: {:?}", report.tally, report.now_ms, report.shape);
    assert_eq!(report.broken, None);
}
