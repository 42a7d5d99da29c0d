//! One connection of the hub: two pipes, a window and what waits for answers.
//!
//! - Owns: the requests under way. Takes: frames, breaks. Gives: when a frame is due; results.
//! - Bound: `LINK_REQUESTS_MAX`, `LINK_BYTES_MAX`. What a pipe holds while it is cut is part of those.
//! - Source: own design.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::super::{Class, Desk, LinkError, LinkState, reply};
use crate::{
    id::NodeId,
    limits::{LINK_BYTES_MAX, LINK_REQUESTS_MAX, LINK_RETRY_MIN},
};

/// Which connection between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Of(Class),
    Knock,
}

/// The link on which `from` asks `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) lane: Lane,
}

/// Which pipe of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    There = 0,
    Back = 1,
}

/// What travels.
#[derive(Debug)]
pub(super) enum Frame {
    Request { id: u64, desk: Desk, body: Bytes, time_out: Duration },
    Cast { desk: Desk, body: Bytes },
    Answer { id: u64, result: Result<Bytes, String> },
}

struct Pending {
    tell: reply::Sender,
    bytes: usize,
}

#[derive(Default)]
struct Pipe {
    /// When the last frame arrives; none overtakes it.
    last_due: Option<Instant>,
    /// On their way, in order.
    frames: VecDeque<Frame>,
    /// How many of them have come to a cut.
    held: usize,
}

/// One link.
pub(super) struct Link {
    pub(super) connected: bool,
    /// Counts connections; what belongs to an older one is void.
    pub(super) generation: u64,
    /// When a cut began that still lasts.
    pub(super) cut_since: Option<Instant>,
    pub(super) retry_at: Instant,
    since: Instant,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    pending_bytes: usize,
    cast_bytes: usize,
    pipes: [Pipe; 2],
    bytes_out: u64,
    bytes_in: u64,
    frames_out: u64,
    frames_in: u64,
    refused_full: u64,
    last_error: Option<String>,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            connected: false,
            generation: 0,
            cut_since: None,
            retry_at: now,
            since: now,
            next_id: 0,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            cast_bytes: 0,
            pipes: Default::default(),
            bytes_out: 0,
            bytes_in: 0,
            frames_out: 0,
            frames_in: 0,
            refused_full: 0,
            last_error: None,
        }
    }

    pub(super) fn connect(&mut self, now: Instant) {
        self.connected = true;
        self.generation += 1;
        self.since = now;
    }

    /// Ends the connection: who waits for an answer is told that it is lost.
    pub(super) fn break_off(&mut self, now: Instant, why: &str) {
        if !mem::take(&mut self.connected) {
            return;
        }
        for (_, pending) in mem::take(&mut self.pending) {
            let _ = pending.tell.send(Err(LinkError::Lost));
        }
        self.pipes = Default::default();
        (self.pending_bytes, self.cast_bytes, self.cut_since) = (0, 0, None);
        self.generation += 1;
        self.retry_at = now + LINK_RETRY_MIN;
        self.since = now;
        self.last_error = Some(why.to_owned());
    }

    /// Makes the frame of a request or a cast, if the window has room.
    pub(super) fn ask(
        &mut self,
        desk: Desk,
        body: Bytes,
        ask: Option<(reply::Sender, Duration)>,
    ) -> Result<Frame, LinkError> {
        let bytes = body.len();
        let taken = if ask.is_some() { self.pending_bytes } else { self.cast_bytes };
        let many = ask.is_some() && self.pending.len() >= LINK_REQUESTS_MAX;
        if many || taken + bytes > LINK_BYTES_MAX {
            self.refused_full += 1;
            return Err(LinkError::Full);
        }
        self.frames_out += 1;
        self.bytes_out += bytes as u64;
        let Some((tell, time_out)) = ask else {
            self.cast_bytes += bytes;
            return Ok(Frame::Cast { desk, body });
        };
        self.next_id += 1;
        let id = self.next_id;
        self.pending_bytes += bytes;
        self.pending.insert(id, Pending { tell, bytes });
        Ok(Frame::Request { id, desk, body, time_out })
    }

    /// A cast has arrived and takes no room any more.
    pub(super) fn cast_arrived(&mut self, bytes: usize) {
        self.cast_bytes = self.cast_bytes.saturating_sub(bytes);
    }

    /// Hands an answer to who waits for it.
    pub(super) fn answered(&mut self, id: u64, result: Result<Bytes, String>) {
        let Some(pending) = self.pending.remove(&id) else { return };
        self.pending_bytes -= pending.bytes;
        self.frames_in += 1;
        self.bytes_in += result.as_ref().map_or(0, Bytes::len) as u64;
        let _ = pending.tell.send(result.map_err(LinkError::Refused));
    }

    /// Puts a frame into a pipe; returns when it arrives, if that takes until `at` alone.
    pub(super) fn put(&mut self, way: Way, at: Instant, frame: Frame) -> Instant {
        let pipe = &mut self.pipes[way as usize];
        pipe.frames.push_back(frame);
        let due = pipe.last_due.map_or(at, |last| last.max(at));
        pipe.last_due = Some(due);
        due
    }

    /// Takes the first frame out of a pipe.
    pub(super) fn take(&mut self, way: Way) -> Option<Frame> {
        self.pipes[way as usize].frames.pop_front()
    }

    /// One more frame has come to a cut.
    pub(super) fn hold(&mut self, way: Way) {
        self.pipes[way as usize].held += 1;
    }

    /// Returns how many frames had come to a cut.
    pub(super) fn take_held(&mut self, way: Way) -> usize {
        mem::take(&mut self.pipes[way as usize].held)
    }

    pub(super) fn state(
        &self,
        peer: NodeId,
        address: &str,
        class: Class,
        now: Instant,
    ) -> LinkState {
        LinkState {
            peer,
            address: address.to_owned(),
            class,
            connected: self.connected,
            since: now - self.since,
            version: u16::from(self.generation > 0),
            connects: self.generation.div_ceil(2),
            bytes_out: self.bytes_out,
            bytes_in: self.bytes_in,
            frames_out: self.frames_out,
            frames_in: self.frames_in,
            in_flight: self.pending.len() as u64,
            in_flight_bytes: self.pending_bytes as u64,
            refused_full: self.refused_full,
            last_error: self.last_error.clone(),
        }
    }
}
