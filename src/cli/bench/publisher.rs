//! A task that publishes: as much as its window and its rate let through, in batches.
//!
//! - Owns: a connection, the packet ids under way. Takes: acknowledgements, credit. Gives: messages.
//! - Bound: `window` messages under way, and no more than the server's receive maximum; at most [`BATCH_BYTES`] gathered for one write.
//! - A message is stamped with the time it was handed to the socket; one that is sent later than its
//!   rate demands, by more than the step of a timer, with the time it was due: a stalled server is seen.

use std::{
    future::Future,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    connection::{Connection, Identity},
    credit::Credit,
    template::Template,
    worker::{Phase, Worker, add},
};
use crate::{
    clock,
    front::mqtt::client::Skimmed,
    model::{message::Qos, wire::AckKind},
};

/// Bytes gathered before they are written.
const BATCH_BYTES: usize = 64 * 1024;

/// What a timer may be late by itself: its deadline and the wait for it are both rounded up to a
/// millisecond, and the thread has to wake.
const TIMER_STEP_NS: u64 = 3_000_000;

/// Waiting longer than this for deliveries at QoS 0 means that they were dropped.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// What one publisher does.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) identity: Identity,
    pub(super) template: Template,
    pub(super) qos: Qos,
    /// Unacknowledged messages at QoS 1 and 2.
    pub(super) window: u16,
    /// Deliveries under way, at QoS 0.
    pub(super) credit: Option<Arc<Credit>>,
    /// Deliveries that one message causes.
    pub(super) receivers_per_message: u64,
    /// Topics that messages go to in turn; with one, always to that of the template.
    pub(super) topics: u32,
    /// Messages per second of this publisher.
    pub(super) rate: Option<f64>,
    /// Part of a period by which this publisher starts later than the first.
    pub(super) offset: f64,
    /// Numbers of the messages; without a supply, messages go on until the end of the run.
    pub(super) supply: Option<Arc<Supply>>,
}

/// A fixed number of messages that publishers share, sent to receivers in turn.
#[derive(Debug)]
pub(super) struct Supply {
    pub(super) messages: u64,
    pub(super) receivers: u32,
    pub(super) next: AtomicU64,
}

impl Supply {
    fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.messages).then_some(number)
    }
}

/// Connects, waits for the load to begin, publishes until told to stop or out of supply.
pub(super) async fn publish(worker: Rc<Worker>, plan: Plan) -> anyhow::Result<()> {
    let connection = {
        let _permit = worker.opening.acquire().await?;
        Connection::open(&worker, &plan.identity, |_, _| {}).await?
    };
    add(&worker.shared.counters.ready, 1);
    worker.until(Phase::Load).await;
    let start_ns = worker.now_ns();
    // MQTT 5.0 section 3.3.4: more than the server takes is a protocol error.
    let ids = plan.window.max(1).min(connection.receive_maximum);
    let mut publisher = Publisher {
        worker: Rc::clone(&worker),
        connection,
        free: (1..=ids).rev().collect(),
        sent_at_ns: vec![0; usize::from(ids) + 1],
        sent: 0,
        start_ns,
        start: Instant::from_std(clock::now()),
        exhausted: false,
        plan,
    };
    publisher.run().await?;
    publisher.connection.disconnect().await?;
    add(&worker.shared.counters.finished, 1);
    Ok(())
}

struct Publisher {
    worker: Rc<Worker>,
    plan: Plan,
    connection: Connection,
    /// Packet ids that are not under way.
    free: Vec<u16>,
    /// When each packet id was used.
    sent_at_ns: Vec<u64>,
    sent: u64,
    start_ns: u64,
    start: Instant,
    /// The supply has ended.
    exhausted: bool,
}

impl Publisher {
    async fn run(&mut self) -> anyhow::Result<()> {
        let all_ids = self.free.len();
        loop {
            // Enough is gathered: the socket has to take it first.
            if self.connection.out().len() < BATCH_BYTES {
                self.fill();
                self.connection.flush()?;
            }
            let settled = self.free.len() == all_ids && self.connection.out().is_empty();
            if self.exhausted && settled {
                return Ok(());
            }
            self.wait().await?;
        }
    }

    /// How many messages window and rate let through now.
    fn allowance(&self, now_ns: u64) -> u64 {
        let by_ids = match self.plan.qos {
            Qos::AtMostOnce => u64::MAX,
            Qos::AtLeastOnce | Qos::ExactlyOnce => self.free.len() as u64,
        };
        let by_credit = match &self.plan.credit {
            Some(credit) => credit.room() / self.plan.receivers_per_message,
            None => u64::MAX,
        };
        let by_rate = match self.plan.rate {
            Some(rate) => {
                let elapsed = (now_ns - self.start_ns) as f64 / 1e9;
                let due = (elapsed * rate - self.plan.offset + 1.0).max(0.0);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = ">= 0")]
                let due = due as u64;
                due.saturating_sub(self.sent)
            }
            None => u64::MAX,
        };
        by_ids.min(by_credit).min(by_rate)
    }

    /// When message `number` of this publisher is due.
    fn due_ns(&self, rate: f64, number: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = ">= 0")]
        let after_start = ((number as f64 + self.plan.offset) / rate * 1e9) as u64;
        self.start_ns + after_start
    }

    fn fill(&mut self) {
        let now_ns = self.worker.now_ns();
        let allowance = self.allowance(now_ns);
        let mut filled = 0;
        while filled < allowance && self.connection.out().len() < BATCH_BYTES {
            let mut number = self.sent;
            if self.plan.topics > 1 {
                let topic =
                    (self.sent + u64::from(self.plan.identity.index)) % u64::from(self.plan.topics);
                self.plan.template.set_receiver(u32::try_from(topic).unwrap_or(0));
            }
            if let Some(supply) = &self.plan.supply {
                let Some(taken) = supply.take() else {
                    self.exhausted = true;
                    break;
                };
                let receiver = taken % u64::from(supply.receivers);
                self.plan.template.set_receiver(u32::try_from(receiver).unwrap_or(0));
                number = taken;
            }
            let packet_id = match self.plan.qos {
                Qos::AtMostOnce => 0,
                Qos::AtLeastOnce | Qos::ExactlyOnce => self.free.pop().unwrap_or(0),
            };
            let stamp_ns = match self.plan.rate.map(|rate| self.due_ns(rate, self.sent)) {
                Some(due_ns) if due_ns + TIMER_STEP_NS < now_ns => due_ns,
                _ => now_ns,
            };
            self.sent_at_ns[usize::from(packet_id)] = stamp_ns;
            let template = &self.plan.template;
            template.append(self.connection.out(), packet_id, stamp_ns, number);
            self.sent += 1;
            filled += 1;
        }
        add(&self.worker.shared.counters.published, filled);
        if let Some(credit) = &self.plan.credit {
            credit.take(filled * self.plan.receivers_per_message);
        }
    }

    /// Waits until something may have changed what [`allowance`](Self::allowance) says.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let credit = self.plan.credit.clone();
        let notified = credit.as_ref().map(|credit| credit.notified());
        let now_ns = self.worker.now_ns();
        let out_is_empty = self.connection.out().is_empty();
        let allowed = !self.exhausted && self.allowance(now_ns) > 0;
        let next_due = self.plan.rate.map(|rate| {
            let due_ns = self.due_ns(rate, self.sent).saturating_sub(self.start_ns);
            self.start + Duration::from_nanos(due_ns)
        });
        let (worker, free, sent_at_ns) = (&self.worker, &mut self.free, &self.sent_at_ns);
        let mut answers = Answers::new(worker, free, sent_at_ns);
        let progress = self.connection.progress(worker, |skimmed, out| answers.take(skimmed, out));
        tokio::select! {
            biased;
            done = progress => done?,
            () = tokio::task::yield_now(), if allowed && out_is_empty => {}
            () = or_never(notified), if credit.is_some() => {}
            () = or_never(next_due.map(sleep_until)), if next_due.is_some() && !allowed => {}
            () = sleep(LOST_AFTER), if credit.is_some() && !allowed && next_due.is_none() => {
                let lost = credit.map_or(0, |credit| credit.forgive());
                add(&worker.shared.counters.lost, lost);
            }
        }
        Ok(())
    }
}

async fn or_never(future: Option<impl Future<Output = ()>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// What the server's acknowledgements of one batch say.
struct Answers<'a> {
    worker: &'a Worker,
    free: &'a mut Vec<u16>,
    sent_at_ns: &'a [u64],
    now_ns: Option<u64>,
}

impl<'a> Answers<'a> {
    fn new(worker: &'a Worker, free: &'a mut Vec<u16>, sent_at_ns: &'a [u64]) -> Self {
        Self { worker, free, sent_at_ns, now_ns: None }
    }

    fn take(&mut self, skimmed: Skimmed<'_>, out: &mut Vec<u8>) {
        let Skimmed::Ack { kind, packet_id, code } = skimmed else { return };
        let refused = code >= 0x80;
        match kind {
            AckKind::Pubrec if !refused => {
                let [high, low] = packet_id.to_be_bytes();
                out.extend_from_slice(&[0x62, 2, high, low]);
            }
            AckKind::Puback | AckKind::Pubcomp | AckKind::Pubrec => self.done(packet_id, refused),
            AckKind::Pubrel => {}
        }
    }

    fn done(&mut self, packet_id: u16, refused: bool) {
        let counters = &self.worker.shared.counters;
        add(if refused { &counters.refused } else { &counters.acknowledged }, 1);
        self.free.push(packet_id);
        if self.worker.is_measuring()
            && let Some(sent_at_ns) = self.sent_at_ns.get(usize::from(packet_id))
        {
            let now_ns = *self.now_ns.get_or_insert_with(|| self.worker.now_ns());
            let waited_ns = now_ns.saturating_sub(*sent_at_ns);
            self.worker.latencies.borrow_mut().answer.saturating_record(waited_ns);
        }
    }
}
