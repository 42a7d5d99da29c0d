//! One client connection: turns packets into questions to the node, and answers into packets.
//!
//! - Owns: the session of its client as far as it lives here: acks that are owed, the will of a session
//!   without storage, the reader of a durable one.
//! - Takes: bytes and signals from its link; replies of its neighbours (`work.rs`). Blocks: never.
//! - Gives: packets to its link; publishes, claims and shard commands through [`backend::Backend`].
//! - Bound: unfinished publishes by receive maximum and bytes, one SUBSCRIBE or UNSUBSCRIBE at a time;
//!   beyond that, and while the routers have not taken the last batch, reading stops and keep alive
//!   pauses; after `limits::STALL_WAIT` without a step on the client is told 0x97.
//! - Source: MQTT 5.0 chapters 3 and 4. What is decided is decided in `model::session`.
//!
//! ```text
//! New ─CONNECT─► Connecting ─(authenticated, claimed, installed)─► Open ─► Ending ─(released)─► stop
//! ```
//!
//! | part | bytes |
//! |---|---|
//! | fields of the actor | 112 |
//! | client id on the heap | its length |
//! | intake, reader, futures, rarely needed things | 8 each while there are none |

pub mod backend;
pub mod node;
pub mod options;
mod work;
mod connect;
mod publish;
mod ack;
mod subscribe;
mod block;
mod end;

use std::{rc::Rc, sync::Arc, task::Context};

use actix::Actor;
use bytes::{Buf as _, Bytes};

use super::{
    context::{ConnectionContext, LeanActor},
    durable_reader::{Desk, DurableReader, Trouble},
    link::{AnyLink, Partial, Read},
    publish::Part,
    socket::Socket,
    worker::Worker,
};
use crate::{
    limits,
    model::{
        id::{AppId, Epoch, SessionKey},
        reason::Reason,
        session::{admission::Ending, intake::Intake},
        topic::TopicFilter,
        wire::{Decoded, Dialect, Inbound, Outbound},
    },
};

use backend::{SharedBackend, Subscriber};
use options::{ListenerOptions, Place};
use publish::Batch;
pub(super) use work::{Event, Timer, Works};

/// Begins to serve a socket on the current worker; drops it if the listener or the worker is full.
pub fn start<S: Socket>(socket: S, listener: &Arc<ListenerOptions>) {
    let Some(place) = listener.take_place() else {
        tracing::debug!(listener = %listener.name, "connection limit reached, socket closed");
        Worker::with(|worker| worker.counters().connections_refused.add(1));
        return;
    };
    let Some(backend) = backend::backend() else { return };
    Worker::with(|worker| {
        let link = worker.open(socket, listener.index);
        ConnectionContext::start(Connection::new(link, place, backend));
    });
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// CONNECT has not come.
    New,
    /// CONNECT is being answered; nothing is decoded.
    Connecting,
    /// CONNACK was sent.
    Open,
    /// Nothing is read any more; the session is being released.
    Ending,
    /// The session is released.
    Ended,
}

/// Facts of one bit.
mod flag {
    /// CONNECT asked for a session expiry other than 0.
    pub(super) const EXPIRY_ASKED: u8 = 1 << 1;
    /// A claim is under way or was granted: the home has to be told of the end.
    pub(super) const CLAIMED: u8 = 1 << 2;
    /// The reply to the claim has not come.
    pub(super) const CLAIMING: u8 = 1 << 3;
    /// SUBSCRIBE or UNSUBSCRIBE is under way: nothing is decoded.
    pub(super) const CONTROL: u8 = 1 << 4;
    /// Decoding stands still, and keep alive with it.
    pub(super) const HELD: u8 = 1 << 5;
    /// The wheel will wake the connection to look whether publishes stand still.
    pub(super) const LOOKING: u8 = 1 << 6;
    /// The release is under way.
    pub(super) const RELEASING: u8 = 1 << 7;
}

/// What few connections need at a time.
#[derive(Debug, Default)]
struct Rare {
    /// Bytes that wait until decoding goes on.
    input: Bytes,
    connecting: Option<Box<connect::Connecting>>,
    /// Under which epoch the shard holds its will, without a durable session.
    will: Option<Epoch>,
    /// Shared subscriptions.
    shared: Vec<(Bytes, TopicFilter)>,
    /// How the connection ended.
    ending: Ending,
}

/// See the file header.
pub struct Connection {
    link: Rc<AnyLink>,
    backend: SharedBackend,
    listener: Place,
    client_id: Box<str>,
    partial: Partial,
    intake: Option<Box<Intake>>,
    durable: Option<Box<DurableReader>>,
    works: Works,
    /// Completes when the routers have the last batch; nothing is published before. Not among
    /// `works`, because each publish of a quiet client would make and drop them.
    taken: Option<Part>,
    rare: Option<Box<Rare>>,
    app: AppId,
    phase: Phase,
    flags: u8,
    /// Second (its low byte) since which publishes stand still, while decoding does.
    blocked_at: u8,
    /// Second in which the wheel wakes the connection, while `LOOKING`.
    look_at: u8,
}

const _: () = {
    assert!(size_of::<Connection>() <= 112);
    assert!(size_of::<ConnectionContext<Connection>>() <= 32);
    assert!(size_of::<Intake>() <= 96 && size_of::<Rare>() <= 192);
    assert!(size_of::<DurableReader>() <= 384);
};

/// Why decoding stopped.
type Stop = (Reason, &'static str);

impl Connection {
    fn new(link: Rc<AnyLink>, listener: Place, backend: SharedBackend) -> Self {
        Self {
            link,
            backend,
            listener,
            client_id: Box::default(),
            partial: Partial::default(),
            intake: None,
            durable: None,
            works: Works::default(),
            taken: None,
            rare: None,
            app: AppId(0),
            phase: Phase::New,
            flags: 0,
            blocked_at: 0,
            look_at: 0,
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn assign(&mut self, flag: u8, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn session(&self) -> SessionKey {
        self.link.session()
    }

    fn epoch(&self) -> Epoch {
        self.durable.as_ref().map_or(Epoch::default(), |durable| durable.epoch())
    }

    /// Under which epoch the shard holds the will of a connection without a durable session.
    fn held_will(&self) -> Option<Epoch> {
        self.rare.as_ref().and_then(|rare| rare.will)
    }

    fn is_v5(&self) -> bool {
        self.link.dialect() == Dialect::MqttV5
    }

    fn subscriber(&self) -> Subscriber {
        Subscriber {
            connection: self.link.id(),
            app: self.app,
            session: self.session(),
            epoch: self.epoch(),
        }
    }

    /// Lets the reader of a durable session work.
    fn with_durable<T>(
        &mut self,
        f: impl FnOnce(&mut DurableReader, &mut Desk<'_>) -> Result<T, Trouble>,
    ) -> Option<T> {
        let durable = self.durable.as_mut()?;
        let mut desk = Desk { link: &self.link, backend: &*self.backend, works: &mut self.works };
        match f(durable, &mut desk) {
            Ok(value) => Some(value),
            Err(trouble) => {
                self.end(Some(trouble.stop()), Ending::default());
                None
            }
        }
    }

    fn on_signals(&mut self) {
        let signals = self.link.take_signals();
        if signals.kicked.is_some() && self.phase == Phase::Connecting {
            // It has no CONNACK yet, so it gets one; a DISCONNECT cannot come first.
            self.refuse((Reason::ServerBusy, "the client id was claimed again meanwhile"));
        } else if let Some(reason) = signals.kicked {
            self.end(Some((reason, "ended by the server")), Ending::default());
        } else if signals.timed_out && self.phase < Phase::Open {
            self.end(None, Ending::default());
        } else if signals.timed_out {
            self.end(Some((Reason::KeepAliveTimeout, "keep alive")), Ending::default());
        } else if signals.overflowed {
            let stop = (Reason::QuotaExceeded, "too many unacknowledged deliveries");
            self.end(Some(stop), Ending::default());
        } else if self.link.is_broken() {
            self.end(None, Ending::default());
        } else if signals.log_grew {
            if let Some(durable) = &mut self.durable {
                durable.log_grew();
            } else if self.held_will().is_some() {
                let stop = (Reason::ServerBusy, "its node was taken for dead");
                self.end(Some(stop), Ending::default());
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Authenticated(principal) => self.on_principal(principal),
            Event::Claimed(claimed) => self.on_claimed(claimed),
            Event::Released => self.phase = Phase::Ended,
            Event::Begun(number, reply) => self.on_begun(number, &reply),
            Event::Controlled(late) if self.phase >= Phase::Ending => self.on_late(*late),
            Event::Published(_, Err(_)) if self.phase >= Phase::Ending => self.works.cut_line(),
            _ if self.phase >= Phase::Ending => {}
            Event::Installed => self.accept(),
            Event::Published(ticket, outcome) => self.settle(ticket, outcome),
            Event::Ended(ticket, reply) => self.on_in_ended(ticket, &reply),
            Event::Refused(ticket, reason, reply) => self.on_refused(ticket, reason, &reply),
            Event::Controlled(controlled) => self.on_controlled(*controlled),
            Event::Page(_)
            | Event::OutBegun(_)
            | Event::OutReceived(..)
            | Event::OutEnded(..)
            | Event::Reported(_)
            | Event::Timer(Timer::Report | Timer::Retry) => {
                self.with_durable(|durable, desk| durable.on_event(event, desk));
            }
        }
    }

    /// Handles all that has finished.
    fn poll_works(&mut self, cx: &mut Context<'_>) {
        loop {
            while let Some(event) = self.works.poll_event(cx) {
                self.on_event(event);
            }
            let Some(taken) = &mut self.taken else { return };
            if taken.as_mut().poll(cx).is_pending() {
                return;
            }
            self.taken = None;
            self.publish_begun();
        }
    }

    /// Tells whether the next packet may be decoded now.
    fn may_decode(&self) -> bool {
        match self.phase {
            Phase::New => true,
            Phase::Open => !self.has(flag::CONTROL) && self.taken.is_none() && !self.is_stalled(),
            Phase::Connecting | Phase::Ending | Phase::Ended => false,
        }
    }

    /// Reads and decodes; `true` if something was done and there may be more.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.may_decode() {
            return false;
        }
        if self.has(flag::HELD) {
            self.unhold();
            return true;
        }
        if self.link.poll_room().is_pending() {
            return false;
        }
        match self.link.poll_read(&mut self.partial, cx) {
            Ok(Read::Bytes(bytes)) => self.decode(bytes),
            Ok(Read::Blocked) => return false,
            Ok(Read::End) => self.end(None, Ending::default()),
            Err(error) => {
                tracing::debug!(connection = ?self.link.id(), %error, "socket broke");
                self.end(None, Ending::default());
            }
        }
        true
    }

    /// Keeps bytes until decoding may go on; the client cannot be heard meanwhile.
    fn hold(&mut self, rest: Bytes) {
        self.assign(flag::HELD, true);
        self.link.pause_keep_alive(true);
        if !rest.is_empty() {
            self.rare().input = rest;
        }
        if self.is_blocked() {
            self.note_block();
        }
    }

    fn unhold(&mut self) {
        self.assign(flag::HELD, false);
        self.link.pause_keep_alive(false);
        let Some(rare) = &mut self.rare else { return };
        let input = std::mem::take(&mut rare.input);
        if !input.is_empty() {
            self.decode(input);
        }
        self.drop_rare();
    }

    /// Frees what is not needed any more.
    fn drop_rare(&mut self) {
        let idle = |rare: &Rare| {
            rare.input.is_empty()
                && rare.connecting.is_none()
                && rare.will.is_none()
                && rare.shared.is_empty()
        };
        if self.phase == Phase::Open
            && !self.has(flag::HELD)
            && self.rare.as_deref().is_some_and(idle)
        {
            self.rare = None;
        }
    }

    /// Handles all whole packets of `bytes`; publishes go out together.
    fn decode(&mut self, mut bytes: Bytes) {
        let mut batch = Batch::default();
        let before = bytes.len();
        let stopped = self.decode_all(&mut bytes, &mut batch);
        if bytes.len() < before {
            self.link.packet_received();
        }
        self.publish_batch(&mut batch);
        self.count_publishes(&batch);
        match stopped {
            Err(stop) if self.phase == Phase::New => self.refuse(stop),
            Err(stop) => self.end(Some(stop), Ending::default()),
            Ok(missing) if self.may_decode() => self.partial.keep(bytes, missing),
            Ok(_) if self.phase < Phase::Ending => self.hold(bytes),
            Ok(_) => {}
        }
    }

    /// Decodes until nothing whole is left or decoding must wait; returns how many bytes are missing.
    fn decode_all(&mut self, bytes: &mut Bytes, batch: &mut Batch) -> Result<usize, Stop> {
        let mut dialect = self.link.dialect();
        let Some(mut front) = Worker::with(|worker| worker.front(dialect)) else { return Ok(0) };
        while !bytes.is_empty() && self.may_decode() {
            match front.decode(bytes, &self.listener.decode) {
                Ok(Decoded::Packet { inbound, consumed }) => {
                    // A client finds what it published before: its own retained messages at SUBSCRIBE.
                    let joins_batch = matches!(inbound, Inbound::Publish(_) | Inbound::Ack(_));
                    if !joins_batch && !batch.is_empty() {
                        self.publish_batch(batch);
                        continue;
                    }
                    bytes.advance(consumed);
                    self.on_inbound(inbound, batch)?;
                    if dialect != self.link.dialect() {
                        dialect = self.link.dialect();
                        front = Worker::with(|worker| worker.front(dialect)).unwrap_or(front);
                    }
                }
                Ok(Decoded::Partial { missing_bytes_min }) => return Ok(missing_bytes_min),
                Err(error) => {
                    if self.phase == Phase::New {
                        self.link.set_dialect(error.dialect);
                    }
                    return Err((error.reason, error.detail));
                }
            }
        }
        Ok(0)
    }

    fn on_inbound(&mut self, inbound: Inbound, batch: &mut Batch) -> Result<(), Stop> {
        match inbound {
            Inbound::Publish(publish) => return self.on_publish(publish, batch),
            Inbound::Ack(ack) => return self.on_ack(ack),
            _ => self.publish_batch(batch),
        }
        match inbound {
            Inbound::Connect(connect) => self.on_connect(connect),
            Inbound::Subscribe(subscribe) => self.on_subscribe(*subscribe)?,
            Inbound::Unsubscribe(unsubscribe) => self.on_unsubscribe(*unsubscribe),
            Inbound::Ping => drop(self.link.send(&Outbound::Pong)),
            Inbound::Disconnect(disconnect) => self.on_disconnect(&disconnect)?,
            // There is no exchange to go on with: CONNECT with a method was refused.
            Inbound::Auth(_) => {
                return Err((Reason::ProtocolError, "AUTH without a method in CONNECT"));
            }
            Inbound::Publish(_) | Inbound::Ack(_) => {}
        }
        Ok(())
    }
}

impl LeanActor for Connection {
    fn link(&self) -> &Rc<AnyLink> {
        &self.link
    }

    fn poll_socket(&mut self, ctx: &mut Self::Context, cx: &mut Context<'_>) {
        if self.phase < Phase::Ending {
            self.on_signals();
        }
        if self.has(flag::LOOKING) {
            self.look_at_block();
        }
        for turn in 0.. {
            if turn == limits::CONNECTION_TURNS_PER_POLL {
                cx.waker().wake_by_ref();
                break;
            }
            self.poll_works(cx);
            if self.phase == Phase::Open {
                self.with_durable(DurableReader::drive);
            }
            let more = self.poll_input(cx);
            // What was pushed since has not been polled and would never wake us.
            if !more && !self.works.is_fresh() {
                break;
            }
        }
        // What was acknowledged is with the routers before the actor goes.
        if self.phase == Phase::Ended && self.taken.is_none() {
            actix::ActorContext::stop(ctx);
        }
    }
}

impl Actor for Connection {
    type Context = ConnectionContext<Self>;

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.abandon();
    }
}

#[cfg(test)]
mod tests;
