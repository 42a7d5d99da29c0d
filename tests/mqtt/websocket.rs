//! MQTT over WebSocket: MQTT 5.0 section 6; RFC 6455.

use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    broker::{Names, broker},
    mqtt_client::message,
    packet::{BOTH, Sub, Version, encode_subscribe, packet_bytes},
    property::Props,
    wait::PATIENCE,
    wire::{Came, Wire},
    ws_client::{Refused, Ws},
};

fn open(names: &Names, version: Version) -> Ws {
    let (addr, path) = broker().websocket();
    let mut ws = Ws::connect(addr, path, Some("mqtt"), None).unwrap();
    ws.send(Message::Binary(broker().dial(version, &names.id("ws")).connect_bytes().into()));
    let Came::Bytes(connack) = ws.read(PATIENCE) else { panic!("no CONNACK") };
    assert_eq!(connack[0], 0x20);
    assert_eq!(connack[3], 0);
    ws
}

/// Reads until this many bytes came.
fn read_exact(ws: &mut Ws, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        match ws.read(PATIENCE) {
            Came::Bytes(bytes) => all.extend(bytes),
            Came::Nothing => {}
            Came::Closed => panic!("closed after {} of {count} bytes", all.len()),
        }
    }
    all
}

#[test]
fn websocket_client_is_served_like_any_other() {
    for version in BOTH {
        let names = Names::new();
        let mut ws = broker().dial(version, &names.id("ws")).websocket().connect();
        let mut tcp = broker().dial(version, &names.id("tcp")).connect();
        for client in [&mut ws, &mut tcp] {
            client.subscribe(&names.topic("a"), 2);
        }
        for qos in 0..3 {
            ws.publish(&names.topic("a"), "from ws", qos);
            tcp.publish(&names.topic("a"), "from tcp", qos);
            for client in [&mut ws, &mut tcp] {
                // Nothing orders what two publishers send.
                let mut texts = client.expect_texts(2);
                texts.sort_unstable();
                assert_eq!(texts, ["from tcp", "from ws"]);
            }
        }
        ws.ping();
        ws.disconnect();
    }
}

#[test]
fn websocket_session_is_taken_over_by_tcp() {
    let names = Names::new();
    let mut ws = broker().v5(&names.id("same")).durable().websocket().connect();
    ws.subscribe(&names.topic("a"), 1);
    let mut tcp = broker().v5(&names.id("same")).durable().connect();
    ws.expect_disconnect(&[0x8E]);
    tcp.publish(&names.topic("a"), "x", 1);
    assert_eq!(tcp.expect_publish().text(), "x");
}

#[test]
fn subprotocol_is_chosen_from_those_offered() {
    let (addr, path) = broker().websocket();
    let offers = [
        ("mqtt", "mqtt"),
        ("mqttv3.1", "mqttv3.1"),
        ("chat, mqtt", "mqtt"),
        ("mqtt, mqttv3.1", "mqtt"),
    ];
    for (offer, wanted) in offers {
        match Ws::connect(addr, path, Some(offer), None) {
            Ok(ws) => assert_eq!(ws.subprotocol.as_deref(), Some(wanted), "{offer}"),
            Err(Refused(status)) => panic!("{offer}: {status}"),
        }
    }
}

#[test]
fn upgrade_to_a_foreign_subprotocol_or_path_is_refused() {
    if !broker().ours {
        return;
    }
    let (addr, path) = broker().websocket();
    for (path, offer, statuses) in [
        (path, Some("chat"), &[400, 403, 406, 426][..]),
        ("/nowhere", Some("mqtt"), &[404, 400, 403]),
    ] {
        let Err(Refused(status)) = Ws::connect(addr, path, offer, None) else {
            panic!("{path} {offer:?} was accepted")
        };
        assert!(statuses.contains(&status), "{path} {offer:?}: {status}");
    }
}

#[test]
fn upgrade_from_a_foreign_origin_is_refused() {
    if !broker().ours {
        return;
    }
    let (addr, path) = broker().websocket();
    let own = format!("http://{addr}");
    assert!(Ws::connect(addr, path, Some("mqtt"), Some(&own)).is_ok());
    let Err(Refused(status)) = Ws::connect(addr, path, Some("mqtt"), Some("http://evil.example"))
    else {
        panic!("a foreign origin was accepted")
    };
    assert_eq!(status, 403);
}

#[test]
fn packet_may_span_frames_and_a_frame_may_hold_packets() {
    for version in BOTH {
        let names = Names::new();
        let topic = names.topic("a");
        let mut ws = open(&names, version);
        let mut bytes = encode_subscribe(version, 1, &[Sub::new(&topic, 0)], &Props::new());
        for n in 0..5 {
            bytes.extend(message(&topic, &n.to_string(), 0).encode(version));
        }
        bytes.extend([0xC0, 0]);
        // All in one frame; then byte by byte; then in threes.
        for size in [bytes.len(), 1, 3] {
            for part in bytes.chunks(size) {
                ws.send(Message::Binary(part.to_vec().into()));
            }
            let suback = if version == Version::V5 { 6 } else { 5 };
            let publish = message(&topic, "0", 0).encode(version).len();
            let came = read_exact(&mut ws, suback + 5 * publish + 2);
            // SUBACK, five PUBLISH and PINGRESP, the last in any place among them.
            let mut kinds = Vec::new();
            let mut rest = &came[..];
            while !rest.is_empty() {
                kinds.push(rest[0]);
                rest = &rest[packet_bytes(rest).unwrap().unwrap()..];
            }
            kinds.sort_unstable();
            assert_eq!(kinds, [0x30, 0x30, 0x30, 0x30, 0x30, 0x90, 0xD0]);
        }
    }
}

#[test]
fn fragmented_message_with_a_ping_inside_is_one_stream() {
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };
    let names = Names::new();
    let mut ws = open(&names, Version::V5);
    let first = Frame::message(vec![0xC0], OpCode::Data(Data::Binary), false);
    ws.send(Message::Frame(first));
    ws.send(Message::Ping(b"inside".to_vec().into()));
    let last = Frame::message(vec![0x00], OpCode::Data(Data::Continue), true);
    ws.send(Message::Frame(last));
    let mut pong = false;
    let mut pingresp = false;
    while !(pong && pingresp) {
        match ws.receive(PATIENCE).expect("an answer") {
            Message::Pong(data) => pong = data[..] == b"inside"[..],
            Message::Binary(bytes) => pingresp = bytes[..] == [0xD0, 0],
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn text_frame_closes_the_connection() {
    let names = Names::new();
    let mut ws = open(&names, Version::V5);
    ws.send(Message::Text("\u{C0}".into()));
    loop {
        match ws.receive(PATIENCE) {
            None | Some(Message::Close(_)) => return,
            Some(Message::Binary(_)) => {}
            Some(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn close_frame_is_answered_and_is_no_disconnect() {
    let names = Names::new();
    let mut watcher = broker().v5(&names.id("watcher")).connect();
    watcher.subscribe(&names.topic("will"), 0);
    let (addr, path) = broker().websocket();
    let mut ws = Ws::connect(addr, path, Some("mqtt"), None).unwrap();
    let dial = broker().v5(&names.id("ws")).will(&names.topic("will"), "gone", 0);
    ws.send(Message::Binary(dial.connect_bytes().into()));
    assert!(matches!(ws.receive(PATIENCE), Some(Message::Binary(_))));
    ws.send(Message::Close(None));
    assert!(matches!(ws.receive(PATIENCE), None | Some(Message::Close(_))));
    assert_eq!(watcher.expect_publish().text(), "gone");
}

#[test]
fn large_messages_pass_both_ways() {
    let names = Names::new();
    let mut ws = broker().v5(&names.id("ws")).websocket().connect();
    ws.subscribe(&names.topic("a"), 1);
    for size in [125, 126, 127, 65_535, 65_536, 1 << 20] {
        let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        ws.publish_with(crate::support::packet::Publish {
            payload: payload.clone(),
            ..message(&names.topic("a"), "", 1)
        });
        assert!(ws.expect_publish().payload == payload, "{size} bytes");
    }
}
