//! Reading from a link: one buffer per thread, and a box only for a packet that is not whole yet.
//!
//! - Owns: nothing; [`Partial`] is the connection's.
//! - Takes: bytes from the socket. Gives: shared slices of the thread's buffer, without a copy.
//! - Bound: one read of at most `limits::READ_BYTES`; a partial packet grows only with what arrived.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};

use super::{Link, flag};
use crate::{
    actors::{socket::Socket, worker::Worker},
    limits,
};

/// What one read gave.
#[derive(Debug)]
pub enum Read {
    /// All bytes that are not decoded yet, oldest first, with new ones at the end.
    Bytes(Bytes),
    /// Nothing whole now. The task is woken when there is more; poll again.
    Blocked,
    /// The peer sends nothing more.
    End,
}

/// The start of a packet that is not whole yet; one word while there is none.
#[derive(Debug, Default)]
pub struct Partial(Option<Box<(BytesMut, usize)>>);

impl Partial {
    /// Keeps undecoded `rest` until `missing_bytes_min` more have come.
    ///
    /// Copies it unless it is the only slice of its buffer.
    pub fn keep(&mut self, rest: Bytes, missing_bytes_min: usize) {
        if rest.is_empty() {
            self.0 = None;
            return;
        }
        let bytes = rest.try_into_mut().unwrap_or_else(|rest| BytesMut::from(&rest[..]));
        let wanted = bytes.len() + missing_bytes_min.max(1);
        self.0 = Some(Box::new((bytes, wanted)));
    }

    /// Returns how many bytes are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |kept| kept.0.len())
    }

    /// Returns how many bytes are reserved.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |kept| kept.0.capacity())
    }

    /// Tells whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Link<dyn Socket> {
    /// Reads once. The waker of `cx` is woken when a read that was `Blocked` can go on.
    ///
    /// With a packet that is not whole, reads only until it may be, and gives all its bytes.
    ///
    /// # Errors
    /// The socket is broken; `InvalidData` when the peer broke its framing.
    pub fn poll_read(&self, partial: &mut Partial, cx: &mut Context<'_>) -> io::Result<Read> {
        loop {
            let got = match &mut partial.0 {
                None => self.read_scratch(),
                Some(kept) => self.read_partial(&mut kept.0),
            };
            match got {
                Ok(0) => return Ok(Read::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.poll_read_ready(cx)?.is_ready() {
                        continue;
                    }
                    return Ok(Read::Blocked);
                }
                Err(error) => return Err(error),
            }
            match partial.0.take() {
                None => return Ok(Read::Bytes(self.take_scratch())),
                Some(kept) if kept.0.len() >= kept.1 => return Ok(Read::Bytes(kept.0.freeze())),
                Some(kept) => partial.0 = Some(kept),
            }
        }
    }

    /// Throws away what a closed peer still sends; ready at its end.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Bounded, so that a peer that floods a closed link cannot keep the thread.
        for _ in 0..16 {
            match self.read_scratch() {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => drop(self.take_scratch()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.socket.poll_read_ready(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => return Poll::Ready(()),
                    }
                }
                Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Tells whether the outbox holds its limit: the connection reads no more until it is woken, at
    /// half of it.
    pub fn poll_room(&self) -> Poll<()> {
        let full = Worker::with(|worker| self.is_full(worker)).unwrap_or(false);
        if full {
            self.set(flag::WANTS_ROOM);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn read_scratch(&self) -> io::Result<usize> {
        Worker::with(|worker| {
            let mut scratch = worker.scratch();
            let count = self.socket.try_read(&mut scratch)?;
            worker.counters().bytes_in.add(count as u64);
            Ok(count)
        })
        .unwrap_or_else(|| Err(io::Error::other("no worker on this thread")))
    }

    fn take_scratch(&self) -> Bytes {
        Worker::with(|worker| worker.take_scratch()).unwrap_or_default()
    }

    fn read_partial(&self, kept: &mut BytesMut) -> io::Result<usize> {
        // Grows with what has arrived, never with what was announced.
        let ahead = kept.len().clamp(512, limits::PARTIAL_RESERVE_BYTES_MAX);
        kept.reserve(ahead);
        let count = self.socket.try_read(kept)?;
        Worker::with(|worker| worker.counters().bytes_in.add(count as u64));
        Ok(count)
    }
}
