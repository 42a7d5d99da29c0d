//! Who may leave, where shards may be wished, which ids are promised; the same after a start.
//!
//! - Owns: machines on a store in memory. Takes: nothing. Gives: failures.
//! - Bound: tests only.

use super::model::SHARDS;
use crate::{
    directory::{Directory, Leaving},
    id::{NodeId, ShardId},
    machine::Machine,
    meta::{
        MetaCommand, MetaReply, Refusal, command,
        door::MemoryStore,
        machine::{MetaMachine, Published, no_sink},
    },
};

struct World {
    machine: MetaMachine,
    store: MemoryStore,
    published: std::sync::Arc<Published>,
    index: u64,
}

const ALL: MetaReply = MetaReply::Done;

fn refused(why: Refusal) -> MetaReply {
    MetaReply::Refused(why)
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

impl World {
    /// Nodes `1..=count`, all up, every shard on `replicas`.
    fn new(count: u64, replicas: &[u64]) -> Self {
        let published = Published::new(no_sink());
        let machine = MetaMachine::new(SHARDS, published.clone());
        let mut world = Self { machine, store: MemoryStore::default(), published, index: 0 };
        for node in 1..=count {
            assert_eq!(world.up(node, 1), ALL);
        }
        for shard in (0..SHARDS).map(ShardId) {
            let replicas = ids(replicas);
            assert_eq!(world.apply(MetaCommand::SetReplicas { shard, replicas }), ALL);
        }
        world
    }

    fn apply(&mut self, command: MetaCommand) -> MetaReply {
        self.index += 1;
        let batch = command::encode(&vec![command]);
        let reply = self.machine.apply(self.index, &batch, &mut self.store);
        let (_, mut replies): (u64, Vec<MetaReply>) = command::decode(&reply, 1 << 20).unwrap();
        self.machine.applied();
        // Whatever was applied, a start finds the same.
        let again = Published::new(no_sink());
        MetaMachine::new(SHARDS, again.clone()).load(&self.store);
        assert_eq!(*again.directory(), *self.directory());
        replies.remove(0)
    }

    fn directory(&self) -> std::sync::Arc<Directory> {
        self.published.directory()
    }

    fn up(&mut self, node: u64, incarnation: u64) -> MetaReply {
        let address = format!("n{node}");
        self.apply(MetaCommand::NodeUp {
            node: NodeId(node),
            incarnation,
            cluster_addr: address,
            client_addr: String::new(),
            version: "0.1.0".into(),
        })
    }

    fn down(&mut self, node: u64) {
        let down = MetaCommand::NodeDown { node: NodeId(node), incarnation: 1 };
        assert_eq!(self.apply(down), ALL);
    }

    fn leave(&mut self, node: u64, lost: bool) -> MetaReply {
        self.apply(MetaCommand::Leave { node: NodeId(node), lost })
    }

    fn leaving(&self, node: u64) -> Option<Leaving> {
        self.directory().leaving.get(&NodeId(node)).copied()
    }
}

#[test]
fn leave_when_it_would_lose_a_quorum_or_everybody_then_refused() {
    let mut alone = World::new(1, &[1]);
    assert_eq!(alone.leave(1, false), refused(Refusal::LastMember));
    assert_eq!(alone.leave(7, false), refused(Refusal::NoNode));

    let mut two = World::new(2, &[1, 2]);
    assert_eq!(two.leave(2, false), ALL);
    assert_eq!(two.leave(1, false), refused(Refusal::LastMember));
    assert_eq!(two.leave(2, true), refused(Refusal::StillUp));

    // Without 3 the two that stay need both of them, and one is down.
    let mut three = World::new(3, &[1, 2, 3]);
    three.down(2);
    assert_eq!(three.leave(2, false), refused(Refusal::Down));
    assert_eq!(three.leave(3, false), refused(Refusal::QuorumLost));
    assert_eq!(three.leave(2, true), ALL);
    assert_eq!(three.leaving(2), Some(Leaving::Lost));
    assert_eq!(three.leave(3, false), ALL);

    // Two of three are gone: nothing can be decided any more.
    let mut lost = World::new(3, &[1, 2, 3]);
    lost.down(2);
    lost.down(3);
    assert_eq!(lost.leave(2, true), refused(Refusal::QuorumLost));
}

#[test]
fn leaving_member_when_it_comes_back_is_released_and_removed_then_each_step_in_turn() {
    let mut world = World::new(4, &[1, 2, 3]);
    world.down(3);
    assert_eq!(world.leave(3, true), ALL);
    // It lives after all, with its data: it helps.
    assert_eq!(world.up(3, 2), ALL);
    assert_eq!(world.leaving(3), Some(Leaving::Moving));
    let release = MetaCommand::Released { node: NodeId(3) };
    assert_eq!(world.apply(release.clone()), refused(Refusal::HoldsReplicas));
    for shard in (0..SHARDS).map(ShardId) {
        let replicas = ids(&[1, 2, 4]);
        assert_eq!(world.apply(MetaCommand::SetReplicas { shard, replicas }), ALL);
    }
    assert_eq!(world.apply(release), ALL);
    assert_eq!(world.leaving(3), Some(Leaving::Released));
    let remove = MetaCommand::RemoveNode { node: NodeId(3) };
    assert_eq!(world.apply(remove.clone()), refused(Refusal::StillUp));
    assert_eq!(world.apply(MetaCommand::NodeDown { node: NodeId(3), incarnation: 2 }), ALL);
    assert_eq!(world.apply(remove), ALL);
    assert_eq!((world.leaving(3), world.leave(3, true)), (None, refused(Refusal::Removed)));
    assert_eq!(world.up(3, 9), refused(Refusal::Removed));
    assert_eq!(world.apply(MetaCommand::Released { node: NodeId(1) }), refused(Refusal::NoNode));
}

#[test]
fn shard_when_wished_elsewhere_then_it_stays_there_until_that_member_leaves() {
    let mut world = World::new(5, &[1, 2, 3]);
    let wish = |shard: u16, from: u64, to: u64| MetaCommand::MoveShard {
        shard: ShardId(shard),
        from: NodeId(from),
        to: NodeId(to),
    };
    assert_eq!(world.apply(wish(9, 1, 4)), refused(Refusal::NoShard));
    assert_eq!(world.apply(wish(0, 1, 9)), refused(Refusal::NoNode));
    assert_eq!(world.apply(wish(0, 1, 2)), refused(Refusal::AlreadyThere));
    assert_eq!(world.apply(wish(0, 5, 4)), refused(Refusal::NotThere));
    world.down(5);
    assert_eq!(world.apply(wish(0, 1, 5)), refused(Refusal::Down));
    assert_eq!(world.apply(wish(0, 1, 4)), ALL);
    assert_eq!(world.directory().wishes.get(&ShardId(0)), Some(&ids(&[4, 2, 3])));
    // A second wish counts from the first.
    assert_eq!(world.apply(wish(0, 2, 1)), ALL);
    assert_eq!(world.directory().wishes.get(&ShardId(0)), Some(&ids(&[4, 1, 3])));
    assert_eq!(world.leave(3, false), ALL);
    assert!(world.directory().wishes.is_empty());
    assert_eq!(world.apply(wish(1, 1, 3)), refused(Refusal::Leaving));
}

#[test]
fn id_when_promised_then_never_again() {
    let mut world = World::new(2, &[1, 2]);
    let promised = |world: &mut World| world.apply(MetaCommand::PromiseId);
    assert_eq!(promised(&mut world), MetaReply::Promised(NodeId(3)));
    assert_eq!(promised(&mut world), MetaReply::Promised(NodeId(4)));
    assert_eq!(world.up(9, 1), ALL);
    world.down(9);
    assert_eq!(world.apply(MetaCommand::RemoveNode { node: NodeId(9) }), ALL);
    assert_eq!(promised(&mut world), MetaReply::Promised(NodeId(10)));
}

#[test]
fn member_when_it_stays_after_all_or_was_never_asked_then_nothing_is_left_of_its_mark_and_wishes() {
    let mut world = World::new(4, &[1, 2, 3]);
    assert_eq!(world.leave(3, false), ALL);
    assert_eq!(world.apply(MetaCommand::Stay { node: NodeId(3) }), ALL);
    assert_eq!(world.leaving(3), None);
    assert_eq!(world.apply(MetaCommand::Stay { node: NodeId(9) }), refused(Refusal::NoNode));
    let (shard, from, to) = (ShardId(0), NodeId(1), NodeId(4));
    assert_eq!(world.apply(MetaCommand::MoveShard { shard, from, to }), ALL);
    world.down(4);
    assert_eq!(world.apply(MetaCommand::RemoveNode { node: NodeId(4) }), ALL);
    assert!(world.directory().wishes.is_empty());
}
