//! A published message: the fields that every receiver shares and that may cross a node boundary.
//!
//! - Owns: nothing; bodies are shared slices.
//! - Takes: a validated publish. Gives: what routers, shards and encoders read.
//! - Bound: sizes were checked by the codec against the listener's limits.
//! - Source: MQTT 5.0 section 3.3.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    id::{AppId, MessageId, SessionKey},
    topic::TopicName,
};

/// Quality of service, MQTT 5.0 section 4.3. Ordered: a delivery uses the smaller of two.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[repr(u8)]
pub enum Qos {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl Qos {
    /// Parses the two bits of a fixed header or of subscription options; 3 is malformed.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// One message on its way from a publisher to any number of receivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Tenant; a message never leaves it.
    pub app: AppId,
    /// Topic, without alias.
    pub topic: TopicName,
    /// Who sent it (for no-local); `None` for the server itself and for HTTP.
    pub publisher: Option<SessionKey>,
    /// For removing doubles; `None` where the protocol offers no identity (QoS 0 and 1).
    pub id: Option<MessageId>,
    /// QoS of the publish; a delivery uses the smaller of this and the subscription's.
    pub qos: Qos,
    /// The publish asked to be retained.
    pub retain: bool,
    /// Wall clock at which the server took it, milliseconds since 1970.
    pub published_at_ms: u64,
    /// Wall clock at which it expires, milliseconds since 1970; from message expiry interval.
    pub expires_at_ms: Option<u64>,
    /// v5 properties to forward untouched, in wire form without their length: payload format,
    /// content type, response topic, correlation data, user properties. Empty for MQTT 3.1.1.
    pub properties: Bytes,
    /// Body.
    pub payload: Bytes,
}

impl Message {
    /// Returns the seconds left until expiry, rounded up; `None` if it never expires.
    ///
    /// A message that is already due gives `Some(0)`.
    #[must_use]
    pub fn expiry_left_secs(&self, now_ms: u64) -> Option<u32> {
        let left_ms = self.expires_at_ms?.saturating_sub(now_ms);
        Some(u32::try_from(left_ms.div_ceil(1_000)).unwrap_or(u32::MAX))
    }

    /// Tells whether the message is past its expiry.
    #[must_use]
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }
}
