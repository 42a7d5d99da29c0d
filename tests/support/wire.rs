//! The byte stream under a test client: TCP, or binary WebSocket frames.
//!
//! - Owns: one socket. Takes: bytes to send. Gives: bytes, the end of the stream, or nothing in time.
//! - Blocks: the calling test thread, never longer than it says.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Bytes(Vec<u8>),
    Closed,
    Nothing,
}

pub(crate) trait Wire: Send {
    /// Waits for bytes.
    fn read(&mut self, patience: Duration) -> Came;

    /// Writes all of it; false if the peer is gone.
    fn write(&mut self, bytes: &[u8]) -> bool;

    /// Ends both directions at once, without any protocol.
    fn cut(&mut self);

    /// The socket, for its options.
    fn socket(&self) -> &TcpStream;
}

/// Plain TCP.
pub(crate) struct Tcp {
    stream: TcpStream,
    scratch: Vec<u8>,
}

impl Tcp {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).unwrap()
    }

    /// As `connect`; the server may be gone.
    pub(crate) fn try_connect(addr: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, super::wait::PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(super::wait::PATIENCE))?;
        Ok(Self { stream, scratch: vec![0; 64 * 1024] })
    }
}

impl Wire for Tcp {
    fn read(&mut self, patience: Duration) -> Came {
        let patience = patience.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(patience)).unwrap();
        match self.stream.read(&mut self.scratch) {
            Ok(0) => Came::Closed,
            Ok(count) => Came::Bytes(self.scratch[..count].to_vec()),
            Err(error) if is_timeout(error.kind()) => Came::Nothing,
            Err(_) => Came::Closed,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    fn cut(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn socket(&self) -> &TcpStream {
        &self.stream
    }
}

pub(crate) fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
