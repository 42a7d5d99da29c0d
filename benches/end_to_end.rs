//! One message from socket to socket through a whole node, beside a relay that only copies bytes.
//!
//! - Takes: nothing. Gives: nanoseconds per message and the ratio, for one message at a time and for
//!   bursts; run it with `cargo bench --bench end_to_end`.
//! - What is counted: publisher's write to subscriber's read over loopback, QoS 0, 256 bytes, in one
//!   process: clients on one thread, the node on its own (two workers), the relay on one.
//! - Baseline: a tokio task that reads from one socket and writes to another: the same system calls and
//!   wake-ups, and nothing in between.

#[path = "support/ratio.rs"]
mod ratio;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use bytes::BytesMut;
use hongqiao::{
    banner::Form,
    config::{Config, Sources},
    data_folder::DataFolder,
    front::mqtt::client::{Client, Skimmed},
    model::{
        message::Qos,
        wire::{Connect, Delivery, Dialect},
    },
    server,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAYLOAD_BYTES: usize = 256;
const MESSAGES: u32 = 2_000;
const BURST: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(30);
/// SUBSCRIBE to `pair/1` at QoS 0, MQTT 3.1.1 section 3.8.
const SUBSCRIBE: &[u8] = b"\x82\x0b\0\x01\0\x06pair/1\0";

/// A socket to write to, and one on which the same comes out.
struct Pipe {
    publisher: TcpStream,
    subscriber: TcpStream,
    packet: Vec<u8>,
    received: Vec<u8>,
}

impl Pipe {
    fn new(publisher: TcpStream, subscriber: TcpStream) -> anyhow::Result<Self> {
        for stream in [&publisher, &subscriber] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        let delivery = Delivery {
            topic: b"pair/1",
            topic_alias: None,
            qos: Qos::AtMostOnce,
            dup: false,
            retain: false,
            expiry_secs: None,
            properties: &[],
            subscription_ids: &[],
            payload: &[b'x'; PAYLOAD_BYTES],
        };
        let mut packet = BytesMut::new();
        Client::V4.encode_publish(&delivery, &mut packet);
        packet.extend_from_slice(delivery.payload);
        Ok(Self { publisher, subscriber, packet: packet.to_vec(), received: vec![0; 1 << 16] })
    }

    /// Sends `MESSAGES`, `burst` at a time; a burst goes out when the one before it has come in. At QoS 0
    /// to one subscriber what goes in and what comes out have the same bytes.
    fn run(&mut self, burst: u32) -> anyhow::Result<u64> {
        let bytes = self.packet.repeat(usize::try_from(burst)?);
        for _ in 0..MESSAGES / burst {
            self.publisher.write_all(&bytes)?;
            let mut missing = bytes.len();
            while missing > 0 {
                let read = self.subscriber.read(&mut self.received)?;
                anyhow::ensure!(read > 0, "the connection ended");
                missing = missing.checked_sub(read).context("more came than was sent")?;
            }
        }
        let first = Client::V4.skim(&self.received).ok().flatten();
        let is_publish = matches!(first, Some((Skimmed::Publish { .. }, _)));
        anyhow::ensure!(is_publish, "what came is no message");
        Ok(u64::from(MESSAGES))
    }
}

/// Starts a node and connects to it.
fn through_node(folder: &std::path::Path) -> anyhow::Result<Pipe> {
    let sources = Sources {
        assignments: vec![
            format!("storage.data_dir={}", folder.display()),
            "listeners.mqtt.address=127.0.0.1:0".to_owned(),
            "listeners.http.enabled=false".to_owned(),
            "workers.threads=2".to_owned(),
        ],
        ..Sources::default()
    };
    let config = Config::load(&sources)?;
    let node = thread::spawn(move || server::run(&config, Form::Text));
    let marks = DataFolder::new(folder);
    let address = loop {
        if let Some(address) =
            marks.listening().ok().and_then(|all| all.get("mqtt")?.first().copied())
        {
            break address;
        }
        anyhow::ensure!(!node.is_finished(), "the node did not start");
        thread::yield_now();
    };
    let (publisher, mut subscriber) = (connect(address, "p")?, connect(address, "s")?);
    subscriber.write_all(SUBSCRIBE)?;
    let mut suback = [0; 5];
    subscriber.read_exact(&mut suback)?;
    anyhow::ensure!(suback == *b"\x90\x03\0\x01\0", "the subscription is refused");
    Pipe::new(publisher, subscriber)
}

fn connect(address: SocketAddr, client_id: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let mut packet = BytesMut::new();
    Client::V4.encode_connect(&Connect::new(Dialect::MqttV4, client_id), &mut packet);
    stream.write_all(&packet)?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    anyhow::ensure!(connack == *b"\x20\x02\0\0", "the node refuses: {connack:?}");
    Ok(stream)
}

/// Starts a relay and connects to it.
fn through_relay() -> anyhow::Result<Pipe> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let publisher = TcpStream::connect(listener.local_addr()?)?;
    let from = listener.accept()?.0;
    let subscriber = TcpStream::connect(listener.local_addr()?)?;
    let to = listener.accept()?.0;
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(relay(from, to))
    });
    Pipe::new(publisher, subscriber)
}

async fn relay(from: TcpStream, to: TcpStream) -> std::io::Result<()> {
    for stream in [&from, &to] {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
    }
    let mut from = tokio::net::TcpStream::from_std(from)?;
    let mut to = tokio::net::TcpStream::from_std(to)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = through_node(&folder.path().join("data"))?;
    let mut relay = through_relay()?;
    // Fails with a reason before anything is measured.
    node.run(BURST)?;
    relay.run(BURST)?;
    for (title, burst) in [("one at a time", 1), ("bursts of 100", BURST)] {
        ratio::compare(
            &format!("socket to socket, {PAYLOAD_BYTES} bytes, {title}, per message"),
            MESSAGES,
            vec![
                ("relay", Box::new(|| relay.run(burst).unwrap_or_default())),
                ("node", Box::new(|| node.run(burst).unwrap_or_default())),
            ],
        );
    }
    // Both must still work, or the numbers are those of errors.
    node.run(BURST)?;
    relay.run(BURST)?;
    folder.close()?;
    // The node ends with the process; stopping it is what `tests/` are for.
    std::process::exit(0)
}
