//! Copies a running node's state into a folder that `recover` makes one for a node to start on: the member that it
//! is a copy of may be running, and has forgotten nothing that the copy has.
//!
//! - Owns: the target folder while it is written. Takes: the shards, one pinned at a time.
//! - Gives: `FORMAT`, `node` with a mark, a state, and a log that holds votes and marks only.
//! - Bound: pages of `PAGE_BYTES`; runs on a blocking thread.
//! - Source: own design.

pub(crate) mod current;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{BackupError, StartError},
    id::{NodeId, ShardId},
    options::Durability,
    raft_group::{snapshot::pairs, types::Vote},
    raft_groups::Groups,
    storage::{
        disk::RealDisk,
        folder::{
            format::{self, Format},
            incarnation::Incarnation,
            marks::replace,
            record::NodeRecord,
        },
        health::Health,
        log::Log,
        state::{
            kv::{Batch, Kv},
            shard_state::Applied,
            sled_kv::SledKv,
        },
    },
};

/// The copy is put into the target's store once it has gathered this much.
const PAGE_BYTES: usize = 1 << 20;

/// Page cache of the target's store.
const CACHE_BYTES: u64 = 16 << 20;

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_path_buf();
    move |source| BackupError::Io { what, path, source }
}

/// Whose copy it is.
pub(crate) struct Origin {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Arc<Incarnation>,
    pub(crate) format: Format,
}

/// What a backup lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Groups of which this node has no whole copy, and the nodes that have one.
    pub missing: Vec<(ShardId, Vec<NodeId>)>,
    /// Groups that may lack what was acknowledged before the backup was asked for: their leader was not heard of, or
    /// this node is behind it.
    pub behind: Vec<ShardId>,
}

/// Writes the backup.
pub(crate) fn write<M>(
    groups: &Groups<M>,
    origin: &Origin,
    target: &Path,
) -> Result<Vec<Missing>, BackupError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(target);
    made.map_err(failed("make", target))?;
    if fs::read_dir(target).map_err(failed("read", target))?.next().is_some() {
        return Err(BackupError::NotEmpty { path: target.into() });
    }
    let state = target.join("state");
    let count = u16::try_from(groups.groups.len()).unwrap_or(u16::MAX);
    let kv = SledKv::open(&state, count, CACHE_BYTES).map_err(failed("open", &state))?;
    let mut marks = Vec::new();
    let mut missing = Vec::new();
    for group in &groups.groups {
        let store = &group.store;
        let _pin = store.pin.clone().blocking_lock_owned();
        if !groups.checkpointer.write(&[store]) {
            return Err(BackupError::Stopping);
        }
        copy(store, &kv).map_err(failed("copy into", &state))?;
        let vote = groups.log.group(store.shard).and_then(|group| group.vote);
        let stored = store.state.lock().stored.clone();
        marks.push((store.shard, vote, stored.last));
        missing.extend(missing_of(groups, origin.node, store.shard, &stored));
    }
    kv.flush().map_err(failed("flush", &state))?;
    drop(kv);
    write_log(target, count, &marks)?;
    let node = target.join("node");
    let record = NodeRecord { has_log: true, is_copy: true, ..origin.incarnation.record() };
    replace(&node, &record.text()).map_err(failed("write", &node))?;
    // Last: without it the folder is not one of ours.
    format::write(&target.join("FORMAT"), &origin.format)
        .map_err(|error| start_failed(error, target))?;
    Ok(missing)
}

/// A group that is not in the backup as a whole, and the nodes that have it.
pub(crate) type Missing = (ShardId, Vec<NodeId>);

/// Says who has a group, if it is not this node.
fn missing_of<M>(
    groups: &Groups<M>,
    node: NodeId,
    group: u16,
    stored: &Applied,
) -> Option<Missing> {
    let members = stored.membership.membership();
    let is_meta = usize::from(group) + 1 == groups.groups.len();
    // Of the meta group some nodes are learners for good.
    let is_here = members.voter_ids().any(|id| id == node.0)
        || is_meta && members.get_node(&node.0).is_some();
    if is_here {
        return None;
    }
    let directory = groups.published.directory();
    let placed = directory.shards.get(usize::from(group)).cloned().unwrap_or_default();
    let others = placed.into_iter().filter(|at| *at != node);
    Some((ShardId(group), others.collect()))
}

fn copy(store: &crate::storage::checkpoint::ShardStore, target: &SledKv) -> io::Result<()> {
    let mut page = Batch::new();
    let mut bytes = 0;
    pairs(store, |(key, value)| {
        bytes += key.len() + value.len();
        page.push((key.to_vec(), Some(value.to_vec())));
        if bytes < PAGE_BYTES {
            return Ok(());
        }
        bytes = 0;
        target.apply(store.shard, std::mem::take(&mut page))
    })?;
    target.apply(store.shard, page)
}

type Mark = (u16, Option<Vote>, Option<crate::raft_group::types::LogId>);

/// Writes a log that goes on where the copied states are.
fn write_log(target: &Path, groups: u16, marks: &[Mark]) -> Result<(), BackupError> {
    let path: PathBuf = target.join("log");
    let disk = RealDisk::open(&path, 0).map_err(failed("open", &path))?;
    let log = Log::open(Arc::new(disk), groups, Durability::Disk, Arc::<Health>::default());
    let (log, flusher) = log.map_err(|error| start_failed(error, &path))?;
    let (tell, told) = std::sync::mpsc::sync_channel(marks.len() + 1);
    let mut waiting = 0;
    for (shard, vote, last) in marks {
        if let Some(last) = last {
            log.purge(*shard, *last);
        }
        if let Some(vote) = vote {
            let tell = tell.clone();
            waiting += 1;
            log.vote(*shard, *vote, Box::new(move |done| drop(tell.send(done))));
        }
    }
    let written = (0..waiting).try_for_each(|_| told.recv().map_err(io::Error::other)?);
    log.stop();
    let _ = flusher.join();
    written.map_err(failed("write", &path))
}

fn start_failed(error: StartError, path: &Path) -> BackupError {
    match error {
        StartError::Io { what, path, source } => BackupError::Io { what, path, source },
        other => failed("write", path)(io::Error::other(other)),
    }
}
