//! Wills of durable sessions: committed with the claim, published by the shard's upkeep.

use std::time::Duration;

use super::{
    bench::{Bench, durable_v5, will},
    remote::Remote,
};
use crate::{
    front::mqtt::client::Client,
    model::{
        message::Qos,
        reason::Reason,
        wire::{Connect, Will},
    },
};

async fn watcher(bench: &Bench) -> Remote {
    let mut watcher = bench.client("watcher").await;
    watcher.subscribe("will/#", Qos::AtLeastOnce).await;
    watcher
}

async fn willing(bench: &Bench, delay_secs: u32, expiry_secs: u32) -> Remote {
    let will = will("will/c", b"gone").map(|will| Will { delay_secs, ..will });
    let connect = Connect { will, session_expiry_secs: expiry_secs, ..durable_v5("c") };
    bench.connect(Client::V5, &connect).await.0
}

#[actix::test]
async fn will_without_delay_when_the_socket_breaks_then_published_at_once() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let remote = willing(&bench, 0, 100).await;
    bench.cut(remote).await;
    assert_eq!(watcher.take().await.payload, b"gone");
    watcher.expect_silence().await;
}

#[actix::test]
async fn will_when_disconnected_normally_then_dropped() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let remote = willing(&bench, 0, 100).await;
    remote.disconnect(Reason::Success, None);
    bench.cut(remote).await;
    watcher.expect_silence().await;
}

#[actix::test]
async fn will_with_delay_when_the_client_comes_back_then_cancelled() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let remote = willing(&bench, 1, 100).await;
    bench.cut(remote).await;
    let (back, present) = bench.durable("c").await;
    assert!(present);
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    watcher.expect_silence().await;
    drop(back);
}

#[actix::test]
async fn will_with_delay_longer_than_the_session_then_published_with_its_end() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let remote = willing(&bench, 100, 100).await;
    remote.disconnect(Reason::DisconnectWithWill, Some(0));
    bench.cut(remote).await;
    assert_eq!(watcher.take().await.payload, b"gone");
}

#[actix::test]
async fn will_with_delay_when_the_session_is_cleaned_then_published_at_once() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let remote = willing(&bench, 100, 200).await;
    bench.cut(remote).await;
    let clean = Connect { clean_start: true, ..durable_v5("c") };
    let (_remote, _) = bench.connect(Client::V5, &clean).await;
    assert_eq!(watcher.take().await.payload, b"gone");
}

#[actix::test]
async fn will_when_taken_over_then_published_at_once() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let mut old = willing(&bench, 0, 100).await;
    let (_new, _) = bench.durable("c").await;
    old.expect_end(Some(Reason::SessionTakenOver)).await;
    assert_eq!(watcher.take().await.payload, b"gone");
    watcher.expect_silence().await;
}

#[actix::test]
async fn will_of_expiry_0_on_a_resumed_session_then_published_at_once() {
    let bench = Bench::new();
    let mut watcher = watcher(&bench).await;
    let (remote, _) = bench.durable("c").await;
    bench.cut(remote).await;
    let remote = willing(&bench, 0, 0).await;
    bench.cut(remote).await;
    assert_eq!(watcher.take().await.payload, b"gone");
    watcher.expect_silence().await;
}
