//! The power of a node: what its disk and its store may still write before it goes.
//!
//! - Owns: a count. Takes: each write. Gives: whether it happens, happens in part, or not at all.
//! - Bound: tests only.
//! - Source: own design; crash points as in tigerbeetle `src/testing/storage.zig`.

use std::sync::atomic::{AtomicU64, Ordering};

/// No crash is planned.
const NEVER: u64 = u64::MAX;

/// Shared by the twins of one life of a node.
#[derive(Debug)]
pub(crate) struct Power(AtomicU64);

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Whole,
    /// The power goes in the middle of it.
    Torn,
    /// The power is gone.
    Lost,
}

impl Default for Power {
    fn default() -> Self {
        Self(NEVER.into())
    }
}

impl Power {
    /// Lets `writes` more happen; the next one is torn.
    pub(crate) fn cut_after(&self, writes: u64) {
        self.0.store(writes + 1, Ordering::SeqCst);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    pub(super) fn write(&self) -> Write {
        let next = |left| (left != NEVER && left != 0).then(|| left - 1);
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) {
            Ok(1) => Write::Torn,
            Err(0) => Write::Lost,
            _ => Write::Whole,
        }
    }
}
