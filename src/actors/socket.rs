//! What a connection needs of a socket; fronts implement it for TCP, WebSocket and memory.
//!
//! - Owns: nothing; a trait. `Rc<Link<dyn Socket>>` keeps the socket inside the link's allocation.
//! - Takes: readiness from the runtime. Gives: a plain stream of protocol bytes: a WebSocket unmasks,
//!   joins frames, answers pings and wraps output itself.
//! - Blocks: never; `WouldBlock` means: poll readiness again.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    task::{Context, Poll},
};

use bytes::BytesMut;

/// A non-blocking duplex stream used from one thread.
pub trait Socket: 'static {
    /// Waits until `try_read` may give something.
    ///
    /// # Errors
    /// The socket is broken.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Appends at most `buffer`'s spare capacity; `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; `InvalidData` when the peer broke the framing (its text is
    /// for the log); anything else means broken.
    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize>;

    /// Waits until `try_write_vectored` may take something.
    ///
    /// # Errors
    /// The socket is broken.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Writes a prefix of `slices`; returns how many of their bytes were taken. What was not taken
    /// (also by `WouldBlock`) is offered again, first: a frame around it may have been announced.
    ///
    /// # Errors
    /// `WouldBlock` when nothing was taken; anything else means broken.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Tells the peer that nothing more will come (FIN; a close frame first, where there is one).
    fn close(&self);

    /// Returns who is at the other end.
    fn peer(&self) -> Option<SocketAddr>;
}
