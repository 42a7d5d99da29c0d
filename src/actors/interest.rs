//! Which workers may have live subscribers of a topic: what a publisher asks before it messages them.
//!
//! - Owns: per worker a fixed table of counters; no memory per subscription.
//! - Takes: the first and last subscription of a filter, from the worker's router. Gives: workers to
//!   message. May say yes wrongly (two filters share a counter), never no.
//! - Bound: `COUNTERS` numbers per worker.
//!
//! An exact filter counts under the hash of its text; a wildcard filter under the hash of its first level, or
//! in one number of its own if that level is a wildcard.

use std::{
    hash::{BuildHasher as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire},
    },
};

use ahash::RandomState;

use crate::{
    limits,
    model::{id::AppId, topic::TopicName},
};

/// Counters per worker; a power of two.
const COUNTERS: usize = 8_192;

/// One worker's counters.
struct Summary {
    hashed: Box<[AtomicU32]>,
    /// Filters that begin with a wildcard.
    open: AtomicU32,
}

/// The interests of all workers of a node. Cloning shares them.
#[derive(Clone)]
pub struct Interests {
    workers: Arc<[Summary]>,
    hash: RandomState,
}

impl Interests {
    /// Creates the board for `workers` workers, at most `limits::WORKER_THREADS_MAX`.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        debug_assert!(workers <= limits::WORKER_THREADS_MAX);
        let summary = |_| Summary {
            hashed: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
            open: AtomicU32::new(0),
        };
        Self { workers: (0..workers).map(summary).collect(), hash: RandomState::new() }
    }

    /// Notes that `worker` has its first subscriber of `filter`.
    pub fn add(&self, worker: u8, app: AppId, filter: &[u8]) {
        if let Some(counter) = self.counter(worker, app, filter) {
            counter.fetch_add(1, AcqRel);
        }
    }

    /// Notes that `worker` lost its last subscriber of `filter`.
    pub fn remove(&self, worker: u8, app: AppId, filter: &[u8]) {
        if let Some(counter) = self.counter(worker, app, filter) {
            counter.fetch_sub(1, AcqRel);
        }
    }

    /// Returns the workers that may have a subscriber of `topic`, as a set of bits.
    #[must_use]
    pub fn workers(&self, app: AppId, topic: &TopicName) -> u64 {
        let topic = topic.as_bytes();
        let exact = self.bucket(b'e', app, topic);
        let level = self.bucket(b'w', app, first_level(topic));
        let wants = |summary: &Summary| {
            summary.open.load(Acquire) > 0
                || summary.hashed[exact].load(Acquire) > 0
                || summary.hashed[level].load(Acquire) > 0
        };
        let bits = self
            .workers
            .iter()
            .enumerate()
            .map(|(index, summary)| if wants(summary) { 1_u64 << index } else { 0 });
        bits.fold(0, |set, bit| set | bit)
    }

    fn counter(&self, worker: u8, app: AppId, filter: &[u8]) -> Option<&AtomicU32> {
        let summary = self.workers.get(usize::from(worker))?;
        let wild = filter.iter().any(|byte| matches!(byte, b'+' | b'#'));
        if !wild {
            return summary.hashed.get(self.bucket(b'e', app, filter));
        }
        let level = first_level(filter);
        if matches!(level, b"+" | b"#") {
            return Some(&summary.open);
        }
        summary.hashed.get(self.bucket(b'w', app, level))
    }

    fn bucket(&self, kind: u8, app: AppId, text: &[u8]) -> usize {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u8(kind);
        hasher.write_u32(app.0);
        hasher.write(text);
        usize::try_from(hasher.finish() % COUNTERS as u64).unwrap_or(0)
    }
}

fn first_level(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b'/').next().unwrap_or_default()
}

const _: () = assert!(COUNTERS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId(1);

    fn workers(interests: &Interests, topic: &str) -> u64 {
        interests.workers(APP, &TopicName::parse(topic).unwrap())
    }

    #[test]
    fn exact_filter_of_one_worker_names_that_worker_until_removed() {
        let interests = Interests::new(2);
        interests.add(1, APP, b"a/b");
        assert_eq!(workers(&interests, "a/b"), 0b10);
        assert_eq!(interests.workers(AppId(2), &TopicName::parse("a/b").unwrap()), 0);
        interests.remove(1, APP, b"a/b");
        assert_eq!(workers(&interests, "a/b"), 0);
    }

    #[test]
    fn every_matching_filter_is_found() {
        for filter in ["a/b", "a/+", "a/#", "+/b", "#", "+/+", "a/b/#"] {
            let interests = Interests::new(1);
            interests.add(0, APP, filter.as_bytes());
            assert_eq!(workers(&interests, "a/b"), 1, "{filter}");
            interests.remove(0, APP, filter.as_bytes());
            assert_eq!(workers(&interests, "a/b"), 0, "{filter}");
        }
    }

    #[test]
    fn wildcards_below_a_literal_level_do_not_attract_other_topics() {
        let interests = Interests::new(1);
        interests.add(0, APP, b"a/#");
        assert_eq!(workers(&interests, "b/c"), 0);
    }
}
