//! Who is let in, under which id, and who makes the cluster; over sockets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hongqiao_cluster::{Cluster, ClusterHandle, Options, Peering, Secret, StartError, id::NodeId};
use support::{Notes, block_on, wait_until};

/// A refusal that is certain comes long before a node gives up asking.
const AT_ONCE: Duration = Duration::from_secs(10);

struct World {
    temp: tempfile::TempDir,
    /// By name of the machine.
    ports: BTreeMap<&'static str, u16>,
    nodes: BTreeMap<&'static str, Cluster<Notes>>,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(options: Options) -> Result<Cluster<Notes>, StartError> {
    Cluster::start(options, |_| Notes::default(), Arc::new(|_, _| {}))
}

impl World {
    fn new(machines: &[&'static str]) -> Self {
        let ports = machines.iter().map(|machine| (*machine, free_port())).collect();
        Self { temp: tempfile::tempdir().unwrap(), ports, nodes: BTreeMap::new() }
    }

    /// A machine whose node has no id of its own, and that finds others by name.
    fn options(&self, machine: &str, join: &[&str]) -> Options {
        let peering = Peering {
            listen: ([127, 0, 0, 1], self.ports[machine]).into(),
            advertise: format!("127.0.0.1:{}", self.ports[machine]),
            secret: Secret::new(b"a secret of tests"),
            join: join.iter().map(|of| format!("localhost:{}", self.ports[of])).collect(),
        };
        Options {
            node: NodeId::NONE,
            peering: Some(peering),
            ..support::options(&self.temp.path().join(machine))
        }
    }

    fn start(&mut self, machine: &'static str, join: &[&str]) -> u64 {
        let started = start(self.options(machine, join)).unwrap();
        let node = started.handle().node().0;
        self.nodes.insert(machine, started);
        node
    }

    fn handle(&self, machine: &str) -> ClusterHandle<Notes> {
        self.nodes[machine].handle()
    }

    fn wait_for_members(&self, members: &[u64]) {
        let members: Vec<NodeId> = members.iter().copied().map(NodeId).collect();
        wait_until("all know all members", || {
            self.nodes.values().all(|node| {
                let handle = node.handle();

                let directory = handle.meta().directory();
                directory.nodes.keys().copied().eq(members.iter().copied())
                    && handle.progress().is_done()
            })
        });
    }
}

fn refusal(options: Options) -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(tell.send(start(options))));
    match told.recv_timeout(AT_ONCE).expect("a refusal at once") {
        Err(StartError::Join { reason, .. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[test]
fn nodes_without_ids_are_given_one_each_and_keep_it() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    assert_eq!(world.start("a", &[]), 1);
    assert_eq!(world.start("b", &["a"]), 2);
    // Any member lets others in.
    assert_eq!(world.start("c", &["b"]), 3);
    world.wait_for_members(&[1, 2, 3]);
    drop(world.nodes.remove("c"));
    assert_eq!(world.start("c", &["a"]), 3);

    let taken = Options { node: NodeId(2), ..world.options("d", &["a"]) };
    assert!(refusal(taken).contains("node id 2 is "));
    let mut stranger = world.options("d", &["a"]);
    stranger.peering.as_mut().unwrap().secret = Secret::new(b"another secret");
    assert!(refusal(stranger).contains("it has another secret"));
}

/// Nobody is there; it would ask for a minute.
#[test]
fn node_that_waits_to_be_let_in_gives_up_when_it_is_told() {
    let world = World::new(&["a", "b"]);
    let (tell, told) = tokio::sync::watch::channel(false);
    let options = Options { given_up: Some(told), ..world.options("b", &["a"]) };
    let folder = options.data_dir.clone();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(ended.send(start(options).map(drop))));
    assert!(end.recv_timeout(Duration::from_secs(1)).is_err(), "it asks on");
    tell.send(true).unwrap();
    let given_up = end.recv_timeout(AT_ONCE).expect("it gives up at once");
    assert!(matches!(given_up, Err(StartError::GivenUp)), "{given_up:?}");
    assert!(!folder.join("FORMAT").exists(), "it belongs to no cluster");
}

#[test]
fn node_that_takes_the_place_of_a_lost_one_gets_its_shards_and_another_id() {
    let mut world = World::new(&["a", "b", "c", "d", "e"]);
    for (machine, join) in [("a", &[][..]), ("b", &["a"]), ("c", &["a"])] {
        world.start(machine, join);
    }
    world.wait_for_members(&[1, 2, 3]);
    let instead = Options { replaces: Some(NodeId(3)), ..world.options("d", &["a"]) };
    let why = refusal(instead.clone());
    assert!(why.contains("node 3 cannot be replaced: node 3 is up"), "{why}");
    let unknown = Options { replaces: Some(NodeId(9)), ..instead.clone() };
    assert!(refusal(unknown).contains("node 9 is no member"));
    drop(world.nodes.remove("c"));
    wait_until("it is down", || !world.handle("a").meta().directory().nodes[&NodeId(3)].up);
    let new = start(instead).unwrap();
    assert_eq!(new.handle().node(), NodeId(4));
    world.nodes.insert("d", new);
    world.wait_for_members(&[1, 2, 4]);
    let directory = world.handle("d").meta().directory();
    assert!(directory.removed.contains(&NodeId(3)));
    assert!(directory.shards.iter().all(|at| at.len() == 3 && at.contains(&NodeId(4))));
    let removed = Options { node: NodeId(3), ..world.options("e", &["b"]) };
    assert!(refusal(removed).contains("node id 3 was removed"));
}

#[test]
fn machines_that_all_start_the_same_way_make_one_cluster() {
    let all = ["a", "b", "c"];
    let mut world = World::new(&all);
    let founding = |world: &World, machine: &'static str| Options {
        founds_with: (machine == "a").then_some(all.len()),
        ..world.options(machine, &all)
    };
    let starts = all.map(|machine| {
        let options = founding(&world, machine);
        std::thread::spawn(move || (machine, start(options).unwrap()))
    });
    for started in starts {
        let (machine, node) = started.join().unwrap();
        world.nodes.insert(machine, node);
    }
    assert_eq!(world.handle("a").node(), NodeId(1));
    world.wait_for_members(&[1, 2, 3]);
    let cluster = world.handle("b").cluster_id();

    // Its disk is gone, and the others are there: it does not make another cluster.
    drop(world.nodes.remove("a"));
    std::fs::remove_dir_all(world.temp.path().join("a")).unwrap();
    let again = start(founding(&world, "a")).unwrap();
    assert_eq!((again.handle().node(), again.handle().cluster_id()), (NodeId(4), cluster));
    world.nodes.insert("a", again);
    wait_until("it is down", || !world.handle("b").meta().directory().nodes[&NodeId(1)].up);
    block_on(world.handle("c").leave(NodeId(1), true)).unwrap();
    world.wait_for_members(&[2, 3, 4]);
}

#[test]
fn founder_that_finds_too_few_waits() {
    let mut world = World::new(&["a", "b"]);
    let options = Options { founds_with: Some(2), ..world.options("a", &["a", "b"]) };
    let (tell, told) = std::sync::mpsc::channel();
    let founding = std::thread::spawn(move || {
        let started = start(options).unwrap();
        tell.send(()).unwrap();
        started
    });
    // Nobody listens at the other address yet.
    let early = told.recv_timeout(Duration::from_secs(4));
    assert!(early.is_err(), "it made a cluster without the other");
    assert_eq!(world.start("b", &["a", "b"]), 2);
    world.nodes.insert("a", founding.join().unwrap());
    world.wait_for_members(&[1, 2]);
}
