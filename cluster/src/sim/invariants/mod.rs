//! What must hold in every world: one promise per file.
//!
//! - Owns: the list. Takes: events, in the order in which they happen. Gives: the first that cannot be.
//! - A command without an outcome is unknown, never absent: it may be applied, and need not be.
//! - Source: ARCHITECTURE.md, "Promises"; Raft §5 for leaders and logs.

mod no_loss;
mod once;
mod order;
mod outcome;
mod same_state;
mod read_your_acks;
mod one_leader;
mod log_matching;
mod same_directory;
mod fenced;
mod barrier;

use super::event::Event;

/// A promise with a memory.
pub(super) trait Invariant: Send {
    /// Returns its name, as in ARCHITECTURE.md where it stands there.
    fn name(&self) -> &'static str;

    /// Takes an event in, or says why it cannot be.
    fn see(&mut self, event: &Event<'_>) -> Result<(), String>;
}

/// Returns all of them, for a new world.
pub(super) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<no_loss::NoLoss>::default(),
        Box::<once::Once>::default(),
        Box::<order::Order>::default(),
        Box::<outcome::TrueOutcome>::default(),
        Box::<same_state::SameState>::default(),
        Box::<read_your_acks::ReadYourAcks>::default(),
        Box::<one_leader::OneLeader>::default(),
        Box::<log_matching::LogMatching>::default(),
        Box::<same_directory::SameDirectory>::default(),
        Box::<fenced::Fenced>::default(),
        Box::<barrier::Barrier>::default(),
    ]
}
