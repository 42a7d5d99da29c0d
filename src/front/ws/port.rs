//! The HTTP port of one worker: ordinary requests to the app, WebSockets to their endpoints.
//!
//! ```text
//! accept ──▶ HTTP/1 ──▶ app                  (requests)
//!                  └──▶ judge ──▶ 101 ──▶ endpoint (the bare socket; HTTP's task and buffers end)
//! ```
//!
//! - Owns: the accepted sockets until they end or are handed over.
//! - Takes: a bound listener; every worker has its own (`transport::bind`). Gives: `Upgraded` sockets.
//! - Bound: `PortSettings`; beyond `connections_max` a client gets 503. From the first byte of a request,
//!   head and body, whichever of the connection it is, its answer begins within `answer_max`, or the
//!   connection is cut off: that bounds clients that send slowly, and those that ask on and never
//!   read. One to which nothing was written for `silence_max` is cut off too.
//! - Source: RFC 9112; RFC 6455 §4.2.

use std::{
    cell::Cell,
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_codec::{Framed, FramedParts};
use actix_http::{HttpService, KeepAlive, Protocol, Request, h1};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, fn_service, map_config};
use actix_web::{
    body::MessageBody,
    dev::{AppConfig, ServiceResponse},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::upgrade::{Agreement, Endpoints, Refusal, Upgraded, judge};
use crate::{clock, front::transport, limits};

/// What a port allows.
#[derive(Clone, Copy, Debug)]
pub struct PortSettings {
    /// From accept to the first whole request head.
    pub request_timeout: Duration,
    /// How long a connection without a request stays open.
    pub keep_alive: Duration,
    /// From the first byte of any request to the first one of its answer; more than `request_timeout`,
    /// so that a first head that is late is answered 408.
    pub answer_max: Duration,
    /// Longest time in which a connection is written nothing; more than the two above.
    pub silence_max: Duration,
    /// Connections of this worker that speak HTTP; handed over WebSockets do not count.
    pub connections_max: usize,
}

impl PortSettings {
    /// Returns settings with everything but the time-out of requests as `limits` has it.
    #[must_use]
    pub fn new(request_timeout: Duration) -> Self {
        Self {
            request_timeout,
            answer_max: request_timeout + limits::HTTP_LINGER,
            keep_alive: limits::HTTP_KEEP_ALIVE,
            silence_max: limits::HTTP_SILENCE_MAX.max(2 * request_timeout),
            connections_max: limits::HTTP_CONNECTIONS_PER_WORKER_MAX,
        }
    }
}

/// How far a port is on its way from its first client to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everybody is served.
    #[default]
    Open,
    /// Requests are answered, so that probes hear why; clients are not let in: before the node can serve them, and
    /// when it sends them elsewhere.
    Away,
    /// No new connection; those that are there have the answer to what they ask.
    Left,
    /// No new connection; those that are there end with the requests under way.
    Ended,
}

/// Serves `listener` on the current thread until the phase is [`Phase::Left`], then until its connections have
/// ended. `app` is what `http::app` gives.
///
/// # Errors
/// The app did not start; or the listener cannot be used.
pub async fn serve<A, S, B>(
    listener: std::net::TcpListener,
    app: A,
    endpoints: Rc<Endpoints>,
    settings: PortSettings,
    phase: watch::Receiver<Phase>,
) -> io::Result<()>
where
    A: IntoServiceFactory<S, Request> + 'static,
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let write_timeout = settings.request_timeout;
    let now = phase.clone();
    let upgrade = fn_service(move |(request, framed): (Request, Framed<Guarded, h1::Codec>)| {
        let endpoints = Rc::clone(&endpoints);
        let verdict = match *now.borrow() {
            Phase::Open => judge(request.head(), &endpoints),
            _ => Err(Refusal::Away),
        };
        async move {
            upgrade(request, framed.into_parts(), verdict, write_timeout).await;
            Ok::<_, Infallible>(())
        }
    });
    let draining = phase.clone();
    let factory = HttpService::<Guarded, _, _, _, _>::build()
        .keep_alive(KeepAlive::Timeout(settings.keep_alive))
        .client_request_timeout(settings.request_timeout)
        .client_disconnect_timeout(limits::HTTP_LINGER)
        .graceful_shutdown_signal(move || {
            let mut phase = draining.clone();
            async move {
                let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
            }
        })
        .upgrade(upgrade)
        .finish(map_config(app, |()| AppConfig::default()));
    let service = factory.new_service(()).await;
    let service = service.map_err(|()| io::Error::other("the HTTP app did not start"))?;
    accept(listener, &service, settings, phase).await;
    Ok(())
}

/// Accepts until the end, then waits for the requests under way.
async fn accept<S>(
    listener: TcpListener,
    service: &S,
    settings: PortSettings,
    mut phase: watch::Receiver<Phase>,
) where
    S: Service<(Guarded, Protocol, Option<SocketAddr>), Response = (), Error: fmt::Debug>,
    S::Future: 'static,
    S::Error: 'static,
{
    let connections = Rc::new(Cell::new(0));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Left) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = Place::take(&connections, settings.connections_max);
                let Some(place) = place.filter(|_| !transport::is_reserved(&stream)) else {
                    refuse_full(&stream);
                    continue;
                };
                let (stream, turns) = Guarded::new(stream);
                let call = service.call((stream, Protocol::Http1, Some(peer)));
                actix::spawn(connection(call, turns, settings, place));
            }
            Err(error) => pause_after(&error).await,
        }
    }
    drop(listener);
    while connections.get() > 0 {
        sleep(limits::DRAIN_POLL).await;
    }
}

/// Drives one connection; drops it when it takes too long.
async fn connection<E: fmt::Debug>(
    call: impl Future<Output = Result<(), E>>,
    turns: Rc<Turns>,
    settings: PortSettings,
    _place: Place,
) {
    tokio::select! {
        outcome = call => {
            if let Err(error) = outcome {
                debug!(?error, "http connection ended");
            }
        }
        () = turns.too_long(settings) => debug!("http connection took too long"),
    }
}

/// Answers a request for a WebSocket and hands the socket over.
async fn upgrade(
    request: Request,
    parts: FramedParts<Guarded, h1::Codec>,
    verdict: Result<Agreement, Refusal>,
    write_timeout: Duration,
) {
    let FramedParts { io: Guarded { mut stream, .. }, read_buf, write_buf: mut answer, .. } = parts;
    let peer = request.peer_addr();
    drop(request);
    // Answers to earlier requests of this connection may still wait in front.
    match &verdict {
        Ok(agreement) => answer.extend_from_slice(agreement.answer().as_bytes()),
        Err(refusal) => answer.extend_from_slice(refusal.answer().as_bytes()),
    }
    let written = timeout(write_timeout, stream.write_all(&answer)).await;
    if !matches!(written, Ok(Ok(()))) {
        return debug!("a client took no answer to its upgrade");
    }
    match verdict {
        Ok(agreement) => {
            // The read buffer is a part of a large one: only its bytes go on.
            let replay = read_buf[..].into();
            let subprotocol = agreement.subprotocol;
            agreement.endpoint.accept(Upgraded { stream, replay, subprotocol, peer });
        }
        Err(refusal) => {
            debug!(%refusal, "upgrade refused");
            linger(stream).await;
        }
    }
}

/// Ends a connection so that the client reads the answer although it may have sent more: closing
/// with unread bytes would reset it.
async fn linger(mut stream: TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        let mut scratch = [0; 1024];
        let mut left = limits::HTTP_LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout(limits::HTTP_LINGER, drained).await;
}

fn refuse_full(stream: &TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
        Retry-After: 5\r\nConnection: close\r\n\r\n";
    // The send buffer of a new socket has room for this; a client that is gone misses nothing.
    let _ = stream.try_write(ANSWER);
    debug!("http connection refused: too many are open");
}

/// Waits when accepting failed for want of descriptors or memory: trying at once would spin.
async fn pause_after(error: &io::Error) {
    let of_one_client =
        matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
    if !of_one_client {
        warn!(%error, "cannot accept http connections");
        sleep(limits::ACCEPT_PAUSE).await;
    }
}

/// One of the connections that may be open.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(taken: &Rc<Cell<usize>>, max: usize) -> Option<Self> {
        (taken.get() < max).then(|| {
            taken.set(taken.get() + 1);
            Self(Rc::clone(taken))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whose turn it is on a connection, and since when.
struct Turns {
    wrote_at: Cell<Instant>,
    /// When the first byte of what is not answered yet came.
    asked_at: Cell<Option<Instant>>,
}

impl Turns {
    /// Waits until the client, or the answer to it, has taken too long.
    async fn too_long(&self, settings: PortSettings) {
        loop {
            let now = clock::now();
            let left = |since: Instant, max: Duration| {
                max.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())
            };
            let Some(silent) = left(self.wrote_at.get(), settings.silence_max) else { return };
            // What is asked from now on is late after `answer_max` at the earliest.
            let asked = self.asked_at.get().unwrap_or(now);
            let Some(unanswered) = left(asked, settings.answer_max) else { return };
            sleep(silent.min(unanswered)).await;
        }
    }
}

/// A socket that notes whose turn it is.
struct Guarded {
    stream: TcpStream,
    turns: Rc<Turns>,
}

impl Guarded {
    fn new(stream: TcpStream) -> (Self, Rc<Turns>) {
        let turns = Turns { wrote_at: Cell::new(clock::now()), asked_at: Cell::new(None) };
        let turns = Rc::new(turns);
        (Self { stream, turns: Rc::clone(&turns) }, turns)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.turns.asked_at.get().is_none() {
            self.turns.asked_at.set(Some(clock::now()));
        }
        poll
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if poll.is_ready() {
            self.turns.wrote_at.set(clock::now());
            self.turns.asked_at.set(None);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
