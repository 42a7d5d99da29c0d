//! The links of a world: the hub on a runtime of its own, and who is cut off from whom why.
//!
//! - Owns: the hub, its clock, a count per cut direction: two faults may cut the same one.
//! - Takes: faults, milliseconds. Gives: networks to hosts.
//! - A node that stands still is cut off both ways: what its peers send waits, and they give the link up after
//!   as much silence as on sockets.
//! - Bound: that of the hub.
//! - Source: own design; `crate::transport::memory`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{Rng, RngCore, rngs::StdRng};
use tokio::runtime::{Builder, Runtime};

use crate::{
    id::NodeId,
    transport::{Network, memory::Hub},
};

pub(super) struct Links {
    nodes: Vec<NodeId>,
    cuts: BTreeMap<(NodeId, NodeId), u32>,
    hub: Hub,
    runtime: Runtime,
}

/// Where a node is found.
pub(super) fn address(node: NodeId) -> String {
    format!("n{}:1", node.0)
}

/// Makes a runtime whose time stands still but for its sleepers, and whose random numbers are seeded.
pub(super) fn runtime(seed: u64) -> Runtime {
    let seed = tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes());
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).rng_seed(seed).build().unwrap()
}

impl Links {
    pub(super) fn new(nodes: u64, random: &mut StdRng) -> Self {
        let runtime = runtime(random.next_u64());
        let hub = {
            let _here = runtime.enter();
            Hub::new(random.next_u64())
        };
        let nodes = (1..=nodes).map(NodeId).collect();
        let links = Self { nodes, cuts: BTreeMap::new(), hub, runtime };
        links.set_delay_ms(2);
        links
    }

    /// Gives the node's network; the runtime that is entered becomes its home.
    pub(super) fn join(&self, node: NodeId) -> Arc<dyn Network> {
        self.hub.join(node, &address(node))
    }

    pub(super) fn leave(&self, node: NodeId) {
        self.hub.leave(node);
    }

    pub(super) fn tick(&self) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    }

    pub(super) fn set_delay_ms(&self, longest: u64) {
        let (shortest, longest) = (Duration::from_millis(1), Duration::from_millis(longest.max(1)));
        self.hub.set_delay(shortest..=longest);
    }

    pub(super) fn set_resets(&self, per_million: u32) {
        self.hub.set_resets(per_million);
    }

    pub(super) fn reset(&self, one: NodeId, other: NodeId) {
        self.in_hub(|hub| hub.reset(one, other));
    }

    fn in_hub(&self, change: impl FnOnce(&Hub)) {
        let _here = self.runtime.enter();
        change(&self.hub);
    }

    pub(super) fn cut(&mut self, cuts: &[(NodeId, NodeId)]) {
        for cut in cuts {
            let count = self.cuts.entry(*cut).or_default();
            *count += 1;
            if *count == 1 {
                self.in_hub(|hub| hub.cut(cut.0, cut.1));
            }
        }
    }

    pub(super) fn heal(&mut self, cuts: &[(NodeId, NodeId)]) {
        for cut in cuts {
            let Some(count) = self.cuts.get_mut(cut) else { continue };
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(cut);
                self.in_hub(|hub| hub.heal(cut.0, cut.1));
            }
        }
    }

    /// Returns the directions to cut so that `side` reaches nobody else, and is not reached.
    pub(super) fn around(&self, side: &[NodeId]) -> Vec<(NodeId, NodeId)> {
        let others = || self.nodes.iter().filter(|node| !side.contains(node));
        let pairs = side.iter().flat_map(|one| others().map(|other| (*one, *other)));
        pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect()
    }

    /// Returns some directions: of one pair, one way or both, or between a minority and the rest.
    pub(super) fn some_cuts(&self, random: &mut StdRng) -> Vec<(NodeId, NodeId)> {
        let mut nodes = self.nodes.clone();
        rand::seq::SliceRandom::shuffle(&mut nodes[..], random);
        match random.gen_range(0..3) {
            0 => vec![(nodes[0], nodes[1])],
            1 => vec![(nodes[0], nodes[1]), (nodes[1], nodes[0])],
            _ => {
                let size = random.gen_range(1..=nodes.len() / 2);
                self.around(&nodes[..size])
            }
        }
    }
}
