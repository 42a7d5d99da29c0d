//! Shows every event to every invariant, and remembers the first that is broken.
//!
//! - Owns: the invariants, a digest of all events, the time. Takes: events. Gives: a verdict.
//! - Bound: one world, one thread; the lock is there because machines are `Send`.
//! - Source: own design; the oracle of openraft's `tests-turmoil`, the checkers of tigerbeetle's VOPR.

use std::fmt;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    event::Event,
    invariants::{self, Invariant},
    ledger::{Command, Summary, digest},
};
use crate::id::{NodeId, ShardId};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// When it was seen.
    pub at_ms: u64,
    /// What cannot be.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.invariant, self.at_ms, self.what)
    }
}

/// See the file header.
pub(super) struct Oracle(Mutex<State>);

struct State {
    invariants: Vec<Box<dyn Invariant>>,
    now_ms: u64,
    digest: u64,
    events: u64,
    broken: Option<Violation>,
}

impl Oracle {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            invariants: invariants::all(),
            now_ms: 0,
            digest: 0,
            events: 0,
            broken: None,
        }))
    }

    pub(super) fn set_time(&self, now_ms: u64) {
        self.0.lock().now_ms = now_ms;
    }

    pub(super) fn see(&self, event: &Event<'_>) {
        let mut state = self.0.lock();
        state.events += 1;
        let parts = [[state.digest; 1].as_slice(), &event.fingerprint()].concat();
        let bytes: Vec<u8> = parts.into_iter().flat_map(u64::to_be_bytes).collect();
        state.digest = digest(&[&bytes]);
        let mut wrong = None;
        for invariant in &mut state.invariants {
            if let Err(what) = invariant.see(event) {
                wrong.get_or_insert((invariant.name(), what));
            }
        }
        if let Some((invariant, what)) = wrong {
            let at_ms = state.now_ms;
            state.broken.get_or_insert(Violation { invariant, at_ms, what });
        }
    }

    /// Notes what no event shows: a panic, a node that does not start, a cluster that does not settle.
    pub(super) fn complain(&self, invariant: &'static str, what: String) {
        let mut state = self.0.lock();
        let at_ms = state.now_ms;
        state.broken.get_or_insert(Violation { invariant, at_ms, what });
    }

    pub(super) fn broken(&self) -> Option<Violation> {
        self.0.lock().broken.clone()
    }

    /// Returns how many events there were, and a digest of them all.
    pub(super) fn fingerprint(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.events, state.digest)
    }

    pub(super) fn loaded(&self, node: NodeId, shard: ShardId, state: Summary) {
        self.see(&Event::Loaded { node, shard, state });
    }

    pub(super) fn applied(
        &self,
        node: NodeId,
        shard: ShardId,
        before: Summary,
        after: Summary,
        command: &Bytes,
    ) {
        let command = Command::decode(command);
        self.see(&Event::Applied { node, shard, before, after, command });
    }
}
