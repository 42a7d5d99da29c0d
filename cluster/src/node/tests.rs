//! Several whole nodes in one process, with links in memory and folders on disk.
//!
//! - Owns: folders, a hub, the nodes. Takes: nothing. Gives: failures that name the promise they break.
//! - Bound: tests only. Promises: NO-LOSS, HEAL, ALONE.

mod directory;
mod hand_over;
mod catch_up;
mod disk;
mod members;
mod recover;
mod whole;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;

use super::{Cluster, Runtimes};
use crate::{
    clock,
    error::{ProposeError, StartError},
    handle::ClusterHandle,
    id::{NodeId, ShardId},
    machine::{Machine, Store, StoreMut},
    options::{Durability, Options, Peering, Secret},
    storage::folder::Folder,
    transport::memory::Hub,
};

const SHARDS: u16 = 4;

/// Keeps every command under its own name; a command that is there already changes nothing.
struct Names;

impl Machine for Names {
    fn load(&mut self, _store: &dyn Store) {}

    fn apply(&mut self, index: u64, command: &Bytes, store: &mut dyn StoreMut) -> Bytes {
        let name = &command[..command.len().min(64)];
        store.put([b"k", name].concat(), command.clone());
        store.put([b"i", name].concat(), Bytes::copy_from_slice(&index.to_be_bytes()));
        command.clone()
    }

    fn query(&self, question: &Bytes, store: &dyn Store) -> Bytes {
        store.get(&[b"k", &question[..]].concat()).unwrap_or_default()
    }
}

struct World {
    temp: TempDir,
    runtime: tokio::runtime::Runtime,
    hub: Hub,
    nodes: BTreeMap<u64, Cluster<Names>>,
    more: Options,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let hub = {
            let _on = runtime.enter();
            Hub::new(1)
        };
        let more = Options {
            shards: SHARDS,
            durability: Durability::Os,
            checkpoint_interval: Duration::from_millis(100),
            disk_reserve_bytes: 1 << 20,
            reserve_file_bytes: 1 << 20,
            cache_bytes: 8 << 20,
            ..Options::new("")
        };
        Self { temp: tempfile::tempdir().unwrap(), runtime, hub, nodes: BTreeMap::new(), more }
    }

    fn folder(&self, node: u64) -> PathBuf {
        self.temp.path().join(node.to_string())
    }

    fn try_start(&self, node: u64, join: &[&str]) -> Result<Cluster<Names>, StartError> {
        let advertise = format!("n{node}");
        let peering = Peering {
            listen: ([127, 0, 0, 1], 0).into(),
            advertise,
            secret: Secret::new(b"secret"),
            join: join.iter().map(|address| (*address).to_owned()).collect(),
        };
        let options = Options {
            data_dir: self.folder(node),
            node: NodeId(node),
            peering: Some(peering),
            ..self.more.clone()
        };
        let entered = Folder::enter(&options)?;
        let runtimes = Runtimes::start(&options)?;
        let network = {
            let _on = runtimes.work.enter();
            self.hub.join(NodeId(node), &format!("n{node}"))
        };
        let sink = Arc::new(|_: &_, _: &_| {});
        Cluster::start_on(&options, &|_| Names, |_| sink, entered, runtimes, Some(network))
    }

    fn start(&mut self, node: u64, join: &[&str]) {
        let started = self.try_start(node, join).unwrap();
        self.nodes.insert(node, started);
    }

    /// Starts `count` nodes and waits until every group has three members, or as many as there are.
    fn grown(count: u64) -> Self {
        let mut world = Self::new();
        world.start(1, &[]);
        for node in 2..=count {
            world.start(node, &["n1"]);
        }
        world.wait_for_members(count);
        world
    }

    fn handle(&self, node: u64) -> ClusterHandle<Names> {
        self.nodes[&node].handle()
    }

    fn kill(&mut self, node: u64) {
        self.hub.leave(NodeId(node));
        drop(self.nodes.remove(&node));
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = clock::now() + Duration::from_secs(20);
        while !is_so(self) {
            if clock::now() > deadline {
                for node in self.nodes.values() {
                    eprintln!("{:?}", node.handle().status());
                }
                panic!("still not so: {what}");
            }
            self.pause(Duration::from_millis(10));
        }
    }

    fn pause(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    fn wait_for_members(&self, count: u64) {
        self.wait("all groups have their members", |world| {
            world.nodes.keys().all(|node| {
                let status = world.handle(*node).status();
                let full = |voters: usize| voters == usize::try_from(count.min(3)).unwrap();
                let groups = status.groups.iter();
                groups.clone().count() == usize::from(SHARDS) + 1
                    && groups.into_iter().all(|group| {
                        full(group.voters.len())
                            && group.learners.is_empty()
                            && group.leader.is_some()
                    })
            })
        });
    }

    fn leader(&self, shard: u16) -> Option<u64> {
        let mut nodes = self.nodes.keys().copied();
        nodes.find(|node| self.handle(*node).leadership(ShardId(shard)).borrow().here)
    }

    /// Writes to whoever leads, until it is acknowledged.
    fn write(&self, shard: u16, command: &str) {
        let deadline = clock::now() + Duration::from_secs(30);
        loop {
            assert!(clock::now() < deadline, "nobody takes {command}");
            let Some(leader) = self.leader(shard) else {
                self.pause(Duration::from_millis(5));
                continue;
            };
            let told = self.handle(leader).propose(ShardId(shard), Bytes::from(command.to_owned()));
            if self.runtime.block_on(told).is_ok() {
                return;
            }
        }
    }

    /// Reads the state of one member as it is, whoever leads.
    fn has(&self, node: u64, shard: u16, command: &str) -> bool {
        let handle = self.handle(node);
        let store = &handle.shared().groups.shards[usize::from(shard)].store;
        store.state.lock().get(&[b"k", command.as_bytes()].concat()).is_some()
    }
}

#[test]
fn cluster_when_it_grows_to_three_then_every_write_is_on_every_member() {
    let mut world = World::new();
    world.start(1, &[]);
    world.write(0, "before");
    for node in 2..=3 {
        world.start(node, &["n1"]);
        world.write(1, &format!("with {node}"));
    }
    world.wait_for_members(3);
    for shard in 0..SHARDS {
        world.write(shard, "after");
    }
    for node in 1..=3 {
        assert!(!world.handle(node).is_alone());
        world.wait("replicated", |world| {
            (0..SHARDS).all(|shard| world.has(node, shard, "after"))
                && world.has(node, 0, "before")
                && world.has(node, 1, "with 2")
        });
    }
    world.wait("leads are spread", |world| {
        let led = (0..SHARDS).filter_map(|shard| world.leader(shard)).collect::<BTreeSet<_>>();
        led.len() == 3
    });
}

#[test]
fn leader_when_it_ends_then_another_leads_and_everything_acknowledged_is_there() {
    let mut world = World::grown(3);
    for round in 0..50 {
        world.write(round % SHARDS, &format!("early {round}"));
    }
    let gone = world.leader(0).unwrap();
    world.kill(gone);
    let killed = clock::now();
    for shard in 0..SHARDS {
        world.write(shard, "late");
    }
    let took = clock::now() - killed;
    assert!(took < Duration::from_secs(10), "{took:?} without a leader");
    eprintln!("{took:?} from the end of a leader to a write on every shard");
    let left: Vec<u64> = world.nodes.keys().copied().collect();
    for node in left {
        world.wait("all is there", |world| {
            (0..50).all(|round| world.has(node, round % SHARDS, &format!("early {round}")))
        });
    }
    // Back again: no join, everything from its folder and its peers.
    world.start(gone, &[]);
    world.wait("it has caught up", |world| (0..SHARDS).all(|shard| world.has(gone, shard, "late")));
    world.wait_for_members(3);
}

#[test]
fn leader_when_cut_off_then_it_neither_reads_nor_acknowledges() {
    let world = World::grown(3);
    world.write(0, "before");
    let old = world.leader(0).unwrap();
    let others: Vec<NodeId> = (1..=3).filter(|node| *node != old).map(NodeId).collect();
    world.hub.partition(&[NodeId(old)], &others);
    let handle = world.handle(old);
    let told = handle.propose(ShardId(0), Bytes::from_static(b"lost"));
    world.wait("another leads", |world| {
        let lead = *world.handle(others[0].0).leadership(ShardId(0)).borrow();
        lead.leader.is_some_and(|leader| leader.0 != old)
    });
    assert!(!handle.leadership(ShardId(0)).borrow().here, "two lead");
    let read = world.runtime.block_on(handle.query(ShardId(0), Bytes::from_static(b"before")));
    assert!(read.is_err(), "a read without a quorum");
    let told = world.runtime.block_on(told);
    assert!(matches!(told, Err(ProposeError::Unknown | ProposeError::Unavailable)), "{told:?}");
    world.write(0, "after");
    world.hub.heal_all();
    world.wait("the old leader follows", |world| world.has(old, 0, "after"));
    assert!(!world.has(old, 0, "lost"));
}

#[test]
fn lead_when_transferred_then_the_other_leads_at_once_and_nothing_is_lost() {
    let world = World::grown(3);
    let from = world.leader(0).unwrap();
    let to = (1..=3).find(|node| *node != from).unwrap();
    for round in 0..20 {
        world.write(0, &format!("before {round}"));
    }
    let started = clock::now();
    let handed = world.runtime.block_on(world.handle(from).transfer(ShardId(0), NodeId(to)));
    handed.unwrap();
    world.wait("the other leads", |world| world.leader(0) == Some(to));
    let took = clock::now() - started;
    assert!(took < Duration::from_secs(2), "{took:?} for a hand-over");
    assert!((0..20).all(|round| world.has(to, 0, &format!("before {round}"))));
    world.runtime.block_on(world.handle(to).resign());
    world.wait("another leads", |world| world.leader(0).is_some_and(|leader| leader != to));
}

#[test]
fn node_when_its_id_is_in_use_then_refused_and_told_why() {
    let world = World::grown(2);
    let other = world.temp.path().join("other");
    std::fs::rename(world.folder(2), &other).unwrap();
    std::fs::create_dir(world.folder(2)).unwrap();
    let Err(StartError::Join { reason, .. }) = world.try_start(2, &["n1"]) else {
        panic!("a second node 2 was let in")
    };
    assert!(reason.contains("node id 2 is the member at n2"), "{reason}");
}
