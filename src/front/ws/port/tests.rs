//! A port on loopback, with a foreign WebSocket library and with bare sockets as clients.

use std::{collections::HashMap, future::poll_fn, io::ErrorKind, io::IoSlice};

use actix_web::{App, HttpResponse, web};
use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinHandle;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error as ClientError, Message,
        client::IntoClientRequest,
        protocol::{
            CloseFrame,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    },
};

use super::*;
use crate::{
    actors::socket::Socket,
    front::transport::{self, TcpSocket},
    front::ws::{
        frame::Rules,
        socket::WsSocket,
        upgrade::{Endpoint, MQTT_SUBPROTOCOLS},
    },
};

const RULES: Rules = Rules { frame_bytes_max: 1 << 20, message_bytes_max: 2 << 20, text: false };
const PATIENCE: Duration = Duration::from_secs(10);

/// Echoes the stream of bytes, as a connection would answer packets.
struct Echo;

impl Endpoint for Echo {
    fn subprotocols(&self) -> &[&'static str] {
        MQTT_SUBPROTOCOLS
    }

    fn allows_origin(&self, origin: Option<&str>, _: Option<&str>) -> bool {
        origin.is_none_or(|origin| origin == "https://app.example")
    }

    fn has_room(&self) -> bool {
        true
    }

    fn accept(&self, upgraded: Upgraded) {
        assert!(upgraded.peer.is_some());
        let socket =
            WsSocket::new(TcpSocket::new(upgraded.stream), upgraded.replay, Rc::new(RULES));
        actix::spawn(echo(socket));
    }
}

async fn echo(socket: WsSocket<TcpSocket>) {
    let mut buffer = BytesMut::new();
    loop {
        poll_fn(|cx| socket.poll_read_ready(cx)).await.unwrap();
        buffer.clear();
        buffer.reserve(100_000);
        match socket.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidData);
                break;
            }
        }
        let mut sent = 0;
        while sent < buffer.len() {
            poll_fn(|cx| socket.poll_write_ready(cx)).await.unwrap();
            match socket.try_write_vectored(&[IoSlice::new(&buffer[sent..])]) {
                Ok(taken) => sent += taken,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
    socket.close();
}

struct Port {
    address: SocketAddr,
    stop: watch::Sender<Phase>,
    task: JoinHandle<io::Result<()>>,
}

fn start(change: impl FnOnce(&mut PortSettings)) -> Port {
    let mut settings = PortSettings::new(Duration::from_secs(5));
    change(&mut settings);
    let bound = transport::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap();
    let (address, listener) = (bound.address, bound.listeners.into_iter().next().unwrap());
    let endpoint: Rc<dyn Endpoint> = Rc::new(Echo);
    let endpoints = Rc::new(HashMap::from([("/mqtt".to_owned(), endpoint)]));
    let (stop, stopped) = watch::channel(Phase::Open);
    let hello = || async { HttpResponse::Ok().body("hello") };
    let large = || async { HttpResponse::Ok().body(vec![b'x'; 64 * 1_024]) };
    let echo = |body: web::Bytes| async { HttpResponse::Ok().body(body) };
    let app = App::new()
        .route("/hello", web::get().to(hello))
        .route("/large", web::get().to(large))
        .route("/echo", web::post().to(echo));
    let task = actix::spawn(serve(listener, app, endpoints, settings, stopped));
    Port { address, stop, task }
}

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

type Headers<'a> = &'a [(&'static str, &'a str)];

async fn dial(
    address: SocketAddr,
    path: &str,
    headers: Headers<'_>,
) -> Result<Client, ClientError> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    timeout(PATIENCE, connect_async(request)).await.unwrap().map(|(client, answer)| {
        assert_eq!(answer.headers()["sec-websocket-protocol"], "mqtt");
        client
    })
}

async fn client(address: SocketAddr) -> Client {
    dial(address, "/mqtt", &[("sec-websocket-protocol", "mqtt")]).await.unwrap()
}

async fn next(client: &mut Client) -> Option<Result<Message, ClientError>> {
    timeout(PATIENCE, client.next()).await.unwrap()
}

/// Reads binary messages until `len` bytes are there.
async fn stream(client: &mut Client, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        match next(client).await.unwrap().unwrap() {
            Message::Binary(bytes) => all.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    all
}

async fn close_code(client: &mut Client) -> u16 {
    loop {
        match next(client).await.unwrap().unwrap() {
            Message::Close(Some(CloseFrame { code, .. })) => return code.into(),
            Message::Close(None) => return 0,
            _ => {}
        }
    }
}

/// Sends `request` on a bare socket; gives what comes until the end of the stream.
async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

const HANDSHAKE: &str = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[actix::test]
async fn packets_when_over_many_frames_then_one_stream() {
    let port = start(|_| {});
    let mut client = client(port.address).await;
    let first = Frame::message(&b"abc"[..], OpCode::Data(Data::Binary), false);
    client.send(Message::Frame(first)).await.unwrap();
    client.send(Message::Ping((&b"between"[..]).into())).await.unwrap();
    let more = Frame::message(&b"def"[..], OpCode::Data(Data::Continue), true);
    client.send(Message::Frame(more)).await.unwrap();
    client.send(Message::binary(&b""[..])).await.unwrap();
    client.send(Message::binary(&b"ghi"[..])).await.unwrap();
    let (mut data, mut pongs) = (Vec::new(), 0);
    while data.len() < 9 {
        match next(&mut client).await.unwrap().unwrap() {
            Message::Binary(bytes) => data.extend(bytes),
            Message::Pong(payload) => {
                assert_eq!(&payload[..], b"between");
                pongs += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((&data[..], pongs), (&b"abcdefghi"[..], 1));
}

#[actix::test]
async fn megabyte_when_echoed_through_a_full_socket_then_whole() {
    let port = start(|_| {});
    let (mut sink, mut source) = client(port.address).await.split();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let (copy, rounds) = (bytes.clone(), 16);
    let writer = actix::spawn(async move {
        for _ in 0..rounds {
            sink.send(Message::binary(copy.clone())).await.unwrap();
        }
        sink
    });
    let mut all = Vec::new();
    while all.len() < rounds * bytes.len() {
        let message = timeout(PATIENCE, source.next()).await.unwrap().unwrap().unwrap();
        all.extend(message.into_data());
    }
    assert!(all.chunks(bytes.len()).all(|chunk| chunk == bytes));
    drop(writer.await.unwrap());
}

#[actix::test]
async fn close_when_sent_then_echoed_and_the_socket_ends() {
    let port = start(|_| {});
    let mut client = client(port.address).await;
    client.send(Message::binary(&b"last"[..])).await.unwrap();
    assert_eq!(stream(&mut client, 4).await, b"last");
    let frame = CloseFrame { code: 1000.into(), reason: "bye".into() };
    client.send(Message::Close(Some(frame))).await.unwrap();
    assert_eq!(close_code(&mut client).await, 1000);
    assert!(next(&mut client).await.is_none());
}

#[actix::test]
async fn violation_when_sent_then_close_code_of_its_kind() {
    let port = start(|_| {});
    let mut texting = client(port.address).await;
    texting.send(Message::text("MQTT is binary")).await.unwrap();
    assert_eq!(close_code(&mut texting).await, 1003);
    let mut oversize = client(port.address).await;
    oversize.send(Message::binary(vec![0; (1 << 20) + 1])).await.unwrap();
    assert_eq!(close_code(&mut oversize).await, 1009);
    let unmasked = [HANDSHAKE.as_bytes(), &[0x82, 0x01, b'x']].concat();
    let answer = raw(port.address, &unmasked).await;
    assert!(answer.ends_with("\u{fffd}\u{2}\u{3}\u{fffd}"), "close 1002: {answer:?}");
}

#[actix::test]
async fn frames_when_sent_with_the_request_then_replayed() {
    let port = start(|_| {});
    let hello = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
    // Two masked frames (key zero) and a close, right behind two requests.
    let frames = b"\x82\x83\0\0\0\0one\x82\x83\0\0\0\0two\x88\x80\0\0\0\0";
    let bytes = [hello.as_bytes(), HANDSHAKE.as_bytes(), frames].concat();
    let answer = raw(port.address, &bytes).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    let (_, upgraded) = answer.split_once("HTTP/1.1 101 ").unwrap();
    assert!(upgraded.contains("onetwo"), "{upgraded:?}");
}

#[actix::test]
async fn handshake_when_refused_then_status_and_text() {
    let port = start(|_| {});
    let mqtt = ("sec-websocket-protocol", "mqtt");
    let evil = ("origin", "https://evil.example");
    let cases: [(&str, Headers<'_>, u16); 4] = [
        ("/other", &[mqtt], 404),
        ("/mqtt", &[mqtt, evil], 403),
        ("/mqtt", &[], 400),
        ("/hello", &[mqtt], 404),
    ];
    for (path, headers, status) in cases {
        match dial(port.address, path, headers).await {
            Err(ClientError::Http(answer)) => assert_eq!(answer.status(), status, "{path}"),
            other => panic!("{path}: {:?}", other.err()),
        }
    }
    let connect = raw(port.address, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\nmore").await;
    assert!(connect.starts_with("HTTP/1.1 405 "), "{connect}");
    dial(port.address, "/mqtt", &[mqtt, ("origin", "https://app.example")]).await.unwrap();
}

#[actix::test]
async fn heads_when_sent_slowly_then_cut_off() {
    let port = start(|settings| {
        settings.request_timeout = Duration::from_millis(200);
        settings.answer_max = Duration::from_millis(400);
    });
    let never_ends = raw(port.address, b"GET /hello HTTP/1.1\r\nHost:").await;
    assert!(never_ends.starts_with("HTTP/1.1 408"), "{never_ends}");
    // Each later head, and each body, has as long: drip by drip is not longer.
    let hello = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
    let drip = "GET /hello HTTP/1.1\r\nHost: x\r\nX: ";
    let body = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    for slow in [drip, body] {
        for before in ["", hello, &hello.repeat(3)] {
            let mut socket = TcpStream::connect(port.address).await.unwrap();
            socket.write_all(before.as_bytes()).await.unwrap();
            let mut answers = vec![0; 4_096];
            let mut read = 0;
            while String::from_utf8_lossy(&answers[..read]).matches("hello").count()
                < before.matches("GET").count()
            {
                read += socket.read(&mut answers[read..]).await.unwrap();
            }
            let began = clock::now();
            socket.write_all(slow.as_bytes()).await.unwrap();
            while socket.write_all(b"x").await.is_ok() {
                assert!(began.elapsed() < Duration::from_secs(3), "{slow:?} after {before:?}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// The memory of a connection is bounded by what is read ahead, its time by `answer_max`.
#[actix::test]
async fn requests_when_sent_in_a_flood_and_no_answer_is_read_then_cut_off() {
    let port = start(|settings| settings.answer_max = Duration::from_millis(400));
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    let flood = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    let began = clock::now();
    let mut sent = 0_usize;
    while socket.write_all(flood.as_bytes()).await.is_ok() {
        sent += flood.len();
        assert!(began.elapsed() < Duration::from_secs(5), "{sent} bytes taken, and no end");
        // Whoever reads the requests must read the answers: what is taken unanswered is bounded.
        assert!(sent < 64 << 20, "{sent} bytes taken");
    }
}

#[actix::test]
async fn heads_when_too_long_then_refused() {
    let port = start(|_| {});
    for line in ["X: ", "GET /"] {
        let mut head = b"GET /hello HTTP/1.1\r\nHost: x\r\n".to_vec();
        if line == "GET /" {
            head.clear();
        }
        head.extend_from_slice(line.as_bytes());
        head.resize(limits::HTTP_HEAD_BYTES_MAX + 4_096, b'a');
        let answer = raw(port.address, &head).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer:?}");
        assert!(!answer.contains("hello"));
    }
    let many = "X: y\r\n".repeat(2_000);
    let head = format!("GET /hello HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let answer = raw(port.address, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer:?}");
}

#[actix::test]
async fn connections_when_too_many_then_503_but_websockets_do_not_count() {
    let port = start(|settings| settings.connections_max = 1);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(client(port.address).await);
        let client = clients.last_mut().unwrap();
        // The task of HTTP ends in the same poll that hands over; an echo shows it is done.
        client.send(Message::binary(&b"x"[..])).await.unwrap();
        assert_eq!(stream(client, 1).await, b"x");
    }
    let mut idle = TcpStream::connect(port.address).await.unwrap();
    idle.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
    let refused = raw(port.address, b"").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
}

#[actix::test]
async fn stop_when_said_then_port_ends_and_websockets_live_on() {
    let port = start(|_| {});
    let mut client = client(port.address).await;
    let _idle = TcpStream::connect(port.address).await.unwrap();
    port.stop.send(Phase::Ended).unwrap();
    timeout(PATIENCE, port.task).await.unwrap().unwrap().unwrap();
    client.send(Message::binary(&b"alive"[..])).await.unwrap();
    assert_eq!(stream(&mut client, 5).await, b"alive");
    assert!(TcpStream::connect(port.address).await.is_err());
}
