//! Live deliveries with QoS 1 and 2 to sessions without storage: window, waiting frames, shares.
//!
//! - Owns: nothing; works on the link's `Live`, which exists only while something is unfinished.
//! - Takes: messages of the router, acknowledgements of the client. Gives: frames to the outbox; shares
//!   that were not acknowledged back to their groups.
//! - Bound: receive maximum; pending limits, beyond which the connection is told to end.
//! - Source: MQTT 5.0 sections 4.3, 4.8.2 and 4.9.

use std::{
    collections::BTreeMap,
    num::{NonZeroU16, NonZeroU64},
    sync::Arc,
};

use bytes::BytesMut;

use super::{
    Link,
    extra::{Extra, Frame, Live},
    flag,
    output::{Sent, Terms, delivery, dropped, frame_bytes, patch},
};
use crate::{
    actors::{
        counters::DropCause,
        groups::{GivenBack, GroupKey},
        socket::Socket,
        worker::Worker,
    },
    clock,
    model::{
        message::{Message, Qos},
        reason::Reason,
        window::{Acknowledged, Pending, Progress, Window},
        wire::{Ack, AckKind},
    },
};

/// A message that this client got as a member of a shared group.
#[derive(Debug)]
pub(in crate::actors) struct Share {
    pub(in crate::actors) group: GroupKey,
    pub(in crate::actors) message: Arc<Message>,
}

/// What an acknowledgement of a live delivery asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveAck {
    /// Nothing more.
    Done,
    /// Send this.
    Reply(Ack),
    /// End the connection with this reason.
    Violation(Reason),
}

impl Live {
    /// Keeps a share until it is acknowledged; returns its number, 0 = none.
    fn keep_share(&mut self, share: Option<Share>) -> u32 {
        let Some(share) = share else { return 0 };
        self.last_share = self.last_share.checked_add(1).unwrap_or(1);
        self.shares.insert(self.last_share, share);
        self.last_share
    }

    /// Forgets the oldest waiting frame if it has expired. A share of a group is done with it.
    fn drop_expired(&mut self, now_ms: u64) -> bool {
        if !self.pending.front().is_some_and(|frame| frame.is_expired(now_ms)) {
            return false;
        }
        let dropped = self.pending.pop();
        dropped.inspect(|frame| drop(self.shares.remove(&frame.share))).is_some()
    }
}

impl Link<dyn Socket> {
    /// Queues a message for a session without storage; the link gives it a packet id, or has it wait.
    pub fn send_live(&self, message: &Message, terms: &Terms<'_>, now_ms: u64) -> Sent {
        Worker::with(|worker| self.queue_live(worker, message, terms, now_ms))
            .unwrap_or(Sent::Closing)
    }

    /// Takes an acknowledgement of a live delivery (sessions without storage).
    pub fn on_ack(&self, ack: &Ack) -> LiveAck {
        let told = self.with_extra(|extra| {
            let Some(live) = extra.live.as_mut() else { return not_in_use(ack) };
            let told = live.window.acknowledge(ack);
            if let Acknowledged::Finished(share) | Acknowledged::Release(share) = &told {
                // A QoS 2 delivery that the client has received stays with it.
                live.shares.remove(share);
            }
            told
        });
        let pubrel = |reason| Ack { kind: AckKind::Pubrel, packet_id: ack.packet_id, reason };
        match told {
            Acknowledged::Finished(_) => {
                Worker::with(|worker| self.release_pending(worker));
                LiveAck::Done
            }
            Acknowledged::Release(_) | Acknowledged::ReleaseAgain => {
                LiveAck::Reply(pubrel(Reason::Success))
            }
            Acknowledged::ReleaseUnknown => LiveAck::Reply(pubrel(Reason::PacketIdNotFound)),
            Acknowledged::Unknown => LiveAck::Done,
            Acknowledged::Violation => LiveAck::Violation(Reason::ProtocolError),
        }
    }

    /// Returns unfinished and waiting live deliveries.
    #[must_use]
    pub fn live_deliveries(&self) -> (usize, usize) {
        self.with_extra(|extra| {
            let live = extra.live.as_ref();
            live.map_or((0, 0), |live| (live.window.len(), live.pending.len()))
        })
    }

    /// Tells whether a share of this QoS would go out at once: its window is not full, and nothing waits.
    pub(in crate::actors) fn has_room_for_share(&self, qos: Qos) -> bool {
        if qos == Qos::AtMostOnce {
            return self.outbox_bytes() < crate::limits::RETAINED_OUTBOX_BYTES;
        }
        self.with_extra(|extra| {
            let live = extra.live.as_ref();
            live.is_none_or(|live| !live.window.is_full() && live.pending.is_empty())
        })
    }

    /// Forgets deliveries that were not acknowledged. Those of shared groups go back to their groups;
    /// QoS 2 that was sent stays with this client (MQTT 5.0 section 4.8.2).
    pub(super) fn drop_deliveries(&self) {
        let Some(live) = self.with_extra(|extra| extra.live.take()) else { return };
        let mut shares = live.shares;
        for (_, progress, share) in live.window.iter() {
            if progress != Progress::Published(Qos::AtLeastOnce) {
                shares.remove(&share);
            }
        }
        Worker::with(|worker| {
            let homes = worker.groups();
            for (_, Share { group, message }) in shares {
                let Some(home) = homes.get(group.home(homes.len())) else { continue };
                actix_rt::spawn(home.send(GivenBack { group, messages: vec![message] }));
            }
        });
    }

    pub(in crate::actors) fn queue_live(
        &self,
        worker: &Worker,
        message: &Message,
        terms: &Terms<'_>,
        now_ms: u64,
    ) -> Sent {
        self.queue_share(worker, message, terms, None, now_ms)
    }

    /// As `queue_live`; `share` goes back to its group if the client does not acknowledge it.
    pub(in crate::actors) fn queue_share(
        &self,
        worker: &Worker,
        message: &Message,
        terms: &Terms<'_>,
        share: Option<Share>,
        now_ms: u64,
    ) -> Sent {
        if terms.qos == Qos::AtMostOnce {
            return self.queue_message(worker, message, terms, None, now_ms);
        }
        if self.has(flag::CLOSING) {
            return Sent::Closing;
        }
        if message.is_expired(now_ms) {
            return dropped(worker, DropCause::Expired, 1);
        }
        let room = self.has_room(worker, frame_bytes(message));
        let (id, share) = self.with_live(|live| {
            let share = live.keep_share(share);
            let free = room && live.pending.is_empty();
            (if free { live.window.begin(terms.qos, share) } else { None }, share)
        });
        let Some(id) = id else {
            return match self.frame(worker, message, terms, now_ms) {
                Some(frame) => self.wait_in_pending(worker, Frame { share, ..frame }),
                None => {
                    self.with_live(|live| live.shares.remove(&share));
                    dropped(worker, DropCause::TooLarge, 1)
                }
            };
        };
        let sent = self.queue_message(worker, message, terms, Some(id), now_ms);
        if sent != Sent::Queued {
            self.with_live(|live| {
                live.window.cancel(id);
                live.shares.remove(&share);
            });
        }
        sent
    }

    /// Has an encoded frame wait; over the limits the connection is told to end.
    pub(super) fn wait_in_pending(&self, worker: &Worker, frame: Frame) -> Sent {
        let limits = self.limits(worker);
        let bytes = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        let (messages_max, bytes_max) = (limits.pending_messages_max, limits.pending_bytes_max);
        let pushed =
            self.with_live(|live| live.pending.push(frame, bytes, messages_max, bytes_max));
        if pushed.is_err() {
            self.signal(flag::OVERFLOWED);
            return dropped(worker, DropCause::Overflow, 1);
        }
        Sent::Waiting
    }

    /// Moves waiting frames into the outbox, as far as window and outbox allow.
    pub(super) fn release_pending(&self, worker: &Worker) {
        if self.has(flag::CLOSING) {
            return;
        }
        let mut now_ms = None;
        while let Some(bytes) = self.peek_pending() {
            let now_ms = *now_ms.get_or_insert_with(clock::wall_ms);
            if self.with_live(|live| live.drop_expired(now_ms)) {
                dropped(worker, DropCause::Expired, 1);
                continue;
            }
            if !self.has_room(worker, bytes) {
                return;
            }
            let Some((id, mut frame)) = self.with_live(take_pending) else { return };
            frame.count_down(now_ms);
            self.with_outbox(worker, |outbox| {
                outbox.write_own(1, |own| {
                    let start = own.len();
                    own.extend_from_slice(&frame.bytes);
                    patch(own, start + frame.packet_id_at as usize, id);
                });
            });
            worker.counters().deliver_messages(frame.qos, 1);
        }
    }

    /// Returns the bytes of the oldest waiting frame.
    fn peek_pending(&self) -> Option<usize> {
        let extra = self.extra.take()?;
        let live = extra.live.as_ref();
        let bytes = live.and_then(|live| live.pending.front()).map(|frame| frame.bytes.len());
        self.extra.set(Some(extra));
        bytes
    }

    pub(super) fn with_live<T>(&self, f: impl FnOnce(&mut Live) -> T) -> T {
        let receive_maximum = self.receive_maximum();
        self.with_extra(|extra: &mut Extra| {
            f(extra.live.get_or_insert_with(|| Live {
                window: Window::new(receive_maximum, 0),
                pending: Pending::default(),
                shares: BTreeMap::new(),
                last_share: 0,
            }))
        })
    }

    /// Encodes a frame that will wait: its own bytes, without alias (later ones may overtake it).
    fn frame(
        &self,
        worker: &Worker,
        message: &Message,
        terms: &Terms<'_>,
        now_ms: u64,
    ) -> Option<Frame> {
        let mut bytes = BytesMut::with_capacity(frame_bytes(message));
        let delivery = delivery(message, terms, None, now_ms);
        let head = worker.front(self.dialect()).encode_delivery_head(&delivery, &mut bytes);
        bytes.extend_from_slice(&message.payload);
        let fits = bytes.len() <= self.packet_bytes_max.get() as usize;
        fits.then(|| Frame {
            packet_id_at: u32::try_from(head.packet_id_at.unwrap_or(0)).unwrap_or(0),
            expiry_at: u32::try_from(head.expiry_at.unwrap_or(0)).unwrap_or(0),
            expires_at_ms: message.expires_at_ms.and_then(NonZeroU64::new),
            bytes: Vec::from(bytes).into_boxed_slice(),
            qos: terms.qos,
            share: 0,
        })
    }
}

fn take_pending(live: &mut Live) -> Option<(NonZeroU16, Frame)> {
    let (qos, share) = live.pending.front().map(|frame| (frame.qos, frame.share))?;
    let id = live.window.begin(qos, share)?;
    Some((id, live.pending.pop()?))
}

fn not_in_use(ack: &Ack) -> Acknowledged<u32> {
    if ack.kind == AckKind::Pubrec { Acknowledged::ReleaseUnknown } else { Acknowledged::Unknown }
}
