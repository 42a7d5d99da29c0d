//! Why the cluster refused, or does not know: one enum per boundary.
//!
//! - Owns: nothing. Gives: one variant per thing that a caller can do differently.
//! - Bound: none.
//! - Source: own design.

use std::{io, path::PathBuf};

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
         restore the folder from a backup",
        path.display()
    )]
    LogDamaged {
        /// The segment file.
        path: PathBuf,
        /// Where the damaged batch begins.
        offset: u64,
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
    /// A snapshot was taking the place of a state when the node ended, and cannot do so now.
    #[error(
        "the state of shard {shard} is half replaced and the snapshot in {} is damaged or gone; \
         restore the folder from a backup, or empty it and join the cluster again",
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
