//! Which shard goes where next: decisions of the leader of the meta group, from what others tell it. Pure.
//!
//! ```text
//! directory ≠ group ─▶ under way ─ a step within STUCK_AFTER ─▶ … ─▶ settled
//!                          ├─ a new member is down ─▶ back to who votes
//!                          └─ no step ─▶ stuck: others go on, it is looked at all the same
//! ```
//!
//! - Owns: what is known of groups on their way; nothing that must survive: the next leader asks again.
//! - Takes: the directory, reports of groups, times. Gives: the next place of one shard, or none.
//! - Bound: one shard on the move, beside those that are stuck.
//! - Source: own design.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::progress::Move;
use crate::{
    directory::Directory,
    id::{NodeId, ShardId},
    placement,
    raft_group::members::Report,
};

/// A shard on its way that has made no step for so long holds up no other.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(15);

/// A group that is not where the directory wants it.
#[derive(Clone, Debug)]
struct UnderWay {
    /// What its leader said last.
    report: Option<Report>,
    /// When that was something new.
    moved_at: Instant,
}

impl UnderWay {
    fn is_stuck(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.moved_at) >= STUCK_AFTER
    }
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Mover {
    /// Where groups have said that they are.
    settled: BTreeMap<ShardId, BTreeSet<NodeId>>,
    under_way: BTreeMap<ShardId, UnderWay>,
}

fn shards(directory: &Directory) -> impl Iterator<Item = (ShardId, &Vec<NodeId>)> {
    (0..).map(ShardId).zip(&directory.shards)
}

fn set(nodes: &[NodeId]) -> BTreeSet<NodeId> {
    nodes.iter().copied().collect()
}

impl Mover {
    /// Returns the shards whose leaders must be asked.
    pub(crate) fn open(&self, directory: &Directory) -> Vec<ShardId> {
        let is_open = |(shard, at): &(ShardId, &Vec<NodeId>)| {
            self.settled.get(shard).is_none_or(|settled| *settled != set(at))
        };
        shards(directory).filter(is_open).map(|(shard, _)| shard).collect()
    }

    /// Takes what the leader of a shard says of it; `None` if none was found.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        directory: &Directory,
        shard: ShardId,
        report: Option<Report>,
    ) {
        let wanted = set(directory.replicas(shard));
        if let Some(report) = &report
            && report.settled
            && report.voters == wanted
            && report.all == wanted
        {
            self.under_way.remove(&shard);
            self.settled.insert(shard, wanted);
            return;
        }
        self.settled.remove(&shard);
        let fresh = UnderWay { report: None, moved_at: now };
        let way = self.under_way.entry(shard).or_insert(fresh);
        if report.is_some() && report != way.report {
            *way = UnderWay { report, moved_at: now };
        }
    }

    /// Returns whether everything is where the directory wants it, as far as is known.
    pub(crate) fn is_settled(&self, directory: &Directory) -> bool {
        self.open(directory).is_empty()
    }

    /// Returns which shard gets which replicas next.
    pub(crate) fn next(
        &self,
        now: Instant,
        directory: &Directory,
    ) -> Option<(ShardId, Vec<NodeId>)> {
        let at: Vec<Vec<NodeId>> = directory.shards.iter().cloned().collect();
        if let Some(back) = self.back(directory, &at) {
            return Some(back);
        }
        if self.under_way.values().any(|way| !way.is_stuck(now)) {
            return None;
        }
        let then = placement::of(directory, &at);
        let mut places = shards(directory).zip(then);
        let is_next = |((shard, at), then): &((ShardId, &Vec<NodeId>), Vec<NodeId>)| {
            !self.under_way.contains_key(shard) && *at != then
        };
        places.find(is_next).map(|((shard, _), then)| (shard, then))
    }

    /// Returns a shard that goes back because a member that it was to get is down.
    fn back(&self, directory: &Directory, at: &[Vec<NodeId>]) -> Option<(ShardId, Vec<NodeId>)> {
        let up = directory.up();
        self.under_way.iter().find_map(|(shard, way)| {
            let report = way.report.as_ref().filter(|report| report.settled)?;
            let wanted = directory.replicas(*shard);
            let lacks = |node: &NodeId| !report.voters.contains(node) && !up.contains(node);
            if !wanted.iter().any(lacks) {
                return None;
            }
            // In the order of before, so that nothing else changes.
            let mut voters: Vec<NodeId> = report.voters.iter().copied().collect();
            voters
                .sort_by_key(|node| wanted.iter().position(|at| at == node).unwrap_or(usize::MAX));
            let mut now = at.to_vec();
            *now.get_mut(usize::from(shard.0))? = voters;
            let then = placement::of(directory, &now).into_iter().nth(usize::from(shard.0))?;
            (then != wanted).then_some((*shard, then))
        })
    }

    /// Returns what is under way, for people.
    pub(crate) fn moves(&self, now: Instant, directory: &Directory) -> Vec<Move> {
        let of = |shard: ShardId| {
            let to = directory.replicas(shard).to_vec();
            let way = self.under_way.get(&shard);
            let report = way.and_then(|way| way.report.clone()).unwrap_or_default();
            let lack = report.behind.into_iter().filter(|(node, _)| !report.voters.contains(node));
            Move {
                shard,
                behind: lack.collect(),
                now: report.voters.into_iter().collect(),
                to,
                snapshot: None,
                stuck: way.is_some_and(|way| way.is_stuck(now)),
            }
        };
        self.open(directory).into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, directory::Member};

    fn ids(nodes: &[u64]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn report(voters: &[u64], learners: &[u64]) -> Option<Report> {
        let voters = set(&ids(voters));
        let all = voters.iter().copied().chain(ids(learners)).collect();
        Some(Report { voters, all, settled: true, behind: BTreeMap::new() })
    }

    /// Members `up` and `down`; every shard at its place.
    fn directory(up: &[u64], down: &[u64], shards: &[&[u64]]) -> Directory {
        let member = |up| Member {
            incarnation: 1,
            up,
            routes_complete: true,
            cluster_addr: String::new(),
            client_addr: String::new(),
            version: String::new(),
        };
        let of = |nodes: &[u64], is_up| {
            ids(nodes).into_iter().map(|node| (node, member(is_up))).collect::<Vec<_>>()
        };
        Directory {
            nodes: of(up, true).into_iter().chain(of(down, false)).collect(),
            shards: shards.iter().map(|at| ids(at)).collect(),
            ..Directory::default()
        }
    }

    #[test]
    fn shards_when_a_node_comes_then_one_moves_at_a_time_and_the_next_once_it_is_there() {
        let mut mover = Mover::default();
        let now = clock::now();
        let mut directory = directory(&[1, 2], &[], &[&[1], &[1]]);
        assert_eq!(mover.open(&directory), [ShardId(0), ShardId(1)]);
        assert!(mover.next(now, &directory).is_some(), "nothing is known to be on its way");
        for shard in [0, 1] {
            mover.take(now, &directory, ShardId(shard), report(&[1], &[]));
        }
        let (first, to) = mover.next(now, &directory).unwrap();
        directory.shards.set(usize::from(first.0), to);
        assert_eq!(mover.open(&directory), [first]);
        mover.take(now, &directory, first, report(&[1], &[2]));
        assert_eq!(mover.next(now, &directory), None);
        mover.take(now, &directory, first, report(&[1, 2], &[]));
        let (second, to) = mover.next(now, &directory).unwrap();
        assert_ne!(first, second);
        directory.shards.set(usize::from(second.0), to);
        mover.take(now, &directory, second, report(&[1, 2], &[]));
        assert!(mover.is_settled(&directory) && mover.moves(now, &directory).is_empty());
    }

    #[test]
    fn shard_when_its_new_member_goes_down_then_it_goes_back_to_who_votes() {
        let mut mover = Mover::default();
        let now = clock::now();
        let directory = directory(&[1, 2, 3, 5], &[4], &[&[1, 2, 4]]);
        mover.take(now, &directory, ShardId(0), report(&[1, 2, 3], &[4]));
        let (shard, to) = mover.next(now, &directory).unwrap();
        assert_eq!((shard, set(&to)), (ShardId(0), set(&ids(&[1, 2, 3]))));
        // One that votes already is waited for: it has its data.
        let mut mover = Mover::default();
        mover.take(now, &directory, ShardId(0), report(&[1, 2, 4], &[3]));
        assert_eq!(mover.next(now, &directory), None);
    }

    #[test]
    fn shard_when_it_makes_no_step_for_long_then_others_go_on() {
        let mut mover = Mover::default();
        let now = clock::now();
        let directory = directory(&[1, 2, 3], &[], &[&[1, 2, 3], &[1]]);
        mover.take(now, &directory, ShardId(0), report(&[1, 2], &[3]));
        mover.take(now, &directory, ShardId(1), report(&[1], &[]));
        assert_eq!(mover.next(now, &directory), None);
        let later = now + STUCK_AFTER;
        mover.take(later, &directory, ShardId(0), report(&[1, 2], &[3]));
        assert!(matches!(mover.next(later, &directory), Some((ShardId(1), _))));
        assert!(mover.moves(later, &directory)[0].stuck);
        // A step, and it counts again.
        mover.take(later, &directory, ShardId(0), report(&[1, 2, 3], &[4]));
        assert_eq!(mover.next(later, &directory), None);
    }
}
