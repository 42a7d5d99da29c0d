//! The one source of time.
//!
//! - Owns: the wall clock of this process: the system's as of the last `set_wall`, corrected to that of the cluster,
//!   and going on with the monotonic clock. So when somebody sets the system's clock nothing jumps before
//!   `server/timekeeper.rs` has looked at the others'.
//! - Gives: wall clock in milliseconds, monotonic instants of the system and of the runtime.
//! - Bound: `coarse` is as old as the last `tick` of its thread; use it where a second is enough.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Where the wall clock of this process begins.
struct Anchor {
    at: Instant,
    wall_ms: AtomicU64,
}

static ANCHOR: LazyLock<Anchor> =
    LazyLock::new(|| Anchor { at: now(), wall_ms: AtomicU64::new(system_ms()) });

/// Returns the wall clock, milliseconds since 1970. May jump; used for expiry, never for order.
#[must_use]
pub fn wall_ms() -> u64 {
    let Anchor { at, wall_ms } = &*ANCHOR;
    wall_ms.load(Ordering::Relaxed).saturating_add(elapsed_ms(*at))
}

/// Sets the wall clock to the system's and so much ahead of it.
pub fn set_wall(correction_ms: i64) {
    let Anchor { at, wall_ms } = &*ANCHOR;
    let begun_ms = system_ms().saturating_sub(elapsed_ms(*at));
    wall_ms.store(begun_ms.saturating_add_signed(correction_ms), Ordering::Relaxed);
}

/// Returns what the system's clock says, milliseconds since 1970; what others are told.
#[must_use]
pub fn system_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let system_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    system_ms.saturating_add(*AHEAD_MS)
}

/// Tests give a process another clock; a release has that of its machine.
static AHEAD_MS: LazyLock<u64> = LazyLock::new(|| {
    let ahead =
        std::env::var("HONGQIAO_TEST_CLOCK_AHEAD_MS").ok().filter(|_| cfg!(debug_assertions));
    ahead.and_then(|ahead| ahead.parse().ok()).unwrap_or(0)
});

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
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
