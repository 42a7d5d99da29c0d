//! What an operator decides about the durable side of a node.
//!
//! - Owns: plain values. Takes: nothing. Gives: `Options`, checked once at start.
//! - Bound: each field says its own.
//! - Source: own design; defaults as in ARCHITECTURE.md, "The write-ahead log".

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    error::StartError,
    id::{NodeId, SHARDS_MAX},
};

/// What must have happened to a command's log record before its reply (FLUSH-THEN-ACK).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Written and `fdatasync`ed: survives the loss of power.
    #[default]
    Disk,
    /// Handed to the operating system: survives `kill -9`, not the loss of power.
    Os,
}

/// How a node meets the others.
#[derive(Clone, Debug)]
pub struct Peering {
    /// Where other nodes are listened for.
    pub listen: SocketAddr,
    /// `host:port` under which they find this node.
    pub advertise: String,
    /// What all nodes of a cluster know, and nobody else.
    pub secret: Secret,
    /// `host:port` of members that let this node in at its first start; empty: it makes a new cluster.
    pub join: Vec<String>,
}

/// A secret, which no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Keeps a secret.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(secret.into())
    }

    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// How one node keeps its state.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of this node, created with mode 0700.
    pub data_dir: PathBuf,
    /// This node; written down at the first start. [`NodeId::NONE`]: as the folder says; a new member is given
    /// one by the cluster, and who makes a cluster is node 1.
    pub node: NodeId,
    /// Number of shards, 1 to [`SHARDS_MAX`]; fixed at the first start.
    pub shards: u16,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// Threads of the cluster's own runtime, beside one that flushes and one that checkpoints.
    pub threads: usize,
    /// Bytes of sled's page cache.
    pub cache_bytes: u64,
    /// Longest time between an applied command and its checkpoint, when the disk keeps up.
    pub checkpoint_interval: Duration,
    /// Bytes in the memory tables of all shards that bring a checkpoint forward; at twice as many
    /// proposals wait. Log entries in memory bring one forward at twice, and hold proposals back at
    /// three times as many.
    pub checkpoint_bytes: usize,
    /// Proposals are refused while the disk has less free space than this.
    pub disk_reserve_bytes: u64,
    /// Bytes of a file that is given up when the disk is full, so that what was accepted can be logged.
    pub reserve_file_bytes: u64,
    /// Most proposals without a reply, over all shards.
    pub proposals_max: usize,
    /// Most bytes of them.
    pub proposal_bytes_max: usize,
    /// How this node meets others; `None`: it is alone, and nobody can join it.
    pub peering: Option<Peering>,
    /// `host:port` that clients may be sent to; may be empty.
    pub client_addr: String,
    /// A member that is down and whose place a new one takes: it is declared lost when this node joins.
    pub replaces: Option<NodeId>,
    /// This node may make a cluster although it has somebody to join: when so many addresses behind
    /// `Peering::join`, its own among them, have said that they belong to none.
    pub founds_with: Option<usize>,
    /// A start that waits for members ends once this says true.
    pub given_up: Option<watch::Receiver<bool>>,
}

impl Options {
    /// Returns the defaults for a node that keeps its data in `data_dir`.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            node: NodeId(1),
            shards: 16,
            durability: Durability::Disk,
            threads: 2,
            cache_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_bytes: 32 << 20,
            disk_reserve_bytes: 256 << 20,
            reserve_file_bytes: 8 << 20,
            proposals_max: 65_536,
            proposal_bytes_max: 64 << 20,
            peering: None,
            client_addr: String::new(),
            replaces: None,
            founds_with: None,
            given_up: None,
        }
    }

    /// Waits until the start is to end; for ever, if nobody can say so.
    pub(crate) async fn given_up(&self) {
        if let Some(mut given_up) = self.given_up.clone()
            && given_up.wait_for(|given_up| *given_up).await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Returns how many Raft groups a node has: one per shard, and the meta group.
    pub(crate) fn groups(&self) -> u16 {
        self.shards + 1
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        let wrong = |name, must| Err(StartError::Option { name, must });
        match self {
            Self { shards, .. } if *shards == 0 || *shards > SHARDS_MAX => {
                wrong("shards", "between 1 and 64")
            }
            Self { threads: 0, .. } => wrong("threads", "at least 1"),
            Self { proposals_max: 0, .. } => wrong("proposals_max", "at least 1"),
            Self { checkpoint_interval, .. } if checkpoint_interval.is_zero() => {
                wrong("checkpoint_interval", "longer than zero")
            }
            Self { checkpoint_bytes, .. } if *checkpoint_bytes < 1 << 16 => {
                wrong("checkpoint_bytes", "at least 65536")
            }
            _ => Ok(()),
        }
    }
}
