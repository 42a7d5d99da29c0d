//! The one source of time of this crate.
//!
//! - Owns: nothing. Gives: monotonic instants.
//! - Bound: none.
//! - Source: own design. tokio's clock is that of the standard library, but for a runtime whose time a
//!   simulation drives.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Returns the monotonic clock.
#[must_use]
pub(crate) fn now() -> Instant {
    #[cfg(feature = "sim")]
    assert!(
        !crate::runtime::is_driven() || tokio::runtime::Handle::try_current().is_ok(),
        "a world has no time of its own, only its nodes have: real time got in"
    );
    tokio::time::Instant::now().into_std()
}

/// Holds this thread up for `time`; only for threads that have nothing else to do.
pub(crate) fn rest(time: Duration) {
    #[cfg(feature = "sim")]
    if crate::runtime::is_driven() {
        return;
    }
    // A condition that nobody signals.
    let never = Mutex::new(());
    Condvar::new().wait_until(&mut never.lock(), now() + time);
}
