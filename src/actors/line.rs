//! The order of one publisher: what it sends behind something that failed is not stored either (ORDER).
//!
//! - Owns: the first failure of what a connection has under way.
//! - Takes: failures, where they are found: by the appender before anybody is told, by whoever waited for a
//!   lease in vain, by the connection. Gives: the refusal of everything that comes later.
//! - Bound: one word and a count, only while publishes are under way.
//! - Source: own design.
//!
//! Why this is enough: of one connection a shard gets its publishes one after the other up to the first that
//! fails, and none behind it. Its client sends again, in order, everything from the first one on that was not
//! acknowledged. However the two arrive, late ones of the old connection among the new ones, each message has
//! the one before it in front: each of the two runs begins where acknowledged ones end, and has no gap.

use std::sync::{Arc, OnceLock};

use super::appender::SubmitError;

/// What one connection has under way. Clones are the same line.
#[derive(Clone, Debug, Default)]
pub struct Line(Arc<OnceLock<SubmitError>>);

impl Line {
    /// Something has failed: nothing that comes later goes out. The first failure counts.
    pub fn cut(&self, error: SubmitError) {
        let _ = self.0.set(error.behind());
    }

    /// Returns why nothing goes out any more.
    #[must_use]
    pub fn failure(&self) -> Option<SubmitError> {
        self.0.get().copied()
    }
}
