//! Deliveries that are encoded once for many receivers.
//!
//! - Owns: [`EncodedRun`]: the frames of consecutive messages in one shared chunk.
//! - Takes: runs from the router. Gives: shared slices (QoS 0), or a copy with its own packet ids.
//! - Bound: as `output`: QoS 0 is dropped for this receiver, QoS 1 and 2 wait, then overflow.

use std::num::NonZeroU64;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    Link,
    extra::Frame,
    flag,
    output::{dropped, patch},
};
use crate::{
    actors::{counters::DropCause, outbox::Outbox, socket::Socket, worker::Worker},
    limits,
    model::{
        message::{Message, Qos},
        wire::{Delivery, Front},
    },
};

/// One PUBLISH inside a chunk.
#[derive(Debug)]
struct FrameAt {
    start: u32,
    end: u32,
    /// Where the packet id stands in the chunk.
    packet_id_at: u32,
    /// Where the seconds until expiry stand in the frame, 0 = nowhere.
    expiry_at: u32,
    expires_at_ms: Option<NonZeroU64>,
    /// A large payload stays where it is and follows `end` on the wire.
    payload: Option<Bytes>,
}

impl FrameAt {
    fn bytes(&self) -> usize {
        (self.end - self.start) as usize + self.payload.as_ref().map_or(0, Bytes::len)
    }
}

/// The frames of consecutive messages that receivers of one kind get.
#[derive(Debug)]
pub struct EncodedRun {
    chunk: Bytes,
    frames: SmallVec<[FrameAt; 1]>,
    qos: Qos,
    largest: usize,
    bytes: usize,
    /// All frames lie in the chunk, one behind the other.
    gathered: bool,
}

impl EncodedRun {
    /// Encodes deliveries of one QoS, each with its message; `chunk` is a buffer whose filled part becomes shared.
    pub fn encode<'a>(
        front: &dyn Front,
        qos: Qos,
        messages: impl Iterator<Item = (Delivery<'a>, &'a Message)>,
        chunk: &mut BytesMut,
    ) -> Self {
        let mut frames = SmallVec::new();
        for (delivery, message) in messages {
            let payload = &message.payload;
            let start = chunk.len();
            let head = front.encode_delivery_head(&delivery, chunk);
            let share = payload.len() >= limits::SHARED_PAYLOAD_BYTES_MIN;
            if !share {
                chunk.extend_from_slice(payload);
            }
            frames.push(FrameAt {
                start: small(start),
                end: small(chunk.len()),
                packet_id_at: small(start + head.packet_id_at.unwrap_or(0)),
                expiry_at: small(head.expiry_at.unwrap_or(0)),
                expires_at_ms: message.expires_at_ms.and_then(NonZeroU64::new),
                payload: share.then(|| payload.clone()),
            });
        }
        Self {
            chunk: chunk.split().freeze(),
            qos,
            largest: frames.iter().map(FrameAt::bytes).max().unwrap_or(0),
            bytes: frames.iter().map(FrameAt::bytes).sum(),
            gathered: frames.iter().all(|frame: &FrameAt| frame.payload.is_none()),
            frames,
        }
    }

    fn messages(&self) -> u32 {
        small(self.frames.len())
    }
}

impl Link<dyn Socket> {
    /// Queues a run. Called by the router.
    pub(in crate::actors) fn deliver_run(&self, worker: &Worker, run: &EncodedRun) {
        if self.has(flag::CLOSING) {
            return;
        }
        if run.qos == Qos::AtMostOnce {
            self.with_outbox(worker, |outbox| self.share_run(worker, outbox, run));
        } else if !self.copy_run(worker, run) {
            for frame in &run.frames {
                self.copy_frame(worker, run, frame);
            }
        }
    }

    /// QoS 0: the whole run as one slice if it fits, else frame by frame.
    fn share_run(&self, worker: &Worker, outbox: &mut Outbox, run: &EncodedRun) {
        let limits = self.limits(worker);
        let (messages_max, bytes_max) = (limits.outbox_messages_max, limits.outbox_bytes_max);
        let packet_bytes_max = self.packet_bytes_max.get() as usize;
        let fits = outbox.messages() + run.messages() <= messages_max
            && outbox.bytes() + run.bytes <= bytes_max as usize;
        if run.gathered && fits && run.largest <= packet_bytes_max {
            outbox.push_shared(&run.chunk, 0, small(run.chunk.len()), run.messages());
            worker.counters().deliver_messages(Qos::AtMostOnce, u64::from(run.messages()));
            return;
        }
        for frame in &run.frames {
            if frame.bytes() > packet_bytes_max {
                dropped(worker, DropCause::TooLarge, 1);
            } else if !outbox.has_room(frame.bytes(), messages_max, bytes_max) {
                dropped(worker, DropCause::Slow, 1);
            } else {
                outbox.push_shared(&run.chunk, frame.start, frame.end, 1);
                push_payload(outbox, frame);
                worker.counters().deliver_messages(Qos::AtMostOnce, 1);
            }
        }
    }

    /// QoS 1 and 2: copies the whole run and gives each frame its id; `false` if it does not fit.
    fn copy_run(&self, worker: &Worker, run: &EncodedRun) -> bool {
        let fits = run.gathered
            && run.largest <= self.packet_bytes_max.get() as usize
            && self.has_room_for(worker, run.messages(), run.bytes);
        if !fits {
            return false;
        }
        let mut ids = SmallVec::<[_; 8]>::new();
        let begun = self.with_live(|live| {
            if !live.pending.is_empty() || live.window.room() < run.frames.len() {
                return false;
            }
            ids.extend(run.frames.iter().filter_map(|_| live.window.begin(run.qos, 0)));
            true
        });
        if !begun {
            return false;
        }
        self.with_outbox(worker, |outbox| {
            outbox.write_own(run.messages(), |own| {
                let base = own.len();
                own.extend_from_slice(&run.chunk);
                for (frame, id) in run.frames.iter().zip(ids) {
                    patch(own, base + frame.packet_id_at as usize, id);
                }
            });
        });
        worker.counters().deliver_messages(run.qos, u64::from(run.messages()));
        true
    }

    /// QoS 1 and 2, one frame: into the outbox if the window allows, else it waits.
    fn copy_frame(&self, worker: &Worker, run: &EncodedRun, frame: &FrameAt) {
        if frame.bytes() > self.packet_bytes_max.get() as usize {
            dropped(worker, DropCause::TooLarge, 1);
            return;
        }
        let room = self.has_room(worker, frame.bytes());
        let id = self.with_live(|live| {
            if room && live.pending.is_empty() { live.window.begin(run.qos, 0) } else { None }
        });
        let head = &run.chunk[frame.start as usize..frame.end as usize];
        let packet_id_at = frame.packet_id_at - frame.start;
        let Some(id) = id else {
            let payload = frame.payload.as_ref().map_or(&[][..], |payload| &payload[..]);
            let bytes = [head, payload].concat().into_boxed_slice();
            let FrameAt { expiry_at, expires_at_ms, .. } = *frame;
            let (qos, share) = (run.qos, 0);
            let waits = Frame { bytes, packet_id_at, expiry_at, expires_at_ms, qos, share };
            self.wait_in_pending(worker, waits);
            return;
        };
        self.with_outbox(worker, |outbox| {
            outbox.write_own(1, |own| {
                let base = own.len();
                own.extend_from_slice(head);
                patch(own, base + packet_id_at as usize, id);
            });
            push_payload(outbox, frame);
        });
        worker.counters().deliver_messages(run.qos, 1);
    }

    fn has_room_for(&self, worker: &Worker, messages: u32, bytes: usize) -> bool {
        let limits = self.limits(worker);
        let outbox = self.outbox.take();
        let (queued, queued_bytes) =
            outbox.as_ref().map_or((0, 0), |outbox| (outbox.messages(), outbox.bytes()));
        self.outbox.set(outbox);
        queued + messages <= limits.outbox_messages_max
            && queued_bytes + bytes <= limits.outbox_bytes_max as usize
    }
}

fn push_payload(outbox: &mut Outbox, frame: &FrameAt) {
    if let Some(payload) = &frame.payload {
        outbox.push_shared(payload, 0, small(payload.len()), 0);
    }
}

/// Offsets are `u32`: a run is bounded by what one read gave, or by one packet.
fn small(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}
