//! Why something was refused or ended, without the number of any protocol.
//!
//! - Owns: the closed list of reasons. Gives: names that `error.rs` maps to wire codes.
//! - Source: MQTT 5.0 section 2.4; our own names where other fronts need more.

use serde::{Deserialize, Serialize};

/// A neutral reason; `error.rs` knows its number in each protocol and whether to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "names are those of MQTT 5.0 section 2.4")]
pub enum Reason {
    Success,
    DisconnectWithWill,
    NoMatchingSubscribers,
    NoSubscriptionExisted,
    ContinueAuthentication,
    ReAuthenticate,
    UnspecifiedError,
    MalformedPacket,
    ProtocolError,
    ImplementationSpecificError,
    UnsupportedProtocolVersion,
    ClientIdNotValid,
    BadUserNameOrPassword,
    NotAuthorized,
    ServerUnavailable,
    ServerBusy,
    Banned,
    ServerShuttingDown,
    BadAuthenticationMethod,
    KeepAliveTimeout,
    SessionTakenOver,
    TopicFilterInvalid,
    TopicNameInvalid,
    PacketIdInUse,
    PacketIdNotFound,
    ReceiveMaximumExceeded,
    TopicAliasInvalid,
    PacketTooLarge,
    MessageRateTooHigh,
    QuotaExceeded,
    AdministrativeAction,
    PayloadFormatInvalid,
    RetainNotSupported,
    QosNotSupported,
    UseAnotherServer,
    ServerMoved,
    SharedSubscriptionsNotSupported,
    ConnectionRateExceeded,
    MaximumConnectTime,
    SubscriptionIdsNotSupported,
    WildcardSubscriptionsNotSupported,
}

impl Reason {
    /// Tells whether an acknowledgement with this reason refuses (0x80 and above, MQTT 5.0 section 2.4).
    #[must_use]
    pub fn is_refusal(self) -> bool {
        !matches!(self, Self::Success | Self::NoMatchingSubscribers | Self::NoSubscriptionExisted)
    }
}
