//! Carries what was proposed here to the leader of the group, wherever it is.
//!
//! - Owns: one task per group. Takes: who leads, and the queue's requests. Gives: verdicts.
//! - Bound: does nothing while this node leads: then the group's proposer takes from the queue itself.
//! - Source: own design.

use std::sync::Arc;

use tokio::sync::watch;

use super::{queue::Queue, sender::Leader};
use crate::raft_group::lead::Lead;

/// Returns the leader that a group knows of.
fn leader(lead: Lead) -> Option<Leader> {
    lead.leader.map(|node| Leader { node: node.0, term: lead.term })
}

/// Follows who leads a group, from now on.
pub(crate) fn start(queue: &Arc<Queue>, mut lead: watch::Receiver<Lead>) {
    let queue = queue.clone();
    queue.lead(leader(*lead.borrow_and_update()));
    tokio::spawn(async move {
        while lead.changed().await.is_ok() {
            queue.lead(leader(*lead.borrow_and_update()));
        }
    });
}
