//! What others on the thread tell a connection: flags and a wake, never a queue.
//!
//! - Owns: the flags. Takes: calls of the hub, the wheel and the router. Gives: [`Signals`].
//! - Bound: flags; telling twice is telling once.

use tokio::sync::oneshot;

use super::{Link, flag};
use crate::{actors::socket::Socket, model::reason::Reason};

/// What happened to a connection outside its own task; see [`Link::take_signals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// End the connection and say why.
    pub kicked: Option<Reason>,
    /// The log of its durable session grew. Without such a session: what its shard held of it, a will, was released.
    pub log_grew: bool,
    /// No CONNECT in time, or no packet within one and a half keep alive intervals.
    pub timed_out: bool,
    /// A session without storage did not acknowledge; it is over its limit ("quota exceeded").
    pub overflowed: bool,
}

impl Link<dyn Socket> {
    /// Ends the connection and tells it why; the first reason counts. Called by the hub.
    pub fn kick(&self, reason: Reason) {
        if self.kick_reason.get().is_none() {
            self.kick_reason.set(Some(reason));
        }
        self.signal(flag::KICKED);
    }

    /// Tells the connection that its session's log grew. Called by the hub.
    pub fn log_grew(&self) {
        self.signal(flag::LOG_GREW);
    }

    /// Returns a receiver that completes (with or without a value) once the connection has released
    /// its session. Called by the hub.
    pub fn watch_release(&self) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        self.with_extra(|extra| extra.watchers.push(tx));
        rx
    }

    /// Says that the session is released. Called by the connection; its end says it too.
    pub fn released(&self) {
        let watchers = self.with_extra(|extra| std::mem::take(&mut extra.watchers));
        for watcher in watchers {
            let _ = watcher.send(());
        }
    }

    /// Takes what happened since the last call.
    pub fn take_signals(&self) -> Signals {
        if !self.has(flag::SIGNALS) {
            return Signals::default();
        }
        let signals = Signals {
            kicked: self.kick_reason.get().filter(|_| self.has(flag::KICKED)),
            log_grew: self.has(flag::LOG_GREW),
            timed_out: self.has(flag::TIMED_OUT),
            overflowed: self.has(flag::OVERFLOWED),
        };
        self.clear(flag::SIGNALS);
        signals
    }

    /// The deadline has come. Called by the wheel.
    pub(in crate::actors) fn time_out(&self) {
        self.signal(flag::TIMED_OUT);
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    pub(super) fn signal(&self, flag: u16) {
        self.set(flag);
        self.wake();
    }
}
