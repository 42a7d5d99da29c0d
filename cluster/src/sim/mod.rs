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
//! - The server brings its own machine and clients along (`guest.rs`); what its shards hold is no matter of this crate.
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
mod guest;
mod routes;
mod ledger;
mod event;
mod oracle;
mod watch;
mod health;
mod trace;
mod panics;
mod invariants;
mod runs;
#[cfg(test)]
mod tests;

pub use self::{
    guest::{Answer, Guest, MakeMachine, Outcome, Stage},
    oracle::Violation,
    runs::{Broken, asked, listed, number, run_all, verdict},
    trace::show,
    world::{Report, run_guest},
};
