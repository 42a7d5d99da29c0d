//! A member that is alone for good founds a cluster; cut off anywhere, it can be done again.
//!
//! - Owns: nothing beyond the world. Takes: nothing. Gives: failures. Bound: tests only.

use std::{collections::BTreeSet, fs, path::Path};

use super::*;
use crate::{
    error::RecoverError,
    meta::{MetaCommand, Place},
    recover::{Standing, Survivor},
};

const ROUNDS: u16 = 40;

fn name(round: u16) -> String {
    format!("round {round}")
}

impl World {
    fn write_rounds(&self) {
        for round in 0..ROUNDS {
            self.write(round % SHARDS, &name(round));
        }
    }

    fn has_rounds(&self, node: u64, shards: impl Fn(u16) -> bool) -> bool {
        let mut rounds = (0..ROUNDS).filter(|round| shards(round % SHARDS));
        rounds.all(|round| self.has(node, round % SHARDS, &name(round)))
    }

    fn wait_for_leads(&self, node: u64) {
        self.wait("it leads everything", |world| {
            world.handle(node).status().groups.iter().all(|group| group.here)
        });
    }

    /// Ends every node, and what the others have.
    fn lose_all_but(&mut self, node: u64) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        for other in all {
            self.kill(other);
            if other != node {
                fs::remove_dir_all(self.folder(other)).unwrap();
            }
        }
    }
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, target) =
            (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn survivor_when_the_majority_is_lost_then_founds_a_cluster_that_grows_again() {
    let mut world = World::grown(3);
    world.write_rounds();
    let meta = world.handle(2).meta().clone();
    let place = Place::Node { node: NodeId(2), incarnation: meta.incarnation() };
    let add = MetaCommand::AddRoutes { place, keys: vec![Bytes::from_static(b"route")] };
    world.runtime.block_on(meta.propose(add)).unwrap();
    world.wait("node 3 has it", |world| {
        world.has_rounds(3, |_| true)
            && world.handle(3).meta().directory().routes.contains_key(&b"route"[..])
    });
    let incarnation = world.handle(3).status().incarnation;
    world.lose_all_but(3);
    let survivor = Survivor::open(&world.folder(3)).unwrap();
    let survey = survivor.survey();
    assert_eq!((survey.node, survey.is_begun, survey.is_removed), (NodeId(3), false, false));
    assert_eq!(survey.members.len(), 3);
    assert_eq!(survey.groups.len(), usize::from(SHARDS) + 1);
    for group in &survey.groups {
        assert_eq!((group.standing, group.voters.len()), (Standing::Voter, 3), "{group:?}");
        assert!(group.last >= group.committed && group.committed >= group.applied, "{group:?}");
    }
    assert!(
        matches!(world.try_start(3, &[]), Err(StartError::Locked { .. })),
        "a node starts on a folder that is being recovered"
    );
    let cluster = survivor.found(&BTreeSet::new()).unwrap();
    assert_ne!(cluster, survey.cluster);
    world.start(3, &[]);
    assert!(world.has_rounds(3, |_| true));
    world.wait_for_leads(3);
    let status = world.handle(3).status();
    assert_eq!((status.cluster, status.incarnation), (cluster, incarnation + 1));
    let directory = world.handle(3).meta().directory();
    assert_eq!(directory.nodes.keys().copied().collect::<Vec<_>>(), [NodeId(3)]);
    assert_eq!(directory.removed.iter().copied().collect::<Vec<_>>(), [NodeId(1), NodeId(2)]);
    assert!(!directory.routes.contains_key(&b"route"[..]), "a route to a node that is gone");
    let Err(StartError::Join { reason, .. }) = world.try_start(2, &["n3"]) else {
        panic!("a removed id was let in")
    };
    assert!(reason.contains("removed"), "{reason}");
    for node in 4..=5 {
        world.start(node, &["n3"]);
    }
    world.wait_for_members(3);
    world.write(0, "late");
    for node in 3..=5 {
        world.wait("all is everywhere", |world| {
            world.has_rounds(node, |_| true) && world.has(node, 0, "late")
        });
    }
}

#[test]
fn survivor_when_recovering_was_cut_off_anywhere_then_it_can_be_ended() {
    let mut world = World::grown(3);
    world.write_rounds();
    world.wait("node 3 has it", |world| world.has_rounds(3, |_| true));
    world.lose_all_but(3);
    let kept = world.temp.path().join("kept");
    fs::rename(world.folder(3), &kept).unwrap();
    // The mark alone, some groups, all groups, and with the new FORMAT.
    for steps in [0, 1, 3, usize::from(SHARDS) + 1, usize::from(SHARDS) + 2] {
        copy(&kept, &world.folder(3));
        let begun = Survivor::open(&world.folder(3)).unwrap().found_partly(steps).unwrap();
        let Err(StartError::Recovering { .. }) = world.try_start(3, &[]) else {
            panic!("a node started on a folder that was recovered in part, {steps} steps")
        };
        let survivor = Survivor::open(&world.folder(3)).unwrap();
        assert!(survivor.survey().is_begun);
        assert_eq!(survivor.found(&BTreeSet::new()).unwrap(), begun);
        world.start(3, &[]);
        assert!(world.has_rounds(3, |_| true), "{steps} steps");
        world.wait_for_leads(3);
        assert_eq!(world.handle(3).meta().directory().nodes.len(), 1);
        world.write(1, "after");
        world.kill(3);
        fs::remove_dir_all(world.folder(3)).unwrap();
    }
}

#[test]
fn survivor_when_it_lacks_groups_then_they_have_to_be_named() {
    let mut world = World::new();
    world.start(1, &[]);
    for node in 2..=4 {
        world.start(node, &["n1"]);
    }
    world.wait("three replicas each, on four nodes", |world| {
        let shards = &world.handle(1).meta().directory().shards;
        let is_there = |shard: u16, replicas: &Vec<NodeId>| {
            let leader = world.leader(shard).map(|leader| world.handle(leader).status());
            let voters = leader.map(|status| status.groups[usize::from(shard)].voters.clone());
            let places = |of: &[NodeId]| of.iter().copied().collect::<BTreeSet<_>>();
            replicas.len() == 3 && voters.is_some_and(|voters| places(&voters) == places(replicas))
        };
        let mut all = (0..).zip(shards);
        all.all(|(shard, replicas)| is_there(shard, replicas))
            && shards.iter().any(|replicas| !replicas.contains(&NodeId(4)))
    });
    world.write_rounds();
    let directory = world.handle(1).meta().directory();
    let away: BTreeSet<ShardId> = (0..SHARDS)
        .filter(|shard| !directory.shards[usize::from(*shard)].contains(&NodeId(4)))
        .map(ShardId)
        .collect();
    let here = |shard| !away.contains(&ShardId(shard));
    world.wait("node 4 has its shards", |world| world.has_rounds(4, here));
    world.lose_all_but(4);
    let survivor = Survivor::open(&world.folder(4)).unwrap();
    let survey = survivor.survey();
    for group in &survey.groups {
        assert_eq!(group.is_usable, !away.contains(&group.shard), "{group:?}");
        assert!(group.is_meta || group.placed.len() == 3);
    }
    let Err(RecoverError::Missing { groups }) = survivor.found(&BTreeSet::new()) else {
        panic!("shards without a copy are given up without a word")
    };
    assert_eq!(groups.into_iter().collect::<BTreeSet<_>>(), away);
    Survivor::open(&world.folder(4)).unwrap().found(&away).unwrap();
    world.start(4, &[]);
    assert!(world.has_rounds(4, here));
    world.wait_for_leads(4);
    for shard in 0..SHARDS {
        world.write(shard, "after");
    }
    world.start(5, &["n4"]);
    world.wait_for_members(2);
}
