//! Hongqiao: a self-hosted messaging server on long connections.
//!
//! `ARCHITECTURE.md` draws the map; the modules below stand in reading order, from the pure rules
//! outwards to sockets and commands.

pub mod limits;
pub mod clock;
pub mod error;
pub mod config;
pub mod data_folder;
pub mod banner;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod auth;
pub mod shard;
pub mod actors;
pub mod front;
pub mod http;
pub mod server;
pub mod cli;
