//! `hongqiao backup` and `hongqiao restore`.
//!
//! - Takes: a running node's data folder and a target; a backup and a new data folder.
//! - Gives: a folder that a node can start on, and JSON about it with `--json`. Both are whole or not there: the copy is made beside the
//!   target, flushed, and renamed.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context as _, bail};
use ureq::http::Method;

use super::{
    admin_client::AdminClient,
    config_args::ConfigArguments,
    missing::{AcceptMissing, complaint},
    table::{rows, text_of},
};
use crate::{data_folder::DataFolder, server::recovery::Folder};

/// What every data folder and every backup holds; written by the cluster crate.
const FORMAT: &str = "FORMAT";

/// Backs a running node up into a new folder.
///
/// The node goes on serving meanwhile. The backup holds everything that was acknowledged before this
/// command was given, but for what it names: a node that is cut off from the others, or far behind, has no more; `hongqiao restore` makes a data folder of it.
#[derive(clap::Args, Debug)]
pub(super) struct BackupArguments {
    /// Folder on the node's machine; must not exist yet, or be empty.
    #[arg(value_name = "FOLDER")]
    target: PathBuf,

    /// Prints JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

/// # Errors
/// No node runs on the data folder, or it refuses.
pub(super) fn backup(arguments: BackupArguments) -> anyhow::Result<()> {
    let config = arguments.config.load()?;
    let target = absolute(&arguments.target)?;
    let node = AdminClient::find(&config.storage.data_dir)?;
    let body = serde_json::json!({ "folder": target });
    let said = node.send(Method::POST, "admin/backup", &body)?;
    if arguments.json {
        let missing: Vec<_> = rows(&said["missing"]).collect();
        println!(
            "{}",
            serde_json::json!({ "backup": target.display().to_string(), "missing": missing })
        );
        return Ok(());
    }
    println!("backup written to {}", target.display());
    for missing in rows(&said["missing"]) {
        let (group, nodes) = (&missing["group"], text_of(&missing["nodes"]));
        println!(
            "not in it: group {group}, which this node has no whole copy of; nodes that have: {nodes}"
        );
    }
    for group in rows(&said["behind"]) {
        println!(
            "perhaps not all in it: group {group}, whose leader was not heard of, or has what this node has not yet; \
             back up another node, or again once this one is ready"
        );
    }
    Ok(())
}

/// Makes a data folder of a backup.
///
/// The data folder must not exist yet, or be empty. Start the node on it with
/// `hongqiao serve --data FOLDER`: it is the only member of a new cluster, whatever it was before, and
/// nodes of the old one are not let in. Others join it with empty folders and ids that were not used before.
#[derive(clap::Args, Debug)]
pub(super) struct RestoreArguments {
    /// Folder that `hongqiao backup` wrote.
    #[arg(value_name = "FOLDER")]
    backup: PathBuf,

    #[command(flatten)]
    accept: AcceptMissing,

    /// Prints JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

/// # Errors
/// The backup is none, the target is in use, or a disk fails.
pub(super) fn restore(arguments: RestoreArguments) -> anyhow::Result<()> {
    let config = arguments.config.load()?;
    let target = absolute(&config.storage.data_dir)?;
    if !arguments.backup.join(FORMAT).is_file() {
        bail!("{} is no backup: it holds no file {FORMAT}", arguments.backup.display());
    }
    if !is_absent_or_empty(&target)? {
        bail!("{} is not empty; restore into a new folder", target.display());
    }
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        bail!("{} cannot be a data folder", target.display());
    };
    fs::create_dir_all(parent)?;
    let mut unfinished = name.to_owned();
    unfinished.push(".restoring");
    let unfinished = parent.join(unfinished);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    DataFolder::new(&unfinished).create()?;
    copy_tree(&arguments.backup, &unfinished)
        .with_context(|| format!("cannot copy into {}", unfinished.display()))?;
    let cluster = found(&unfinished, &arguments.accept).inspect_err(|_| {
        // Of no use, and as large as the backup; if it stays, the next restore removes it.
        let _ = fs::remove_dir_all(&unfinished);
    })?;
    fs::rename(&unfinished, &target)?;
    File::open(parent)?.sync_all()?;
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({ "cluster": cluster, "data": target.display().to_string() })
        );
        return Ok(());
    }
    println!(
        "restored as cluster {cluster}; start with: hongqiao serve --data {}",
        target.display()
    );
    Ok(())
}

/// Makes the node of a copied backup the only member of a new cluster; returns the cluster's id.
fn found(folder: &Path, accept: &AcceptMissing) -> anyhow::Result<String> {
    let folder = Folder::open(folder).context("the backup cannot be used")?;
    let report = folder.report();
    let accepted = accept.groups(&report)?;
    if let Some(complaint) = complaint(&report, &accepted) {
        bail!(complaint);
    }
    folder.found(&accepted)
}

fn is_absent_or_empty(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Copies files and folders and flushes each; anything else in a backup is an error.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            DataFolder::new(&target).create()?;
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
            File::open(&target)?.sync_all()?;
        } else {
            let what = format!("{} is neither file nor folder", entry.path().display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    }
    File::open(to)?.sync_all()
}
