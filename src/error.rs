//! The one table of outcome codes: what each reason is called on every wire we speak.
//!
//! - Owns: reason → MQTT 5 number, 3.1.1 CONNACK code, WebSocket close code, HTTP status, retry.
//! - Takes: a [`Reason`]. Gives: numbers; and the reason back from an MQTT 5 number.
//! - Bound: the table is complete and in the order of the enum, asserted at compile time.
//! - Source: MQTT 5.0 section 2.4, MQTT 3.1.1 table 3.1, RFC 6455 section 7.4.1 and the registry of
//!   close codes it opened (3000 unauthorized, 3003 forbidden, 3008 timeout), RFC 9110 section 15.

use crate::model::reason::Reason;

/// What one reason is called on each wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The reason of this row.
    pub reason: Reason,
    /// MQTT 5.0 reason code.
    pub mqtt5: u8,
    /// MQTT 3.1.1 CONNACK return code; `None` means that the connection is closed without one
    /// (MQTT-3.2.2-6).
    pub connack_v4: Option<u8>,
    /// WebSocket close code.
    pub websocket_close: u16,
    /// HTTP status.
    pub http_status: u16,
    /// The same request may succeed later, unchanged, here or where the answer points to.
    pub may_retry: bool,
}

/// Returns the row of `reason`.
///
/// ```
/// # use hongqiao::{error::code, model::reason::Reason};
/// assert_eq!(code(Reason::NotAuthorized).mqtt5, 0x87);
/// assert_eq!(code(Reason::NotAuthorized).connack_v4, Some(5));
/// ```
#[must_use]
pub const fn code(reason: Reason) -> &'static Code {
    &CODES[reason as usize]
}

/// Returns the reason with this MQTT 5.0 number.
///
/// `0x01` and `0x02` are the granted QoS of a SUBACK and no reasons here; `0x00` is `Success`.
#[must_use]
pub fn from_mqtt5(number: u8) -> Option<Reason> {
    BY_MQTT5[usize::from(number)]
}

const fn row(
    reason: Reason,
    mqtt5: u8,
    connack_v4: Option<u8>,
    websocket_close: u16,
    http_status: u16,
    may_retry: bool,
) -> Code {
    Code { reason, mqtt5, connack_v4, websocket_close, http_status, may_retry }
}

/// 3.1.1: the server is unavailable.
const V4_UNAVAILABLE: Option<u8> = Some(3);
/// 3.1.1: the client is not authorized to connect.
const V4_NOT_AUTHORIZED: Option<u8> = Some(5);

/// One row per reason, in the order of the enum.
pub const CODES: [Code; 41] = [
    row(Reason::Success, 0x00, Some(0), 1000, 200, false),
    row(Reason::DisconnectWithWill, 0x04, None, 1000, 200, false),
    row(Reason::NoMatchingSubscribers, 0x10, None, 1000, 200, false),
    row(Reason::NoSubscriptionExisted, 0x11, None, 1000, 404, false),
    row(Reason::ContinueAuthentication, 0x18, None, 1000, 401, false),
    row(Reason::ReAuthenticate, 0x19, None, 1000, 401, false),
    row(Reason::UnspecifiedError, 0x80, None, 1011, 500, true),
    row(Reason::MalformedPacket, 0x81, None, 1002, 400, false),
    row(Reason::ProtocolError, 0x82, None, 1002, 400, false),
    row(Reason::ImplementationSpecificError, 0x83, None, 1011, 501, false),
    row(Reason::UnsupportedProtocolVersion, 0x84, Some(1), 1002, 505, false),
    row(Reason::ClientIdNotValid, 0x85, Some(2), 1008, 400, false),
    row(Reason::BadUserNameOrPassword, 0x86, Some(4), 3000, 401, false),
    row(Reason::NotAuthorized, 0x87, V4_NOT_AUTHORIZED, 3003, 403, false),
    row(Reason::ServerUnavailable, 0x88, V4_UNAVAILABLE, 1013, 503, true),
    row(Reason::ServerBusy, 0x89, V4_UNAVAILABLE, 1013, 503, true),
    row(Reason::Banned, 0x8A, V4_NOT_AUTHORIZED, 1008, 403, false),
    row(Reason::ServerShuttingDown, 0x8B, V4_UNAVAILABLE, 1001, 503, true),
    row(Reason::BadAuthenticationMethod, 0x8C, V4_NOT_AUTHORIZED, 3000, 401, false),
    row(Reason::KeepAliveTimeout, 0x8D, None, 3008, 408, true),
    row(Reason::SessionTakenOver, 0x8E, None, 1008, 409, false),
    row(Reason::TopicFilterInvalid, 0x8F, None, 1008, 400, false),
    row(Reason::TopicNameInvalid, 0x90, None, 1008, 400, false),
    row(Reason::PacketIdInUse, 0x91, None, 1002, 409, false),
    row(Reason::PacketIdNotFound, 0x92, None, 1002, 404, false),
    row(Reason::ReceiveMaximumExceeded, 0x93, None, 1008, 429, false),
    row(Reason::TopicAliasInvalid, 0x94, None, 1002, 400, false),
    row(Reason::PacketTooLarge, 0x95, None, 1009, 413, false),
    row(Reason::MessageRateTooHigh, 0x96, V4_UNAVAILABLE, 1008, 429, true),
    row(Reason::QuotaExceeded, 0x97, V4_UNAVAILABLE, 1008, 429, true),
    row(Reason::AdministrativeAction, 0x98, None, 1008, 403, false),
    row(Reason::PayloadFormatInvalid, 0x99, None, 1007, 415, false),
    row(Reason::RetainNotSupported, 0x9A, None, 1008, 400, false),
    row(Reason::QosNotSupported, 0x9B, None, 1008, 400, false),
    row(Reason::UseAnotherServer, 0x9C, V4_UNAVAILABLE, 1012, 307, true),
    row(Reason::ServerMoved, 0x9D, V4_UNAVAILABLE, 1012, 308, true),
    row(Reason::SharedSubscriptionsNotSupported, 0x9E, None, 1008, 400, false),
    row(Reason::ConnectionRateExceeded, 0x9F, V4_UNAVAILABLE, 1013, 429, true),
    row(Reason::MaximumConnectTime, 0xA0, None, 1008, 408, true),
    row(Reason::SubscriptionIdsNotSupported, 0xA1, None, 1008, 400, false),
    row(Reason::WildcardSubscriptionsNotSupported, 0xA2, None, 1008, 400, false),
];

const _: () = {
    assert!(Reason::WildcardSubscriptionsNotSupported as usize + 1 == CODES.len());
    let mut index = 0;
    while index < CODES.len() {
        assert!(CODES[index].reason as usize == index);
        index += 1;
    }
};

const BY_MQTT5: [Option<Reason>; 256] = {
    let mut reasons = [None; 256];
    let mut index = 0;
    while index < CODES.len() {
        let slot = &mut reasons[CODES[index].mqtt5 as usize];
        assert!(slot.is_none());
        *slot = Some(CODES[index].reason);
        index += 1;
    }
    reasons
};

#[cfg(test)]
mod tests {
    use super::{CODES, code, from_mqtt5};
    use crate::model::reason::Reason;

    #[test]
    fn every_reason_when_sent_as_mqtt5_number_then_read_back() {
        for row in &CODES {
            assert_eq!(from_mqtt5(row.mqtt5), Some(row.reason));
            assert_eq!(code(row.reason), row);
        }
        assert_eq!(from_mqtt5(0x01), None);
        assert_eq!(from_mqtt5(0xff), None);
    }

    #[test]
    fn connack_v4_codes_when_listed_then_only_those_of_the_specification() {
        for row in &CODES {
            assert!(row.connack_v4.is_none_or(|number| number <= 5));
            assert_eq!(row.connack_v4 == Some(0), row.reason == Reason::Success);
        }
    }

    #[test]
    fn errors_when_told_on_other_wires_then_never_look_like_success() {
        for row in CODES.iter().filter(|row| row.mqtt5 >= 0x80) {
            assert!(row.websocket_close > 1000);
            assert!(row.http_status >= 300);
        }
    }
}
