//! Log Matching (Raft §5.3): an entry of one term and index is the same in every log, and so is the entry in
//! front of it.
//!
//! A leader may lose what it had not flushed, and use its numbers again: that is right as long as nobody else
//! has seen it. So an entry is forgotten once the last log that held it has come back without it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Invariant};
use crate::{id::NodeId, raft_group::types::LogId};

#[derive(Default)]
pub(super) struct LogMatching(BTreeMap<(u16, LogId), Entry>);

struct Entry {
    digest: u64,
    /// The one in front of it, where a log still had that.
    before: Option<LogId>,
    held_by: BTreeSet<NodeId>,
}

impl LogMatching {
    fn lost(&mut self, node: NodeId, group: u16, last: Option<LogId>) {
        let is_behind =
            |(of, id): &(u16, LogId)| *of == group && last.is_none_or(|last| id.index > last.index);
        self.0.retain(|key, entry| {
            if is_behind(key) {
                entry.held_by.remove(&node);
            }
            !entry.held_by.is_empty()
        });
    }
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "LOG-MATCHING"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        if let Event::Recovered { node, group, last } = *event {
            self.lost(node, group, last);
        }
        let Event::Logged { node, group, before, id, digest } = *event else { return Ok(()) };
        let fresh = || Entry { digest, before, held_by: BTreeSet::new() };
        let known = self.0.entry((group, id)).or_insert_with(fresh);
        known.held_by.insert(node);
        if known.digest != digest {
            return Err(format!("{node:?} holds another entry {id} of group {group}"));
        }
        known.before = known.before.or(before);
        if before.is_some() && known.before != before {
            let other = known.before;
            return Err(format!("entry {id} of group {group} follows {before:?} and {other:?}"));
        }
        Ok(())
    }
}
