//! One delivery of a durable session that has a packet id.
//!
//! - Owns: its position, id, and how far it is. Takes: what is known of it. Gives: the same.
//! - Bound: plain values. Source: MQTT 5.0 section 4.3.

use std::num::NonZeroU16;

use crate::model::{id::Position, message::Qos};

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// QoS 2: its id is being written; nothing was sent.
    Committing,
    /// PUBLISH sent.
    Published,
    /// PUBREC came; being written.
    Receiving,
    /// PUBREL sent, or due on a new connection.
    Released,
    /// Acknowledged.
    Done,
}

/// One delivery with a packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Its id.
    pub packet_id: NonZeroU16,
    /// Which message.
    pub position: Position,
    /// QoS of the delivery.
    pub qos: Qos,
    /// How far.
    pub progress: Progress,
    /// The log knows of the ack (`Done`), or this connection has sent or got something (`resume`).
    pub(super) told: bool,
}

impl Flight {
    /// Names a delivery of an earlier connection.
    #[must_use]
    pub fn unfinished(packet_id: NonZeroU16, position: Position, qos: Qos, released: bool) -> Self {
        let progress = if released { Progress::Released } else { Progress::Published };
        Self { packet_id, position, qos, progress, told: false }
    }
    /// Tells whether the log has to hear that it is done.
    pub(super) fn is_untold(&self) -> bool {
        self.progress == Progress::Done && !self.told
    }
}
