//! Durable state of one shard: commands in, replies and facts out, on an ordered key-value store.

pub mod command;
