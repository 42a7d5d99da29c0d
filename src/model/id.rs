//! Names of things: tenants, sessions, messages, places in a log.
//!
//! - Owns: nothing; plain values, all `Copy`.
//! - Takes: names and a keyed hash. Gives: fixed-size keys for maps and for the disk.
//! - Source: own design; design rules "app", "session", "position", "epoch" in ARCHITECTURE.md.

use std::hash::Hasher as _;

use hongqiao_cluster::id::Bucket;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// A tenant (`org#app`), as a number that the node gives it once and keeps for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AppId(pub u32);

/// What a session is known by: a keyed 128-bit hash of (app, client id).
///
/// The key is a secret of the cluster, so that nobody outside can make two client ids collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey(pub u128);

/// Identity of a published message, for removing doubles; see promise ONCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MessageId(pub u128);

/// Tells the slot of a retained copy from that of its message; leaves the number of the exchange.
const RETAINED_SLOT: u128 = 0x7265_7461_696e_0000 << 64;

impl MessageId {
    /// Names a message within `slot`: a later message of the same slot says that nobody asks for an earlier
    /// one any more.
    #[must_use]
    pub fn in_slot(slot: u64, unique: u64) -> Self {
        Self(u128::from(slot) << 64 | u128::from(unique))
    }

    /// Names a message that `publisher` sends with QoS 2 in its exchange number `exchange`: no other
    /// exchange that is under way has this number.
    #[must_use]
    pub fn in_exchange(publisher: SessionKey, exchange: u16, unique: u64) -> Self {
        let [.., a, b, c, d, e, f] = publisher.0.to_be_bytes();
        let [g, h] = exchange.to_be_bytes();
        Self::in_slot(u64::from_be_bytes([a, b, c, d, e, f, g, h]), unique)
    }

    /// Names the share of this message that a shared group gets: of each exchange and group a slot.
    #[must_use]
    pub fn in_group(self, group: u128) -> Self {
        Self(self.0 ^ group & !u128::from(u64::MAX))
    }

    /// Names the retained copy of this message, which may be stored beside the message itself: of each slot
    /// another one.
    #[must_use]
    pub fn of_retained(self) -> Self {
        Self(self.0 ^ RETAINED_SLOT)
    }

    /// Returns the slot.
    #[must_use]
    pub fn slot(self) -> u64 {
        u64::try_from(self.0 >> 64).unwrap_or(u64::MAX)
    }

    /// Returns the number of the exchange, if it was made by [`MessageId::in_exchange`].
    #[must_use]
    pub fn exchange(self) -> u16 {
        let [.., g, h] = self.slot().to_be_bytes();
        u16::from_be_bytes([g, h])
    }
}

/// How often a session was claimed; a write with an older epoch is refused (FENCED).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// A place in the message log of one shard: Raft entry, then message inside it. A total order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Position {
    /// Index of the Raft entry that carried the message.
    pub entry: u64,
    /// Which message of that entry, from 0.
    pub offset: u32,
}

impl Position {
    /// Before every message.
    pub const START: Self = Self { entry: 0, offset: 0 };

    /// Returns the smallest position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        match self.offset.checked_add(1) {
            Some(offset) => Self { entry: self.entry, offset },
            None => Self { entry: self.entry.saturating_add(1), offset: 0 },
        }
    }
}

/// The secret that keys every name hash of a cluster; made at the first start, kept in `FORMAT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKey(pub [u8; 16]);

impl HashKey {
    /// Returns the key of the session of `client_id` in `app`.
    #[must_use]
    pub fn session(&self, app: AppId, client_id: &str) -> SessionKey {
        SessionKey(self.hash(b's', app, client_id.as_bytes()))
    }

    /// Returns the hash that decides where a topic's retained message lives.
    #[must_use]
    pub fn topic(&self, app: AppId, topic: &str) -> u128 {
        self.hash(b't', app, topic.as_bytes())
    }

    /// Returns the hash that decides where a user lives.
    #[must_use]
    pub fn user(&self, app: AppId, user: &str) -> u128 {
        self.hash(b'u', app, user.as_bytes())
    }

    /// Returns the hash that names a shared group.
    #[must_use]
    pub fn group(&self, app: AppId, name: &[u8]) -> u128 {
        self.hash(b'g', app, name)
    }

    fn hash(&self, kind: u8, app: AppId, name: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write_u8(kind);
        hasher.write_u32(app.0);
        hasher.write(name);
        hasher.finish128().as_u128()
    }
}

impl SessionKey {
    /// Returns the bucket that holds this session.
    #[must_use]
    pub fn bucket(self) -> Bucket {
        Bucket::of(self.0)
    }
}
