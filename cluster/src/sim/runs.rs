//! Many worlds: which seeds, on all cores, and what is shown of those that break a promise.
//!
//! - Owns: nothing. Takes: seeds, and what runs one. Gives: those that broke a promise, with the end of their traces.
//! - Bound: one thread per core.
//! - Source: own design.

use std::{
    env,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use parking_lot::Mutex;

use super::{oracle::Violation, world::Report};

/// Lines of a trace that are shown of a failure.
const TRACE_LINES: usize = 60;

/// Returns a number of the environment.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Returns the seeds that are asked for: `HONGQIAO_SIM_RUNS` from `HONGQIAO_SIM_FROM` on.
#[must_use]
pub fn asked() -> Vec<u64> {
    let from = number("HONGQIAO_SIM_FROM").unwrap_or(1);
    let runs = number("HONGQIAO_SIM_RUNS").unwrap_or(20);
    (from..from + runs).collect()
}

/// Reads a list of seeds, one a line, with a word on it each.
#[must_use]
pub fn listed(list: &str) -> Vec<u64> {
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter_map(|line| line.parse().ok()).collect()
}

/// A world that broke a promise.
#[derive(Debug)]
pub struct Broken {
    /// Which.
    pub seed: u64,
    /// Which promise.
    pub broken: Violation,
    /// The end of its trace.
    pub shown: String,
}

impl Broken {
    fn of(seed: u64, report: &Report) -> Option<Self> {
        let broken = report.broken.clone()?;
        let lines: Vec<_> = report.trace.lines().collect();
        let shown = lines[lines.len().saturating_sub(TRACE_LINES)..].join("\n");
        Some(Self { seed, broken, shown })
    }
}

/// Runs seeds on all cores; gives those that broke a promise, lowest first.
pub fn run_all(seeds: &[u64], run: impl Fn(u64) -> Report + Sync) -> Vec<Broken> {
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(Vec::new());
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
            let found = Broken::of(*seed, &run(*seed));
            broken.lock().extend(found);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut broken = broken.into_inner();
    broken.sort_by_key(|broken| broken.seed);
    broken
}

/// Says what was broken and how to see the first again with `make target SEED=…`; `None`: nothing was.
#[must_use]
pub fn verdict(broken: &[Broken], target: &str) -> Option<String> {
    let first = broken.first()?;
    let all = broken.iter().map(|Broken { seed, broken, .. }| format!("{seed}: {broken}\n"));
    let (all, shown, seed) = (all.collect::<String>(), &first.shown, first.seed);
    let count = broken.len();
    Some(format!(
        "{count} worlds broke a promise\n{all}\n{shown}\nseed {seed}; see it again: make {target} SEED={seed}"
    ))
}
