//! `hongqiao bench`: a load generator for any MQTT server.
//!
//! - Takes: where the server is and what to do. Gives: a table on standard output, optionally JSON and a
//!   plot; with `--server-pid`, what the work cost the server in CPU and memory.
//! - Blocks: until the load has run. Bound: windows and rates of the command line; one scratch buffer per
//!   thread, no buffer per quiet connection.
//! - Source: own design.
//!
//! ```text
//! scenario (connect, traffic, replay, failover) ── tasks ──► worker thread: connections on one epoll
//!        │                                            │ counts, latencies
//!        └── controller: phases, progress, CPU ◄──────┘──► report (table, JSON, SVG)
//! ```
//!
//! The generator shares the machine with the server, so it is lean: few threads, packets skimmed instead
//! of decoded, messages stamped from a template, one write for a batch. It prints its own CPU too.

mod args;
mod usage;
mod connection;
mod credit;
mod template;
mod worker;
mod publisher;
mod receiver;
mod phase;
mod connect;
mod traffic;
mod replay;
mod failover;
mod report;
mod plot;

pub use self::args::BenchArgs;
use self::args::Scenario;

/// Runs the scenario and reports.
///
/// # Errors
/// The server cannot be reached or refuses, a file cannot be written, an argument makes no sense.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    let BenchArgs { scenario } = args;
    match scenario {
        Scenario::Connect(args) => connect::run_connect(&args),
        Scenario::Idle(args) => connect::run_idle(&args),
        Scenario::Churn(args) => connect::run_churn(&args),
        Scenario::Fanout(args) => traffic::run_fanout(&args),
        Scenario::P2p(args) => traffic::run_p2p(&args),
        Scenario::Replay(args) => replay::run(&args),
        Scenario::Failover(args) => failover::run(&args),
    }
}
