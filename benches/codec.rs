//! The codec beside rmqtt-codec and mqtt-protocol-core: nanoseconds per packet, and the ratio.
//!
//! - Takes: the same bytes for all. Gives: a table; run it with `cargo bench --bench codec`.
//! - What is counted: decoding from one read buffer of many packets, as a socket fills it. The other two
//!   get their input in the form they ask for (`BytesMut`; `Arc<[u8]>` for PUBLISH), and that copy is
//!   counted, because a server that used them would make it. Encoding to many receivers is where the
//!   three differ by design: ours writes a head once, the others write each packet.

#[path = "support/ratio.rs"]
mod ratio;

use std::{hint::black_box, num::NonZeroU16, sync::Arc};

use actix_codec::{Decoder as _, Encoder as _};
use bytes::{Buf as _, Bytes, BytesMut};
use hongqiao::{
    front::mqtt::fronts,
    model::{
        message::Qos,
        wire::{DecodeLimits, Decoded, Delivery, Dialect, Inbound},
    },
};
use mqtt_protocol_core::mqtt::packet::v5_0 as core_v5;
use rmqtt_codec::v5 as rmqtt_v5;

const PACKETS: u32 = 10_000;

const LIMITS: DecodeLimits = DecodeLimits {
    packet_bytes_max: 1 << 20,
    topic_bytes_max: 1_024,
    topic_levels_max: 64,
    filters_per_packet_max: 64,
    user_properties_max: 64,
};

const PROPERTIES: &[u8] = b"\x03\0\x0aapp/binary\x26\0\x05trace\0\x0800000001";

fn delivery<'a>(payload: &'a [u8], properties: &'a [u8], qos: Qos) -> Delivery<'a> {
    Delivery {
        topic: b"org/app/room/0042",
        topic_alias: None,
        qos,
        dup: false,
        retain: false,
        expiry_secs: None,
        properties,
        subscription_ids: &[],
        payload,
    }
}

/// One packet as a client writes it.
fn publish(payload_bytes: usize, properties: &[u8], qos: Qos) -> Vec<u8> {
    let payload = vec![b'x'; payload_bytes];
    let mut out = BytesMut::new();
    let front = fronts()[Dialect::MqttV5 as usize];
    let head = front.encode_delivery_head(&delivery(&payload, properties, qos), &mut out);
    if let Some(at) = head.packet_id_at {
        out[at + 1] = 7;
    }
    out.extend_from_slice(&payload);
    out.to_vec()
}

fn ours(input: &Bytes) -> u64 {
    let front = fronts()[Dialect::MqttV5 as usize];
    let mut bytes = input.clone();
    let mut sum = 0;
    while let Ok(Decoded::Packet { inbound, consumed }) = front.decode(&bytes, &LIMITS) {
        sum += match inbound {
            Inbound::Publish(publish) => publish.payload.len() as u64,
            Inbound::Ack(ack) => u64::from(ack.packet_id.get()),
            _ => 0,
        };
        bytes.advance(consumed);
    }
    assert!(bytes.is_empty());
    sum
}

fn rmqtt(input: &Bytes) -> u64 {
    let mut codec = rmqtt_v5::Codec::new(0, 0);
    let mut bytes = BytesMut::from(&input[..]);
    let mut sum = 0;
    while let Ok(Some((packet, _))) = codec.decode(&mut bytes) {
        sum += match packet {
            rmqtt_v5::Packet::Publish(publish) => publish.payload.len() as u64,
            rmqtt_v5::Packet::PublishAck(ack) => u64::from(ack.packet_id.get()),
            _ => 0,
        };
    }
    assert!(bytes.is_empty());
    sum
}

fn core(input: &Bytes) -> u64 {
    let mut bytes = &input[..];
    let mut sum = 0;
    while bytes.len() > 1 {
        let length_bytes = 1 + bytes[1..].iter().take_while(|byte| **byte > 0x7f).count();
        let digits = bytes[1..=length_bytes].iter().rev();
        let remaining = digits.fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
        let (body, rest) = bytes[1 + length_bytes..].split_at(remaining);
        if bytes[0] >> 4 == 3 {
            let packet = core_v5::Publish::parse(bytes[0] & 15, Arc::from(body));
            sum += packet.map_or(0, |(publish, _)| publish.payload().len() as u64);
        } else {
            let packet = core_v5::Puback::parse(body);
            sum += packet.map_or(0, |(ack, _)| u64::from(ack.packet_id()));
        }
        bytes = rest;
    }
    sum
}

fn decode(title: &str, packet: &[u8]) {
    let input = Bytes::from(packet.repeat(PACKETS as usize));
    assert!(ours(&input) > 0 && ours(&input) == rmqtt(&input) && ours(&input) == core(&input));
    ratio::compare(
        title,
        PACKETS,
        vec![
            ("hongqiao", Box::new(|| ours(&input))),
            ("rmqtt-codec", Box::new(|| rmqtt(&input))),
            ("mqtt-protocol-core", Box::new(|| core(&input))),
        ],
    );
}

/// One message to many receivers: bytes ready to write, with each receiver's packet id.
fn encode(title: &str, payload_bytes: usize) {
    let payload = Bytes::from(vec![b'x'; payload_bytes]);
    let rmqtt_packet = |packet_id: u16| {
        rmqtt_v5::Packet::Publish(Box::new(rmqtt_codec::types::Publish {
            dup: false,
            retain: false,
            qos: rmqtt_codec::types::QoS::AtLeastOnce,
            topic: "org/app/room/0042".into(),
            packet_id: NonZeroU16::new(packet_id),
            payload: payload.clone(),
            properties: None,
        }))
    };
    let ids = || (0..PACKETS).map(|number| u16::try_from(number % 60_000 + 1).unwrap_or(1));
    let ours = || {
        let mut head = BytesMut::new();
        let front = fronts()[Dialect::MqttV5 as usize];
        let shape =
            front.encode_delivery_head(&delivery(&payload, b"", Qos::AtLeastOnce), &mut head);
        let at = shape.packet_id_at.unwrap_or(0);
        let mut out = BytesMut::with_capacity(1 << 16);
        let mut sum = 0;
        for packet_id in ids() {
            let start = out.len();
            out.extend_from_slice(&head);
            out[start + at..start + at + 2].copy_from_slice(&packet_id.to_be_bytes());
            out.extend_from_slice(&payload);
            sum += black_box(&out[..]).len() as u64;
            out.clear();
        }
        sum
    };
    let rmqtt = || {
        let mut codec = rmqtt_v5::Codec::new(0, 0);
        let mut out = BytesMut::with_capacity(1 << 16);
        let mut sum = 0;
        for packet_id in ids() {
            let _ = codec.encode(rmqtt_packet(packet_id), &mut out);
            sum += black_box(&out[..]).len() as u64;
            out.clear();
        }
        sum
    };
    let core = || {
        let mut sum = 0;
        for packet_id in ids() {
            let packet =
                core_v5::Publish::builder().topic_name("org/app/room/0042").and_then(|builder| {
                    builder
                        .qos(mqtt_protocol_core::mqtt::packet::Qos::AtLeastOnce)
                        .packet_id(packet_id)
                        .payload(&payload[..])
                        .build()
                });
            sum += packet.map_or(0, |packet| black_box(packet.to_continuous_buffer()).len() as u64);
        }
        sum
    };
    let runners: Vec<ratio::Runner<'_>> = vec![
        ("hongqiao", Box::new(ours)),
        ("rmqtt-codec", Box::new(rmqtt)),
        ("mqtt-protocol-core", Box::new(core)),
    ];
    ratio::compare(title, PACKETS, runners);
}

fn main() {
    decode("decode PUBLISH QoS 0, 64 B", &publish(64, b"", Qos::AtMostOnce));
    decode("decode PUBLISH QoS 1, 256 B", &publish(256, b"", Qos::AtLeastOnce));
    decode(
        "decode PUBLISH QoS 1, 256 B, 2 properties",
        &publish(256, PROPERTIES, Qos::AtLeastOnce),
    );
    decode("decode PUBACK", b"\x40\x02\0\x07");
    encode("encode PUBLISH QoS 1, 256 B, one message to many", 256);
}
