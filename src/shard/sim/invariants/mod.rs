//! What must hold of sessions in every world: one promise per file.
//!
//! - Owns: the list. Takes: events. Gives: the first that cannot be.
//! - That what was acknowledged is in the log, once and in order, are invariants of the cluster crate (NO-LOSS, ONCE,
//!   ORDER); these say what it must have come to.
//! - Source: ARCHITECTURE.md, "Promises".

mod fenced;
mod model;
mod session_true;

use super::event::Event;

/// A promise with a memory.
pub(super) trait Invariant: Send {
    /// Returns its name, as in ARCHITECTURE.md.
    fn name(&self) -> &'static str;

    /// Takes an event in, or says why it cannot be.
    fn see(&mut self, event: &Event<'_>) -> Result<(), String>;
}

/// Returns all of them, for a new world.
pub(super) fn all() -> Vec<Box<dyn Invariant>> {
    vec![Box::<fenced::Fenced>::default(), Box::<session_true::SessionTrue>::default()]
}
