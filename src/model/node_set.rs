//! Nodes to which a message goes.
//!
//! - Owns: two ids inline, more on the heap. Takes: ids. Gives: each once, in ascending order.
//! - Bound: the nodes of the cluster.
//! - Source: own design.

use hongqiao_cluster::id::NodeId;
use smallvec::SmallVec;

use super::route::Places;

/// A set of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(SmallVec<[NodeId; 2]>);

impl NodeSet {
    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one.
    pub fn insert(&mut self, node: NodeId) {
        if let Err(at) = self.0.binary_search(&node) {
            self.0.insert(at, node);
        }
    }

    /// Tells whether a node is in it.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.binary_search(&node).is_ok()
    }

    /// Walks the nodes.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().copied()
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::default();
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}

impl Places for NodeSet {
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn extend(&mut self, other: &Self) {
        other.iter().for_each(|node| self.insert(node));
    }
}

const _: () = assert!(size_of::<NodeSet>() <= 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_when_built_in_any_order_holds_each_node_once_and_sorted() {
        let set: NodeSet = [3, 1, 2, 3, 1].into_iter().map(NodeId).collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [NodeId(1), NodeId(2), NodeId(3)]);
        let mut both: NodeSet = [NodeId(9)].into_iter().collect();
        Places::extend(&mut both, &set);
        assert!(both.contains(NodeId(2)) && both.contains(NodeId(9)) && !both.contains(NodeId(4)));
    }
}
