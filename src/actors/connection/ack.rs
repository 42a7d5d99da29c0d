//! Acknowledgements of the client, both directions.
//!
//! - Owns: nothing. Takes: PUBACK, PUBREC, PUBREL, PUBCOMP.
//! - Gives: them to the link's window (session without storage), to the reader (durable), or to the
//!   intake (PUBREL); answers where one is due.
//! - Bound: one answer per packet.
//! - Source: MQTT 5.0 sections 3.4 to 3.7, 4.3.

use crate::{
    actors::link::LiveAck,
    model::wire::{Ack, AckKind, Outbound},
};

use super::{Connection, Stop};

impl Connection {
    pub(super) fn on_ack(&mut self, ack: Ack) -> Result<(), Stop> {
        if ack.kind == AckKind::Pubrel {
            self.on_pubrel(ack.packet_id);
            return Ok(());
        }
        if self.durable.is_some() {
            self.with_durable(|durable, desk| durable.on_ack(&ack, desk));
            return Ok(());
        }
        match self.link.on_ack(&ack) {
            LiveAck::Done => Ok(()),
            LiveAck::Reply(ack) => {
                self.link.send(&Outbound::Ack { ack, reason_string: None });
                Ok(())
            }
            LiveAck::Violation(reason) => Err((reason, "acknowledgement of the wrong kind")),
        }
    }
}
