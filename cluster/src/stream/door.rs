//! What a leader looks at before a run of another node enters its log.
//!
//! - Owns: per stream the last request seen, and which command comes next.
//! - Takes: requests in any order, repeated or not. Gives: a reason against one, or none.
//! - Asked by replicas that do not lead, too: a request that was refused must not enter by a late copy of it.
//! - Promise: a request enters at most once, and nothing enters behind a command that was refused; so what
//!   a sender is told to be refused is in no log. `table.rs` keeps the state right also without this.
//! - Bound: one small record per node and group.
//! - Source: own design.

use super::run::{Refusal, Run, Verdict};

/// One stream as one leader sees it.
#[derive(Debug, Default)]
pub(crate) struct Door {
    incarnation: u64,
    last_request: u64,
    term: u64,
    epoch: u64,
    /// Number of the command that comes next; unknown at the start of a term.
    next: Option<u64>,
}

impl Door {
    /// Returns why the run cannot enter; without a reason `enter` or `refuse` must follow.
    pub(crate) fn check(&mut self, request: u64, term: u64, run: &Run) -> Option<Verdict> {
        let incarnation = run.origin.incarnation;
        if incarnation > self.incarnation {
            *self = Self { incarnation, ..Self::default() };
        }
        // Repeated or overtaken on the way: what became of its twin is not known here.
        if incarnation < self.incarnation || request <= self.last_request {
            return Some(Verdict::Doubtful);
        }
        self.last_request = request;
        if (self.term, self.epoch) != (term, run.epoch) {
            (self.term, self.epoch, self.next) = (term, run.epoch, None);
        }
        let behind = !run.is_opening() && self.next.is_some_and(|next| run.first > next);
        behind.then_some(Verdict::Refused(Refusal::Behind))
    }

    pub(crate) fn enter(&mut self, run: &Run) {
        self.next = Some(if run.is_opening() { 1 } else { run.last().saturating_add(1) });
    }

    pub(crate) fn refuse(&mut self, run: &Run) {
        if !run.is_opening() {
            self.next.get_or_insert(run.first);
        }
    }
}
