//! One link as its callers see it: a window, a queue, and who waits for which answer.
//!
//! - Owns: requests from the call until their answer, casts until they are written.
//! - Takes: requests of any thread; answers and ends of the connection. Gives: frames to be written,
//!   in the order of the calls; results.
//! - Bound: `LINK_REQUESTS_MAX` and `LINK_BYTES_MAX`, for requests and for casts.
//! - While there is no connection everything is refused: whoever asks knows best what to do instead.
//! - Source: own design.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    super::{Class, Desk, LinkError, LinkState, reply},
    frame::{Frame, HEAD_BYTES, Kind},
};
use crate::{
    clock,
    id::NodeId,
    limits::{FRAME_BYTES_MAX, LINK_BYTES_MAX, LINK_REQUESTS_MAX},
};

/// One request without an answer.
struct Pending {
    tell: reply::Sender,
    bytes: usize,
}

/// Everything behind the lock.
struct State {
    address: String,
    connected: bool,
    since: Instant,
    version: u16,
    connects: u64,
    last_id: u64,
    /// Not yet taken by the writer.
    queue: VecDeque<Frame>,
    pending: HashMap<u64, Pending>,
    pending_bytes: usize,
    casts: usize,
    cast_bytes: usize,
    bytes_out: u64,
    bytes_in: u64,
    frames_out: u64,
    frames_in: u64,
    refused_full: u64,
    last_error: Option<String>,
}

/// What this node asks of one peer in one class.
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) class: Class,
    state: Mutex<State>,
    /// The queue is no longer empty.
    pub(super) queued: Notify,
}

/// An answer that nobody has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("answer {0} to a question that was not asked")]
pub(super) struct Unasked(u64);

impl Link {
    pub(super) fn new(peer: NodeId, class: Class, address: String) -> Self {
        let state = State {
            address,
            connected: false,
            since: clock::now(),
            version: 0,
            connects: 0,
            last_id: 0,
            queue: VecDeque::new(),
            pending: HashMap::new(),
            pending_bytes: 0,
            casts: 0,
            cast_bytes: 0,
            bytes_out: 0,
            bytes_in: 0,
            frames_out: 0,
            frames_in: 0,
            refused_full: 0,
            last_error: None,
        };
        Self { peer, class, state: Mutex::new(state), queued: Notify::new() }
    }

    /// Queues a request; `tell` gets its result.
    pub(super) fn ask(
        &self,
        desk: Desk,
        body: Bytes,
        time_out: Duration,
        tell: reply::Sender,
    ) -> Result<(), LinkError> {
        let mut state = self.state.lock();
        let (count, taken) = (state.pending.len(), state.pending_bytes);
        state.admit(count, taken, body.len())?;
        state.last_id += 1;
        let (id, bytes) = (state.last_id, body.len());
        state.pending.insert(id, Pending { tell, bytes });
        state.pending_bytes += bytes;
        let time_out_ms = u32::try_from(time_out.as_millis()).unwrap_or(u32::MAX);
        self.push(state, Frame { kind: Kind::Request, desk: desk as u8, time_out_ms, id, body });
        Ok(())
    }

    /// Queues a cast.
    pub(super) fn cast(&self, desk: Desk, body: Bytes) -> Result<(), LinkError> {
        let mut state = self.state.lock();
        let (count, taken) = (state.casts, state.cast_bytes);
        state.admit(count, taken, body.len())?;
        state.casts += 1;
        state.cast_bytes += body.len();
        self.push(state, Frame { kind: Kind::Cast, desk: desk as u8, time_out_ms: 0, id: 0, body });
        Ok(())
    }

    fn push(&self, mut state: parking_lot::MutexGuard<'_, State>, frame: Frame) {
        let was_empty = state.queue.is_empty();
        state.queue.push_back(frame);
        drop(state);
        if was_empty {
            self.queued.notify_one();
        }
    }

    /// Moves frames to the writer until it has `bytes_max`; at least one if there is any.
    pub(super) fn take(&self, to: &mut Vec<Frame>, bytes_max: usize) {
        let mut state = self.state.lock();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(frame) = state.queue.pop_front()
        {
            bytes += HEAD_BYTES + frame.body.len();
            if frame.kind == Kind::Cast {
                state.casts -= 1;
                state.cast_bytes -= frame.body.len();
            }
            state.frames_out += 1;
            to.push(frame);
        }
        state.bytes_out += bytes as u64;
    }

    /// Hands an answer to who waits for it.
    ///
    /// # Errors
    /// If nobody has asked, or was answered before.
    pub(super) fn answered(
        &self,
        id: u64,
        result: Result<Bytes, LinkError>,
        bytes: usize,
    ) -> Result<(), Unasked> {
        let mut state = self.state.lock();
        state.frames_in += 1;
        state.bytes_in += bytes as u64;
        let pending = state.pending.remove(&id).ok_or(Unasked(id))?;
        state.pending_bytes -= pending.bytes;
        drop(state);
        let _ = pending.tell.send(result);
        Ok(())
    }

    /// Counts what came in beside answers.
    pub(super) fn heard(&self, bytes: usize) {
        self.state.lock().bytes_in += bytes as u64;
    }

    /// A connection stands: requests are taken from now on.
    pub(super) fn connected(&self, version: u16) {
        let mut state = self.state.lock();
        state.connected = true;
        state.since = clock::now();
        state.version = version;
        state.connects += 1;
    }

    /// The connection has ended, or could not be made. What was not written is unreachable, what was
    /// written is lost.
    pub(super) fn disconnected(&self, why: String) {
        let mut state = self.state.lock();
        if mem::take(&mut state.connected) {
            state.since = clock::now();
        }
        state.last_error = Some(why);
        let unsent = mem::take(&mut state.queue);
        let mut pending = mem::take(&mut state.pending);
        (state.pending_bytes, state.casts, state.cast_bytes) = (0, 0, 0);
        drop(state);
        for frame in unsent {
            if let Some(pending) = pending.remove(&frame.id) {
                let _ = pending.tell.send(Err(LinkError::Unreachable));
            }
        }
        for pending in pending.into_values() {
            let _ = pending.tell.send(Err(LinkError::Lost));
        }
    }

    pub(super) fn set_address(&self, address: &str) {
        address.clone_into(&mut self.state.lock().address);
    }

    pub(super) fn state(&self) -> LinkState {
        let state = self.state.lock();
        LinkState {
            peer: self.peer,
            address: state.address.clone(),
            class: self.class,
            connected: state.connected,
            since: clock::now().saturating_duration_since(state.since),
            version: state.version,
            connects: state.connects,
            bytes_out: state.bytes_out,
            bytes_in: state.bytes_in,
            frames_out: state.frames_out,
            frames_in: state.frames_in,
            in_flight: state.pending.len() as u64,
            in_flight_bytes: state.pending_bytes as u64,
            refused_full: state.refused_full,
            last_error: state.last_error.clone(),
        }
    }
}

impl State {
    fn admit(&mut self, count: usize, bytes: usize, more: usize) -> Result<(), LinkError> {
        if more > FRAME_BYTES_MAX {
            return Err(LinkError::TooLong);
        }
        if !self.connected {
            return Err(LinkError::Unreachable);
        }
        if count >= LINK_REQUESTS_MAX || bytes + more > LINK_BYTES_MAX {
            self.refused_full += 1;
            return Err(LinkError::Full);
        }
        Ok(())
    }
}
