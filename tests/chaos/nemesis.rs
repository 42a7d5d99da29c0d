//! What breaks the nodes, and mends them.
//!
//! - Owns: the nodes of a run. Takes: a time and a seed. Gives: faults, one after the other, all healed at
//!   the end.
//! - Bound: at most one node is broken at a time, so that a majority can go on.

use std::{net::SocketAddr, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::client::World;
use crate::support::{
    node::{Node, signal},
    wait::{let_pass, now},
};

/// The nodes of a run.
pub(super) struct Victims {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// `kill -9`, and a start on the same data.
    Kill,
    /// SIGSTOP, then SIGCONT: a node that is slow, and does not know it.
    Pause,
}

impl Victims {
    pub(super) fn alone() -> Self {
        Self { nodes: vec![Node::start()] }
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.broker().mqtt()).collect()
    }

    /// Breaks nodes for so long.
    pub(super) fn torment(&mut self, world: &World, time: Duration, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let start = now();
        while start.elapsed() < time {
            let_pass(Duration::from_millis(random.random_range(500..3_000)));
            let victim = random.random_range(0..self.nodes.len());
            let fault = [Fault::Kill, Fault::Pause][random.random_range(0..2)];
            let lasts = Duration::from_millis(random.random_range(100..7_000));
            eprintln!("{:?}: {fault:?} of node {victim} for {lasts:?}", start.elapsed());
            self.strike(world, victim, fault, lasts);
        }
    }

    fn strike(&mut self, world: &World, victim: usize, fault: Fault, lasts: Duration) {
        let node = &mut self.nodes[victim];
        match fault {
            Fault::Kill => {
                node.kill();
                let_pass(lasts);
                node.launch();
                world.moved(victim, node.broker().mqtt());
            }
            Fault::Pause => {
                signal(node.pid(), "STOP");
                let_pass(lasts);
                signal(node.pid(), "CONT");
            }
        }
    }
}
