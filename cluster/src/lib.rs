//! Replicated state of Hongqiao: Raft groups, their storage, and later the links between nodes.
//!
//! - Owns: every Raft group of this node, their logs and state on disk.
//! - Takes: opaque commands for a shard. Gives: the reply of the state machine once the command is
//!   committed, flushed as the configured durability demands, and applied (FLUSH-THEN-ACK).
//! - Bound: see each module; nothing here queues without a permit.
//! - Knows nothing of actix, HTTP, MQTT or chats.

pub mod id;
pub mod machine;
