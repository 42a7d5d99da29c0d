//! Who leads a group, for those that ask or propose: as the group itself knows, or as others say.
//!
//! - Owns: a guess, for a group that has no replica here. Takes: `Lead`, hints of other nodes.
//! - Gives: whom to ask next; each replica in turn until one knows better.
//! - Bound: none needed.
//! - Source: own design.

use std::sync::Arc;

use super::sender::Leader;
use crate::{
    directory::Directory,
    id::{NodeId, ShardId},
    meta::machine::Published,
    raft_group::lead::Lead,
    transport::Network,
};

/// Returns who may have a replica of a group, as the directory has it.
pub(crate) type Replicas = Arc<dyn Fn(ShardId) -> Vec<NodeId> + Send + Sync>;

/// The way to other nodes.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) replicas: Replicas,
}

impl Way {
    pub(crate) fn of(network: Arc<dyn Network>, published: Arc<Published>) -> Self {
        let replicas = move |group| replicas(&published.directory(), group);
        Self { network, replicas: Arc::new(replicas) }
    }
}

/// Returns who may have a replica of a group; of the meta group any member may.
fn replicas(directory: &Directory, group: ShardId) -> Vec<NodeId> {
    match directory.shards.get(usize::from(group.0)) {
        Some(replicas) => replicas.clone(),
        None => directory.nodes.keys().copied().collect(),
    }
}

/// See the file header.
pub(crate) struct Seek {
    node: NodeId,
    group: ShardId,
    guess: Option<NodeId>,
}

impl Seek {
    pub(crate) fn new(node: NodeId, group: ShardId) -> Self {
        Self { node, group, guess: None }
    }

    /// Returns whom to ask; a guess has term 0.
    pub(crate) fn target(&mut self, lead: Lead, way: Option<&Way>) -> Option<Leader> {
        let replicas = way.map(|way| (way.replicas)(self.group)).unwrap_or_default();
        // A replica that was moved away while it was cut off never hears of it: what it knows is old.
        let is_stranger = !replicas.is_empty() && !replicas.contains(&self.node) && !lead.here;
        match lead.leader {
            // Elected, but not caught up, or without its quorum: it takes nothing.
            Some(leader) if leader == self.node && !lead.here && !is_stranger => None,
            Some(leader) if !is_stranger => Some(Leader { node: leader.0, term: lead.term }),
            _ => {
                self.guess = self.guessed(&replicas);
                self.guess.map(|guess| Leader { node: guess.0, term: 0 })
            }
        }
    }

    fn guessed(&self, replicas: &[NodeId]) -> Option<NodeId> {
        if replicas.contains(&self.node) {
            // This node will hear of a leader by itself, and before that there is none.
            return None;
        }
        self.guess.or(replicas.first().copied())
    }

    /// `wrong` does not lead, or does not answer; it may have said who does.
    pub(crate) fn guess_again(&mut self, wrong: NodeId, hint: Option<NodeId>, way: &Way) {
        if self.guess != Some(wrong) {
            return;
        }
        // Never itself: who asks does not know, and would ask itself again and again.
        let mut others = (way.replicas)(self.group);
        others.retain(|replica| *replica != self.node);
        let at = others.iter().position(|replica| *replica == wrong);
        let next = at.and_then(|at| others.get(at + 1)).or(others.first()).copied();
        self.guess = hint.filter(|hint| *hint != self.node).or(next);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::transport::memory::Hub;

    #[tokio::test]
    async fn seek_when_its_replica_comes_and_goes_then_never_asks_itself() {
        let hub = Hub::new(1);
        let placed = Arc::new(Mutex::new(vec![NodeId(1), NodeId(3)]));
        let replicas: Replicas = {
            let placed = placed.clone();
            Arc::new(move |_| placed.lock().clone())
        };
        let way = Way { network: hub.join(NodeId(2), "n2"), replicas };
        let mut seek = Seek::new(NodeId(2), ShardId(0));
        let told = |node| Some(Leader { node, term: 0 });
        assert_eq!(seek.target(Lead::default(), Some(&way)), told(1));
        *placed.lock() = vec![NodeId(1), NodeId(2), NodeId(3)];
        seek.guess_again(NodeId(1), None, &way);
        // It hears by itself.
        let heard = Lead { leader: Some(NodeId(1)), term: 4, here: false };
        assert_eq!(seek.target(heard, Some(&way)), Some(Leader { node: 1, term: 4 }));
        *placed.lock() = vec![NodeId(1), NodeId(3)];
        assert_eq!(seek.target(Lead::default(), Some(&way)), told(3));
        seek.guess_again(NodeId(3), Some(NodeId(2)), &way);
        assert_eq!(seek.target(Lead::default(), Some(&way)), told(1));
    }
}
