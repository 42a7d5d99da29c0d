//! What is proposed to the meta group, and what it answers.
//!
//! - Owns: nothing. Takes: commands of this node's parts. Gives: bytes for the log, and commands and
//!   replies back.
//! - Bound: `limits::META_*`; the machine refuses a command that breaks one, on every replica alike.
//! - Source: own design. Version 1 is the first. A command that only newer releases know may be proposed
//!   once every member has such a release (`Member::version`): who cannot read it refuses it, and
//!   replicas would disagree.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    codec::fixed,
    directory::{Role, RoomKind},
    id::{NodeId, ShardId},
};

/// Who owns routes or memberships. Fenced: an older incarnation or term is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// One start of a node: live subscribers.
    Node {
        /// The node.
        node: NodeId,
        /// Which start of it.
        incarnation: u64,
    },
    /// One term of a shard's group: durable subscribers. The term must be the one last reported
    /// with `ShardLed`.
    Shard {
        /// The shard.
        shard: ShardId,
        /// The term of its leader.
        term: u64,
    },
}

/// A change of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// A node starts, or goes on under a new incarnation: what an older one left behind is dropped.
    NodeUp {
        /// The node.
        node: NodeId,
        /// Which start of it.
        incarnation: u64,
        /// `host:port` for other members.
        cluster_addr: String,
        /// `host:port` that clients may be sent to.
        client_addr: String,
        /// Its release.
        version: String,
    },
    /// A node is gone: its live routes and room memberships go.
    NodeDown {
        /// The node.
        node: NodeId,
        /// Which start of it; another one is not meant.
        incarnation: u64,
    },
    /// A node that is down and has no replicas leaves the cluster for good.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// All live routes of a node have been added.
    RoutesComplete {
        /// The node.
        node: NodeId,
        /// Which start of it.
        incarnation: u64,
    },
    /// Routes lead to a place.
    AddRoutes {
        /// Where to.
        place: Place,
        /// Opaque keys.
        keys: Vec<Bytes>,
    },
    /// Routes no longer lead to a place.
    RemoveRoutes {
        /// Where to.
        place: Place,
        /// Opaque keys.
        keys: Vec<Bytes>,
    },
    /// A node leads a shard.
    ShardLed {
        /// The shard.
        shard: ShardId,
        /// Its leader.
        node: NodeId,
        /// The leader's term; an older one than the last is refused.
        term: u64,
    },
    /// Where a shard's replicas shall be.
    SetReplicas {
        /// The shard.
        shard: ShardId,
        /// Its replicas, in order of preference for its lead.
        replicas: Vec<NodeId>,
    },
    /// A change of a room or group.
    Room(RoomCommand),
    // What follows is of release 0.1.0.
    /// A member is to leave: it gives away all that it has and gets nothing.
    Leave {
        /// The node.
        node: NodeId,
        /// It is down and will not come back with its data.
        lost: bool,
    },
    /// A member that leaves votes in no group any more, as committed in each of them.
    Released {
        /// The node.
        node: NodeId,
    },
    /// One replica of a shard is wished to be elsewhere, and to stay there.
    MoveShard {
        /// The shard.
        shard: ShardId,
        /// Where it is.
        from: NodeId,
        /// Where it shall be.
        to: NodeId,
    },
    /// A node that has no id yet asks for one.
    PromiseId,
    /// A member does not leave after all; a recovered one is the last that there is.
    Stay {
        /// The node.
        node: NodeId,
    },
    /// As `NodeUp`, of a node that says which data folder it runs on. A member has one: another folder with its id is
    /// refused, whatever its number of starts.
    NodeUpFrom {
        /// The node.
        node: NodeId,
        /// Which start of it.
        incarnation: u64,
        /// `host:port` for other members.
        cluster_addr: String,
        /// `host:port` that clients may be sent to.
        client_addr: String,
        /// Its release.
        version: String,
        /// Made at random with the folder.
        folder: [u8; 16],
    },
}

/// A change of a room or group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomCommand {
    /// Makes a room without members.
    Create {
        /// Its name.
        room: Bytes,
        /// What it is.
        kind: RoomKind,
        /// The user that owns it.
        owner: Bytes,
        /// Opaque facts.
        facts: Bytes,
    },
    /// Changes owner or facts.
    Change {
        /// Which room.
        room: Bytes,
        /// The new owner.
        owner: Option<Bytes>,
        /// The new facts.
        facts: Option<Bytes>,
    },
    /// Removes a room with all its members.
    Destroy {
        /// Which room.
        room: Bytes,
    },
    /// Makes a user a member; again from another node, or with another role, changes that.
    Join {
        /// Which room.
        room: Bytes,
        /// Who.
        user: Bytes,
        /// As what.
        role: Role,
        /// For a room: the node that the user is connected to. Ignored for a group.
        from: Option<(NodeId, u64)>,
    },
    /// Ends a membership: as a whole, or as far as it came from one node.
    Leave {
        /// Which room.
        room: Bytes,
        /// Who.
        user: Bytes,
        /// Only from this node, for members of a room.
        from: Option<(NodeId, u64)>,
    },
}

/// What a command has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaReply {
    /// It is as the command says.
    Done,
    /// Refused: an older incarnation or term, or one that was declared down.
    Fenced,
    /// Refused; nothing was changed.
    Refused(Refusal),
    /// What a room command has done.
    Room(RoomReply),
    /// An id that no node has or had.
    Promised(NodeId),
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A key, name or list is longer than its limit, or empty.
    #[error("a key, name or list breaks its limit")]
    Limit,
    /// As many as there may be are there.
    #[error("there are as many as there may be")]
    Full,
    /// There is no such node.
    #[error("no such node")]
    NoNode,
    /// The node was removed; its id is not given again.
    #[error("the node was removed")]
    Removed,
    /// Only a node that is down can be removed.
    #[error("the node is up")]
    StillUp,
    /// The node still has replicas of shards.
    #[error("the node holds replicas")]
    HoldsReplicas,
    /// There is no such shard.
    #[error("no such shard")]
    NoShard,
    /// There is no such room.
    #[error("no such room")]
    NoRoom,
    /// There is such a room already.
    #[error("the room exists")]
    RoomExists,
    /// The command cannot be read: it is of a newer release, or damaged.
    #[error("the command cannot be read")]
    Unreadable,
    /// Nobody would be left.
    #[error("the node is the last member that stays")]
    LastMember,
    /// Shards, or the metadata, have or would have no quorum.
    #[error("too few members are up")]
    QuorumLost,
    /// The node is on its way out.
    #[error("the node is leaving")]
    Leaving,
    /// The node is down.
    #[error("the node is down")]
    Down,
    /// The node has a replica of the shard.
    #[error("the node has a replica of the shard")]
    AlreadyThere,
    /// The node has no replica of the shard.
    #[error("the node has no replica of the shard")]
    NotThere,
    /// The node runs on another data folder.
    #[error("the node is the member of another data folder")]
    OtherFolder,
}

/// What a room command has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomReply {
    /// The room is made, changed or gone.
    Done,
    /// The user is a member; `new` if it was none before.
    Joined {
        /// It was none before.
        new: bool,
        /// Members of the room now.
        members: u32,
    },
    /// The membership has ended, or that part of it; `last` if the user is no member any more.
    Left {
        /// It was one before and is none now.
        last: bool,
        /// Members of the room now.
        members: u32,
    },
}

/// Version of what is in the log.
const VERSION: u8 = 1;

/// Encodes a value with its version in front.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = vec![VERSION];
    #[expect(clippy::expect_used, reason = "a Vec takes every write, and all lengths are known")]
    bincode::serialize_into(&mut bytes, value).expect("commands can be encoded");
    Bytes::from(bytes)
}

/// Encodes a list of values that are encoded already.
pub(crate) fn encode_list(values: &[Bytes]) -> Bytes {
    let bytes: usize = values.iter().map(Bytes::len).sum();
    let mut list = Vec::with_capacity(1 + 8 + bytes);
    list.push(VERSION);
    list.extend_from_slice(&(values.len() as u64).to_le_bytes());
    for value in values {
        // All of one version, which stands in front once.
        list.extend_from_slice(value.get(1..).unwrap_or_default());
    }
    Bytes::from(list)
}

/// Decodes a value; `None` if it is of another version, damaged or longer than `bytes_max`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Option<T> {
    use bincode::Options as _;
    let (VERSION, rest) = bytes.split_first().map(|(version, rest)| (*version, rest))? else {
        return None;
    };
    fixed(bytes_max as u64).deserialize(rest).ok()
}
