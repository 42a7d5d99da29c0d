//! The one source of time of this crate.
//!
//! - Owns: nothing. Gives: monotonic instants.
//! - Bound: none.
//! - Source: own design; a simulator replaces this file.

use std::time::Instant;

/// Returns the monotonic clock.
#[must_use]
pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
    Instant::now()
}
