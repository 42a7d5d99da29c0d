//! Three nodes from outside, over sockets: form, write anywhere, lose one, get it back.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use hongqiao_cluster::{
    Class, Cluster, ClusterHandle, LinkError, Options, PeerService, Peering, Secret, StartError,
    id::{NodeId, ShardId},
};
use support::{Notes, SHARD, block_on, note, put, wait_until};

struct World {
    temp: tempfile::TempDir,
    ports: BTreeMap<u64, u16>,
    nodes: BTreeMap<u64, Cluster<Notes>>,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl World {
    fn new() -> Self {
        let ports = (1..=4).map(|node| (node, free_port())).collect();
        Self { temp: tempfile::tempdir().unwrap(), ports, nodes: BTreeMap::new() }
    }

    fn options(&self, node: u64, join: &[u64]) -> Options {
        let folder = self.temp.path().join(node.to_string());
        let address = |node: &u64| format!("127.0.0.1:{}", self.ports[node]);
        let peering = Peering {
            listen: address(&node).parse().unwrap(),
            advertise: address(&node),
            secret: Secret::new(b"a secret of tests"),
            join: join.iter().map(address).collect(),
        };
        Options {
            node: NodeId(node),
            peering: Some(peering),
            client_addr: format!("client-{node}"),
            ..support::options(Path::new(&folder))
        }
    }

    fn start(&mut self, node: u64, join: &[u64]) {
        self.nodes.insert(node, support::start(&self.options(node, join)));
    }

    fn of(count: u64) -> Self {
        let mut world = Self::new();
        world.start(1, &[]);
        for node in 2..=count {
            world.start(node, &[1]);
        }
        world.wait_for_members(usize::try_from(count).unwrap());
        world
    }

    fn handle(&self, node: u64) -> ClusterHandle<Notes> {
        self.nodes[&node].handle()
    }

    fn wait_for_members(&self, count: usize) {
        wait_until("every group has its members and a leader", || {
            self.nodes.values().all(|node| {
                let groups = node.handle().status().groups;
                groups.iter().all(|group| group.voters.len() == count && group.leader.is_some())
            })
        });
    }
}

#[test]
fn cluster_when_formed_then_commands_and_questions_go_to_the_leader_from_every_node() {
    let world = World::of(3);
    for node in 1..=3 {
        let handle = world.handle(node);
        assert!(!handle.is_alone());
        assert_eq!(handle.cluster_id(), world.handle(1).cluster_id());
        assert_eq!(handle.hash_key(), world.handle(1).hash_key());
        let members = &handle.meta().directory().nodes;
        assert!(members.values().all(|member| member.up));
        assert_eq!(members[&NodeId(node)].client_addr, format!("client-{node}"));
        block_on(async {
            for shard in 0..4 {
                let key = format!("from-{node}");
                handle.propose(ShardId(shard), put(&key, b"here")).await.unwrap();
            }
        });
    }
    let leads = |node: u64, shard: u16| world.handle(node).leadership(ShardId(shard)).borrow().here;
    for shard in 0..4 {
        let leaders = (1..=3).filter(|node| leads(*node, shard));
        assert!(leaders.count() <= 1, "shard {shard} has two leaders");
    }
}

#[test]
fn member_when_away_for_long_then_it_catches_up_by_a_snapshot() {
    let mut world = World::of(3);
    drop(world.nodes.remove(&3));
    let handle = world.handle(1);
    let value = vec![7; 200 << 10];
    // More than the logs may keep for who is away, twenty times over.
    block_on(async {
        for round in 0..1_000_u32 {
            let key = format!("key-{}", round % 50);
            handle.propose(SHARD, put(&key, &value)).await.unwrap();
        }
        handle.propose(SHARD, note(b"last")).await.unwrap();
    });
    let group = |node: u64| world.handle(node).status().groups[usize::from(SHARD.0)].clone();
    let last = group(1).last;
    world.start(3, &[]);
    let group = |node: u64| world.handle(node).status().groups[usize::from(SHARD.0)].clone();
    wait_until("it has all of it", || group(3).applied >= last);
    // Its own state, once it leads, has everything.
    let from = (1..=2).find(|node| group(*node).here);
    if let Some(from) = from {
        wait_until("it leads", || {
            block_on(world.handle(from).transfer(SHARD, NodeId(3))).is_ok() || group(3).here
        });
    }
    wait_until("it can be read", || {
        let read = block_on(
            world
                .handle(3)
                .read(SHARD, |notes, store| (notes.next, store.scan(b"key", b"kez", 100).len())),
        );
        read == Ok((1, 50))
    });
}

struct Echo;

impl PeerService for Echo {
    fn serve(
        &self,
        from: NodeId,
        _class: Class,
        body: Bytes,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>> {
        let answer = [&from.0.to_be_bytes()[..], &body].concat();
        Box::pin(async move { Ok(answer.into()) })
    }
}

#[test]
fn server_when_it_asks_another_node_then_answered_in_its_name() {
    let world = World::of(2);
    let (one, two) = (world.handle(1), world.handle(2));
    let ask = |body: &'static [u8]| {
        one.request(NodeId(2), Class::Delivery, Bytes::from_static(body), Duration::from_secs(5))
    };
    assert!(matches!(block_on(ask(b"x")), Err(LinkError::Refused(_))), "nobody serves yet");
    two.set_service(Arc::new(Echo));
    let answer = block_on(ask(b"hello")).unwrap();
    assert_eq!(&answer[..], [&1_u64.to_be_bytes()[..], b"hello"].concat());
    let nobody = one.cast(NodeId(9), Class::Delivery, Bytes::new());
    assert_eq!(nobody, Err(LinkError::Unreachable));
    assert_eq!(one.status().links.len(), 3);
}

#[test]
fn node_when_its_id_or_its_shards_are_others_then_it_does_not_come_in() {
    let world = World::of(1);
    // A member's folder under another id.
    let folder = world.temp.path().join("4");
    let mut options = world.options(4, &[1]);
    drop(Cluster::start(options.clone(), |_| Notes::default(), Arc::new(|_, _| {})).unwrap());
    options.node = NodeId(5);
    let other = Cluster::start(options, |_| Notes::default(), Arc::new(|_, _| {}));
    assert!(matches!(other, Err(StartError::Mismatch { field: "node", .. })));
    // Another number of shards than the cluster has.
    std::fs::remove_dir_all(&folder).unwrap();
    let options = Options { shards: 8, node: NodeId(6), ..world.options(4, &[1]) };
    let other = Cluster::start(options, |_| Notes::default(), Arc::new(|_, _| {}));
    assert!(matches!(other, Err(StartError::Mismatch { field: "shards", .. })));
    assert!(!folder.join("data/FORMAT").exists(), "nothing of the cluster was written");
}
