//! Rules of the specification, one table each: bytes in, packet or reason out.

use super::{decode, packet};
use crate::model::{
    reason::Reason,
    wire::{Dialect, Inbound},
};

const UNKNOWN: Dialect = Dialect::MqttUnknown;
const V4: Dialect = Dialect::MqttV4;
const V5: Dialect = Dialect::MqttV5;

fn reason_of(dialect: Dialect, bytes: &[u8]) -> Option<Reason> {
    decode(dialect, bytes).err().map(|error| error.reason)
}

#[test]
fn connect_v5_minimal_when_decoded_then_defaults() {
    let bytes = packet(0x10, b"\0\x04MQTT\x05\x02\0\x3c\0\0\0");
    let Ok(Inbound::Connect(connect)) = decode(UNKNOWN, &bytes) else { panic!("not a connect") };
    assert_eq!(connect.dialect, V5);
    assert_eq!(connect.keep_alive_secs, 60);
    assert!(connect.clean_start);
}

#[test]
fn publish_v4_when_decoded_then_fields() {
    let bytes = packet(0x32, b"\0\x03a/b\0\x07hello");
    let Ok(Inbound::Publish(publish)) = decode(V4, &bytes) else { panic!("not a publish") };
    assert_eq!(publish.topic.unwrap().as_str(), "a/b");
    assert_eq!(publish.packet_id.unwrap().get(), 7);
    assert_eq!(&publish.payload[..], b"hello");
}

#[test]
fn publish_topic_with_wildcard_then_topic_name_invalid() {
    assert_eq!(reason_of(V5, &packet(0x30, b"\0\x03a/+\0x")), Some(Reason::TopicNameInvalid));
    assert_eq!(reason_of(V4, &packet(0x30, b"\0\x03a/#x")), Some(Reason::TopicNameInvalid));
}
