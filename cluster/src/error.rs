//! Why the cluster refused, or does not know: one enum per boundary.
//!
//! - Owns: nothing. Gives: one variant per thing that a caller can do differently.
//! - Bound: none.
//! - Source: own design.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::id::{NodeId, ShardId};

/// What to do with a damaged folder; never done without an operator's word.
pub(crate) const TWO_WAYS: &str = "restore the folder from a backup, or, in a cluster, give it up with `hongqiao cluster \
                        leave NODE --lost` on another node and join with an empty folder";

/// Why a proposal has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written: too many proposals, or too many bytes of them, wait. Retry later.
    #[error("too many proposals wait")]
    Overloaded,
    /// Nothing was written: the command is longer than what fits between two nodes, 4 MiB.
    #[error("the command is too large")]
    TooLarge,
    /// Nothing was written: the disk has less free space than the reserve.
    #[error("the disk is full")]
    DiskFull,
    /// Nothing was written: writing or syncing fails, and is tried again until it works.
    #[error("the disk is failing")]
    DiskFailing,
    /// Nothing was written: the shard has no leader on this node, or there is no such shard.
    #[error("the shard has no leader here")]
    Unavailable,
    /// It may or may not have been written.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
}

/// Why a read has no result. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The shard has no leader on this node, has not replayed its log yet, or does not exist.
    #[error("the shard cannot be read here")]
    Unavailable,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the data folder open.
    #[error("another process uses the data folder {}", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder was written by a newer release.
    #[error("{} has format {found}, this release knows up to {known}; start a newer release", path.display())]
    FormatNewer {
        /// The `FORMAT` file.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// The newest number that this release can open.
        known: u32,
    },
    /// The `FORMAT` file cannot be understood.
    #[error("{} is damaged: {reason}", path.display())]
    FormatDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The folder belongs to another node or was made with another number of shards.
    #[error("{} says {field} {found}, the configuration says {configured}", path.display())]
    Mismatch {
        /// The file that says it.
        path: PathBuf,
        /// Which setting.
        field: &'static str,
        /// What the folder says.
        found: u64,
        /// What the configuration says.
        configured: u64,
    },
    /// The log is damaged before its end; nothing was changed.
    #[error(
        "{} is damaged at byte {offset}: a later record proves that this one was once complete; \
         {TWO_WAYS}",
        path.display()
    )]
    LogDamaged {
        /// The segment file.
        path: PathBuf,
        /// Where the damaged batch begins.
        offset: u64,
    },
    /// The cluster knows a later start of this node than this folder does, or another folder of it.
    #[error(
        "node {node} has gone on elsewhere, and {} is an older copy of its data folder, or another folder with its id: \
         it may have forgotten votes and messages. Start the node on its own folder; if that is lost, give it up with \
         `hongqiao cluster leave {node} --lost` on another node and join with an empty folder and no id. If no other \
         node is left, `hongqiao cluster recover` goes on with what is here",
        path.display()
    )]
    Superseded {
        /// The data folder.
        path: PathBuf,
        /// The node.
        node: u64,
    },
    /// The folder is a backup, as it was written.
    #[error(
        "{} is a backup, and not the data folder of a node; make one of it with `hongqiao restore FOLDER --data \
         NEW-FOLDER`, or of a copy of it with `hongqiao cluster recover --yes`",
        path.display()
    )]
    Backup {
        /// The folder.
        path: PathBuf,
    },
    /// The log is not there, though it was begun.
    #[error(
        "{} holds no log, but this node had one: its votes and its newest messages are not here. Mount the \
         volume that is missing; if the log is lost, {TWO_WAYS}. What is left can be gone on with, alone, after \
         `hongqiao cluster recover`",
        path.display()
    )]
    LogMissing {
        /// Folder of the log.
        path: PathBuf,
    },
    /// A recovery was cut off.
    #[error(
        "{} says that a recovery of this folder was cut off; end it with `hongqiao cluster recover --yes`",
        path.display()
    )]
    Recovering {
        /// The mark.
        path: PathBuf,
    },
    /// The file of the state holds what was never written.
    #[error("the state in {} is damaged; {TWO_WAYS}", path.display())]
    StateDamaged {
        /// Folder of the state.
        path: PathBuf,
        /// What was found.
        #[source]
        source: io::Error,
    },
    /// The state is older than what its log has left behind.
    #[error(
        "the state of group {group} in {} ends at entry {stored}, its log begins behind entry {purged}: \
         the state file has lost what was written; {TWO_WAYS}",
        path.display()
    )]
    StateBehind {
        /// Which group.
        group: u16,
        /// Folder of the state.
        path: PathBuf,
        /// Last entry in the state.
        stored: u64,
        /// Last entry that is gone from the log.
        purged: u64,
    },
    /// An option has no sensible meaning.
    #[error("option {name} must be {must}")]
    Option {
        /// Which option.
        name: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// The disk did not do what was asked.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Other nodes cannot be listened for.
    #[error("cannot listen for other nodes on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No member let this node into its cluster; nothing was changed.
    #[error("cannot join the cluster of {address}: {reason}")]
    Join {
        /// Who was asked.
        address: String,
        /// What the last one said.
        reason: String,
    },
    /// It was told to stop before a member had let it in; a new folder was not made.
    #[error("told to stop before a member had let this node in")]
    GivenUp,
    /// This node was removed from its cluster; its id is not given again.
    #[error(
        "node {node} was removed from its cluster, and {} is what is left of it; to come back as a new \
         member start with an empty data folder and another id, or none",
        path.display()
    )]
    Removed {
        /// The data folder.
        path: PathBuf,
        /// The node.
        node: u64,
    },
    /// A snapshot was taking the place of a state when the node ended, and cannot do so now.
    #[error(
        "the state of shard {shard} is half replaced and the snapshot in {} is damaged or gone; \
         {TWO_WAYS}",
        path.display()
    )]
    StateHalf {
        /// Which shard.
        shard: u16,
        /// The file of the snapshot.
        path: PathBuf,
    },
    /// A group did not come up in time.
    #[error("shard {shard} did not elect a leader in time")]
    NoLeader {
        /// Which shard.
        shard: u16,
    },
}

impl StartError {
    /// Says what an error of the state's store means; `path` is its folder.
    pub(crate) fn of_state(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| {
            let path = path.clone();
            match source.kind() {
                io::ErrorKind::InvalidData => Self::StateDamaged { path, source },
                _ => Self::Io { what, path, source },
            }
        }
    }
}

/// Why a backup was not written.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The target exists and is not an empty folder.
    #[error("{} is not an empty folder", path.display())]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// A disk did not do what was asked.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Why a folder was not made a cluster of one.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The folder cannot be opened or written.
    #[error(transparent)]
    Folder(#[from] StartError),
    /// Of these groups no member's copy is here; nothing was changed.
    #[error("no whole copy is here of {}", names(groups))]
    Missing {
        /// Which ones.
        groups: Vec<ShardId>,
    },
    /// The cluster had removed this node: its folder survives nothing; nothing was changed.
    #[error("node {} was removed from its cluster, so what is here is old", node.0)]
    Removed {
        /// This node.
        node: NodeId,
    },
    /// The directory would keep other members; nothing was changed.
    #[error("the directory would keep {} other members", members.len())]
    Refused {
        /// Which ones.
        members: Vec<NodeId>,
    },
}

fn names(groups: &[ShardId]) -> String {
    let names: Vec<_> = groups.iter().map(|group| format!("group {}", group.0)).collect();
    names.join(", ")
}
