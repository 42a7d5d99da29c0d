//! PUBLISH and PUBREL of the client: checks, batches, and what the client gets for them.
//!
//! - Owns: nothing; the connection's [`Intake`] keeps what is owed, while something is.
//! - Takes: packets, outcomes of publishes, replies of the session's shard.
//! - Gives: batches to the backend; PUBACK, PUBREC, PUBCOMP in the order of receipt.
//! - Bound: a batch of `limits::PUBLISH_BATCH_MAX`; receive maximum (3.1.1: `limits::V4_UNFINISHED_MAX`).
//! - Source: MQTT 5.0 sections 3.3.4, 4.3, 4.6, 4.9; design of QoS 2 in (ONCE, FLUSH-THEN-ACK).
//!
//! ```text
//! QoS 2 of a durable session: PUBLISH ─ commit InBegin ─ publish with that id ─ PUBREC
//!                             PUBREL  ─ commit InEnd ─ PUBCOMP
//! ```

use std::{num::NonZeroU16, sync::Arc};

use crate::{
    actors::{
        appender::SubmitError,
        beginnings::Beginning,
        durable_reader::Trouble,
        publish::{Outcome, Published},
        worker::Worker,
    },
    clock, limits,
    model::{
        message::{Message, Qos},
        reason::Reason,
        session::{
            admission::Ending,
            intake::{Intake, Second, Ticket, ack_kind},
        },
        wire::{Ack, AckKind, Outbound, Publish},
    },
    shard::command::{Command, Reply},
};

use super::{Connection, Event, Stop, backend::Later, flag, work::Submitted};

/// What an ack is about.
type AckId = (AckKind, NonZeroU16);

/// Publishes of one read that go out together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<Arc<Message>>,
    /// Per message: the ack it gets, and whether the client sent it before.
    acks: Vec<(Option<AckId>, bool)>,
    /// QoS 1 publishes among them; those of QoS 2 are counted by the intake already.
    firsts: u16,
    /// Wall clock of the first; 0 before it.
    now_ms: u64,
    /// PUBLISH packets of the read, by QoS.
    received: [u64; 3],
}

impl Batch {
    /// Tells whether no publish has been gathered.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Connection {
    pub(super) fn intake(&mut self) -> &mut Intake {
        self.intake.get_or_insert_default()
    }

    /// Unfinished QoS 1 and 2 publishes that the client may have: v5 by what CONNACK said.
    fn unfinished_max(&self) -> u16 {
        if self.is_v5() { self.listener.offer.receive_maximum.get() } else { u16::MAX }
    }

    /// Adds what one read gave to the worker's numbers.
    pub(super) fn count_publishes(&self, batch: &Batch) {
        if batch.received == [0; 3] {
            return;
        }
        Worker::with(|worker| {
            for (counter, count) in worker.counters().messages_in.iter().zip(batch.received) {
                counter.add(count);
            }
        });
    }

    /// Tells whether so much is unfinished that reading has to stop.
    pub(super) fn is_stalled(&self) -> bool {
        let count_max = if self.is_v5() {
            // More publishes than the receive maximum are an error, told when they come; what else
            // is owed (PUBCOMP) comes on top.
            usize::from(self.listener.offer.receive_maximum.get()) * 2
        } else {
            limits::V4_UNFINISHED_MAX
        };
        let full = |intake: &Intake| intake.is_full(count_max, self.listener.inbound_bytes_max);
        self.intake.as_deref().is_some_and(full)
    }

    pub(super) fn on_publish(&mut self, publish: Publish, batch: &mut Batch) -> Result<(), Stop> {
        self.check(&publish)?;
        let dup = publish.dup;
        let (message, packet_id) = self.message(publish, batch)?;
        let qos = message.qos;
        batch.received[qos as usize] += 1;
        match (qos, packet_id) {
            (Qos::AtLeastOnce, Some(packet_id)) => {
                let open = self.open_first(packet_id, batch)?;
                if !open {
                    return Ok(());
                }
            }
            (Qos::ExactlyOnce, Some(packet_id)) => {
                let open = self.open_second(packet_id, batch)?;
                if !open {
                    return Ok(());
                }
                // Without storage nothing is sent again on another connection: no id is needed.
                if self.durable.is_some() {
                    self.begin_second(packet_id, message, dup);
                    return Ok(());
                }
            }
            _ => {}
        }
        batch.acks.push((packet_id.and_then(|id| Some((ack_kind(qos)?, id))), dup));
        batch.messages.push(Arc::new(message));
        let v4_full = !self.is_v5() && usize::from(batch.firsts) >= limits::V4_UNFINISHED_MAX;
        if v4_full || batch.messages.len() >= limits::PUBLISH_BATCH_MAX {
            // Nothing more is decoded until the routers have it.
            self.publish_batch(batch);
        }
        Ok(())
    }

    /// Checks what CONNACK announced.
    fn check(&self, publish: &Publish) -> Result<(), Stop> {
        if publish.qos > self.listener.offer.maximum_qos {
            return Err((Reason::QosNotSupported, "QoS above the announced maximum"));
        }
        if publish.retain && !self.listener.offer.retain_available {
            return Err((Reason::RetainNotSupported, "retained messages are not kept here"));
        }
        Ok(())
    }

    /// Builds the message; finds its topic if only an alias came.
    fn message(
        &mut self,
        publish: Publish,
        batch: &mut Batch,
    ) -> Result<(Message, Option<NonZeroU16>), Stop> {
        let topic = match (publish.topic, publish.topic_alias) {
            (Some(topic), None) => topic,
            (topic, Some(alias)) => {
                let alias_maximum = self.listener.offer.topic_alias_maximum;
                let topic = self.intake().topic(topic, alias, alias_maximum);
                topic.map_err(|reason| (reason, "topic alias is not valid"))?
            }
            (None, None) => return Err((Reason::ProtocolError, "neither topic nor alias")),
        };
        if batch.now_ms == 0 {
            batch.now_ms = clock::wall_ms();
        }
        let now_ms = batch.now_ms;
        let message = Message {
            app: self.app,
            topic,
            publisher: Some(self.session()),
            id: None,
            qos: publish.qos,
            retain: publish.retain,
            published_at_ms: now_ms,
            expires_at_ms: publish.expiry_secs.map(|secs| now_ms + u64::from(secs) * 1_000),
            properties: publish.properties,
            payload: publish.payload,
        };
        Ok((message, publish.packet_id))
    }

    /// QoS 1: counts it; `false` if an exchange of QoS 2 holds the id and it is refused.
    fn open_first(&mut self, packet_id: NonZeroU16, batch: &mut Batch) -> Result<bool, Stop> {
        let used = self.intake.as_ref().map_or(0, |intake| intake.used());
        if used.saturating_add(batch.firsts) >= self.unfinished_max() {
            return Err(EXCEEDED);
        }
        if self.is_v5() && self.intake.as_ref().is_some_and(|intake| intake.is_incoming(packet_id))
        {
            self.publish_batch(batch);
            let _ = self.intake().count(u16::MAX);
            let ticket = self.intake().owe(Some((AckKind::Puback, packet_id)), 0);
            self.intake().settle(ticket, Reason::PacketIdInUse);
            self.send_ready();
            return Ok(false);
        }
        batch.firsts += 1;
        Ok(true)
    }

    /// QoS 2: `true` if the message is to be published.
    fn open_second(&mut self, packet_id: NonZeroU16, batch: &mut Batch) -> Result<bool, Stop> {
        let maximum = self.unfinished_max().saturating_sub(batch.firsts);
        let durable = self.durable.is_some();
        let intake = self.intake();
        match intake.open(packet_id) {
            Second::New => intake.count(maximum).map_err(|_| EXCEEDED).map(|()| true),
            Second::Waiting => Ok(false),
            // Of a durable session the shard knows whether the message was published after all.
            Second::Again if durable => Ok(true),
            Second::Again => {
                self.publish_batch(batch);
                let ticket = self.intake().owe(Some((AckKind::Pubrec, packet_id)), 0);
                self.settle(ticket, Ok(()));
                Ok(false)
            }
        }
    }

    /// Writes down which message the packet id carries; the rest follows the reply.
    fn begin_second(&mut self, packet_id: NonZeroU16, mut message: Message, dup: bool) {
        let bytes = message.payload.len();
        let ticket = self.intake().owe(Some((AckKind::Pubrec, packet_id)), bytes);
        if dup {
            self.intake().note_resent(ticket);
        }
        let (session, epoch) = (self.session(), self.epoch());
        let Some(durable) = &mut self.durable else { return };
        let id = durable.beginnings().id_for(session, packet_id);
        message.id = Some(id);
        let number = durable.beginnings().begin(Beginning {
            ticket,
            message,
            committed: false,
            again: false,
        });
        let command = Command::InBegin { key: session, epoch, packet_id: packet_id.get(), id };
        let line = self.works.line().unwrap_or_default();
        let reply = self.backend.submit_in_line(session, command, line.clone());
        self.works.keep_line(Some(line));
        self.works.push_begin(async move { Event::Begun(number, reply.await) });
    }

    /// A packet id of QoS 2 is written, or not. Messages are published in the order of receipt.
    pub(super) fn on_begun(&mut self, number: u64, reply: &Submitted) {
        let refused = match reply {
            Ok(Reply::InBegun { known }) => {
                if let Some(durable) = &mut self.durable {
                    durable.beginnings().begun(number, *known);
                }
                None
            }
            Ok(Reply::Fenced) => {
                self.end(Some(Trouble::Fenced.stop()), Ending::default());
                Some(Reason::SessionTakenOver)
            }
            Ok(_) => Some(Reason::ImplementationSpecificError),
            Err(error) => Some(Trouble::from(*error).reason()),
        };
        let durable = self.durable.as_mut();
        if let Some(reason) = refused
            && let Some(ticket) = durable.and_then(|durable| durable.beginnings().give_up(number))
        {
            let written = !matches!(
                reply,
                Ok(Reply::Fenced)
                    | Err(SubmitError::Overloaded
                        | SubmitError::DiskFull
                        | SubmitError::Unavailable)
            );
            self.refuse_begun(ticket, reason, written);
        }
        self.publish_begun();
    }

    /// Refuses a publish whose packet id was not written now; it may be known of an earlier connection.
    fn refuse_begun(&mut self, ticket: Ticket, reason: Reason, written: bool) {
        if !self.may_refuse(ticket, reason) {
            return self.fail(reason);
        }
        let packet_id = self.intake().pubrec_of(ticket);
        let known = packet_id.zip(self.durable.as_mut()).is_some_and(|(packet_id, durable)| {
            let known = written || durable.beginnings().is_resumed(packet_id);
            if !known {
                durable.beginnings().close(packet_id);
            }
            known
        });
        if known {
            self.settle(ticket, Err(reason));
        } else {
            self.intake().settle(ticket, reason);
            self.send_ready();
        }
    }

    /// Publishes what has its packet id written, in the order of receipt.
    pub(super) fn publish_begun(&mut self) {
        while self.taken.is_none()
            && let Some(durable) = &mut self.durable
        {
            let (again, begun) = durable.beginnings().take_begun();
            if begun.is_empty() {
                break;
            }
            let (tickets, messages): (Vec<_>, Vec<_>) =
                begun.into_iter().map(|begun| (begun.ticket, Arc::new(begun.message))).unzip();
            let mut line = self.works.line();
            let published = if again {
                self.backend.publish_again(&messages, &mut line)
            } else {
                self.backend.publish(&messages, &mut line)
            };
            self.works.keep_line(line);
            let outcomes = self.take_note(published);
            for (ticket, outcome) in tickets.into_iter().zip(outcomes) {
                self.await_outcome(ticket, outcome);
            }
        }
        self.send_ready();
        self.release_if_begun();
    }

    /// Notes that messages were handed over; nothing more is decoded until the routers have them.
    fn take_note(&mut self, published: Published) -> Vec<Outcome> {
        let Published { outcomes, taken } = published;
        debug_assert!(self.taken.is_none(), "the batch before is with the routers");
        if taken.is_some() {
            let was_blocked = self.is_blocked();
            self.taken = taken;
            if self.has(flag::HELD) && !was_blocked {
                self.note_block();
            }
        }
        outcomes
    }

    /// Publishes what was gathered; finished ones are acknowledged at once.
    pub(super) fn publish_batch(&mut self, batch: &mut Batch) {
        if batch.messages.is_empty() {
            return;
        }
        let mut line = self.works.line();
        let published = self.backend.publish(&batch.messages, &mut line);
        self.works.keep_line(line);
        let outcomes = self.take_note(published);
        let owed = batch.messages.drain(..).zip(batch.acks.drain(..));
        for ((message, (ack, dup)), outcome) in owed.zip(outcomes) {
            let owes = self.intake.as_ref().is_some_and(|intake| intake.owes());
            match (ack, outcome) {
                (None, Outcome::Done(_)) => {}
                (Some((AckKind::Puback, packet_id)), Outcome::Done(Ok(()))) if !owes => {
                    self.send_ack(AckKind::Puback, packet_id, Reason::Success);
                }
                (ack, outcome) => {
                    let bytes = message.payload.len();
                    let intake = self.intake();
                    if ack.is_some_and(|(kind, _)| kind == AckKind::Puback) {
                        // Was checked when it came; here it begins to last.
                        let _ = intake.count(u16::MAX);
                    }
                    let ticket = intake.owe(ack, bytes);
                    if dup {
                        intake.note_resent(ticket);
                    }
                    self.await_outcome(ticket, outcome);
                }
            }
        }
        batch.firsts = 0;
        self.send_ready();
    }

    fn await_outcome(&mut self, ticket: Ticket, outcome: Outcome) {
        match outcome {
            Outcome::Done(outcome) => self.note_outcome(ticket, outcome),
            Outcome::Pending(part) => self.works.push_publish(ticket, part),
        }
    }

    /// A publish has come out.
    pub(super) fn settle(&mut self, ticket: Ticket, outcome: Result<(), Reason>) {
        self.note_outcome(ticket, outcome);
        self.send_ready();
    }

    fn note_outcome(&mut self, ticket: Ticket, outcome: Result<(), Reason>) {
        match outcome {
            Err(reason) if !self.may_refuse(ticket, reason) => self.fail(reason),
            Err(reason) if self.ends_exchange(ticket, reason) => {}
            outcome => self.intake().settle(ticket, reason_of(outcome)),
        }
    }

    /// Tells whether the client is told no and stays. 3.1.1 has no way to say it (3.1.1 section 3.3.5). v5 is
    /// told what there is no room for, as it may want to know; a client that is told does not send it again by
    /// itself (MQTT 5.0 section 4.4).
    ///
    /// What was sent before, on a connection that ended, may still be under way from there. What the shards have no
    /// room for at the moment ends the connection then: told no, the client would go on behind it, and it could
    /// arrive after that (ORDER). A quota holds for both of them.
    fn may_refuse(&self, ticket: Ticket, reason: Reason) -> bool {
        let resent = || self.intake.as_ref().is_some_and(|intake| intake.is_resent(ticket));
        self.is_v5() && reason == Reason::QuotaExceeded && !(self.works.is_cut() && resent())
    }

    /// A publish has no outcome, or none that lasts: its client is to send it again, on a new connection and with
    /// all that it has sent behind it, which must not be stored before (ORDER). An ack that says so could be
    /// lost, or lead to a second sending behind its successors; and some shards may have the message, so its
    /// packet id stays what it is, and the next connection finishes it (ONCE). At once, not when its ack
    /// would be due.
    fn fail(&mut self, reason: Reason) {
        self.works.cut_line();
        self.end(Some((reason, "publish not finished: send it again")), Ending::default());
        if let Some(durable) = &mut self.durable {
            durable.beginnings().give_up_all();
        }
    }

    /// A PUBREC that refuses ends the exchange (MQTT 5.0 section 4.3.3): before the client may use the packet
    /// id for another message, the shard must not take that for this one. `true`: the PUBREC waits.
    fn ends_exchange(&mut self, ticket: Ticket, reason: Reason) -> bool {
        if self.durable.is_none() {
            return false;
        }
        let Some(packet_id) = self.intake().pubrec_of(ticket) else { return false };
        let reply = self.end_exchange(packet_id);
        self.works.push_refusal(async move { Event::Refused(ticket, reason, reply.await) });
        true
    }

    /// Writes the end of a packet id.
    fn end_exchange(&mut self, packet_id: NonZeroU16) -> Later<Submitted> {
        if let Some(durable) = &mut self.durable {
            durable.beginnings().close(packet_id);
        }
        let (key, epoch) = (self.session(), self.epoch());
        self.backend.submit(key, Command::InEnd { key, epoch, packet_id: packet_id.get() })
    }

    /// The packet id of a refused publish is free, or the session cannot go on.
    pub(super) fn on_refused(&mut self, ticket: Ticket, reason: Reason, reply: &Submitted) {
        match reply {
            Ok(Reply::InEnded(_)) => {
                self.intake().settle(ticket, reason);
                self.send_ready();
            }
            reply => self.on_in_ended(ticket, reply),
        }
    }

    /// Sends the acks whose turn it is.
    pub(super) fn send_ready(&mut self) {
        while let Some(ack) = self.intake.as_mut().and_then(|intake| intake.pop_ready()) {
            self.send_ack(ack.kind, ack.packet_id, ack.reason);
        }
        if self.intake.as_ref().is_some_and(|intake| intake.is_idle()) {
            self.intake = None;
        }
    }

    /// Sends one ack.
    fn send_ack(&mut self, kind: AckKind, packet_id: NonZeroU16, reason: Reason) {
        let ack = Ack { kind, packet_id, reason };
        self.link.send(&Outbound::Ack { ack, reason_string: None });
    }

    /// PUBREL: the client will not send this message again.
    pub(super) fn on_pubrel(&mut self, packet_id: NonZeroU16) {
        let known = self.intake.as_mut().is_some_and(|intake| intake.close(packet_id));
        if !known {
            return self.send_ack(AckKind::Pubcomp, packet_id, Reason::PacketIdNotFound);
        }
        let ticket = self.intake().owe(Some((AckKind::Pubcomp, packet_id)), 0);
        if self.durable.is_none() {
            return self.settle(ticket, Ok(()));
        }
        let reply = self.end_exchange(packet_id);
        self.works.push(async move { Event::Ended(ticket, reply.await) });
    }

    /// The end of a packet id is written, or the session cannot go on.
    pub(super) fn on_in_ended(&mut self, ticket: Ticket, reply: &Submitted) {
        match reply {
            Ok(Reply::InEnded(_)) => self.settle(ticket, Ok(())),
            Ok(Reply::Fenced) => self.end(Some(Trouble::Fenced.stop()), Ending::default()),
            // PUBCOMP cannot say no; the client comes back and sends PUBREL again.
            Ok(_) => self.end(Some(Trouble::Failed.stop()), Ending::default()),
            Err(error) => self.end(Some(Trouble::from(*error).stop()), Ending::default()),
        }
    }
}

/// MQTT 5.0 section 3.3.4.
const EXCEEDED: Stop = (Reason::ReceiveMaximumExceeded, "more unfinished publishes than allowed");

fn reason_of(outcome: Result<(), Reason>) -> Reason {
    outcome.err().unwrap_or(Reason::Success)
}
