//! Gathers durable commands of one worker thread into one proposal per shard.
//!
//! - Owns: commands that wait for the proposals in front of them.
//! - Takes: `Submit`. Gives: the shard's reply, once committed, flushed and applied (FLUSH-THEN-ACK).
//! - Bound: `limits::APPEND_WAITING_BYTES_MAX` per shard; beyond it `SubmitError::Overloaded`.
//!   `limits::APPEND_PROPOSALS_MAX` proposals per shard under way.
//!   What an app has left of its quota goes into a command when its batch leaves (`quota_ledger`).
//! - Order: commands of one worker to one shard are applied in the order of submission. What follows a
//!   batch that failed, and was submitted before its failure was told, fails with it: a publisher sends
//!   what has failed again, and what it sent later must not be there before (ORDER). A publisher is told once
//!   its task has run: until then its messages to that shard are refused.
//!
//! ```text
//! Submit ─► waiting[shard] ─(end of this poll, or a proposal came back)─► one batch ─► cluster
//! ```

use std::{mem, pin::Pin, rc::Rc, sync::Arc};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture,
    WrapFuture as _,
};
use bytes::Bytes;
use hongqiao_cluster::{Order, ProposeError, id::ShardId};
use tokio::sync::oneshot;

use super::facts::{Facts, RefuseCause};
use crate::{
    limits,
    model::message::Message as Published,
    shard::command::{self, Command, Reply},
};

/// Sent by connections and homes.
#[derive(Debug, Message)]
#[rtype(result = "Result<Reply, SubmitError>")]
pub struct Submit {
    /// Which shard.
    pub shard: ShardId,
    /// What.
    pub command: Command,
}

/// Why a command has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Nothing was written: too much waits already. Retry later; 0x97.
    #[error("too many durable writes wait")]
    Overloaded,
    /// Nothing was written: the disk is full; 0x97.
    #[error("the disk is full")]
    DiskFull,
    /// Nothing was written: the disk is failing; 0x97.
    #[error("the disk is failing")]
    DiskFailing,
    /// Nothing was written: the shard has no leader here; 0x88.
    #[error("the shard has no leader")]
    Unavailable,
    /// It may or may not have been written; a retry may store it twice unless it carries an id.
    #[error("the outcome of the write is unknown")]
    Unknown,
}

impl From<ProposeError> for SubmitError {
    fn from(error: ProposeError) -> Self {
        match error {
            // Batches are far below the limit of a command.
            ProposeError::Overloaded | ProposeError::TooLarge => Self::Overloaded,
            ProposeError::DiskFull => Self::DiskFull,
            ProposeError::DiskFailing => Self::DiskFailing,
            ProposeError::Unavailable => Self::Unavailable,
            ProposeError::Unknown => Self::Unknown,
        }
    }
}

impl SubmitError {
    /// Returns what metrics count it as.
    #[must_use]
    pub fn cause(self) -> RefuseCause {
        match self {
            Self::Overloaded => RefuseCause::Overloaded,
            Self::DiskFull => RefuseCause::DiskFull,
            Self::DiskFailing => RefuseCause::DiskFailing,
            Self::Unavailable => RefuseCause::NoLeader,
            Self::Unknown => RefuseCause::Unknown,
        }
    }
}

/// The replies of one batch, encoded, or why there are none.
pub type Proposed = Pin<Box<dyn Future<Output = Result<Bytes, SubmitError>>>>;

/// Puts a batch into a shard's log; enqueued when called, not when first polled. Takes the order of a batch
/// without an outcome that it is to follow; gives its own, or `None` if it was refused at once.
pub type Propose = Rc<dyn Fn(ShardId, Bytes, Option<Order>) -> (Option<Order>, Proposed)>;

type Answer = oneshot::Sender<Result<Reply, SubmitError>>;

/// What waits for one shard.
#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    answers: Vec<Answer>,
    waiting_bytes: usize,
    proposals: usize,
    /// Of the last one, while it has no outcome.
    order: Option<Order>,
    marked: bool,
    /// Failures that not every publisher has heard of, and the last of them.
    untold: u32,
    failure: Option<SubmitError>,
}

/// See the file header.
pub struct Appender {
    propose: Propose,
    facts: Arc<Facts>,
    queues: Vec<Queue>,
    marked: Vec<usize>,
}

/// Sent by the appender to itself: all commands of this poll are in.
#[derive(Message)]
#[rtype(result = "()")]
struct ProposeMarked;

impl Appender {
    /// Creates the appender of one worker for `shards` shards; quotas are divided by the ledger of `facts`.
    #[must_use]
    pub fn new(shards: u16, propose: Propose, facts: Arc<Facts>) -> Self {
        let queues = (0..shards).map(|_| Queue::default()).collect();
        Self { propose, facts, queues, marked: Vec::new() }
    }

    fn enqueue(&mut self, submit: Submit, answer: Answer, ctx: &mut Context<Self>) {
        let at = usize::from(submit.shard.0);
        let Some(queue) = self.queues.get_mut(at) else {
            self.facts.refuse(RefuseCause::NoLeader, 1);
            let _ = answer.send(Err(SubmitError::Unavailable));
            return;
        };
        if let Some(error) = queue.failure
            && is_of_publisher(&submit.command)
        {
            self.facts.refuse(error.cause(), 1);
            let _ = answer.send(Err(error));
            return;
        }
        let bytes = bytes_of(&submit.command);
        if queue.waiting_bytes + bytes > limits::APPEND_WAITING_BYTES_MAX
            && !queue.commands.is_empty()
        {
            self.facts.refuse(RefuseCause::Overloaded, 1);
            let _ = answer.send(Err(SubmitError::Overloaded));
            self.tell_failure(at, SubmitError::Overloaded, ctx);
            return;
        }
        queue.waiting_bytes += bytes;
        queue.commands.push(submit.command);
        queue.answers.push(answer);
        self.mark(at, ctx);
    }

    /// Sees to it that the shard's commands are proposed after the mailbox was drained.
    fn mark(&mut self, at: usize, ctx: &mut Context<Self>) {
        let queue = &mut self.queues[at];
        if queue.marked || queue.proposals >= limits::APPEND_PROPOSALS_MAX {
            return;
        }
        queue.marked = true;
        if self.marked.is_empty() {
            ctx.notify(ProposeMarked);
        }
        self.marked.push(at);
    }

    /// Proposes at most one batch of the shard's waiting commands.
    fn propose_batch(&mut self, at: usize, ctx: &mut Context<Self>) {
        let queue = &mut self.queues[at];
        queue.marked = false;
        if queue.commands.is_empty() || queue.proposals >= limits::APPEND_PROPOSALS_MAX {
            return;
        }
        let (mut commands, answers) = queue.take_batch();
        queue.proposals += 1;
        let shard = ShardId(u16::try_from(at).unwrap_or(u16::MAX));
        let granted = self.facts.ledger.grant(shard, &mut commands);
        let batch = command::encode_batch(&commands);
        let published = commands.iter().any(is_of_publisher);
        let behind = self.queues[at].order;
        let (order, proposed) = (self.propose)(shard, batch, behind);
        ctx.spawn(proposed.into_actor(self).map(move |replies, actor, ctx| {
            actor.facts.ledger.settle(shard, granted);
            actor.settle(at, &replies);
            if let Err(error) = replies
                && published
            {
                actor.tell_failure(at, error, ctx);
            }
            answer_all(replies, answers, &actor.facts);
            if !actor.queues[at].commands.is_empty() {
                actor.mark(at, ctx);
            }
        }));
        match order {
            Some(_) => self.queues[at].order = order,
            // Its outcome is there; what waits is behind it.
            None => self.refuse_waiting(at),
        }
        if !self.queues[at].commands.is_empty() {
            self.mark(at, ctx);
        }
    }

    /// Takes note that a proposal has come back; with a failure, what was submitted until now fails too.
    fn settle(&mut self, at: usize, replies: &Result<Bytes, SubmitError>) {
        let queue = &mut self.queues[at];
        queue.proposals -= 1;
        if queue.proposals == 0 {
            queue.order = None;
        }
        if replies.is_err() {
            self.refuse_waiting(at);
        }
    }

    /// Refuses messages until all who wait for an answer have run. Tasks run in the order of their waking: by
    /// the first timer each answer has been handed on, by the second each publisher has seen it.
    fn tell_failure(&mut self, at: usize, error: SubmitError, ctx: &mut Context<Self>) {
        // Of what is refused here nothing is written.
        let error = if error == SubmitError::Unknown { SubmitError::Unavailable } else { error };
        let queue = &mut self.queues[at];
        (queue.untold, queue.failure) = (queue.untold + 1, Some(error));
        ctx.run_later(limits::APPEND_FAILURE_TOLD, move |_, ctx| {
            ctx.run_later(limits::APPEND_FAILURE_TOLD, move |actor, _| {
                let queue = &mut actor.queues[at];
                queue.untold -= 1;
                queue.failure = queue.failure.filter(|_| queue.untold > 0);
            });
        });
    }

    /// Refuses what waits for one shard; nothing of it was proposed.
    fn refuse_waiting(&mut self, at: usize) {
        let queue = &mut self.queues[at];
        queue.commands.clear();
        queue.waiting_bytes = 0;
        let answers = mem::take(&mut queue.answers);
        if !answers.is_empty() {
            answer_all(Err(SubmitError::Unavailable), answers, &self.facts);
        }
    }
}

impl Queue {
    /// Takes commands from the front until a batch is full.
    fn take_batch(&mut self) -> (Vec<Command>, Vec<Answer>) {
        let mut bytes = 0;
        let full = self.commands.iter().position(|command| {
            bytes += bytes_of(command);
            bytes > limits::APPEND_BATCH_BYTES_MAX
        });
        let count = full
            .unwrap_or(self.commands.len())
            .clamp(1, limits::APPEND_BATCH_COMMANDS_MAX)
            .min(self.commands.len());
        let rest = self.commands.split_off(count);
        let commands = mem::replace(&mut self.commands, rest);
        let rest = self.answers.split_off(count);
        let answers = mem::replace(&mut self.answers, rest);
        self.waiting_bytes -= commands.iter().map(bytes_of).sum::<usize>();
        (commands, answers)
    }
}

/// Estimates how many bytes a command takes in a batch.
fn bytes_of(command: &Command) -> usize {
    const FIXED: usize = 128;
    let message_bytes = |message: &Published| {
        message.topic.as_bytes().len() + message.properties.len() + message.payload.len() + FIXED
    };
    match command {
        Command::Append { message, .. } | Command::Retain { message, .. } => message_bytes(message),
        Command::Enqueue { messages, .. }
        | Command::EnqueueRetained { messages, .. }
        | Command::Share { messages, .. } => {
            messages.iter().map(|message| message_bytes(message)).sum::<usize>() + FIXED
        }
        _ => FIXED,
    }
}

/// Tells whether a publisher sends it again if it fails, and other ones behind it.
fn is_of_publisher(command: &Command) -> bool {
    matches!(command, Command::Append { .. } | Command::Retain { .. } | Command::InBegin { .. })
}

/// Tells whether the shard stored nothing because the app is over its quota.
fn is_refused(reply: &Reply) -> bool {
    matches!(reply, Reply::Appended { refused: true, .. } | Reply::Retained { refused: true, .. })
}

/// Hands each reply to its asker; one who has gone away is passed over.
fn answer_all(replies: Result<Bytes, SubmitError>, answers: Vec<Answer>, facts: &Facts) {
    let replies = replies.and_then(|bytes| {
        command::decode_replies(&bytes).map_err(|error| {
            tracing::error!(%error, "shard reply is unreadable");
            SubmitError::Unknown
        })
    });
    match replies {
        Ok(replies) => {
            let full = replies.iter().filter(|reply| is_refused(reply)).count();
            if full > 0 {
                facts.refuse(RefuseCause::Quota, full as u64);
            }
            let mut replies = replies.into_iter();
            for answer in answers {
                let _ = answer.send(replies.next().ok_or(SubmitError::Unknown));
            }
        }
        Err(error) => {
            facts.refuse(error.cause(), answers.len() as u64);
            for answer in answers {
                let _ = answer.send(Err(error));
            }
        }
    }
}

impl Actor for Appender {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::APPENDER_MAILBOX_MESSAGES);
    }
}

impl Handler<Submit> for Appender {
    type Result = ResponseFuture<Result<Reply, SubmitError>>;

    fn handle(&mut self, submit: Submit, ctx: &mut Self::Context) -> Self::Result {
        let (answer, reply) = oneshot::channel();
        self.enqueue(submit, answer, ctx);
        Box::pin(async move { reply.await.unwrap_or(Err(SubmitError::Unknown)) })
    }
}

impl Handler<ProposeMarked> for Appender {
    type Result = ();

    fn handle(&mut self, _: ProposeMarked, ctx: &mut Self::Context) {
        for at in mem::take(&mut self.marked) {
            self.propose_batch(at, ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::future::join_all;

    use super::*;
    use crate::{
        actors::testing::message,
        model::{id::Position, message::Qos},
    };

    type Batches = Rc<RefCell<Vec<(ShardId, usize)>>>;

    /// A shard that answers `Done` to everything after a turn of the loop, and notes batch sizes.
    fn recording(batches: &Batches) -> Propose {
        let batches = Rc::clone(batches);
        Rc::new(move |shard, batch, _| {
            let commands = command::decode_batch(&batch).unwrap();
            batches.borrow_mut().push((shard, commands.len()));
            let proposed = Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(command::encode_replies(&vec![Reply::Done; commands.len()]))
            });
            (Some(Order::default()), proposed as _)
        })
    }

    const QUOTA: command::Quota = command::Quota {
        session_messages_max: 1,
        session_bytes_max: 1,
        app_bytes_max: 1,
        drop_oldest: true,
    };

    fn large() -> Published {
        message("t", vec![0; limits::APPEND_BATCH_BYTES_MAX], Qos::AtLeastOnce)
    }

    fn tick(now_ms: u64) -> Command {
        Command::Tick { now_ms, limit: 1 }
    }

    #[actix::test]
    async fn submits_of_one_poll_are_one_proposal_per_shard() {
        let batches = Batches::default();
        let appender = Appender::new(2, recording(&batches), Facts::new(2)).start();
        let sends = (0..10).map(|n| {
            appender.send(Submit { shard: ShardId(u16::from(n % 5 == 0)), command: tick(n) })
        });
        for reply in join_all(sends).await {
            assert_eq!(reply.unwrap(), Ok(Reply::Done));
        }
        let mut batches = batches.borrow().clone();
        batches.sort_unstable();
        assert_eq!(batches, [(ShardId(0), 8), (ShardId(1), 2)]);
    }

    #[actix::test]
    async fn submit_to_unknown_shard_is_unavailable() {
        let appender = Appender::new(1, recording(&Batches::default()), Facts::new(1)).start();
        let reply = appender.send(Submit { shard: ShardId(9), command: tick(1) }).await.unwrap();
        assert_eq!(reply, Err(SubmitError::Unavailable));
    }

    fn refused(facts: &Facts) -> Vec<(&'static str, u64)> {
        facts.refused_writes().filter(|(_, count)| *count > 0).collect()
    }

    #[actix::test]
    async fn refused_batch_tells_every_asker_and_is_counted_by_cause() {
        for (error, cause) in [
            (SubmitError::Overloaded, "overloaded"),
            (SubmitError::DiskFull, "disk_full"),
            (SubmitError::DiskFailing, "disk_failing"),
            (SubmitError::Unavailable, "no_leader"),
            (SubmitError::Unknown, "unknown"),
        ] {
            let facts = Facts::new(1);
            let propose: Propose =
                Rc::new(move |_, _, _| (None, Box::pin(async move { Err(error) })));
            let appender = Appender::new(1, propose, Arc::clone(&facts)).start();
            let send = |n| appender.send(Submit { shard: ShardId(0), command: tick(n) });
            for reply in join_all((0..3).map(send)).await {
                assert_eq!(reply.unwrap(), Err(error));
            }
            assert_eq!(refused(&facts), [(cause, 3)]);
        }
    }

    #[actix::test]
    async fn replies_that_refuse_are_counted_as_quota() {
        let facts = Facts::new(1);
        let propose: Propose = Rc::new(|_, _, _| {
            let (position, dropped) = (Position::START, 0);
            let appended = |refused| Reply::Appended { position, sessions: 0, dropped, refused };
            let retained = Reply::Retained { version: position, refused: true };
            let replies = [appended(true), appended(false), retained, Reply::Done];
            let replied = async move { Ok(command::encode_replies(&replies)) };
            (Some(Order::default()), Box::pin(replied))
        });
        let appender = Appender::new(1, propose, Arc::clone(&facts)).start();
        let send = |n| appender.send(Submit { shard: ShardId(0), command: tick(n) });
        join_all((0..4).map(send)).await;
        assert_eq!(refused(&facts), [("quota", 2)]);
    }

    #[actix::test]
    async fn submits_beyond_what_may_wait_are_refused_and_counted() {
        let facts = Facts::new(1);
        let propose: Propose =
            Rc::new(|_, _, _| (Some(Order::default()), Box::pin(std::future::pending())));
        let appender = Appender::new(1, propose, Arc::clone(&facts)).start();
        let command = Command::Append { message: Arc::new(large()), quota: QUOTA };
        let send = |_: usize| {
            let submit = Submit { shard: ShardId(0), command: command.clone() };
            tokio::time::timeout(std::time::Duration::from_millis(500), appender.send(submit))
        };
        // Two batches are under way and the rest waits, up to its bound.
        let fit = limits::APPEND_WAITING_BYTES_MAX / limits::APPEND_BATCH_BYTES_MAX;
        let replies = join_all((0..fit + 8).map(send)).await;
        let overloaded =
            replies.iter().filter(|reply| matches!(reply, Ok(Ok(Err(SubmitError::Overloaded)))));
        let overloaded = overloaded.count() as u64;
        assert!(overloaded > 0);
        assert_eq!(refused(&facts), [("overloaded", overloaded)]);
    }

    #[actix::test]
    async fn submits_behind_a_batch_that_fails_fail_with_it_and_later_ones_pass() {
        let (fail, failed) = tokio::sync::watch::channel(false);
        let behinds = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&behinds);
        let propose: Propose = Rc::new(move |_, _, behind| {
            noted.borrow_mut().push(behind);
            let mut failed = failed.clone();
            let proposed = Box::pin(async move {
                let _ = failed.wait_for(|failed| *failed).await;
                Err(SubmitError::Unknown)
            });
            (Some(Order::default()), proposed as _)
        });
        let appender = Appender::new(1, propose, Facts::new(1)).start();
        let mut replies = Vec::new();
        for now_ms in 0..=limits::APPEND_PROPOSALS_MAX as u64 {
            let submit = Submit { shard: ShardId(0), command: tick(now_ms) };
            replies.push(appender.send(submit));
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        fail.send(true).unwrap();
        let replies: Vec<_> = join_all(replies).await.into_iter().map(Result::unwrap).collect();
        let (waited, proposed) = replies.split_last().unwrap();
        assert!(proposed.iter().all(|reply| *reply == Err(SubmitError::Unknown)));
        assert_eq!(*waited, Err(SubmitError::Unavailable));
        // Each says that it is to follow the one before; after a failure nothing is followed.
        let late = Submit { shard: ShardId(0), command: tick(9) };
        assert_eq!(appender.send(late).await.unwrap(), Err(SubmitError::Unknown));
        assert_eq!(*behinds.borrow(), [None, Some(Order::default()), None]);
    }

    #[actix::test]
    async fn message_behind_a_failure_that_its_publisher_may_not_know_is_refused() {
        let failures = Rc::new(RefCell::new(vec![Err(SubmitError::Unavailable)]));
        let propose: Propose = Rc::new(move |_, _, _| {
            let reply = failures.borrow_mut().pop();
            let reply = reply.unwrap_or_else(|| Ok(command::encode_replies(&[Reply::Done])));
            (Some(Order::default()), Box::pin(std::future::ready(reply)))
        });
        let appender = Appender::new(1, propose, Facts::new(1)).start();
        let small = Arc::new(message("t", b"m".to_vec(), Qos::AtLeastOnce));
        let append = || {
            let command = Command::Append { message: Arc::clone(&small), quota: QUOTA };
            appender.send(Submit { shard: ShardId(0), command })
        };
        assert_eq!(append().await.unwrap(), Err(SubmitError::Unavailable));
        assert_eq!(append().await.unwrap(), Err(SubmitError::Unavailable));
        let other = Submit { shard: ShardId(0), command: tick(1) };
        assert_eq!(appender.send(other).await.unwrap(), Ok(Reply::Done));
        tokio::time::sleep(limits::APPEND_FAILURE_TOLD * 20).await;
        assert_eq!(append().await.unwrap(), Ok(Reply::Done));
    }
}
