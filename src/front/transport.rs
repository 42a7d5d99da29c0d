//! TCP: listeners that every worker shares, and the socket of a plain connection.
//!
//! - Owns: listening sockets until their worker takes them; each connection's socket inside its link.
//! - Takes: an address. Gives: accepted sockets, on the worker that accepted them.
//! - Bound: `limits::LISTEN_BACKLOG`; `limits::ACCEPTS_PER_POLL` before other tasks have their turn;
//!   whoever opens the connection bounds their number. The last descriptors of the process are not for
//!   sockets, or clients that only connect could keep the log from being written.
//! - Source: socket(7) `SO_REUSEPORT`: the kernel spreads connections over the workers' listeners.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr, TcpListener as StdListener},
    os::fd::AsRawFd as _,
    sync::OnceLock,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    actors::{socket::Socket, worker::Worker},
    limits,
    metrics::ProcessUsage,
};

/// How long a listener waits when the process has no file descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why a listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("address {address} is in use")]
    InUse {
        /// Where.
        address: SocketAddr,
    },
    /// Anything else: no such address, not permitted.
    #[error("cannot listen on {address}")]
    Other {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// Listening sockets for one address, one for each worker.
#[derive(Debug)]
pub struct Bound {
    /// Where, with the port that the system chose for port 0.
    pub address: SocketAddr,
    /// To be handed to [`accept`] on each worker.
    pub listeners: Vec<StdListener>,
}

/// Binds `address` for `workers` workers.
///
/// `SO_REUSEPORT` alone would let a second process of the same user share the port silently; so the
/// address is first bound without it.
///
/// # Errors
/// [`BindError`]; nothing stays bound.
pub fn bind(address: SocketAddr, workers: usize) -> Result<Bound, BindError> {
    let fail = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Other { address, cause },
    };
    if address.port() != 0 {
        drop(listening(address, false).map_err(fail)?);
    }
    let first = listening(address, true).map_err(fail)?;
    let address = first.local_addr().map_err(fail)?;
    let mut listeners = vec![first];
    for _ in 1..workers {
        listeners.push(listening(address, true).map_err(fail)?);
    }
    Ok(Bound { address, listeners })
}

fn listening(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit it: one system call less for each connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Accepts on the current arbiter until the handle is aborted; `open` takes each socket.
///
/// # Errors
/// The listener cannot be watched by this thread's runtime.
pub fn accept(
    listener: StdListener,
    mut open: impl FnMut(TcpSocket) + 'static,
) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::from_std(listener)?;
    Ok(actix_rt::spawn(async move {
        loop {
            let accepted = poll_fn(|cx| poll_accept(&listener, &mut open, cx)).await;
            tracing::warn!(error = %accepted, "cannot accept; the listener pauses");
            tokio::time::sleep(ACCEPT_RETRY).await;
        }
    }))
}

/// Takes waiting connections; ready with an error that asks for a pause.
fn poll_accept(
    listener: &TcpListener,
    open: &mut impl FnMut(TcpSocket),
    cx: &mut Context<'_>,
) -> Poll<io::Error> {
    for _ in 0..limits::ACCEPTS_PER_POLL {
        match listener.poll_accept(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok((stream, _))) if is_reserved(&stream) => {
                tracing::debug!("no descriptor is left for this connection, socket closed");
                Worker::with(|worker| worker.counters().connections_refused.add(1));
            }
            Poll::Ready(Ok((stream, _))) => open(TcpSocket(stream)),
            Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(error),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Tells whether a socket has one of the last descriptors: the lowest free one is taken each time.
pub(super) fn is_reserved(stream: &TcpStream) -> bool {
    static END: OnceLock<u64> = OnceLock::new();
    let end = END.get_or_init(|| match ProcessUsage::read().max_fds {
        0 => u64::MAX,
        max => max - limits::FILES_RESERVED.min(max / 4),
    });
    u64::try_from(stream.as_raw_fd()).is_ok_and(|descriptor| descriptor >= *end)
}

/// Errors of accept(2) that say nothing about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A plain TCP connection.
#[derive(Debug)]
pub struct TcpSocket(TcpStream);

impl TcpSocket {
    /// Wraps a connected stream of this thread's runtime.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Notes that the last read took all there was, so that the next one asks no system call to say so.
    ///
    /// Bytes that came since then raise a new edge, which the runtime sees when it waits next; this
    /// thread is the one that waits, so it cannot have seen it yet.
    fn is_drained(&self) {
        let drained = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        // The closure's answer clears the readiness; there is nothing else to learn.
        let _ = self.0.try_io(Interest::READABLE, drained);
    }
}

impl Socket for TcpSocket {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let room = buffer.capacity() - buffer.len();
        let count = self.0.try_read_buf(buffer)?;
        if count < room {
            self.is_drained();
        }
        Ok(count)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_write_ready(cx)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            // write(2) is a little cheaper than writev(2).
            [one] => self.0.try_write(one),
            _ => self.0.try_write_vectored(slices),
        }
    }

    fn close(&self) {
        if let Err(error) = SockRef::from(&self.0).shutdown(Shutdown::Write) {
            tracing::debug!(%error, "the peer closed first");
        }
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.0.peer_addr().ok()
    }
}

// A debug build of mio remembers the selector of each socket.
const _: () = assert!(size_of::<TcpSocket>() <= if cfg!(debug_assertions) { 40 } else { 32 });

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io::Read as _, io::Write as _, rc::Rc};

    use super::*;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn on_arbiter<T: Future<Output = ()>>(test: impl FnOnce() -> T) {
        actix_rt::System::new().block_on(async {
            tokio::time::timeout(Duration::from_secs(10), test()).await.unwrap();
        });
    }

    #[test]
    fn bind_to_port_zero_gives_all_workers_the_same_port() {
        let bound = bind(loopback(0), 3).unwrap();
        assert_ne!(bound.address.port(), 0);
        assert_eq!(bound.listeners.len(), 3);
        for listener in &bound.listeners {
            assert_eq!(listener.local_addr().unwrap(), bound.address);
        }
    }

    #[test]
    fn bind_where_somebody_listens_says_in_use() {
        let bound = bind(loopback(0), 2).unwrap();
        let error = bind(bound.address, 2).unwrap_err();
        assert_eq!(error.to_string(), format!("address {} is in use", bound.address));
        let address = bound.address;
        drop(bound);
        assert_eq!(bind(address, 2).unwrap().address, address);
    }

    #[test]
    fn bind_to_a_foreign_address_gives_the_cause() {
        let error = bind(SocketAddr::from(([192, 0, 2, 1], 1)), 1).unwrap_err();
        assert!(matches!(error, BindError::Other { .. }), "{error}");
    }

    #[test]
    fn accepted_socket_reads_writes_and_closes_without_delay() {
        on_arbiter(|| async {
            let bound = bind(loopback(0), 1).unwrap();
            let address = bound.address;
            let client = std::thread::spawn(move || {
                let mut client = std::net::TcpStream::connect(address).unwrap();
                client.write_all(b"hello").unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).unwrap();
                answer
            });
            let accepted = Rc::new(Cell::new(None));
            let place = Rc::clone(&accepted);
            let listener = bound.listeners.into_iter().next().unwrap();
            let handle = accept(listener, move |socket| place.set(Some(socket))).unwrap();
            let socket = poll_fn(|cx| match accepted.take() {
                Some(socket) => Poll::Ready(socket),
                None => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            })
            .await;
            assert!(socket.0.nodelay().unwrap());
            let mut buffer = BytesMut::with_capacity(64);
            while buffer.len() < 5 {
                poll_fn(|cx| socket.poll_read_ready(cx)).await.unwrap();
                match socket.try_read(&mut buffer) {
                    Ok(count) => assert!(count > 0),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(&buffer[..], b"hello");
            let slices = [IoSlice::new(b"wo"), IoSlice::new(b"rld")];
            assert_eq!(socket.try_write_vectored(&slices).unwrap(), 5);
            socket.close();
            let answer = tokio::task::spawn_blocking(move || client.join().unwrap()).await.unwrap();
            assert_eq!(answer, "world");
            handle.abort();
        });
    }
}
