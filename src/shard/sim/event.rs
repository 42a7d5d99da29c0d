//! What the invariants of sessions are shown.
//!
//! - Owns: nothing; plain values.
//! - Bound: none.
//! - Source: own design.

use hongqiao_cluster::id::ShardId;

use crate::{
    model::id::{Epoch, Position, SessionKey},
    shard::{
        command::{Command, Page, Reply},
        query::Fenced,
    },
};

/// One observation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    /// Some replica has applied this, the first that has; in the order of the shard's log.
    Applied {
        shard: ShardId,
        index: u64,
        commands: &'a [Command],
        replies: &'a [Reply],
        /// What it has put into the store and taken out.
        writes: u64,
    },
    /// Whoever proposed it was told this.
    Told { shard: ShardId, index: u64, replies: &'a [Reply] },
    /// A reader was answered by a leader that had applied all up to `index`.
    Read {
        shard: ShardId,
        index: u64,
        who: (SessionKey, Epoch),
        after: Position,
        page: &'a Result<Page, Fenced>,
    },
}
