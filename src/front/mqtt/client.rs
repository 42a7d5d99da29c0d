//! The other side of the wire: what a client writes and reads. For the load generator and the tests.
//!
//! - Owns: nothing. Takes: [`Connect`](crate::model::wire::Connect), filters, acknowledgements. Gives:
//!   bytes; and [`FromServer`] from the bytes of a server, checked with the primitives of our own side.
//! - Bound: [`DecodeLimits`], as for the server.
//! - Source: MQTT 5.0 and 3.1.1 chapter 3.
//!
//! A PUBLISH of a client is written by [`Client::encode_publish`]: it is the packet of a delivery, but for
//! subscription ids, which a client leaves out.

mod encode;
mod decode;
mod skim;

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use smallvec::SmallVec;

pub use self::skim::Skimmed;
use super::{check_publish_or_ack, field, first};
use crate::model::{
    reason::Reason,
    wire::{Ack, Auth, Connack, DecodeError, DecodeLimits, Dialect, Publish, SubackCode},
};

/// A client's codec for one dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.0.
    V5,
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum FromServer {
    /// Answer to CONNECT. `connack.reason_string` is `None`; the text stands beside it.
    Connack {
        /// Everything but the reason string. 3.1.1 return codes appear as their reason.
        connack: Box<Connack>,
        /// Reason string.
        reason_string: Option<String>,
    },
    /// A message.
    Publish {
        /// As from a client.
        publish: Publish,
        /// Of the subscriptions that matched.
        subscription_ids: SmallVec<[NonZeroU32; 2]>,
    },
    /// One of the four acknowledgements.
    Ack(Ack),
    /// Answer to SUBSCRIBE.
    Suback {
        /// That of the SUBSCRIBE.
        packet_id: NonZeroU16,
        /// One for each filter.
        codes: Vec<SubackCode>,
    },
    /// Answer to UNSUBSCRIBE; 3.1.1 has no reasons.
    Unsuback {
        /// That of the UNSUBSCRIBE.
        packet_id: NonZeroU16,
        /// One for each filter.
        reasons: Vec<Reason>,
    },
    /// Answer to a ping.
    Pong,
    /// The server ends the connection; v5 only.
    Disconnect(Box<ServerDisconnect>),
    /// Enhanced authentication; v5 only.
    Auth(Box<Auth>),
}

/// MQTT 5.0 section 3.14, from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerDisconnect {
    /// Why.
    pub reason: Reason,
    /// In words.
    pub reason_string: Option<String>,
    /// Where to go instead.
    pub server_reference: Option<String>,
}

/// What [`Client::decode`] found at the start of the bytes it was given.
#[derive(Debug)]
pub enum DecodedFromServer {
    /// One whole packet, and how many bytes it took.
    Packet {
        /// The packet.
        packet: FromServer,
        /// Bytes to skip.
        consumed: usize,
    },
    /// Not whole yet.
    Partial {
        /// Fewest bytes that must still come.
        missing_bytes_min: usize,
    },
}

impl Client {
    /// The dialect this client speaks.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Self::V4 => Dialect::MqttV4,
            Self::V5 => Dialect::MqttV5,
        }
    }

    /// Reads one packet of a server from the start of `bytes`. Topic and payload are slices of it.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes can never become a legal packet.
    pub fn decode(
        self,
        bytes: &Bytes,
        limits: &DecodeLimits,
    ) -> Result<DecodedFromServer, DecodeError> {
        let told = |fault: field::Fault| fault.told_in(self.dialect());
        if let Some(&byte) = bytes.first() {
            self.check_first(byte).map_err(told)?;
        }
        match field::frame(bytes, limits.packet_bytes_max).map_err(told)? {
            field::Framing::Missing(missing_bytes_min) => {
                Ok(DecodedFromServer::Partial { missing_bytes_min })
            }
            field::Framing::Whole(frame) => {
                let packet = decode::read(self, bytes, frame, limits).map_err(told)?;
                Ok(DecodedFromServer::Packet { packet, consumed: frame.end })
            }
        }
    }

    fn check_first(self, byte: u8) -> Result<(), field::Fault> {
        match byte {
            first::CONNACK | first::SUBACK | first::UNSUBACK | first::PINGRESP => Ok(()),
            first::DISCONNECT | first::AUTH if self == Self::V5 => Ok(()),
            _ => check_publish_or_ack(byte),
        }
    }
}
