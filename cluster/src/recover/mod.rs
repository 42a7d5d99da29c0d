//! Makes a cluster of one out of the folder of one member, after the majority is gone for good.
//!
//! ```text
//! open: lock, finish snapshots ─▶ survey: what is here, what is not ─▶ found: mark ─▶ logs ─▶ FORMAT ─▶ mark goes
//! ```
//!
//! - Owns: a folder that no node runs on. Takes: the operator's word. Gives: a survey; then a folder that a
//!   node starts on alone, in a cluster with an id of its own, so that nobody of the old one gets in.
//! - Every entry of the logs here counts as committed: it may have been acknowledged with this node's vote.
//! - Bound: as a start: what the logs hold is in memory.
//! - Cut off anywhere before the mark is written nothing has happened; from then on no node starts on the
//!   folder until `found` was called again and has ended.
//! - Source: own design; Raft has no safe answer to a lost majority, so this one is an operator's.

mod rewrite;
mod survey;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::SystemTime,
};

pub use self::survey::{GroupSurvey, MemberSurvey, Standing, Survey};
use crate::{
    directory::Directory,
    error::{RecoverError, StartError},
    id::ShardId,
    meta::{
        machine::{MetaMachine, Published},
        no_sink,
    },
    options::Durability,
    raft_group::{snapshot::install, state_machine::Shard},
    storage::{
        checkpoint::{Fill, ShardStore},
        disk::RealDisk,
        folder::{self, Found},
        health::Health,
        log::Log,
        shelf::{RealShelf, Shelf},
        state::{
            shard_state::{Applied, Base, ShardState},
            sled_kv::SledKv,
        },
    },
};

/// Page cache while a folder is looked at.
const CACHE_BYTES: u64 = 16 << 20;

/// Tables are never checkpointed here, so nothing waits for them.
const TABLE_BYTES: usize = usize::MAX;

/// The folder of a node that does not run.
pub struct Survivor {
    path: PathBuf,
    found: Found,
    /// The new cluster, if an earlier attempt was cut off.
    begun: Option<[u8; 16]>,
    written: Option<SystemTime>,
    log: Arc<Log>,
    /// `Some` until the end.
    flusher: Option<JoinHandle<()>>,
    base: Arc<Base>,
    /// How far each group's state is on the disk.
    stored: Vec<Applied>,
    meta: Arc<Shard<MetaMachine>>,
    directory: Directory,
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_path_buf();
    move |source| StartError::Io { what, path, source }
}

impl Survivor {
    /// Locks and opens a data folder, as a start does: a torn tail of the log is cut, a snapshot whose
    /// installation was cut off is installed.
    ///
    /// # Errors
    /// A node runs on it, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let found = folder::look(path)?;
        let mark = rewrite::mark(path);
        let begun = rewrite::begun(&mark)?;
        let groups = found.format.shards + 1;
        let log_dir = path.join("log");
        let written = newest(&log_dir);
        let disk = RealDisk::open(&log_dir, 0).map_err(io("open", &log_dir))?;
        let state_dir = path.join("state");
        let kv = SledKv::open(&state_dir, groups, CACHE_BYTES);
        let kv = Box::new(kv.map_err(StartError::of_state("open the state in", &state_dir))?);
        let health = Arc::<Health>::default();
        let shelf_dir = path.join("snapshots");
        let shelf: Arc<dyn Shelf> =
            Arc::new(RealShelf::open(&shelf_dir).map_err(io("open", &shelf_dir))?);
        let (log, flusher) = Log::open(Arc::new(disk), groups, Durability::Disk, health.clone())?;
        let base = Arc::new(Base { kv, health: health.clone() });
        let opened = finish_snapshots(path, &shelf, &base, &log, groups)
            .and_then(|()| read_states(path, &base, &log, groups));
        let (mut states, stored) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                log.stop();
                let _ = flusher.join();
                return Err(error);
            }
        };
        let fill = Arc::new(Fill::new(TABLE_BYTES, health));
        let (meta, directory) = match states.pop() {
            Some(state) => read_directory(state, &base, fill, &log, found.format.shards),
            None => return Err(StartError::Option { name: "shards", must: "at least 1" }),
        };
        let path = path.to_path_buf();
        let flusher = Some(flusher);
        Ok(Self { path, found, begun, written, log, flusher, base, stored, meta, directory })
    }

    /// Tells what is here and what is not; changes nothing.
    #[must_use]
    pub fn survey(&self) -> Survey {
        survey::of(self)
    }

    /// Makes this node the only member of a new cluster; gives the cluster's id.
    ///
    /// - `accept`: groups that are not usable and shall go on with what is here, which may be nothing.
    ///
    /// # Errors
    /// Nothing has changed with `Missing`, `Removed` and `Refused`; else call it again.
    pub fn found(self, accept: &BTreeSet<ShardId>) -> Result<[u8; 16], RecoverError> {
        let survey = self.survey();
        if survey.is_removed {
            return Err(RecoverError::Removed { node: survey.node });
        }
        let missing = survey.groups.iter().filter(|group| !group.is_usable);
        let missing: Vec<ShardId> =
            missing.map(|group| group.shard).filter(|shard| !accept.contains(shard)).collect();
        if !missing.is_empty() {
            return Err(RecoverError::Missing { groups: missing });
        }
        rewrite::run(&self, &survey, usize::MAX)
    }

    /// As `found`, cut off after the mark and this many steps: a group each, then `FORMAT`.
    #[cfg(test)]
    pub(crate) fn found_partly(self, steps: usize) -> Result<[u8; 16], RecoverError> {
        let survey = self.survey();
        rewrite::run(&self, &survey, steps)
    }
}

impl Drop for Survivor {
    fn drop(&mut self) {
        self.log.stop();
        if let Some(flusher) = self.flusher.take() {
            let _ = flusher.join();
        }
        self.base.kv.close();
    }
}

/// Returns when anything in a folder was last written.
fn newest(folder: &Path) -> Option<SystemTime> {
    let items = fs::read_dir(folder).ok()?;
    items.filter_map(|item| item.ok()?.metadata().ok()?.modified().ok()).max()
}

fn finish_snapshots(
    path: &Path,
    shelf: &Arc<dyn Shelf>,
    base: &Arc<Base>,
    log: &Arc<Log>,
    groups: u16,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(io("start a runtime for", path))?;
    runtime.block_on(install::redo(shelf, &*base.kv, log, groups, path))
}

type States = (Vec<ShardState>, Vec<Applied>);

fn read_states(
    path: &Path,
    base: &Arc<Base>,
    log: &Arc<Log>,
    groups: u16,
) -> Result<States, StartError> {
    let open = |group| {
        let state = ShardState::open(group, base.clone());
        let state =
            state.map_err(StartError::of_state("read the state in", &path.join("state")))?;
        log.check_behind(group, state.stored.last, path)?;
        Ok(state)
    };
    let states = (0..groups).map(open).collect::<Result<Vec<_>, StartError>>()?;
    let stored = states.iter().map(|state| state.stored.clone()).collect();
    Ok((states, stored))
}

/// Applies what the log has beyond the state, in memory alone.
fn read_directory(
    state: ShardState,
    base: &Arc<Base>,
    fill: Arc<Fill>,
    log: &Arc<Log>,
    shards: u16,
) -> (Arc<Shard<MetaMachine>>, Directory) {
    let applied = state.stored.last.map_or(0, |id| id.index + 1);
    let published = Published::new(no_sink());
    let store = ShardStore::new(state, shards, base.clone(), fill);
    let shard = Shard::open(MetaMachine::new(shards, published.clone()), store);
    let entries = log.group(shards).map(|group| group.range(applied..)).unwrap_or_default();
    shard.apply(entries.into_iter());
    let directory = published.directory();
    (shard, Directory::clone(&directory))
}
