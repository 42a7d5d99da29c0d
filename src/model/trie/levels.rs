//! Filters with wildcards, as a tree of levels.
//!
//! - Owns: nodes in one slab; the edges to literal children of all nodes in one hash table, so that a
//!   node costs no map of its own. The root of an app is the child of nothing by the app's number.
//! - Bound: one node for each distinct prefix of a filter.

use std::hash::{BuildHasher as _, Hasher as _};

use ahash::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{FilterId, FoundFilters};
use crate::model::id::AppId;

const NONE: u32 = u32::MAX;

/// Deepest topic whose walk stays on the stack.
const STACK_LEVELS: usize = 32;

struct Node {
    parent: u32,
    /// Child for `+`.
    plus: u32,
    /// Filter that ends here.
    here: u32,
    /// Filter that ends here with a further `#`.
    below: u32,
    /// Children, `+` included.
    children: u32,
    /// Text of the level; for a root the app's number.
    label: Box<[u8]>,
}

/// Where a filter ends: a node, and whether by `#`.
#[derive(Clone, Copy)]
pub(super) struct End {
    node: u32,
    below: bool,
}

#[derive(Default)]
pub(super) struct Levels {
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Literal children by hash of (parent, label).
    edges: HashTable<u32>,
    hash: RandomState,
}

impl Levels {
    /// Makes the nodes of a filter; the caller then sets the filter at its end.
    pub(super) fn insert(&mut self, app: AppId, text: &[u8]) -> End {
        let mut node = self.literal_or_new(NONE, &app.0.to_le_bytes());
        for level in text.split(|byte| *byte == b'/') {
            node = match level {
                b"#" => return End { node, below: true },
                b"+" => self.plus_or_new(node),
                _ => self.literal_or_new(node, level),
            };
        }
        End { node, below: false }
    }

    pub(super) fn filter(&self, end: End) -> Option<u32> {
        let node = self.nodes.get(index(end.node))?;
        let filter = if end.below { node.below } else { node.here };
        (filter != NONE).then_some(filter)
    }

    pub(super) fn set_filter(&mut self, end: End, filter: u32) {
        if let Some(node) = self.nodes.get_mut(index(end.node)) {
            *(if end.below { &mut node.below } else { &mut node.here }) = filter;
        }
    }

    pub(super) fn find(&self, app: AppId, text: &[u8]) -> Option<u32> {
        self.filter(self.find_end(app, text)?)
    }

    pub(super) fn remove(&mut self, app: AppId, text: &[u8]) {
        let Some(end) = self.find_end(app, text) else { return };
        self.set_filter(end, NONE);
        let mut at = end.node;
        while let Some(node) = self.nodes.get(index(at)) {
            if node.children > 0 || node.here != NONE || node.below != NONE {
                return;
            }
            at = self.remove_leaf(at);
        }
    }

    /// Walks every path that matches, depth first. At most one node waits for each level.
    pub(super) fn matches(&self, app: AppId, topic: &[u8], found: &mut FoundFilters) {
        let Some(root) = self.literal(NONE, &app.0.to_le_bytes()) else { return };
        // MQTT 5.0 section 4.7.2: a leading wildcard does not match a leading `$`.
        let dollar = topic.first() == Some(&b'$');
        let mut waiting = SmallVec::<[(u32, usize); STACK_LEVELS]>::new();
        waiting.push((root, 0));
        while let Some((at, from)) = waiting.pop() {
            let Some(node) = self.nodes.get(index(at)) else { continue };
            let wildcard = !(dollar && at == root);
            if node.below != NONE && wildcard {
                found.push(FilterId(node.below));
            }
            // One past the end means that the topic's last level was taken.
            let Some(rest) = topic.get(from..) else {
                if node.here != NONE {
                    found.push(FilterId(node.here));
                }
                continue;
            };
            let level = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let next = from + level + 1;
            if node.plus != NONE && wildcard {
                waiting.push((node.plus, next));
            }
            let literals = node.children - u32::from(node.plus != NONE);
            if literals > 0
                && let Some(child) = self.literal(at, &rest[..level])
            {
                waiting.push((child, next));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn live_nodes(&self) -> usize {
        assert_eq!(self.edges.is_empty(), self.nodes.len() == self.free.len());
        self.nodes.len() - self.free.len()
    }

    fn find_end(&self, app: AppId, text: &[u8]) -> Option<End> {
        let mut node = self.literal(NONE, &app.0.to_le_bytes())?;
        for level in text.split(|byte| *byte == b'/') {
            node = match level {
                b"#" => return Some(End { node, below: true }),
                b"+" => self.nodes.get(index(node))?.plus,
                _ => self.literal(node, level)?,
            };
        }
        Some(End { node, below: false })
    }

    fn literal(&self, parent: u32, label: &[u8]) -> Option<u32> {
        let is = |&at: &u32| {
            let node = &self.nodes[index(at)];
            node.parent == parent && *node.label == *label
        };
        self.edges.find(hash_of(&self.hash, parent, label), is).copied()
    }

    fn literal_or_new(&mut self, parent: u32, label: &[u8]) -> u32 {
        if let Some(node) = self.literal(parent, label) {
            return node;
        }
        let at = self.new_node(parent, label);
        let (nodes, hash) = (&self.nodes, &self.hash);
        let hash_at = |&at: &u32| hash_of(hash, nodes[index(at)].parent, &nodes[index(at)].label);
        self.edges.insert_unique(hash_of(hash, parent, label), at, hash_at);
        at
    }

    fn plus_or_new(&mut self, parent: u32) -> u32 {
        let plus = self.nodes[index(parent)].plus;
        if plus != NONE {
            return plus;
        }
        let at = self.new_node(parent, b"");
        self.nodes[index(parent)].plus = at;
        at
    }

    fn new_node(&mut self, parent: u32, label: &[u8]) -> u32 {
        if let Some(parent) = self.nodes.get_mut(index(parent)) {
            parent.children += 1;
        }
        let node =
            Node { parent, plus: NONE, here: NONE, below: NONE, children: 0, label: label.into() };
        if let Some(at) = self.free.pop() {
            self.nodes[index(at)] = node;
            return at;
        }
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
    }

    /// Removes a node without children and filters; returns its parent.
    fn remove_leaf(&mut self, at: u32) -> u32 {
        let node = &mut self.nodes[index(at)];
        let parent = node.parent;
        let hash = hash_of(&self.hash, parent, &node.label);
        node.label = Box::default();
        self.free.push(at);
        if let Some(parent) = self.nodes.get_mut(index(parent)) {
            parent.children -= 1;
            if parent.plus == at {
                parent.plus = NONE;
            }
        }
        // A `+` child is not among the edges; looking for it there finds nothing.
        if let Ok(entry) = self.edges.find_entry(hash, |&other| other == at) {
            entry.remove();
        }
        parent
    }
}

fn index(node: u32) -> usize {
    usize::try_from(node).unwrap_or(usize::MAX)
}

fn hash_of(hash: &RandomState, parent: u32, label: &[u8]) -> u64 {
    let mut hasher = hash.build_hasher();
    hasher.write_u32(parent);
    hasher.write(label);
    hasher.finish()
}
