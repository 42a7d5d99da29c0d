//! The alphabet in which fronts and actors talk: what a client may ask and what it may be told.
//!
//! - Owns: nothing; plain values and the trait that fronts implement.
//! - Takes: bytes, through [`Front::decode`]. Gives: bytes, through the `encode` functions.
//! - Bound: [`DecodeLimits`]; a decoder never reserves what was only announced.
//! - Source: MQTT 5.0 chapter 3. Other fronts (JSON, Easemob) translate into the same alphabet.
//!
//! ```text
//! socket bytes ── Front::decode ──► Inbound ──► connection actor
//! socket bytes ◄── Front::encode ── Outbound ◄──┘
//! socket bytes ◄── Front::encode_delivery ── Delivery ◄── router actor (once per dialect and QoS)
//! ```

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};

use super::{
    message::Qos,
    reason::Reason,
    topic::{TopicFilter, TopicName},
};

/// Which encoding a connection speaks once it is known; an index into the table of fronts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Dialect {
    /// MQTT before its CONNECT packet told the version.
    MqttUnknown = 0,
    /// MQTT 3.1.1 (protocol level 4) and 3.1 (level 3).
    MqttV4 = 1,
    /// MQTT 5.0.
    MqttV5 = 2,
}

/// How many dialects there are; arrays of encoded frames have one place for each.
pub const DIALECTS: usize = 3;

/// What the decoder of one connection may accept.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    /// Largest whole packet in bytes, fixed header included.
    pub packet_bytes_max: u32,
    /// Longest topic or filter, in bytes.
    pub topic_bytes_max: u16,
    /// Most levels of a topic or filter.
    pub topic_levels_max: u16,
    /// Most filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet_max: u16,
    /// Most user properties in one packet.
    pub user_properties_max: u16,
}

/// What a decoder found at the start of the bytes it was given.
#[derive(Debug)]
pub enum Decoded {
    /// One whole packet, and how many bytes it took.
    Packet {
        /// The packet.
        inbound: Inbound,
        /// Bytes to skip.
        consumed: usize,
    },
    /// Not whole yet. `missing_bytes_min` is at least 1; a hint, never a reason to reserve more
    /// than has arrived.
    Partial {
        /// Fewest bytes that must still come.
        missing_bytes_min: usize,
    },
}

/// Bytes that are no legal packet. The connection is told and closed.
///
/// Before CONNECT was answered the client is told with a CONNACK in [`dialect`](Self::dialect), after
/// that with a DISCONNECT. Encoding either for 3.1.1 writes nothing where 3.1.1 has no code for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({reason:?})")]
pub struct DecodeError {
    /// In which dialect to tell it. `MqttUnknown`: in none, the bytes did not get as far as a
    /// protocol version that we know how to answer; close.
    pub dialect: Dialect,
    /// What to tell the client.
    pub reason: Reason,
    /// Which rule was broken, for the reason string and the log; constant text.
    pub detail: &'static str,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "variants are the packets of MQTT 5.0 chapter 3")]
pub enum Inbound {
    Connect(Box<Connect>),
    Publish(Publish),
    Ack(Ack),
    Subscribe(Box<Subscribe>),
    Unsubscribe(Box<Unsubscribe>),
    Ping,
    Disconnect(Box<Disconnect>),
    Auth(Box<Auth>),
}

/// MQTT 5.0 section 3.1. For 3.1.1 the v5-only fields hold what section 3.1 says is the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The dialect of everything after this packet.
    pub dialect: Dialect,
    /// Empty if the client wants one assigned.
    pub client_id: String,
    /// v5 clean start, 3.1.1 clean session.
    pub clean_start: bool,
    /// Seconds between packets; 0 switches the check off.
    pub keep_alive_secs: u16,
    /// v5: as sent, absent = 0. 3.1.1: clean session 1 → 0, clean session 0 → `u32::MAX`.
    pub session_expiry_secs: u32,
    /// How many QoS 1 and 2 deliveries the client takes unacknowledged; default 65,535.
    pub receive_maximum: NonZeroU16,
    /// Largest packet the client takes.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// Highest alias the client takes; 0 = none.
    pub topic_alias_maximum: u16,
    /// Client wants response information.
    pub request_response_information: bool,
    /// Client accepts reason strings and user properties on packets other than PUBLISH, CONNACK and
    /// DISCONNECT; default true.
    pub request_problem_information: bool,
    /// Enhanced authentication; we refuse it.
    pub authentication_method: Option<String>,
    /// Who.
    pub user_name: Option<String>,
    /// Proof.
    pub password: Option<Bytes>,
    /// Last will.
    pub will: Option<Will>,
}

impl Connect {
    /// Returns a CONNECT with a clean start that leaves out what may be left out.
    #[must_use]
    pub fn new(dialect: Dialect, client_id: impl Into<String>) -> Self {
        Self {
            dialect,
            client_id: client_id.into(),
            clean_start: true,
            keep_alive_secs: 0,
            session_expiry_secs: 0,
            receive_maximum: NonZeroU16::MAX,
            packet_bytes_max: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            user_name: None,
            password: None,
            will: None,
        }
    }
}

/// MQTT 5.0 sections 3.1.2.5 and 3.1.3.2.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are those of a publish")]
pub struct Will {
    pub topic: TopicName,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
    /// Seconds to wait after the end of the connection.
    pub delay_secs: u32,
    /// Message expiry interval, counted from publication.
    pub expiry_secs: Option<u32>,
    /// As [`Message::properties`](super::message::Message::properties).
    pub properties: Bytes,
}

/// MQTT 5.0 section 3.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// `None` only with an alias.
    pub topic: Option<TopicName>,
    /// Alias to set (with topic) or to use (without).
    pub topic_alias: Option<NonZeroU16>,
    /// Present exactly for QoS 1 and 2.
    pub packet_id: Option<NonZeroU16>,
    /// QoS of the publish.
    pub qos: Qos,
    /// Set on a resend.
    pub dup: bool,
    /// Keep as the topic's retained message.
    pub retain: bool,
    /// Message expiry interval in seconds; 0 is legal.
    pub expiry_secs: Option<u32>,
    /// As [`Message::properties`](super::message::Message::properties).
    pub properties: Bytes,
    /// Body; a slice of the read buffer.
    pub payload: Bytes,
}

/// Which of the four acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "MQTT 5.0 sections 3.4 to 3.7")]
pub enum AckKind {
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
}

/// MQTT 5.0 sections 3.4 to 3.7, both directions. 3.1.1 has no reason: `Success`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields say it")]
pub struct Ack {
    pub kind: AckKind,
    pub packet_id: NonZeroU16,
    pub reason: Reason,
}

/// How retained messages are sent at subscribe time, MQTT 5.0 section 3.8.3.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RetainHandling {
    /// Always.
    #[default]
    Send,
    /// Only if the subscription is new.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// Options of one subscription, MQTT 5.0 section 3.8.3.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SubscriptionOptions {
    /// Highest QoS of deliveries.
    pub qos: Qos,
    /// Do not send what this client published.
    pub no_local: bool,
    /// Keep the retain flag as published.
    pub retain_as_published: bool,
    /// What to do with retained messages.
    pub retain_handling: RetainHandling,
}

/// One filter of a SUBSCRIBE. A filter that breaks a rule is carried as its reason, so that SUBACK
/// can answer each in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeItem {
    /// The filter without its `$share/name/` prefix, or why it is refused.
    pub filter: Result<TopicFilter, Reason>,
    /// Share name of a shared subscription.
    pub share: Option<Bytes>,
    /// Options.
    pub options: SubscriptionOptions,
}

/// MQTT 5.0 section 3.8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Echoed in SUBACK.
    pub packet_id: NonZeroU16,
    /// Subscription identifier, 1 to 268,435,455.
    pub subscription_id: Option<NonZeroU32>,
    /// At least one.
    pub items: Vec<SubscribeItem>,
}

/// MQTT 5.0 section 3.10.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Echoed in UNSUBACK.
    pub packet_id: NonZeroU16,
    /// At least one; (share name, filter) or why it is refused.
    pub items: Vec<Result<(Option<Bytes>, TopicFilter), Reason>>,
}

/// MQTT 5.0 section 3.14, from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// `Success` drops the will; anything else fires it.
    pub reason: Reason,
    /// New session expiry, if the packet carries one.
    pub session_expiry_secs: Option<u32>,
}

/// MQTT 5.0 section 3.15.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields say it")]
pub struct Auth {
    pub reason: Reason,
    pub method: Option<String>,
}

/// What a client is told. Deliveries are apart ([`Delivery`]), because they are encoded once for many.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "variants are the packets of MQTT 5.0 chapter 3")]
pub enum Outbound {
    Connack(Box<Connack>),
    /// `reason_string` is dropped by the encoder for 3.1.1.
    Ack {
        ack: Ack,
        reason_string: Option<&'static str>,
    },
    Suback {
        packet_id: NonZeroU16,
        codes: Vec<SubackCode>,
    },
    /// 3.1.1 sends no codes.
    Unsuback {
        packet_id: NonZeroU16,
        reasons: Vec<Reason>,
    },
    Pong,
    /// Never sent to 3.1.1: the encoder writes nothing.
    Disconnect {
        reason: Reason,
        reason_string: Option<&'static str>,
        server_reference: Option<String>,
    },
}

/// The answer to one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "variants say it")]
pub enum SubackCode {
    Granted(Qos),
    Refused(Reason),
}

/// MQTT 5.0 section 3.2. Properties are `Some` only where they differ from the default of the
/// specification; the 3.1.1 encoder ignores them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are the properties of MQTT 5.0 section 3.2.2.3")]
pub struct Connack {
    pub session_present: bool,
    pub reason: Reason,
    pub session_expiry_secs: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_qos: Option<Qos>,
    pub retain_available: Option<bool>,
    pub packet_bytes_max: Option<NonZeroU32>,
    pub assigned_client_id: Option<String>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<&'static str>,
    pub wildcard_available: Option<bool>,
    pub subscription_ids_available: Option<bool>,
    pub shared_available: Option<bool>,
    pub server_keep_alive_secs: Option<u16>,
    pub response_information: Option<String>,
    pub server_reference: Option<String>,
}

impl Connack {
    /// Returns a CONNACK that says nothing but `reason`.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self {
            session_present: false,
            reason,
            session_expiry_secs: None,
            receive_maximum: None,
            maximum_qos: None,
            retain_available: None,
            packet_bytes_max: None,
            assigned_client_id: None,
            topic_alias_maximum: None,
            reason_string: None,
            wildcard_available: None,
            subscription_ids_available: None,
            shared_available: None,
            server_keep_alive_secs: None,
            response_information: None,
            server_reference: None,
        }
    }
}

/// One PUBLISH to receivers.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Topic; empty only if `topic_alias` is one the client knows already.
    pub topic: &'a [u8],
    /// v5 alias of this connection.
    pub topic_alias: Option<NonZeroU16>,
    /// QoS of the delivery.
    pub qos: Qos,
    /// Resend.
    pub dup: bool,
    /// Retain flag as the receiver shall see it.
    pub retain: bool,
    /// Seconds left, v5 only.
    pub expiry_secs: Option<u32>,
    /// As [`Message::properties`](super::message::Message::properties); v5 only.
    pub properties: &'a [u8],
    /// v5 only.
    pub subscription_ids: &'a [NonZeroU32],
    /// Body.
    pub payload: &'a [u8],
}

/// What `encode_delivery_head` wrote: everything of a PUBLISH but its payload, which follows it on
/// the wire untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryHead {
    /// Bytes appended to the buffer.
    pub head_bytes: usize,
    /// Where in those bytes the two bytes of the packet id stand (big endian; written as 0), for
    /// QoS 1 and 2.
    pub packet_id_at: Option<usize>,
    /// Where in those bytes the four bytes of the seconds until expiry stand (big endian), if the
    /// dialect tells them.
    pub expiry_at: Option<usize>,
}

/// What a protocol implements: bytes to [`Inbound`], [`Outbound`] and [`Delivery`] to bytes.
///
/// Without state and shared by all connections of a thread; what a connection must remember (alias
/// maps, sessions) is the connection's.
pub trait Front: Send + Sync + 'static {
    /// Reads one packet from the start of `bytes`. Payloads are slices of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes can never become a legal packet.
    fn decode(&self, bytes: &Bytes, limits: &DecodeLimits) -> Result<Decoded, DecodeError>;

    /// Appends a control packet. Writes nothing where the protocol has no such packet.
    ///
    /// `packet_bytes_max`: what the receiver takes; reason strings and user properties that do not
    /// fit are left out.
    fn encode(&self, outbound: &Outbound, packet_bytes_max: u32, out: &mut BytesMut);

    /// Appends a delivery without its payload; see [`DeliveryHead`].
    fn encode_delivery_head(&self, delivery: &Delivery<'_>, out: &mut BytesMut) -> DeliveryHead;
}
