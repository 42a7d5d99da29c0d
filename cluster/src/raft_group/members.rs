//! Brings the members of a group, one step at a time, to where they shall be; hands its lead over.
//!
//! ```text
//! missing ─▶ learner ─▶ caught up ─▶ a leader that goes hands over ─▶ voters change (joint, then alone)
//!         ─▶ who is left over goes
//! ```
//!
//! - Owns: nothing: every step follows from what the group says of itself, so any leader goes on where the
//!   last one stopped.
//! - Takes: who shall vote and who shall only follow. Gives: one proposal to the group, or none.
//! - Bound: one change under way; a step that is not committed within `STEP_TIMEOUT` is looked at again.
//! - Source: openraft 0.9 `ChangeMembers`; Raft §4.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{AsyncRuntime as _, ChangeMembers, EmptyNode};
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::{group::Group, types::LogId, wire};
use crate::{
    clock,
    id::NodeId,
    limits::{LEADER_LEASE, READ_SILENCE_MAX},
    runtime::ClusterRuntime,
    transport::{Class, Desk, LinkError, Network},
};

/// A change of members that takes longer has lost its quorum.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// A learner that lacks fewer entries than this can vote.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// A lead that has not changed hands within this time stays.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);

/// A member that pledged itself to take over does so within this time, or not at all.
pub(crate) const PLEDGE: Duration = LEADER_LEASE;

/// Most voters of which two are a quorum.
const VOTES_OF_TWO: usize = 3;

/// How often a hand-over looks whether the other has caught up.
const HAND_OVER_LOOK: Duration = Duration::from_millis(10);

/// Who shall be in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) learners: BTreeSet<NodeId>,
    /// Who shall lead, if it votes.
    pub(crate) first: Option<NodeId>,
}

/// What the leader of a group says of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) voters: BTreeSet<NodeId>,
    /// Voters and learners.
    pub(crate) all: BTreeSet<NodeId>,
    /// These are committed, and no change is half done.
    pub(crate) settled: bool,
    /// Entries that each other member lacks; one that never answered lacks all of them.
    pub(crate) behind: BTreeMap<NodeId, u64>,
}

/// The members of a group as its leader sees them.
#[derive(Clone, Debug, Default)]
struct Members {
    me: u64,
    /// One set, or two while a change is half done.
    sets: Vec<BTreeSet<u64>>,
    all: BTreeSet<u64>,
    /// The last change is committed and applied.
    settled: bool,
    last: u64,
    matched: BTreeMap<u64, u64>,
}

/// What a group needs next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is as it shall be.
    Done,
    /// A change, or a learner, is on its way.
    Wait,
    Learn(u64),
    Vote(BTreeSet<u64>),
    Forget(BTreeSet<u64>),
    /// This leader is to go: another must lead first.
    HandOver(u64),
}

fn next_step(members: &Members, wanted: &Wanted) -> Step {
    let ids = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect::<BTreeSet<_>>();
    let (voters, learners) = (ids(&wanted.voters), ids(&wanted.learners));
    let wanted_first = wanted.first.map(|first| first.0);
    let [now] = members.sets.as_slice() else {
        // Half done, perhaps by another leader: to be ended before anything else, and to where it led.
        return match members.sets.last() {
            Some(to) if members.settled => Step::Vote(to.clone()),
            _ => Step::Wait,
        };
    };
    if !members.settled || voters.is_empty() {
        return Step::Wait;
    }
    let wanted: BTreeSet<u64> = voters.union(&learners).copied().collect();
    if let Some(missing) = wanted.difference(&members.all).next() {
        return Step::Learn(*missing);
    }
    if *now != voters {
        let matched = |id: &u64| members.matched.get(id).copied().unwrap_or(0);
        let behind = |id: &u64| members.last.saturating_sub(matched(id)) >= CAUGHT_UP_ENTRIES;
        let near = |id: &u64| members.matched.contains_key(id) && !behind(id);
        if !voters.difference(now).all(near) {
            return Step::Wait;
        }
        if !now.contains(&members.me) || voters.contains(&members.me) {
            return Step::Vote(voters);
        }
        // A leader that votes itself out leaves the group without one until somebody misses it.
        let heirs = || now.intersection(&voters).filter(|id| near(id));
        let first = heirs().find(|id| wanted_first == Some(**id));
        return match first.or_else(|| heirs().max_by_key(|id| (matched(id), **id))) {
            Some(heir) => Step::HandOver(*heir),
            None if now.is_disjoint(&voters) => {
                Step::Vote(voters.into_iter().chain([members.me]).collect())
            }
            None => Step::Wait,
        };
    }
    let extra: BTreeSet<u64> = members.all.difference(&wanted).copied().collect();
    if extra.is_empty() { Step::Done } else { Step::Forget(extra) }
}

impl Group {
    fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
        let changed = index(metrics.membership_config.log_id());
        // A member that never answered has no log id, and has caught up with nothing.
        let matched = metrics.replication.iter().flatten().filter(|(_, id)| id.is_some());
        Members {
            me: metrics.id,
            sets: members.get_joint_config().clone(),
            all: members.nodes().map(|(id, _)| *id).collect(),
            settled: index(&metrics.last_applied) >= changed,
            last: metrics.last_log_index.unwrap_or(0),
            matched: matched.map(|(id, at)| (*id, index(at))).collect(),
        }
    }

    /// Returns whether there are other members, as far as this one knows.
    pub(crate) fn has_company(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        members.nodes().any(|(id, _)| *id != self.node.0)
    }

    /// Says who its members are, if this node leads.
    pub(crate) fn report(&self) -> Option<Report> {
        if !self.lead.now().here {
            return None;
        }
        let Members { me, sets, all, settled, last, matched } = self.members();
        let behind = |id: u64| last.saturating_sub(matched.get(&id).copied().unwrap_or(0));
        let others = all.iter().filter(|id| **id != me);
        Some(Report {
            voters: sets.iter().flatten().copied().map(NodeId).collect(),
            settled: settled && sets.len() == 1,
            behind: others.map(|id| (NodeId(*id), behind(*id))).collect(),
            all: all.into_iter().map(NodeId).collect(),
        })
    }

    /// Returns whether this node is a member, as far as it knows.
    pub(crate) fn is_member(&self) -> bool {
        let members = self.members();
        members.all.contains(&members.me)
    }

    /// Returns who votes, as far as this member knows.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        self.members().sets.iter().flatten().copied().map(NodeId).collect()
    }

    /// Returns whether a voter has nearly all entries of this leader.
    pub(crate) fn is_followed_by(&self, node: NodeId) -> bool {
        let members = self.members();
        let votes = members.sets.iter().all(|set| set.contains(&node.0));
        let matched = members.matched.get(&node.0).copied();
        votes && matched.is_some_and(|at| members.last.saturating_sub(at) < CAUGHT_UP_ENTRIES)
    }

    /// Returns whether the group has just these voters, as far as this member knows.
    pub(crate) fn has_voters(&self, voters: &BTreeSet<NodeId>) -> bool {
        let members = self.members();
        let [now] = members.sets.as_slice() else { return false };
        members.settled && now.iter().copied().map(NodeId).eq(voters.iter().copied())
    }

    /// Takes the next step towards `wanted`, if this node leads; gives whether there is nothing left to do.
    pub(crate) async fn step(&self, wanted: &Wanted, network: &dyn Network) -> bool {
        if !self.lead.now().here {
            return true;
        }
        if self.lead.is_handing_over() {
            return false;
        }
        let step = next_step(&self.members(), wanted);
        let changes = match step {
            Step::Done => return true,
            Step::Wait => return false,
            Step::Learn(id) => ChangeMembers::AddNodes(BTreeMap::from([(id, EmptyNode::new())])),
            Step::Vote(voters) => ChangeMembers::ReplaceAllVoters(voters),
            Step::Forget(nodes) => ChangeMembers::RemoveNodes(nodes),
            Step::HandOver(heir) => {
                if self.may_hand_over() && !self.hand_over(NodeId(heir), network, false).await {
                    self.put_off_hand_over();
                }
                return false;
            }
        };
        tracing::debug!(group = self.number, ?changes, "members change");
        let changed = self.raft.change_membership(changes, true);
        match tokio::time::timeout(STEP_TIMEOUT, changed).await {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => tracing::warn!(group = self.number, %why, "members do not change"),
            Err(_) => tracing::warn!(group = self.number, "a change of members has no quorum"),
        }
        false
    }

    /// Gives the lead, if it is here, to the voter that has most of the log among those that take it;
    /// `false` if it stayed.
    pub(crate) async fn resign(&self, network: &dyn Network) -> bool {
        let members = self.members();
        let others = members.matched.iter().filter(|(id, _)| NodeId(**id) != self.node);
        let votes = |id: &u64| members.sets.iter().all(|set| set.contains(id));
        let near = others.filter(|(id, _)| votes(id) && self.is_followed_by(NodeId(**id)));
        let mut heirs: Vec<(u64, u64)> = near.map(|(id, at)| (*at, *id)).collect();
        heirs.sort_unstable();
        while let Some((_, to)) = heirs.pop() {
            if self.is_willing(NodeId(to), network).await {
                return self.hand_over(NodeId(to), network, false).await;
            }
        }
        false
    }

    /// Gives the lead away, if it is here and the disk takes no writes; where nobody takes it, it stays for
    /// a while.
    pub(crate) async fn relieve(&self, network: &dyn Network) {
        let wants = self.lead.now().here && !self.can_write() && self.may_hand_over();
        if wants && !self.resign(network).await {
            self.put_off_hand_over();
        }
    }

    /// Gives the lead to `to`; `false` if it stayed. Proposals wait meanwhile.
    ///
    /// - `pinned`: by somebody's wish. It stays there for `PIN` although another should lead.
    pub(crate) async fn hand_over(&self, to: NodeId, network: &dyn Network, pinned: bool) -> bool {
        if !self.lead.now().here || self.lead.is_handing_over() {
            return false;
        }
        self.lead.set_handing_over(true);
        let handing = async {
            // Asked before proposals have to wait for it.
            if !self.is_willing(to, network).await {
                return false;
            }
            self.queue.hold(true);
            self.hand_over_held(to, network, pinned).await
        };
        let handed = tokio::time::timeout(HAND_OVER_TIMEOUT, handing).await;
        self.lead.set_quiet(false);
        self.queue.hold(false);
        self.lead.set_handing_over(false);
        let handed = handed.unwrap_or(false);
        tracing::debug!(group = self.number, to = to.0, handed, "lead handed over");
        handed
    }

    /// Asks a member whether it would take the lead.
    pub(crate) async fn is_willing(&self, to: NodeId, network: &dyn Network) -> bool {
        let body = wire::willing(self.number);
        let asked = network.request(to, Class::Consensus, Desk::Raft, body, LEADER_LEASE).await;
        asked.ok().and_then(|answer| wire::read_answer(&answer)).unwrap_or(false)
    }

    async fn hand_over_held(&self, to: NodeId, network: &dyn Network, pinned: bool) -> bool {
        // A leader grants itself a lease too: before it has run out it votes for nobody.
        let own = self.lead.since().map(|since| since + LEADER_LEASE + HAND_OVER_LOOK);
        if let Some(own) = own.filter(|own| *own > clock::now()) {
            tokio::time::sleep_until(own.into()).await;
        }
        let members = self.members();
        if members.sets.iter().any(|set| set.len() > VOTES_OF_TWO) {
            // The two are no quorum: the others must be let go of first.
            self.lead.set_quiet(true);
            tokio::time::sleep(LEADER_LEASE + HAND_OVER_LOOK).await;
        }
        let caught_up = || {
            let members = self.members();
            members.matched.get(&to.0) == Some(&members.last)
        };
        while !caught_up() {
            tokio::time::sleep(HAND_OVER_LOOK).await;
        }
        let ask = |body| network.request(to, Class::Consensus, Desk::Raft, body, LEADER_LEASE);
        let serial = ClusterRuntime::thread_rng().r#gen();
        if ask(wire::pledge(self.number, serial)).await.is_err() {
            return false;
        }
        // The heir asks for votes although it hears of this leader, and may win without this node ever hearing
        // of it. Once the pledge is over it has done so, or never will; and who has done so acknowledges
        // nothing here any more.
        self.lead.hold_reads(Some(PLEDGE + READ_SILENCE_MAX));
        let mut lead = self.lead.watch();
        let asked = ask(wire::elect(self.number, serial, pinned)).await;
        if asked.as_ref().is_err_and(LinkError::is_not_done) {
            self.lead.hold_reads(None);
        }
        if asked.is_err() {
            return false;
        }
        let gone = lead.wait_for(|lead| lead.leader != Some(self.node));
        let handed = tokio::time::timeout(LEADER_LEASE, gone).await.is_ok();
        if handed {
            self.lead.hold_reads(None);
        }
        handed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn wanted(voters: &[u64], learners: &[u64]) -> Wanted {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        Wanted { voters: nodes(voters), learners: nodes(learners), first: None }
    }

    fn members(sets: &[&[u64]], learners: &[u64], matched: &[(u64, u64)]) -> Members {
        let sets: Vec<_> = sets.iter().map(|ids| set(ids)).collect();
        let all = sets.iter().flatten().chain(learners).copied().collect();
        let matched = matched.iter().copied().collect();
        Members { me: 1, sets, all, settled: true, last: 1_000, matched }
    }

    #[test]
    fn step_when_a_node_comes_then_it_learns_catches_up_and_votes() {
        let to = wanted(&[1, 2], &[]);
        let alone = members(&[&[1]], &[], &[(1, 1_000)]);
        assert_eq!(next_step(&alone, &to), Step::Learn(2));
        let silent = members(&[&[1]], &[2], &[(1, 1_000)]);
        assert_eq!(next_step(&silent, &to), Step::Wait);
        let behind = members(&[&[1]], &[2], &[(1, 1_000), (2, 900)]);
        assert_eq!(next_step(&behind, &to), Step::Wait);
        let near = members(&[&[1]], &[2], &[(1, 1_000), (2, 990)]);
        assert_eq!(next_step(&near, &to), Step::Vote(set(&[1, 2])));
        let both = members(&[&[1, 2]], &[], &[(1, 1_000), (2, 990)]);
        assert_eq!(next_step(&both, &to), Step::Done);
    }

    #[test]
    fn step_when_a_node_goes_then_it_loses_its_vote_and_is_forgotten() {
        let all = [(1, 1_000), (2, 1_000), (3, 1_000)];
        let to = wanted(&[1, 2], &[]);
        assert_eq!(next_step(&members(&[&[1, 2, 3]], &[], &all), &to), Step::Vote(set(&[1, 2])));
        assert_eq!(next_step(&members(&[&[1, 2]], &[3], &all), &to), Step::Forget(set(&[3])));
    }

    #[test]
    fn step_when_a_change_is_half_done_then_it_is_ended_first() {
        let all = [(1, 1_000), (2, 1_000), (3, 1_000)];
        let half = members(&[&[1], &[1, 2]], &[3], &all);
        assert_eq!(next_step(&half, &wanted(&[1, 2, 3], &[])), Step::Vote(set(&[1, 2])));
        let under_way = Members { settled: false, ..half };
        assert_eq!(next_step(&under_way, &wanted(&[1, 2], &[])), Step::Wait);
    }

    #[test]
    fn step_when_the_leader_goes_then_another_leads_first_and_lets_it_go() {
        let all = [(1, 1_000), (2, 990), (3, 1_000), (4, 1_000)];
        let to = wanted(&[2, 3, 4], &[]);
        let now = members(&[&[1, 2, 3]], &[4], &all);
        assert_eq!(next_step(&now, &to), Step::HandOver(3));
        let first = Wanted { first: Some(NodeId(2)), ..to.clone() };
        assert_eq!(next_step(&now, &first), Step::HandOver(2));
        // Nobody is handed a lead that it cannot take up.
        let lagging = members(&[&[1, 2]], &[3], &[(1, 1_000), (2, 10), (3, 1_000)]);
        assert_eq!(next_step(&lagging, &wanted(&[2, 3], &[])), Step::Wait);
        let heir = Members { me: 3, ..now };
        assert_eq!(next_step(&heir, &to), Step::Vote(set(&[2, 3, 4])));
        // Nobody who votes stays: both vote for a while.
        let alone = members(&[&[1]], &[2], &[(1, 1_000), (2, 1_000)]);
        assert_eq!(next_step(&alone, &wanted(&[2], &[])), Step::Vote(set(&[1, 2])));
    }

    #[test]
    fn step_when_nobody_shall_vote_then_nothing_is_done() {
        let now = members(&[&[1, 2]], &[], &[]);
        assert_eq!(next_step(&now, &wanted(&[], &[])), Step::Wait);
    }
}
