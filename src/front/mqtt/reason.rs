//! Which reason codes MQTT 5.0 allows in which packet.
//!
//! - Owns: the columns of MQTT 5.0 table 2-6, one set of packets per reason.
//! - Takes: a number from the wire or a reason of ours. Gives: the reason, or a number that the packet
//!   may carry.
//! - Source: MQTT 5.0 sections 2.4, 3.2.2.2, 3.4.2.1, 3.5.2.1, 3.6.2.1, 3.7.2.1, 3.9.3, 3.11.3,
//!   3.14.2.1 and 3.15.2.1.

use crate::{
    error,
    model::{reason::Reason, wire::AckKind},
};

/// A packet that carries a reason code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Connack,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Suback,
    Unsuback,
    DisconnectByClient,
    DisconnectByServer,
    AuthByClient,
    AuthByServer,
}

impl From<AckKind> for Carrier {
    fn from(kind: AckKind) -> Self {
        match kind {
            AckKind::Puback => Self::Puback,
            AckKind::Pubrec => Self::Pubrec,
            AckKind::Pubrel => Self::Pubrel,
            AckKind::Pubcomp => Self::Pubcomp,
        }
    }
}

/// Returns the reason with this number if `carrier` may carry it.
pub(super) fn read(number: u8, carrier: Carrier) -> Option<Reason> {
    error::from_mqtt5(number).filter(|reason| carried(*reason, carrier))
}

/// Returns the number that tells `reason` in `carrier`: its own, or the nearest that is allowed there.
pub(super) fn write(reason: Reason, carrier: Carrier) -> u8 {
    let told = if carried(reason, carrier) {
        reason
    } else if matches!(carrier, Carrier::Pubrel | Carrier::Pubcomp) {
        Reason::PacketIdNotFound
    } else if error::code(reason).mqtt5 < 0x80 {
        Reason::Success
    } else {
        Reason::UnspecifiedError
    };
    error::code(told).mqtt5
}

fn carried(reason: Reason, carrier: Carrier) -> bool {
    use Carrier as C;
    use Reason as R;
    match carrier {
        C::Connack => connack(reason),
        C::Puback | C::Pubrec => publish_ack(reason),
        C::Pubrel | C::Pubcomp => matches!(reason, R::Success | R::PacketIdNotFound),
        C::Suback => {
            matches!(reason, R::Success | R::SubscriptionIdsNotSupported)
                || matches!(reason, R::QuotaExceeded | R::SharedSubscriptionsNotSupported)
                || matches!(reason, R::WildcardSubscriptionsNotSupported)
                || subscription_error(reason)
        }
        C::Unsuback => {
            matches!(reason, R::Success | R::NoSubscriptionExisted) || subscription_error(reason)
        }
        C::DisconnectByClient => disconnect_by_client(reason),
        C::DisconnectByServer => disconnect_by_server(reason),
        C::AuthByClient => matches!(reason, R::ContinueAuthentication | R::ReAuthenticate),
        C::AuthByServer => matches!(reason, R::Success | R::ContinueAuthentication),
    }
}

fn connack(reason: Reason) -> bool {
    use Reason as R;
    matches!(
        reason,
        R::Success
            | R::UnspecifiedError
            | R::MalformedPacket
            | R::ProtocolError
            | R::ImplementationSpecificError
            | R::UnsupportedProtocolVersion
            | R::ClientIdNotValid
            | R::BadUserNameOrPassword
            | R::NotAuthorized
            | R::ServerUnavailable
            | R::ServerBusy
            | R::Banned
            | R::BadAuthenticationMethod
            | R::TopicNameInvalid
            | R::PacketTooLarge
            | R::QuotaExceeded
            | R::PayloadFormatInvalid
            | R::RetainNotSupported
            | R::QosNotSupported
            | R::UseAnotherServer
            | R::ServerMoved
            | R::ConnectionRateExceeded
    )
}

fn publish_ack(reason: Reason) -> bool {
    use Reason as R;
    matches!(
        reason,
        R::Success
            | R::NoMatchingSubscribers
            | R::UnspecifiedError
            | R::ImplementationSpecificError
            | R::NotAuthorized
            | R::TopicNameInvalid
            | R::PacketIdInUse
            | R::QuotaExceeded
            | R::PayloadFormatInvalid
    )
}

fn subscription_error(reason: Reason) -> bool {
    use Reason as R;
    matches!(
        reason,
        R::UnspecifiedError
            | R::ImplementationSpecificError
            | R::NotAuthorized
            | R::TopicFilterInvalid
            | R::PacketIdInUse
    )
}

fn disconnect_by_either(reason: Reason) -> bool {
    use Reason as R;
    matches!(
        reason,
        R::Success
            | R::UnspecifiedError
            | R::MalformedPacket
            | R::ProtocolError
            | R::ImplementationSpecificError
            | R::TopicNameInvalid
            | R::ReceiveMaximumExceeded
            | R::TopicAliasInvalid
            | R::PacketTooLarge
            | R::MessageRateTooHigh
            | R::QuotaExceeded
            | R::AdministrativeAction
            | R::PayloadFormatInvalid
    )
}

fn disconnect_by_client(reason: Reason) -> bool {
    reason == Reason::DisconnectWithWill || disconnect_by_either(reason)
}

fn disconnect_by_server(reason: Reason) -> bool {
    use Reason as R;
    disconnect_by_either(reason)
        || matches!(
            reason,
            R::NotAuthorized
                | R::ServerBusy
                | R::ServerShuttingDown
                | R::BadAuthenticationMethod
                | R::KeepAliveTimeout
                | R::SessionTakenOver
                | R::TopicFilterInvalid
                | R::RetainNotSupported
                | R::QosNotSupported
                | R::UseAnotherServer
                | R::ServerMoved
                | R::SharedSubscriptionsNotSupported
                | R::ConnectionRateExceeded
                | R::MaximumConnectTime
                | R::SubscriptionIdsNotSupported
                | R::WildcardSubscriptionsNotSupported
        )
}

#[cfg(test)]
mod tests {
    use super::{Carrier, read, write};
    use crate::{error::CODES, model::reason::Reason};

    const CARRIERS: [Carrier; 11] = [
        Carrier::Connack,
        Carrier::Puback,
        Carrier::Pubrec,
        Carrier::Pubrel,
        Carrier::Pubcomp,
        Carrier::Suback,
        Carrier::Unsuback,
        Carrier::DisconnectByClient,
        Carrier::DisconnectByServer,
        Carrier::AuthByClient,
        Carrier::AuthByServer,
    ];

    #[test]
    fn every_reason_when_written_then_allowed_in_its_packet() {
        for carrier in CARRIERS {
            // We send no AUTH; its table has no general error to fall back to.
            if matches!(carrier, Carrier::AuthByClient | Carrier::AuthByServer) {
                continue;
            }
            for row in &CODES {
                let number = write(row.reason, carrier);
                assert!(read(number, carrier).is_some(), "{:?} in {carrier:?}", row.reason);
            }
        }
    }

    #[test]
    fn reason_foreign_to_the_packet_when_read_then_refused() {
        assert_eq!(read(0x92, Carrier::Puback), None);
        assert_eq!(read(0x04, Carrier::DisconnectByServer), None);
        assert_eq!(read(0x04, Carrier::DisconnectByClient), Some(Reason::DisconnectWithWill));
        assert_eq!(read(0x8e, Carrier::DisconnectByClient), None);
        assert_eq!(read(0x55, Carrier::Connack), None);
    }
}
