//! Writing to a link: control packets, single messages, acknowledgements of live deliveries, flushing.
//!
//! - Owns: nothing; appends to the link's outbox and has the flusher write it.
//! - Takes: packets of the connection. Gives: bytes to the socket; pending frames as the window moves.
//! - Bound: QoS 0 beyond the outbox limits is dropped for this receiver; QoS 1 and 2 of a session
//!   without storage wait, and beyond the pending limits the connection is told to end.
//! - Source: MQTT 5.0 sections 3.3, 4.4, 4.6, 4.9.

use std::{
    io,
    num::{NonZeroU16, NonZeroU32},
    task::Context,
};

use bytes::BytesMut;
use smallvec::SmallVec;

use super::{Link, extra::Alias, flag};
use crate::{
    actors::{
        counters::DropCause,
        outbox::{Outbox, WRITE_SLICES_MAX},
        socket::Socket,
        worker::Worker,
    },
    limits,
    model::{
        message::{Message, Qos},
        reason::Reason,
        wire::{Delivery, Dialect, Outbound},
    },
};

/// How one receiver gets a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    /// QoS of the delivery.
    pub qos: Qos,
    /// A resend.
    pub dup: bool,
    /// Retain flag as the receiver shall see it.
    pub retain: bool,
    /// All matching subscription identifiers.
    pub subscription_ids: &'a [NonZeroU32],
}

/// What became of a message for this receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It will be written.
    Queued,
    /// It waits for a place in the receiver's window.
    Waiting,
    /// It will not be delivered; counted. For QoS 1 and 2: treat as done.
    Dropped(DropCause),
    /// The link ends.
    Closing,
}

/// Where the bytes of a message do not go.
enum Refused {
    TooLarge,
}

impl Link<dyn Socket> {
    /// Queues a control packet. Always taken: the connection stops reading when
    /// [`poll_room`](Self::poll_room) says so, and so bounds what it answers.
    ///
    /// - Shape: `false` if nothing was written: the link ends, the packet is larger than the client
    ///   takes (MQTT-3.1.2-24), or its dialect has none for it. An answer that a client waits for and
    ///   cannot get ends its connection.
    pub fn send(&self, outbound: &Outbound) -> bool {
        if self.has(flag::CLOSING) {
            return false;
        }
        let packet_bytes_max = self.packet_bytes_max.get();
        let written = Worker::with(|worker| {
            let front = worker.front(self.dialect());
            self.with_outbox(worker, |outbox| {
                let before = outbox.bytes();
                outbox.write_own(0, |own| front.encode(outbound, packet_bytes_max, own));
                outbox.bytes() > before
            })
        });
        let written = written.unwrap_or(false);
        if !written && !matches!(outbound, Outbound::Connack(_) | Outbound::Disconnect { .. }) {
            self.kick(Reason::PacketTooLarge);
        }
        written
    }

    /// Queues a message under a packet id of the caller's (`None` for QoS 0): for durable sessions,
    /// whose reader owns the window, and for QoS 0 copies of retained messages.
    pub fn send_message(
        &self,
        message: &Message,
        terms: &Terms<'_>,
        packet_id: Option<NonZeroU16>,
        now_ms: u64,
    ) -> Sent {
        Worker::with(|worker| self.queue_message(worker, message, terms, packet_id, now_ms))
            .unwrap_or(Sent::Closing)
    }

    /// Returns the bytes that wait to be written.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        let outbox = self.outbox.take();
        let bytes = outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        self.outbox.set(outbox);
        bytes
    }

    /// Tells whether the outbox holds its limit of bytes.
    pub(super) fn is_full(&self, worker: &Worker) -> bool {
        self.outbox_bytes() >= self.limits(worker).outbox_bytes_max as usize
    }

    /// Writes what is queued until the socket takes no more. Called by the flusher.
    pub(in crate::actors) fn flush(&self, worker: &Worker) {
        self.clear(flag::DIRTY);
        if self.has(flag::BLOCKED | flag::BROKEN) {
            return;
        }
        self.write(worker);
    }

    /// Goes on writing to a socket that took no more. Called by the context at each poll.
    pub(in crate::actors) fn poll_output(&self, cx: &mut Context<'_>) {
        while self.has(flag::BLOCKED) && !self.has(flag::BROKEN) {
            match self.socket.poll_write_ready(cx) {
                std::task::Poll::Pending => return,
                std::task::Poll::Ready(Err(_)) => self.set(flag::BROKEN),
                std::task::Poll::Ready(Ok(())) => {
                    self.clear(flag::BLOCKED);
                    Worker::with(|worker| self.write(worker));
                }
            }
        }
    }

    /// Appends to the outbox and has it flushed.
    pub(in crate::actors) fn with_outbox<T>(
        &self,
        worker: &Worker,
        f: impl FnOnce(&mut Outbox) -> T,
    ) -> T {
        let mut outbox = self.outbox.take().unwrap_or_else(|| {
            let mut outbox = worker.new_outbox();
            if self.has(flag::BLOCKED) {
                outbox.block();
            }
            outbox
        });
        let out = f(&mut outbox);
        if outbox.is_empty() {
            worker.recycle(outbox);
        } else {
            self.outbox.set(Some(outbox));
            self.mark_dirty(worker);
        }
        out
    }

    pub(super) fn mark_dirty(&self, worker: &Worker) {
        if !self.has(flag::DIRTY | flag::BLOCKED) {
            self.set(flag::DIRTY);
            worker.mark_dirty(self.slot);
        }
    }

    fn write(&self, worker: &Worker) {
        let mut progress = false;
        while let Some(mut outbox) = self.outbox.take() {
            let written = {
                let mut slices = SmallVec::<[_; WRITE_SLICES_MAX]>::new();
                outbox.slices(&mut slices);
                self.socket.try_write_vectored(&slices)
            };
            worker.counters().writes.add(1);
            match written {
                Ok(count) if count > 0 => {
                    progress = true;
                    worker.counters().bytes_out.add(count as u64);
                    outbox.advance(count);
                    if outbox.is_empty() {
                        worker.recycle(outbox);
                    } else {
                        self.outbox.set(Some(outbox));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    outbox.block();
                    self.outbox.set(Some(outbox));
                    self.set(flag::BLOCKED);
                    self.wake();
                    if progress && !self.has(flag::CLOSING) {
                        self.made_room(worker);
                    }
                    return;
                }
                Ok(_) | Err(_) => {
                    worker.recycle(outbox);
                    self.set(flag::BROKEN);
                    self.wake();
                    return;
                }
            }
        }
        self.written(worker);
    }

    /// Everything queued is written: closes, or makes room known.
    fn written(&self, worker: &Worker) {
        if self.has(flag::CLOSING) {
            if !self.has(flag::CLOSED) {
                self.set(flag::CLOSED);
                self.socket.close();
                self.wake();
            }
            return;
        }
        self.made_room(worker);
    }

    /// Something was written. Who waits for room goes on at half of the limit: a flood of QoS 0 may
    /// keep the outbox from ever being empty.
    fn made_room(&self, worker: &Worker) {
        let half = self.limits(worker).outbox_bytes_max as usize / 2;
        if self.has(flag::WANTS_ROOM) && self.outbox_bytes() <= half {
            self.clear(flag::WANTS_ROOM);
            self.wake();
        }
        self.release_pending(worker);
    }

    pub(super) fn queue_message(
        &self,
        worker: &Worker,
        message: &Message,
        terms: &Terms<'_>,
        packet_id: Option<NonZeroU16>,
        now_ms: u64,
    ) -> Sent {
        if self.has(flag::CLOSING) {
            return Sent::Closing;
        }
        if message.is_expired(now_ms) {
            return dropped(worker, DropCause::Expired, 1);
        }
        if packet_id.is_none() && !self.has_room(worker, frame_bytes(message)) {
            return dropped(worker, DropCause::Slow, 1);
        }
        let mut alias = Alias::None;
        if self.has(flag::ALIASES) && self.dialect() == Dialect::MqttV5 {
            alias = self.with_extra(|extra| extra.alias(message.topic.as_bytes()));
        }
        let written = self.with_outbox(worker, |outbox| {
            self.write_message(worker, outbox, message, terms, packet_id, alias, now_ms)
        });
        match written {
            Err(Refused::TooLarge) => dropped(worker, DropCause::TooLarge, 1),
            Ok(()) => {
                if let Alias::Set(_) = alias {
                    self.with_extra(|extra| extra.set_alias(message.topic.as_bytes()));
                }
                worker.counters().deliver_messages(terms.qos, 1);
                Sent::Queued
            }
        }
    }

    pub(super) fn has_room(&self, worker: &Worker, bytes: usize) -> bool {
        let limits = self.limits(worker);
        let outbox = self.outbox.take();
        let room = outbox.as_ref().is_none_or(|outbox| {
            outbox.has_room(bytes, limits.outbox_messages_max, limits.outbox_bytes_max)
        });
        self.outbox.set(outbox);
        room
    }

    #[expect(clippy::too_many_arguments, reason = "private; all are parts of one packet")]
    fn write_message(
        &self,
        worker: &Worker,
        outbox: &mut Outbox,
        message: &Message,
        terms: &Terms<'_>,
        packet_id: Option<NonZeroU16>,
        alias: Alias,
        now_ms: u64,
    ) -> Result<(), Refused> {
        let alias = match alias {
            Alias::None => None,
            Alias::Set(alias) => Some((alias, false)),
            Alias::Known(alias) => Some((alias, true)),
        };
        let delivery = delivery(message, terms, alias, now_ms);
        let front = worker.front(self.dialect());
        let packet_bytes_max = self.packet_bytes_max.get() as usize;
        let share = message.payload.len() >= limits::SHARED_PAYLOAD_BYTES_MIN;
        outbox.write_own(1, |own| {
            let start = own.len();
            let head = front.encode_delivery_head(&delivery, own);
            if own.len() - start + message.payload.len() > packet_bytes_max {
                own.truncate(start);
                return Err(Refused::TooLarge);
            }
            if let (Some(at), Some(id)) = (head.packet_id_at, packet_id) {
                patch(own, start + at, id);
            }
            if !share {
                own.extend_from_slice(&message.payload);
            }
            Ok(())
        })?;
        if share {
            let end = u32::try_from(message.payload.len()).unwrap_or(u32::MAX);
            outbox.push_shared(&message.payload, 0, end, 0);
        }
        Ok(())
    }
}

/// Writes a packet id into its place.
pub(super) fn patch(own: &mut BytesMut, at: usize, id: NonZeroU16) {
    if let Some(place) = own.get_mut(at..at + 2) {
        place.copy_from_slice(&id.get().to_be_bytes());
    }
}

/// Counts deliveries that do not happen.
pub(super) fn dropped(worker: &Worker, cause: DropCause, messages: u64) -> Sent {
    worker.counters().drop_messages(cause, messages);
    Sent::Dropped(cause)
}

/// About how many bytes the packet will have; a little more than it really has.
pub(super) fn frame_bytes(message: &Message) -> usize {
    message.topic.as_bytes().len() + message.properties.len() + message.payload.len() + 24
}

/// Names the parts of a PUBLISH; `alias` says whether the name goes along.
pub(in crate::actors) fn delivery<'a>(
    message: &'a Message,
    terms: &'a Terms<'_>,
    alias: Option<(NonZeroU16, bool)>,
    now_ms: u64,
) -> Delivery<'a> {
    let known = alias.is_some_and(|(_, known)| known);
    Delivery {
        topic: if known { &[] } else { message.topic.as_bytes() },
        topic_alias: alias.map(|(alias, _)| alias),
        qos: terms.qos,
        dup: terms.dup,
        retain: terms.retain,
        expiry_secs: message.expiry_left_secs(now_ms),
        properties: &message.properties,
        subscription_ids: terms.subscription_ids,
        payload: &message.payload,
    }
}
