//! Bad input, floods, and neighbours that do not answer.

use std::time::Duration;

use bytes::BytesMut;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    bench::{Bench, connect_v5, delivery, durable_v5, id, offer, options_of, settle, will},
    remote::{Remote, write_publish},
};
use crate::{
    front::mqtt::client::{Client, FromServer},
    limits,
    model::{
        message::Qos,
        reason::Reason,
        session::admission::Offer,
        wire::{AckKind, Connect, Delivery},
    },
};

const Q1: Qos = Qos::AtLeastOnce;
const Q2: Qos = Qos::ExactlyOnce;

/// A run of packets that a client may send, some of them wrong for the moment.
fn script(random: &mut StdRng) -> BytesMut {
    let mut out = BytesMut::new();
    let codec = Client::V5;
    for _ in 0..random.random_range(1..12) {
        let packet_id = id(random.random_range(1..4));
        match random.random_range(0..9) {
            0 => write_publish(codec, &delivery("a", Q1, b"x"), Some(packet_id), &mut out),
            1 => write_publish(codec, &delivery("a", Q2, b"x"), Some(packet_id), &mut out),
            2 => write_publish(codec, &delivery("a", Qos::AtMostOnce, b"x"), None, &mut out),
            3 => codec.encode_subscribe(packet_id, None, [("a", options_of(Q2))], &mut out),
            4 => codec.encode_unsubscribe(packet_id, ["a"], &mut out),
            5 => codec.encode_ping(&mut out),
            kind => {
                let kinds = [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp];
                let kind = kinds[(kind + usize::from(packet_id.get())) % 4];
                let ack = crate::model::wire::Ack { kind, packet_id, reason: Reason::Success };
                codec.encode_ack(ack, &mut out);
            }
        }
    }
    out
}

/// Has publishes to `a` wait for the shard.
async fn stored(bench: &Bench) -> Remote {
    let (mut receiver, _) = bench.durable("receiver").await;
    receiver.subscribe("a", Q1).await;
    receiver
}

#[actix::test]
async fn any_packets_cut_and_spoilt_anywhere_then_others_are_served_and_nothing_panics() {
    let bench = Bench::new();
    let mut healthy = bench.client("healthy").await;
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let client_id = format!("c{}", seed % 5);
        let connect = match seed % 3 {
            0 => connect_v5(&client_id),
            1 => Connect { will: will("w", b"x"), ..durable_v5(&client_id) },
            _ => durable_v5(&client_id),
        };
        let remote = bench.open(Client::V5);
        let mut bytes = BytesMut::new();
        Client::V5.encode_connect(&connect, &mut bytes);
        bytes.extend_from_slice(&script(&mut random));
        if random.random_bool(0.5) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        for piece in bytes.chunks(random.random_range(1..200)) {
            remote.peer.send(piece);
            tokio::task::yield_now().await;
        }
        if random.random_bool(0.3) {
            settle().await;
        }
        remote.peer.close();
    }
    healthy.expect_silence().await;
    drop(healthy);
    settle().await;
    assert_eq!(bench.worker.counters().panics.get(), 0);
    for n in 0..5 {
        bench.durable(&format!("c{n}")).await;
    }
}

#[actix::test]
async fn connections_when_gone_then_all_places_are_free() {
    let bench = Bench::new();
    for seed in 0..50 {
        let remote = bench.open(Client::V5);
        if seed % 2 == 0 {
            remote.send(|codec, out| codec.encode_connect(&durable_v5("same"), out));
        }
        tokio::task::yield_now().await;
        remote.peer.close();
    }
    for _ in 0..200 {
        if bench.worker.counters().connections.get() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} connections are left", bench.worker.counters().connections.get());
}

#[actix::test]
async fn unfinished_bytes_over_the_limit_then_reading_stops_and_after_5_s_told() {
    let bench = Bench::new();
    let connect = Connect { keep_alive_secs: 1, ..connect_v5("c") };
    let (mut remote, _) = bench.connect(Client::V5, &connect).await;
    let _receiver = stored(&bench).await;
    bench.storage.hang(true);
    let large = Delivery { payload: &[b'x'; 40_000], ..delivery("a", Q1, b"") };
    remote.publish(&large);
    remote.publish(&large);
    settle().await;
    stall(&bench, &mut remote).await;
    remote.expect_end(Some(Reason::QuotaExceeded)).await;
}

const STALL_SECS: u32 = 5;
const _: () = assert!(STALL_SECS as u64 == limits::STALL_WAIT.as_secs());

/// Lets the worker's clock go on, second by second.
async fn pass(bench: &Bench, secs: u32) {
    for _ in 0..secs {
        bench.worker.tick(bench.worker.now() + 1);
        settle().await;
    }
}

/// Nothing is read any more, so keep alive has to stand still until the time of the stall is over.
async fn stall(bench: &Bench, remote: &mut Remote) {
    remote.send(|codec, out| codec.encode_ping(out));
    pass(bench, STALL_SECS).await;
    assert_eq!(remote.maybe_receive().await, None);
    assert!(!remote.peer.is_closed());
    pass(bench, 2).await;
}

/// A message to be retained is routed once that is committed: until then the batch is not taken.
#[actix::test]
async fn batch_that_is_not_taken_then_reading_stops_and_after_5_s_told() {
    let bench = Bench::new();
    for codec in [Client::V5, Client::V4] {
        let connect = Connect { keep_alive_secs: 1, ..connect_v5("c") };
        let (mut remote, _) = bench.connect(codec, &connect).await;
        bench.storage.hang(true);
        let retained = Delivery { retain: true, ..delivery("a", Qos::AtMostOnce, b"x") };
        remote.publish(&retained);
        settle().await;
        stall(&bench, &mut remote).await;
        if codec == Client::V5 {
            remote.expect_end(Some(Reason::QuotaExceeded)).await;
        } else {
            assert_eq!(remote.until_closed().await, None);
        }
        bench.storage.hang(false);
    }
}

/// Each stall has its own five seconds, also where the look at an earlier one is still planned.
#[actix::test]
async fn stalls_one_after_the_other_then_each_is_ended_in_time() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    let retained = Delivery { retain: true, ..delivery("a", Q1, b"x") };
    let large = Delivery { payload: &[b'x'; 90_000], ..delivery("a", Q1, b"") };
    let _receiver = stored(&bench).await;
    for _ in 0..4 {
        for stall in [&retained, &large] {
            bench.storage.hang(true);
            let packet_id = remote.publish(stall).unwrap();
            settle().await;
            pass(&bench, STALL_SECS - 1).await;
            assert!(!remote.peer.is_closed());
            bench.storage.hang(false);
            remote.expect_ack(AckKind::Puback, packet_id, Reason::Success).await;
        }
    }
    // The look at the last one comes two seconds after this one began.
    bench.storage.hang(true);
    remote.publish(&retained);
    settle().await;
    pass(&bench, STALL_SECS).await;
    assert!(!remote.peer.is_closed());
    pass(&bench, 2).await;
    remote.expect_end(Some(Reason::QuotaExceeded)).await;
}

#[actix::test]
async fn unfinished_bytes_when_the_shard_answers_again_then_reading_goes_on() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    let _receiver = stored(&bench).await;
    bench.storage.hang(true);
    let large = Delivery { payload: &[b'x'; 40_000], ..delivery("a", Q1, b"") };
    let ids = [remote.publish(&large).unwrap(), remote.publish(&large).unwrap()];
    settle().await;
    remote.send(|codec, out| codec.encode_ping(out));
    bench.storage.hang(false);
    for packet_id in ids {
        remote.expect_ack(AckKind::Puback, packet_id, Reason::Success).await;
    }
    assert_eq!(remote.receive().await, FromServer::Pong);
}

#[actix::test]
async fn v4_unfinished_over_64_then_reading_stops_until_acks_go_out() {
    let bench = Bench::with_offer(Offer { receive_maximum: id(10), ..offer() });
    let (mut remote, _) = bench.connect(Client::V4, &super::bench::connect_v4("c")).await;
    let _receiver = stored(&bench).await;
    bench.storage.hang(true);
    remote.send(|codec, out| {
        for n in 1..=200 {
            write_publish(codec, &delivery("a", Q1, b"x"), Some(id(n)), out);
        }
    });
    settle().await;
    bench.storage.hang(false);
    for n in 1..=200 {
        remote.expect_ack(AckKind::Puback, id(n), Reason::Success).await;
    }
}

#[actix::test]
async fn connect_when_the_shard_hangs_and_the_client_leaves_then_the_session_is_given_back() {
    let bench = Bench::new();
    bench.storage.hang(true);
    let remote = bench.open(Client::V5);
    remote.send(|codec, out| codec.encode_connect(&durable_v5("c"), out));
    settle().await;
    remote.peer.close();
    settle().await;
    bench.storage.hang(false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bench.storage.commands(), ["claim", "release"]);
}

#[actix::test]
async fn pings_without_reading_answers_then_output_is_bounded() {
    let bench = Bench::new();
    let remote = bench.client("c").await;
    // The socket takes 1 MiB; the outbox 4 MiB more; then nothing is read.
    let pings = [0xc0, 0].repeat(1 << 20);
    for _ in 0..8 {
        remote.peer.send(&pings);
        settle().await;
    }
    let link = bench.worker.counters().bytes_in.get();
    assert!(link < 7 << 20, "{link} bytes were read");
}
