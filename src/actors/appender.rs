//! Gathers durable commands of one worker thread into one proposal per shard.
//!
//! - Owns: commands that wait for the proposals in front of them.
//! - Takes: `Submit`. Gives: the shard's reply, once committed, flushed and applied (FLUSH-THEN-ACK).
//! - Bound: `limits::APPEND_WAITING_BYTES_MAX` per shard; beyond it `SubmitError::Overloaded`.
//!   `limits::APPEND_PROPOSALS_MAX` proposals per shard under way.
//!   What an app has left of its quota goes into a command when its batch leaves (`quota_ledger`).
//! - Order: commands of one worker to one shard are applied in the order of submission. What waits behind a
//!   batch that failed fails with it. Behind a failure of its own line a publisher's messages are refused,
//!   to whichever shard: it sends what has failed again, and what it sent later must not be there before
//!   (ORDER). The line is cut before anybody is told.
//!
//! ```text
//! Submit ─► waiting[shard] ─(end of this poll, or a proposal came back)─► one batch ─► cluster
//! ```

mod queue;
#[cfg(test)]
mod tests;

use std::{mem, pin::Pin, rc::Rc, sync::Arc};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture,
    WrapFuture as _,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use hongqiao_cluster::{Order, ProposeError, id::ShardId};
use tokio::sync::oneshot;

use self::queue::{Asker, Queue, bytes_of};
use super::{
    facts::{Facts, RefuseCause},
    line::Line,
};
use crate::{
    limits,
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

/// Sent by connections for what their clients publish.
#[derive(Debug, Message)]
#[rtype(result = "Result<Reply, SubmitError>")]
pub struct SubmitInLine {
    /// What and where.
    pub submit: Submit,
    /// Nothing is written behind a failure of it.
    pub line: Line,
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
    /// Returns what is told of what comes behind a failure, of which nothing is written.
    #[must_use]
    pub fn behind(self) -> Self {
        if self == Self::Unknown { Self::Unavailable } else { self }
    }

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

    fn enqueue(&mut self, submit: Submit, asker: Asker, ctx: &mut Context<Self>) {
        let at = usize::from(submit.shard.0);
        let Some(queue) = self.queues.get_mut(at) else {
            self.facts.refuse(RefuseCause::NoLeader, 1);
            asker.fail(SubmitError::Unavailable);
            return;
        };
        if let Some(error) = asker.line.as_ref().and_then(Line::failure) {
            self.facts.refuse(error.cause(), 1);
            asker.fail(error);
            return;
        }
        let bytes = bytes_of(&submit.command);
        if queue.waiting_bytes + bytes > limits::APPEND_WAITING_BYTES_MAX
            && !queue.commands.is_empty()
        {
            self.facts.refuse(RefuseCause::Overloaded, 1);
            asker.fail(SubmitError::Overloaded);
            return;
        }
        queue.waiting_bytes += bytes;
        queue.commands.push(submit.command);
        queue.askers.push(asker);
        self.mark(at, ctx);
    }

    fn take(
        &mut self,
        submit: Submit,
        line: Option<Line>,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<Reply, SubmitError>> {
        let (answer, reply) = oneshot::channel();
        self.enqueue(submit, Asker { answer, line }, ctx);
        Box::pin(async move { reply.await.unwrap_or(Err(SubmitError::Unknown)) })
    }

    /// Sees to it that the shard's commands are proposed after the mailbox was drained.
    fn mark(&mut self, at: usize, ctx: &mut Context<Self>) {
        let queue = &mut self.queues[at];
        if queue.marked || !queue.may_propose() {
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
        if !queue.may_propose() {
            return;
        }
        let (mut commands, askers) = queue.take_batch();
        queue.proposals += 1;
        queue.proposed += commands.len();
        let count = commands.len();
        let shard = ShardId(u16::try_from(at).unwrap_or(u16::MAX));
        let granted = self.facts.ledger.grant(shard, &mut commands);
        let batch = command::encode_batch(&commands);
        let behind = self.queues[at].order;
        let (order, proposed) = (self.propose)(shard, batch, behind);
        let settle = move |replies, actor: &mut Self| {
            actor.facts.ledger.settle(shard, granted);
            actor.settle(at, count, &replies);
            answer_all(replies, askers, &actor.facts);
        };
        if order.is_some() {
            self.queues[at].order = order;
            ctx.spawn(proposed.into_actor(self).map(move |replies, actor, ctx| {
                settle(replies, actor);
                actor.mark_waiting(at, ctx);
            }));
        } else {
            // Refused by the call: what waits is behind it, and must not go out before that is known.
            settle(proposed.now_or_never().unwrap_or(Err(SubmitError::Unknown)), self);
        }
        self.mark_waiting(at, ctx);
    }

    fn mark_waiting(&mut self, at: usize, ctx: &mut Context<Self>) {
        if !self.queues[at].commands.is_empty() {
            self.mark(at, ctx);
        }
    }

    /// Takes note that a proposal has come back; with a failure, what was submitted until now fails too, and for
    /// the same reason: nothing of it was proposed.
    fn settle(&mut self, at: usize, count: usize, replies: &Result<Bytes, SubmitError>) {
        let queue = &mut self.queues[at];
        queue.proposals -= 1;
        queue.proposed -= count;
        if queue.proposals == 0 {
            queue.order = None;
        }
        let Err(error) = replies else { return };
        queue.commands.clear();
        queue.waiting_bytes = 0;
        let askers = mem::take(&mut queue.askers);
        if !askers.is_empty() {
            answer_all(Err(error.behind()), askers, &self.facts);
        }
    }
}

/// Tells whether the shard stored nothing because the app is over its quota.
fn is_refused(reply: &Reply) -> bool {
    matches!(reply, Reply::Appended { refused: true, .. } | Reply::Retained { refused: true, .. })
}

/// Hands each reply to its asker; one who has gone away is passed over.
fn answer_all(replies: Result<Bytes, SubmitError>, askers: Vec<Asker>, facts: &Facts) {
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
            for asker in askers {
                match replies.next() {
                    Some(reply) => drop(asker.answer.send(Ok(reply))),
                    None => asker.fail(SubmitError::Unknown),
                }
            }
        }
        Err(error) => {
            facts.refuse(error.cause(), askers.len() as u64);
            askers.into_iter().for_each(|asker| asker.fail(error));
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
        self.take(submit, None, ctx)
    }
}

impl Handler<SubmitInLine> for Appender {
    type Result = ResponseFuture<Result<Reply, SubmitError>>;

    fn handle(&mut self, behind: SubmitInLine, ctx: &mut Self::Context) -> Self::Result {
        self.take(behind.submit, Some(behind.line), ctx)
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
