//! Applies the runs of an entry to a machine: what is new of them, once and in order.
//!
//! - Owns: nothing. Takes: the group's table and kept replies, an entry's commands and runs.
//! - Gives: an outcome per run, the same on every replica but for replies that one has forgotten.
//! - Bound: that of an entry. Commands without a run (format 1) are applied as they come.
//! - Source: own design.

use bytes::Bytes;

use super::{
    replies::Kept,
    run::{Outcome, Run},
    table::{Admission, StreamTable},
};

/// What is known of a group's streams where an entry is applied.
pub(crate) struct Streams<'a> {
    pub(crate) table: &'a mut StreamTable,
    pub(crate) kept: &'a mut Kept,
    /// The node whose replies nobody could ask for again.
    pub(crate) alone: Option<u64>,
}

impl Streams<'_> {
    /// Applies one run with its commands. `index` is the entry's; `apply` gets a command and its place in
    /// the run.
    pub(crate) fn apply(
        &mut self,
        run: &Run,
        index: u64,
        commands: &[Bytes],
        mut apply: impl FnMut(usize, &Bytes) -> Bytes,
    ) -> Outcome {
        match self.table.admit(run, index) {
            Admission::Apply { known } => {
                let skip = usize::try_from(known).unwrap_or(usize::MAX);
                let new = commands.iter().enumerate().skip(skip);
                let replies: Vec<_> = new.map(|(at, command)| apply(at, command)).collect();
                if known > 0 {
                    return self.applied_before(run, known, replies);
                }
                if self.alone != Some(run.origin.node) {
                    self.kept.keep(run, 0, replies.clone());
                }
                Outcome::Applied(replies.into_iter().map(Some).collect())
            }
            Admission::Opened { last } => {
                let before = run.epoch.saturating_sub(1);
                let replies = self.kept.find(run.origin, before, run.first, last);
                Outcome::Opened { last, replies }
            }
            Admission::Gap => Outcome::Gap,
            Admission::Superseded { incarnation, epoch } => {
                Outcome::Superseded { incarnation, epoch }
            }
        }
    }

    /// The first `known` commands came again: they have the replies of the first time.
    fn applied_before(&mut self, run: &Run, known: u32, replies: Vec<Bytes>) -> Outcome {
        let until = run.first.saturating_add(u64::from(known));
        let mut all: Vec<_> = (run.first..until).map(|_| None).collect();
        for (seq, reply) in self.kept.find(run.origin, run.epoch, run.first, until - 1) {
            let at = usize::try_from(seq - run.first).ok();
            if let Some(slot) = at.and_then(|at| all.get_mut(at)) {
                *slot = Some(reply);
            }
        }
        if self.alone != Some(run.origin.node) {
            self.kept.keep(run, known, replies.clone());
        }
        all.extend(replies.into_iter().map(Some));
        Outcome::Applied(all)
    }
}
