//! Three whole nodes, writers on each, and leaders that are handed over, killed and cut off meanwhile.
//!
//! - Owns: folders, a hub, the nodes, the record of what every caller was told.
//! - Takes: a seed. Gives: the promise that is broken, and by which command.
//! - Bound: tests only. Promises: NO-LOSS, ORDER, ONCE, true outcomes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};

use super::Lines;
use crate::{
    clock,
    error::ProposeError,
    handle::ClusterHandle,
    id::{NodeId, ShardId},
    machine::Store as _,
    node::{Cluster, Runtimes},
    options::{Durability, Options, Peering, Secret},
    storage::folder::Folder,
    transport::memory::Hub,
};

const SHARDS: u16 = 3;
const NODES: u64 = 3;

/// Proposals of a writer that are under way.
const WINDOW: usize = 16;

type History = Vec<(String, Result<Bytes, ProposeError>)>;

struct Writer {
    shard: u16,
    label: String,
    stop: Arc<AtomicBool>,
    task: JoinHandle<History>,
}

struct World {
    temp: TempDir,
    runtime: Runtime,
    hub: Hub,
    nodes: BTreeMap<u64, Cluster<Lines>>,
    writers: BTreeMap<u64, Vec<Writer>>,
    /// What every caller was told, by shard and writer.
    told: Vec<(u16, String, History)>,
    lives: u32,
}

async fn write(
    handle: ClusterHandle<Lines>,
    shard: u16,
    label: String,
    stop: Arc<AtomicBool>,
) -> History {
    let mut under_way = VecDeque::new();
    let mut history = History::new();
    for number in 0.. {
        if under_way.len() >= WINDOW || stop.load(Ordering::Relaxed) {
            let Some((line, told)) = under_way.pop_front() else { break };
            history.push((line, told.await));
            continue;
        }
        let line = format!("{label} {number:06}");
        under_way.push_back((line.clone(), handle.propose(ShardId(shard), Bytes::from(line))));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    history
}

impl World {
    fn grown() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let hub = {
            let _on = runtime.enter();
            Hub::new(7)
        };
        let temp = tempfile::tempdir().unwrap();
        let (nodes, writers) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self { temp, runtime, hub, nodes, writers, told: Vec::new(), lives: 0 };
        (1..=NODES).for_each(|node| world.start(node));
        world.wait("all groups have three voters", |world| {
            let all = world.nodes.values().flat_map(|node| node.handle().status().groups);
            all.into_iter().all(|group| group.voters.len() == 3 && group.leader.is_some())
        });
        world
    }

    fn start(&mut self, node: u64) {
        let join = if node == 1 { Vec::new() } else { vec!["n1".to_owned()] };
        let peering = Peering {
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: format!("n{node}"),
            secret: Secret::new(b"secret"),
            join,
        };
        let options = Options {
            data_dir: self.temp.path().join(node.to_string()),
            node: NodeId(node),
            peering: Some(peering),
            shards: SHARDS,
            durability: Durability::Os,
            threads: 1,
            disk_reserve_bytes: 1 << 20,
            reserve_file_bytes: 1 << 20,
            cache_bytes: 8 << 20,
            ..Options::new("")
        };
        let entered = Folder::enter(&options).unwrap();
        let runtimes = Runtimes::start(&options).unwrap();
        let network = {
            let _on = runtimes.work.enter();
            self.hub.join(NodeId(node), &format!("n{node}"))
        };
        let sink = Arc::new(|_: &_, _: &_| {});
        let started =
            Cluster::start_on(&options, &|_| Lines, |_| sink, entered, runtimes, Some(network));
        self.nodes.insert(node, started.unwrap());
    }

    fn start_writers(&mut self, node: u64) {
        self.lives += 1;
        let life = self.lives;
        let handle = self.nodes[&node].handle();
        let start = |shard| {
            let stop = Arc::new(AtomicBool::new(false));
            let label = format!("{node}.{life}.{shard}");
            let task = write(handle.clone(), shard, label.clone(), stop.clone());
            Writer { shard, label, stop, task: self.runtime.spawn(task) }
        };
        self.writers.insert(node, (0..SHARDS).map(start).collect());
    }

    fn stop_writers(&mut self, node: u64) {
        let writers = self.writers.remove(&node).unwrap_or_default();
        writers.iter().for_each(|writer| writer.stop.store(true, Ordering::Relaxed));
        for Writer { shard, label, task, .. } in writers {
            self.told.push((shard, label, self.runtime.block_on(task).unwrap()));
        }
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = clock::now() + Duration::from_secs(30);
        while !is_so(self) {
            if clock::now() > deadline {
                for node in self.nodes.values() {
                    eprintln!("{:?}", node.handle().status());
                }
                panic!("still not so: {what}");
            }
            self.pause(10);
        }
    }

    fn pause(&self, ms: u64) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
    }

    fn leader(&self, shard: u16) -> Option<u64> {
        let leads =
            |node: &&u64| self.nodes[*node].handle().leadership(ShardId(shard)).borrow().here;
        self.nodes.keys().find(leads).copied()
    }

    /// Ends a node; its links are gone at once.
    fn kill(&mut self, node: u64) {
        self.hub.leave(NodeId(node));
        drop(self.nodes.remove(&node));
        self.stop_writers(node);
    }

    fn kept(&self, node: u64, shard: u16) -> Vec<String> {
        let handle = self.nodes[&node].handle();
        let store = &handle.shared().groups.shards[usize::from(shard)].store;
        let found = store.state.lock().scan(&[0; 8], &[0xFF; 9], usize::MAX);
        found.into_iter().map(|(_, line)| String::from_utf8(line.to_vec()).unwrap()).collect()
    }

    fn disturb(&mut self, round: u16) {
        let shard = round % SHARDS;
        let Some(leader) = self.leader(shard) else { return };
        let others: Vec<u64> = (1..=NODES).filter(|node| *node != leader).collect();
        match round % 4 {
            0 => {
                let to = NodeId(others[usize::from(round) % 2]);
                let handle = self.nodes[&leader].handle();
                let _ = self.runtime.block_on(handle.transfer(ShardId(shard), to));
            }
            1 => {
                let others: Vec<NodeId> = others.into_iter().map(NodeId).collect();
                self.hub.partition(&[NodeId(leader)], &others);
                self.pause(2_000);
                self.hub.heal_all();
            }
            2 => {
                self.kill(leader);
                self.pause(1_000);
                self.start(leader);
                self.start_writers(leader);
            }
            _ => others.iter().for_each(|other| self.hub.reset(NodeId(leader), NodeId(*other))),
        }
        self.pause(400);
    }

    fn check(&self) {
        let (mut acknowledged, mut unknown, mut refused) = (0, 0, 0);
        for shard in 0..SHARDS {
            let kept = self.kept(1, shard);
            let places: HashMap<&str, usize> =
                kept.iter().enumerate().map(|(at, line)| (line.as_str(), at)).collect();
            assert_eq!(places.len(), kept.len(), "shard {shard} has a command twice");
            let mut latest = BTreeMap::new();
            for line in &kept {
                let (writer, number) = line.split_once(' ').unwrap();
                let before = latest.insert(writer, number);
                assert!(before < Some(number), "shard {shard}: {line} behind {before:?}");
            }
            let labels: BTreeSet<&str> = latest.into_keys().collect();
            assert!(labels.len() >= 3, "every node wrote to shard {shard}");
            for (_, _, history) in self.told.iter().filter(|(at, _, _)| *at == shard) {
                for (line, outcome) in history {
                    let is_there = places.contains_key(line.as_str());
                    match outcome {
                        Ok(reply) => {
                            acknowledged += 1;
                            assert!(is_there, "{line} was acknowledged");
                            assert_eq!(reply, line.as_bytes());
                        }
                        Err(ProposeError::Unknown) => unknown += 1,
                        Err(why) => {
                            refused += 1;
                            assert!(!is_there, "{line} was refused: {why}");
                        }
                    }
                }
            }
        }
        eprintln!("{acknowledged} acknowledged, {unknown} unknown, {refused} refused");
        assert!(acknowledged > 1_000);
    }
}

#[test]
fn cluster_when_leaders_change_under_writers_on_all_nodes_then_each_command_is_there_once_in_order()
{
    let mut world = World::grown();
    (1..=NODES).for_each(|node| world.start_writers(node));
    (0..8).for_each(|round| world.disturb(round));
    world.hub.heal_all();
    world
        .wait("every shard is led", |world| (0..SHARDS).all(|shard| world.leader(shard).is_some()));
    world.pause(500);
    (1..=NODES).for_each(|node| world.stop_writers(node));
    for shard in 0..SHARDS {
        world.wait("all replicas have the same", |world| {
            let kept = world.kept(1, shard);
            (2..=NODES).all(|node| world.kept(node, shard) == kept)
        });
    }
    world.check();
}
