//! Sockets keep the contract; silence, slowness and rubbish have their outcome.

mod raw;
mod handshake;

use std::{collections::HashMap, sync::atomic::Ordering};

use futures_util::{FutureExt as _, future::join_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::raw::{FakeListener, Raw};
use super::{
    frame::{Frame, Kind},
    hello::{Purpose, Secret},
    *,
};
use crate::{
    limits::{LINK_BYTES_MAX, LINK_REQUESTS_MAX},
    transport::contract::{self, Clerk, Fabric, LONG, ONE, Pair, TWO, wait_until},
};

const CLUSTER: ClusterId = [7; 16];

fn identity(node: NodeId) -> Identity {
    Identity {
        node,
        incarnation: 1,
        secret: Secret::new(b"a secret of tests"),
        versions: (1, 1),
        instance: rand::random(),
    }
}

/// Nodes on loopback.
#[derive(Default)]
struct Sockets {
    nodes: HashMap<NodeId, Arc<TcpNetwork>>,
    addresses: HashMap<NodeId, String>,
}

impl Sockets {
    async fn start_as(&mut self, identity: Identity) -> Arc<TcpNetwork> {
        let node = identity.node;
        let address = self.addresses.get(&node).map_or("127.0.0.1:0", String::as_str);
        // Another test's connection may have the port of one that was stopped, for a moment.
        let mut tries = 0;
        let network = loop {
            match TcpNetwork::bind(address, identity.clone()).await {
                Ok(network) => break network,
                Err(error) => assert!(tries < 100, "{error}"),
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        network.set_cluster(CLUSTER);
        self.addresses.insert(node, network.listens().to_string());
        self.nodes.insert(node, network.clone());
        network
    }
}

impl Fabric for Sockets {
    fn start(&mut self, node: NodeId) -> BoxFuture<'_, Arc<dyn Network>> {
        Box::pin(async move { self.start_as(identity(node)).await as Arc<dyn Network> })
    }

    fn kill(&mut self, node: NodeId) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.nodes.remove(&node).unwrap().stop() })
    }

    fn address(&self, node: NodeId) -> String {
        self.addresses[&node].clone()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for network in self.nodes.values() {
            network.stop();
        }
    }
}

contract::contract!((flavor = "multi_thread", worker_threads = 2) Sockets::default());

fn state(network: &dyn Network, class: Class) -> LinkState {
    network.links().into_iter().find(|link| link.class == class).unwrap()
}

/// A served node and its address, and somebody who is let in.
async fn node_and_caller(class: Class) -> (Sockets, Arc<Clerk>, Raw) {
    let mut sockets = Sockets::default();
    let clerk = Arc::new(Clerk::default());
    sockets.start(TWO).await.set_service(clerk.clone());
    let raw = Raw::call(&sockets.address(TWO), &identity(ONE), Purpose::Link(class)).await.unwrap();
    (sockets, clerk, raw)
}

fn request(id: u64, body: &[u8]) -> Frame {
    let (desk, body) = (Desk::Server as u8, Bytes::copy_from_slice(body));
    Frame { kind: Kind::Request, desk, time_out_ms: 20_000, id, body }
}

#[tokio::test]
async fn peer_that_sends_rubbish_then_only_its_connection_is_dropped() {
    let cast = |id| Frame { kind: Kind::Cast, id, ..request(0, b"cast") };
    let mut long = raw::bytes(&[cast(0)]);
    long[..4].copy_from_slice(&u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes());
    let mut turned = raw::bytes(&[request(1, b"body")]);
    *turned.last_mut().unwrap() ^= 1;
    let answer = Frame { kind: Kind::Answer, ..request(1, b"") };
    for rubbish in [
        b"GET / HTTP/1.1\r\n\r\nand some more bytes".to_vec(),
        long,
        turned,
        raw::bytes(&[answer]),
        raw::bytes(&[request(2, b""), request(2, b"")]),
        raw::bytes(&[request(2, b""), request(1, b"")]),
    ] {
        let (_sockets, clerk, mut raw) = node_and_caller(Class::Delivery).await;
        let mut other =
            Raw::call(&_sockets.address(TWO), &raw.identity, Purpose::Link(Class::Control))
                .await
                .unwrap();
        raw.socket.write_all(&rubbish).await.unwrap();
        raw.wait_until_closed().await;
        assert!(clerk.bodies(Class::Delivery).len() <= 1, "rubbish was served");
        other.send(&[request(1, b"still here")]).await;
        assert_eq!(other.next_answer().await.body, "still here");
    }
}

#[tokio::test]
async fn listener_that_sends_rubbish_then_the_link_is_made_anew() {
    let question = request(1, b"");
    let answer = Frame { kind: Kind::Answer, ..request(9, b"nobody asked") };
    for rubbish in [raw::bytes(&[question]), raw::bytes(&[answer]), vec![0xff; 100]] {
        let listener = FakeListener::bind(identity(TWO)).await;
        let one = TcpNetwork::bind("127.0.0.1:0", identity(ONE)).await.unwrap();
        one.set_cluster(CLUSTER);
        one.set_peers(BTreeMap::from([(TWO, listener.address())]));
        let mut met = Vec::new();
        while met.len() < 3 {
            met.push(listener.accept().await);
        }
        for raw in &mut met {
            raw.socket.write_all(&rubbish).await.unwrap();
            raw.wait_until_closed().await;
        }
        wait_until("all three say why", || {
            let links = one.links();
            links.iter().all(|link| {
                link.last_error.as_ref().is_some_and(|error| error.starts_with("rubbish"))
            })
        })
        .await;
        // And calls again.
        listener.accept().await;
    }
}

#[tokio::test]
async fn unknown_desk_then_refused_and_the_link_stays() {
    let (_sockets, _clerk, mut raw) = node_and_caller(Class::Control).await;
    raw.send(&[Frame { desk: 77, ..request(1, b"") }, request(2, b"after it")]).await;
    let refused = raw.next_answer().await;
    assert_eq!((refused.kind, refused.id), (Kind::Refusal, 1));
    assert_eq!(refused.body, "desk 77 is not open here");
    assert_eq!(raw.next_answer().await.body, "after it");
}

#[tokio::test]
async fn peer_that_is_silent_then_dropped_after_three_seconds_on_either_side() {
    let (_sockets, clerk, mut raw) = node_and_caller(Class::Control).await;
    raw.send(&[request(1, b"wait")]).await;
    wait_until("served", || clerk.waiting.load(Ordering::SeqCst) == 1).await;

    let listener = FakeListener::bind(identity(TWO)).await;
    let one = TcpNetwork::bind("127.0.0.1:0", identity(ONE)).await.unwrap();
    one.set_cluster(CLUSTER);
    one.set_peers(BTreeMap::from([(TWO, listener.address())]));
    let mut kept = Vec::new();
    while kept.len() < 3 {
        kept.push(listener.accept().await);
    }
    wait_until("linked", || one.links().iter().all(|link| link.connected)).await;
    let started = crate::clock::now();
    let asked = one.request(TWO, Class::Control, Desk::Server, Bytes::new(), LONG);
    assert_eq!(asked.await, Err(LinkError::Lost));
    let took = started.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&took), "{took:?}");
    let error = state(&*one, Class::Control).last_error.unwrap();
    assert_eq!(error, "nothing heard for 3 s");
    raw.wait_until_closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_link_then_stays_and_one_that_is_full_for_long_too() {
    let (_sockets, clerk, mut raw) = node_and_caller(Class::Delivery).await;
    let mut pairs = Sockets::default();
    let pair = contract::pair(&mut pairs).await;
    let many = LINK_REQUESTS_MAX as u64 + 100;
    let all: Vec<Frame> = (1..=many).map(|id| request(id, b"w")).collect();
    raw.send(&all).await;
    // It keeps no window, so it is not read beyond one; but it is told that the node lives.
    let until = tokio::time::Instant::from(crate::clock::now()) + Duration::from_millis(4_500);
    let mut alive = 0;
    while let Ok(frame) = tokio::time::timeout_at(until, raw.next()).await {
        assert_eq!(frame.kind, Kind::Alive);
        raw.send(&[Frame::alive()]).await;
        alive += 1;
    }
    assert!(alive >= 3, "{alive} signs of life");
    assert_eq!(clerk.waiting.load(Ordering::SeqCst), LINK_REQUESTS_MAX);
    clerk.gate.add_permits(all.len());
    for _ in &all {
        assert_eq!(raw.next_answer().await.kind, Kind::Answer);
    }
    for network in [&pair.one, &pair.two] {
        assert!(network.links().iter().all(|link| link.connected && link.connects == 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_then_the_node_stops_reading() {
    let (_sockets, clerk, mut raw) = node_and_caller(Class::Delivery).await;
    let body = vec![b'e'; 1 << 20];
    let mut sent = 0_u64;
    // The kernel takes some on both ways, the node a window of answers, and then nothing moves.
    let send = async {
        loop {
            raw.send(&[request(sent + 1, &body)]).await;
            sent += 1;
        }
    };
    let never = tokio::time::timeout(Duration::from_secs(2), send).await;
    assert!(never.is_err(), "everything was taken");
    let served = clerk.bodies(Class::Delivery).len();
    let kernel_bytes_max = 16 << 20;
    assert!(served << 20 <= LINK_BYTES_MAX + kernel_bytes_max, "{served} requests were served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_small_frames_mixed_then_bodies_arrive_whole() {
    let mut sockets = Sockets::default();
    let Pair { one, two, .. } = contract::pair(&mut sockets).await;
    let _two = two;
    let bodies: Vec<Bytes> = (0..200_usize)
        .map(|number| {
            let bytes = [0, 1, 30, 4_096, 4_097, 70_000, 300_000][number % 7];
            let fill = u8::try_from(number % 90).unwrap();
            Bytes::from(vec![fill; bytes])
        })
        .collect();
    let asked = bodies.iter().map(|body| {
        let body = if body.first() == Some(&b'f') { Bytes::new() } else { body.clone() };
        one.request(TWO, Class::Delivery, Desk::Server, body, LONG)
    });
    let asked: Vec<_> = asked.collect();
    let answers = join_all(asked).await;
    assert!(answers.into_iter().map(Result::unwrap).eq(bodies));
}

#[tokio::test]
async fn newer_connection_of_a_class_then_the_older_is_closed_first() {
    let (sockets, clerk, mut old) = node_and_caller(Class::Control).await;
    old.send(&[request(1, b"old")]).await;
    old.next_answer().await;
    let purpose = Purpose::Link(Class::Control);
    let mut new = Raw::call(&sockets.address(TWO), &old.identity, purpose).await.unwrap();
    new.send(&[request(1, b"new")]).await;
    new.next_answer().await;
    old.wait_until_closed().await;
    assert_eq!(clerk.bodies(Class::Control), ["old", "new"]);
}

#[tokio::test]
async fn seat_of_a_newer_connection_then_its_turn_comes_when_the_older_has_ended() {
    let registry = Arc::new(Registry::default());
    let old = registry.sit(ONE, [1; 16], Class::Control).unwrap();
    let turn = old.turn().await;
    let new = registry.sit(ONE, [1; 16], Class::Control).unwrap();
    old.replaced.notified().await;
    assert!(new.turn().now_or_never().is_none());
    // The older leaves without taking the newer's place along.
    drop((turn, old));
    let _turn = new.turn().await;
    assert!(registry.check(ONE, [2; 16]).is_err());
    drop(new);
    assert!(registry.check(ONE, [2; 16]).is_ok());
}

#[tokio::test]
async fn stopped_network_then_nothing_of_it_is_left() {
    let mut sockets = Sockets::default();
    let Pair { one, two, clerk } = contract::pair(&mut sockets).await;
    let waits = one.request(TWO, Class::Control, Desk::Server, Bytes::from_static(b"w"), LONG);
    wait_until("served", || clerk.waiting.load(Ordering::SeqCst) == 1).await;
    one.stop();
    assert_eq!(waits.await, Err(LinkError::Lost));
    let asked = one.request(TWO, Class::Control, Desk::Server, Bytes::new(), LONG);
    assert_eq!(asked.await, Err(LinkError::Unreachable));
    wait_until("the peer has noticed", || !state(&*two, Class::Control).connected).await;
    let address = sockets.address(ONE);
    wait_until("the port is free", || std::net::TcpListener::bind(&address).is_ok()).await;
}
