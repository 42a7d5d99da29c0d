//! One connection as its worker sees it: socket, unsent output, unfinished deliveries, deadlines.
//!
//! - Owns: the socket; an outbox only while there is unsent output; window and aliases only while
//!   needed; the numbers of its router subscriptions.
//! - Takes: calls from the connection actor, the router, the flusher and the hub of its own thread.
//! - Gives: bytes to the socket; wakes and [`Signals`] to the connection's task.
//! - Bound: [`LinkLimits`]; signals are flags and never queue.
//!
//! | part | bytes |
//! |---|---|
//! | reference counts of the `Rc` | 16 |
//! | fields | 80 |
//! | TCP socket | 32 |
//! | slot in the worker's table | 24 |
//! | entry in the timing wheel | 8 |

mod deliver;
mod extra;
mod input;
mod output;
pub(in crate::actors) mod live;
mod filters;
mod signals;

use std::{
    cell::Cell,
    num::NonZeroU16,
    task::{Context, Poll, Waker},
};

use super::{
    outbox::Outbox,
    socket::Socket,
    worker::{LinkLimits, Worker},
};
use crate::{
    limits,
    model::{
        connection_id::ConnectionId, id::SessionKey, reason::Reason, trie::FilterId, wire::Dialect,
    },
};

pub use deliver::EncodedRun;
use extra::Extra;
pub use input::{Partial, Read};
pub use live::LiveAck;
pub(super) use output::delivery;
pub use output::{Sent, Terms};
pub use signals::Signals;

/// A link whose kind of socket is not known.
pub type AnyLink = Link<dyn Socket>;

/// No filter.
const NO_FILTER: u32 = u32::MAX;

/// Bits of `Link::flags`; the lowest two hold the dialect.
mod flag {
    pub(super) const DIALECT: u16 = 0b11;
    /// CONNECT was accepted: keep alive counts.
    pub(super) const CONNECTED: u16 = 1 << 2;
    /// The session is durable: QoS 1 and 2 come from its log.
    pub(super) const DURABLE: u16 = 1 << 3;
    /// In the worker's dirty list.
    pub(super) const DIRTY: u16 = 1 << 4;
    /// The socket takes no more; the connection's task waits for it.
    pub(super) const BLOCKED: u16 = 1 << 5;
    /// Nothing more is queued; what is queued is written, then the socket is closed.
    pub(super) const CLOSING: u16 = 1 << 6;
    /// FIN was sent.
    pub(super) const CLOSED: u16 = 1 << 7;
    /// The socket is broken, or must not be waited for.
    pub(super) const BROKEN: u16 = 1 << 8;
    /// Keep alive stands still, because we stopped reading.
    pub(super) const PAUSED: u16 = 1 << 9;
    pub(super) const KICKED: u16 = 1 << 10;
    pub(super) const LOG_GREW: u16 = 1 << 11;
    pub(super) const TIMED_OUT: u16 = 1 << 12;
    pub(super) const OVERFLOWED: u16 = 1 << 13;
    /// The connection wants to be woken when the outbox is empty.
    pub(super) const WANTS_ROOM: u16 = 1 << 14;
    /// The client takes topic aliases.
    pub(super) const ALIASES: u16 = 1 << 15;
    pub(super) const SIGNALS: u16 = KICKED | LOG_GREW | TIMED_OUT | OVERFLOWED;
}

/// What the connection learned from its CONNECT and its claim.
#[derive(Clone, Copy, Debug)]
pub struct ClientTerms {
    /// Encoding of everything from now on.
    pub dialect: Dialect,
    /// Whose connection it is, for no-local.
    pub session: SessionKey,
    /// QoS 1 and 2 come from the session's log, not from routers.
    pub durable: bool,
    /// Unfinished QoS 1 and 2 deliveries that the client takes.
    pub receive_maximum: NonZeroU16,
    /// Largest packet that the client takes.
    pub packet_bytes_max: u32,
    /// Highest alias that the client takes.
    pub topic_alias_maximum: u16,
    /// 0 = no check.
    pub keep_alive_secs: u16,
}

/// One connection. Used from its own thread only.
pub struct Link<S: ?Sized> {
    waker: Cell<Option<Waker>>,
    outbox: Cell<Option<Box<Outbox>>>,
    extra: Cell<Option<Box<Extra>>>,
    /// Subscriptions in this thread's router, but the first.
    #[expect(clippy::box_collection, reason = "one word while there are none")]
    more_filters: Cell<Option<Box<Vec<FilterId>>>>,
    session: Cell<[u64; 2]>,
    slot: u32,
    packet_bytes_max: Cell<u32>,
    /// Second of the last packet; of the opening before CONNECT; of the closing after it.
    received_at: Cell<u32>,
    first_filter: Cell<u32>,
    keep_alive_secs: Cell<u16>,
    receive_maximum: Cell<u16>,
    flags: Cell<u16>,
    /// Listener (six bits), ticket (two bits).
    ticket: Cell<u8>,
    kick_reason: Cell<Option<Reason>>,
    socket: S,
}

impl<S: Socket> Link<S> {
    /// Creates the link of a new socket; `now` is the worker's second.
    pub(super) fn new(slot: u32, listener: u8, now: u32, socket: S) -> Self {
        Self {
            waker: Cell::new(None),
            outbox: Cell::new(None),
            extra: Cell::new(None),
            more_filters: Cell::new(None),
            session: Cell::new([0; 2]),
            slot,
            packet_bytes_max: Cell::new(u32::MAX),
            received_at: Cell::new(now),
            first_filter: Cell::new(NO_FILTER),
            keep_alive_secs: Cell::new(0),
            receive_maximum: Cell::new(u16::MAX),
            flags: Cell::new(0),
            ticket: Cell::new(listener << 2),
            kick_reason: Cell::new(None),
            socket,
        }
    }
}

impl Link<dyn Socket> {
    /// Returns the place in the worker's table.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Returns the node's name for this connection.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        Worker::with(|worker| worker.id_of(self.slot))
            .unwrap_or_else(|| ConnectionId::new(0, 0, self.slot))
    }

    /// Returns the place of its listener in the worker's configuration.
    #[must_use]
    pub fn listener(&self) -> u8 {
        self.ticket.get() >> 2
    }

    /// Returns its limits.
    pub(super) fn limits<'a>(&self, worker: &'a Worker) -> &'a LinkLimits {
        worker.limits(self.listener())
    }

    /// Returns the socket.
    #[must_use]
    pub fn socket(&self) -> &dyn Socket {
        &self.socket
    }

    /// Applies what CONNECT said; keep alive counts from now on.
    pub fn connect(&self, terms: &ClientTerms) {
        self.set_dialect(terms.dialect);
        let key = terms.session.0.to_le_bytes();
        let (low, high) = key.split_at(8);
        let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        self.session.set([half(low), half(high)]);
        self.assign(flag::DURABLE, terms.durable);
        self.set(flag::CONNECTED);
        self.receive_maximum.set(terms.receive_maximum.get());
        // No length beyond it can be written, whatever the client takes.
        self.packet_bytes_max.set(terms.packet_bytes_max.min(limits::MQTT_PACKET_BYTES_MAX));
        self.keep_alive_secs.set(terms.keep_alive_secs);
        Worker::with(|worker| {
            let aliases = terms.topic_alias_maximum.min(self.limits(worker).topic_aliases_max);
            if aliases > 0 {
                self.set(flag::ALIASES);
                self.with_extra(|extra| extra.allow_aliases(aliases));
            }
            self.received_at.set(worker.now());
            worker.plan(self);
        });
    }

    /// Sets the encoding alone: for refusals before the session exists.
    pub fn set_dialect(&self, dialect: Dialect) {
        self.flags.set(self.flags.get() & !flag::DIALECT | dialect as u16);
    }

    /// Returns the encoding.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.flags.get() & flag::DIALECT {
            1 => Dialect::MqttV4,
            2 => Dialect::MqttV5,
            _ => Dialect::MqttUnknown,
        }
    }

    /// Returns whose connection it is; zero before [`connect`](Self::connect).
    #[must_use]
    pub fn session(&self) -> SessionKey {
        let [low, high] = self.session.get();
        SessionKey(u128::from(low) | u128::from(high) << 64)
    }

    /// Tells whether QoS 1 and 2 come from the session's log.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.has(flag::DURABLE)
    }

    /// Tells whether the client takes topic aliases.
    pub(super) fn has_aliases(&self) -> bool {
        self.has(flag::ALIASES)
    }

    /// Returns the largest packet that the client takes.
    #[must_use]
    pub fn packet_bytes_max(&self) -> u32 {
        self.packet_bytes_max.get()
    }

    /// Returns how many unfinished deliveries the client takes.
    #[must_use]
    pub fn receive_maximum(&self) -> NonZeroU16 {
        NonZeroU16::new(self.receive_maximum.get()).unwrap_or(NonZeroU16::MAX)
    }

    /// Notes that a whole packet came; keep alive starts again.
    pub fn packet_received(&self) {
        Worker::with(|worker| self.received_at.set(worker.now()));
    }

    /// Stops or resumes the keep alive clock: while we do not read, the client cannot be heard.
    pub fn pause_keep_alive(&self, paused: bool) {
        if self.has(flag::PAUSED) && !paused {
            self.packet_received();
        }
        self.assign(flag::PAUSED, paused);
    }

    /// Queues nothing more; what is queued is written, then the socket is closed. The context waits
    /// for that, at most `linger_secs`.
    pub fn close(&self) {
        if self.has(flag::CLOSING) {
            return;
        }
        self.set(flag::CLOSING);
        self.drop_deliveries();
        Worker::with(|worker| {
            self.received_at.set(worker.now());
            worker.plan(self);
            self.mark_dirty(worker);
        });
    }

    /// Throws unsent output away and waits for nothing.
    pub fn abort(&self) {
        self.set(flag::CLOSING | flag::BROKEN);
        self.drop_deliveries();
        if let Some(outbox) = self.outbox.take() {
            Worker::with(|worker| worker.recycle(outbox));
        }
    }

    /// Tells whether the link ends: nothing is queued any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.has(flag::CLOSING)
    }

    /// Tells whether the socket broke while writing.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.has(flag::BROKEN)
    }

    /// Waits until a closed link has written everything and its peer has closed too; bounded by the
    /// wheel. Called by the context.
    pub(super) fn poll_linger(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.remember_waker(cx);
        self.poll_output(cx);
        if self.has(flag::BROKEN | flag::TIMED_OUT) {
            return Poll::Ready(());
        }
        if !self.has(flag::CLOSED) {
            return Poll::Pending;
        }
        self.poll_drain(cx)
    }

    /// Remembers which task to wake.
    pub(super) fn remember_waker(&self, cx: &Context<'_>) {
        let waker = match self.waker.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.waker.set(Some(waker));
    }

    /// Lets go of the task and of everybody who waits; the end of the connection.
    pub(super) fn end(&self) {
        self.abort();
        self.extra.take();
        self.waker.take();
    }

    /// Returns the second in which this link must be looked at.
    pub(super) fn deadline(&self, now: u32, limits: &LinkLimits) -> Option<u32> {
        let from = self.received_at.get();
        if self.has(flag::CLOSING) {
            return Some(from + u32::from(limits.linger_secs));
        }
        if !self.has(flag::CONNECTED) {
            return Some(from + u32::from(limits.connect_secs));
        }
        // One second more, because both ends of the interval are rounded down.
        let keep_alive = u32::from(self.keep_alive_secs.get());
        let wait = (keep_alive + keep_alive.div_ceil(2)) + 1;
        (keep_alive > 0).then(|| if self.has(flag::PAUSED) { now } else { from } + wait)
    }

    /// Returns the number of the wheel entry that counts.
    pub(super) fn ticket(&self) -> u8 {
        self.ticket.get() & 0b11
    }

    /// Makes older wheel entries stale.
    pub(super) fn next_ticket(&self) -> u8 {
        self.ticket.set(self.listener() << 2 | self.ticket().wrapping_add(1) & 0b11);
        self.ticket()
    }

    fn has(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    fn set(&self, flag: u16) {
        self.flags.set(self.flags.get() | flag);
    }

    fn clear(&self, flag: u16) {
        self.flags.set(self.flags.get() & !flag);
    }

    fn assign(&self, flag: u16, on: bool) {
        if on { self.set(flag) } else { self.clear(flag) }
    }

    /// Runs `f` on the rarely needed part, making it if need be.
    fn with_extra<T>(&self, f: impl FnOnce(&mut Extra) -> T) -> T {
        let mut extra = self.extra.take().unwrap_or_default();
        let out = f(&mut extra);
        self.extra.set(Some(extra).filter(|extra| !extra.is_idle()));
        out
    }
}

impl std::fmt::Debug for AnyLink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Link({})", self.slot)
    }
}

const _: () = assert!(size_of::<Link<()>>() <= 80 && limits::LISTENERS_MAX <= 64);

#[cfg(test)]
mod tests;
