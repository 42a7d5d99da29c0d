//! Worlds of the ledger: those that once broke a promise, as many new ones as are asked for, and one to look at.

use std::env;

use super::{
    runs::{self, run_all},
    trace,
    world::run,
};

/// Seeds that once broke a promise, with a word on it each.
const SEEDS: &str = include_str!("seeds.txt");

fn demand_none(seeds: &[u64]) {
    let verdict = runs::verdict(&run_all(seeds, run), "sim-replay");
    assert!(verdict.is_none(), "{}", verdict.unwrap_or_default());
}

#[test]
fn worlds_when_they_once_broke_a_promise_then_no_longer() {
    let past = runs::listed(SEEDS);
    assert!(!past.is_empty());
    demand_none(&past);
}

#[test]
fn worlds_when_run_then_no_promise_is_broken() {
    demand_none(&runs::asked());
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
    let seed = runs::number("HONGQIAO_SIM_SEED").expect("HONGQIAO_SIM_SEED=…");
    let levels = env::var("HONGQIAO_SIM_LOG").unwrap_or_else(|_| "hongqiao_cluster=debug".into());
    let report = trace::shown(&levels, || run(seed));
    println!("{:?} after {} ms: {:?}", report.tally, report.now_ms, report.shape);
    assert_eq!(report.broken, None);
}
