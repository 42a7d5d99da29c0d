//! `hongqiao completions SHELL`: a completion script on standard output.
//!
//! - Gives: the script that `clap_complete` makes of the same definitions as `--help`.

use std::io::Write as _;

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Prints a completion script for a shell.
///
/// For example: hongqiao completions bash > /etc/bash_completion.d/hongqiao
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Which shell.
    shell: Shell,
}

/// # Errors
/// Standard output is closed.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    let mut command = super::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "hongqiao", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
