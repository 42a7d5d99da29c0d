//! The composition root: starts cluster, actors and fronts, and stops them in reverse.
//!
//! - Owns: everything that runs. Takes: a validated [`Config`]. Gives: nothing back until stopped.
//! - Bound: `shutdown.drain_timeout` from SIGTERM to the return.

use crate::config::Config;

/// Runs one node until it is told to stop.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(config: &Config) -> anyhow::Result<()> {
    anyhow::bail!("this build has no node yet; {} listeners configured", config.listeners.len())
}
