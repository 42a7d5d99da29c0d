//! `hongqiao check-config`: reads and validates the configuration without starting anything.
//!
//! - Takes: the same arguments as `serve`. Gives: what a node would listen on, or the first mistake.

use super::config_args::ConfigArguments;
use crate::config::{AuthMode, Config, Durability, ListenerKind};

/// Checks the configuration that `serve` would use with the same arguments.
///
/// Prints what the node would do and exits with 0, or prints what to change and exits with 2.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
}

/// # Errors
/// The first mistake in the configuration.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = arguments.config.load()?;
    print!("{}", summary(&config));
    Ok(())
}

fn summary(config: &Config) -> String {
    let mut text = "the configuration is valid\n".to_owned();
    for (name, listener) in config.listeners_enabled() {
        let kind = match listener.kind {
            ListenerKind::Mqtt => "mqtt",
            ListenerKind::Http => "http",
        };
        let who = match config.allows_anonymous(listener) {
            true => "anonymous clients allowed",
            false => "password required",
        };
        text += &format!("listener {name}: {kind} on {}, {who}\n", listener.address);
    }
    let durability = match config.storage.durability {
        Durability::Disk => "disk (survives power loss)",
        Durability::Os => "os (survives the end of the process, not power loss)",
    };
    text += &format!("data: {}, durability {durability}\n", config.storage.data_dir.display());
    let node = match config.cluster.node {
        0 => "node with a given id".to_owned(),
        node => format!("node {node}"),
    };
    text += &match (config.cluster.advertised(), config.cluster.join.as_slice()) {
        (None, _) => format!("cluster: {node}, alone\n"),
        (Some(own), []) => {
            format!("cluster: {node} at {own}, makes a new cluster\n")
        }
        (Some(own), members) => {
            let members = members.join(", ");
            format!("cluster: {node} at {own}, joins {members}\n")
        }
    };
    if config.auth.mode == AuthMode::Auto {
        text += "auth.mode = \"auto\": for this machine alone; set \"password\" before others connect\n";
    }
    text
}
