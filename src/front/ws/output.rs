//! The writing half of a WebSocket: frames around what the connection writes, control frames between.
//!
//! - Owns: what is left of the frame that was begun; control frames that wait, boxed while they do.
//! - Takes: gathered slices. Gives: one binary frame for each gathered write.
//! - Bound: `WAITING_BYTES` of control frames; of pings that pile up the latest is answered.
//! - Source: RFC 6455 §5.4 (nothing inside a frame), §5.5.1 (nothing behind a close), §5.5.3.

use std::io::{self, ErrorKind, IoSlice};

use bytes::BufMut;
use smallvec::SmallVec;

use super::frame::{CONTROL_BYTES_MAX, Head, Opcode};
use crate::actors::socket::Socket;

/// Slices of one write; more are left for the next.
const SLICES_MAX: usize = 64;

/// Two control frames of full length: one that was begun, and the latest.
const WAITING_BYTES: usize = 2 * (CONTROL_BYTES_MAX + 2);

/// What stands between the connection's bytes and the socket.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Payload bytes that the begun frame still wants.
    payload_left: u64,
    head: Head,
    head_sent: u8,
    /// A close frame was queued: nothing may follow.
    closing: bool,
    waiting: Option<Box<Waiting>>,
}

/// Control frames on their way.
#[derive(Debug)]
struct Waiting {
    len: u8,
    sent: u8,
    bytes: [u8; WAITING_BYTES],
}

const _: () = assert!(WAITING_BYTES <= u8::MAX as usize);

impl Output {
    /// Returns whether a control frame waits that could be sent now.
    pub(super) fn wants_flush(&self) -> bool {
        self.waiting.is_some() && self.payload_left == 0
    }

    /// Returns whether nothing is under way.
    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_none() && self.payload_left == 0
    }

    /// Queues a pong; it replaces those that wait unsent.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        if !self.closing {
            self.queue(Opcode::Pong, payload);
        }
    }

    /// Queues the close frame, once.
    pub(super) fn close(&mut self, code: Option<u16>) {
        if !self.closing {
            self.queue(Opcode::Close, code.map(u16::to_be_bytes).as_ref().map_or(&[], |code| code));
            self.closing = true;
        }
    }

    /// `payload` is at most `CONTROL_BYTES_MAX` bytes: it comes from a `Control` or is a code.
    fn queue(&mut self, opcode: Opcode, payload: &[u8]) {
        let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
        let head = Head::new(opcode, payload.len() as u64);
        let waiting = self.waiting.get_or_insert_with(|| {
            Box::new(Waiting { len: 0, sent: 0, bytes: [0; WAITING_BYTES] })
        });
        if waiting.free() < head.as_slice().len() + payload.len() {
            waiting.forget_unsent();
        }
        waiting.push(head.as_slice());
        waiting.push(payload);
    }

    /// Writes a prefix of `slices`, framed; see `Socket::try_write_vectored`.
    pub(super) fn write(
        &mut self,
        inner: &impl Socket,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let slices = &slices[..slices.len().min(SLICES_MAX)];
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        if offered == 0 {
            return Ok(0);
        }
        let begins = self.payload_left == 0;
        if begins && self.closing {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if begins {
            (self.head, self.head_sent) = (Head::new(Opcode::Binary, offered as u64), 0);
            self.payload_left = offered as u64;
        }
        let outcome = inner.try_write_vectored(&self.gather(begins, slices));
        let taken = outcome.as_ref().map_or(0, |&written| self.account(begins, written));
        if begins && self.head_sent == 0 {
            // Not a byte of the frame has left: the next one may be of another length.
            self.payload_left = 0;
        }
        match outcome {
            Ok(_) if taken == 0 => Err(ErrorKind::WouldBlock.into()),
            Ok(_) => Ok(taken),
            Err(error) => Err(error),
        }
    }

    /// Lines up control frames (only in front of a frame), the rest of the header, and payload up to
    /// the frame's end.
    fn gather<'a>(
        &'a self,
        begins: bool,
        slices: &'a [IoSlice<'a>],
    ) -> SmallVec<[IoSlice<'a>; SLICES_MAX + 2]> {
        let mut gathered = SmallVec::new();
        if let Some(waiting) = self.waiting.as_ref().filter(|_| begins) {
            gathered.push(IoSlice::new(waiting.unsent()));
        }
        gathered.push(IoSlice::new(&self.head.as_slice()[usize::from(self.head_sent)..]));
        let mut left = self.payload_left;
        for slice in slices {
            if left == 0 {
                break;
            }
            let taken = usize::try_from(left).map_or(slice.len(), |left| left.min(slice.len()));
            gathered.push(IoSlice::new(&slice[..taken]));
            left -= taken as u64;
        }
        gathered
    }

    /// Notes what was written; returns how much of it was payload.
    fn account(&mut self, begins: bool, mut written: usize) -> usize {
        if begins {
            written -= self.account_waiting(written);
        }
        let head_left = self.head.as_slice().len() - usize::from(self.head_sent);
        let head = written.min(head_left);
        self.head_sent += u8::try_from(head).unwrap_or(0);
        let payload = written - head;
        self.payload_left = self.payload_left.saturating_sub(payload as u64);
        payload
    }

    fn account_waiting(&mut self, written: usize) -> usize {
        let Some(waiting) = &mut self.waiting else { return 0 };
        let part = written.min(waiting.unsent().len());
        waiting.sent += u8::try_from(part).unwrap_or(0);
        if waiting.unsent().is_empty() {
            self.waiting = None;
        }
        part
    }

    /// Writes control frames that wait, unless a frame was begun; what blocks goes on waiting. What
    /// fails is dropped: the connection meets the error in its own reads and writes, after what
    /// the peer sent before it.
    pub(super) fn flush(&mut self, inner: &impl Socket) {
        while self.wants_flush()
            && let Some(waiting) = &self.waiting
        {
            match inner.try_write_vectored(&[IoSlice::new(waiting.unsent())]) {
                Ok(written) if written > 0 => {
                    self.account_waiting(written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.waiting = None,
            }
        }
    }
}

impl Waiting {
    fn unsent(&self) -> &[u8] {
        &self.bytes[usize::from(self.sent)..usize::from(self.len)]
    }

    fn free(&self) -> usize {
        WAITING_BYTES - usize::from(self.len)
    }

    fn push(&mut self, bytes: &[u8]) {
        let mut spare = &mut self.bytes[usize::from(self.len)..];
        spare.put_slice(bytes);
        self.len += u8::try_from(bytes.len()).unwrap_or(0);
    }

    /// Keeps nothing but the frame that was begun.
    fn forget_unsent(&mut self) {
        let (sent, mut begun, mut end) = (usize::from(self.sent), 0, 0);
        while end < sent {
            begun = end;
            end += 2 + usize::from(self.bytes[end + 1]);
        }
        if end == sent {
            begun = end;
        }
        self.bytes.copy_within(begun..end, 0);
        self.sent = u8::try_from(sent - begun).unwrap_or(0);
        self.len = u8::try_from(end - begun).unwrap_or(0);
    }
}
