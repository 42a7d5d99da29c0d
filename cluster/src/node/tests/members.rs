//! Members that come and go under a constant load: nothing acknowledged is lost, order is kept, and what is on the
//! move comes to an end.
//!
//! - Owns: a writer per shard, that goes on whatever happens. Takes: nothing. Gives: failures.
//! - Bound: tests only. Promises: NO-LOSS, ORDER, HEAL.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use parking_lot::Mutex;

use super::*;
use crate::{
    directory::Leaving,
    membership::{departure::Departure, error::MemberError},
};

type Handles = Arc<Mutex<BTreeMap<u64, ClusterHandle<Names>>>>;

/// Writes numbered commands to one shard, one after the other, by whichever node is there.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u64>>,
}

impl Writer {
    fn start(shard: u16, handles: Handles) -> Self {
        let stop = Arc::new(AtomicBool::default());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            let mut acknowledged = Vec::new();
            let mut number = 0;
            while !stopped.load(Ordering::SeqCst) {
                number += 1;
                let handle = {
                    let handles = handles.lock();
                    let at = usize::try_from(number).unwrap() / 16 % handles.len().max(1);
                    handles.values().nth(at).cloned()
                };
                let Some(handle) = handle else { continue };
                let command = Bytes::from(format!("w {number}"));
                match runtime.block_on(handle.propose(ShardId(shard), command)) {
                    Ok(_) => acknowledged.push(number),
                    // Another number each time: what is in doubt may be there or not.
                    Err(_) => pause(&runtime, 5),
                }
                pause(&runtime, 1);
            }
            acknowledged
        });
        Self { stop, thread }
    }
}

fn pause(runtime: &tokio::runtime::Runtime, ms: u64) {
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
}

/// A world under load.
struct Busy {
    world: World,
    handles: Handles,
    writers: Vec<Writer>,
    retiring: BTreeSet<u64>,
}

impl Busy {
    fn grown(count: u64) -> Self {
        let world = World::grown(count.min(3));
        let handles = world.nodes.iter().map(|(node, cluster)| (*node, cluster.handle()));
        let handles: Handles = Arc::new(Mutex::new(handles.collect()));
        let writers = (0..SHARDS).map(|shard| Writer::start(shard, handles.clone())).collect();
        let mut busy = Self { world, handles, writers, retiring: BTreeSet::new() };
        (4..=count).for_each(|node| busy.start(node));
        busy.wait_for(&(1..=count).collect::<Vec<_>>());
        busy
    }

    fn start(&mut self, node: u64) {
        let member = format!("n{}", self.world.nodes.keys().next().unwrap());
        self.world.start(node, &[&member]);
        self.handles.lock().insert(node, self.world.handle(node));
    }

    fn kill(&mut self, node: u64) {
        self.handles.lock().remove(&node);
        self.world.kill(node);
    }

    fn any(&self) -> ClusterHandle<Names> {
        self.world.nodes.values().next().unwrap().handle()
    }

    fn leave(&self, node: u64, lost: bool) -> Result<(), MemberError> {
        self.world.runtime.block_on(self.any().leave(NodeId(node), lost))
    }

    /// Does what the server of a node does that leaves: it retires when it may, and ends when it is removed.
    fn tend(&mut self) {
        let nodes: Vec<u64> = self.world.nodes.keys().copied().collect();
        for node in nodes {
            let handle = self.world.handle(node);
            let departure = *handle.departure().borrow();
            if departure == Departure::Released && self.retiring.insert(node) {
                self.handles.lock().remove(&node);
                let _ = self.world.runtime.block_on(handle.meta().retire());
            }
            if departure == Departure::Removed {
                self.kill(node);
            }
        }
    }

    fn wait(&mut self, what: &str, mut is_so: impl FnMut(&World) -> bool) {
        let deadline = clock::now() + Duration::from_secs(60);
        while !is_so(&self.world) {
            self.tend();
            if clock::now() > deadline {
                for node in self.world.nodes.values() {
                    let handle = node.handle();
                    let (status, progress) = (handle.status(), handle.progress());
                    eprintln!(
                        "{:?}\n{progress:?} {:?}",
                        status.groups,
                        *handle.departure().borrow()
                    );
                }
                panic!("still not so: {what}");
            }
            self.world.pause(Duration::from_millis(10));
        }
    }

    /// Waits until exactly `members` are there, every group is where it shall be, and nothing is on the move.
    fn wait_for(&mut self, members: &[u64]) {
        let expected: BTreeSet<NodeId> = members.iter().copied().map(NodeId).collect();
        let replicas = expected.len().min(3);
        self.wait(&format!("members {members:?} and nothing on the move"), |world| {
            world.nodes.keys().copied().map(NodeId).eq(expected.iter().copied())
                && world.nodes.values().all(|node| {
                    let handle = node.handle();
                    let directory = handle.meta().directory();
                    directory.nodes.keys().eq(&expected)
                        && directory.shards.iter().all(|at| at.len() == replicas)
                        && handle.progress().is_done()
                })
                && (0..=SHARDS).all(|shard| {
                    world.leader(shard).is_some_and(|leader| {
                        let group = &world.handle(leader).status().groups[usize::from(shard)];
                        let meta = usize::from(shard) == usize::from(SHARDS);
                        let voters: BTreeSet<NodeId> = group.voters.iter().copied().collect();
                        let directory = world.handle(leader).meta().directory();
                        voters.is_subset(&expected)
                            && (meta
                                || voters
                                    == directory.shards[usize::from(shard)]
                                        .iter()
                                        .copied()
                                        .collect())
                            && group
                                .learners
                                .iter()
                                .all(|learner| meta && expected.contains(learner))
                    })
                })
        });
    }

    /// Ends the load, and finds everything that was acknowledged, in order, on every replica.
    fn check(mut self) {
        let writers = std::mem::take(&mut self.writers);
        writers.iter().for_each(|writer| writer.stop.store(true, Ordering::SeqCst));
        let directory = self.any().meta().directory();
        for (shard, writer) in (0..).zip(writers) {
            let acknowledged = writer.thread.join().unwrap();
            assert!(acknowledged.len() > 100, "{} writes in all", acknowledged.len());
            self.world.write(shard, "end");
            for node in directory.replicas(ShardId(shard)) {
                self.world.wait("replicas are even", |world| world.has(node.0, shard, "end"));
                let index = |number: &u64| self.world.index(node.0, shard, &format!("w {number}"));
                let indexes: Vec<_> = acknowledged.iter().map(index).collect();
                let lost = acknowledged.iter().zip(&indexes).find(|(_, at)| at.is_none());
                assert_eq!(lost, None, "shard {shard}, node {}", node.0);
                assert!(indexes.is_sorted(), "order of shard {shard}, node {}", node.0);
            }
        }
    }
}

impl World {
    fn index(&self, node: u64, shard: u16, command: &str) -> Option<Bytes> {
        let handle = self.handle(node);
        let store = &handle.shared().groups.shards[usize::from(shard)].store;
        store.state.lock().get(&[b"i", command.as_bytes()].concat())
    }
}

#[test]
fn cluster_when_it_grows_to_five_and_shrinks_to_three_then_nothing_is_lost() {
    let mut busy = Busy::grown(1);
    for node in 2..=5 {
        busy.start(node);
    }
    busy.wait_for(&[1, 2, 3, 4, 5]);
    // Who founded it goes as everybody else, and leads something in all likelihood.
    busy.leave(1, false).unwrap();
    let left = busy.any().progress().members;
    assert!(left.iter().any(|of| of.node == NodeId(1) && of.leaving == Some(Leaving::Moving)));
    busy.wait_for(&[2, 3, 4, 5]);
    busy.leave(4, false).unwrap();
    busy.wait_for(&[2, 3, 5]);
    let directory = busy.any().meta().directory();
    assert_eq!(directory.removed.iter().copied().collect::<Vec<_>>(), [NodeId(1), NodeId(4)]);
    busy.check();
}

#[test]
fn members_when_two_leave_at_once_then_both_are_gone_and_nothing_is_lost() {
    let mut busy = Busy::grown(5);
    busy.leave(2, false).unwrap();
    busy.leave(5, false).unwrap();
    busy.wait_for(&[1, 3, 4]);
    busy.check();
}

#[test]
fn node_when_killed_and_lost_then_a_new_one_takes_its_place() {
    let mut busy = Busy::grown(3);
    let gone = busy.world.leader(0).unwrap();
    let folder = busy.world.folder(gone);
    assert_eq!(busy.leave(gone, true), Err(MemberError::StillUp(NodeId(gone))));
    busy.kill(gone);
    let down = move |world: &World| {
        world.nodes.values().all(|node| !node.handle().meta().directory().nodes[&NodeId(gone)].up)
    };
    busy.wait("it is declared down", down);
    busy.leave(gone, true).unwrap();
    let staying: Vec<u64> = (1..=3).filter(|node| *node != gone).collect();
    busy.wait_for(&staying);
    busy.start(4);
    busy.wait_for(&[staying[0], staying[1], 4]);
    // The old one comes back with its folder: it is told, and its folder never starts again.
    busy.world.start(gone, &[]);
    busy.wait("it knows", |world| {
        !world.nodes.contains_key(&gone)
            || *world.handle(gone).departure().borrow() == Departure::Removed
    });
    busy.tend();
    assert!(std::fs::read_to_string(folder.join("node")).unwrap().contains("removed = yes"));
    let again = busy.world.try_start(gone, &[]).err();
    assert!(matches!(again, Some(StartError::Removed { .. })), "{again:?}");
    busy.check();
}

#[test]
fn leader_of_everything_when_it_leaves_while_another_is_down_then_it_goes() {
    let mut busy = Busy::grown(4);
    for shard in 0..=SHARDS {
        busy.wait("node 1 leads all", |world| {
            let led = world.handle(1).leadership(ShardId(shard)).borrow().here;
            let has = usize::from(shard) == usize::from(SHARDS)
                || world.handle(1).meta().directory().replicas(ShardId(shard)).contains(&NodeId(1));
            let asked = world.handle(2);
            let to = asked.transfer(ShardId(shard), NodeId(1));
            led || !has || world.runtime.block_on(to).is_ok()
        });
    }
    busy.kill(4);
    let down = |world: &World| !world.handle(2).meta().directory().nodes[&NodeId(4)].up;
    busy.wait("it is declared down", down);
    busy.leave(1, false).unwrap();
    busy.wait("1 is removed", |world| {
        world.handle(2).meta().directory().removed.contains(&NodeId(1))
            && !world.nodes.contains_key(&1)
    });
    // With two of three up nobody else may go, but for the one that is down.
    assert_eq!(busy.leave(2, false), Err(MemberError::QuorumLost(NodeId(2))));
    busy.leave(4, true).unwrap();
    busy.wait_for(&[2, 3]);
    busy.check();
}

#[test]
fn shard_when_wished_elsewhere_then_it_moves_and_stays() {
    let mut busy = Busy::grown(5);
    busy.wait_for(&[1, 2, 3, 4, 5]);
    let directory = busy.any().meta().directory();
    let at = directory.replicas(ShardId(0)).to_vec();
    let to = (1..=5).map(NodeId).find(|node| !at.contains(node)).unwrap();
    let from = at[0];
    let moved = |busy: &Busy, from, to| {
        busy.world.runtime.block_on(busy.any().move_shard(ShardId(0), from, to))
    };
    assert_eq!(moved(&busy, to, from), Err(MemberError::AlreadyThere(ShardId(0), from)));
    moved(&busy, from, to).unwrap();
    busy.wait("it is wished there", |world| {
        let handle = world.nodes.values().next().unwrap().handle();
        let directory = handle.meta().directory();
        let now = directory.replicas(ShardId(0));
        now.contains(&to) && !now.contains(&from)
    });
    busy.wait_for(&[1, 2, 3, 4, 5]);
    let directory = busy.any().meta().directory();
    let now = directory.replicas(ShardId(0));
    assert!(now.contains(&to) && !now.contains(&from), "{now:?}");
    busy.check();
}
