//! Connections that say nothing, or too slowly: they cost little and do not stay.

use std::{io::Read, net::TcpStream, time::Duration};

use crate::{
    bad_input::{Healthy, allow_open_files},
    delivery::alone,
    support::{
        mqtt_client::Received,
        node::Node,
        process::{open_files, resident_kib},
        wait::{let_pass, now, wait_until, wait_until_within},
    },
};

const HALF_OPEN: usize = 5_000;

/// The server has closed this socket.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.read(&mut [0; 64]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn five_thousand_half_open_connections_are_closed_in_time() {
    let _turn = alone();
    allow_open_files(HALF_OPEN + 500);
    let node = Node::start_with(&[("limits.connect_timeout", "3 s")]);
    let broker = node.broker();
    let files = open_files(node.pid());
    let before = resident_kib(node.pid());
    let healthy = Healthy::start(broker);
    let mut sockets: Vec<TcpStream> =
        (0..HALF_OPEN).map(|_| TcpStream::connect(broker.mqtt()).unwrap()).collect();
    let grown = resident_kib(node.pid()).saturating_sub(before);
    assert!(grown < 16 * 1_024, "{grown} KiB for connections that say nothing");
    wait_until_within(Duration::from_secs(20), "silent connections are closed", || {
        sockets.iter_mut().all(is_closed)
    });
    wait_until("the server has let go of its files", || open_files(node.pid()) < files + 50);
    healthy.check();
}

#[test]
fn connect_drip_by_drip_is_closed_in_time() {
    let node = Node::start_with(&[("limits.connect_timeout", "2 s")]);
    let broker = node.broker();
    let healthy = Healthy::start(broker);
    let mut drips: Vec<_> = (0..200).map(|n| broker.v5(&format!("drip{n}")).open()).collect();
    let bytes = broker.v5("a-client-id-of-some-length-to-drip").connect_bytes();
    let start = now();
    let mut refused = 0;
    for byte in &bytes {
        refused = drips
            .iter_mut()
            .filter_map(|client| (!client.send_raw(&[*byte])).then_some(()))
            .count();
        let_pass(Duration::from_millis(150));
        if start.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    assert!(refused > 0 || start.elapsed() > Duration::from_secs(4));
    for client in &mut drips {
        client.expect_closed();
    }
    assert!(start.elapsed() < Duration::from_secs(12));
    healthy.check();
}

#[test]
fn half_open_websocket_and_http_connections_are_closed_in_time() {
    let node =
        Node::start_with(&[("limits.connect_timeout", "2 s"), ("http.request_timeout", "2 s")]);
    let broker = node.broker();
    if !broker.ours {
        return;
    }
    use std::io::Write as _;
    let mut sockets = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(broker.http()).unwrap();
        let text: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpg",
            // A whole upgrade, then silence where CONNECT is due.
            _ => {
                b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Protocol: mqtt\r\n\r\n"
            }
        };
        stream.write_all(text).unwrap();
        sockets.push(stream);
    }
    wait_until_within(Duration::from_secs(20), "silent connections are closed", || {
        sockets.iter_mut().all(is_closed)
    });
    let mut client = broker.v5("after").websocket().connect();
    client.ping();
}

#[test]
fn connections_beyond_the_limit_of_a_listener_are_closed_at_once() {
    let node = Node::start_with(&[("limits.connections_max", "10")]);
    let broker = node.broker();
    if !broker.ours {
        return;
    }
    let mut inside: Vec<_> = (0..10).map(|n| broker.v5(&format!("inside{n}")).connect()).collect();
    let dial = broker.v5("outside");
    let mut outside = dial.open();
    outside.send_raw(&dial.connect_bytes());
    outside.expect_refusal_or_close(&[0x89, 0x97, 0x9F]);
    for client in &mut inside {
        client.ping();
    }
    inside.pop().unwrap().disconnect();
    wait_until("there is room again", || {
        let mut client = dial.open();
        client.patience = Duration::from_secs(2);
        client.send_raw(&dial.connect_bytes());
        matches!(
            client.receive(client.patience),
            crate::support::mqtt_client::Received::Packet(
                crate::support::packet::Packet::Connack { code: 0, .. }
            )
        )
    });
}

#[test]
fn sockets_leave_descriptors_to_the_log() {
    let node = Node::start_under(
        &["prlimit", "--nofile=160:160"],
        &[("storage.durability", "os"), ("storage.checkpoint_bytes", "4 MiB")],
    );
    let broker = node.broker();
    let mut absent = broker.v5("absent").durable().connect();
    absent.subscribe("d", 1);
    absent.disconnect();
    let mut from = broker.v5("from").connect();
    let crowd: Vec<_> = (0..400).map(|_| std::net::TcpStream::connect(broker.mqtt())).collect();
    // More than two segments, so that files are opened while the crowd is there.
    let body = "x".repeat(500_000);
    for _ in 0..150 {
        from.publish("d", &body, 1);
    }
    drop(crowd);
    wait_until("others are served again", || {
        let mut client = broker.v5("after").open();
        client.send_raw(&broker.v5("after").connect_bytes())
            && !matches!(client.receive(client.patience), Received::Closed)
    });
}
