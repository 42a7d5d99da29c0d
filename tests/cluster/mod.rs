//! Several nodes as real processes: any node serves any client, and the end of one loses nothing.
//!
//! Tests here start their own clusters, one at a time: a cluster is many processes and many timers.

mod bad_input;
mod clients;
mod load;
mod crash;
mod drain;
mod upgrade;
mod members;
mod starts;
mod ready;
mod grow;
mod live;
mod log;
mod failover;
mod recover;
mod shared;
mod shared_crash;

use crate::delivery::alone;
