//! The one source of time.
//!
//! - Owns: nothing. Gives: wall clock in milliseconds, monotonic instants of the system and of the runtime.
//! - Bound: `coarse` is as old as the last `tick` of its thread; use it where a second is enough.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Returns the wall clock, milliseconds since 1970. May jump; used for expiry, never for order.
#[must_use]
pub fn wall_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the monotonic clock.
#[must_use]
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
    Instant::now()
}

/// Returns the clock of the runtime's timers, which a test may stop; for deadlines of tasks.
#[must_use]
pub fn timer_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
