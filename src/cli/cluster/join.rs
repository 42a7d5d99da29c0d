//! `hongqiao cluster join`: `serve` with the address of a member.
//!
//! - Takes: addresses, and what `serve` takes. Gives: a running node; see `server.rs`. JSON with `--json`.
//! - Blocks: until the node has stopped.

use std::path::PathBuf;

use super::super::{config_args::ConfigArguments, serve};
use crate::server::Form;

/// Starts a node that joins a cluster.
///
/// The same as `hongqiao serve` with `cluster.join`: the node runs in the foreground, and from its second
/// start on `serve` is enough. It needs `cluster.listen` and the secret of the cluster, from the
/// configuration, the environment (HONGQIAO__CLUSTER__SECRET) or a file.
#[derive(clap::Args, Debug)]
pub(super) struct Join {
    /// `host:port` of a member, as in its `cluster.listen`; several are tried in turn.
    #[arg(value_name = "ADDRESS", required = true)]
    members: Vec<String>,

    /// File with the secret of the cluster. Short for --set `cluster.secret_file=FILE`.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// A member that is down and lost, whose place this node takes. Short for --set `cluster.replaces=NODE`.
    #[arg(long, value_name = "NODE")]
    replaces: Option<u64>,

    /// Prints where it serves as one line of JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

/// # Errors
/// What kept the node from starting, or ended it.
pub(super) fn run(join: Join) -> anyhow::Result<()> {
    let config = join.config.joining(&join.members, join.secret_file.as_deref(), join.replaces);
    serve::run_with(config, if join.json { Form::Json } else { Form::Text })
}
