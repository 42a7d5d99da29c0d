//! Election Safety (Raft §5.2): at most one node leads a group in a term. A vote that was not on disk when it
//! was given breaks it.

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::id::NodeId;

#[derive(Default)]
pub(super) struct OneLeader(BTreeMap<(u16, u64), NodeId>);

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "ONE-LEADER"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Leads { node, group, term } = *event else { return Ok(()) };
        let first = *self.0.entry((group, term)).or_insert(node);
        if first != node {
            return Err(format!("{first:?} and {node:?} lead group {group} in term {term}"));
        }
        Ok(())
    }
}
