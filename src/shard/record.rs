//! Stored values: each begins with its version and knows how to read the ones before.
//!
//! - Owns: the records of `key.rs`. Gives: bytes, and records back from any version that was written.
//! - Bound: small, except wills and retained messages, which are as large as their payload.
//! - Source: own design; versions as in garage `src/util/migrate.rs`.
//!
//! Chunks of bodies and of index have layouts of their own: `body.rs`, `index.rs`.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::error;

use super::command::{AppUsage, Holder, InflightOut, OutState, ShareOwner, StoredWill};
use crate::model::{
    id::{AppId, Epoch, MessageId, Position, SessionKey},
    topic::TopicFilter,
    wire::SubscriptionOptions,
};

/// A stored value with a version in front.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// The version that is written.
    const VERSION: u8 = 1;

    /// Reads an older version; there is none before the first.
    fn migrate(_version: u8, _bytes: &[u8]) -> Option<Self> {
        None
    }

    /// Encodes the record.
    fn to_bytes(&self) -> Bytes {
        let size = bincode::serialized_size(self).unwrap_or(0);
        let mut bytes = Vec::with_capacity(1 + usize::try_from(size).unwrap_or(0));
        bytes.push(Self::VERSION);
        #[expect(
            clippy::expect_used,
            reason = "a Vec takes every write, and all lengths are known"
        )]
        bincode::serialize_into(&mut bytes, self).expect("records can be encoded");
        Bytes::from(bytes)
    }

    /// Decodes a record of this version or an older one; `None` (and an error in the log) if the bytes
    /// are of neither.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let record = if *version == Self::VERSION {
            bincode::deserialize(rest).ok()
        } else {
            Self::migrate(*version, rest)
        };
        if record.is_none() {
            error!(version, kind = std::any::type_name::<Self>(), "stored record is unreadable");
        }
        record
    }
}

/// A count of messages and of their bytes (topic, properties, payload).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Amount {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u32) {
        self.messages += 1;
        self.bytes += u64::from(bytes);
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) app: AppId,
    pub(super) client_id: String,
    pub(super) epoch: Epoch,
    pub(super) expiry_secs: u32,
    pub(super) holder: Option<Holder>,
    /// When a session without holder ends.
    pub(super) deadline_ms: Option<u64>,
    /// The will that this session may still cancel.
    pub(super) will: Option<Epoch>,
    /// Log of messages for this session alone.
    pub(super) private_log: Option<u64>,
    /// Not durable: it is here for the will of its connection alone, and ends with it.
    pub(super) will_only: bool,
    /// See `Claimed::claims`.
    pub(super) claims: u8,
}

/// What a session that is begun anew must know of the one before.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct EndedRecord {
    /// See `Claimed::claims`.
    pub(super) claims: u8,
    /// When it is forgotten.
    pub(super) until_ms: u64,
}

/// A [`SessionRecord`] of version 1.
#[derive(Debug, Deserialize)]
struct SessionRecordV1 {
    app: AppId,
    client_id: String,
    epoch: Epoch,
    expiry_secs: u32,
    holder: Option<Holder>,
    deadline_ms: Option<u64>,
    will: Option<Epoch>,
    private_log: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ProgressRecord {
    pub(super) cursor: Position,
    /// Acknowledged beyond the cursor, ascending.
    pub(super) beyond: Vec<Position>,
    pub(super) skips: SkipsRecord,
}

/// What a session does not get because it was full ("newest dropped").
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SkipsRecord {
    /// Full since this position (inclusive), under these limits.
    pub(super) open: Option<(Position, Amount)>,
    /// Earlier times: from (inclusive), to (exclusive), how much; ascending.
    pub(super) ranges: Vec<(Position, Position, Amount)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SubscriptionRecord {
    pub(super) filter: TopicFilter,
    pub(super) share: Option<Bytes>,
    pub(super) options: SubscriptionOptions,
    pub(super) subscription_id: u32,
    /// First position that it may match.
    pub(super) start: Position,
    /// First position that it gets from its log; later than `start` if it had QoS 0 before.
    pub(super) joined: Position,
    /// Log of its filter, where messages wait for it (QoS 1 and 2); of a shared one the log of its shares.
    pub(super) log: Option<u64>,
    /// When the client subscribed last.
    pub(super) asked: Position,
}

/// A [`SubscriptionRecord`] of version 1.
#[derive(Debug, Deserialize)]
struct SubscriptionRecordV1 {
    filter: TopicFilter,
    share: Option<Bytes>,
    options: SubscriptionOptions,
    subscription_id: u32,
    start: Position,
    joined: Position,
    log: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DrainRecord {
    pub(super) log: u64,
    pub(super) options: SubscriptionOptions,
    pub(super) subscription_id: u32,
    pub(super) start: Position,
    /// First position that it does not get.
    pub(super) end: Position,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OutRecord {
    pub(super) position: Position,
    pub(super) state: OutState,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InflightRecord(pub(super) Vec<InflightOut>);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InRecord(pub(super) MessageId);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WillRecord {
    pub(super) will: StoredWill,
    /// When it became or becomes due; `None` while the connection lives.
    pub(super) due_ms: Option<u64>,
    /// Where its deadline stands: `due_ms`, or later if it was handed out already.
    pub(super) deadline_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UserRecord {
    pub(super) password_hash: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AppRecord(pub(super) AppId);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UsageRecord {
    /// Bytes of messages in logs; a body counts until its whole chunk is free.
    pub(super) log_bytes: u64,
    pub(super) retained: Amount,
}

impl UsageRecord {
    /// Returns it as it is told outside.
    pub(super) fn told(self) -> AppUsage {
        let Amount { messages, bytes } = self.retained;
        AppUsage { log_bytes: self.log_bytes, retained_messages: messages, retained_bytes: bytes }
    }
}

/// One chunk of bodies of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChunkInfo {
    /// Offset of its first message.
    pub(super) first: u32,
    pub(super) app: AppId,
    /// Index items that point into it.
    pub(super) references: u32,
    /// Bytes that count for the app; 0 once the bodies have expired.
    pub(super) bytes: u64,
    /// When all its messages have expired; 0 = never.
    pub(super) expires_at_ms: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct EntryRecord(pub(super) Vec<ChunkInfo>);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LogRecord {
    pub(super) app: AppId,
    /// `None`: private to a session, or its filter has only draining subscriptions.
    pub(super) filter: Option<TopicFilter>,
    /// Share name and filter of the group whose shares it holds for one member.
    pub(super) group: Option<(Bytes, TopicFilter)>,
}

/// A [`LogRecord`] of version 1.
#[derive(Debug, Deserialize)]
struct LogRecordV1 {
    app: AppId,
    filter: Option<TopicFilter>,
}

/// What a member of a shared group left unread.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OrphanRecord {
    pub(super) app: AppId,
    pub(super) share: Bytes,
    pub(super) filter: TopicFilter,
    /// First position that is not moved yet.
    pub(super) from: Position,
    /// First position behind it.
    pub(super) to: Position,
    /// Positions that nobody else gets, ascending.
    pub(super) done: Vec<Position>,
    pub(super) skips: SkipsRecord,
    /// Whose everything up to this position is going to be.
    pub(super) owner: Option<(Position, SessionKey)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogStateRecord {
    /// All that was ever stored.
    pub(super) total: Amount,
    /// Of that, what is gone.
    pub(super) trimmed: Amount,
    /// Everything before this position is gone.
    pub(super) trimmed_to: Position,
    /// Position of the last item ever stored.
    pub(super) last: Position,
    /// First position of the chunk that takes more items.
    pub(super) tail: Position,
    /// Items in it; 0 = there is none.
    pub(super) tail_items: u32,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct NumbersRecord {
    pub(super) logs: u64,
    pub(super) apps: u32,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct LedRecord {
    pub(super) term: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecentItem {
    pub(super) id: MessageId,
    pub(super) position: Position,
    pub(super) sessions: u32,
    pub(super) dropped: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct RecentRecord(pub(super) Vec<RecentItem>);

/// Who gets the share of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AssignedRecord {
    pub(super) id: MessageId,
    pub(super) owner: ShareOwner,
}

impl Record for SessionRecord {
    const VERSION: u8 = 2;

    fn migrate(version: u8, bytes: &[u8]) -> Option<Self> {
        if version != 1 {
            return None;
        }
        let old: SessionRecordV1 = bincode::deserialize(bytes).ok()?;
        let SessionRecordV1 { app, client_id, epoch, expiry_secs, holder, .. } = old;
        let SessionRecordV1 { deadline_ms, will, private_log, .. } = old;
        let will_only = false;
        Some(Self {
            app,
            client_id,
            epoch,
            expiry_secs,
            holder,
            deadline_ms,
            will,
            private_log,
            will_only,
            claims: 0,
        })
    }
}
impl Record for ProgressRecord {}
impl Record for SubscriptionRecord {
    const VERSION: u8 = 2;

    fn migrate(version: u8, bytes: &[u8]) -> Option<Self> {
        if version != 1 {
            return None;
        }
        let old: SubscriptionRecordV1 = bincode::deserialize(bytes).ok()?;
        let SubscriptionRecordV1 { filter, share, options, subscription_id, start, joined, log } =
            old;
        let asked = joined;
        Some(Self { filter, share, options, subscription_id, start, joined, log, asked })
    }
}
impl Record for DrainRecord {}
impl Record for OutRecord {}
impl Record for InflightRecord {}
impl Record for InRecord {}
impl Record for WillRecord {}
impl Record for UserRecord {}
impl Record for AppRecord {}
impl Record for UsageRecord {}
impl Record for EntryRecord {}
impl Record for OrphanRecord {}
impl Record for LogRecord {
    const VERSION: u8 = 2;

    fn migrate(version: u8, bytes: &[u8]) -> Option<Self> {
        if version != 1 {
            return None;
        }
        let LogRecordV1 { app, filter } = bincode::deserialize(bytes).ok()?;
        Some(Self { app, filter, group: None })
    }
}
impl Record for EndedRecord {}
impl Record for LogStateRecord {}
impl Record for NumbersRecord {}
impl Record for LedRecord {}
impl Record for RecentRecord {}
impl Record for AssignedRecord {}
