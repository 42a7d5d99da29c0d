//! Shows every event to every invariant of sessions, and keeps the first that is broken.
//!
//! - Owns: the invariants. Takes: events. Gives: what cannot be, once.
//! - Bound: one world, one thread; the lock is there because machines are `Send`.
//! - Source: own design; `sim/oracle.rs` of the cluster crate.

use std::collections::BTreeMap;

use hongqiao_cluster::{id::ShardId, sim::number};
use parking_lot::Mutex;

use super::{
    event::Event,
    invariants::{self, Invariant},
};

/// What is broken, and how.
pub(super) type Wrong = (&'static str, String);

pub(super) struct Oracle(Mutex<State>);

struct State {
    invariants: Vec<Box<dyn Invariant>>,
    /// How far each shard was seen.
    seen: BTreeMap<ShardId, u64>,
    wrong: Option<Wrong>,
    /// Everything that is applied is printed.
    shown: bool,
}

impl Oracle {
    pub(super) fn new() -> Self {
        let (invariants, seen) = (invariants::all(), BTreeMap::new());
        let shown = number("HONGQIAO_SIM_SEED").is_some();
        Self(Mutex::new(State { invariants, seen, wrong: None, shown }))
    }

    /// A replica has applied something; what another has before it is not news. That both had the same to say is an
    /// invariant of the cluster crate (SAME-STATE).
    pub(super) fn applied(&self, (shard, index): (ShardId, u64), event: &Event<'_>) {
        let mut state = self.0.lock();
        let seen = state.seen.entry(shard).or_default();
        if index > *seen {
            *seen = index;
            if state.shown {
                println!("{event:?}");
            }
            state.see(event);
        }
    }

    pub(super) fn see(&self, event: &Event<'_>) {
        self.0.lock().see(event);
    }

    pub(super) fn take_wrong(&self) -> Option<Wrong> {
        self.0.lock().wrong.take()
    }
}

impl State {
    fn see(&mut self, event: &Event<'_>) {
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.see(event) {
                self.wrong.get_or_insert((invariant.name(), what));
            }
        }
    }
}
