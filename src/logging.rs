//! Where log lines go and how they look.
//!
//! - Owns: the process's tracing subscriber, once. Takes: `[log]`. Gives: lines on standard error:
//!   `ts level target msg` and facts; JSON unless on a terminal.
//! - Never: payloads, passwords, tokens (see `CONTRIBUTING.md`).

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, fmt, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{ConfigError, Log, LogFormat};

/// Switches logging on for the whole process.
///
/// # Errors
/// The level is no filter (the configuration was not validated), or logging is on already.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let targets: Targets = log.level.parse().map_err(|error| ConfigError::Invalid {
        key: "log.level".to_owned(),
        layer: None,
        problem: format!("{error}"),
    })?;
    let terminal = stderr().is_terminal();
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // People may ask for no colour: https://no-color.org
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer::<Registry>().with_writer(stderr);
    let layer = if json {
        layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        layer.with_ansi(colour).boxed()
    };
    tracing_subscriber::registry().with(layer.with_filter(targets)).try_init()?;
    Ok(())
}
