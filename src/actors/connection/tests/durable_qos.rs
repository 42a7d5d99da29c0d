//! QoS 2 of durable sessions, both directions, over reconnects.

use super::{
    bench::{Bench, delivery, id, settle},
    remote::Remote,
};
use crate::{
    actors::appender::SubmitError,
    limits,
    model::{
        message::Qos,
        reason::Reason,
        wire::{AckKind, Delivery},
    },
};

const Q0: Qos = Qos::AtMostOnce;
const Q2: Qos = Qos::ExactlyOnce;

async fn receiver(bench: &Bench) -> Remote {
    let (mut receiver, _) = bench.durable("r").await;
    receiver.subscribe("a", Q2).await;
    receiver
}

/// Publishes one message at QoS 2, all four steps.
async fn publish(sender: &mut Remote, payload: &'static [u8]) {
    let packet_id = sender.publish(&delivery("a", Q2, payload)).unwrap();
    sender.expect_ack(AckKind::Pubrec, packet_id, Reason::Success).await;
    sender.ack(AckKind::Pubrel, packet_id, Reason::Success);
    sender.expect_ack(AckKind::Pubcomp, packet_id, Reason::Success).await;
}

#[actix::test]
async fn qos2_out_then_each_step_is_committed_before_its_packet() {
    let bench = Bench::new();
    let mut receiver = receiver(&bench).await;
    let mut sender = bench.client("s").await;
    bench.storage.commands();
    publish(&mut sender, b"1").await;
    let packet_id = receiver.got().await.packet_id.unwrap();
    assert_eq!(bench.storage.commands(), ["append", "out publish"]);
    receiver.ack(AckKind::Pubrec, packet_id, Reason::Success);
    receiver.expect_ack(AckKind::Pubrel, packet_id, Reason::Success).await;
    assert_eq!(bench.storage.commands(), ["out received"]);
    receiver.ack(AckKind::Pubcomp, packet_id, Reason::Success);
    settle().await;
    assert_eq!(bench.storage.commands(), ["out completed"]);
    bench.cut(receiver).await;
    let (mut receiver, _) = bench.durable("r").await;
    receiver.expect_silence().await;
}

#[actix::test]
async fn qos2_out_when_cut_before_pubrec_then_resent_with_dup_and_same_id() {
    let bench = Bench::new();
    let mut receiver = receiver(&bench).await;
    let mut sender = bench.client("s").await;
    publish(&mut sender, b"1").await;
    let first = receiver.got().await;
    bench.cut(receiver).await;
    let (mut receiver, _) = bench.durable("r").await;
    let again = receiver.got().await;
    assert_eq!((again.packet_id, again.dup), (first.packet_id, true));
    let packet_id = again.packet_id.unwrap();
    receiver.ack(AckKind::Pubrec, packet_id, Reason::Success);
    receiver.expect_ack(AckKind::Pubrel, packet_id, Reason::Success).await;
    bench.cut(receiver).await;
    let (mut receiver, _) = bench.durable("r").await;
    receiver.expect_ack(AckKind::Pubrel, packet_id, Reason::Success).await;
    publish(&mut sender, b"2").await;
    let next = receiver.got().await;
    assert_eq!((&next.payload[..], next.dup), (&b"2"[..], false));
    assert_ne!(next.packet_id, Some(packet_id), "its PUBCOMP has not come");
    receiver.ack(AckKind::Pubcomp, packet_id, Reason::Success);
    receiver.expect_silence().await;
}

#[actix::test]
async fn qos2_out_when_refused_by_pubrec_then_done() {
    let bench = Bench::new();
    let mut receiver = receiver(&bench).await;
    let mut sender = bench.client("s").await;
    publish(&mut sender, b"1").await;
    let packet_id = receiver.got().await.packet_id.unwrap();
    receiver.ack(AckKind::Pubrec, packet_id, Reason::QuotaExceeded);
    bench.cut(receiver).await;
    let (mut receiver, _) = bench.durable("r").await;
    receiver.expect_silence().await;
}

#[actix::test]
async fn qos2_out_unknown_ids_then_answered() {
    let bench = Bench::new();
    let mut receiver = receiver(&bench).await;
    receiver.ack(AckKind::Pubrec, id(9), Reason::Success);
    receiver.expect_ack(AckKind::Pubrel, id(9), Reason::PacketIdNotFound).await;
    receiver.ack(AckKind::Pubcomp, id(9), Reason::Success);
    receiver.ack(AckKind::Puback, id(9), Reason::Success);
    receiver.expect_silence().await;
}

#[actix::test]
async fn qos2_out_when_ids_cannot_be_written_then_sent_once_they_are() {
    let bench = Bench::new();
    let mut receiver = receiver(&bench).await;
    let mut sender = bench.client("s").await;
    publish(&mut sender, b"1").await;
    let first = receiver.got().await.packet_id.unwrap();
    bench.cut(receiver).await;
    publish(&mut sender, b"2").await;
    let (mut receiver, _) = bench.durable("r").await;
    assert_eq!(receiver.got().await.packet_id, Some(first));
    assert_eq!(receiver.got().await.payload, b"2");
    bench.storage.refuse(Some(SubmitError::Unavailable));
    receiver.ack(AckKind::Pubrec, first, Reason::Success);
    receiver.expect_end(Some(Reason::ServerBusy)).await;
    bench.storage.refuse(None);
}

#[actix::test]
async fn qos2_in_when_resent_on_a_new_connection_then_delivered_once() {
    let bench = Bench::new();
    let mut receiver = receiver(&bench).await;
    let mut live = bench.client("l").await;
    live.subscribe("a", Q0).await;
    let (sender, _) = bench.durable("s").await;
    let message = delivery("a", Q2, b"1");
    sender.publish_as(&message, Some(id(5)));
    live.got().await;
    // PUBREC was on its way when the connection broke.
    bench.cut(sender).await;
    let (mut sender, _) = bench.durable("s").await;
    sender.publish_as(&Delivery { dup: true, ..message }, Some(id(5)));
    sender.expect_ack(AckKind::Pubrec, id(5), Reason::Success).await;
    sender.ack(AckKind::Pubrel, id(5), Reason::Success);
    sender.expect_ack(AckKind::Pubcomp, id(5), Reason::Success).await;
    receiver.got().await;
    receiver.expect_silence().await;
    live.expect_silence().await;
    sender.publish_as(&message, Some(id(5)));
    sender.expect_ack(AckKind::Pubrec, id(5), Reason::Success).await;
    receiver.got().await;
    live.got().await;
}

#[actix::test]
async fn qos2_in_when_cut_while_its_id_is_written_then_live_receivers_get_it_once() {
    let bench = Bench::new();
    let mut live = bench.client("l").await;
    live.subscribe("a", Q0).await;
    let (sender, _) = bench.durable("s").await;
    bench.storage.hang(true);
    sender.publish_as(&delivery("a", Q2, b"1"), Some(id(5)));
    settle().await;
    sender.peer.close();
    settle().await;
    bench.storage.hang(false);
    live.got().await;
    let (mut sender, _) = bench.durable("s").await;
    sender.publish_as(&Delivery { dup: true, ..delivery("a", Q2, b"1") }, Some(id(5)));
    sender.expect_ack(AckKind::Pubrec, id(5), Reason::Success).await;
    live.expect_silence().await;
}

#[actix::test]
async fn qos2_in_when_pubrel_comes_on_a_new_connection_then_known_once() {
    let bench = Bench::new();
    let (mut sender, _) = bench.durable("s").await;
    sender.publish_as(&delivery("a", Q2, b"1"), Some(id(5)));
    sender.expect_ack(AckKind::Pubrec, id(5), Reason::Success).await;
    bench.cut(sender).await;
    let (mut sender, present) = bench.durable("s").await;
    assert!(present);
    sender.ack(AckKind::Pubrel, id(5), Reason::Success);
    sender.expect_ack(AckKind::Pubcomp, id(5), Reason::Success).await;
    sender.ack(AckKind::Pubrel, id(5), Reason::Success);
    sender.expect_ack(AckKind::Pubcomp, id(5), Reason::PacketIdNotFound).await;
}

#[actix::test]
async fn qos2_in_then_each_step_is_committed_before_its_ack() {
    let bench = Bench::new();
    let _receiver = receiver(&bench).await;
    let (mut sender, _) = bench.durable("s").await;
    bench.storage.commands();
    sender.publish_as(&delivery("a", Q2, b"1"), Some(id(1)));
    sender.expect_ack(AckKind::Pubrec, id(1), Reason::Success).await;
    let commands = bench.storage.commands();
    assert_eq!(commands[..2], ["in begin", "append"]);
    sender.ack(AckKind::Pubrel, id(1), Reason::Success);
    sender.expect_ack(AckKind::Pubcomp, id(1), Reason::Success).await;
    assert!(bench.storage.commands().contains(&"in end"));
}

#[actix::test]
async fn qos2_in_when_the_disk_is_full_then_refused_and_the_id_is_free() {
    let bench = Bench::new();
    let (mut sender, _) = bench.durable("s").await;
    bench.storage.refuse(Some(SubmitError::DiskFull));
    sender.publish_as(&delivery("a", Q2, b"1"), Some(id(1)));
    sender.expect_ack(AckKind::Pubrec, id(1), Reason::QuotaExceeded).await;
    bench.storage.refuse(None);
    sender.publish_as(&delivery("a", Q2, b"1"), Some(id(1)));
    sender.expect_ack(AckKind::Pubrec, id(1), Reason::Success).await;
}

#[actix::test]
async fn qos2_in_many_then_published_in_order() {
    let bench = Bench::new();
    let mut live = bench.client("l").await;
    live.subscribe("a", Q0).await;
    let (sender, _) = bench.durable("s").await;
    for n in 1..=8 {
        let payload: &[u8] = &[u8::try_from(n).unwrap()];
        let message = Delivery { payload, ..delivery("a", Q2, b"") };
        sender.publish_as(&message, Some(id(9 - n)));
    }
    for n in 1..=8 {
        assert_eq!(live.got().await.payload, [n]);
    }
}

#[actix::test]
async fn qos2_in_when_not_finished_then_ended_and_the_next_connection_finishes_it() {
    let bench = Bench::in_company();
    let (mut sender, _) = bench.durable("s").await;
    bench.meta.set_lease(false);
    let message = delivery("a", Q2, b"1");
    sender.publish_as(&message, Some(id(5)));
    tokio::time::sleep(limits::LEASE_WAIT).await;
    sender.expect_end(Some(Reason::ImplementationSpecificError)).await;
    bench.meta.set_lease(true);
    let (mut sender, _) = bench.durable("s").await;
    sender.publish_as(&Delivery { dup: true, ..message }, Some(id(5)));
    sender.expect_ack(AckKind::Pubrec, id(5), Reason::Success).await;
    let commands = bench.storage.commands();
    assert!(!commands.contains(&"in end"), "its packet id was given up: {commands:?}");
}
