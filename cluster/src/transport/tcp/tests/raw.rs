//! The other side of a connection, byte by byte, for tests that break the rules.

use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};

use super::{
    super::{
        frame::{Frame, Kind},
        greet::{self, GreetError, Identity},
        hello::Purpose,
    },
    *,
};

/// A connection after its handshake.
pub(super) struct Raw {
    pub(super) socket: TcpStream,
    pub(super) identity: Identity,
    buffer: BytesMut,
}

pub(super) fn bytes(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.put_head(&mut bytes);
        bytes.extend_from_slice(&frame.body);
    }
    bytes.to_vec()
}

impl Raw {
    pub(super) async fn call(
        address: &str,
        identity: &Identity,
        purpose: Purpose,
    ) -> Result<Self, GreetError> {
        let mut socket = TcpStream::connect(address).await.unwrap();
        greet::call(&mut socket, identity, Some(CLUSTER), purpose, None).await?;
        Ok(Self { socket, identity: identity.clone(), buffer: BytesMut::new() })
    }

    pub(super) async fn send(&mut self, frames: &[Frame]) {
        self.socket.write_all(&bytes(frames)).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer).unwrap() {
                return frame;
            }
            let read = self.socket.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "the connection was closed");
        }
    }

    pub(super) async fn next_answer(&mut self) -> Frame {
        loop {
            let frame = self.next().await;
            if frame.kind != Kind::Alive {
                return frame;
            }
        }
    }

    pub(super) async fn wait_until_closed(&mut self) {
        wait_until_closed(&mut self.socket).await;
    }
}

pub(super) async fn wait_until_closed(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut rest));
    // Closed, or reset because not everything was read: the end either way.
    let _ = closed.await.expect("the connection is still open");
}

/// Greets rightly and then does what a test wants.
pub(super) struct FakeListener {
    pub(super) listener: TcpListener,
    identity: Identity,
}

impl FakeListener {
    pub(super) async fn bind(identity: Identity) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), identity }
    }

    pub(super) fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    pub(super) async fn accept(&self) -> Raw {
        let (mut socket, _) = self.listener.accept().await.unwrap();
        let admit = |_: &greet::Met| Ok(());
        greet::listen(&mut socket, &self.identity, Some(CLUSTER), admit).await.unwrap();
        Raw { socket, identity: self.identity.clone(), buffer: BytesMut::new() }
    }
}
