//! What crosses reads the same; rubbish does no harm.

use super::*;
use crate::{
    actors::{
        durable_routes::DurableRoutes, groups::GroupsDesk, home::client::Duty, interest::Interests,
        relay::Arrivals, view::View,
    },
    model::reason::Reason,
};

fn desks() -> Desks {
    let tables = crate::actors::route_tables::RouteTables::new(NodeId(1));
    let spawn = Box::new(|task| drop(tokio::spawn(task)));
    Desks {
        durable_routes: Arc::new(DurableRoutes::new(1)),
        arrivals: Arrivals::new(Vec::new(), Interests::new(1), tables, spawn),
        kick: Vec::new(),
        grew: Vec::new(),
        roll: Vec::new(),
        gone: Vec::new(),
        claim: Vec::new(),
        release: Vec::new(),
        again: Vec::new(),
        groups: GroupsDesk {
            deal: Vec::new(),
            choose: Vec::new(),
            offer: Vec::new(),
            view: View::alone(NodeId(1), 1, 1),
        },
        duty: Duty::new(1),
        view: View::alone(NodeId(1), 1, 1),
    }
}

#[test]
fn request_reads_the_same_after_being_written() {
    let connection = ConnectionId::new(3, 7, 9);
    let kick = Kick { connection, reason: Reason::SessionTakenOver };
    for request in [
        PeerRequest::Kick { incarnation: 1 << 40, kick },
        PeerRequest::SessionsGrew { incarnation: 1, connections: vec![connection; 3] },
    ] {
        assert_eq!(decode(&encode(&request).unwrap()), Ok(request));
    }
}

#[tokio::test]
async fn rubbish_is_refused_and_nothing_panics() {
    let desks = desks();
    let connections = vec![ConnectionId::new(0, 0, 1)];
    let request = PeerRequest::SessionsGrew { incarnation: 1, connections };
    let whole = encode(&request).unwrap();
    let mut longer = whole.to_vec();
    longer.push(0);
    let mut newer = whole.to_vec();
    newer[0] = VERSION + 1;
    // A list that says to be longer than the message can be.
    let huge = [&[VERSION, 1, 0, 0, 0][..], &[0; 8], &u64::MAX.to_le_bytes()].concat();
    for body in [Vec::new(), vec![VERSION], longer, newer, huge, vec![0xff; 64]] {
        let served = desks.dispatch(NodeId(2), Class::Control, &Bytes::from(body)).await;
        assert!(served.is_err());
    }
    assert!(desks.dispatch(NodeId(2), Class::Control, &whole).await.is_ok());
}

#[tokio::test]
async fn node_without_peers_reaches_nobody() {
    let peers = Peers::none();
    let request = PeerRequest::CallAgain { incarnation: 1, shard: 0 };
    let asked = peers.ask(NodeId(2), Class::Control, &request, Duration::from_secs(1)).await;
    assert_eq!(asked, Err(PeerError::Unreachable));
    assert_eq!(peers.tell(NodeId(2), Class::Delivery, &request), Err(PeerError::Unreachable));
}

#[test]
#[ignore = "writes seeds for the fuzzer to the folder that SEEDS names"]
fn make_seeds() {
    let folder = std::path::PathBuf::from(std::env::var("SEEDS").unwrap());
    let connection = ConnectionId::new(3, 7, 9);
    let from = RollFrom { worker: 1, slot: 2 };
    let keys = vec![Bytes::from_static(b"a/+")];
    let requests = [
        PeerRequest::Kick {
            incarnation: 1,
            kick: Kick { connection, reason: Reason::SessionTakenOver },
        },
        PeerRequest::SessionsGrew { incarnation: 1, connections: vec![connection; 3] },
        PeerRequest::RollCall { incarnation: 1, shard: 2, term: 3, from },
        PeerRequest::CallAgain { incarnation: 1, shard: 2 },
        PeerRequest::GoneAmong { incarnation: 1, connections: vec![connection] },
        PeerRequest::EnsureRoutes { shard: ShardId(4), keys },
    ];
    let replies = [
        PeerReply::Released(true),
        PeerReply::Roll { connections: vec![(SessionKey(7), connection)], next: Some(from) },
        PeerReply::Gone(vec![connection; 2]),
        PeerReply::Claimed(Err(ClaimError::Busy)),
    ];
    let write = |name: String, kind: u8, body: Bytes| {
        std::fs::write(folder.join(name), [&[kind], &body[..]].concat()).unwrap();
    };
    for (at, request) in requests.iter().enumerate() {
        write(format!("request_{at}"), 0, encode(request).unwrap());
    }
    for (at, reply) in replies.iter().enumerate() {
        write(format!("reply_{at}"), 1, encode(reply).unwrap());
    }
}
