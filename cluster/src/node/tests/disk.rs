//! Members whose disk takes no writes.
//!
//! - Promises: whoever cannot write leads nothing as long as another can, and follows on.

use std::io;

use super::*;
use crate::{membership::error::MemberError, storage::health::Health};

fn health(world: &World, node: u64) -> Arc<Health> {
    world.handle(node).shared().groups.health.clone()
}

/// As the log does when it cannot write; the next flush that succeeds takes it back.
fn fill(world: &World, node: u64) {
    health(world, node).note_log(Some(&io::Error::from(io::ErrorKind::StorageFull)));
}

fn leads(world: &World, node: u64) -> bool {
    let status = world.handle(node).status();
    status.groups.iter().any(|group| group.leader == Some(NodeId(node)))
}

#[test]
fn leads_when_the_disk_of_their_leader_is_full_then_others_take_them() {
    let world = World::grown(3);
    let full = world.leader(0).unwrap();
    let others: Vec<u64> = (1..=3).filter(|node| *node != full).collect();
    world.wait("it gives its leads away", |world| {
        fill(world, full);
        !leads(world, full)
    });
    for shard in 0..SHARDS {
        world.wait("another leads", |world| {
            fill(world, full);
            world.leader(shard).is_some_and(|leader| leader != full)
        });
        let command = format!("without {full}");
        world.write(shard, &command);
        world.wait("it follows on", |world| world.has(full, shard, &command));
    }
    // Nobody gives it a lead, not even by an operator's wish.
    let leader = world.leader(0).unwrap();
    let refused = loop {
        fill(&world, full);
        let handle = world.handle(leader);
        match world.runtime.block_on(handle.transfer(ShardId(0), NodeId(full))) {
            // Another flush of its log came in between.
            Ok(()) => world.wait("it leads no more", |world| {
                fill(world, full);
                world.leader(0).is_some_and(|leader| leader != full)
            }),
            Err(why) => break why,
        }
    };
    assert_eq!(refused, MemberError::Unwilling(NodeId(full)));
    assert!(others.iter().any(|node| world.leader(0) == Some(*node)));
}
