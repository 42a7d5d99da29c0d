//! The text of `node`: which node a folder is of, how often it was started, and what else it is marked with.
//!
//! - Owns: the names of the fields. Takes: a text. Gives: a record, and a text again.
//! - Bound: one small text. A field that is not known is passed over, and one that is not there says no: folders
//!   of earlier releases have the first two alone.

use std::path::Path;

use super::marks::{field, hex, unhex};
use crate::error::StartError;

/// Tells folders apart that say to be of the same node.
pub(crate) type FolderId = [u8; 16];

/// What `node` says of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    /// Made at random with the folder; a copy has the same.
    pub(crate) folder: Option<FolderId>,
    /// 0 until the cluster has given an id.
    pub(crate) node: u64,
    /// The number of the last start.
    pub(crate) incarnation: u64,
    /// The node was removed from its cluster.
    pub(crate) removed: bool,
    /// The log was begun: a folder without it has lost it.
    pub(crate) has_log: bool,
    /// The cluster knows a later start of the node, or another folder of it.
    pub(crate) superseded: bool,
    /// A backup as it was written: no node starts on it before `recover` has made it a cluster of its own.
    pub(crate) is_copy: bool,
}

/// The marks, and how each is written.
const REMOVED: (&str, &str) = ("removed", "yes");
const HAS_LOG: (&str, &str) = ("log", "begun");
const SUPERSEDED: (&str, &str) = ("superseded", "yes");
const IS_COPY: (&str, &str) = ("copy", "backup");

impl NodeRecord {
    /// Reads the text; `path` is for errors.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, StartError> {
        let number = |name| field(text, name).and_then(|value| value.parse().ok());
        // One more start must fit: what an old incarnation left behind is told apart by the number.
        let starts = number("incarnation").filter(|starts| *starts < u64::MAX);
        let numbers = number("node").zip(starts);
        let (node, incarnation) = numbers.ok_or_else(|| StartError::FormatDamaged {
            path: path.into(),
            reason: "no node id or incarnation",
        })?;
        let is = |(name, value): (&str, &str)| field(text, name) == Some(value);
        Ok(Self {
            folder: field(text, "folder").and_then(unhex),
            node,
            incarnation,
            removed: is(REMOVED),
            has_log: is(HAS_LOG),
            superseded: is(SUPERSEDED),
            is_copy: is(IS_COPY),
        })
    }

    /// Returns the text.
    pub(crate) fn text(&self) -> String {
        let Self { node, incarnation, .. } = self;
        let mut text = format!("node = {node}\nincarnation = {incarnation}\n");
        if let Some(folder) = &self.folder {
            text += &format!("folder = {}\n", hex(folder));
        }
        let marks = [
            (self.removed, REMOVED),
            (self.has_log, HAS_LOG),
            (self.superseded, SUPERSEDED),
            (self.is_copy, IS_COPY),
        ];
        for (_, (name, value)) in marks.into_iter().filter(|(is, _)| *is) {
            text += &format!("{name} = {value}\n");
        }
        text
    }
}
