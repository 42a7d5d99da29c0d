//! A group whose members are on other nodes, which answer what the test says.

use std::{collections::VecDeque, time::Duration};

use futures_util::future::BoxFuture;
use hongqiao_cluster::{
    MetaChange,
    directory::{Directory, Member as Node, Places as Routed},
    id::NodeId,
};
use parking_lot::Mutex;

use super::*;
use crate::{
    actors::{
        groups::desk,
        live_routes::{LiveRoutes, Tellers},
        meta::fake::FakeMeta,
        peer::{Class, PeerError, Wire},
        publish::Beyond,
        route_tables::RouteTables,
        view::View,
    },
    model::{id::HashKey, route_key},
};

/// What a node answers: a reply, or why there is none.
type Answers = VecDeque<Result<ShareReply, PeerError>>;

#[derive(Default)]
struct Script {
    answers: AHashMap<NodeId, Answers>,
    asked: Vec<(u64, bool)>,
}

/// Nodes that answer `Taken` when the test has said nothing else.
#[derive(Clone, Default)]
struct FakeNodes(Arc<Mutex<Script>>);

impl Wire for FakeNodes {
    fn request(
        &self,
        to: NodeId,
        _class: Class,
        body: Bytes,
        _time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let Ok(ShareRequest::Deal { forced, .. }) = desk::decode(&body) else {
            return Box::pin(async { Err(PeerError::Refused("not asked for".to_owned())) });
        };
        let mut script = self.0.lock();
        script.asked.push((to.0, forced));
        let answer = script.answers.get_mut(&to).and_then(VecDeque::pop_front);
        let answer = answer.unwrap_or(Ok(ShareReply::Taken { members: 1 }));
        Box::pin(async move { desk::encode(&answer?) })
    }

    fn cast(&self, _to: NodeId, _class: Class, _body: Bytes) -> Result<(), PeerError> {
        Err(PeerError::Unreachable)
    }
}

struct World {
    groups: Addr<Groups>,
    nodes: FakeNodes,
    tables: Arc<RouteTables>,
    directory: Directory,
    log: Log,
    route: Bytes,
}

impl World {
    /// Members are on the nodes `members`, and durable ones in the shards `shards`.
    fn new(members: &[u64], shards: u64) -> Self {
        let (nodes, tables) = (FakeNodes::default(), RouteTables::new(NodeId(1)));
        let beyond = Beyond { tables: Arc::clone(&tables), ..Beyond::nothing() };
        let (view, hash_key) = (View::alone(NodeId(1), 1, 4), HashKey([0; 16]));
        let read: ReadMembers =
            Box::new(|shard, _| Box::pin(async move { Some(vec![SessionKey(shard.0.into())]) }));
        let far = Far::new(beyond, Arc::new(nodes.clone()), view, hash_key, read);
        let (groups, _, log) = start_with(far);
        let route = route_key::of_group(APP, b"g", b"a/+");
        let directory = Directory::default();
        let mut world = Self { groups, nodes, tables, directory, log, route };
        for node in [1, 2, 3] {
            world.declare(node, true);
        }
        let nodes = members.iter().copied().map(NodeId).collect();
        let routed = Routed { nodes, shards };
        world.directory.routes.insert(world.route.clone(), routed);
        world.tables.take(&world.directory, &[MetaChange::Reloaded]);
        world
    }

    fn declare(&mut self, node: u64, up: bool) {
        let text = String::new;
        let (cluster_addr, client_addr, version) = (text(), text(), text());
        let incarnation = 1;
        let routes_complete = true;
        let member = Node { incarnation, up, routes_complete, cluster_addr, client_addr, version };
        self.directory.nodes.insert(NodeId(node), member);
        if !up {
            let routed = self.directory.routes.get(&self.route).cloned().unwrap();
            let nodes = routed.nodes.iter().copied().filter(|known| known.0 != node).collect();
            let routed = Routed { nodes, ..routed };
            self.directory.routes.insert(self.route.clone(), routed);
        }
        self.tables.take(&self.directory, &[MetaChange::Reloaded]);
    }

    /// Says what a node answers, and after that `Taken`.
    fn answers(&self, node: u64, answers: impl IntoIterator<Item = Result<ShareReply, PeerError>>) {
        self.nodes.0.lock().answers.insert(NodeId(node), answers.into_iter().collect());
    }

    fn send(&self, message: Arc<Published>) -> actix::dev::Request<Groups, Dispatch> {
        let key = Some(self.route.clone());
        self.groups.send(Dispatch { group: KEY, key, messages: vec![message] })
    }

    /// Which nodes were asked since, and whether they had to take it.
    fn asked(&self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.nodes.0.lock().asked)
    }
}

/// A QoS 2 message of an exchange of its own.
fn exact(body: u8) -> Arc<Published> {
    let id = MessageId::in_exchange(SessionKey(77), body.into(), 1);
    let message = Published::clone(&message(body));
    Arc::new(Published { id: Some(id), qos: Qos::ExactlyOnce, ..message })
}

#[actix::test]
async fn nodes_take_turns_and_one_without_members_is_not_asked_again_at_once() {
    let world = World::new(&[2, 3], 0);
    world.answers(2, [Ok(ShareReply::Nobody)]);
    for body in 0..4 {
        world.send(message(body)).await.unwrap().unwrap();
    }
    let asked = world.asked();
    assert_eq!(asked.iter().filter(|(node, _)| *node == 2).count(), 1, "{asked:?}");
    assert_eq!(asked.iter().filter(|(node, _)| *node == 3).count(), 4);
}

#[actix::test]
async fn member_here_gets_the_part_of_one_among_the_nodes() {
    let world = World::new(&[1, 2, 3], 0);
    world.groups.send(join(5)).await.unwrap();
    for body in 0..9 {
        world.send(message(body)).await.unwrap().unwrap();
    }
    assert_eq!((world.log.borrow().len(), world.asked().len()), (3, 6));
}

#[actix::test]
async fn node_out_of_reach_is_waited_for_until_it_is_down_if_it_has_the_only_member() {
    tokio::time::pause();
    let mut world = World::new(&[2], 0);
    world.answers(2, vec![Err(PeerError::Unreachable); 1_000]);
    let mut sent = Box::pin(world.send(message(1)));
    let waits = tokio::time::timeout(Duration::from_secs(6), &mut sent).await;
    assert!(waits.is_err(), "{waits:?}");
    world.declare(2, false);
    let told = tokio::time::timeout(Duration::from_secs(1), sent).await;
    assert_eq!(told.unwrap().unwrap(), Ok(()), "its live members are gone");
    world.declare(2, true);
    let routed = Routed { nodes: [NodeId(2)].into_iter().collect(), shards: 0 };
    world.directory.routes.insert(world.route.clone(), routed);
    world.tables.take(&world.directory, &[MetaChange::Reloaded]);
    assert!(world.send(message(2)).await.unwrap().is_err(), "not for ever");
}

#[actix::test]
async fn answer_that_is_lost_sends_qos_1_elsewhere_and_qos_2_there_again() {
    tokio::time::pause();
    let world = World::new(&[2, 3], 0);
    world.answers(2, [Err(PeerError::Unknown)]);
    world.answers(3, [Err(PeerError::Unknown)]);
    world.send(message(1)).await.unwrap().unwrap();
    let asked = world.asked();
    assert_eq!(asked.len(), 3, "both, and then one again: {asked:?}");
    assert_ne!(asked[0].0, asked[1].0);
    world.answers(2, [Err(PeerError::Unknown), Err(PeerError::Unknown)]);
    world.answers(3, [Err(PeerError::Unknown), Err(PeerError::Unknown)]);
    world.send(exact(2)).await.unwrap().unwrap();
    let asked = world.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|(node, _)| *node == asked[0].0), "{asked:?}");
}

#[actix::test]
async fn message_waits_at_a_member_without_room_only_if_nobody_has_any() {
    let world = World::new(&[2, 3], 0);
    world.answers(2, [Ok(ShareReply::NoRoom)]);
    world.answers(3, [Ok(ShareReply::NoRoom)]);
    world.send(message(1)).await.unwrap().unwrap();
    let asked = world.asked();
    let forced: Vec<_> = asked.iter().map(|(_, forced)| *forced).collect();
    assert_eq!(forced, [false, false, true], "{asked:?}");
}

#[actix::test]
async fn durable_members_get_it_in_turn_when_nobody_is_connected_but_no_qos_0() {
    let world = World::new(&[2], 0b1100);
    world.answers(2, vec![Ok(ShareReply::Nobody); 100]);
    for body in 0..4 {
        world.send(message(body)).await.unwrap().unwrap();
    }
    let zero = Published { qos: Qos::AtMostOnce, ..Published::clone(&message(9)) };
    world.send(Arc::new(zero)).await.unwrap().unwrap();
    let mut got = world.log.borrow().clone();
    got.sort_unstable();
    assert_eq!(got.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [1_002, 1_002, 1_003, 1_003]);
}

#[actix::test]
async fn group_without_any_member_has_nobody_to_wait_for() {
    let world = World::new(&[2, 3], 0);
    for node in [2, 3] {
        world.answers(node, [Ok(ShareReply::Nobody)]);
    }
    world.send(message(1)).await.unwrap().unwrap();
    assert_eq!(world.asked().len(), 2);
    world.answers(2, [Ok(ShareReply::Refused(Reason::QuotaExceeded))]);
    world.answers(3, [Ok(ShareReply::Refused(Reason::QuotaExceeded))]);
    assert_eq!(world.send(message(2)).await.unwrap(), Err(Reason::QuotaExceeded));
}

#[actix::test]
async fn share_that_came_back_and_that_no_node_takes_now_is_dealt_again() {
    tokio::time::pause();
    let world = World::new(&[2], 0);
    world.answers(2, vec![Ok(ShareReply::Refused(Reason::QuotaExceeded)); 3]);
    world.groups.send(away(5)).await.unwrap();
    let back = GivenBack { group: KEY, messages: vec![message(1)] };
    world.groups.send(back).await.unwrap();
    tokio::time::sleep(crate::limits::GIVEN_BACK_RETRY * 9).await;
    assert_eq!(world.asked().len(), 4, "until it is taken");
}

#[actix::test]
async fn other_nodes_know_a_group_while_it_has_connected_members_here() {
    tokio::time::pause();
    let (meta, live) = (FakeMeta::in_company(), Arc::<LiveRoutes>::default());
    let tables = RouteTables::new(NodeId(1));
    let beyond =
        Beyond { tables: Arc::clone(&tables), live: Arc::clone(&live), ..Beyond::nothing() };
    let (view, hash_key) = (View::alone(NodeId(1), 1, 4), HashKey([0; 16]));
    let read: ReadMembers = Box::new(|_, _| Box::pin(async { None }));
    let far = Far::new(beyond, Arc::new(FakeNodes::default()), view, hash_key, read);
    let (groups, _, _) = start_with(far);
    // One has been there since before the node had company.
    groups.send(join(1)).await.unwrap();
    assert!(live.is_empty());
    let tellers = Tellers { routers: Vec::new(), groups: vec![groups.clone().recipient()] };
    actix::spawn(Arc::clone(&live).run(Arc::new(Arc::clone(&meta)), tellers));
    while !meta.is_complete() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let route = route_key::of_group(APP, b"g", b"a/+");
    assert!(meta.live().contains(&route));
    groups.send(join(2)).await.unwrap();
    for slot in [1, 2] {
        assert!(meta.live().contains(&route), "one is still there");
        let who = MemberKey::Connection(ConnectionId::new(0, 1, slot));
        groups.send(Leave { group: KEY, who, stays: false }).await.unwrap();
    }
    tokio::time::sleep(crate::limits::ROUTE_LINGER + Duration::from_secs(1)).await;
    assert!(!meta.live().contains(&route));
    groups.send(join(3)).await.unwrap();
    let settled = live.routed(vec![route.clone()]);
    assert_eq!(settled.unwrap().await, [true], "SUBACK waits for this");
    assert!(meta.live().contains(&route));
}
