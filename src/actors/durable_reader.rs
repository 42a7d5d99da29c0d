//! Reads a durable session's log for its connection: pages in, deliveries out, acks back to the shard.
//!
//! - Owns: the pure [`Reader`], a page whose packet ids are being written; keeps the client's own QoS 2
//!   publishes whose packet ids are being written (`beginnings`).
//! - Takes: news that the log grew, acks, replies of the shard. Gives: deliveries to the link, commands.
//! - Bound: one page of `limits::PAGE_*` at a time, never more than the client's window and only while
//!   the outbox has room; one report under way; publishes by the receive maximum.
//! - Source: ARCHITECTURE.md "Durable messages": in flight, FLUSH-THEN-ACK, FENCED.
//!
//! ```text
//! drive ─► want ─► page ─► plan ─[QoS 2: commit OutPublish]─► perform ─► link
//! PUBACK, PUBCOMP ─► cursor ─(64 acks or 50 ms)─► Acknowledge        PUBREC ─ commit ─► PUBREL
//! ```

use std::{
    num::{NonZeroU16, NonZeroU32},
    rc::Rc,
};

use futures_util::future::join_all;
use smallvec::SmallVec;

use super::{
    appender::SubmitError,
    beginnings::Beginnings,
    connection::{
        Event, Timer, Works,
        backend::{Backend, PageError},
    },
    link::{AnyLink, Sent, Terms},
    release_order::ReleaseOrder,
};
use crate::{
    clock, limits,
    model::{
        id::{Epoch, Position, SessionKey},
        message::Qos,
        reader::{Acked, Flight, Plan, Reader, Step},
        reason::Reason,
        wire::{Ack, AckKind, Outbound},
    },
    shard::command::{Claimed, Command, InflightOut, OutState, Page, Queued, Reply},
};

/// Why a durable session cannot go on at this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::actors) enum Trouble {
    /// Another connection owns it.
    #[error("session taken over")]
    Fenced,
    /// Too many durable writes wait, or the disk takes none.
    #[error("durable writes are refused")]
    Full,
    /// The shard has no leader.
    #[error("shard is not available")]
    Unavailable,
    /// Nobody knows whether it was written.
    #[error("outcome of a write is unknown")]
    Failed,
    /// The client broke the protocol.
    #[error("acknowledgement of the wrong kind")]
    Violation,
}

impl Trouble {
    /// What the client is told.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Fenced => Reason::SessionTakenOver,
            Self::Full => Reason::QuotaExceeded,
            Self::Unavailable => Reason::ServerBusy,
            Self::Failed => Reason::UnspecifiedError,
            Self::Violation => Reason::ProtocolError,
        }
    }

    /// What the client is told when the connection ends for it.
    pub(super) fn stop(self) -> (Reason, &'static str) {
        let text = match self {
            Self::Fenced => "session taken over",
            Self::Full => "durable writes are refused now",
            Self::Unavailable => "the session's shard is not available",
            Self::Failed => "outcome of a durable write is unknown",
            Self::Violation => "acknowledgement of the wrong kind",
        };
        (self.reason(), text)
    }
}

impl From<SubmitError> for Trouble {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Unavailable => Self::Unavailable,
            SubmitError::Unknown => Self::Failed,
            _ => Self::Full,
        }
    }
}

/// What the reader works with.
pub(super) struct Desk<'a> {
    pub(super) link: &'a Rc<AnyLink>,
    pub(super) backend: &'a dyn Backend,
    pub(super) works: &'a mut Works,
}

/// A page that waits for its packet ids.
#[derive(Debug)]
struct Prepared {
    messages: Vec<Queued>,
    plan: Plan,
}

/// See the file header.
#[derive(Debug)]
pub(super) struct DurableReader {
    session: SessionKey,
    epoch: Epoch,
    reader: Reader,
    prepared: Option<Prepared>,
    /// QoS 2 in, once there is something.
    beginnings: Option<Box<Beginnings>>,
    /// PUBRECs being written; most sessions never have one.
    releases: Option<Box<ReleaseOrder>>,
    /// Acks since the last report.
    acks: u32,
    /// How many there were before.
    claims: u8,
    /// A report or the timer before it is under way.
    reporting: bool,
    report_timer: bool,
    /// The shard could not be asked; the next try is timed.
    resting: bool,
}

impl DurableReader {
    /// Takes over a claimed session.
    pub(super) fn new(session: SessionKey, window: NonZeroU16, claimed: &Claimed) -> Self {
        let flight = |out: &InflightOut| {
            let released = out.state == OutState::Received;
            let packet_id = NonZeroU16::new(out.packet_id)?;
            Some(Flight::unfinished(packet_id, out.position, out.qos, released))
        };
        let unfinished = claimed.inflight.iter().filter_map(flight).collect();
        Self {
            session,
            epoch: claimed.epoch,
            claims: claimed.claims,
            reader: Reader::new(window, claimed.cursor, unfinished).with_beyond(&claimed.beyond),
            prepared: None,
            beginnings: (!claimed.incoming.is_empty())
                .then(|| Box::new(Beginnings::resume(claimed.claims, &claimed.incoming))),
            releases: None,
            acks: 0,
            reporting: false,
            report_timer: false,
            resting: false,
        }
    }

    /// Which session.
    pub(super) fn session(&self) -> SessionKey {
        self.session
    }

    /// Which claim of it.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Notes that new messages wait.
    pub(super) fn log_grew(&mut self) {
        self.reader.grew();
    }

    /// The client's own QoS 2 publishes.
    pub(super) fn beginnings(&mut self) -> &mut Beginnings {
        let claims = self.claims;
        self.beginnings.get_or_insert_with(|| Box::new(Beginnings::resume(claims, &[])))
    }

    /// Tells whether some of them wait for their packet ids.
    pub(super) fn is_beginning(&self) -> bool {
        self.beginnings.as_ref().is_some_and(|beginnings| !beginnings.is_empty())
    }

    /// Reads nothing more until [`DurableReader::go_on`]: a shared subscription ends, and what lies behind
    /// the position returned is going to other members.
    pub(super) fn hold(&mut self) -> Position {
        self.reader.hold()
    }

    /// Reads again.
    pub(super) fn go_on(&mut self) {
        self.reader.go_on();
    }

    /// Asks for what can go on now. Called after everything that may have changed it.
    pub(super) fn drive(&mut self, desk: &mut Desk<'_>) -> Result<(), Trouble> {
        if !self.resting && desk.link.poll_room().is_ready() {
            self.read_on(desk.backend, desk.works);
        }
        self.write_ends(desk.backend, desk.works);
        if self.acks >= limits::REPORT_ACKS && !self.reporting {
            self.report(desk.backend, desk.works);
        } else if self.acks > 0 && !self.reporting && !self.report_timer {
            self.report_timer = true;
            desk.works.push_timer(limits::REPORT_DELAY, Timer::Report);
        }
        Ok(())
    }

    fn read_on(&mut self, backend: &dyn Backend, works: &mut Works) {
        let Some(want) = self.reader.want() else { return };
        let messages = want.messages.min(limits::PAGE_MESSAGES_MAX);
        let page =
            backend.page(self.session, self.epoch, want.after, messages, limits::PAGE_BYTES_MAX);
        works.push(async move { Event::Page(page.await) });
    }

    /// Writes the ends of QoS 2 deliveries. Their ids rest until then.
    fn write_ends(&mut self, backend: &dyn Backend, works: &mut Works) {
        let ids = self.reader.take_completed();
        if ids.is_empty() {
            return;
        }
        let (key, epoch) = (self.session, self.epoch);
        let ends = ids
            .iter()
            .map(|&packet_id| backend.submit(key, Command::OutCompleted { key, epoch, packet_id }));
        let ends = join_all(ends.collect::<Vec<_>>());
        works.push(async move {
            let replies = ends.await;
            let bad = replies.into_iter().find(|reply| *reply != Ok(Reply::Done));
            Event::OutEnded(ids, bad.unwrap_or(Ok(Reply::Done)))
        });
    }

    fn report(&mut self, backend: &dyn Backend, works: &mut Works) {
        self.acks = 0;
        let Some(command) = self.report_command() else { return };
        self.reporting = true;
        let reply = backend.submit(self.session, command);
        works.push(async move { Event::Reported(reply.await) });
    }

    fn report_command(&mut self) -> Option<Command> {
        let (cursor, beyond) = self.reader.acknowledge()?;
        Some(Command::Acknowledge { key: self.session, epoch: self.epoch, cursor, beyond })
    }

    /// Takes a reply or a timer.
    pub(super) fn on_event(&mut self, event: Event, desk: &mut Desk<'_>) -> Result<(), Trouble> {
        match event {
            Event::Page(Ok(page)) => self.on_page(page, desk),
            Event::Page(Err(PageError::Fenced)) => Err(Trouble::Fenced),
            Event::Page(Err(PageError::Unavailable)) => {
                self.reader.failed();
                self.rest(desk.works);
                Ok(())
            }
            Event::OutBegun(reply) => self.on_out_begun(&reply, desk),
            Event::OutReceived(number, reply) => self.on_out_received(number, &reply, desk.link),
            Event::OutEnded(ids, reply) => {
                let ok = reply == Ok(Reply::Done);
                self.reader.ended(&ids, ok);
                if !ok { self.check(&reply, desk.works) } else { Ok(()) }
            }
            Event::Reported(reply) => {
                self.reporting = false;
                if reply != Ok(Reply::Done) {
                    self.reader.not_acknowledged();
                    self.acks = self.acks.max(1);
                }
                self.check(&reply, desk.works)
            }
            Event::Timer(Timer::Report) => {
                self.report_timer = false;
                if !self.reporting {
                    self.report(desk.backend, desk.works);
                }
                Ok(())
            }
            Event::Timer(Timer::Retry) => {
                self.resting = false;
                self.begin_out(desk.backend, desk.works);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells a lost session from a shard that cannot write now; the latter is asked again later.
    fn check(
        &mut self,
        reply: &Result<Reply, SubmitError>,
        works: &mut Works,
    ) -> Result<(), Trouble> {
        match reply {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Fenced) => Err(Trouble::Fenced),
            Ok(_) | Err(_) => {
                self.rest(works);
                Ok(())
            }
        }
    }

    fn rest(&mut self, works: &mut Works) {
        if !self.resting {
            self.resting = true;
            works.push_timer(limits::READER_RETRY, Timer::Retry);
        }
    }

    fn on_page(&mut self, page: Page, desk: &mut Desk<'_>) -> Result<(), Trouble> {
        if self.reader.is_outdated() {
            self.reader.failed();
            return Ok(());
        }
        let positions = page.messages.iter().map(|queued| (queued.position, queued.qos));
        let plan = self.reader.plan(positions, page.read_to, page.caught_up);
        // Pages without anything to acknowledge move the cursor too: the log may be trimmed.
        if self.reader.unfinished() == 0 {
            self.acks = self.acks.max(1);
        }
        let prepared = Prepared { messages: page.messages, plan };
        if prepared.plan.commit.is_empty() {
            self.perform(&prepared, desk.link);
            return Ok(());
        }
        self.prepared = Some(prepared);
        self.begin_out(desk.backend, desk.works);
        Ok(())
    }

    /// Writes the packet ids of the prepared page, if there is one; also again after a failure.
    fn begin_out(&mut self, backend: &dyn Backend, works: &mut Works) {
        let Some(prepared) = &self.prepared else { return };
        let ids = prepared.plan.commit.clone();
        let (key, epoch) = (self.session, self.epoch);
        let reply = backend.submit(key, Command::OutPublish { key, epoch, ids });
        works.push(async move { Event::OutBegun(reply.await) });
    }

    fn on_out_begun(
        &mut self,
        reply: &Result<Reply, SubmitError>,
        desk: &mut Desk<'_>,
    ) -> Result<(), Trouble> {
        if *reply != Ok(Reply::Done) {
            return self.check(reply, desk.works);
        }
        if let Some(prepared) = self.prepared.take() {
            self.reader.committed();
            self.perform(&prepared, desk.link);
        }
        Ok(())
    }

    /// Queues the steps of a page, in order.
    fn perform(&mut self, prepared: &Prepared, link: &Rc<AnyLink>) {
        let now_ms = clock::wall_ms();
        for step in &prepared.plan.steps {
            match *step {
                Step::Release { packet_id } => send_pubrel(link, packet_id, Reason::Success),
                Step::Publish { index, packet_id, dup } => {
                    let Some(queued) = prepared.messages.get(index) else { continue };
                    let sent = send(link, queued, packet_id, dup, now_ms);
                    if let (Sent::Dropped(_), Some(packet_id)) = (sent, packet_id) {
                        self.dropped(packet_id, dup, link);
                    }
                }
            }
        }
    }

    /// A delivery that the client cannot get: done, as far as the client lets us.
    fn dropped(&mut self, packet_id: NonZeroU16, dup: bool, link: &Rc<AnyLink>) {
        self.acks += 1;
        if self.reader.dropped(packet_id, dup) {
            send_pubrel(link, packet_id, Reason::Success);
        }
    }

    /// Takes PUBACK, PUBREC or PUBCOMP.
    pub(super) fn on_ack(&mut self, ack: &Ack, desk: &mut Desk<'_>) -> Result<(), Trouble> {
        match self.reader.acked(ack.kind, ack.packet_id, !ack.reason.is_refusal()) {
            Acked::Done => self.acks += 1,
            Acked::Repeat => send_pubrel(desk.link, ack.packet_id, Reason::Success),
            Acked::Commit => {
                let (key, epoch, packet_id) = (self.session, self.epoch, ack.packet_id.get());
                let reply =
                    desk.backend.submit(key, Command::OutReceived { key, epoch, packet_id });
                let number = self.releases.get_or_insert_default().begin(ack.packet_id);
                desk.works.push(async move { Event::OutReceived(number, reply.await) });
            }
            Acked::Unknown if ack.kind == AckKind::Pubrec => {
                send_pubrel(desk.link, ack.packet_id, Reason::PacketIdNotFound);
            }
            Acked::Waiting | Acked::Unknown => {}
            Acked::Violation => return Err(Trouble::Violation),
        }
        Ok(())
    }

    fn on_out_received(
        &mut self,
        number: u64,
        reply: &Result<Reply, SubmitError>,
        link: &Rc<AnyLink>,
    ) -> Result<(), Trouble> {
        match reply {
            Ok(Reply::Done) => {
                let releases = self.releases.get_or_insert_default();
                releases.written(number);
                while let Some(packet_id) = releases.next() {
                    if self.reader.received(packet_id) {
                        send_pubrel(link, packet_id, Reason::Success);
                    }
                }
                Ok(())
            }
            Ok(Reply::Fenced) => Err(Trouble::Fenced),
            // A live connection gets no second PUBREC, so the client has to come back.
            Ok(_) => Err(Trouble::Failed),
            Err(error) => Err(Trouble::from(*error)),
        }
    }

    /// What the shard has to know before the session is released.
    pub(super) fn last_commands(&mut self) -> Vec<Command> {
        let (key, epoch) = (self.session, self.epoch);
        let ends = self.reader.take_completed().into_iter();
        let mut commands: Vec<_> =
            ends.map(|packet_id| Command::OutCompleted { key, epoch, packet_id }).collect();
        commands.extend(self.report_command());
        commands
    }

    /// What the next connection has to resume and the shard does not know yet: ids of QoS 1. Those of
    /// QoS 2 were committed on the way.
    pub(super) fn leftovers(&self) -> Vec<InflightOut> {
        let firsts = self.reader.leftovers().filter(|flight| flight.qos == Qos::AtLeastOnce);
        let out = |flight: Flight| InflightOut {
            packet_id: flight.packet_id.get(),
            position: flight.position,
            qos: flight.qos,
            state: OutState::Published,
        };
        firsts.map(out).collect()
    }
}

fn send(
    link: &Rc<AnyLink>,
    queued: &Queued,
    packet_id: Option<NonZeroU16>,
    dup: bool,
    now_ms: u64,
) -> Sent {
    let ids: SmallVec<[NonZeroU32; 4]> =
        queued.subscription_ids.iter().filter_map(|id| NonZeroU32::new(*id)).collect();
    let qos = if packet_id.is_some() { queued.qos } else { Qos::AtMostOnce };
    let terms = Terms { qos, dup, retain: queued.retain, subscription_ids: &ids };
    link.send_message(&queued.message, &terms, packet_id, now_ms)
}

fn send_pubrel(link: &Rc<AnyLink>, packet_id: NonZeroU16, reason: Reason) {
    let ack = Ack { kind: AckKind::Pubrel, packet_id, reason };
    link.send(&Outbound::Ack { ack, reason_string: None });
}
