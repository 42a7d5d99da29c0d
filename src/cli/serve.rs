//! `hongqiao serve`: runs one node until SIGTERM or SIGINT.
//!
//! - Takes: configuration. Gives: a running node; see `server.rs`.
//! - Blocks: until the node has stopped.

use super::config_args::ConfigArguments;
use crate::{
    logging,
    server::{self, Form},
};

/// Runs a node until it is told to stop.
///
/// Without arguments: one node for this machine alone, MQTT on 127.0.0.1:1883, HTTP on
/// 127.0.0.1:8080, data in ./data. SIGTERM and Ctrl-C stop it: clients are told, what was
/// acknowledged is on disk.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
}

/// # Errors
/// What kept the node from starting, or ended it.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    run_with(arguments.config, Form::Text)
}

/// # Errors
/// What kept the node from starting, or ended it.
pub(super) fn run_with(config: ConfigArguments, form: Form) -> anyhow::Result<()> {
    let config = config.load()?;
    logging::start(&config.log)?;
    server::run(&config, form)
}
