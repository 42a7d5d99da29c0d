//! What acks of the client do to deliveries, and what the log is told of them.
//!
//! - Owns: nothing; deliveries and cursor belong to [`Reader`]. Takes: acks, outcomes of commits.
//! - Gives: what to commit or to send for an ack; reports (the cursor, and what lies beyond it).
//! - Bound: `SPAN_MAX` positions in one report.
//! - Source: MQTT 5.0 sections 4.3.2 and 4.3.3.

use std::num::NonZeroU16;

use super::{AHEAD, Flight, Progress, Reader};
use crate::model::{id::Position, message::Qos, wire::AckKind};

/// What an ack of the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// Nothing more; room for another delivery may be free.
    Done,
    /// PUBREC: commit it, then call [`Reader::received`] and send PUBREL.
    Commit,
    /// PUBREC came again: send PUBREL again.
    Repeat,
    /// PUBREC is being committed already.
    Waiting,
    /// No delivery with this id waits for an ack.
    Unknown,
    /// The delivery with this id waits for another kind of ack: protocol error.
    Violation,
}

impl Reader {
    /// Takes an ack of the client; `ok` is false for a reason of 0x80 or more.
    pub fn acked(&mut self, kind: AckKind, packet_id: NonZeroU16, ok: bool) -> Acked {
        let Some(flight) = self.find(packet_id) else { return Acked::Unknown };
        match (kind, flight.qos, flight.progress) {
            (AckKind::Puback, Qos::AtLeastOnce, Progress::Published)
            | (AckKind::Pubcomp, Qos::ExactlyOnce, Progress::Released) => self.finish(packet_id),
            (AckKind::Pubrec, Qos::ExactlyOnce, Progress::Published) if !ok => {
                self.finish(packet_id)
            }
            (AckKind::Pubrec, Qos::ExactlyOnce, Progress::Published) => {
                flight.progress = Progress::Receiving;
                flight.told = true;
                Acked::Commit
            }
            (AckKind::Pubrec, Qos::ExactlyOnce, Progress::Receiving) => Acked::Waiting,
            (AckKind::Pubrec, Qos::ExactlyOnce, Progress::Released) => {
                flight.told = true;
                Acked::Repeat
            }
            (_, _, Progress::Done) => Acked::Unknown,
            _ => Acked::Violation,
        }
    }

    /// Notes that a delivery could not be written for this client (too large, expired): it is done.
    /// `true`: the client may remember the id of the resend; send PUBREL, so that it forgets.
    pub fn dropped(&mut self, packet_id: NonZeroU16, dup: bool) -> bool {
        match self.find(packet_id) {
            Some(flight) if dup && flight.qos == Qos::ExactlyOnce => {
                flight.progress = Progress::Released;
                true
            }
            Some(_) => {
                self.finish(packet_id);
                false
            }
            None => false,
        }
    }

    /// Notes that a PUBREC is committed; `true`: send PUBREL.
    pub fn received(&mut self, packet_id: NonZeroU16) -> bool {
        match self.find(packet_id) {
            Some(flight) if flight.progress == Progress::Receiving => {
                flight.progress = Progress::Released;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Notes that a PUBREC could not be committed; a later PUBREC tries again.
    pub fn not_received(&mut self, packet_id: NonZeroU16) {
        if let Some(flight) = self.find(packet_id)
            && flight.progress == Progress::Receiving
        {
            flight.progress = Progress::Published;
            flight.told = false;
        }
    }

    /// Takes the QoS 2 ids whose end has to be written; answer with [`Reader::ended`].
    pub fn take_completed(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.completed)
    }

    /// Frees ids whose end is written, or (`!ok`) keeps them to be written again.
    pub fn ended(&mut self, ids: &[u16], ok: bool) {
        if ok {
            for id in ids {
                self.ids.remove(id);
            }
        } else {
            self.completed.extend_from_slice(ids);
        }
    }

    /// Takes what the log should know: the cursor, and what is acknowledged beyond it. Answer with
    /// [`Reader::not_acknowledged`] if it could not be written.
    pub fn acknowledge(&mut self) -> Option<(Position, Vec<Position>)> {
        if self.cursor == self.reported && self.beyond_untold == 0 {
            return None;
        }
        self.reported = self.cursor;
        let untold = self.flights.iter_mut().filter(|flight| flight.is_untold());
        let beyond: Vec<_> = untold
            .map(|flight| {
                flight.told = true;
                flight.position
            })
            .collect();
        self.beyond_untold -= beyond.len();
        Some((self.cursor, beyond))
    }

    /// Notes that the last report was lost; all of it is due again.
    pub fn not_acknowledged(&mut self) {
        self.reported = Position::START;
        for flight in self.flights.iter_mut().filter(|flight| flight.progress == Progress::Done) {
            self.beyond_untold += usize::from(flight.told);
            flight.told = false;
        }
    }

    fn find(&mut self, packet_id: NonZeroU16) -> Option<&mut Flight> {
        let seq = *self.ids.get(&packet_id.get())?;
        if seq == AHEAD {
            return self.resume.iter_mut().find(|flight| flight.packet_id == packet_id);
        }
        let place = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.flights.get_mut(place)
    }

    fn finish(&mut self, packet_id: NonZeroU16) -> Acked {
        let ahead = self.ids.get(&packet_id.get()) == Some(&AHEAD);
        let Some(flight) = self.find(packet_id) else { return Acked::Unknown };
        flight.progress = Progress::Done;
        flight.told = ahead;
        let flight = *flight;
        // One that the pass has not reached keeps its id until it is taken over.
        if !ahead {
            self.forget(&flight);
            self.unfinished -= 1;
            self.beyond_untold += 1;
            self.advance();
        }
        Acked::Done
    }
}
