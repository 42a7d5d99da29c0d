//! What a CONNECT asks, what the listener offers, what is granted; and how a session may end.
//!
//! - Owns: nothing. Takes: a decoded CONNECT or DISCONNECT. Gives: [`Terms`], CONNACKs, refusals.
//! - Bound: client ids by `Offer::client_id_bytes_max`.
//! - Source: MQTT 5.0 sections 3.1.2 to 3.2.2 and 3.14.2; 3.1.1 section 3.1.3.1.

use std::num::{NonZeroU16, NonZeroU32};

use super::super::{
    message::Qos,
    reason::Reason,
    wire::{Connack, Connect, Dialect},
};

/// What a listener grants at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Unfinished QoS 1 and 2 publishes that we take from a v5 client.
    pub receive_maximum: NonZeroU16,
    /// Largest packet that we take, bytes.
    pub packet_bytes_max: NonZeroU32,
    /// Highest alias that we take; 0 = none.
    pub topic_alias_maximum: u16,
    /// Longest time between packets, seconds; 0 = whatever the client likes.
    pub keep_alive_secs_max: u16,
    /// Longest life of a session without a connection, seconds; `u32::MAX` = for ever.
    pub session_expiry_secs_max: u32,
    /// Highest QoS.
    pub maximum_qos: Qos,
    /// Retained messages are kept.
    pub retain_available: bool,
    /// Longest client id, bytes.
    pub client_id_bytes_max: u16,
}

/// What one client was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// As sent, or assigned.
    pub client_id: String,
    /// The server made the client id.
    pub assigned: bool,
    /// Forget what was.
    pub clean_start: bool,
    /// Seconds that the session outlives its connection; 0 = not at all.
    pub expiry_secs: u32,
    /// The client asked for an expiry other than 0 (whatever was granted).
    pub expiry_asked: bool,
    /// Seconds between packets; 0 = no check.
    pub keep_alive_secs: u16,
}

/// Grants or refuses a CONNECT. `fresh_id` makes a client id where the server has to.
///
/// # Errors
/// The reason for CONNACK; the encoder of 3.1.1 turns it into one of its five codes.
pub fn admit(
    connect: &Connect,
    offer: &Offer,
    fresh_id: impl FnOnce() -> String,
) -> Result<Terms, Reason> {
    if connect.authentication_method.is_some() {
        return Err(Reason::BadAuthenticationMethod);
    }
    let assigned = connect.client_id.is_empty();
    // 3.1.1 section 3.1.3.1: a client without an id has no session to come back to.
    if assigned && connect.dialect != Dialect::MqttV5 && !connect.clean_start {
        return Err(Reason::ClientIdNotValid);
    }
    if connect.client_id.len() > usize::from(offer.client_id_bytes_max) {
        return Err(Reason::ClientIdNotValid);
    }
    if let Some(will) = &connect.will {
        if will.qos > offer.maximum_qos {
            return Err(Reason::QosNotSupported);
        }
        if will.retain && !offer.retain_available {
            return Err(Reason::RetainNotSupported);
        }
    }
    Ok(Terms {
        client_id: if assigned { fresh_id() } else { connect.client_id.clone() },
        assigned,
        clean_start: connect.clean_start,
        expiry_secs: connect.session_expiry_secs.min(offer.session_expiry_secs_max),
        expiry_asked: connect.session_expiry_secs != 0,
        keep_alive_secs: granted_keep_alive(connect, offer.keep_alive_secs_max),
    })
}

/// Only v5 can be told another keep alive than it asked for (section 3.2.2.3.14).
fn granted_keep_alive(connect: &Connect, secs_max: u16) -> u16 {
    let asked = connect.keep_alive_secs;
    let too_long = secs_max != 0 && (asked == 0 || asked > secs_max);
    if too_long && connect.dialect == Dialect::MqttV5 { secs_max } else { asked }
}

impl Terms {
    /// Builds the CONNACK of an admitted client; properties only where they differ from the default.
    #[must_use]
    pub fn connack(&self, connect: &Connect, offer: &Offer, session_present: bool) -> Connack {
        let all = NonZeroU16::MAX;
        Connack {
            session_expiry_secs: (self.expiry_secs != connect.session_expiry_secs)
                .then_some(self.expiry_secs),
            receive_maximum: (offer.receive_maximum != all).then_some(offer.receive_maximum),
            maximum_qos: (offer.maximum_qos != Qos::ExactlyOnce).then_some(offer.maximum_qos),
            retain_available: (!offer.retain_available).then_some(false),
            packet_bytes_max: Some(offer.packet_bytes_max),
            assigned_client_id: self.assigned.then(|| self.client_id.clone()),
            topic_alias_maximum: (offer.topic_alias_maximum != 0)
                .then_some(offer.topic_alias_maximum),
            server_keep_alive_secs: (self.keep_alive_secs != connect.keep_alive_secs)
                .then_some(self.keep_alive_secs),
            session_present,
            ..Connack::new(Reason::Success)
        }
    }
}

/// Builds the CONNACK that refuses; session present is 0 (MQTT 5.0 section 3.2.2.1.1).
#[must_use]
pub fn refusal(reason: Reason, reason_string: Option<&'static str>) -> Connack {
    Connack { reason_string, ..Connack::new(reason) }
}

/// How a connection ended, as far as its session cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// DISCONNECT with `Success` came: the will is dropped. Anything else fires it.
    pub will_dropped: bool,
    /// DISCONNECT changed the session expiry, seconds.
    pub expiry_secs: Option<u32>,
}

/// Judges a client's DISCONNECT, MQTT 5.0 section 3.14.2.2.2.
///
/// # Errors
/// `ProtocolError` when the expiry was 0 in CONNECT and is not 0 here; the will is due then.
pub fn ending(
    reason: Reason,
    asked_expiry_secs: Option<u32>,
    expiry_asked: bool,
    offer: &Offer,
) -> Result<Ending, Reason> {
    if asked_expiry_secs.is_some_and(|secs| secs != 0) && !expiry_asked {
        return Err(Reason::ProtocolError);
    }
    Ok(Ending {
        will_dropped: reason == Reason::Success,
        expiry_secs: asked_expiry_secs.map(|secs| secs.min(offer.session_expiry_secs_max)),
    })
}

#[cfg(test)]
mod tests;
