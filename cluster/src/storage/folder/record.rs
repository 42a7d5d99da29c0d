//! The text of `node`: which node a folder is of, how often it was started, and what else it is marked with.
//!
//! - Owns: the names of the fields. Takes: a text. Gives: a record, and a text again.
//! - Bound: one small text. A field that is not known is passed over, and one that is not there says no: folders
//!   of earlier releases have the first two alone.

use std::path::Path;

use super::marks::field;
use crate::error::StartError;

/// What `node` says of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    /// 0 until the cluster has given an id.
    pub(crate) node: u64,
    /// The number of the last start.
    pub(crate) incarnation: u64,
    /// The node was removed from its cluster.
    pub(crate) removed: bool,
    /// The log was begun: a folder without it has lost it.
    pub(crate) has_log: bool,
}

/// The marks, and how each is written.
const REMOVED: (&str, &str) = ("removed", "yes");
const HAS_LOG: (&str, &str) = ("log", "begun");

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
        Ok(Self { node, incarnation, removed: is(REMOVED), has_log: is(HAS_LOG) })
    }

    /// Returns the text.
    pub(crate) fn text(&self) -> String {
        let Self { node, incarnation, .. } = self;
        let marks = [(self.removed, REMOVED), (self.has_log, HAS_LOG)];
        let marks = marks.into_iter().filter(|(is, _)| *is);
        let marks = marks.map(|(_, (name, value))| format!("{name} = {value}\n"));
        format!("node = {node}\nincarnation = {incarnation}\n") + &marks.collect::<String>()
    }
}
