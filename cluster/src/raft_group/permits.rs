//! Permits for what waits between a caller and the reply: openraft's own queues have no bound.
//!
//! - Owns: the count and the bytes of all proposals of this node that are not yet answered.
//! - Takes: a size. Gives: a permit, or nothing at once when the node holds its limit.
//! - Bound: `Options::proposals_max`, `Options::proposal_bytes_max`.
//! - Source: own design; a semaphore with two units that never waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The limits, and what is taken of them.
#[derive(Debug)]
pub(crate) struct Permits {
    count: AtomicUsize,
    bytes: AtomicUsize,
    count_max: usize,
    bytes_max: usize,
}

/// The share of a proposal, or of several; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    permits: Arc<Permits>,
    count: usize,
    bytes: usize,
}

impl Permits {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { count: 0.into(), bytes: 0.into(), count_max, bytes_max })
    }

    /// Takes a permit for one proposal of `bytes`, or gives `None` when that passes a limit.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take_all(1, bytes)
    }

    /// Takes one permit for `count` proposals of `bytes` together.
    pub(crate) fn take_all(self: &Arc<Self>, count: usize, bytes: usize) -> Option<Permit> {
        let taken = self.count.fetch_add(count, Ordering::Relaxed) + count;
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Built before the check, so that a refusal gives back what was taken.
        let permit = Permit { permits: self.clone(), count, bytes };
        (taken <= self.count_max && total <= self.bytes_max).then_some(permit)
    }

    pub(crate) fn taken(&self) -> (usize, usize) {
        (self.count.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.count.fetch_sub(self.count, Ordering::Relaxed);
        self.permits.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_when_limit_is_reached_then_refused_until_given_back() {
        let permits = Permits::new(2, 100);
        let first = permits.take(60).unwrap();
        assert!(permits.take(41).is_none());
        let second = permits.take(40).unwrap();
        assert!(permits.take(0).is_none());
        drop(first);
        assert!(permits.take(60).is_some());
        drop(second);
        assert_eq!(permits.taken(), (0, 0));
    }
}
