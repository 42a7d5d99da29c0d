//! Sessions in the deterministic simulation: the machine of the product under the simulated consensus, with devices
//! that claim, subscribe, publish, read, acknowledge and are taken over while everything goes wrong.
//!
//! ```text
//! seed ─▶ world of the cluster crate ─▶ every millisecond: Devices ─ commands ─▶ ShardMachine of each replica
//!                                                             └──▶ Oracle ◀── what came of them ──┘
//! ```
//!
//! - Owns: nothing outside a test. Takes: seeds as `cluster/src/sim/mod.rs` does, which has the nodes, their faults
//!   and what holds of any machine. Gives: the seed of a broken promise, and how to see it again.
//! - Not simulated: actors and sockets. Devices say what `actors/home.rs` and `actors/connection` say to a shard.
//! - Source: own design.

mod event;
mod oracle;
mod watched;
mod payload;
mod connection;
mod exchange;
mod device;
mod devices;
mod invariants;

use hongqiao_cluster::sim::{Report, asked, listed, number, run_all, run_guest, show, verdict};

use self::devices::Devices;

/// Seeds that once broke a promise, with a word on it each.
const SEEDS: &str = include_str!("seeds.txt");

fn run(seed: u64) -> Report {
    run_guest(seed, Box::new(Devices::new(seed)))
}

fn demand_none(seeds: &[u64]) {
    let verdict = verdict(&run_all(seeds, run), "sim-replay-sessions");
    assert!(verdict.is_none(), "{}", verdict.unwrap_or_default());
}

#[test]
fn sessions_when_they_once_broke_a_promise_then_no_longer() {
    demand_none(&listed(SEEDS));
}

#[test]
fn sessions_when_worlds_run_then_no_promise_is_broken() {
    // A third of what the ledger has: one takes longer.
    let asked = asked();
    demand_none(&asked[..asked.len().div_ceil(3)]);
}

#[test]
fn sessions_when_a_world_runs_twice_then_the_same_byte_for_byte() {
    for seed in 1..=3 {
        let (one, two) = (run(seed), run(seed));
        let differs = one.trace.lines().zip(two.trace.lines()).find(|(one, two)| one != two);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.trace, two.trace, "seed {seed}");
    }
}

/// `make sim-replay-sessions SEED=…`: the whole trace of one world.
#[test]
#[ignore = "shows one world: make sim-replay-sessions SEED=…"]
fn sessions_shown() {
    let seed = number("HONGQIAO_SIM_SEED").expect("HONGQIAO_SIM_SEED=…");
    let report = show(|| run(seed));
    assert_eq!(report.broken, None);
}
