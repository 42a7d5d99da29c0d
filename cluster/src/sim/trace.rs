//! What happened in a world, line by line: the same for the same seed, byte for byte.
//!
//! - Owns: text. Takes: lines with their time. Gives: all of it, or its end for a report.
//! - Bound: one world.
//! - Source: own design.

use std::fmt::{Display, Write};

#[derive(Default)]
pub(super) struct Trace(String);

impl Trace {
    pub(super) fn line(&mut self, now_ms: u64, what: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{now_ms:>6} ms  {what}");
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}
