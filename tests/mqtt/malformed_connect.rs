//! CONNECT packets that are not legal: MQTT 5.0 section 3.1, MQTT 3.1.1 section 3.1.
//!
//! The server may answer with CONNACK and a code before it closes, or just close; it never accepts.

use std::time::Duration;

use crate::support::{
    broker::{Names, broker},
    mqtt_client::Received,
    packet::{Packet, Version, frame},
    property::put_variable,
};

/// A CONNECT from its parts: flags, properties (v5), and what follows.
fn connect(version: Version, flags: u8, props: &[u8], payload: &[u8]) -> Vec<u8> {
    let level = if version == Version::V5 { 5 } else { 4 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 60];
    if version == Version::V5 {
        put_variable(&mut body, props.len() as u32);
        body.extend(props);
    }
    body.extend(payload);
    frame(0x10, &body)
}

const ID: &[u8] = &[0, 1, b'i'];
/// Client id, will properties (none), will topic "w", will payload "p".
const WILL_V5: &[u8] = &[0, 1, b'i', 0, 0, 1, b'w', 0, 1, b'p'];
const WILL_V4: &[u8] = &[0, 1, b'i', 0, 1, b'w', 0, 1, b'p'];

fn v5_props() -> Vec<(&'static str, Vec<u8>)> {
    let twice = |field: &[u8]| [field, field].concat();
    vec![
        ("receive maximum 0", vec![0x21, 0, 0]),
        ("maximum packet size 0", vec![0x27, 0, 0, 0, 0]),
        ("request problem information 2", vec![0x17, 2]),
        ("request response information 2", vec![0x19, 2]),
        ("session expiry twice", twice(&[0x11, 0, 0, 0, 1])),
        ("receive maximum twice", twice(&[0x21, 0, 1])),
        ("maximum packet size twice", twice(&[0x27, 0, 0, 1, 0])),
        ("topic alias maximum twice", twice(&[0x22, 0, 1])),
        ("request response information twice", twice(&[0x19, 0])),
        ("request problem information twice", twice(&[0x17, 0])),
        ("authentication method twice", twice(&[0x15, 0, 1, b'a'])),
        ("authentication data without method", vec![0x16, 0, 1, b'a']),
        ("unknown property", vec![0x7E, 0]),
        ("property of publish", vec![0x01, 0]),
        ("property of connack", vec![0x24, 1]),
        ("topic alias", vec![0x23, 0, 1]),
        ("subscription id", vec![0x0B, 1]),
        ("will delay outside the will", vec![0x18, 0, 0, 0, 1]),
        ("property cut off", vec![0x11, 0, 0]),
        ("user property with U+0000", vec![0x26, 0, 1, 0, 0, 1, b'v']),
    ]
}

fn rows(version: Version) -> Vec<(&'static str, Vec<u8>)> {
    let v5 = version == Version::V5;
    let will = if v5 { WILL_V5 } else { WILL_V4 };
    let join = |parts: &[&[u8]]| parts.concat();
    let mut rows = vec![
        ("reserved flag", connect(version, 0x03, &[], ID)),
        ("no client id", connect(version, 2, &[], &[])),
        ("client id cut off", connect(version, 2, &[], &[0, 9, b'i'])),
        ("client id with U+0000", connect(version, 2, &[], &[0, 1, 0])),
        ("client id not utf-8", connect(version, 2, &[], &[0, 1, 0xFF])),
        ("client id with a surrogate", connect(version, 2, &[], &[0, 3, 0xED, 0xA0, 0x80])),
        ("bytes after the end", connect(version, 2, &[], &join(&[ID, &[0]]))),
        ("will qos without will", connect(version, 0x0A, &[], ID)),
        ("will retain without will", connect(version, 0x22, &[], ID)),
        ("will qos 3", connect(version, 0x1E, &[], will)),
        ("will missing", connect(version, 0x06, &[], ID)),
        ("will payload missing", connect(version, 0x06, &[], &will[..will.len() - 3])),
        ("will topic with wildcard", {
            let mut will = will.to_vec();
            let at = will.iter().position(|byte| *byte == b'w').unwrap();
            will[at] = b'#';
            connect(version, 0x06, &[], &will)
        }),
        ("user name missing", connect(version, 0x82, &[], ID)),
        ("password missing", connect(version, 0xC2, &[], &join(&[ID, &[0, 1, b'u']]))),
        ("user name with U+0000", connect(version, 0x82, &[], &join(&[ID, &[0, 1, 0]]))),
        ("user name nobody announced", connect(version, 2, &[], &join(&[ID, &[0, 1, b'u']]))),
        ("fixed header flags", {
            let mut bytes = connect(version, 2, &[], ID);
            bytes[0] = 0x11;
            bytes
        }),
        ("protocol name cut off", frame(0x10, &[0, 4, b'M', b'Q'])),
        ("nothing after the level", {
            let level = if v5 { 5 } else { 4 };
            frame(0x10, &[0, 4, b'M', b'Q', b'T', b'T', level])
        }),
        ("empty", frame(0x10, &[])),
    ];
    if v5 {
        for (what, props) in v5_props() {
            rows.push((what, connect(version, 2, &props, ID)));
        }
        for (what, props) in [
            ("will property of connect", vec![0x11, 0, 0, 0, 1]),
            ("will delay twice", vec![0x18, 0, 0, 0, 1, 0x18, 0, 0, 0, 1]),
            ("will payload format 2", vec![0x01, 2]),
            ("will topic alias", vec![0x23, 0, 1]),
            ("will response topic with wildcard", vec![0x08, 0, 1, b'#']),
        ] {
            let length = [props.len() as u8];
            let payload = join(&[ID, &length, &props, &[0, 1, b'w', 0, 1, b'p']]);
            rows.push((what, connect(version, 0x06, &[], &payload)));
        }
    } else {
        rows.push(("password without user name", {
            connect(version, 0x42, &[], &join(&[ID, &[0, 1, b'p']]))
        }));
    }
    rows
}

fn run(version: Version, codes: &[u8]) {
    let mut faults = Vec::new();
    let rows = rows(version);
    for (what, bytes) in &rows {
        let mut client = broker().dial(version, &Names::new().id("bad")).open();
        client.patience = Duration::from_secs(3);
        client.send_raw(bytes);
        let answer = client.receive(client.patience);
        let fine = match &answer {
            Received::Closed => true,
            Received::Packet(Packet::Connack { code, present: false, .. }) => codes.contains(code),
            _ => false,
        };
        if !fine {
            faults.push(format!("{what} {bytes:x?}: {answer:?}"));
        } else if !matches!(answer, Received::Closed) {
            client.expect_closed();
        }
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), rows.len(), faults.join("\n"));
}

#[test]
fn malformed_v5_connect_is_never_accepted() {
    run(Version::V5, &[0x81, 0x82, 0x84, 0x85, 0x8C, 0x90]);
}

#[test]
fn malformed_v4_connect_is_never_accepted() {
    // Section 3.1.4: a packet that breaks the protocol is closed without CONNACK.
    run(Version::V4, &[]);
}

#[test]
fn legal_connects_that_look_odd_are_accepted() {
    let v5 = Version::V5;
    let user = |rest: &[u8]| [ID, rest].concat();
    let rows = [
        ("user name without password", connect(Version::V4, 0x82, &[], &user(&[0, 1, b'u']))),
        (
            "many user properties of one name",
            connect(v5, 2, &[0x26, 0, 0, 0, 0, 0x26, 0, 0, 0, 0], ID),
        ),
        ("receive maximum 65,535", connect(v5, 2, &[0x21, 0xFF, 0xFF], ID)),
        ("will with an empty payload", connect(v5, 0x06, &[], &[0, 1, b'i', 0, 0, 1, b'w', 0, 0])),
        ("session expiry of all ones", connect(v5, 2, &[0x11, 0xFF, 0xFF, 0xFF, 0xFF], ID)),
    ];
    for (what, mut bytes) in rows {
        // The id is one letter; make it the only user of it for a moment.
        let version = if bytes[8] == 5 { v5 } else { Version::V4 };
        let at = bytes.iter().position(|byte| *byte == b'i').unwrap();
        bytes[at] = b'j';
        let mut client = broker().dial(version, "unused").open();
        client.send_raw(&bytes);
        match client.expect_next() {
            Packet::Connack { code, .. } => {
                // A server with accounts may refuse the user, not the packet.
                assert!([0, 4, 5, 0x86, 0x87].contains(&code), "{what}: {code:#x}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}
