//! Replicated state of Hongqiao: Raft groups, their storage, and the links between nodes.
//!
//! - Owns: every Raft group of this node, their logs and state on disk.
//! - Takes: opaque commands for a shard. Gives: the reply of the state machine once the command is
//!   committed, flushed as the configured durability demands, and applied (FLUSH-THEN-ACK).
//! - Bound: see each module; nothing here queues without a permit.
//! - Knows nothing of actix, HTTP, MQTT or chats.

#[cfg(all(feature = "sim", not(tokio_unstable)))]
compile_error!(
    "the simulation is not deterministic without `--cfg tokio_unstable`: build it with `cargo sim` \
     (.cargo/config.toml), and with RUSTFLAGS unset, which would take that flag's place"
);

pub mod id;
pub mod machine;
pub mod options;
pub mod error;
pub mod node;
pub mod handle;
pub mod stats;
pub mod status;
mod proposals;
mod desks;
mod placement;
mod membership;
mod join;
pub mod transport;
#[doc(hidden)]
pub mod doors;
pub mod directory;
mod meta;
mod raft_groups;
mod raft_group;
mod storage;
mod stream;
mod backup;
pub mod recover;
mod limits;
mod codec;
mod clock;
mod runtime;
#[cfg(feature = "sim")]
#[cfg_attr(not(test), allow(dead_code))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]
#[allow(clippy::cast_possible_truncation, clippy::missing_panics_doc)]
pub mod sim;

pub use backup::Lacking;
pub use directory::{
    Directory, Leaving, Led, Member, Places, Role, Room, RoomKind, RoomMember, Rooms,
};
pub use error::{BackupError, ProposeError, ReadError, RecoverError, StartError};
pub use handle::ClusterHandle;
pub use machine::{Machine, Store, StoreMut};
pub use membership::{
    departure::Departure,
    error::MemberError,
    handle::GroupSnapshot,
    progress::{MemberProgress, Move, Progress},
};
pub use meta::{
    MetaChange, MetaCommand, MetaHandle, MetaProposed, MetaReply, MetaSink, Place, Refusal,
    RoomCommand, RoomReply, no_sink,
};
pub use node::Cluster;
pub use options::{Durability, Options, Peering, Secret};
pub use proposals::{Order, Proposed};
pub use raft_group::lead::Lead;
pub use stats::{DiskState, Stats};
pub use status::{GroupStatus, Status};
pub use transport::{Class, LinkError, LinkState, PeerService, Served};
