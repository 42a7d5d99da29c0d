//! Every bound of this crate, with its unit.
//!
//! - Owns: nothing. Gives: constants; what an operator may change is in `Options`.
//! - Source: own design; figures in ARCHITECTURE.md, "The write-ahead log".

use std::time::Duration;

/// Most commands that one Raft entry carries; a command's index is the entry's times this, plus its
/// place in the entry.
pub(crate) const ENTRY_COMMANDS_MAX: usize = 4_096;

/// A Raft entry takes no further command once it holds this many bytes.
pub(crate) const ENTRY_BYTES_TARGET: usize = 1 << 20;

/// Entries of one group between proposer and reply: one is flushed while the next is gathered.
pub(crate) const ENTRIES_IN_FLIGHT_MAX: usize = 2;

/// After this time the outcome of a proposal is unknown to its caller.
pub(crate) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A command that was sent nowhere for so long is refused, just before its caller stops waiting.
pub(crate) const STREAM_GIVE_UP: Duration = Duration::from_millis(4_750);

/// Nobody waits for a group that has had no leader for so long: elections take less.
pub(crate) const LEADERLESS_PATIENCE: Duration = Duration::from_secs(3);

/// Wait after a request that was refused or could not be sent.
pub(crate) const STREAM_RETRY: Duration = Duration::from_millis(20);

/// Requests of one stream under way to a leader on another node.
pub(crate) const STREAM_REQUESTS_MAX: usize = 4;

/// A request takes no further command once it holds this many bytes.
pub(crate) const STREAM_REQUEST_BYTES: usize = 512 << 10;

/// Streams that a group remembers; those without a sign of life for longest are dropped.
pub(crate) const STREAM_NODES_MAX: usize = META_NODES_MAX;

/// Replies that a replica keeps for senders whose leader was lost ...
pub(crate) const REPLIES_KEPT_MAX: usize = 16_384;
/// ... and bytes of them.
pub(crate) const REPLIES_KEPT_BYTES_MAX: usize = 1 << 20;

/// Reads of this node that run or wait for their turn on the cluster's threads.
pub(crate) const READS_MAX: usize = 64;

/// Followers that heard of a leader let no other be elected for this long. openraft's `election_timeout_max`.
pub(crate) const LEADER_LEASE: Duration = Duration::from_millis(800);

/// Longest silence of a quorum after which a leader still answers reads: shorter than the lease, by
/// more than clocks run apart meanwhile.
pub(crate) const READ_SILENCE_MAX: Duration = Duration::from_millis(500);

/// Longest silence of a quorum after which a leader still acts as one.
pub(crate) const LEAD_SILENCE_MAX: Duration = Duration::from_millis(750);

/// How often a leader is heard of when it has nothing to say.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

/// An append that takes longer, with the member's disk in it, is sent again.
pub(crate) const APPEND_TIMEOUT: Duration = Duration::from_millis(300);

/// A vote that takes longer is not waited for; a candidate tries again after this time and a delay.
pub(crate) const ELECTION_MIN: Duration = Duration::from_millis(500);

/// Entries for another member are sent in requests of about this many bytes, or one entry.
pub(crate) const APPEND_BYTES_TARGET: usize = 1 << 20;

/// Most bytes of one command: an entry with it must fit a frame between nodes.
pub(crate) const COMMAND_BYTES_MAX: usize = 4 << 20;

/// A log segment takes no further batch beyond this many bytes.
pub(crate) const SEGMENT_BYTES: u64 = 32 << 20;

/// Segments that groups which hardly write may hold back, beside twice what the log keeps in memory; then their
/// entries are written again. High enough that checkpoints let go of most entries before.
pub(crate) const SEGMENTS_HELD_MAX: u64 = 4;

/// Entries are written again in batches of about this many bytes.
pub(crate) const CARRY_BYTES: usize = 1 << 20;

/// Segments kept for reuse; writing over old bytes spares the file system its metadata.
pub(crate) const SEGMENTS_SPARE_MAX: usize = 2;

/// Most bytes of a sled value: larger ones end up in files that sled never syncs.
pub(crate) const PIECE_BYTES_MAX: usize = 4_096;

/// Values up to this size share a block with their neighbours.
pub(crate) const INLINE_BYTES_MAX: usize = 1_536;

/// Longest key of the state.
pub(crate) const KEY_BYTES_MAX: usize = 1_024;

/// First wait after an error of the disk; doubled up to `RETRY_MAX`.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(10);

/// Longest wait between two tries of the disk.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(1);

/// How long a lease on the directory is, on the clock of the node that holds it.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// How long one is for everybody else: two clocks may run apart by a tenth.
pub(crate) const LEASE_SPAN: Duration = Duration::from_millis(2_200);

/// A lease is renewed at least this often.
pub(crate) const LEASE_RENEWAL: Duration = Duration::from_millis(500);

/// A node that has not renewed its lease for this long is declared down.
pub(crate) const DOWN_AFTER: Duration = Duration::from_secs(5);

/// Most bytes of a request about leases, or of its answer.
pub(crate) const LEASE_BYTES_MAX: usize = 256;

/// Most bytes that are read of one batch of meta commands.
pub(crate) const META_ENTRY_BYTES_MAX: usize = 4 << 20;

/// A batch of meta commands takes no further one once it holds this many bytes.
pub(crate) const META_BATCH_BYTES: usize = 512 << 10;

/// Most commands in a batch of meta commands.
pub(crate) const META_BATCH_COMMANDS: usize = 1_024;

/// Most bytes of one meta command.
pub(crate) const META_COMMAND_BYTES_MAX: usize = 1 << 20;

/// Meta commands of this node that wait for their batch or for their reply.
pub(crate) const META_WAITING_MAX: usize = 16_384;

/// Most bytes of a record of the meta group's state.
pub(crate) const META_RECORD_BYTES_MAX: usize = 1 << 20;

/// Most members of a cluster.
pub(crate) const META_NODES_MAX: usize = 1_024;

/// Most ids of removed members.
pub(crate) const META_REMOVED_MAX: usize = 65_536;

/// Most replicas of a shard.
pub(crate) const META_REPLICAS_MAX: usize = 7;

/// Longest address or release of a member.
pub(crate) const META_ADDRESS_BYTES_MAX: usize = 512;

/// Most routes.
pub(crate) const META_ROUTES_MAX: usize = 16 << 20;

/// Longest key of a route: an app, and a topic filter of 65,535 bytes.
pub(crate) const META_ROUTE_KEY_BYTES_MAX: usize = 66_560;

/// Longest key of a route that is part of a key of the store.
pub(crate) const META_STORED_KEY_BYTES_MAX: usize = 768;

/// Most keys of one command about routes.
pub(crate) const META_KEYS_MAX: usize = 4_096;

/// Most rooms and groups.
pub(crate) const META_ROOMS_MAX: usize = 1 << 20;

/// Most members of one of them.
pub(crate) const META_ROOM_MEMBERS_MAX: u32 = 100_000;

/// Most memberships of all of them.
pub(crate) const META_MEMBERSHIPS_MAX: usize = 8 << 20;

/// Most rooms and groups of a user.
pub(crate) const META_ROOMS_OF_USER_MAX: usize = 1_024;

/// Longest name of a room or group.
pub(crate) const META_ROOM_BYTES_MAX: usize = 256;

/// Longest name of a user in a room.
pub(crate) const META_USER_BYTES_MAX: usize = 640;

/// Longest facts of a room or group.
pub(crate) const META_FACTS_BYTES_MAX: usize = 4_096;

const _: () = assert!(META_STORED_KEY_BYTES_MAX < KEY_BYTES_MAX);
const _: () = assert!(META_ROOM_BYTES_MAX + META_USER_BYTES_MAX + 3 < KEY_BYTES_MAX);
const _: () = assert!(META_BATCH_BYTES + META_COMMAND_BYTES_MAX < META_ENTRY_BYTES_MAX);
const _: () = assert!(META_ROUTE_KEY_BYTES_MAX + 1_024 < META_RECORD_BYTES_MAX);

/// Longest body of a frame between nodes.
pub(crate) const FRAME_BYTES_MAX: usize = 8 << 20;

/// Requests of one link that wait to be sent or for their answer.
pub(crate) const LINK_REQUESTS_MAX: usize = 16_384;

/// Bytes of them, and as many of casts that wait to be sent.
pub(crate) const LINK_BYTES_MAX: usize = 16 << 20;

/// A side of a connection that has sent nothing for this long sends a sign of life.
pub(crate) const LINK_PING_INTERVAL: Duration = Duration::from_secs(1);

/// A link that has heard nothing for this long is dead.
pub(crate) const LINK_SILENCE_MAX: Duration = Duration::from_secs(3);

/// First wait before a link is tried again; doubled up to `LINK_RETRY_MAX`.
pub(crate) const LINK_RETRY_MIN: Duration = Duration::from_millis(50);

/// Longest wait between two tries of a link.
pub(crate) const LINK_RETRY_MAX: Duration = Duration::from_secs(1);

/// Longest time to resolve a name, and to connect to one address.
pub(crate) const LINK_CONNECT_TIME: Duration = Duration::from_secs(2);

/// Longest time of a handshake.
pub(crate) const LINK_GREETING_TIME: Duration = Duration::from_secs(2);

const _: () = assert!(FRAME_BYTES_MAX <= LINK_BYTES_MAX);
const _: () = assert!(INLINE_BYTES_MAX + 2 * KEY_BYTES_MAX + 64 < PIECE_BYTES_MAX);
const _: () = assert!(READ_SILENCE_MAX.as_millis() < LEAD_SILENCE_MAX.as_millis());
const _: () = assert!(LEAD_SILENCE_MAX.as_millis() < LEADER_LEASE.as_millis());
const _: () = assert!(
    ENTRY_BYTES_TARGET + COMMAND_BYTES_MAX + 16 * ENTRY_COMMANDS_MAX + 4_096 < FRAME_BYTES_MAX
);
const _: () = assert!(STREAM_GIVE_UP.as_millis() < PROPOSE_TIMEOUT.as_millis());
// What may be in doubt when a leader is lost still has its replies.
const _: () = assert!(REPLIES_KEPT_MAX >= ENTRIES_IN_FLIGHT_MAX * ENTRY_COMMANDS_MAX);

/// A backup waits this long until its node has what was acknowledged before; then it names what may be missing.
pub(crate) const BACKUP_CURRENT_WAIT: Duration = Duration::from_secs(10);
