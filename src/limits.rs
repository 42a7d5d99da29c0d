//! Every bound that is not configured, with its unit; relations between bounds are checked here.
//!
//! - Owns: constants. Bound: this is where they are.

use std::time::Duration;

// ---- appender ----

/// Bytes of commands that may wait for one shard at one worker.
pub const APPEND_WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of commands in one proposal, unless a single command is larger.
pub const APPEND_BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Commands in one proposal.
pub const APPEND_BATCH_COMMANDS_MAX: usize = 2_048;
/// Proposals of one worker under way in one shard; the next batch gathers meanwhile.
pub const APPEND_PROPOSALS_MAX: usize = 2;
/// Messages that may wait in an appender's mailbox before senders wait.
pub const APPENDER_MAILBOX_MESSAGES: usize = 4_096;

// ---- home ----

/// Claims of one client id that may wait for the one in front of them.
pub const CLAIMS_WAITING_MAX: usize = 8;
/// How long a claim waits for the old connection to release.
pub const TAKEOVER_WAIT: Duration = Duration::from_secs(2);
/// Messages that may wait in a home's mailbox before senders wait.
pub const HOME_MAILBOX_MESSAGES: usize = 4_096;

// ---- hub ----

/// Messages that may wait in a hub's mailbox before senders wait.
pub const HUB_MAILBOX_MESSAGES: usize = 4_096;

// ---- groups ----

/// Messages that may wait in the mailbox of a worker's shared groups before senders wait.
pub const GROUPS_MAILBOX_MESSAGES: usize = 4_096;

// ---- upkeep ----

/// How often a shard is asked whether something is due.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Steps of background work in one commit.
pub const UPKEEP_STEPS: u32 = 256;

const _: () = assert!(APPEND_BATCH_BYTES_MAX <= APPEND_WAITING_BYTES_MAX);
