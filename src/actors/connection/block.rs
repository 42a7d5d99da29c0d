//! The end of a connection whose publishes stand still: nobody takes them, or too many are unfinished.
//!
//! - Owns: nothing; two seconds of the worker's clock in the connection.
//! - Takes: the beginning of a block, a wake by the worker's wheel. Gives: DISCONNECT 0x97 (3.1.1: close).
//! - Bound: `limits::STALL_WAIT` of each block, and up to two seconds more; one entry in the wheel. A
//!   timer of the runtime for each block would cost every batch of every publisher.
//! - Source: ARCHITECTURE.md rule 8; MQTT 5.0 section 4.13.

use super::{Connection, Phase, Stop, flag};
use crate::{
    actors::worker::Worker,
    limits,
    model::{reason::Reason, session::admission::Ending},
};

/// Seconds of the worker's clock after which publishes that stand still end their connection. The
/// clock counts whole ones, so that `limits::STALL_WAIT` has passed for sure.
#[expect(clippy::cast_possible_truncation, reason = "a few seconds")]
const STALL_SECS: u8 = limits::STALL_WAIT.as_secs() as u8 + 1;

/// Returns the worker's second, as far as it is kept here.
fn second() -> u8 {
    Worker::with(|worker| worker.now().to_le_bytes()[0]).unwrap_or(0)
}

const TOO_LONG: Stop = (Reason::QuotaExceeded, "publishes were not taken in time");

impl Connection {
    /// Tells whether publishes keep decoding from going on.
    pub(super) fn is_blocked(&self) -> bool {
        self.taken.is_some() || self.is_stalled()
    }

    /// Publishes stand still from now on; the wheel wakes the connection to look at it.
    pub(super) fn note_block(&mut self) {
        self.blocked_at = second();
        if !self.has(flag::LOOKING) {
            self.look_after(STALL_SECS);
        }
    }

    fn look_after(&mut self, secs: u8) {
        self.assign(flag::LOOKING, true);
        self.look_at = second().wrapping_add(secs);
        Worker::with(|worker| worker.look_after(&self.link, secs));
    }

    /// Ends the connection if its publishes have stood still for too long.
    pub(super) fn look_at_block(&mut self) {
        let now = second();
        // The half of the circle behind `look_at` is the future of it.
        if now.wrapping_sub(self.look_at) > u8::MAX / 2 {
            return;
        }
        self.assign(flag::LOOKING, false);
        if !self.has(flag::HELD) || !self.is_blocked() || self.phase != Phase::Open {
            return;
        }
        match STALL_SECS.checked_sub(now.wrapping_sub(self.blocked_at)) {
            Some(left) if left > 0 => self.look_after(left),
            _ => self.end(Some(TOO_LONG), Ending::default()),
        }
    }
}
