//! Keeps the log short: one line of a kind per second, with the number of those left out.
//!
//! - Owns: when a line was written last. Takes: wishes to write one. Gives: leave, or not.
//! - Bound: one line per `INTERVAL` and kind, whatever strangers do to the port.
//! - Source: own design.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;

/// Time between two lines of a kind.
const INTERVAL: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Debug, Default)]
pub(super) struct Kind(Mutex<(Option<Instant>, u64)>);

impl Kind {
    /// Returns leave to write a line, with the number of lines left out before it.
    pub(super) fn pass(&self) -> Option<u64> {
        let now = clock::now();
        let mut state = self.0.lock();
        let (last, unsaid) = &mut *state;
        if last.is_some_and(|last| now - last < INTERVAL) {
            *unsaid += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(unsaid))
    }
}

/// The kinds of lines that others can cause.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    pub(super) accept: Kind,
    pub(super) refused: Kind,
    pub(super) rubbish: Kind,
}
