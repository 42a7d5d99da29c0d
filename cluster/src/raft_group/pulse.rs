//! The clock of all groups: heartbeats of those led here, elections of those whose leader is silent.
//!
//! ```text
//! silent for the lease and a delay ─▶ ask the other voters ─▶ a quorum would vote ─▶ elect
//! ```
//!
//! - Owns: one task per node; it sleeps while no group has a second member.
//! - Takes: when each leader was last heard of. Gives: heartbeats of all groups at one moment, so that links
//!   gather them; elections that do not disturb a leader others hear of.
//! - Bound: one look per `LOOK_INTERVAL`, one election under way per group.
//! - Source: Raft §9.6 (a member that was cut off must not depose a leader). openraft 0.9 has no such
//!   question, so its own election timer stays off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use openraft::{AsyncRuntime as _, ServerState};
use rand::Rng as _;
use tokio::sync::Notify;

use super::{group::Group, types::LogId, wire};
use crate::{
    clock,
    id::NodeId,
    limits::{ELECTION_MIN, HEARTBEAT, LEADER_LEASE},
    runtime::ClusterRuntime,
    transport::{Class, Desk, Network},
};

/// How often the clocks are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// By how much candidates are told apart: the next in turn of a shard's replicas goes first.
const TURN: Duration = Duration::from_millis(150);

/// Whose disk takes no writes lets all others go first: it would have to give the lead away at once.
const UNABLE: Duration = Duration::from_secs(1);

/// What drives the clocks of a node's groups.
pub(crate) struct Pulse {
    pub(crate) node: NodeId,
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) network: Arc<dyn Network>,
    /// Signalled when a group gets a second member.
    pub(crate) awake: Arc<Notify>,
}

/// The clock of one group.
#[derive(Clone)]
struct Clock {
    /// The next heartbeat, while this node leads.
    beat: Instant,
    /// The next election, unless the leader is heard of.
    stand: Instant,
    heard: Instant,
}

/// What a group's membership asks of its clock.
enum Duty {
    None,
    /// Others are members, and this node will vote in a moment: nobody wakes the clock for that.
    Learn,
    Beat,
    /// The other voters, as one or two sets that must each have a quorum.
    Watch(Vec<Vec<u64>>),
}

impl Pulse {
    /// Runs until the runtime ends.
    pub(crate) async fn run(self) {
        let now = clock::now();
        let mut clocks =
            vec![Clock { beat: now, stand: now + LEADER_LEASE, heard: now }; self.groups.len()];
        loop {
            let mut idle = true;
            for (group, clock) in self.groups.iter().zip(&mut clocks) {
                let duty = self.duty(group);
                idle &= matches!(duty, Duty::None);
                self.look(group, clock, duty).await;
            }
            if idle {
                self.awake.notified().await;
            } else {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
    }

    fn duty(&self, group: &Group) -> Duty {
        if !group.is_open() {
            return Duty::None;
        }
        let metrics = group.raft.server_metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        if !members.nodes().any(|(id, _)| *id != self.node.0) {
            return Duty::None;
        }
        if metrics.state == ServerState::Leader {
            return Duty::Beat;
        }
        if !members.voter_ids().any(|voter| voter == self.node.0) {
            return Duty::Learn;
        }
        let sets = members.get_joint_config().iter();
        Duty::Watch(sets.map(|set| set.iter().copied().collect()).collect())
    }

    async fn look(&self, group: &Arc<Group>, clock: &mut Clock, duty: Duty) {
        let now = clock::now();
        match duty {
            Duty::None | Duty::Learn => {}
            Duty::Beat => {
                if now >= clock.beat && !group.lead.is_quiet() {
                    clock.beat = now + HEARTBEAT;
                    let _ = group.raft.trigger().heartbeat().await;
                }
            }
            Duty::Watch(sets) => {
                let heard = group.heard();
                if heard != clock.heard {
                    clock.heard = heard;
                    clock.stand = heard + LEADER_LEASE + self.delay(group, &sets);
                }
                if now >= clock.stand {
                    clock.stand = now + ELECTION_MIN + self.delay(group, &sets);
                    tokio::spawn(ask(self.node, group.clone(), self.network.clone(), sets));
                }
            }
        }
    }

    /// Returns how long this voter lets others go first.
    fn delay(&self, group: &Group, sets: &[Vec<u64>]) -> Duration {
        let voters = sets.last().map(Vec::as_slice).unwrap_or_default();
        let place = voters.iter().position(|voter| *voter == self.node.0).unwrap_or(voters.len());
        let count = voters.len().max(1);
        let turn = (place + usize::from(group.number)) % count;
        let within = u64::try_from(TURN.as_millis()).unwrap_or(1);
        let random = Duration::from_millis(ClusterRuntime::thread_rng().gen_range(0..within));
        let unable = if group.can_write() { Duration::ZERO } else { UNABLE };
        TURN * u32::try_from(turn).unwrap_or(u32::MAX) + random + unable
    }
}

/// Stands for election if the other voters would let this node win.
async fn ask(node: NodeId, group: Arc<Group>, network: Arc<dyn Network>, sets: Vec<Vec<u64>>) {
    let last: Option<LogId> = group.raft.data_metrics().borrow().last_log;
    let mut others: Vec<u64> = sets.iter().flatten().copied().filter(|id| *id != node.0).collect();
    others.sort_unstable();
    others.dedup();
    let question = wire::ask(group.number, last);
    let mut answers: FuturesUnordered<_> = others
        .into_iter()
        .map(|id| {
            let (to, body) = (NodeId(id), question.clone());
            let asked = network.request(to, Class::Consensus, Desk::Raft, body, ELECTION_MIN);
            async move { (id, asked.await.ok().and_then(|answer| wire::read_answer(&answer))) }
        })
        .collect();
    let mut agree = vec![node.0];
    while !is_quorum(&sets, &agree) {
        match answers.next().await {
            Some((id, Some(true))) => agree.push(id),
            Some(_) => {}
            None => return,
        }
    }
    // It may have spoken up again meanwhile.
    if group.is_open() && group.is_leaderless() {
        tracing::debug!(group = group.number, "no leader is heard of: standing for election");
        group.elect().await;
    }
}

fn is_quorum(sets: &[Vec<u64>], agree: &[u64]) -> bool {
    sets.iter().all(|set| set.iter().filter(|id| agree.contains(id)).count() > set.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorum_when_two_sets_are_in_force_then_each_needs_one() {
        let sets = [vec![1, 2, 3], vec![3, 4, 5]];
        assert!(is_quorum(&sets[..1], &[1, 2]));
        assert!(!is_quorum(&sets, &[1, 2]));
        assert!(!is_quorum(&sets, &[1, 2, 3]));
        assert!(is_quorum(&sets, &[1, 3, 4]));
        assert!(!is_quorum(&[vec![1, 2]], &[1]));
    }
}
