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
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::marks::{field, io, replace, same};
use crate::{error::StartError, id::NodeId, options::Options};

/// Stands in `node` of a folder whose node was removed from its cluster.
const REMOVED: &str = "removed = yes\n";

/// A node's incarnation, and where it is written down.
#[derive(Debug)]
pub(crate) struct Incarnation {
    /// 0 until the cluster has given one.
    node: AtomicU64,
    now: AtomicU64,
    removed: AtomicBool,
    /// `None` for a node without a folder.
    path: Option<PathBuf>,
}

impl Incarnation {
    /// Of a node without a folder.
    #[cfg(test)]
    pub(crate) fn in_memory(node: NodeId, now: u64) -> Arc<Self> {
        let removed = AtomicBool::default();
        Arc::new(Self { node: node.0.into(), now: now.into(), removed, path: None })
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node.load(Ordering::SeqCst))
    }

    /// Writes down which node it is of; who knew that before needs no second time.
    pub(super) fn name(&self, node: NodeId) -> io::Result<()> {
        if self.node() == node {
            return Ok(());
        }
        self.node.store(node.0, Ordering::SeqCst);
        self.write(self.now())
    }

    /// Marks the folder: its node was removed from the cluster, and never starts on it again.
    pub(crate) fn set_removed(&self) -> io::Result<()> {
        self.removed.store(true, Ordering::SeqCst);
        self.write(self.now())
    }

    /// Takes the one behind `latest`, or a higher one, and writes it down before anybody sees it.
    pub(crate) fn take_behind(&self, latest: u64) -> io::Result<u64> {
        let next = latest.max(self.now()).checked_add(1);
        let next = next.ok_or_else(|| io::Error::other("there are no more incarnations"))?;
        self.write(next)?;
        self.now.store(next, Ordering::SeqCst);
        Ok(next)
    }

    fn write(&self, now: u64) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let removed = if self.removed.load(Ordering::SeqCst) { REMOVED } else { "" };
        replace(path, &(node_text(self.node().0, now) + removed))
    }
}

/// Checks whose folder it is, and counts this start.
pub(super) fn start(folder: &Path, options: &Options) -> Result<Arc<Incarnation>, StartError> {
    let path = folder.join("node");
    let (node, before) = match fs::read_to_string(&path) {
        Ok(text) => {
            let (node, incarnation) = parse_node(&path, &text)?;
            if field(&text, "removed").is_some_and(|removed| removed == "yes") {
                return Err(StartError::Removed { path: folder.into(), node });
            }
            if options.node != NodeId::NONE {
                same(&path, "node", node, options.node.0)?;
            }
            (NodeId(node), incarnation)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (options.node, 0),
        Err(error) => return Err(io("read", &path)(error)),
    };
    let incarnation = Incarnation {
        node: node.0.into(),
        now: before.into(),
        removed: AtomicBool::default(),
        path: Some(path.clone()),
    };
    if node == NodeId::NONE {
        // Nothing to write down before the cluster has said who it is.
        incarnation.now.store(before + 1, Ordering::SeqCst);
    } else {
        incarnation.take_behind(before).map_err(io("write", &path))?;
    }
    Ok(Arc::new(incarnation))
}

/// Reads the text of `node`: id, and how often started; `path` is for errors.
pub(crate) fn parse_node(path: &Path, text: &str) -> Result<(u64, u64), StartError> {
    let number = |name| field(text, name).and_then(|value| value.parse().ok());
    // One more start must fit: what an old incarnation left behind is told apart by the number.
    let starts = number("incarnation").filter(|starts| *starts < u64::MAX);
    number("node").zip(starts).ok_or_else(|| StartError::FormatDamaged {
        path: path.into(),
        reason: "no node id or incarnation",
    })
}

/// Returns the text of `node`.
pub(crate) fn node_text(node: u64, incarnation: u64) -> String {
    format!("node = {node}\nincarnation = {incarnation}\n")
}
