//! The words of a stream: whose it is, which commands, what became of them.
//!
//! - Owns: nothing; plain values.
//! - Bound: a run lies in one entry, so it has at most `ENTRY_COMMANDS_MAX` commands.
//! - Source: own design.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::ProposeError;

/// A moment on the node's monotonic clock: the time since some fixed point of it.
pub(crate) type Moment = Duration;

/// Who proposes: a node, in one of its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) node: u64,
    pub(crate) incarnation: u64,
}

/// Commands of one stream that follow each other, or the word that a new epoch begins.
///
/// Sequence numbers begin at 1 in each epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) origin: Origin,
    pub(crate) epoch: u64,
    /// Number of the first command; of an opening: the first of the epoch before whose reply is wanted.
    pub(crate) first: u64,
    /// How many commands; 0 is an opening: whatever is still on its way in earlier epochs is void.
    pub(crate) count: u32,
}

impl Run {
    pub(crate) fn is_opening(&self) -> bool {
        self.count == 0
    }

    /// Returns the number of the last command.
    pub(crate) fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count)).saturating_sub(1)
    }
}

/// What became of a run when its entry was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every command is in the state; a reply that was forgotten is `None`.
    Applied(Vec<Option<Bytes>>),
    /// The epoch has begun. `last` is the last command of the one before that is in the state.
    Opened { last: u64, replies: Vec<(u64, Bytes)> },
    /// Commands before the run are missing: nothing was applied.
    Gap,
    /// A later incarnation or epoch of the node has begun: nothing was applied.
    Superseded { incarnation: u64, epoch: u64 },
}

/// What a sender learns of one of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done(Outcome),
    /// Nothing of it is in any log, nor ever will be.
    Refused(Refusal),
    /// It may be in a log, and may be applied later.
    Doubtful,
}

/// Why nothing of a request was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// That node does not lead the group; it may know who does.
    NotLeader(Option<u64>),
    /// It was not sent: no link, or too much under way on it.
    Unsent,
    /// Something in front of it was refused.
    Behind,
    /// The callers are told; nobody tries again.
    Told(ProposeError),
}

/// Returns whether parts are `sum` together, or more; looks at no more of them than that takes.
pub(crate) fn adds_up_to(sum: usize, mut parts: impl Iterator<Item = usize>) -> bool {
    let mut left = sum;
    while left > 0 {
        let Some(part) = parts.next() else { return false };
        left = left.saturating_sub(part);
    }
    true
}
