//! PURE-CORE for the meta group: every node that publishes a directory of one index publishes the same, and
//! none goes back while the node runs.

use std::{collections::BTreeMap, fmt::Debug};

use super::{Event, Invariant};
use crate::{directory::Directory, id::NodeId, sim::ledger::digest};

#[derive(Default)]
pub(super) struct SameDirectory {
    digests: BTreeMap<u64, u64>,
    /// The start of a node and the last index that it published.
    last: BTreeMap<NodeId, u64>,
}

/// A digest that does not depend on the order of a hash map.
fn digest_of(directory: &Directory) -> u64 {
    let mut routes: Vec<_> = directory.routes.iter().collect();
    routes.sort_by_key(|(key, _)| *key);
    let parts: [&dyn Debug; 5] =
        [&directory.nodes, &directory.removed, &directory.shards, &directory.leaders, &routes];
    let text = parts.map(|part| format!("{part:?}"));
    digest(&text.each_ref().map(String::as_bytes))
}

impl Invariant for SameDirectory {
    fn name(&self) -> &'static str {
        "SAME-DIRECTORY"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Recovered { node, .. } => {
                self.last.remove(&node);
                Ok(())
            }
            Event::Published { node, directory } => {
                let index = directory.index;
                let last = self.last.insert(node, index);
                if last > Some(index) {
                    return Err(format!("{node:?} goes back from {last:?} to {index}"));
                }
                let digest = digest_of(directory);
                if *self.digests.entry(index).or_insert(digest) != digest {
                    return Err(format!("{node:?} has another directory of index {index}"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
