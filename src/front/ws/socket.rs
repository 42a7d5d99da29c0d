//! A WebSocket that looks like a plain stream of bytes.
//!
//! ```text
//! peer ──▶ inner socket ──▶ unmask and join in the caller's buffer ──▶ connection
//!                 ◀── pong, close ──┐
//! peer ◀── inner socket ◀── one binary frame around each gathered write ◀── connection
//! ```
//!
//! - Owns: the place inside the current frames of both directions; no payload.
//! - Takes: bytes of the peer. Gives: those of binary messages, one after the other; the end of the
//!   stream after a close frame; `InvalidData` after a violation, which the peer has been told.
//! - Bound: `Rules`; 96 bytes more than the inner socket while nothing is under way.
//! - Source: RFC 6455; MQTT 5.0 §6 (packets are not aligned to messages; text closes).

use std::{
    cell::RefCell,
    io::{self, ErrorKind, IoSlice},
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, BytesMut};

use super::{
    frame::{Decoder, Event, Rules, Violation, close_code},
    output::Output,
};
use crate::actors::socket::Socket;

/// A WebSocket over `T`.
#[derive(Debug)]
pub struct WsSocket<T> {
    inner: T,
    rules: Rc<Rules>,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    decoder: Decoder,
    output: Output,
    /// What came behind the HTTP request.
    replay: Option<Box<BytesMut>>,
    input: Input,
}

#[derive(Clone, Copy, Debug)]
enum Input {
    Open,
    /// The peer's close code. It is answered when the connection has read what came before, so that
    /// answers to that still go out.
    Closed(Option<u16>),
    /// Told to the peer at the same point.
    Broken(Violation),
    /// What still comes is thrown away: closing with unread bytes would reset the connection before
    /// the peer has read why.
    Ignored,
}

impl<T: Socket> WsSocket<T> {
    /// Takes over `inner` after the 101; `replay` is what the peer sent behind its request.
    #[must_use]
    pub fn new(inner: T, replay: BytesMut, rules: Rc<Rules>) -> Self {
        let state = State {
            decoder: Decoder::default(),
            output: Output::default(),
            replay: (!replay.is_empty()).then(|| Box::new(replay)),
            input: Input::Open,
        };
        Self { inner, rules, state: RefCell::new(state) }
    }

    /// Returns the socket below.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Tells the peer why, then that nothing more will come. Inside a begun frame nothing can be
    /// told: only the end is.
    pub fn close_with(&self, code: u16) {
        let output = &mut self.state.borrow_mut().output;
        output.close(Some(code));
        // A peer that takes no bytes now is not waited for: it sees the end of the stream.
        output.flush(&self.inner);
        self.inner.close();
    }
}

impl State {
    /// Reads the frames in `bytes`, moves their payload to its front, returns how much that is.
    fn decode(&mut self, bytes: &mut [u8], rules: &Rules) -> usize {
        let (mut at, mut kept) = (0, 0);
        while matches!(self.input, Input::Open) {
            match self.decoder.next(bytes, &mut at, rules) {
                Ok(None) => break,
                Ok(Some(Event::Data { range, .. })) => {
                    let len = range.len();
                    if range.start != kept {
                        bytes.copy_within(range, kept);
                    }
                    kept += len;
                }
                Ok(Some(Event::Ping(payload))) => self.output.pong(payload.as_slice()),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(code))) => self.input = Input::Closed(code),
                Err(violation) => self.input = Input::Broken(violation),
            }
        }
        kept
    }

    /// Answers the end of the input, if that is what comes next.
    fn end(&mut self, inner: &impl Socket) -> Option<io::Result<usize>> {
        let (code, end) = match self.input {
            Input::Open | Input::Ignored => return None,
            Input::Closed(code) => (code, Ok(0)),
            Input::Broken(violation) => {
                self.input = Input::Ignored;
                let error = io::Error::new(ErrorKind::InvalidData, violation);
                (Some(violation.close_code()), Err(error))
            }
        };
        self.output.close(code);
        self.output.flush(inner);
        Some(end)
    }

    /// Appends bytes of the replay, as many as `buffer` has room for.
    fn take_replay(&mut self, buffer: &mut BytesMut) -> Option<usize> {
        let replay = self.replay.as_mut()?;
        let taken = replay.len().min(buffer.capacity() - buffer.len());
        buffer.put_slice(&replay[..taken]);
        replay.advance(taken);
        if replay.is_empty() {
            self.replay = None;
        }
        Some(taken)
    }
}

impl<T: Socket> Socket for WsSocket<T> {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let decided = matches!(state.input, Input::Closed(_) | Input::Broken(_));
        if decided || state.replay.is_some() {
            return Poll::Ready(Ok(()));
        }
        // A pong that the socket did not take goes out when it takes bytes again.
        while state.output.wants_flush() && self.inner.poll_write_ready(cx).is_ready() {
            state.output.flush(&self.inner);
        }
        self.inner.poll_read_ready(cx)
    }

    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if let Some(end) = state.end(&self.inner) {
            return end;
        }
        let start = buffer.len();
        let read = match state.take_replay(buffer) {
            Some(taken) => taken,
            None => self.inner.try_read(buffer)?,
        };
        if read == 0 {
            return Ok(0);
        }
        let kept = state.decode(&mut buffer[start..], &self.rules);
        buffer.truncate(start + kept);
        state.output.flush(&self.inner);
        if kept > 0 {
            return Ok(kept);
        }
        // Pings and headers alone are not the end of the stream. There may be more: the caller asks
        // for readiness next, which the runtime grants a bounded number of times in one turn.
        state.end(&self.inner).unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_write_ready(cx)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let output = &mut self.state.borrow_mut().output;
        let taken = output.write(&self.inner, slices)?;
        // A pong may have waited for the end of this frame.
        output.flush(&self.inner);
        Ok(taken)
    }

    fn close(&self) {
        self.close_with(close_code::NORMAL);
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.inner.peer()
    }
}

#[cfg(test)]
mod tests;
