//! Deals again what a live member gave back, until another one, or a log, has it.
//!
//! - Takes: `GivenBack`. Its publisher may have been told long ago that the message is safe, so nobody else tries.
//! - Gives: each message to a member, as if it had just been published.
//! - Bound: `limits::GIVEN_BACK_MAX` messages of a worker are tried again, for `limits::GIVEN_BACK_PATIENCE`; what is
//!   given up is counted (NO-LOSS ends there).
//! - ONCE: a QoS 2 message whose share may have been stored is not dealt again; QoS 1 may come twice.

use std::sync::Arc;

use actix::{AsyncContext as _, Context, Handler, Message, Recipient, ResponseFuture};
use tokio::sync::Semaphore;

use super::{Dispatch, GivenBack, GroupKey, Groups};
use crate::{
    actors::{counters::DropCause, worker::Worker},
    clock, limits,
    model::{
        message::{Message as Published, Qos},
        reason::Reason,
    },
};

/// Sent by the task of a message that was given back: deal it.
#[derive(Message)]
#[rtype(result = "Result<(), Reason>")]
pub(super) struct DealBack {
    group: GroupKey,
    message: Arc<Published>,
}

/// How many more messages may wait to be dealt again.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits::GIVEN_BACK_MAX))
}

/// Returns a message without an id: no shard may take it for what it stored before.
pub(in crate::actors) fn anew(message: &Arc<Published>) -> Arc<Published> {
    match message.id {
        None => Arc::clone(message),
        Some(_) => Arc::new(Published { id: None, ..Published::clone(message) }),
    }
}

impl Handler<GivenBack> for Groups {
    type Result = ();

    fn handle(&mut self, back: GivenBack, ctx: &mut Self::Context) {
        let GivenBack { group, messages } = back;
        for mut message in messages {
            if self.neighbours.far.is_on() {
                // It is written down who had them under their ids; whoever gets them now is not that one.
                message = anew(&message);
            }
            // Sent here, so that they go out in the order in which they came back.
            let first = self.handle(DealBack { group, message: Arc::clone(&message) }, ctx);
            let home = ctx.address().recipient();
            actix_rt::spawn(settle(first, (group, message), home, Arc::clone(&self.back)));
        }
    }
}

impl Handler<DealBack> for Groups {
    type Result = ResponseFuture<Result<(), Reason>>;

    fn handle(&mut self, back: DealBack, ctx: &mut Context<Self>) -> Self::Result {
        let DealBack { group, message } = back;
        self.handle(Dispatch { group, key: None, messages: vec![message] }, ctx)
    }
}

/// Goes on until a message is dealt, or given up.
async fn settle(
    first: ResponseFuture<Result<(), Reason>>,
    (group, message): (GroupKey, Arc<Published>),
    home: Recipient<DealBack>,
    room: Arc<Semaphore>,
) {
    let Err(mut reason) = first.await else { return };
    let all = room.available_permits() == limits::GIVEN_BACK_MAX;
    let since = clock::timer_now();
    let Ok(_place) = room.try_acquire() else { return give_up(group, reason) };
    if all {
        // Of many that come back at a time one is said.
        tracing::warn!(?group, ?reason, "a share came back and cannot be dealt yet");
    }
    while may_be_dealt_again(&message, reason) && since.elapsed() < limits::GIVEN_BACK_PATIENCE {
        tokio::time::sleep(limits::GIVEN_BACK_RETRY).await;
        if message.is_expired(clock::wall_ms()) {
            return count(DropCause::Expired);
        }
        let dealt = home.send(DealBack { group, message: Arc::clone(&message) }).await;
        match dealt.unwrap_or(Err(Reason::ServerShuttingDown)) {
            Ok(()) => return,
            Err(again) => reason = again,
        }
    }
    give_up(group, reason);
}

fn may_be_dealt_again(message: &Published, reason: Reason) -> bool {
    let is_unknown = reason == Reason::UnspecifiedError;
    match message.qos {
        Qos::AtMostOnce => false,
        Qos::AtLeastOnce => reason != Reason::ServerShuttingDown,
        Qos::ExactlyOnce => reason != Reason::ServerShuttingDown && !is_unknown,
    }
}

fn give_up(group: GroupKey, reason: Reason) {
    tracing::debug!(?group, ?reason, "a share that came back is given up");
    count(DropCause::GivenBack);
}

fn count(cause: DropCause) {
    Worker::with(|worker| worker.counters().drop_messages(cause, 1));
}
