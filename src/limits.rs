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

/// A node that has left waits this long for the word that it is removed.
pub const REMOVED_WAIT: Duration = Duration::from_secs(15);

/// Claims of one client id that may wait for the one in front of them.
pub const CLAIMS_WAITING_MAX: usize = 8;
/// Claims that may wait until a home that begins to lead knows its sessions.
pub const CLAIMS_GATHERING_MAX: usize = 16_384;
/// How long a home that begins to lead waits for the nodes that do not answer.
pub const GATHER_WAIT: Duration = Duration::from_secs(2);
/// How long a claim is tried while its home is elsewhere, or nowhere.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(5);
/// How long one question about a session may take at another node: a takeover and a commit.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a release is tried; the link of the connection stays so long.
pub const RELEASE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that stops waits until the others know.
pub const RETIRE_WAIT: Duration = Duration::from_secs(1);
/// How long a shard may be without a leader before the node says that it cannot serve.
pub const LEADERLESS_MAX: Duration = Duration::from_secs(1);
/// How often a node that starts says what it waits for.
pub const BOOT_SAYS_EVERY: Duration = Duration::from_secs(5);
/// How long the first pause between two attempts at a home is.
pub const HOME_RETRY: Duration = Duration::from_millis(50);
/// How long a later one is at most.
pub const HOME_RETRY_MAX: Duration = Duration::from_secs(1);
/// How long a part of a roll call may take.
pub const ROLL_TIMEOUT: Duration = Duration::from_secs(1);
/// Slots of a worker's table in one part of a roll call: about 1 ms.
pub const ROLL_SLOTS: u32 = 16_384;
/// How long another node may take to confirm that it told its connections of their logs.
pub const NEWS_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections in one such message.
pub const NEWS_PER_MESSAGE: usize = 65_536;
/// How long a claim waits for the old connection to release.
pub const TAKEOVER_WAIT: Duration = Duration::from_secs(2);
/// Messages that may wait in a home's mailbox before senders wait.
pub const HOME_MAILBOX_MESSAGES: usize = 4_096;

// ---- hub ----

/// Messages that may wait in a hub's mailbox before senders wait.
pub const HUB_MAILBOX_MESSAGES: usize = 4_096;

// ---- peers ----

/// Largest message between the servers of two nodes, in bytes; a link takes frames of 8 MiB.
pub const PEER_MESSAGE_BYTES_MAX: u64 = 7 * 1024 * 1024;

// ---- routes between nodes ----

/// Routes of one proposal to the meta group.
pub const ROUTE_STEP_KEYS_MAX: usize = 1_024;
/// Bytes of their keys, unless one alone is longer.
pub const ROUTE_STEP_BYTES_MAX: usize = 128 * 1024;
/// How long a route stays when its last subscriber has gone.
pub const ROUTE_LINGER: Duration = Duration::from_secs(60);
/// How long a proposal of routes rests that was refused or not answered.
pub const ROUTE_RETRY: Duration = Duration::from_millis(200);
/// How long a node that starts waits for the routes of the others before it lets clients in.
pub const ROUTES_TOLD_WAIT: Duration = Duration::from_secs(10);
/// How long a SUBSCRIBE waits until every node knows its routes; then it is refused.
pub const ROUTE_WAIT: Duration = Duration::from_secs(5);
/// How long a durable subscription whose QoS changes between 0 and 1 or 2 has its messages live and from the log, once all
/// nodes know the change: for publishes that were routed before.
pub const QOS_CHANGE_OVERLAP: Duration = Duration::from_secs(1);
/// How often who waits for the node's directory lease looks again.
pub const LEASE_LOOK: Duration = Duration::from_millis(20);
/// Filters that a router tells of at a time when its node gets company.
pub const ROUTE_WALK_FILTERS: u32 = 1_024;

// ---- messages between nodes ----

/// Bytes of messages that wait for one node or for its answers.
pub const RELAY_WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// What holding one message costs, counted in the window.
pub const RELAY_ITEM_OVERHEAD_BYTES: usize = 128;
/// Bytes of messages in one batch, unless a single one is larger.
pub const RELAY_BATCH_BYTES: usize = 128 * 1024;
/// Largest message that goes to another node.
pub const RELAY_ITEM_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Largest batch; a link takes frames of 8 MiB.
pub const RELAY_FRAME_BYTES_MAX: usize = 7 * 1024 * 1024;
/// Batches to one node that are not answered; further messages gather meanwhile.
pub const RELAY_BATCHES_MAX: usize = 8;
/// Batches of one node that wait for routers.
pub const RELAY_ARRIVALS_MAX: usize = 16;
/// How long a publisher of QoS ≥ 1 waits for another node: longer than it takes to declare one down, also if
/// the metadata group needs a new leader first.
pub const RELAY_WAIT: Duration = Duration::from_secs(10);
/// How long a lane rests after a loss; longer, up to ten times, when it goes on.
pub const RELAY_RETRY: Duration = Duration::from_millis(50);
/// How long a publish of QoS ≥ 1 waits for the node's directory lease.
pub const LEASE_WAIT: Duration = Duration::from_secs(5);

const _: () = assert!(RELAY_BATCH_BYTES < RELAY_WINDOW_BYTES);
const _: () = assert!(RELAY_BATCHES_MAX <= RELAY_ARRIVALS_MAX);

// ---- groups ----

/// Messages that may wait in the mailbox of a worker's shared groups before senders wait.
pub const GROUPS_MAILBOX_MESSAGES: usize = 4_096;

/// Groups over several nodes of which a worker knows whose turn it is; with more it begins anew.
pub const GROUPS_TURNS_MAX: usize = 16_384;
/// Members without room that a share passes before it waits at the next one.
pub const GROUPS_PASSES_MAX: u32 = 8;
/// Offers for other nodes of which a worker knows how much was taken.
pub const GROUPS_OFFERS_MAX: usize = 1_024;
/// How long a node waits for what another does with one share: its shard may need a new leader.
pub const GROUPS_ASK: Duration = Duration::from_secs(6);
/// How long a share rests before nodes are asked again.
pub const GROUPS_RETRY: Duration = Duration::from_millis(100);

/// Durable members of a group that a shard names at a time.
pub const GROUP_MEMBERS_PAGE: usize = 1_024;

/// Shares that came back from live members and wait on one worker to be dealt again; more are given up.
pub const GIVEN_BACK_MAX: usize = 16_384;
/// How long one rests before it is dealt again.
pub const GIVEN_BACK_RETRY: Duration = Duration::from_millis(500);
/// How long it is tried: longer than any change of leaders, and than a disk takes to be made room on by a script.
pub const GIVEN_BACK_PATIENCE: Duration = Duration::from_secs(60);
/// Exchanges of QoS 2 whose message a live member got, times groups: a home remembers so many, and at most
/// as many before them (32 B each, twice that while a table grows), to deal none of them again.
pub const GROUPS_LIVE_EXCHANGES: usize = 16_384;

/// Messages of one chunk of what a member left.
pub const ORPHAN_CHUNK_MESSAGES: usize = 128;
/// Bytes of such a chunk, unless its first message alone is larger.
pub const ORPHAN_CHUNK_BYTES: usize = 256 * 1024;
/// How long moving rests when no member has room; doubled up to `UPKEEP_INTERVAL`.
pub const ORPHAN_PAUSE: Duration = Duration::from_millis(10);

// ---- facts ----

/// How often the log says that full queues drop messages.
pub const DROPS_LOGGED_EVERY: Duration = Duration::from_secs(1);

// ---- upkeep ----

/// How often a shard is asked whether something is due.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Steps of background work in one commit.
pub const UPKEEP_STEPS: u32 = 256;
/// Sessions that are looked at after a start, and released if need be, in one commit.
pub const STALE_SESSIONS_LOOKED: usize = 512;

const _: () = assert!(APPEND_BATCH_BYTES_MAX <= APPEND_WAITING_BYTES_MAX);

// ---- configuration and process ----

/// Largest configuration file in bytes.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// Largest packet of a client in a cluster: it has to fit a frame between nodes, with what comes around it.
pub const CLUSTER_PACKET_BYTES_MAX: u32 = 6 * 1024 * 1024;

/// Most listeners of one process.
pub const LISTENERS_MAX: usize = 64;

/// Most connection threads: a set of them is one `u64`.
pub const WORKER_THREADS_MAX: usize = 64;

/// Most connections of one of them: a home keeps the slot of a connection in 26 bits.
pub const CONNECTIONS_PER_WORKER_MAX: u32 = (1 << 26) - 1;

/// Most threads of the cluster runtime.
pub const CLUSTER_THREADS_MAX: usize = 64;

/// Smallest cache and smallest memory table of the storage, in bytes.
pub const STORAGE_BUFFER_BYTES_MIN: u64 = 1 << 20;

/// Shortest secret of a cluster, in bytes.
pub const CLUSTER_SECRET_BYTES_MIN: usize = 16;

/// Largest packet that MQTT can frame: 268,435,455 bytes of remaining length and a header of five.
pub const MQTT_PACKET_BYTES_MAX: u32 = 268_435_460;

/// Smallest packet limit that still lets a client connect and be answered.
pub const MQTT_PACKET_BYTES_MIN: u32 = 256;

// ---- authentication ----

/// Questions about apps that this node does not know, at a time; more are refused as "server busy".
pub const APP_LOOKUPS_MAX: usize = 64;

/// Password checks that may wait for a verifying thread; more are refused as "server busy".
pub const PASSWORD_CHECKS_WAITING_MAX: usize = 1_024;

/// Threads that verify passwords. Each check takes tens of milliseconds of one core.
pub const PASSWORD_THREADS: usize = 2;

/// How long a CONNECT waits for its password check.
pub const PASSWORD_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Password checks that succeeded and are remembered, 16 bytes each.
pub const PASSWORD_MEMORY_ENTRIES: usize = 65_536;

/// Longest password in bytes that is hashed.
pub const PASSWORD_BYTES_MAX: usize = 1_024;

/// Longest user name in bytes, app prefix included.
pub const USER_NAME_BYTES_MAX: usize = 256;

/// Longest app name (`org#app`) in bytes.
pub const APP_NAME_BYTES_MAX: usize = 128;

// ---- HTTP ----

/// How long a scrape of the metrics waits for the shards; then it tells what they said last.
pub const TOTALS_WAIT: Duration = Duration::from_secs(1);

/// How often a caller hears that its backup goes on.
pub const BACKUP_PULSE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 5_000 });

/// Largest head (request line and headers) of an HTTP request; fixed by `actix-http`.
pub const HTTP_HEAD_BYTES_MAX: usize = 128 * 1_024;

// ---- relations of the above ----

const _: () = assert!(MQTT_PACKET_BYTES_MIN < MQTT_PACKET_BYTES_MAX);
const _: () = assert!((CLUSTER_PACKET_BYTES_MAX as u64) < PEER_MESSAGE_BYTES_MAX);
const _: () = assert!(PASSWORD_THREADS < PASSWORD_CHECKS_WAITING_MAX);
const _: () = assert!(APP_NAME_BYTES_MAX < USER_NAME_BYTES_MAX);
const _: () = assert!(WORKER_THREADS_MAX <= u8::MAX as usize);
// ---- worker threads ----

/// Size of a thread's read buffer; a read gives at most so many bytes.
pub const READ_BYTES: usize = 64 * 1024;
/// A read asks for at least so many bytes.
pub const READ_BYTES_MIN: usize = 16 * 1024;
/// A packet that is not whole yet never reserves more than this ahead of what has arrived.
pub const PARTIAL_RESERVE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of empty outboxes that a thread keeps for the next use.
pub const POOLED_OUTBOX_BYTES_MAX: usize = 1024 * 1024;
/// An outbox whose own buffer grew beyond this gives it back before it is kept.
pub const POOLED_BUFFER_BYTES_MAX: usize = 128 * 1024;
/// Links that the flusher writes before other tasks of its thread have their turn.
pub const FLUSH_LINKS_PER_POLL: usize = 256;
/// Receivers that a router serves before other tasks of its thread have their turn.
pub const WALK_RECEIVERS_PER_POLL: usize = 2_048;
/// Receivers of one topic that a router serves before another topic has its turn.
pub const WALK_RECEIVERS_PER_TURN: usize = 256;
/// Bytes of messages that wait for their turn in a router before it takes no more.
pub const WALKING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Messages that may wait in a connection's mailbox before senders wait.
pub const CONNECTION_MAILBOX_MESSAGES: usize = 8;
/// Messages that may wait in a router's mailbox before senders wait.
pub const ROUTER_MAILBOX_MESSAGES: usize = 1_024;
/// Bytes of a payload from which receivers share it instead of getting a copy behind their packet id.
pub const SHARED_PAYLOAD_BYTES_MIN: usize = 2 * 1024;

/// Connections that the kernel holds for a listener before they are accepted.
pub const LISTEN_BACKLOG: i32 = 4_096;
/// File descriptors that sockets leave to the log and the state, where the limit allows it.
pub const FILES_RESERVED: u64 = 64;
/// Connections that a listener takes before other tasks of its thread have their turn.
pub const ACCEPTS_PER_POLL: usize = 64;

const _: () = assert!(READ_BYTES_MIN <= READ_BYTES);

// ---- HTTP port and WebSocket upgrade ----

/// How long an HTTP connection without a request stays open.
pub const HTTP_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest time in which an HTTP connection is written nothing: bounds clients that send slowly.
pub const HTTP_SILENCE_MAX: Duration = Duration::from_secs(90);
/// Connections of one worker that speak HTTP, about 20 kB each; more are answered 503.
pub const HTTP_CONNECTIONS_PER_WORKER_MAX: usize = 8_192;
/// How long the end of a connection waits for its client.
pub const HTTP_LINGER: Duration = Duration::from_secs(1);
/// Bytes of a refused client that are read and forgotten.
pub const HTTP_LINGER_BYTES: usize = 64 * 1024;
/// How long accepting rests when the system has no descriptors left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a stopping port looks whether its last request is answered.
pub const DRAIN_POLL: Duration = Duration::from_millis(20);

const _: () = assert!(HTTP_KEEP_ALIVE.as_secs() < HTTP_SILENCE_MAX.as_secs());
// ---- connection ----

/// Publishes of one client that go out together.
pub const PUBLISH_BATCH_MAX: usize = 256;

/// Unfinished publishes of a 3.1.1 client; beyond it reading stops.
pub const V4_UNFINISHED_MAX: usize = 64;

/// How long publishes may stand still before the client is told "quota exceeded"; counted in whole seconds
/// of the worker, so up to two more may pass.
pub const STALL_WAIT: Duration = Duration::from_secs(5);

/// Most that one turn of a worker's clock, once a second, counts: what is longer it was not running.
pub const WORKER_STEP_MAX: Duration = Duration::from_secs(2);

/// Reads of one connection before other tasks of its thread have their turn.
pub const CONNECTION_TURNS_PER_POLL: usize = 16;

// ---- durable reader ----

/// Most messages of one page of a session's log.
pub const PAGE_MESSAGES_MAX: usize = 1_024;

/// Most bytes of one page, unless its first message alone is larger.
pub const PAGE_BYTES_MAX: usize = 256 * 1_024;

/// Acknowledgements that are told to the shard at once; fewer wait for `REPORT_DELAY`.
pub const REPORT_ACKS: u32 = 64;

/// How long acknowledgements may wait until the shard is told.
pub const REPORT_DELAY: Duration = Duration::from_millis(50);

/// How long a reader rests after the shard could not be asked.
pub const READER_RETRY: Duration = Duration::from_millis(200);

// ---- shard ----

/// Shares of QoS 2 messages in groups over several nodes whose owners a shard remembers.
pub const ASSIGNED_MAX: usize = 65_536;

/// Slots of message ids (exchanges of QoS 2 under way, by shared group, too; wills) that a shard remembers to recognise a double.
pub const DEDUP_IDS_MAX: usize = 65_536;
/// Positions beyond its cursor that a session remembers as acknowledged; `model::reader::SPAN_MAX` keeps
/// every reader below it.
pub const BEYOND_MAX: usize = 8_192;
/// Index items that one acknowledgement may trim; the rest is left to `Tick`.
pub const TRIM_INLINE_ITEMS: u32 = 1_024;
/// How long it is known that there was a session: what it sent may still be on its way when it is begun anew.
pub const SESSION_ENDED_KEPT: Duration = Duration::from_secs(60);
/// Readers of a log beyond which it is trimmed by `Tick` only, and full sessions lose an eighth at once.
pub const WIDE_LOG_MEMBERS: usize = 64;
/// When a due will is handed out again if nobody has said that it is published.
pub const WILL_RETRY: Duration = Duration::from_secs(5);
/// How often a will is tried whose share a group has no room for.
pub const WILL_SHARE_TRIES: u32 = 12;
/// Wills of one shard of which it is known what of them was published; of more it is done again.
pub const WILLS_OPEN_MAX: usize = 16_384;

// ---- retained ----

/// Retained messages that are read from a shard, and wait for a client's window, at a time.
pub const RETAINED_PAGE_MESSAGES: usize = 128;
/// With more unsent bytes than this a client gets no further retained message for now.
pub const RETAINED_OUTBOX_BYTES: usize = 256 * 1024;
/// Topics that are noted as overtaken while retained messages are being sent.
pub const FRESH_TOPICS_MAX: usize = 4_096;
/// How long the sending of retained messages rests when the client is behind.
pub const RETAINED_PAUSE: Duration = Duration::from_millis(10);
/// How long it rests at most when messages cannot be read or stored; the first time `READER_RETRY`.
pub const RETAINED_RETRY_MAX: Duration = Duration::from_secs(1);

// ---- connection ----

/// Longest client id in bytes; what the wire can carry is far more than anybody needs.
pub const CLIENT_ID_BYTES_MAX: u16 = 1_024;
