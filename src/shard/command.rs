//! What may be asked of a shard, what it answers, and what it tells on its own.
//!
//! - Owns: the versioned encoding of a batch of commands (one Raft entry carries many).
//! - Takes: values from the actors. Gives: bytes for `cluster`, and typed replies back.
//! - Bound: `BATCH_BYTES_MAX` for a batch; encodings are bincode 1.3 with fixed-width integers.
//! - Source: own design; ARCHITECTURE.md "Durable messages".
//!
//! Time always comes in as an argument (`now_ms`), so that applying is pure.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use super::encoding::{
    DecodeBatchError, decode_batch, decode_replies, encode_batch, encode_replies,
};
use crate::model::{
    id::{AppId, Epoch, MessageId, Position, SessionKey},
    message::{Message, Qos},
    topic::{TopicFilter, TopicName},
    wire::SubscriptionOptions,
};

/// Which connection of which start of which node owns a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Node id.
    pub node: u64,
    /// The node's start number.
    pub incarnation: u64,
    /// The node's own name for the connection.
    pub connection: u64,
}

/// Limits that the proposer puts into commands, so that applying stays pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Most messages waiting for one session.
    pub session_messages_max: u64,
    /// Most bytes (topic, properties, payload) waiting for one session.
    pub session_bytes_max: u64,
    /// Most bytes of messages stored for one app: the whole quota, until the way to a shard turns it into
    /// the slice of that shard.
    pub app_bytes_max: u64,
    /// When a session is full: `true` drops its oldest messages, `false` the new one.
    pub drop_oldest: bool,
}

/// What one app holds in a shard, as quotas count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppUsage {
    /// Bytes of messages stored for durable sessions, each message once.
    pub log_bytes: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// Bytes of them.
    pub retained_bytes: u64,
}

/// Returns the bytes of a message that quotas count: topic, properties, payload.
#[must_use]
pub fn counted_bytes(message: &Message) -> u32 {
    let topic = message.topic.as_bytes().len();
    u32::try_from(topic + message.properties.len() + message.payload.len()).unwrap_or(u32::MAX)
}

/// A will waiting for the end of its session's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredWill {
    /// What to publish; `published_at_ms`, `expires_at_ms` and `id` are set when it fires.
    pub message: Message,
    /// Seconds between the end of the connection and the publication.
    pub delay_secs: u32,
    /// Message expiry interval, counted from the publication.
    pub expiry_secs: Option<u32>,
}

/// One subscription of a durable session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSubscription {
    /// Filter, without share prefix.
    pub filter: TopicFilter,
    /// Share name of a shared subscription.
    pub share: Option<Bytes>,
    /// Options.
    pub options: SubscriptionOptions,
    /// Subscription identifier; 0 = none.
    pub subscription_id: u32,
}

/// Who gets the share of a message in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareOwner {
    /// The log of this durable session.
    Session(SessionKey),
    /// A member without storage on this start of this node.
    Live {
        /// Node id.
        node: u64,
        /// The node's start number.
        incarnation: u64,
    },
}

/// How far a QoS 1 or 2 delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutState {
    /// PUBLISH sent, nothing back.
    Published,
    /// QoS 2: PUBREC came; PUBREL is due until PUBCOMP.
    Received,
}

/// One unfinished delivery, kept so that a resend carries the same packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InflightOut {
    /// Packet id.
    pub packet_id: u16,
    /// Which message.
    pub position: Position,
    /// QoS of the delivery.
    pub qos: Qos,
    /// How far.
    pub state: OutState,
}

/// One thing asked of a shard. Commands of a session carry its epoch; an older one is refused with
/// [`Reply::Fenced`] and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields are explained at the variant or by their type")]
pub enum Command {
    /// Gives the app a number, or finds the one it has. Only in shard 0. → [`Reply::App`]
    CreateApp { name: String },
    /// Creates or changes a user. → [`Reply::Done`]
    PutUser { app: AppId, name: String, password_hash: String },
    /// A CONNECT, as logs written before `ClaimIn` hold it: epoch + 1, new holder, expiry and will deadline
    /// cancelled. With `clean_start` the old session ends first (its will, if due, is handed out by the next
    /// `Tick`). With
    /// `expiry_secs == 0` an old session that is not cleaned is resumed and ends at disconnect;
    /// no session is created by such a claim with `clean_start` (the reply is `session_present =
    /// false`, epoch 0). → [`Reply::Claimed`]
    Claim(Box<SessionClaim>),
    /// The connection ended. `expiry_secs`: changed by DISCONNECT. `will_dropped`: DISCONNECT 0x00.
    /// `inflight`: QoS 1 deliveries not yet acknowledged, for the same ids at resume.
    /// → [`Reply::Done`]
    Release {
        key: SessionKey,
        epoch: Epoch,
        expiry_secs: Option<u32>,
        will_dropped: bool,
        inflight: Vec<InflightOut>,
        now_ms: u64,
    },
    /// Adds or replaces subscriptions. → [`Reply::Subscribed`]
    Subscribe { key: SessionKey, epoch: Epoch, items: Vec<StoredSubscription>, filters_max: u32 },
    /// Removes subscriptions. → [`Reply::Unsubscribed`]
    Unsubscribe { key: SessionKey, epoch: Epoch, items: Vec<(Option<Bytes>, TopicFilter)> },
    /// Stores a message for every matching durable session of this shard. A message whose `id` was
    /// appended before changes nothing and gets the same reply. → [`Reply::Appended`]
    Append { message: Arc<Message>, quota: Quota },
    /// Stores messages for this one session, as if a filter of its own had matched: retained copies at
    /// subscribe time (`message.retain` is what the receiver sees), shares of a shared group. `qos` is
    /// that of the delivery. Epoch 0: whoever owns the session now.
    /// → [`Reply::Appended`] of the last
    Enqueue {
        key: SessionKey,
        epoch: Epoch,
        messages: Vec<Arc<Message>>,
        qos: Qos,
        subscription_id: u32,
        quota: Quota,
    },
    /// Sets (or, with an empty payload, clears) the topic's retained message. The limits are the app's, until
    /// the way to a shard turns them into the slice of that shard. → [`Reply::Retained`]
    Retain { message: Arc<Message>, messages_max: u64, bytes_max: u64 },
    /// Deliveries were acknowledged: all up to and including `cursor`, and those in `beyond`.
    /// Never moves back. → [`Reply::Done`]
    Acknowledge { key: SessionKey, epoch: Epoch, cursor: Position, beyond: Vec<Position> },
    /// QoS 2 out: written before the PUBLISH is sent. → [`Reply::Done`]
    OutPublish { key: SessionKey, epoch: Epoch, ids: Vec<(u16, Position)> },
    /// QoS 2 out: PUBREC came; written before PUBREL is sent. → [`Reply::Done`]
    OutReceived { key: SessionKey, epoch: Epoch, packet_id: u16 },
    /// QoS 2 out: PUBCOMP came. → [`Reply::Done`]
    OutCompleted { key: SessionKey, epoch: Epoch, packet_id: u16 },
    /// QoS 2 in: remembers which message a packet id carries. → [`Reply::InBegun`]
    InBegin { key: SessionKey, epoch: Epoch, packet_id: u16, id: MessageId },
    /// QoS 2 in: PUBREL came. → [`Reply::InEnded`]
    InEnd { key: SessionKey, epoch: Epoch, packet_id: u16 },
    /// Background work, at most `limit` steps: ends expired sessions, trims what all have read, drops
    /// expired and retained messages that are due, names due wills. → [`Reply::Ticked`]
    Tick { now_ms: u64, limit: u32 },
    /// The will with this identity was published. → [`Reply::Done`]
    WillDone { key: SessionKey, epoch: Epoch },
    /// Changes nothing; logs written before `ReleaseStale` hold it. → [`Reply::Done`]
    NodeStarted { node: u64, incarnation: u64, now_ms: u64 },
    /// Of these sessions, those held by an older incarnation of the node are released as if their
    /// connections had just died; see `query::held_before`. → [`Reply::Done`]
    ReleaseStale { keys: Vec<SessionKey>, node: u64, incarnation: u64, now_ms: u64 },
    /// Stores messages for a member of a shared group, all or none, on the terms of its subscription.
    /// With an `id` that was stored before it changes nothing and gets the same reply.
    /// → [`Reply::Appended`], or [`Reply::Fenced`] if the session has no such subscription
    Share {
        key: SessionKey,
        share: Bytes,
        filter: TopicFilter,
        id: Option<MessageId>,
        messages: Vec<Arc<Message>>,
        quota: Quota,
    },
    /// As `Unsubscribe`; of shared subscriptions all behind `sent` goes to other members, the rest stays
    /// with the session until it is acknowledged. → [`Reply::Unsubscribed`]
    UnsubscribeShared {
        key: SessionKey,
        epoch: Epoch,
        items: Vec<(Option<Bytes>, TopicFilter)>,
        sent: Position,
    },
    /// Of the shares that a member left (see `query::orphan_after`) all up to `moved` has another owner;
    /// what follows, up to a position, is to go to `owner`. → [`Reply::Done`]
    Redispatch {
        log: u64,
        start: Position,
        moved: Option<Position>,
        owner: Option<(Position, SessionKey)>,
    },
    /// Stores retained copies for the session's subscription `filter`, unless its log has a newer message of
    /// their topic since the subscription was asked for. → [`Reply::Appended`] of the last
    EnqueueRetained {
        key: SessionKey,
        epoch: Epoch,
        filter: TopicFilter,
        messages: Vec<Arc<Message>>,
        quota: Quota,
    },
    /// Was something stored here under this id? Changes nothing; asked in the order of all commands.
    /// → [`Reply::Known`]
    IsKnown { id: MessageId },
    /// Writes down who gets the share `id` of a group's message, in the shard of the group: `owner`, unless
    /// somebody else than `instead` is to have it already. → [`Reply::Assigned`]
    Assign { id: MessageId, owner: ShareOwner, instead: Option<ShareOwner> },
    /// The leader of the shard in this term speaks: what those of earlier terms still have under way is
    /// refused from here on. → [`Reply::Done`], or [`Reply::Fenced`] if one of a later term has spoken
    Lead { term: u64 },
    /// As `Claim`, by the leader of the shard in this term; says what `Lead` says. → [`Reply::Claimed`] or
    /// [`Reply::Fenced`]
    ClaimIn { term: u64, claim: Box<SessionClaim> },
}

/// What a CONNECT claims; see [`Command::Claim`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields are explained at the command")]
pub struct SessionClaim {
    pub key: SessionKey,
    pub app: AppId,
    pub client_id: String,
    pub clean_start: bool,
    pub expiry_secs: u32,
    pub will: Option<Box<StoredWill>>,
    pub holder: Holder,
    pub now_ms: u64,
}

/// What a shard answers to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields are explained at the variant or by their type")]
pub enum Reply {
    Done,
    App(AppId),
    Claimed(Box<Claimed>),
    /// Per item: `Ok(new)` — `true` if the session had no such subscription — or the limit is reached.
    Subscribed(Vec<Result<bool, FiltersFull>>),
    /// Per item: whether there was one.
    Unsubscribed(Vec<bool>),
    /// `sessions`: how many durable sessions got it; `dropped`: how many did not, or lost an older one,
    /// because they were full. `refused`: the app is over its bytes and nothing was stored.
    Appended {
        position: Position,
        sessions: u32,
        dropped: u32,
        refused: bool,
    },
    /// `version` orders copies of one topic; `refused`: the app is over its limit.
    Retained {
        version: Position,
        refused: bool,
    },
    /// `known`: the packet id was in use already, and carries this message.
    InBegun {
        known: Option<MessageId>,
    },
    /// `false`: the packet id was not in use.
    InEnded(bool),
    /// Due wills: publish each with the id given, then send `WillDone`. `more`: work is left.
    Ticked {
        wills: Vec<DueWill>,
        sessions_ended: Vec<SessionKey>,
        more: bool,
    },
    /// The epoch is not the session's; nothing was changed.
    Fenced,
    /// Whether the id is known.
    Known(bool),
    /// Who gets the share.
    Assigned(ShareOwner),
}

/// Says that a session has its limit of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiltersFull;

/// The state for CONNACK and for what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// To be carried by every later command of this connection; 0 if there is no durable session.
    pub epoch: Epoch,
    /// SESSION-TRUE: subscriptions, queue and in-flight state below are really the old ones.
    pub session_present: bool,
    /// All subscriptions.
    pub subscriptions: Vec<StoredSubscription>,
    /// Everything up to and including this position is acknowledged.
    pub cursor: Position,
    /// Acknowledged beyond the cursor.
    pub beyond: Vec<Position>,
    /// Unfinished deliveries, in the order in which they were first sent.
    pub inflight: Vec<InflightOut>,
    /// Unfinished QoS 2 publishes of the client.
    pub incoming: Vec<(u16, MessageId)>,
    /// The holder before this claim, if it had not released the session.
    pub previous_holder: Option<Holder>,
    /// Of a connection without a durable session whose will is held here: to be carried by its release. Else 0.
    pub will: Epoch,
    /// Counts the claims of the session, round and round: each numbers its exchanges apart from those before it.
    pub claims: u8,
}

/// A will whose time has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueWill {
    /// Whose.
    pub key: SessionKey,
    /// Of which connection.
    pub epoch: Epoch,
    /// With `id` = f(session, epoch), `published_at_ms` and `expires_at_ms` set.
    pub message: Message,
}

/// What a shard tells on its own after it applied a command; never part of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are explained at the variant or by their type")]
pub enum Fact {
    /// The first durable subscription with QoS 1 or 2 for this filter in this shard: publishes that match
    /// must come here from now on. Told before the reply to `Subscribe`.
    FilterAdded { app: AppId, filter: TopicFilter },
    /// The last one is gone.
    FilterRemoved { app: AppId, filter: TopicFilter },
    /// The first durable member of a shared group in this shard that stores messages; the key is that of its
    /// route. Told before the reply to `Subscribe`.
    GroupAdded { key: Bytes },
    /// The last one is gone.
    GroupRemoved { key: Bytes },
    /// New messages wait for these sessions, and who holds them; of those without a holder nobody is told.
    LogGrew { sessions: Vec<(SessionKey, Holder)> },
    /// A durable session exists that did not before.
    SessionBegan { key: SessionKey },
    /// What an app holds in this shard now; told after each entry that changed it, and for every app after a
    /// start. Before the reply.
    Usage { app: AppId, used: AppUsage },
    /// Messages were dropped because a queue was full.
    Dropped { key: SessionKey, messages: u64 },
}

/// One message of a page read from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Where it stands.
    pub position: Position,
    /// Shared with the other receivers.
    pub message: Arc<Message>,
    /// QoS of this delivery: the smaller of the publish's and the greatest matching subscription's.
    pub qos: Qos,
    /// All matching subscription identifiers of the session.
    pub subscription_ids: Vec<u32>,
    /// Retain flag as the receiver shall see it: set for copies that `Enqueue` stored with it, and
    /// where a matching subscription keeps the flag as published.
    pub retain: bool,
}

/// A page of a durable session's queue; see `query::page`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Oldest first.
    pub messages: Vec<Queued>,
    /// Ask again from here (exclusive), even if `messages` is empty: what lies before was skipped
    /// (expired, acknowledged, no-local).
    pub read_to: Position,
    /// Nothing lies after `read_to` for this session now.
    pub caught_up: bool,
}

/// A retained message as a subscription gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedPage {
    /// Messages with their version.
    pub messages: Vec<(Position, Arc<Message>)>,
    /// Topic to go on after; `None`: that was all.
    pub next: Option<TopicName>,
}
