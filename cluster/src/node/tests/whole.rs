//! Folders that lost their log, are copies, or are of another node: they must not count as the member that they
//! were. NO-LOSS, one leader per term.
//!
//! - Owns: nothing beyond the world. Takes: nothing. Gives: failures. Bound: tests only.

use std::{fs, path::Path};

use super::*;
use crate::recover::Survivor;

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
