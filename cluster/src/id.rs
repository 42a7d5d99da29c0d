//! The words that the cluster and the server share.
//!
//! - Owns: nothing; plain values.
//! - Takes: hashes of owners. Gives: buckets and shards.
//! - Bound: `BUCKETS` buckets; at most `SHARDS_MAX` shards.
//! - Source: own design; slots as in Redis Cluster, partitions as in garage.

use serde::{Deserialize, Serialize};

/// How many buckets an owner's id can hash to. Fixed for ever: state keys begin with the bucket.
pub const BUCKETS: u16 = 4_096;

/// Most shards a cluster may have; a set of shards fits one `u64`.
pub const SHARDS_MAX: u16 = 64;

/// A member of the cluster; given once, never used again for another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Stands for a node that has no id yet: the cluster gives it one when it joins.
    pub const NONE: Self = Self(0);
}

/// One Raft group of durable state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId(pub u16);

/// Where an owner's id hashes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bucket(pub u16);

impl Bucket {
    /// Returns the bucket of a 128-bit hash of an owner's id.
    #[must_use]
    pub fn of(hash: u128) -> Self {
        Self(u16::try_from(hash % u128::from(BUCKETS)).unwrap_or(0))
    }

    /// Returns the shard that holds this bucket when there are `shards` of them.
    ///
    /// - Units: `shards` counts shards, 1 to [`SHARDS_MAX`]; buckets are split into equal runs.
    #[must_use]
    pub fn shard(self, shards: u16) -> ShardId {
        let shard = u32::from(self.0) * u32::from(shards) / u32::from(BUCKETS);
        ShardId(u16::try_from(shard).unwrap_or(0))
    }
}
