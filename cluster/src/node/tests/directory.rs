//! The directory of three nodes: barriers, leases, and nodes that are cut off or gone.
//!
//! - Owns: nothing beyond the world. Takes: nothing. Gives: failures. Bound: tests only.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::World;
use crate::{
    clock,
    directory::{Role, RoomKind},
    error::ProposeError,
    id::{NodeId, ShardId},
    meta::{MetaCommand, MetaHandle, MetaReply, Place, RoomCommand},
};

impl World {
    fn meta(&self, node: u64) -> MetaHandle {
        self.handle(node).meta().clone()
    }

    fn wait_for_leases(&self) {
        self.wait("everybody has a lease", |world| {
            world.nodes.keys().all(|node| world.meta(*node).has_lease())
        });
    }

    fn meta_leader(&self) -> u64 {
        let meta = ShardId(super::SHARDS);
        self.wait("somebody leads the meta group", |world| {
            world.nodes.keys().any(|node| world.handle(*node).leadership(meta).borrow().here)
        });
        let is_leader = |node: &&u64| self.handle(**node).leadership(meta).borrow().here;
        *self.nodes.keys().find(is_leader).unwrap()
    }

    /// Adds a route to a node; tries again while the group has no leader.
    fn add_route(&self, node: u64, key: &str) -> u64 {
        let meta = self.meta(node);
        let deadline = clock::now() + Duration::from_secs(15);
        loop {
            let place = Place::Node { node: NodeId(node), incarnation: meta.incarnation() };
            let keys = vec![Bytes::from(key.to_owned())];
            let told = self.runtime.block_on(meta.propose(MetaCommand::AddRoutes { place, keys }));
            match told {
                Ok((MetaReply::Done, index)) => return index,
                Ok((reply, _)) => panic!("{reply:?}"),
                Err(ProposeError::Unavailable | ProposeError::Unknown) => {
                    assert!(clock::now() < deadline, "the meta group takes nothing");
                }
                Err(error) => panic!("{error}"),
            }
            self.pause(Duration::from_millis(20));
        }
    }

    /// Makes a room that users of each node are in.
    fn make_room(&self, room: &'static str, kind: RoomKind) {
        let (room, owner, facts) = (Bytes::from(room), Bytes::new(), Bytes::new());
        let create = RoomCommand::Create { room: room.clone(), kind, owner, facts };
        let joins = self.nodes.keys().map(|node| {
            let from = Some((NodeId(*node), self.meta(*node).incarnation()));
            let (room, user) = (room.clone(), Bytes::from(format!("user of {node}")));
            RoomCommand::Join { room, user, role: Role::Member, from }
        });
        for (node, command) in self.nodes.keys().cycle().zip(std::iter::once(create).chain(joins)) {
            let told = self.meta(*node).propose(MetaCommand::Room(command));
            let (reply, _) = self.runtime.block_on(told).unwrap();
            assert!(matches!(reply, MetaReply::Room(_)), "{reply:?}");
        }
    }

    fn members(&self, at: u64, room: &'static str) -> Vec<Bytes> {
        let directory = self.meta(at).directory();
        directory.rooms.members(&Bytes::from(room), None).map(|(user, _)| user.clone()).collect()
    }

    fn pass(&self, node: u64, index: u64) -> Duration {
        let started = clock::now();
        self.runtime.block_on(self.meta(node).barrier(index));
        started.elapsed()
    }

    fn knows(&self, node: u64, key: &str) -> bool {
        self.meta(node).directory().routes.contains_key(key.as_bytes())
    }

    fn is_up(&self, at: u64, node: u64) -> bool {
        self.meta(at).directory().nodes[&NodeId(node)].up
    }
}

fn between(took: Duration, least_ms: u64, most_ms: u64) -> bool {
    (Duration::from_millis(least_ms)..=Duration::from_millis(most_ms)).contains(&took)
}

#[test]
fn route_when_the_barrier_returns_then_in_every_directory() {
    let world = World::grown(3);
    world.wait_for_leases();
    for round in 0..10 {
        for node in 1..=3 {
            let key = format!("route {round} of {node}");
            let index = world.add_route(node, &key);
            let took = world.pass(node, index);
            for other in 1..=3 {
                assert!(world.knows(other, &key), "node {other} does not know {key}");
            }
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
    }
}

#[test]
fn node_when_gone_then_declared_down_after_five_seconds_and_its_routes_go() {
    let mut world = World::grown(3);
    world.wait_for_leases();
    let gone = (1..=3).find(|node| *node != world.meta_leader()).unwrap();
    let stays = (1..=3).find(|node| *node != gone).unwrap();
    world.add_route(gone, "live there");
    world.add_route(stays, "live here");
    world.make_room("room", RoomKind::Room);
    world.make_room("group", RoomKind::Group);
    assert_eq!((world.members(stays, "room").len(), world.members(stays, "group").len()), (3, 3));
    let killed: Instant = clock::now();
    world.kill(gone);
    world.wait("declared down", |world| !world.is_up(stays, gone));
    let took = killed.elapsed();
    assert!(between(took, 4_500, 7_000), "{took:?}");
    assert!(!world.knows(stays, "live there") && world.knows(stays, "live here"));
    let left = Bytes::from(format!("user of {gone}"));
    assert!(!world.members(stays, "room").contains(&left));
    assert_eq!((world.members(stays, "room").len(), world.members(stays, "group").len()), (2, 3));
    world.start(gone, &[]);
    world.wait("up again", |world| world.is_up(stays, gone) && world.meta(gone).has_lease());
    assert!(!world.knows(gone, "live there"));
}

#[test]
fn barrier_when_a_node_is_cut_off_then_it_returns_when_that_node_has_no_lease() {
    let world = World::grown(3);
    world.wait_for_leases();
    let leader = world.meta_leader();
    let cut = (1..=3).find(|node| *node != leader).unwrap();
    let asks = (1..=3).find(|node| *node != leader && *node != cut).unwrap();
    world.add_route(cut, "live there");
    let others = [NodeId(leader), NodeId(asks)];
    world.hub.partition(&[NodeId(cut)], &others);
    let index = world.add_route(asks, "new");
    let took = world.pass(asks, index);
    assert!(took <= Duration::from_millis(2_500), "{took:?}");
    assert!(!world.meta(cut).has_lease() && !world.knows(cut, "new"));
    assert!(world.meta(asks).has_lease() && world.knows(leader, "new"));
    world.wait("declared down", |world| !world.is_up(leader, cut));
    let incarnation = world.meta(cut).incarnation();
    world.hub.heal_all();
    world
        .wait("up as a new start", |world| world.is_up(leader, cut) && world.meta(cut).has_lease());
    assert!(world.meta(cut).incarnation() > incarnation);
    assert!(world.knows(cut, "new") && !world.knows(cut, "live there"));
}

#[test]
fn meta_leader_when_gone_then_barriers_return_and_only_it_is_declared_down() {
    let mut world = World::grown(3);
    world.wait_for_leases();
    let gone = world.meta_leader();
    let killed = clock::now();
    world.kill(gone);
    let rest: Vec<u64> = world.nodes.keys().copied().collect();
    let index = world.add_route(rest[0], "new");
    let took = world.pass(rest[0], index);
    assert!(took <= Duration::from_millis(2_500), "{took:?}");
    assert!(world.knows(rest[1], "new"));
    world.wait("declared down", |world| !world.is_up(rest[0], gone));
    let took = killed.elapsed();
    assert!(between(took, 5_000, 10_000), "{took:?}");
    assert!(rest.iter().all(|node| world.is_up(*node, rest[0]) && world.is_up(*node, rest[1])));
}
