//! Folders that lost their log, are copies, or are of another node: they must not count as the member that they
//! were. NO-LOSS, one leader per term.
//!
//! - Owns: nothing beyond the world. Takes: nothing. Gives: failures. Bound: tests only.

use std::{fs, path::Path};

use super::{recover::copy as copy_tree, *};
use crate::{backup::Lacking, membership::departure::Departure, recover::Survivor};

fn expect_no_log(world: &World, node: u64) {
    // Again and again: no try makes a log that the next one takes for the old one.
    for _ in 0..2 {
        let Err(StartError::LogMissing { path }) = world.try_start(node, &[]) else {
            panic!("a node started without its log")
        };
        assert_eq!(path, world.folder(node).join("log"));
    }
}

fn remove_marks(folder: &Path) {
    let text = fs::read_to_string(folder.join("node")).unwrap();
    let numbers: Vec<&str> = text.lines().take(2).collect();
    fs::write(folder.join("node"), numbers.join("\n") + "\n").unwrap();
}

impl World {
    fn wait_for_checkpoint(&self, node: u64) {
        self.wait("everything is in the state on the disk", |world| {
            let handle = world.handle(node);
            let groups = &handle.shared().groups.groups;
            groups.iter().all(|group| {
                let state = group.store.state.lock();
                state.stored.last.is_some() && state.stored.last == state.applied.last
            })
        });
    }
}

#[test]
fn node_when_its_log_is_gone_then_refused_until_it_is_recovered() {
    let mut world = World::new();
    world.start(1, &[]);
    world.write(0, "early");
    world.wait_for_checkpoint(1);
    world.kill(1);
    // As a release without the mark has left it: the state alone tells.
    remove_marks(&world.folder(1));
    fs::remove_dir_all(world.folder(1).join("log")).unwrap();
    expect_no_log(&world, 1);
    // To look at it changes nothing.
    drop(Survivor::open(&world.folder(1)).unwrap());
    expect_no_log(&world, 1);
    Survivor::open(&world.folder(1)).unwrap().found(&BTreeSet::new()).unwrap();
    world.start(1, &[]);
    assert!(world.has(1, 0, "early"));
    world.write(0, "late");
}

#[test]
fn founder_when_log_and_state_are_gone_then_it_does_not_found_itself_anew() {
    let mut world = World::grown(2);
    world.kill(1);
    for part in ["log", "state"] {
        fs::remove_dir_all(world.folder(1).join(part)).unwrap();
    }
    expect_no_log(&world, 1);
}

#[test]
fn folder_of_an_earlier_release_then_started_and_marked() {
    let mut world = World::new();
    world.start(1, &[]);
    world.write(0, "early");
    world.kill(1);
    remove_marks(&world.folder(1));
    world.start(1, &[]);
    assert!(world.has(1, 0, "early"));
    world.kill(1);
    // Cut off before its first start had begun a log: there is nothing that could be lost.
    remove_marks(&world.folder(1));
    for part in ["log", "state"] {
        fs::remove_dir_all(world.folder(1).join(part)).unwrap();
    }
    world.start(1, &[]);
    world.kill(1);
    fs::remove_dir_all(world.folder(1).join("log")).unwrap();
    expect_no_log(&world, 1);
}

/// Has others lead, who do not remember how much node 3 had: openraft gives up a group whose follower has less.
fn restart_others(world: &mut World) {
    for node in [1, 2] {
        world.kill(node);
    }
    for node in [1, 2] {
        world.start(node, &[]);
    }
    world.write(0, "again");
}

fn expect_superseded(world: &mut World, node: u64) {
    world.wait("the folder is known not to be the member's", |world| {
        *world.handle(node).departure().borrow() == Departure::Superseded
    });
    world.kill(node);
    let Err(StartError::Superseded { path, .. }) = world.try_start(node, &[]) else {
        panic!("it starts again, with a higher number")
    };
    assert_eq!(path, world.folder(node));
}

#[test]
fn folder_when_an_older_copy_then_it_ends_and_never_starts_again_but_can_be_recovered() {
    let mut world = World::grown(3);
    world.write(0, "early");
    world.kill(3);
    let copy = world.temp.path().join("copy");
    copy_tree(&world.folder(3), &copy);
    for _ in 0..2 {
        world.start(3, &[]);
        world.wait("the directory has this start", |world| {
            let number = world.handle(3).incarnation();
            world.handle(1).meta().directory().is_up(NodeId(3), number)
        });
        world.kill(3);
    }
    let kept = world.temp.path().join("kept");
    fs::rename(world.folder(3), &kept).unwrap();
    restart_others(&mut world);
    copy_tree(&copy, &world.folder(3));
    world.start(3, &[]);
    expect_superseded(&mut world, 3);
    Survivor::open(&world.folder(3)).unwrap().found(&BTreeSet::new()).unwrap();
    world.start(3, &[]);
    assert!(world.has(3, 0, "early"));
    world.wait("it leads alone", |world| {
        world.handle(3).status().groups.iter().all(|group| group.here)
    });
    world.kill(3);
    restart_others(&mut world);
    // The folder that was not copied is the member still.
    fs::remove_dir_all(world.folder(3)).unwrap();
    fs::rename(&kept, world.folder(3)).unwrap();
    world.start(3, &[]);
    world.wait_for_members(3);
}

#[test]
fn folder_when_another_with_the_same_id_then_refused_however_often_it_was_started() {
    let mut world = World::grown(3);
    world.kill(3);
    let kept = world.temp.path().join("kept");
    fs::rename(world.folder(3), &kept).unwrap();
    // Let in at the same moment as the member, and started by a supervisor again and again.
    restart_others(&mut world);
    fs::create_dir(world.folder(3)).unwrap();
    fs::copy(kept.join("FORMAT"), world.folder(3).join("FORMAT")).unwrap();
    fs::write(world.folder(3).join("node"), "node = 3\nincarnation = 40\n").unwrap();
    world.start(3, &["n1"]);
    expect_superseded(&mut world, 3);
    assert!(world.handle(1).meta().directory().nodes[&NodeId(3)].incarnation < 40);
    // The folder that was there first is the member still.
    restart_others(&mut world);
    fs::remove_dir_all(world.folder(3)).unwrap();
    fs::rename(&kept, world.folder(3)).unwrap();
    world.start(3, &[]);
    world.wait_for_members(3);
}

#[test]
fn backup_of_a_follower_then_it_has_all_that_was_acknowledged_or_names_what_it_may_lack() {
    let world = World::grown(3);
    let follower = (1..=3).find(|node| world.leader(0) != Some(*node)).unwrap();
    let others: Vec<NodeId> = (1..=3).filter(|node| *node != follower).map(NodeId).collect();
    let backup = |name: &str| {
        let target = world.temp.path().join(name);
        world.runtime.block_on(world.handle(follower).backup(&target)).unwrap()
    };
    for round in 0..20 {
        world.write(0, &format!("early {round}"));
    }
    let leader = world.handle(world.leader(0).unwrap());
    let acknowledged = leader.shared().groups.groups[0].applied_index().unwrap();
    assert_eq!(backup("whole"), Lacking::default());
    let read = Survivor::open(&world.temp.path().join("whole")).unwrap().survey();
    assert!(read.groups[0].applied >= acknowledged, "{read:?} {acknowledged}");
    world.hub.partition(&[NodeId(follower)], &others);
    world.wait("others lead", |world| {
        (0..=SHARDS).all(|group| {
            let lead = *world.handle(others[0].0).leadership(ShardId(group)).borrow();
            lead.leader.is_some_and(|leader| leader.0 != follower)
        })
    });
    world.write(0, "late");
    let lacking = backup("behind");
    assert!(lacking.missing.is_empty(), "{lacking:?}");
    assert_eq!(lacking.behind, (0..=SHARDS).map(ShardId).collect::<Vec<_>>());
}
