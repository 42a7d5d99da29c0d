//! How a connection ends: what the client is told, its will, the release of its session.
//!
//! - Owns: nothing. Takes: DISCONNECT, errors, kicks, the end of the socket.
//! - Gives: DISCONNECT (v5), `Release` to the home, with which the will is dropped or becomes due.
//! - Bound: one release per claim; after it nothing is sent for the session (FENCED).
//! - Source: MQTT 5.0 sections 3.14, 4.13, 3.1.2.5; own design of takeover.

use crate::{
    actors::{home::Release, worker::Worker},
    model::{
        reason::Reason,
        session::admission::{self, Ending},
        wire::{Disconnect, Outbound},
    },
};

use super::{Connection, Event, Phase, Stop, flag};

impl Connection {
    /// The client says goodbye.
    pub(super) fn on_disconnect(&mut self, disconnect: &Disconnect) -> Result<(), Stop> {
        let asked = disconnect.session_expiry_secs;
        let expiry_asked = self.has(flag::EXPIRY_ASKED);
        let ending =
            admission::ending(disconnect.reason, asked, expiry_asked, &self.listener.offer);
        let ending =
            ending.map_err(|reason| (reason, "session expiry was 0 and cannot be raised"))?;
        self.end(None, ending);
        Ok(())
    }

    /// Ends the connection. `stop` is what a v5 client is told, once CONNACK was sent.
    pub(super) fn end(&mut self, stop: Option<Stop>, mut ending: Ending) {
        if self.phase >= Phase::Ending {
            return;
        }
        // Until CONNACK there is nothing that a will could speak for.
        ending.will_dropped |= self.phase < Phase::Open;
        if let Some((reason, detail)) = stop {
            tracing::debug!(client = %self.client_id, ?reason, detail, "connection ended");
            if self.phase == Phase::Open {
                let reason_string = Some(detail);
                let leaves = reason == Reason::UseAnotherServer;
                let elsewhere = |worker: &std::rc::Rc<Worker>| worker.elsewhere(self.link.slot());
                let server_reference = leaves.then(|| Worker::with(elsewhere)).flatten().flatten();
                self.link.send(&Outbound::Disconnect { reason, reason_string, server_reference });
            }
        }
        self.phase = Phase::Ending;
        self.link.close();
        Worker::with(|worker| worker.forget_subscriptions(&self.link));
        self.rare().ending = ending;
        self.leave_groups();
        if self.has(flag::CLAIMING) {
            // The session may become ours any moment; it is released then.
            return;
        }
        self.release_if_begun();
    }

    /// Releases once every QoS 2 publish whose packet id may be written has gone out: a known packet
    /// id must mean that live receivers have the message (ONCE).
    pub(super) fn release_if_begun(&mut self) {
        let begins = self.durable.as_ref().is_some_and(|durable| durable.is_beginning());
        // What was subscribed meanwhile has to be left again.
        let waits = begins || self.has(flag::CONTROL);
        if self.phase == Phase::Ending && !self.has(flag::CLAIMING) && !waits {
            self.release();
        }
    }

    fn leave_groups(&mut self) {
        let shared = std::mem::take(&mut self.rare().shared);
        if !shared.is_empty() {
            self.backend.leave(self.subscriber(), shared);
        }
    }

    /// Gives the session back to its home, after the last commands for it.
    pub(super) fn release(&mut self) {
        if !self.has(flag::CLAIMED) {
            // Not while the release is under way.
            if !self.has(flag::RELEASING) {
                self.phase = Phase::Ended;
            }
            return;
        }
        self.assign(flag::CLAIMED, false);
        self.assign(flag::RELEASING, true);
        let last = self.last_commands();
        let (backend, release) = (self.backend.clone(), self.release_message());
        self.works.push(async move {
            // The home's appender is another than ours: what we wrote must be in before it releases.
            for reply in last {
                let _ = reply.await;
            }
            backend.release(release).await;
            Event::Released
        });
    }

    fn last_commands(&mut self) -> Vec<super::backend::Later<super::work::Submitted>> {
        let Some(durable) = &mut self.durable else { return Vec::new() };
        let commands = durable.last_commands();
        let key = durable.session();
        commands.into_iter().map(|command| self.backend.submit(key, command)).collect()
    }

    fn release_message(&mut self) -> Release {
        let ending = self.rare().ending;
        Release {
            key: self.session(),
            connection: self.link.id(),
            epoch: self.held_will().unwrap_or_else(|| self.epoch()),
            expiry_secs: ending.expiry_secs,
            will_dropped: ending.will_dropped,
            inflight: self.durable.as_ref().map_or_else(Vec::new, |durable| durable.leftovers()),
        }
    }

    /// The actor stops without having ended: a panic, or the end of its thread.
    pub(super) fn abandon(&mut self) {
        if !self.has(flag::CLAIMED) {
            return;
        }
        self.assign(flag::CLAIMED, false);
        self.leave_groups();
        let release = self.release_message();
        actix::spawn(self.backend.release(release));
    }
}
