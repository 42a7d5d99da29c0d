//! QoS flows inbound and outbound, receive maximum, aliases.

use std::num::NonZeroU16;

use super::{
    bench::{Bench, connect_v4, connect_v5, delivery, id, offer, settle},
    remote::write_publish,
};
use crate::{
    actors::appender::SubmitError,
    front::mqtt::client::{Client, FromServer},
    model::{
        message::Qos,
        reason::Reason,
        session::admission::Offer,
        wire::{Ack, AckKind, Connect, Delivery},
    },
};

const Q0: Qos = Qos::AtMostOnce;
const Q1: Qos = Qos::AtLeastOnce;
const Q2: Qos = Qos::ExactlyOnce;

#[actix::test]
async fn qos1_many_in_one_read_then_pubacks_in_order_in_one_write() {
    let bench = Bench::with_offer(Offer { receive_maximum: id(100), ..offer() });
    let mut remote = bench.client("c").await;
    let writes = remote.peer.writes();
    remote.send(|codec, out| {
        for n in (1..=50).rev() {
            write_publish(codec, &delivery("a", Q1, b"x"), Some(id(n)), out);
        }
    });
    for n in (1..=50).rev() {
        remote.expect_ack(AckKind::Puback, id(n), Reason::Success).await;
    }
    assert_eq!(remote.peer.writes() - writes, 1);
}

#[actix::test]
async fn qos2_in_then_published_once_until_pubrel() {
    let bench = Bench::new();
    let mut listener = bench.client("l").await;
    listener.subscribe("a", Q0).await;
    let mut remote = bench.client("c").await;
    let message = delivery("a", Q2, b"x");
    remote.publish_as(&message, Some(id(7)));
    remote.expect_ack(AckKind::Pubrec, id(7), Reason::Success).await;
    remote.publish_as(&Delivery { dup: true, ..message }, Some(id(7)));
    remote.expect_ack(AckKind::Pubrec, id(7), Reason::Success).await;
    remote.ack(AckKind::Pubrel, id(7), Reason::Success);
    remote.expect_ack(AckKind::Pubcomp, id(7), Reason::Success).await;
    remote.ack(AckKind::Pubrel, id(7), Reason::Success);
    remote.expect_ack(AckKind::Pubcomp, id(7), Reason::PacketIdNotFound).await;
    assert!(!listener.got().await.dup, "DUP is not passed on");
    listener.expect_silence().await;
    remote.publish_as(&message, Some(id(7)));
    remote.expect_ack(AckKind::Pubrec, id(7), Reason::Success).await;
    listener.got().await;
}

#[actix::test]
async fn pubrel_for_unknown_id_v4_then_pubcomp_all_the_same() {
    let bench = Bench::new();
    let (mut remote, _) = bench.connect(Client::V4, &connect_v4("c")).await;
    remote.ack(AckKind::Pubrel, id(9), Reason::Success);
    remote.expect_ack(AckKind::Pubcomp, id(9), Reason::Success).await;
}

#[actix::test]
async fn packet_id_of_open_qos2_when_used_for_qos1_then_in_use() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    remote.publish_as(&delivery("a", Q2, b"x"), Some(id(1)));
    remote.expect_ack(AckKind::Pubrec, id(1), Reason::Success).await;
    remote.publish_as(&delivery("a", Q1, b"x"), Some(id(1)));
    remote.expect_ack(AckKind::Puback, id(1), Reason::PacketIdInUse).await;
}

#[actix::test]
async fn receive_maximum_when_exceeded_by_open_qos2_then_0x93() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    for n in 1..=8 {
        remote.publish_as(&delivery("a", Q2, b"x"), Some(id(n)));
        remote.expect_ack(AckKind::Pubrec, id(n), Reason::Success).await;
    }
    remote.publish_as(&delivery("a", Q0, b"x"), None);
    remote.expect_silence().await;
    remote.publish_as(&delivery("a", Q1, b"x"), Some(id(9)));
    remote.expect_end(Some(Reason::ReceiveMaximumExceeded)).await;
}

#[actix::test]
async fn receive_maximum_when_exceeded_in_one_read_then_0x93() {
    let bench = Bench::new();
    let mut remote = bench.client("c").await;
    remote.send(|codec, out| {
        for n in 1..=9 {
            write_publish(codec, &delivery("a", Q1, b"x"), Some(id(n)), out);
        }
    });
    for n in 1..=8 {
        remote.expect_ack(AckKind::Puback, id(n), Reason::Success).await;
    }
    remote.expect_end(Some(Reason::ReceiveMaximumExceeded)).await;
}

#[actix::test]
async fn receive_maximum_v4_then_no_limit_but_the_window_of_one_read() {
    let bench = Bench::new();
    let (mut remote, _) = bench.connect(Client::V4, &connect_v4("c")).await;
    remote.send(|codec, out| {
        for n in 1..=500 {
            write_publish(codec, &delivery("a", Q1, b"x"), Some(id(n)), out);
        }
    });
    for n in 1..=500 {
        remote.expect_ack(AckKind::Puback, id(n), Reason::Success).await;
    }
}

#[actix::test]
async fn alias_table_then_names_are_found_or_the_connection_ends() {
    let bench = Bench::new();
    let mut listener = bench.client("l").await;
    listener.subscribe("#", Q0).await;
    let alias = |topic: &'static str, number| Delivery {
        topic_alias: NonZeroU16::new(number),
        ..delivery(topic, Q0, b"x")
    };
    let mut remote = bench.client("c").await;
    for (topic, number, expected) in [("a", 1, "a"), ("", 1, "a"), ("b", 1, "b"), ("", 1, "b")] {
        remote.publish(&alias(topic, number));
        assert_eq!(listener.got().await.topic, expected);
    }
    remote.publish(&alias("a", 5));
    remote.expect_end(Some(Reason::TopicAliasInvalid)).await;
    let mut remote = bench.client("c").await;
    remote.publish(&alias("", 1));
    remote.expect_end(Some(Reason::ProtocolError)).await;
}

#[actix::test]
async fn publish_above_announced_limits_then_told() {
    let low = Offer { maximum_qos: Q1, retain_available: false, ..offer() };
    let bench = Bench::with_offer(low);
    let mut remote = bench.client("c").await;
    remote.publish(&delivery("a", Q2, b"x"));
    remote.expect_end(Some(Reason::QosNotSupported)).await;
    let mut remote = bench.client("c").await;
    remote.publish(&Delivery { retain: true, ..delivery("a", Q0, b"x") });
    remote.expect_end(Some(Reason::RetainNotSupported)).await;
}

#[actix::test]
async fn publish_refused_by_the_shard_then_v5_is_told_and_v4_closed() {
    let bench = Bench::new();
    bench.storage.refuse(Some(SubmitError::DiskFull));
    let retained = Delivery { retain: true, ..delivery("a", Q1, b"x") };
    let mut remote = bench.client("c").await;
    let packet_id = remote.publish(&retained).unwrap();
    remote.expect_ack(AckKind::Puback, packet_id, Reason::QuotaExceeded).await;
    let packet_id = remote.publish(&Delivery { qos: Q2, ..retained }).unwrap();
    remote.expect_ack(AckKind::Pubrec, packet_id, Reason::QuotaExceeded).await;
    remote.ack(AckKind::Pubrel, packet_id, Reason::Success);
    remote.expect_ack(AckKind::Pubcomp, packet_id, Reason::PacketIdNotFound).await;
    let (mut v4, _) = bench.connect(Client::V4, &connect_v4("d")).await;
    v4.publish(&retained);
    assert_eq!(v4.until_closed().await, None);
}

#[actix::test]
async fn acks_when_an_earlier_publish_waits_then_in_order_of_receipt() {
    let bench = Bench::new();
    bench.storage.refuse(Some(SubmitError::DiskFull));
    let mut remote = bench.client("c").await;
    remote.send(|codec, out| {
        let slow = Delivery { retain: true, ..delivery("a", Q1, b"x") };
        write_publish(codec, &slow, Some(id(1)), out);
        write_publish(codec, &delivery("a", Q1, b"x"), Some(id(2)), out);
        write_publish(codec, &delivery("a", Q2, b"x"), Some(id(3)), out);
        write_publish(codec, &delivery("a", Q1, b"x"), Some(id(4)), out);
    });
    remote.expect_ack(AckKind::Puback, id(1), Reason::QuotaExceeded).await;
    remote.expect_ack(AckKind::Puback, id(2), Reason::Success).await;
    remote.expect_ack(AckKind::Pubrec, id(3), Reason::Success).await;
    remote.expect_ack(AckKind::Puback, id(4), Reason::Success).await;
}

#[actix::test]
async fn qos2_out_then_whole_exchange_and_unknown_ids_answered() {
    let bench = Bench::new();
    let mut receiver = bench.client("r").await;
    receiver.subscribe("a", Q2).await;
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("a", Q2, b"x"));
    let packet_id = receiver.got().await.packet_id.unwrap();
    receiver.ack(AckKind::Pubrec, packet_id, Reason::Success);
    receiver.expect_ack(AckKind::Pubrel, packet_id, Reason::Success).await;
    receiver.ack(AckKind::Pubrec, packet_id, Reason::Success);
    receiver.expect_ack(AckKind::Pubrel, packet_id, Reason::Success).await;
    receiver.ack(AckKind::Pubcomp, packet_id, Reason::Success);
    receiver.ack(AckKind::Pubrec, packet_id, Reason::Success);
    receiver.expect_ack(AckKind::Pubrel, packet_id, Reason::PacketIdNotFound).await;
    receiver.ack(AckKind::Puback, id(77), Reason::Success);
    receiver.ack(AckKind::Pubcomp, id(77), Reason::Success);
    receiver.expect_silence().await;
}

#[actix::test]
async fn receive_maximum_of_the_client_then_not_exceeded_and_order_kept() {
    let bench = Bench::with_offer(Offer { receive_maximum: id(100), ..offer() });
    let connect = Connect { receive_maximum: id(2), ..connect_v5("r") };
    let (mut receiver, _) = bench.connect(Client::V5, &connect).await;
    receiver.subscribe("a", Q1).await;
    let mut sender = bench.client("s").await;
    for payload in [b"0", b"1", b"2", b"3", b"4"] {
        sender.publish(&delivery("a", Q1, payload));
        sender.receive().await;
    }
    let mut open = Vec::new();
    for n in 0..5_u8 {
        if open.len() == 2 {
            receiver.expect_silence().await;
            receiver.ack(AckKind::Puback, open.remove(0), Reason::Success);
        }
        let got = receiver.got().await;
        assert_eq!(got.payload, [b'0' + n]);
        open.push(got.packet_id.unwrap());
    }
}

#[actix::test]
async fn pubrec_with_error_then_id_is_free_again() {
    let bench = Bench::new();
    let connect = Connect { receive_maximum: id(1), ..connect_v5("r") };
    let (mut receiver, _) = bench.connect(Client::V5, &connect).await;
    receiver.subscribe("a", Q2).await;
    let mut sender = bench.client("s").await;
    sender.publish(&delivery("a", Q2, b"1"));
    sender.publish(&delivery("a", Q2, b"2"));
    let packet_id = receiver.got().await.packet_id.unwrap();
    receiver.ack(AckKind::Pubrec, packet_id, Reason::QuotaExceeded);
    assert_eq!(receiver.got().await.payload, b"2");
}

#[actix::test]
async fn packets_cut_anywhere_then_the_same_answers() {
    let bench = Bench::new();
    for cut in 1..12 {
        let mut remote = bench.client("c").await;
        let mut bytes = bytes::BytesMut::new();
        for n in 1..=5 {
            write_publish(Client::V5, &delivery("topic", Q1, b"payload"), Some(id(n)), &mut bytes);
        }
        for piece in bytes.chunks(cut) {
            remote.peer.send(piece);
            settle().await;
        }
        for n in 1..=5 {
            remote.expect_ack(AckKind::Puback, id(n), Reason::Success).await;
        }
        remote.disconnect(Reason::Success, None);
        remote.expect_end(None).await;
    }
}

#[actix::test]
async fn publish_and_disconnect_in_one_read_then_published() {
    let bench = Bench::new();
    let mut listener = bench.client("l").await;
    listener.subscribe("a", Q1).await;
    let mut remote = bench.client("c").await;
    remote.send(|codec, out| {
        write_publish(codec, &delivery("a", Q1, b"x"), Some(id(1)), out);
        codec.encode_disconnect(
            &crate::model::wire::Disconnect { reason: Reason::Success, session_expiry_secs: None },
            out,
        );
    });
    assert_eq!(listener.got().await.payload, b"x");
    let ack = Ack { kind: AckKind::Puback, packet_id: id(1), reason: Reason::Success };
    assert_eq!(remote.until_closed().await, Some(FromServer::Ack(ack)));
}
