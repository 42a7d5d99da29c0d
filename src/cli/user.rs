//! `hongqiao user`: users of a running node.
//!
//! - Takes: a name, and a password from standard input. Gives: a user who can connect at once.
//! - Never: a password on the command line, where every program on the machine can read it.

use std::io::{BufRead as _, Read as _, stdin};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use ureq::http::Method;

use super::{admin_client::AdminClient, config_args::ConfigArguments};
use crate::{auth, limits};

/// Manages users of a running node.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Put(Put),
}

/// Creates a user, or changes its password.
///
/// Without --password-stdin a password is made and printed.
#[derive(clap::Args, Debug)]
struct Put {
    /// App and user, for example acme#chat/ann.
    #[arg(value_name = "ORG#APP/USER")]
    name: String,

    /// Reads the password from the first line of standard input.
    #[arg(long)]
    password_stdin: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

/// # Errors
/// The name or password is no good, no node runs on the data folder, or it refuses.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Put(put) => run_put(put),
    }
}

fn run_put(put: Put) -> anyhow::Result<()> {
    let config = put.config.load()?;
    let name = auth::UserName::parse(&put.name, "")?;
    let (password, made) = match put.password_stdin {
        true => (read_password()?, false),
        false => (auth::generate_password(), true),
    };
    let node = AdminClient::find(&config.storage.data_dir)?;
    let body = serde_json::json!({ "name": name.to_string(), "password": password });
    node.send(Method::PUT, "admin/users", &body)?;
    if made {
        println!("user {name}, password {password}");
    } else {
        println!("user {name}");
    }
    Ok(())
}

fn read_password() -> anyhow::Result<String> {
    let limit = u64::try_from(limits::PASSWORD_BYTES_MAX)? + 2;
    let mut line = String::new();
    stdin().lock().take(limit).read_line(&mut line).context("cannot read standard input")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > limits::PASSWORD_BYTES_MAX {
        bail!(auth::HashError::Length);
    }
    Ok(password.to_owned())
}
