//! Keeps this node's time that of its cluster: the clock of one node may be an hour off, and no deadline moves.
//!
//! ```text
//! each node's clock ─▶ asked every INTERVAL ─▶ how far it is ahead of ours ─▶ median ─▶ `clock::wall_ms`
//! ```
//!
//! - Owns: what was last heard of each member's clock. Takes: their answers. Gives: the correction of `clock`.
//! - With three members or more one wrong clock changes nothing; with two that of the lower id counts, and a
//!   node alone believes its own. Less than `TOLERANCE` is left alone: deadlines are not that exact.
//! - Bound: one question per member and round; an answer that takes longer than `ANSWER_MAX` is not used.
//! - Source: own design. Order never depends on it (positions do that), only deadlines and expiry.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use hongqiao_cluster::id::NodeId;

use super::workers::Shared;
use crate::{
    actors::{
        peer::{Class, PeerReply, PeerRequest, Peers},
        view::{Members, View},
    },
    clock,
};

/// Time between two rounds.
const INTERVAL: Duration = Duration::from_secs(10);

/// A node alone looks whether its clock was set.
const ALONE_INTERVAL: Duration = Duration::from_secs(1);

/// A slower answer says too little.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// A start waits so long for the first answers.
const FIRST_MAX: Duration = Duration::from_secs(1);

const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Clocks that are closer than this are left alone.
const TOLERANCE_MS: u64 = 1_000;

/// See the head of the file.
pub(super) struct Timekeeper {
    view: View,
    peers: Peers,
    /// How far the clock of a member is ahead of this node's, milliseconds; as last heard.
    ahead_ms: BTreeMap<NodeId, i64>,
    correction_ms: i64,
}

impl Timekeeper {
    /// Asks before this node has any deadline to keep, gives up after `FIRST_MAX`, and goes on as a task.
    pub(super) async fn start(shared: &Shared) {
        let (view, peers) = (shared.view.clone(), shared.peers.clone());
        let mut keeper = Self { view, peers, ahead_ms: BTreeMap::new(), correction_ms: 0 };
        let begun = clock::now();
        while !keeper.round().await && begun.elapsed() < FIRST_MAX {
            tokio::time::sleep(FIRST_RETRY).await;
        }
        actix_rt::spawn(keeper.run());
    }

    /// Runs until the runtime ends.
    async fn run(mut self) {
        loop {
            let alone = self.view.members().alone;
            tokio::time::sleep(if alone { ALONE_INTERVAL } else { INTERVAL }).await;
            self.round().await;
        }
    }

    /// Asks everybody; gives whether everybody has answered.
    async fn round(&mut self) -> bool {
        let members = self.view.members();
        let others = members.up().map(|start| start.node).filter(|node| *node != members.me.node);
        let asked = others.map(|node| ask(&self.peers, node));
        let answers = join_all(asked).await;
        let is_whole = answers.iter().all(|(_, ahead)| ahead.is_some());
        for (node, ahead) in answers {
            self.ahead_ms.extend(ahead.map(|ahead| (node, ahead)));
        }
        self.settle(&members);
        is_whole
    }

    fn settle(&mut self, members: &Members) {
        let is_member = |node: &NodeId| members.all.iter().any(|of| of.start.node == *node);
        self.ahead_ms.retain(|node, _| is_member(node));
        let correction_ms = correction(members.me.node, &self.ahead_ms);
        clock::set_wall(correction_ms);
        if correction_ms.abs_diff(self.correction_ms) > TOLERANCE_MS {
            say(correction_ms);
            self.correction_ms = correction_ms;
        }
    }
}

fn say(correction_ms: i64) {
    let secs = correction_ms.unsigned_abs() / 1_000;
    match correction_ms {
        0 => tracing::info!("this node's clock agrees with the others' again"),
        1.. => tracing::warn!(
            secs,
            "this node's clock is behind those of most nodes; deadlines go by theirs: set the clock"
        ),
        _ => tracing::warn!(
            secs,
            "this node's clock is ahead of those of most nodes; deadlines go by theirs: set the clock"
        ),
    }
}

/// Asks one node for its clock; gives how far that is ahead of this node's.
async fn ask(peers: &Peers, node: NodeId) -> (NodeId, Option<i64>) {
    let sent = clock::now();
    let answer = peers.ask(node, Class::Control, &PeerRequest::Time, ANSWER_MAX).await;
    let took = sent.elapsed();
    let Ok(PeerReply::Time { system_ms }) = answer else { return (node, None) };
    if took > ANSWER_MAX {
        return (node, None);
    }
    // It was read about half-way.
    let half_ms = u64::try_from(took.as_millis() / 2).unwrap_or(0);
    let theirs = i64::try_from(system_ms.saturating_add(half_ms)).unwrap_or(i64::MAX);
    let ours = i64::try_from(clock::system_ms()).unwrap_or(i64::MAX);
    (node, Some(theirs.saturating_sub(ours)))
}

/// Returns what the clock of `me` is to be corrected by.
fn correction(me: NodeId, ahead_ms: &BTreeMap<NodeId, i64>) -> i64 {
    let mut all: Vec<(NodeId, i64)> =
        ahead_ms.iter().map(|(node, ahead)| (*node, *ahead)).collect();
    all.push((me, 0));
    let found = if all.len() == 2 {
        all.iter().min().map(|(_, ahead)| *ahead)
    } else {
        all.sort_by_key(|(_, ahead)| *ahead);
        // Of an even number the earlier: nothing may come too soon.
        all.get((all.len() - 1) / 2).map(|(_, ahead)| *ahead)
    };
    found.filter(|ahead| ahead.unsigned_abs() > TOLERANCE_MS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn of(me: u64, others: &[(u64, i64)]) -> i64 {
        let others = others.iter().map(|(node, ahead)| (NodeId(*node), *ahead));
        correction(NodeId(me), &others.collect())
    }

    #[test]
    fn correction_when_one_clock_is_off_then_that_one_is_corrected_alone() {
        assert_eq!(of(1, &[]), 0);
        // Node 3 is an hour ahead, seen from each of the three.
        assert_eq!(of(1, &[(2, 40), (3, HOUR)]), 0);
        assert_eq!(of(2, &[(1, -40), (3, HOUR)]), 0);
        assert_eq!(of(3, &[(1, -HOUR), (2, 40 - HOUR)]), 40 - HOUR);
        // The same behind, and with one of them down and never heard of.
        assert_eq!(of(3, &[(1, HOUR), (2, HOUR + 40)]), HOUR);
        assert_eq!(of(5, &[(1, HOUR), (2, HOUR), (3, 0), (4, HOUR)]), HOUR);
    }

    #[test]
    fn correction_when_two_disagree_then_the_lower_id_counts_and_of_four_the_earlier_half() {
        assert_eq!(of(1, &[(2, HOUR)]), 0);
        assert_eq!(of(2, &[(1, -HOUR)]), -HOUR);
        assert_eq!(of(4, &[(1, HOUR), (2, HOUR), (3, 0)]), 0);
        assert_eq!(of(1, &[(2, 0), (3, -HOUR), (4, -HOUR)]), -HOUR);
    }
}
