//! Clients in memory that say one packet per stage and read everything, and what is published to them.
//!
//! - Owns: the stage of the script, shared by the sockets of a thread. Takes: a stage. Gives: CONNECT at
//!   stage 1, SUBSCRIBE at stage 2; at stage 0 a client is silent.
//! - Bound: 16 bytes of state for a socket.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use hongqiao::{
    actors::socket::Socket,
    model::{
        id::AppId,
        message::{Message, Qos},
        topic::{TopicError, TopicName},
    },
};

/// The app of all clients.
pub(crate) const APP: AppId = AppId(1);
/// What all clients subscribe to.
pub(crate) const TOPIC: &str = "news/all";

/// Returns a message to all.
pub(crate) fn message(payload_bytes: usize) -> Result<Arc<Message>, TopicError> {
    Ok(Arc::new(Message {
        app: APP,
        topic: TopicName::parse(TOPIC)?,
        publisher: None,
        id: None,
        qos: Qos::AtMostOnce,
        retain: false,
        published_at_ms: 0,
        expires_at_ms: None,
        properties: Bytes::new(),
        payload: Bytes::from(vec![b'x'; payload_bytes]),
    }))
}

/// What the sockets of a worker share: how far the script is.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) stage: Cell<u8>,
}

/// A client that says one packet per stage, and reads everything.
pub(crate) struct ScriptSocket {
    script: Rc<Script>,
    number: u32,
    said: Cell<u8>,
    distinct: bool,
}

impl ScriptSocket {
    /// Makes client `number`; a `distinct` one subscribes to a filter of its own, too.
    pub(crate) fn new(script: Rc<Script>, number: u32, distinct: bool) -> Self {
        Self { script, number, said: Cell::new(0), distinct }
    }

    fn say(&self, stage: u8, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        if stage == 1 {
            let id = format!("c{}", self.number);
            body.put_slice(b"\0\x04MQTT\x04\x02\0\x3c");
            put_text(&mut body, &id);
            out.put_u8(0x10);
        } else {
            body.put_u16(1);
            put_text(&mut body, TOPIC);
            body.put_u8(0);
            if self.distinct {
                put_text(&mut body, &format!("device/{:07}/inbox", self.number));
                body.put_u8(0);
            }
            out.put_u8(0x82);
        }
        out.put_u8(u8::try_from(body.len()).unwrap_or(127));
        out.put_slice(&body);
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

impl Socket for ScriptSocket {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The bench wakes every link when the script goes on.
        if self.said.get() < self.script.stage.get() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let stage = self.said.get() + 1;
        if stage > self.script.stage.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = buffer.len();
        self.say(stage, buffer);
        self.said.set(stage);
        Ok(buffer.len() - before)
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn close(&self) {}

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}
