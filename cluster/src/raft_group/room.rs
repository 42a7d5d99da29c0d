//! Room for a group's next entry in the memory of the node, which all groups share.
//!
//! ```text
//! log in memory:  purged │ behind a checkpoint │ committed │ nobody knows yet
//!                          goes when it is full  a checkpoint   others are to say: held by their rooms
//! ```
//!
//! - Owns: nothing but a group's log and state. Takes: an entry that is to come. Gives: leave to take it.
//! - Rule: what is committed waits for a checkpoint of this node alone. What is not waits for other members, and
//!   they for their rooms, which are full of what this node is to take: so a group of which nothing waits
//!   for a checkpoint has room for what is to be committed next, however full the node is (HEAL).
//! - Bound: beyond the limits of `Fill` each group has what one request carries, and what its leader has under
//!   way (`ENTRIES_IN_FLIGHT_MAX`); or one entry, where this node leads it.
//! - Source: own design.

use std::sync::Arc;

use crate::storage::{checkpoint::ShardStore, log::Log};

/// See the head of the file.
#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) log: Arc<Log>,
    pub(crate) store: Arc<ShardStore>,
}

impl Room {
    /// Waits until a member may take more entries of its leader.
    pub(crate) async fn to_follow(&self) {
        self.store.fill.room_or(|| self.committed() <= self.stored()).await;
    }

    /// Waits until a leader may make another entry.
    pub(crate) async fn to_lead(&self) {
        self.store.fill.room_or(|| self.last() <= self.stored()).await;
    }

    /// Asked by whoever has waited for a while.
    pub(crate) fn nudge(&self) {
        self.store.fill.nudge();
    }

    /// Returns the last index that a checkpoint covers.
    fn stored(&self) -> Option<u64> {
        self.store.state.lock().stored.last.map(|id| id.index)
    }

    fn committed(&self) -> Option<u64> {
        self.log.group(self.store.shard)?.committed.map(|id| id.index)
    }

    fn last(&self) -> Option<u64> {
        self.log.group(self.store.shard)?.last().map(|id| id.index)
    }
}
