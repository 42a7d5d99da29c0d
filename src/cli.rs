//! The command line: one file per command.
//!
//! - Takes: arguments and environment. Gives: an exit code: 0 stopped on request, 2 bad command line
//!   or configuration, 1 anything else.
//! - Blocks: for as long as the command runs.
#![expect(clippy::print_stdout, reason = "commands answer on standard output")]

mod config_args;
mod admin_client;
mod table;
mod missing;
mod serve;
pub mod bench;
mod check_config;
mod user;
mod cluster;
mod backup;
mod version;
mod completions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;

/// Bad command line or configuration.
const EXIT_USAGE: u8 = 2;

/// Anything else that went wrong.
const EXIT_FAILURE: u8 = 1;

/// Hongqiao: a self-hosted messaging server on long connections.
///
/// MQTT 3.1.1 and 5 over TCP and WebSocket, in one program that needs no other service.
/// `hongqiao serve` starts a node on this machine that a client can use at once.
#[derive(Debug, Parser)]
#[command(name = "hongqiao", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    CheckConfig(check_config::Arguments),
    Bench(bench::BenchArgs),
    User(user::Arguments),
    Cluster(cluster::Arguments),
    Backup(backup::BackupArguments),
    Restore(backup::RestoreArguments),
    Version(version::Arguments),
    Completions(completions::Arguments),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints help, version and usage errors itself, and exits with 0 or 2.
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::CheckConfig(arguments) => check_config::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::User(arguments) => user::run(arguments),
        Command::Cluster(arguments) => cluster::run(arguments),
        Command::Backup(arguments) => backup::backup(arguments),
        Command::Restore(arguments) => backup::restore(arguments),
        Command::Version(arguments) => version::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// A configuration that is refused is the caller's mistake, wherever it came up.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() { EXIT_USAGE } else { EXIT_FAILURE }
}
