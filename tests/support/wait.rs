//! Waiting for a condition instead of for a time.
//!
//! - Owns: the only sleep of the test suite. Gives: `wait_until`, and `let_pass` for rules that are
//!   about time itself.

use std::time::{Duration, Instant};

/// How long anything that must happen may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// How long to look for something that must not happen.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

pub(crate) fn now() -> Instant {
    hongqiao::clock::now()
}

/// Lets time pass, where the rule under test is about time (expiry, delay, keep alive).
#[expect(clippy::disallowed_methods, reason = "a test's own thread; the rule is about time")]
pub(crate) fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// Asks until the answer is yes.
///
/// # Panics
/// After [`PATIENCE`].
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_until_within(PATIENCE, what, condition);
}

/// As [`wait_until`], with its own patience.
pub(crate) fn wait_until_within(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) {
    let start = now();
    while !condition() {
        assert!(start.elapsed() < patience, "waited {patience:?} in vain: {what}");
        let_pass(Duration::from_millis(10));
    }
}
