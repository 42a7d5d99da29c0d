//! Wills of sessions without storage: the shard holds the will, and nothing else.

use super::{
    bench::{Bench, connect_v4, connect_v5, delivery, settle, will},
    remote::Remote,
};
use crate::{
    actors::{appender::SubmitError, hub::Drain},
    front::mqtt::client::Client,
    model::{
        message::Qos,
        reason::Reason,
        wire::{Connect, SubackCode},
    },
};

async fn watcher(bench: &Bench) -> Remote {
    let mut watcher = bench.client("watcher").await;
    watcher.subscribe("will/#", Qos::AtLeastOnce).await;
    watcher
}

async fn willing(bench: &Bench, codec: Client) -> Remote {
    let will = will("will/c", b"gone");
    let connect = match codec {
        Client::V4 => Connect { will, ..connect_v4("c") },
        Client::V5 => Connect { will, ..connect_v5("c") },
    };
    bench.connect(codec, &connect).await.0
}

#[actix::test]
async fn will_when_the_socket_breaks_then_published_with_its_qos() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let remote = willing(&bench, Client::V4).await;
    watcher.expect_silence().await;
    remote.peer.close();
    let got = watcher.got().await;
    assert_eq!((got.payload, got.qos), (b"gone".to_vec(), Qos::AtLeastOnce));
}

#[actix::test]
async fn client_with_a_will_and_without_a_session_stores_nothing_but_the_will() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    for codec in [Client::V4, Client::V5] {
        bench.storage.commands();
        let mut remote = willing(&bench, codec).await;
        remote.subscribe("a", Qos::AtLeastOnce).await;
        let mut from = bench.client("from").await;
        from.publish(&delivery("a", Qos::AtLeastOnce, b"1"));
        assert_eq!(remote.take().await.payload, b"1", "live");
        bench.cut(remote).await;
        assert_eq!(watcher.take().await.payload, b"gone");
        assert_eq!(bench.storage.commands(), ["claim", "release"]);
        assert_eq!(bench.storage.depth(bench.key("c")), None);
    }
}

#[actix::test]
async fn will_when_the_node_drains_then_committed_before_it_is_done() {
    let bench = Bench::new();
    let _remote = willing(&bench, Client::V4).await;
    bench.storage.commands();
    bench.drain().await;
    assert_eq!(bench.storage.commands(), ["release"]);
}

#[actix::test]
async fn will_that_cannot_be_stored_then_not_let_in() {
    let bench = Bench::new();
    bench.storage.refuse(Some(SubmitError::DiskFull));
    let connect = Connect { will: will("will/c", b"gone"), ..connect_v5("c") };
    let (_remote, connack) = bench.connect(Client::V5, &connect).await;
    assert_eq!(connack.reason, Reason::ServerUnavailable);
    // Who wants nothing stored is.
    let _other = bench.client("other").await;
}

#[actix::test]
async fn client_with_a_will_whose_node_was_taken_for_dead_ends_and_others_stay() {
    let bench = Bench::new();
    let mut other = bench.client("other").await;
    let mut remote = willing(&bench, Client::V5).await;
    let drain = Drain { reason: Reason::ServerBusy, elsewhere: Vec::new(), durable_only: true };
    bench.hub.send(drain).await.unwrap();
    remote.expect_end(Some(Reason::ServerBusy)).await;
    let granted = SubackCode::Granted(Qos::AtMostOnce);
    assert_eq!(other.subscribe("a", Qos::AtMostOnce).await, granted);
}

#[actix::test]
async fn will_when_disconnected_normally_then_dropped() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    for codec in [Client::V4, Client::V5] {
        let remote = willing(&bench, codec).await;
        remote.disconnect(Reason::Success, None);
        remote.peer.close();
        settle().await;
        watcher.expect_silence().await;
    }
}

#[actix::test]
async fn will_when_asked_for_in_disconnect_then_published() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let remote = willing(&bench, Client::V5).await;
    remote.disconnect(Reason::DisconnectWithWill, None);
    assert_eq!(watcher.got().await.payload, b"gone");
}

#[actix::test]
async fn will_when_taken_over_malformed_or_silent_then_published() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let mut old = willing(&bench, Client::V5).await;
    let _new = bench.client("c").await;
    old.expect_end(Some(Reason::SessionTakenOver)).await;
    assert_eq!(watcher.got().await.payload, b"gone");

    let remote = willing(&bench, Client::V5).await;
    remote.peer.send(&[0xff, 0xff]);
    assert_eq!(watcher.got().await.payload, b"gone");

    let connect = Connect { will: will("will/c", b"late"), keep_alive_secs: 1, ..connect_v5("c") };
    let (_remote, _) = bench.connect(Client::V5, &connect).await;
    bench.worker.tick(bench.worker.now() + 5);
    assert_eq!(watcher.got().await.payload, b"late");
}

#[actix::test]
async fn will_with_wrong_expiry_in_disconnect_then_published() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let mut remote = willing(&bench, Client::V5).await;
    remote.disconnect(Reason::Success, Some(60));
    remote.expect_end(Some(Reason::ProtocolError)).await;
    assert_eq!(watcher.got().await.payload, b"gone");
}

#[actix::test]
async fn will_of_a_refused_connect_then_never_published() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let connect = Connect {
        will: will("will/c", b"gone"),
        authentication_method: Some("x".into()),
        ..connect_v5("c")
    };
    let (mut remote, _) = bench.connect(Client::V5, &connect).await;
    assert_eq!(remote.until_closed().await, None);
    watcher.expect_silence().await;
}
