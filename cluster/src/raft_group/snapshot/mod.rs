//! Snapshots: a group's state as one file, from a member that has it to one whose log has a gap.
//!
//! ```text
//! leader    checkpoint, pinned ─ copy ─▶ spool ─ pieces ─▶ staging   follower
//!                                                            │ whole, sum right, synced
//!           restart ─ redo ─▶ state ◀─ in batches ─ install ◀┘
//! ```
//!
//! - Owns: the data that openraft hands around. Takes: checkpoints. Gives: files, and states made of them.
//! - Bound: a node sends one at a time and receives one at a time; installs are waited for beside. In memory
//!   are a few pieces. The log is held up by neither: the checkpoint is pinned only while it is copied.
//! - A file counts once it is whole, its sum is right and it is synced under its last name; from then on
//!   the state behind it may be half replaced, because a start begins again. openraft may purge the log
//!   while a snapshot is being installed, so it hears of a snapshot only then.
//! - Source: openraft 0.9, feature `generic-snapshot-data`.

pub(crate) mod file;
pub(crate) mod wire;
pub(crate) mod spool;
pub(crate) mod send;
pub(crate) mod receive;
pub(crate) mod install;
pub(crate) mod door;
#[cfg(test)]
mod tests;

use std::{fmt, io, sync::Arc};

use self::file::Meta;
use crate::storage::{
    checkpoint::ShardStore,
    state::{kv::Pair, shard_state::Applied},
};

/// Data of a snapshot.
#[derive(Default)]
pub(crate) enum SnapshotData {
    /// None: only its name was wanted.
    #[default]
    Name,
    /// That of a member: to be copied when it is sent.
    Source(Arc<ShardStore>),
    /// In the install file of the group.
    Installable,
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("Name"),
            Self::Source(store) => write!(f, "Source({})", store.shard),
            Self::Installable => f.write_str("Installable"),
        }
    }
}

/// Returns what openraft knows of a snapshot of this state.
pub(crate) fn meta(applied: &Applied) -> Meta {
    Meta {
        last_log_id: applied.last,
        last_membership: applied.membership.clone(),
        // The state is a function of the log: the same entry, the same snapshot.
        snapshot_id: applied.last.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// Calls `take` with every pair of a shard whose pin the caller holds, in key order.
pub(crate) fn pairs(
    store: &ShardStore,
    mut take: impl FnMut(Pair) -> io::Result<()>,
) -> io::Result<()> {
    let mut next = store.base.kv.floor(store.shard, &[0])?;
    if next.is_none() {
        next = store.base.kv.above(store.shard, &[0])?;
    }
    while let Some((key, value)) = next {
        next = store.base.kv.above(store.shard, &key)?;
        take((key, value))?;
    }
    Ok(())
}
