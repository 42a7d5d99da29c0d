//! Bytes that are no legal packet: MQTT 5.0 sections 1.5, 2, 3, 4.13; MQTT 3.1.1 chapters 2 and 3.
//!
//! Each row is sent on a connection of its own after CONNECT; a v5 client must be told a fitting code
//! before the close, a 3.1.1 client is closed. A healthy client is served all the while.

use std::time::Duration;

use crate::support::{
    broker::{Names, broker},
    packet::{Version, frame},
    property::{put_data, put_variable},
};

/// What may be told: malformed, protocol error, or both where readers of the specification differ.
const MALFORMED: &[u8] = &[0x81];
const PROTOCOL: &[u8] = &[0x82];
const EITHER: &[u8] = &[0x81, 0x82];

struct Row {
    what: &'static str,
    bytes: Vec<u8>,
    codes: &'static [u8],
}

fn row(what: &'static str, bytes: Vec<u8>, codes: &'static [u8]) -> Row {
    Row { what, bytes, codes }
}

/// A field of text or data.
fn data(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_data(&mut out, bytes);
    out
}

/// A variable byte integer and what follows.
fn with_length(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_variable(&mut out, body.len() as u32);
    out.extend(body);
    out
}

/// PUBLISH v5 of QoS 0 on topic "a" with these bytes of properties.
fn publish_props(props: &[u8]) -> Vec<u8> {
    frame(0x30, &[data(b"a"), with_length(props), b"x".to_vec()].concat())
}

fn publish_topic_v4(topic: &[u8]) -> Vec<u8> {
    frame(0x30, &[data(topic), b"x".to_vec()].concat())
}

fn publish_topic_v5(topic: &[u8]) -> Vec<u8> {
    frame(0x30, &[data(topic), vec![0], b"x".to_vec()].concat())
}

/// Rows about the fixed header; the same in both versions.
fn header_rows() -> Vec<Row> {
    let mut rows = vec![
        row("remaining length of five bytes", vec![0x30, 0x80, 0x80, 0x80, 0x80, 1], EITHER),
        row("remaining length all ones", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF], EITHER),
        row("remaining length not minimal", vec![0xC0, 0x80, 0x00], EITHER),
        row("packet type 0", vec![0x00, 0], EITHER),
        row("pingreq with bytes", vec![0xC0, 1, 0], EITHER),
        row("publish with qos 3", frame(0x36, &[0, 1, b'a', 0, 1, 0, b'x']), EITHER),
        row("dup with qos 0", frame(0x38, &[0, 1, b'a', 0, b'x']), EITHER),
        row("publish without a body", vec![0x30, 0], EITHER),
        row("publish with a topic cut off", frame(0x30, &[0, 9, b'a']), EITHER),
        row("publish with qos 1 and no id", frame(0x32, &[0, 1, b'a']), EITHER),
        row("puback without an id", vec![0x40, 0], EITHER),
        row("puback with half an id", vec![0x40, 1, 0], EITHER),
        row("subscribe without an id", vec![0x82, 0], EITHER),
        row("unsubscribe without an id", vec![0xA2, 0], EITHER),
    ];
    // Packets that only a server sends.
    for (what, bytes) in [
        ("connack from a client", vec![0x20, 2, 0, 0]),
        ("suback from a client", vec![0x90, 3, 0, 1, 0]),
        ("unsuback from a client", vec![0xB0, 2, 0, 1]),
        ("pingresp from a client", vec![0xD0, 0]),
    ] {
        rows.push(row(what, bytes, EITHER));
    }
    // Reserved flags: all that are not as section 2.1.3 says.
    for (what, kind, right) in [
        ("flags of puback", 4, 0),
        ("flags of pubrec", 5, 0),
        ("flags of pubrel", 6, 2),
        ("flags of pubcomp", 7, 0),
        ("flags of subscribe", 8, 2),
        ("flags of unsubscribe", 10, 2),
        ("flags of pingreq", 12, 0),
        ("flags of disconnect", 14, 0),
    ] {
        for flags in (0..16).filter(|flags| *flags != right) {
            let body: &[u8] = match kind {
                4..=7 => &[0, 1],
                8 => &[0, 1, 0, 1, b'a', 0],
                10 => &[0, 1, 0, 1, b'a'],
                _ => &[],
            };
            rows.push(row(what, frame(kind << 4 | flags, body), EITHER));
        }
    }
    rows
}

/// Text that is not UTF-8, or not allowed.
fn bad_texts() -> Vec<(&'static str, &'static [u8])> {
    vec![
        ("U+0000", b"a\0b"),
        ("lone continuation byte", b"\x80"),
        ("cut sequence", b"a\xE2\x82"),
        ("overlong slash", b"\xC0\xAF"),
        ("overlong zero", b"\xC0\x80"),
        ("surrogate U+D800", b"\xED\xA0\x80"),
        ("surrogate U+DFFF", b"\xED\xBF\xBF"),
        ("beyond U+10FFFF", b"\xF4\x90\x80\x80"),
        ("byte 0xFF", b"\xFF"),
    ]
}

fn v5_rows() -> Vec<Row> {
    let mut rows = header_rows();
    for (what, text) in bad_texts() {
        rows.push(row(what, publish_topic_v5(text), &[0x81, 0x82, 0x90]));
        rows.push(row(what, frame(0x82, &[vec![0, 1, 0], data(text), vec![0]].concat()), EITHER));
        rows.push(row(
            what,
            publish_props(&[&[0x26], &data(text)[..], &data(b"v")[..]].concat()),
            EITHER,
        ));
        rows.push(row(
            what,
            publish_props(&[&[0x26], &data(b"k")[..], &data(text)[..]].concat()),
            EITHER,
        ));
        rows.push(row(what, publish_props(&[&[0x03], &data(text)[..]].concat()), EITHER));
        rows.push(row(what, publish_props(&[&[0x08], &data(text)[..]].concat()), EITHER));
    }
    for topic in [&b"a/+"[..], b"#", b"a/#", b"+", b"a+b"] {
        rows.push(row("wildcard in a topic", publish_topic_v5(topic), &[0x81, 0x82, 0x90]));
        let response = publish_props(&[&[0x08], &data(topic)[..]].concat());
        rows.push(row("wildcard in a response topic", response, &[0x81, 0x82, 0x90]));
    }
    rows.extend(v5_publish_rows());
    rows.extend(v5_ack_rows());
    rows.extend(v5_subscribe_rows());
    rows.extend(v5_end_rows());
    rows
}

fn v5_publish_rows() -> Vec<Row> {
    let twice = |field: &[u8]| publish_props(&[field, field].concat());
    vec![
        row("packet id 0, qos 1", frame(0x32, &[0, 1, b'a', 0, 0, 0, b'x']), EITHER),
        row("packet id 0, qos 2", frame(0x34, &[0, 1, b'a', 0, 0, 0, b'x']), EITHER),
        row("no property length", frame(0x30, &[0, 1, b'a']), MALFORMED),
        row("property length beyond the packet", frame(0x30, &[0, 1, b'a', 9, 1, 0]), MALFORMED),
        row("property length not minimal", frame(0x30, &[0, 1, b'a', 0x80, 0]), EITHER),
        row("property cut off", frame(0x30, &[0, 1, b'a', 3, 2, 0, 0]), MALFORMED),
        row("unknown property 0", publish_props(&[0, 0]), EITHER),
        row("unknown property 0x7F", publish_props(&[0x7F, 0]), EITHER),
        row("unknown property of two bytes", publish_props(&[0x80, 1, 0]), EITHER),
        row("property id not minimal", publish_props(&[0x81, 0, 1]), EITHER),
        row("payload format 2", publish_props(&[1, 2]), EITHER),
        row("payload format twice", twice(&[1, 0]), EITHER),
        row("message expiry twice", twice(&[2, 0, 0, 0, 9]), EITHER),
        row("content type twice", twice(&[3, 0, 1, b'a']), EITHER),
        row("response topic twice", twice(&[8, 0, 1, b'a']), EITHER),
        row("correlation data twice", twice(&[9, 0, 1, b'a']), EITHER),
        row("topic alias twice", twice(&[0x23, 0, 1]), EITHER),
        row("subscription id from a client", publish_props(&[0x0B, 1]), EITHER),
        row("session expiry in publish", publish_props(&[0x11, 0, 0, 0, 1]), EITHER),
        row("will delay in publish", publish_props(&[0x18, 0, 0, 0, 1]), EITHER),
        row("receive maximum in publish", publish_props(&[0x21, 0, 1]), EITHER),
        row("reason string in publish", publish_props(&[0x1F, 0, 1, b'a']), EITHER),
        row("server keep alive in publish", publish_props(&[0x13, 0, 1]), EITHER),
        row("maximum qos in publish", publish_props(&[0x24, 1]), EITHER),
        row("empty topic, no alias", publish_topic_v5(b""), &[0x82, 0x90]),
    ]
}

fn v5_ack_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, first) in [("puback", 0x40), ("pubrec", 0x50), ("pubrel", 0x62), ("pubcomp", 0x70)] {
        rows.push(row(what, frame(first, &[0, 0]), EITHER));
        rows.push(row(what, frame(first, &[0, 1, 0x05]), EITHER));
        rows.push(row(what, frame(first, &[0, 1, 0, 9]), EITHER));
        rows.push(row(what, frame(first, &[0, 1, 0, 0, 0]), EITHER));
        // A property that belongs elsewhere, and one reason string too many.
        rows.push(row(what, frame(first, &[0, 1, 0, 2, 1, 0]), EITHER));
        rows.push(row(
            what,
            frame(first, &[0, 1, 0, 8, 0x1F, 0, 1, b'a', 0x1F, 0, 1, b'a']),
            EITHER,
        ));
    }
    rows
}

fn v5_subscribe_rows() -> Vec<Row> {
    let subscribe = |body: &[u8]| frame(0x82, body);
    let options = |options: u8| subscribe(&[0, 1, 0, 0, 1, b'a', options]);
    vec![
        row("subscribe without filters", subscribe(&[0, 1, 0]), PROTOCOL),
        row("subscribe with id 0", subscribe(&[0, 0, 0, 0, 1, b'a', 0]), EITHER),
        row("subscribe without options", subscribe(&[0, 1, 0, 0, 1, b'a']), MALFORMED),
        row("subscribe with a filter cut off", subscribe(&[0, 1, 0, 0, 5, b'a']), MALFORMED),
        row("subscribe with qos 3", options(3), EITHER),
        row("subscribe with a reserved bit 6", options(0x40), EITHER),
        row("subscribe with a reserved bit 7", options(0x80), EITHER),
        row("subscribe with retain handling 3", options(0x30), EITHER),
        row("subscription id 0", subscribe(&[0, 1, 2, 0x0B, 0, 0, 1, b'a', 0]), PROTOCOL),
        row(
            "subscription id twice",
            subscribe(&[0, 1, 4, 0x0B, 1, 0x0B, 2, 0, 1, b'a', 0]),
            PROTOCOL,
        ),
        row(
            "subscription id of five bytes",
            subscribe(&[0, 1, 6, 0x0B, 0x80, 0x80, 0x80, 0x80, 1, 0, 1, b'a', 0]),
            EITHER,
        ),
        row("foreign property in subscribe", subscribe(&[0, 1, 2, 1, 0, 0, 1, b'a', 0]), EITHER),
        row("unsubscribe without filters", frame(0xA2, &[0, 1, 0]), PROTOCOL),
        row("unsubscribe with id 0", frame(0xA2, &[0, 0, 0, 0, 1, b'a']), EITHER),
        row("unsubscribe with a filter cut off", frame(0xA2, &[0, 1, 0, 0, 5, b'a']), MALFORMED),
        row(
            "foreign property in unsubscribe",
            frame(0xA2, &[0, 1, 2, 0x0B, 1, 0, 1, b'a']),
            EITHER,
        ),
    ]
}

fn v5_end_rows() -> Vec<Row> {
    vec![
        row("disconnect with an unknown code", vec![0xE0, 1, 0x05], EITHER),
        row("disconnect with a server's code", vec![0xE0, 1, 0x8E], EITHER),
        row("disconnect with bytes after", frame(0xE0, &[0, 0, 0]), EITHER),
        row("disconnect with properties cut off", frame(0xE0, &[0, 5, 0x11]), EITHER),
        row(
            "disconnect with session expiry twice",
            frame(0xE0, &[0, 10, 0x11, 0, 0, 0, 0, 0x11, 0, 0, 0, 0]),
            EITHER,
        ),
        row("disconnect with a foreign property", frame(0xE0, &[0, 2, 1, 0]), EITHER),
        row("disconnect with a server reference", frame(0xE0, &[0, 4, 0x1C, 0, 1, b'a']), EITHER),
        row("auth without a method in connect", vec![0xF0, 0], &[0x81, 0x82, 0x8C]),
        row("auth with an unknown code", frame(0xF0, &[0x05, 0]), &[0x81, 0x82, 0x8C]),
        row("auth with flags", frame(0xF1, &[]), EITHER),
    ]
}

fn v4_rows() -> Vec<Row> {
    let mut rows = header_rows();
    for (what, text) in bad_texts() {
        rows.push(row(what, publish_topic_v4(text), EITHER));
        rows.push(row(what, frame(0x82, &[vec![0, 1], data(text), vec![0]].concat()), EITHER));
        rows.push(row(what, frame(0xA2, &[vec![0, 1], data(text)].concat()), EITHER));
    }
    for topic in [&b"a/+"[..], b"#", b"a/#", b"+", b"a+b", b""] {
        rows.push(row("topic with wildcards or empty", publish_topic_v4(topic), EITHER));
    }
    rows.extend([
        row("packet id 0", frame(0x32, &[0, 1, b'a', 0, 0, b'x']), EITHER),
        row("puback with id 0", frame(0x40, &[0, 0]), EITHER),
        row("puback with bytes after", frame(0x40, &[0, 1, 0]), EITHER),
        row("pubrel with bytes after", frame(0x62, &[0, 1, 0]), EITHER),
        row("subscribe without filters", frame(0x82, &[0, 1]), EITHER),
        row("subscribe with id 0", frame(0x82, &[0, 0, 0, 1, b'a', 0]), EITHER),
        row("subscribe without qos", frame(0x82, &[0, 1, 0, 1, b'a']), EITHER),
        row("subscribe with qos 3", frame(0x82, &[0, 1, 0, 1, b'a', 3]), EITHER),
        row("subscribe with reserved bits", frame(0x82, &[0, 1, 0, 1, b'a', 4]), EITHER),
        row("unsubscribe without filters", frame(0xA2, &[0, 1]), EITHER),
        row("disconnect with bytes", vec![0xE0, 1, 0], EITHER),
        row("packet type 15", vec![0xF0, 0], EITHER),
    ]);
    rows
}

/// Sends each row on a connection of its own and collects what is wrong with the answers.
fn run(version: Version, rows: &[Row]) {
    let names = Names::new();
    let mut healthy = broker().dial(version, &names.id("healthy")).connect();
    healthy.subscribe(&names.topic("alive"), 0);
    let mut faults = Vec::new();
    for row in rows {
        let mut client = broker().dial(version, &names.id("bad")).connect();
        client.patience = Duration::from_secs(3);
        client.send_raw(&row.bytes);
        // Whoever says goodbye wrongly is gone already.
        let goodbye = row.bytes[0] >> 4 == 14;
        if let Err(fault) = client.check_disconnect(row.codes, goodbye) {
            faults.push(format!("{} {:x?}: {fault}", row.what, row.bytes));
        }
        healthy.publish(&names.topic("alive"), "yes", 0);
        assert_eq!(healthy.expect_publish().text(), "yes");
    }
    let text = faults.join("\n");
    assert!(faults.is_empty(), "{} of {} rows:\n{text}", faults.len(), rows.len());
}

#[test]
fn malformed_v5_packets_are_told_and_closed() {
    run(Version::V5, &v5_rows());
}

#[test]
fn malformed_v4_packets_are_closed() {
    run(Version::V4, &v4_rows());
}
