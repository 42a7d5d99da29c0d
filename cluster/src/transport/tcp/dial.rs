//! Keeps one link to one peer: resolves, connects, greets, carries, and again after a pause.
//!
//! - Owns: the connection of one link. Takes: the peer's address, which may change. Gives: a link that
//!   is connected whenever that is possible.
//! - Bound: `LINK_CONNECT_TIME` per address, `LINK_GREETING_TIME` for the handshake; pauses of
//!   `LINK_RETRY_MIN`, doubled up to `LINK_RETRY_MAX`.
//! - Names are resolved at each try: the address behind a name moves with its node.
//! - Source: own design.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

use super::{
    super::{Desk, LinkError},
    Inner,
    frame::{Frame, HEAD_BYTES, Kind},
    greet::{self, GreetError, Met},
    hello::{Purpose, Refusal},
    link::Link,
    news::News,
    pipe::{self, Ended, Incoming, Outbox},
};
use crate::{
    clock,
    id::NodeId,
    limits::{
        LINK_CONNECT_TIME, LINK_GREETING_TIME, LINK_RETRY_MAX, LINK_RETRY_MIN, LINK_SILENCE_MAX,
    },
};

/// Why there was no connection, or no longer.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("refused: {0}")]
    Greet(#[from] GreetError),
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl DialError {
    fn is_rubbish(&self) -> bool {
        matches!(self, Self::Ended(ended) if ended.is_rubbish())
    }
}

impl Outbox for Link {
    fn take(&self, to: &mut Vec<Frame>, bytes_max: usize) {
        Link::take(self, to, bytes_max);
    }

    async fn filled(&self) {
        self.queued.notified().await;
    }
}

/// Keeps `link` until the sender of addresses is gone.
pub(super) async fn keep(
    link: Arc<Link>,
    inner: Arc<Inner>,
    news: Arc<News>,
    mut address: watch::Receiver<String>,
) {
    let mut pause = LINK_RETRY_MIN;
    loop {
        let at = address.borrow_and_update().clone();
        link.set_address(&at);
        let started = clock::now();
        let why = tokio::select! {
            ended = once(&link, &inner, &at, &news) => match ended {
                Err(why) => why,
                Ok(never) => match never {},
            },
            changed = address.changed() => {
                link.disconnected("the address has changed".to_owned());
                if changed.is_err() {
                    return;
                }
                continue;
            }
        };
        let text = why.to_string();
        news.failed(link.class, &at, &text, why.is_rubbish());
        link.disconnected(text);
        if clock::now() - started >= LINK_RETRY_MAX {
            pause = LINK_RETRY_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LINK_RETRY_MAX),
            changed = address.changed() => {
                if changed.is_err() {
                    return;
                }
                pause = LINK_RETRY_MIN;
            }
        }
    }
}

/// Connects and carries frames until that ends.
async fn once(
    link: &Link,
    inner: &Inner,
    address: &str,
    news: &News,
) -> Result<Infallible, DialError> {
    let (mut socket, met) =
        meet(inner, address, Purpose::Link(link.class), Some(link.peer)).await?;
    link.connected(met.version);
    news.connected(link.class, address, met.version);
    let (reading, writing) = socket.split();
    let ended = tokio::select! {
        ended = read_all(Incoming::new(reading), link) => ended,
        ended = pipe::write_all(writing, link) => ended,
    };
    Ok(ended?)
}

/// Connects to the first of a name's addresses that answers, and greets it.
async fn meet(
    inner: &Inner,
    address: &str,
    purpose: Purpose,
    to: Option<NodeId>,
) -> Result<(TcpStream, Met), DialError> {
    let mut socket = connect(address).await.map_err(DialError::Connect)?;
    let identity = inner.identity.load_full();
    let greeting = greet::call(&mut socket, &identity, inner.cluster(), purpose, to);
    let met = timeout(LINK_GREETING_TIME, greeting).await.unwrap_or(Err(GreetError::TooSlow));
    if let Err(GreetError::RefusedByPeer(Refusal::Removed)) = met {
        // Whoever knows the secret and the cluster knows its directory, and nobody is removed twice.
        inner.told_removed.send_replace(true);
    }
    Ok((socket, met?))
}

/// Returns the addresses of a name; none if it has none, or cannot be asked for now.
pub(super) async fn resolve(address: String) -> Vec<String> {
    let found = timeout(LINK_CONNECT_TIME, tokio::net::lookup_host(&address)).await;
    match found {
        Ok(Ok(found)) => {
            let found: std::collections::BTreeSet<_> = found.collect();
            found.into_iter().map(|address| address.to_string()).collect()
        }
        Ok(Err(error)) => {
            tracing::debug!(address, %error, "the name cannot be resolved");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let slow = || io::Error::from(io::ErrorKind::TimedOut);
    let found = timeout(LINK_CONNECT_TIME, tokio::net::lookup_host(address)).await;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in found.map_err(|_| slow())?? {
        match timeout(LINK_CONNECT_TIME, TcpStream::connect(candidate)).await {
            Ok(Ok(socket)) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = slow(),
        }
    }
    Err(last)
}

async fn read_all(
    mut incoming: Incoming<impl AsyncRead + Unpin>,
    link: &Link,
) -> Result<Infallible, Ended> {
    loop {
        while let Some(frame) = incoming.next()? {
            let bytes = HEAD_BYTES + frame.body.len();
            match answer_of(frame)? {
                Some((id, answer)) => link.answered(id, answer, bytes)?,
                None => link.heard(bytes),
            }
        }
        incoming.fill().await?;
    }
}

/// The id of a request, and what came of it.
type Answer = (u64, Result<Bytes, LinkError>);

/// Reads what comes back: an answer, or a sign of life.
fn answer_of(frame: Frame) -> Result<Option<Answer>, Ended> {
    match frame.kind {
        Kind::Answer => Ok(Some((frame.id, Ok(frame.body)))),
        Kind::Refusal => {
            let text = String::from_utf8_lossy(&frame.body).into_owned();
            Ok(Some((frame.id, Err(LinkError::Refused(text)))))
        }
        Kind::Alive => Ok(None),
        Kind::Request | Kind::Cast => Err(Ended::Order("a question where answers come")),
    }
}

/// Asks the desk of members at an address, on a connection for this question alone.
pub(super) async fn knock(
    inner: Arc<Inner>,
    address: String,
    body: Bytes,
    time_out: Duration,
) -> Result<Bytes, LinkError> {
    let mut socket = match meet(&inner, &address, Purpose::Knock, None).await {
        Ok((socket, _)) => socket,
        // This node is one of those that belong to none.
        Err(DialError::Greet(GreetError::RefusedByPeer(Refusal::NoCluster | Refusal::Itself))) => {
            return Err(LinkError::NoCluster);
        }
        Err(DialError::Greet(why)) if why.is_final() => {
            return Err(LinkError::Denied(why.to_string()));
        }
        Err(DialError::Greet(why)) => return Err(LinkError::Refused(why.to_string())),
        Err(why) => {
            tracing::debug!(address, %why, "knocked in vain");
            return Err(LinkError::Unreachable);
        }
    };
    let time_out_ms = u32::try_from(time_out.as_millis()).unwrap_or(u32::MAX);
    let desk = Desk::Member as u8;
    let frame = Frame { kind: Kind::Request, desk, time_out_ms, id: 1, body };
    let mut bytes = BytesMut::new();
    frame.put_head(&mut bytes);
    bytes.extend_from_slice(&frame.body);
    socket.write_all(&bytes).await.map_err(|_| LinkError::Lost)?;
    let mut incoming = Incoming::new(socket);
    loop {
        while let Some(frame) = incoming.next().map_err(|_| LinkError::Lost)? {
            match answer_of(frame) {
                Ok(Some((1, answer))) => return answer,
                Ok(None) => {}
                _ => return Err(LinkError::Lost),
            }
        }
        incoming.fill().await.map_err(|_| LinkError::Lost)?;
    }
}

const _: () = assert!(LINK_GREETING_TIME.as_millis() < LINK_SILENCE_MAX.as_millis());
