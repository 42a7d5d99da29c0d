//! One connection of the generator: opens it, reads packets in batches, writes what is due.
//!
//! - Owns: a socket, and the bytes that a batch left over in either direction.
//! - Takes: packets to write. Gives: skimmed packets. Blocks: never; waits for the socket.
//! - Bound: reads go through the scratch buffer of the thread; a quiet connection holds none.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    num::NonZeroU16,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::{TcpSocket, TcpStream},
};

use super::worker::Worker;
use crate::{
    front::mqtt::client::{Client, DecodedFromServer, FromServer, Skimmed},
    model::{
        message::Qos,
        reason::Reason,
        wire::{Connect, DecodeLimits, Disconnect, SubackCode, SubscriptionOptions},
    },
};

/// Limits for the few packets that are decoded in full.
const LIMITS: DecodeLimits = DecodeLimits {
    packet_bytes_max: 1 << 20,
    topic_bytes_max: u16::MAX,
    topic_levels_max: u16::MAX,
    filters_per_packet_max: u16::MAX,
    user_properties_max: u16::MAX,
};

/// Times that connecting is tried again when the machine is short of ports.
const PORT_RETRIES: u32 = 400;

/// Ports that are tried before waiting for one.
const PORTS_AT_ONCE: u32 = 8;

/// Who connects.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Which connection of the run; chooses the source address.
    pub(super) index: u32,
    /// Which server in turn.
    pub(super) server: u32,
    /// Client id.
    pub(super) client_id: String,
    /// The session outlives the connection.
    pub(super) durable: bool,
    /// Forget an older session.
    pub(super) clean_start: bool,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    client: Client,
    /// Start of a packet whose end has not come.
    partial: Vec<u8>,
    /// Bytes that the socket has not taken.
    unsent: Vec<u8>,
    /// The server kept a session for us.
    pub(super) session_present: bool,
    /// Unacknowledged publishes that the server takes.
    pub(super) receive_maximum: u16,
}

impl Connection {
    /// Connects and waits for CONNACK. What the server sends right behind it goes to `early`.
    pub(super) async fn open(
        worker: &Worker,
        identity: &Identity,
        early: impl FnMut(Skimmed<'_>, &mut Vec<u8>),
    ) -> anyhow::Result<Self> {
        let common = &worker.common;
        let source = common.source.as_ref().map(|sources| sources.address(identity.index));
        let stream =
            connect_tcp(worker.server(identity.server), source.map(|ip| SocketAddr::new(ip, 0)))
                .await?;
        stream.set_nodelay(true)?;
        let client = common.client();
        let (partial, unsent) = (Vec::new(), Vec::new());
        let mut connection = Self {
            stream,
            client,
            partial,
            unsent,
            session_present: false,
            receive_maximum: u16::MAX,
        };
        let mut out = BytesMut::new();
        client.encode_connect(&connect_packet(worker, identity), &mut out);
        connection.send(&out).await?;
        match connection.answer(worker, early).await? {
            FromServer::Connack { connack, .. } if connack.reason == Reason::Success => {
                connection.session_present = connack.session_present;
                let receive_maximum = connack.receive_maximum.unwrap_or(NonZeroU16::MAX);
                connection.receive_maximum = receive_maximum.get();
                Ok(connection)
            }
            other => bail!("connection {} is refused: {other:?}", identity.client_id),
        }
    }

    /// Subscribes to one filter and waits for SUBACK.
    pub(super) async fn subscribe(
        &mut self,
        worker: &Worker,
        filter: &str,
        qos: Qos,
    ) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        self.client.encode_subscribe(NonZeroU16::MIN, None, [(filter, options)], &mut out);
        self.send(&out).await?;
        match self.answer(worker, |_, _| {}).await? {
            FromServer::Suback { codes, .. } if matches!(codes[..], [SubackCode::Granted(_)]) => {
                Ok(())
            }
            other => bail!("subscription to {filter} is refused: {other:?}"),
        }
    }

    /// Says goodbye and closes.
    pub(super) async fn disconnect(mut self) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        let disconnect = Disconnect { reason: Reason::Success, session_expiry_secs: None };
        self.client.encode_disconnect(&disconnect, &mut out);
        self.send(&out).await
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&mut self) -> io::Result<()> {
        self.unsent.extend_from_slice(&[0xc0, 0]);
        self.flush()
    }

    /// Where packets to send are gathered; [`progress`](Self::progress) and [`flush`](Self::flush) write.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// Writes as much as the socket takes now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.try_write(&self.unsent) {
                Ok(written) if written == self.unsent.len() => self.unsent.clear(),
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until packets have come, which go to `each`, or until everything unsent is written.
    ///
    /// `each` may append answers, which are written at once.
    pub(super) async fn progress(
        &mut self,
        worker: &Worker,
        mut each: impl FnMut(Skimmed<'_>, &mut Vec<u8>),
    ) -> anyhow::Result<()> {
        poll_fn(|cx| self.poll_progress(cx, worker, &mut each)).await
    }

    fn poll_progress(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        each: &mut impl FnMut(Skimmed<'_>, &mut Vec<u8>),
    ) -> Poll<anyhow::Result<()>> {
        if !self.unsent.is_empty() && self.stream.poll_write_ready(cx)?.is_ready() {
            self.flush()?;
            if self.unsent.is_empty() {
                return Poll::Ready(Ok(()));
            }
            // What is left waits for the socket: ask again, so that it wakes us.
            if self.stream.poll_write_ready(cx)?.is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        let mut scratch = worker.scratch.borrow_mut();
        let kept = self.partial.len();
        if scratch.len() < kept + worker.read_bytes_min {
            scratch.resize(kept * 2 + worker.read_bytes_min, 0);
        }
        scratch[..kept].copy_from_slice(&self.partial);
        let mut buffer = ReadBuf::new(&mut scratch[kept..]);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(result) => result?,
        }
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Err(anyhow::anyhow!("the server closed the connection")));
        }
        let used = self.skim_all(&scratch[..kept + read], each)?;
        self.partial.clear();
        if used < kept + read {
            self.partial.extend_from_slice(&scratch[used..kept + read]);
        } else if self.partial.capacity() > 0 {
            self.partial = Vec::new();
        }
        self.flush()?;
        Poll::Ready(Ok(()))
    }

    fn skim_all(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Skimmed<'_>, &mut Vec<u8>),
    ) -> anyhow::Result<usize> {
        let mut used = 0;
        while let Some((skimmed, consumed)) = self.client.skim(&bytes[used..])? {
            if let Skimmed::Other(packet) = skimmed {
                self.check_goodbye(packet)?;
            }
            each(skimmed, &mut self.unsent);
            used += consumed;
        }
        Ok(used)
    }

    fn check_goodbye(&self, packet: &[u8]) -> anyhow::Result<()> {
        if packet[0] == 0xe0 {
            let packet = self.client.decode(&Bytes::copy_from_slice(packet), &LIMITS)?;
            bail!("the server disconnects: {packet:?}");
        }
        Ok(())
    }

    /// Waits for a packet that is neither message nor acknowledgement, and decodes it. The others go to
    /// `early`.
    async fn answer(
        &mut self,
        worker: &Worker,
        mut early: impl FnMut(Skimmed<'_>, &mut Vec<u8>),
    ) -> anyhow::Result<FromServer> {
        let mut answer = None;
        while answer.is_none() {
            let progress = self.progress(worker, |skimmed, out| match skimmed {
                Skimmed::Other(packet) => answer = Some(Bytes::copy_from_slice(packet)),
                _ => early(skimmed, out),
            });
            let answered = tokio::time::timeout(worker.patience, progress).await;
            answered.context("the server does not answer")??;
        }
        match self.client.decode(&answer.unwrap_or_default(), &LIMITS)? {
            DecodedFromServer::Packet { packet, .. } => Ok(packet),
            DecodedFromServer::Partial { .. } => bail!("the answer is not whole"),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.unsent.extend_from_slice(bytes);
        self.flush()?;
        while !self.unsent.is_empty() {
            self.stream.writable().await?;
            self.flush()?;
        }
        self.unsent = Vec::new();
        Ok(())
    }
}

async fn connect_tcp(server: SocketAddr, source: Option<SocketAddr>) -> anyhow::Result<TcpStream> {
    let mut retries = 0;
    loop {
        let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket =
            socket.context("no more sockets; raise the limit of open files (ulimit -n)")?;
        if let Some(source) = source {
            socket.set_reuseaddr(true)?;
            socket.bind(source).with_context(|| format!("cannot connect from {source}"))?;
        }
        match socket.connect(server).await {
            Ok(stream) => return Ok(stream),
            // A port whose last connection has just ended; another one is free a moment later.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
                ) && retries < PORT_RETRIES =>
            {
                retries += 1;
                // The kernel picks ports at random: the next one is most likely free.
                if retries % PORTS_AT_ONCE == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            Err(error) => return Err(error).with_context(|| format!("cannot reach {server}")),
        }
    }
}

fn connect_packet(worker: &Worker, identity: &Identity) -> Connect {
    let common = &worker.common;
    Connect {
        clean_start: identity.clean_start,
        keep_alive_secs: common.keep_alive,
        session_expiry_secs: if identity.durable { 3_600 } else { 0 },
        user_name: common.username.clone(),
        password: common.password.clone().map(Bytes::from),
        ..Connect::new(common.client().dialect(), identity.client_id.clone())
    }
}
