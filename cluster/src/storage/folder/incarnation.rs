//! `node`: which node a folder is of, how often it was started, and whether it may start again.
//!
//! - Owns: the file, written at each start and when others have seen a later start.
//! - Gives: an incarnation that no earlier start had.
//! - Bound: one small text file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    format::random_id,
    marks::{io, replace, same},
    record::NodeRecord,
};
use crate::{error::StartError, id::NodeId, options::Options};

/// A node's incarnation, and where it is written down.
#[derive(Debug)]
pub(crate) struct Incarnation {
    /// 0 until the cluster has given one.
    node: AtomicU64,
    now: AtomicU64,
    /// As it is in the file; held while that is written.
    record: Mutex<NodeRecord>,
    /// `None` for a node without a folder.
    path: Option<PathBuf>,
}

impl Incarnation {
    /// Of a node without a folder.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn in_memory(node: NodeId, now: u64) -> Arc<Self> {
        let folder = Some(u128::from(node.0).to_be_bytes());
        let record = NodeRecord { folder, node: node.0, incarnation: now, ..NodeRecord::default() };
        Arc::new(Self::new(record, None))
    }

    fn new(record: NodeRecord, path: Option<PathBuf>) -> Self {
        let (node, now) = (record.node.into(), record.incarnation.into());
        Self { node, now, record: Mutex::new(record), path }
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node.load(Ordering::SeqCst))
    }

    /// Returns what is written down.
    pub(crate) fn record(&self) -> NodeRecord {
        self.record.lock().clone()
    }

    /// Writes down which node it is of; who knew that before needs no second time.
    pub(super) fn name(&self, node: NodeId) -> io::Result<()> {
        if self.node() == node {
            return Ok(());
        }
        let now = self.now();
        self.change(|record| (record.node, record.incarnation) = (node.0, now))?;
        self.node.store(node.0, Ordering::SeqCst);
        Ok(())
    }

    /// Marks the folder: its node was removed from the cluster, and never starts on it again.
    pub(crate) fn set_removed(&self) -> io::Result<()> {
        self.change(|record| record.removed = true)
    }

    /// Marks the folder: the cluster knows a later start of this node, or another folder of it.
    pub(crate) fn set_superseded(&self) -> io::Result<()> {
        self.change(|record| record.superseded = true)
    }

    /// Marks the folder: its log is there, and synced.
    pub(crate) fn set_has_log(&self) -> io::Result<()> {
        if self.record.lock().has_log {
            Ok(())
        } else {
            self.change(|record| record.has_log = true)
        }
    }

    /// Takes the one behind `latest`, or a higher one, and writes it down before anybody sees it.
    pub(crate) fn take_behind(&self, latest: u64) -> io::Result<u64> {
        let next = latest.max(self.now()).checked_add(1);
        let next = next.ok_or_else(|| io::Error::other("there are no more incarnations"))?;
        self.change(|record| record.incarnation = next)?;
        self.now.store(next, Ordering::SeqCst);
        Ok(next)
    }

    fn change(&self, change: impl FnOnce(&mut NodeRecord)) -> io::Result<()> {
        let mut record = self.record.lock();
        let mut changed = record.clone();
        change(&mut changed);
        if let Some(path) = &self.path {
            replace(path, &changed.text())?;
        }
        *record = changed;
        Ok(())
    }
}

/// Checks whose folder it is, and counts this start.
pub(super) fn start(folder: &Path, options: &Options) -> Result<Arc<Incarnation>, StartError> {
    let path = folder.join("node");
    let mut record = match fs::read_to_string(&path) {
        Ok(text) => NodeRecord::parse(&path, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            NodeRecord { node: options.node.0, ..NodeRecord::default() }
        }
        Err(error) => return Err(io("read", &path)(error)),
    };
    let (node, before) = (record.node, record.incarnation);
    if record.removed {
        return Err(StartError::Removed { path: folder.into(), node });
    }
    if record.superseded {
        return Err(StartError::Superseded { path: folder.into(), node });
    }
    if record.is_copy {
        return Err(StartError::Backup { path: folder.into() });
    }
    if options.node != NodeId::NONE {
        same(&path, "node", node, options.node.0)?;
    }
    if record.folder.is_none() {
        record.folder = Some(random_id()?);
    }
    let incarnation = Incarnation::new(record, Some(path.clone()));
    if node == NodeId::NONE.0 {
        // Nothing to write down before the cluster has said who it is.
        incarnation.now.store(before + 1, Ordering::SeqCst);
    } else {
        incarnation.take_behind(before).map_err(io("write", &path))?;
    }
    Ok(Arc::new(incarnation))
}
