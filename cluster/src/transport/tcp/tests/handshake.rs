//! Who is let in, who is not, and what both sides say about it.

use tokio::net::{TcpListener, TcpStream};

use super::{
    super::hello::{Digest, Message, PREFIX_BYTES, Party, Refusal, Side},
    *,
};
use crate::limits::LINK_GREETING_TIME;

/// Two nodes of which the first calls the second; returns how its link does after it was tried.
async fn outcome(one: Identity, two: Identity, clusters: [Option<ClusterId>; 2]) -> LinkState {
    let two_id = two.node;
    let (one, two) = (TcpNetwork::bind("127.0.0.1:0", one), TcpNetwork::bind("127.0.0.1:0", two));
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    for (network, cluster) in [(&one, clusters[0]), (&two, clusters[1])] {
        network.set_service(Arc::new(Clerk::default()));
        if let Some(cluster) = cluster {
            network.set_cluster(cluster);
        }
    }
    one.set_peers(BTreeMap::from([(two_id, two.listens().to_string())]));
    let link = || state(&*one, Class::Control);
    wait_until("tried", || link().connected || link().last_error.is_some()).await;
    link()
}

const OURS: [Option<ClusterId>; 2] = [Some(CLUSTER), Some(CLUSTER)];

#[tokio::test]
async fn strangers_of_every_kind_then_refused_with_a_reason_that_helps() {
    let other_secret = Identity { secret: Secret::new(b"another one"), ..identity(ONE) };
    let newer = Identity { versions: (2, 3), ..identity(TWO) };
    let older = Identity { versions: (1, 1), ..identity(TWO) };
    let far_newer = Identity { versions: (2, 2), ..identity(ONE) };
    let twin = Identity { instance: rand::random(), ..identity(ONE) };
    let other = [Some(CLUSTER), Some([8; 16])];
    for (one, two, clusters, reason) in [
        (other_secret, identity(TWO), OURS, "it has another secret"),
        (identity(ONE), identity(TWO), other, "it belongs to another cluster"),
        (identity(ONE), identity(TWO), [Some(CLUSTER), None], "it belongs to no cluster yet"),
        (identity(ONE), newer, OURS, "it speaks protocol versions 2 to 3 only"),
        (far_newer, older, OURS, "it speaks protocol versions 1 to 1 only"),
    ] {
        let link = outcome(one, two, clusters).await;
        let error = link.last_error.unwrap_or_default();
        assert!(error.starts_with(&format!("refused: {reason}")), "{error}");
        assert!(!link.connected);
    }
    // What the other process says that has this node's id.
    let called = Raw::call(&fake_of(twin.clone()).await, &identity(ONE), Purpose::Knock).await;
    assert_eq!(called.err().unwrap().to_string(), Refusal::NodeTaken(ONE).to_string());
}

/// A served node; it lives as long as the test's runtime.
async fn fake_of(identity: Identity) -> String {
    let network = TcpNetwork::bind("127.0.0.1:0", identity).await.unwrap();
    network.set_service(Arc::new(Clerk::default()));
    network.set_cluster(CLUSTER);
    let address = network.listens().to_string();
    std::mem::forget(network);
    address
}

#[tokio::test]
async fn bumped_version_then_talks_to_this_one_and_to_itself() {
    let bumped = |node| Identity { versions: (1, 2), ..identity(node) };
    for (one, two, version) in [
        (identity(ONE), bumped(TWO), 1),
        (bumped(ONE), identity(TWO), 1),
        (bumped(ONE), bumped(TWO), 2),
        (Identity { versions: VERSIONS, ..identity(ONE) }, identity(TWO), 1),
    ] {
        let link = outcome(one, two, OURS).await;
        assert!(link.connected, "{link:?}");
        assert_eq!(link.version, version);
    }
}

#[tokio::test]
async fn node_at_the_address_of_another_then_both_are_named() {
    let address = fake_of(identity(NodeId(5))).await;
    let one = TcpNetwork::bind("127.0.0.1:0", identity(ONE)).await.unwrap();
    one.set_cluster(CLUSTER);
    one.set_peers(BTreeMap::from([(TWO, address)]));
    wait_until("refused", || state(&*one, Class::Control).last_error.is_some()).await;
    let error = state(&*one, Class::Control).last_error.unwrap();
    assert!(error.starts_with("refused: it is node 5"), "{error}");
}

#[tokio::test]
async fn node_id_used_twice_then_the_first_stays_until_it_is_gone() {
    let mut sockets = Sockets::default();
    let pair = contract::pair(&mut sockets).await;
    let double = TcpNetwork::bind("127.0.0.1:0", identity(TWO)).await.unwrap();
    double.set_cluster(CLUSTER);
    double.set_service(Arc::new(Clerk::default()));
    double.set_peers(BTreeMap::from([(ONE, sockets.address(ONE))]));
    let link = || state(&*double, Class::Control);
    wait_until("refused", || link().last_error.is_some()).await;
    let error = link().last_error.unwrap();
    assert!(error.starts_with("refused: node id 2 is used by another running process"), "{error}");
    let asked = pair.two.request(ONE, Class::Control, Desk::Server, Bytes::new(), LONG).await;
    assert_eq!(asked, Ok(Bytes::new()));
    let knocked = double.knock(sockets.address(ONE), Bytes::new(), LONG).await;
    assert!(matches!(knocked, Err(LinkError::Denied(why)) if why.contains("node id 2")));
    sockets.kill(TWO).await;
    wait_until("let in", || double.links().iter().all(|link| link.connected)).await;
}

#[tokio::test]
async fn knock_at_oneself_or_with_another_secret_then_refused_with_the_reason() {
    let mut sockets = Sockets::default();
    let pair = contract::pair(&mut sockets).await;
    let own = pair.two.knock(sockets.address(TWO), Bytes::new(), LONG).await;
    assert_eq!(own, Err(LinkError::NoCluster));
    let other = Identity { secret: Secret::new(b"another"), ..identity(NodeId(3)) };
    let stranger = TcpNetwork::bind("127.0.0.1:0", other).await.unwrap();
    let knocked = stranger.knock(sockets.address(TWO), Bytes::new(), LONG).await;
    assert!(
        matches!(&knocked, Err(LinkError::Denied(why)) if why.contains("another secret")),
        "{knocked:?}"
    );
    let nobody = stranger.knock("127.0.0.1:1".into(), Bytes::new(), LONG).await;
    assert_eq!(nobody, Err(LinkError::Unreachable));
}

#[tokio::test]
async fn stranger_then_reaches_no_desk_but_that_of_members() {
    let (sockets, clerk, _) = node_and_caller(Class::Delivery).await;
    let address = sockets.address(TWO);
    let three = identity(NodeId(3));
    let mut raw = Raw::call(&address, &three, Purpose::Knock).await.unwrap();
    raw.send(&[request(1, b"server"), Frame { desk: Desk::Member as u8, ..request(2, b"me") }])
        .await;
    assert_eq!(raw.next_answer().await.kind, Kind::Refusal);
    assert_eq!(raw.next_answer().await.body, "me");
    raw.send(&[Frame { kind: Kind::Cast, ..request(0, b"cast") }]).await;
    raw.wait_until_closed().await;
    assert_eq!(clerk.bodies(Class::Control), ["me"]);
}

async fn read_message(socket: &mut TcpStream) -> (Vec<u8>, Message) {
    let mut prefix = [0; PREFIX_BYTES];
    socket.read_exact(&mut prefix).await.unwrap();
    let mut rest = vec![0; hello::rest_bytes(&prefix).unwrap()];
    socket.read_exact(&mut rest).await.unwrap();
    let message = Message::decode(&rest).unwrap();
    ([prefix.as_slice(), &rest].concat(), message)
}

#[tokio::test]
async fn handshake_that_is_replayed_then_refused() {
    let (sockets, ..) = node_and_caller(Class::Delivery).await;
    let address = sockets.address(TWO);
    // Somebody between caller and listener writes down what the caller says.
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = TcpNetwork::bind("127.0.0.1:0", identity(NodeId(3))).await.unwrap();
    one.set_cluster(CLUSTER);
    one.set_peers(BTreeMap::from([(TWO, between.local_addr().unwrap().to_string())]));
    let (mut caller, _) = between.accept().await.unwrap();
    let mut listener = TcpStream::connect(&address).await.unwrap();
    let (hello, _) = read_message(&mut caller).await;
    listener.write_all(&hello).await.unwrap();
    let (greeting, _) = read_message(&mut listener).await;
    caller.write_all(&greeting).await.unwrap();
    let (proof, _) = read_message(&mut caller).await;
    listener.write_all(&proof).await.unwrap();
    let (_, welcome) = read_message(&mut listener).await;
    assert!(matches!(welcome, Message::Welcome(_)), "the original was let in");
    one.stop();

    let mut replay = TcpStream::connect(&address).await.unwrap();
    replay.write_all(&[hello, proof].concat()).await.unwrap();
    let (again, message) = read_message(&mut replay).await;
    assert!(matches!(message, Message::Greeting(_)) && again != greeting);
    let (_, message) = read_message(&mut replay).await;
    assert_eq!(message, Message::Refused(Refusal::Secret));
}

#[tokio::test]
async fn listener_that_reflects_the_proof_then_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = TcpNetwork::bind("127.0.0.1:0", identity(ONE)).await.unwrap();
    one.set_cluster(CLUSTER);
    one.set_peers(BTreeMap::from([(TWO, listener.local_addr().unwrap().to_string())]));
    let (mut caller, _) = listener.accept().await.unwrap();
    let (_, message) = read_message(&mut caller).await;
    let Message::Hello { party, .. } = message else { panic!("{message:?}") };
    // Even with the caller's own nonce.
    let greeting = Message::Greeting(Party { node: TWO, ..party });
    caller.write_all(&greeting.encode()).await.unwrap();
    let (_, message) = read_message(&mut caller).await;
    let Message::Proof(proof) = message else { panic!("{message:?}") };
    caller.write_all(&Message::Welcome(proof).encode()).await.unwrap();
    raw::wait_until_closed(&mut caller).await;
    wait_until("it says why", || {
        let links = one.links();
        links.iter().any(|link| {
            let error = link.last_error.as_deref().unwrap_or_default();
            error == "refused: it does not know the secret of the cluster"
        })
    })
    .await;
    assert!(one.links().iter().all(|link| !link.connected));
}

#[tokio::test]
async fn proof_for_another_class_then_refused() {
    let (sockets, ..) = node_and_caller(Class::Delivery).await;
    let us = identity(ONE);
    let mut socket = TcpStream::connect(sockets.address(TWO)).await.unwrap();
    let nonce: Digest = rand::random();
    let party = Party {
        versions: (1, 1),
        cluster: CLUSTER,
        node: ONE,
        incarnation: 1,
        instance: us.instance,
        nonce,
    };
    let hello = |class| Message::Hello { purpose: Purpose::Link(class), to: Some(TWO), party };
    socket.write_all(&hello(Class::Consensus).encode()).await.unwrap();
    let (greeting, _) = read_message(&mut socket).await;
    let proof = us.secret.proof(Side::Caller, &hello(Class::Control).encode(), &greeting);
    socket.write_all(&Message::Proof(proof).encode()).await.unwrap();
    assert_eq!(read_message(&mut socket).await.1, Message::Refused(Refusal::Secret));
}

#[tokio::test]
async fn slow_handshakes_then_closed_in_time_and_nobody_is_kept_out() {
    let (sockets, ..) = node_and_caller(Class::Delivery).await;
    let address = sockets.address(TWO);
    let started = crate::clock::now();
    let mut slow = Vec::new();
    for _ in 0..80 {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(b"hong").await.unwrap();
        slow.push(socket);
    }
    let three = identity(NodeId(3));
    Raw::call(&address, &three, Purpose::Link(Class::Control)).await.unwrap();
    for socket in &mut slow {
        raw::wait_until_closed(socket).await;
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn rubbish_instead_of_a_handshake_then_closed_at_once() {
    let (sockets, ..) = node_and_caller(Class::Delivery).await;
    let mut long = b"hongqiao".to_vec();
    long.extend_from_slice(&[0xff, 0xff]);
    let welcome = Message::Welcome([0; 32]).encode();
    for rubbish in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 64], long, welcome] {
        let started = crate::clock::now();
        let mut socket = TcpStream::connect(sockets.address(TWO)).await.unwrap();
        socket.write_all(&rubbish).await.unwrap();
        raw::wait_until_closed(&mut socket).await;
        assert!(started.elapsed() < LINK_GREETING_TIME, "kept until the time-out");
    }
}
