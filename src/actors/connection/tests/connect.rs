//! CONNECT, CONNACK, keep alive, takeover, the end.

use bytes::Bytes;

use super::bench::{Bench, connect_v4, connect_v5, offer, settle};
use crate::{
    actors::appender::SubmitError,
    front::mqtt::client::{Client, FromServer},
    model::{
        message::Qos,
        reason::Reason,
        session::admission::Offer,
        wire::{Auth, Connect},
    },
};

#[actix::test]
async fn connect_v5_when_clean_then_accepted_with_limits() {
    let bench = Bench::new();
    let (_remote, connack) = bench.connect(Client::V5, &connect_v5("c")).await;
    assert_eq!((connack.reason, connack.session_present), (Reason::Success, false));
    assert_eq!(connack.receive_maximum, Some(offer().receive_maximum));
    assert_eq!(connack.topic_alias_maximum, Some(4));
    assert_eq!(connack.assigned_client_id, None);
}

#[actix::test]
async fn connect_v4_when_clean_then_accepted() {
    let bench = Bench::new();
    let (_remote, connack) = bench.connect(Client::V4, &connect_v4("c")).await;
    assert_eq!((connack.reason, connack.session_present), (Reason::Success, false));
}

#[actix::test]
async fn connect_v4_when_refused_then_code_of_3_1_1_and_close() {
    let bench = Bench::new();
    let cases = [
        (Connect { clean_start: false, ..connect_v4("") }, Reason::ClientIdNotValid),
        (
            Connect {
                user_name: Some("u".into()),
                password: Some(Bytes::from_static(b"bad")),
                ..connect_v4("c")
            },
            Reason::BadUserNameOrPassword,
        ),
    ];
    for (connect, reason) in cases {
        let (mut remote, connack) = bench.connect(Client::V4, &connect).await;
        assert_eq!((connack.reason, connack.session_present), (reason, false));
        assert_eq!(remote.until_closed().await, None);
    }
}

#[actix::test]
async fn connect_v5_when_refused_then_reason_and_close() {
    let bench = Bench::new();
    let cases = [
        (
            Connect { authentication_method: Some("SCRAM".into()), ..connect_v5("c") },
            Reason::BadAuthenticationMethod,
        ),
        (
            Connect {
                user_name: Some("u".into()),
                password: Some(Bytes::from_static(b"bad")),
                ..connect_v5("c")
            },
            Reason::BadUserNameOrPassword,
        ),
        (connect_v5(&"x".repeat(65)), Reason::ClientIdNotValid),
    ];
    for (connect, reason) in cases {
        let (mut remote, connack) = bench.connect(Client::V5, &connect).await;
        assert_eq!((connack.reason, connack.session_present), (reason, false), "{connect:?}");
        assert_eq!(remote.until_closed().await, None);
    }
    assert_eq!(bench.worker.counters().connections.get(), 3, "they linger until we close");
}

#[actix::test]
async fn connect_when_password_is_checked_later_then_packets_behind_it_wait() {
    let bench = Bench::new();
    let mut remote = bench.open(Client::V5);
    let connect = Connect {
        user_name: Some("u".into()),
        password: Some(Bytes::from_static(b"later")),
        ..connect_v5("c")
    };
    remote.send(|codec, out| {
        codec.encode_connect(&connect, out);
        codec.encode_ping(out);
    });
    assert_eq!(remote.connack().await.reason, Reason::Success);
    assert_eq!(remote.receive().await, FromServer::Pong);
}

#[actix::test]
async fn connect_without_client_id_then_v5_is_told_a_fresh_one() {
    let bench = Bench::new();
    let (_a, first) = bench.connect(Client::V5, &connect_v5("")).await;
    let (_b, second) = bench.connect(Client::V5, &connect_v5("")).await;
    assert!(first.assigned_client_id.is_some());
    assert_ne!(first.assigned_client_id, second.assigned_client_id);
    let (_c, third) = bench.connect(Client::V4, &connect_v4("")).await;
    assert_eq!(third.reason, Reason::Success);
}

#[actix::test]
async fn first_packet_when_not_connect_then_close_without_a_word() {
    let bench = Bench::new();
    let mut remote = bench.open(Client::V5);
    remote.send(|codec, out| codec.encode_ping(out));
    assert_eq!(remote.until_closed().await, None);
}

#[actix::test]
async fn connect_twice_then_protocol_error() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    remote.send(|codec, out| codec.encode_connect(&connect_v5("c"), out));
    remote.expect_end(Some(Reason::ProtocolError)).await;
}

#[actix::test]
async fn garbage_after_connack_then_v5_is_told_and_v4_is_closed() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    remote.peer.send(&[0xc0, 1, 0]);
    remote.expect_end(Some(Reason::MalformedPacket)).await;
    let (mut remote, _) = bench.connect(Client::V4, &connect_v4("d")).await;
    remote.peer.send(&[0x00, 0]);
    assert_eq!(remote.until_closed().await, None);
}

#[actix::test]
async fn auth_when_no_method_was_agreed_then_protocol_error() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    let auth = Auth { reason: Reason::ContinueAuthentication, method: Some("m".into()) };
    remote.send(|codec, out| codec.encode_auth(&auth, out));
    remote.expect_end(Some(Reason::ProtocolError)).await;
}

#[actix::test]
async fn connect_timeout_when_nothing_comes_then_closed() {
    let bench = Bench::new();
    let mut silent = bench.open(Client::V5);
    let mut half = bench.open(Client::V5);
    half.peer.send(&[0x10, 100, 0, 4]);
    settle().await;
    bench.worker.tick(9);
    settle().await;
    assert!(!silent.peer.is_closed());
    bench.worker.tick(11);
    assert_eq!(silent.until_closed().await, None);
    assert_eq!(half.until_closed().await, None);
}

#[actix::test]
async fn keep_alive_when_nothing_comes_for_one_and_a_half_then_told_and_closed() {
    let bench = Bench::new();
    let connect = Connect { keep_alive_secs: 10, ..connect_v5("c") };
    let (mut remote, _) = bench.connect(Client::V5, &connect).await;
    bench.worker.tick(14);
    remote.expect_silence().await;
    bench.worker.tick(28);
    remote.expect_silence().await;
    bench.worker.tick(28 + 17);
    remote.expect_end(Some(Reason::KeepAliveTimeout)).await;
}

#[actix::test]
async fn server_keep_alive_when_client_wants_none_then_told_in_connack() {
    let bench = Bench::with_offer(Offer { keep_alive_secs_max: 30, ..offer() });
    let (_remote, connack) = bench.connect(Client::V5, &connect_v5("c")).await;
    assert_eq!(connack.server_keep_alive_secs, Some(30));
}

#[actix::test]
async fn takeover_when_same_client_id_then_old_is_told_and_new_is_served() {
    let bench = Bench::new();
    let mut old = bench.client("c").await;
    let mut other = bench.client("other").await;
    let mut new = bench.client("c").await;
    old.expect_end(Some(Reason::SessionTakenOver)).await;
    new.expect_silence().await;
    other.expect_silence().await;
    let (mut v4, _) = bench.connect(Client::V4, &connect_v4("four")).await;
    let _v5 = bench.client("four").await;
    assert_eq!(v4.until_closed().await, None, "3.1.1 has no DISCONNECT from the server");
}

#[actix::test]
async fn takeover_when_over_and_over_then_one_remains() {
    let bench = Bench::new();
    let mut last = bench.client("c").await;
    for _ in 0..20 {
        let next = bench.client("c").await;
        last.expect_end(Some(Reason::SessionTakenOver)).await;
        last.peer.close();
        last = next;
    }
    last.expect_silence().await;
}

#[actix::test]
async fn drain_then_every_client_is_told() {
    let bench = Bench::new();
    let mut remotes = Vec::new();
    for n in 0..3 {
        remotes.push(bench.client(&format!("c{n}")).await);
    }
    bench.drain().await;
    for mut remote in remotes {
        remote.expect_end(Some(Reason::ServerShuttingDown)).await;
    }
}

#[actix::test]
async fn connections_beyond_the_limit_then_closed_and_room_comes_back() {
    let bench = Bench::new();
    bench.listen(offer(), 1, 5);
    let first = bench.client("a").await;
    let second = bench.open(Client::V5);
    assert!(second.peer.is_closed());
    first.peer.close();
    settle().await;
    bench.client("b").await;
}

#[actix::test]
async fn disconnect_with_expiry_when_it_was_zero_then_protocol_error() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    remote.disconnect(Reason::Success, Some(10));
    remote.expect_end(Some(Reason::ProtocolError)).await;
    let mut remote = bench.client("c").await;
    remote.disconnect(Reason::Success, Some(0));
    remote.expect_end(None).await;
}

#[actix::test]
async fn durable_connect_when_the_shard_is_away_then_unavailable_and_clean_ones_are_served() {
    let bench = Bench::new();
    bench.storage.refuse(Some(SubmitError::Unavailable));
    let connect = Connect { session_expiry_secs: 60, ..connect_v5("c") };
    let (_, connack) = bench.connect(Client::V5, &connect).await;
    assert_eq!(connack.reason, Reason::ServerUnavailable);
    let v4 = Connect { clean_start: false, session_expiry_secs: u32::MAX, ..connect_v4("d") };
    let (_, connack) = bench.connect(Client::V4, &v4).await;
    assert_eq!(connack.reason, Reason::ServerUnavailable);
    let mut clean = bench.client("e").await;
    clean.subscribe("a", Qos::AtMostOnce).await;
}
