//! The WebSocket layer beside tungstenite: nanoseconds per message, and the ratio.
//!
//! - Takes: the same masked bytes for both. Gives: a table; run it with `cargo bench --bench ws`.
//! - What is counted: reading masked binary messages until their payload can be used, and writing binary
//!   messages. Ours reads through `WsSocket` into one buffer, as a connection does; tungstenite through
//!   `WebSocket::read`. Both copy from memory where a system call would stand. Writing: ours puts a
//!   header in front of slices that stay where they are; tungstenite takes an owned message.

#[path = "support/ratio.rs"]
mod ratio;

use std::{
    cell::Cell,
    io::{self, IoSlice, Read, Write},
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use hongqiao::{
    actors::socket::Socket,
    front::ws::{
        frame::{Head, Opcode, Rules, unmask},
        socket::WsSocket,
    },
};
use tokio_tungstenite::tungstenite::{Message, WebSocket, protocol::Role};

const RULES: Rules = Rules { frame_bytes_max: 1 << 24, message_bytes_max: 1 << 24, text: false };

/// Bytes of one read, as a worker's buffer has them.
const READ_BYTES: usize = 64 * 1024;

/// Gives prepared bytes, counts what is written.
struct Memory<'a> {
    bytes: &'a [u8],
    at: Cell<usize>,
    written: Cell<u64>,
}

impl<'a> Memory<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: Cell::new(0), written: Cell::new(0) }
    }

    fn piece(&self, room: usize) -> &'a [u8] {
        let rest = &self.bytes[self.at.get()..];
        let taken = &rest[..rest.len().min(room).min(READ_BYTES)];
        self.at.set(self.at.get() + taken.len());
        taken
    }
}

impl Socket for Memory<'static> {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let taken = self.piece(buffer.capacity() - buffer.len());
        buffer.put_slice(taken);
        Ok(taken.len())
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = slices.iter().map(|slice| slice.len()).sum();
        self.written.set(self.written.get() + len as u64);
        Ok(len)
    }

    fn close(&self) {}

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.piece(buffer.len());
        buffer[..taken.len()].copy_from_slice(taken);
        Ok(taken.len())
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.set(self.written.get() + bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages as a client sends them.
fn masked(count: u32, payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..count {
        let start = bytes.len();
        bytes.extend_from_slice(Head::new(Opcode::Binary, payload_bytes as u64).as_slice());
        bytes[start + 1] |= 0x80;
        let key = (n.wrapping_mul(0x9e37_79b9) | 1).to_ne_bytes();
        bytes.extend_from_slice(&key);
        let start = bytes.len();
        bytes.resize(start + payload_bytes, b'x');
        unmask(&mut bytes[start..], &mut { key });
    }
    bytes
}

fn read_ours(input: &'static [u8], scratch: &mut BytesMut, rules: &Rc<Rules>) -> u64 {
    let socket = WsSocket::new(Memory::new(input), BytesMut::new(), Rc::clone(rules));
    let mut sum = 0;
    loop {
        scratch.clear();
        scratch.reserve(READ_BYTES);
        match socket.try_read(scratch) {
            Ok(0) => return sum,
            Ok(read) => sum += read as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return 0,
        }
    }
}

fn read_theirs(input: &[u8]) -> u64 {
    let mut socket = WebSocket::from_raw_socket(Memory::new(input), Role::Server, None);
    let mut sum = 0;
    while let Ok(message) = socket.read() {
        sum += message.len() as u64;
    }
    sum
}

fn write_ours(count: u32, payload: &[u8], rules: &Rc<Rules>) -> u64 {
    let socket = WsSocket::new(Memory::new(&[]), BytesMut::new(), Rc::clone(rules));
    let (front, back) = payload.split_at(payload.len() / 8);
    for _ in 0..count {
        let _ = socket.try_write_vectored(&[IoSlice::new(front), IoSlice::new(back)]);
    }
    socket.inner().written.get()
}

fn write_theirs(count: u32, payload: &Bytes) -> u64 {
    let mut socket = WebSocket::from_raw_socket(Memory::new(&[]), Role::Server, None);
    for _ in 0..count {
        let _ = socket.send(Message::Binary(payload.clone()));
    }
    socket.get_ref().written.get()
}

fn main() {
    let rules = Rc::new(RULES);
    for (payload_bytes, count) in [(16, 20_000), (256, 10_000), (4_096, 2_000), (262_144, 40)] {
        // One leak for each row: the socket trait asks for sockets that own what they read.
        let input: &'static [u8] = masked(count, payload_bytes).leak();
        let mut scratch = BytesMut::new();
        let expected = u64::from(count) * payload_bytes as u64;
        assert_eq!(read_ours(input, &mut scratch, &rules), expected);
        assert_eq!(read_theirs(input), expected);
        ratio::compare(
            &format!("read masked messages of {payload_bytes} B"),
            count,
            vec![
                ("hongqiao", Box::new(|| read_ours(input, &mut scratch, &rules))),
                ("tungstenite", Box::new(|| read_theirs(input))),
            ],
        );
        let payload = Bytes::from(vec![b'x'; payload_bytes]);
        ratio::compare(
            &format!("write messages of {payload_bytes} B"),
            count,
            vec![
                ("hongqiao", Box::new(|| write_ours(count, &payload, &rules))),
                ("tungstenite", Box::new(|| write_theirs(count, &payload))),
            ],
        );
    }
}
