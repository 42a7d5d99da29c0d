//! A socket without a kernel: for tests, and for a million connections in one process.
//!
//! - Owns: bytes on their way in both directions.
//! - Takes: bytes and the end of the stream from its [`MemoryPeer`]. Gives: what was written.
//! - Bound: output beyond `room` bytes that the peer has not taken is `WouldBlock`.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut as _, BytesMut};

use super::socket::Socket;

/// What both ends share.
#[derive(Default)]
struct Pipe {
    input: RefCell<BytesMut>,
    output: RefCell<BytesMut>,
    /// Bytes that may still be written.
    room: Cell<usize>,
    peer_closed: Cell<bool>,
    closed: Cell<bool>,
    writes: Cell<usize>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

/// The server's end.
pub struct MemorySocket(Rc<Pipe>);

/// The client's end.
#[derive(Clone)]
pub struct MemoryPeer(Rc<Pipe>);

/// Makes a pair; the server's end takes `room` bytes before it blocks.
#[must_use]
pub fn pair(room: usize) -> (MemorySocket, MemoryPeer) {
    let pipe = Rc::new(Pipe { room: Cell::new(room), ..Pipe::default() });
    (MemorySocket(Rc::clone(&pipe)), MemoryPeer(pipe))
}

impl Socket for MemorySocket {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.0.input.borrow().is_empty() || self.0.peer_closed.get() {
            return Poll::Ready(Ok(()));
        }
        self.0.reader.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut input = self.0.input.borrow_mut();
        if input.is_empty() {
            let end = self.0.peer_closed.get();
            return if end { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = input.len().min(buffer.capacity() - buffer.len());
        buffer.put_slice(&input.split_to(count));
        if input.is_empty() {
            *input = BytesMut::new();
        }
        Ok(count)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.room.get() > 0 || self.0.peer_closed.get() {
            return Poll::Ready(Ok(()));
        }
        self.0.writer.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.writes.set(self.0.writes.get() + 1);
        let mut written = 0;
        for slice in slices {
            let count = slice.len().min(self.0.room.get());
            self.0.output.borrow_mut().put_slice(&slice[..count]);
            self.0.room.set(self.0.room.get() - count);
            written += count;
        }
        if written == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(written) }
    }

    fn close(&self) {
        self.0.closed.set(true);
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        self.0.closed.set(true);
    }
}

impl MemoryPeer {
    /// Sends bytes to the server.
    pub fn send(&self, bytes: &[u8]) {
        self.0.input.borrow_mut().put_slice(bytes);
        wake(&self.0.reader);
    }

    /// Takes what the server wrote; makes room for as much again.
    pub fn take(&self) -> BytesMut {
        let output = std::mem::take(&mut *self.0.output.borrow_mut());
        self.make_room(output.len());
        output
    }

    /// Lets the server write `bytes` more.
    pub fn make_room(&self, bytes: usize) {
        self.0.room.set(self.0.room.get().saturating_add(bytes));
        wake(&self.0.writer);
    }

    /// Ends the stream.
    pub fn close(&self) {
        self.0.peer_closed.set(true);
        wake(&self.0.reader);
        wake(&self.0.writer);
    }

    /// Tells whether the server closed its end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.get()
    }

    /// Returns how often the server wrote.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.0.writes.get()
    }
}

fn wake(waker: &Cell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
