//! What the server owes a client for its publishes: acks in the order of receipt, within bounds.
//!
//! - Owns: unfinished inbound publishes, QoS 2 packet ids, the inbound alias map of one connection.
//! - Takes: packet ids, sizes, outcomes in any order. Gives: acks in order of receipt, refusals.
//! - Bound: `receive_maximum` unfinished QoS 1 and 2 publishes (v5: more is an error, 3.1.1: reading
//!   stops); bytes of waiting publishes; aliases up to the announced maximum.
//! - Source: MQTT 5.0 sections 4.3.2, 4.3.3, 4.6 (ordering of acks), 4.9 (flow control), 3.3.2.3.4.
//!
//! A connection has none of this until something has to wait, a QoS 2 id is open or an alias is set:
//! a publish that is finished when it is handed out is acknowledged without touching it.

use std::{collections::VecDeque, num::NonZeroU16};

use bytes::Bytes;

use super::super::{
    message::Qos,
    reason::Reason,
    topic::TopicName,
    wire::{Ack, AckKind},
};

/// A place in the order of acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u32);

/// One thing the client waits for.
#[derive(Debug)]
struct Owed {
    /// `None`: nothing is sent (QoS 0), but the publish still counts until it is finished.
    ack: Option<(AckKind, NonZeroU16)>,
    bytes: u32,
    outcome: Option<Reason>,
    /// The client sent it before.
    resent: bool,
}

/// What to do with a QoS 2 publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// The packet id was free: publish it.
    New,
    /// It was received before and waits for PUBREL: answer PUBREC again, publish nothing.
    Again,
    /// It was received before and its PUBREC is still to come: say nothing.
    Waiting,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Intake {
    owed: VecDeque<Owed>,
    /// Ticket of the front of `owed`.
    first: u32,
    /// Bytes of what waits.
    bytes: usize,
    /// Part of the receive maximum that is in use.
    used: u16,
    /// QoS 2 packet ids between PUBLISH and PUBREL, sorted.
    incoming: Vec<u16>,
    /// Names by alias - 1.
    aliases: Vec<Option<TopicName>>,
}

impl Intake {
    /// Starts with the QoS 2 packet ids that a durable session had open; they do not count against
    /// the receive maximum of the new connection (section 4.9 starts it afresh).
    #[must_use]
    pub fn resume(mut incoming: Vec<u16>) -> Self {
        incoming.sort_unstable();
        Self { incoming, ..Self::default() }
    }

    /// Finds the topic of a publish and keeps its alias. The name is copied: a slice would hold the
    /// read buffer that it came in for as long as the connection lives.
    ///
    /// # Errors
    /// `TopicAliasInvalid` beyond `alias_maximum`; `ProtocolError` for an alias never set.
    pub fn topic(
        &mut self,
        topic: Option<TopicName>,
        alias: NonZeroU16,
        alias_maximum: u16,
    ) -> Result<TopicName, Reason> {
        if alias.get() > alias_maximum {
            return Err(Reason::TopicAliasInvalid);
        }
        let place = usize::from(alias.get() - 1);
        match topic {
            Some(name) => {
                if self.aliases.len() <= place {
                    self.aliases.resize(place + 1, None);
                }
                let copy = Bytes::copy_from_slice(name.as_bytes());
                self.aliases[place] = TopicName::from_utf8_bytes(copy).ok();
                Ok(name)
            }
            None => self.aliases.get(place).cloned().flatten().ok_or(Reason::ProtocolError),
        }
    }

    /// Counts one QoS 1 or 2 publish against the receive maximum.
    ///
    /// # Errors
    /// `ReceiveMaximumExceeded` when it is used up.
    pub fn count(&mut self, receive_maximum: u16) -> Result<(), Reason> {
        if self.used >= receive_maximum {
            return Err(Reason::ReceiveMaximumExceeded);
        }
        self.used += 1;
        Ok(())
    }

    /// Tells how much of the receive maximum is in use.
    #[must_use]
    pub fn used(&self) -> u16 {
        self.used
    }

    /// Judges the packet id of a QoS 1 publish: one that a QoS 2 exchange holds is not free.
    #[must_use]
    pub fn is_incoming(&self, packet_id: NonZeroU16) -> bool {
        self.incoming.binary_search(&packet_id.get()).is_ok()
    }

    /// Opens a QoS 2 packet id. Does not count it; see [`Intake::count`].
    pub fn open(&mut self, packet_id: NonZeroU16) -> Second {
        match self.incoming.binary_search(&packet_id.get()) {
            Err(place) => {
                self.incoming.insert(place, packet_id.get());
                Second::New
            }
            Ok(_) if self.is_owed(AckKind::Pubrec, packet_id) => Second::Waiting,
            Ok(_) => Second::Again,
        }
    }

    /// Closes a QoS 2 packet id at PUBREL; `false` if it was not open.
    pub fn close(&mut self, packet_id: NonZeroU16) -> bool {
        match self.incoming.binary_search(&packet_id.get()) {
            Ok(place) => {
                self.incoming.remove(place);
                true
            }
            Err(_) => false,
        }
    }

    /// Takes a place in the order of acks. `ack` is `None` for a QoS 0 publish that cannot be
    /// finished at once.
    pub fn owe(&mut self, ack: Option<(AckKind, NonZeroU16)>, bytes: usize) -> Ticket {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let ticket = Ticket(self.first.wrapping_add(u32::try_from(self.owed.len()).unwrap_or(0)));
        self.bytes += bytes as usize;
        self.owed.push_back(Owed { ack, bytes, outcome: None, resent: false });
        ticket
    }

    /// Says how the thing behind `ticket` came out.
    pub fn settle(&mut self, ticket: Ticket, outcome: Reason) {
        let place = ticket.0.wrapping_sub(self.first) as usize;
        if let Some(owed) = self.owed.get_mut(place) {
            debug_assert!(owed.outcome.is_none(), "a ticket is settled once");
            owed.outcome = Some(outcome);
            self.bytes -= owed.bytes as usize;
            owed.bytes = 0;
        }
    }

    /// Notes that the client sent this publish before.
    pub fn note_resent(&mut self, ticket: Ticket) {
        if let Some(owed) = self.owed.get_mut(ticket.0.wrapping_sub(self.first) as usize) {
            owed.resent = true;
        }
    }

    /// Tells whether the client sent the publish of this ticket before.
    #[must_use]
    pub fn is_resent(&self, ticket: Ticket) -> bool {
        let owed = self.owed.get(ticket.0.wrapping_sub(self.first) as usize);
        owed.is_some_and(|owed| owed.resent)
    }

    /// Returns the packet id whose PUBREC waits for this ticket; `None` if another ack does.
    #[must_use]
    pub fn pubrec_of(&self, ticket: Ticket) -> Option<NonZeroU16> {
        let owed = self.owed.get(ticket.0.wrapping_sub(self.first) as usize)?;
        owed.ack.and_then(|(kind, packet_id)| (kind == AckKind::Pubrec).then_some(packet_id))
    }

    /// Takes the next ack that may be sent: the oldest thing owed, once it is settled.
    pub fn pop_ready(&mut self) -> Option<Ack> {
        loop {
            let reason = self.owed.front()?.outcome?;
            let owed = self.owed.pop_front()?;
            self.first = self.first.wrapping_add(1);
            if let Some((kind, packet_id)) = owed.ack {
                self.sent(kind, packet_id, reason);
                return Some(Ack { kind, packet_id, reason });
            }
        }
    }

    /// Keeps the books of an ack that is sent: what it frees.
    pub fn sent(&mut self, kind: AckKind, packet_id: NonZeroU16, reason: Reason) {
        match kind {
            AckKind::Puback | AckKind::Pubcomp => self.used = self.used.saturating_sub(1),
            AckKind::Pubrec if reason != Reason::Success => {
                // A PUBREC of 0x80 or more ends the exchange (section 4.3.3).
                self.close(packet_id);
                self.used = self.used.saturating_sub(1);
            }
            AckKind::Pubrec | AckKind::Pubrel => {}
        }
    }

    /// Tells whether something is owed, so that a new ack has to queue behind it.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Tells whether so much waits that reading has to stop.
    #[must_use]
    pub fn is_full(&self, count_max: usize, bytes_max: usize) -> bool {
        self.owed.len() >= count_max || self.bytes >= bytes_max
    }

    /// Tells whether nothing is left to remember, so that the whole thing can be dropped.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.owed.is_empty()
            && self.incoming.is_empty()
            && self.aliases.is_empty()
            && self.used == 0
    }

    fn is_owed(&self, kind: AckKind, packet_id: NonZeroU16) -> bool {
        self.owed.iter().any(|owed| owed.ack == Some((kind, packet_id)))
    }
}

/// Says which ack a publish of this QoS gets.
#[must_use]
pub fn ack_kind(qos: Qos) -> Option<AckKind> {
    match qos {
        Qos::AtMostOnce => None,
        Qos::AtLeastOnce => Some(AckKind::Puback),
        Qos::ExactlyOnce => Some(AckKind::Pubrec),
    }
}

#[cfg(test)]
mod tests;
