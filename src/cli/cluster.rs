//! `hongqiao cluster`: one file per command.
//!
//! - Takes: the data folder of a node on this machine. Gives: tables for people, or JSON.

mod status;
mod join;
mod orders;
mod watch;
mod recover;

use clap::Subcommand;

use super::backup;

/// Looks at the cluster of a running node, changes it, or saves what is left of it.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Status),
    Join(join::Join),
    Leave(orders::Leave),
    Transfer(orders::Transfer),
    MoveShard(orders::MoveShard),
    Snapshot(orders::Snapshot),
    Backup(backup::BackupArguments),
    Restore(backup::RestoreArguments),
    Recover(recover::Recover),
}

/// # Errors
/// What the command says.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Status(status) => status::run(status),
        Command::Join(join) => join::run(join),
        Command::Leave(leave) => orders::leave(leave),
        Command::Transfer(transfer) => orders::transfer(transfer),
        Command::MoveShard(order) => orders::move_shard(order),
        Command::Snapshot(snapshot) => orders::snapshot(snapshot),
        Command::Backup(arguments) => backup::backup(arguments),
        Command::Restore(arguments) => backup::restore(arguments),
        Command::Recover(recover) => recover::run(recover),
    }
}
