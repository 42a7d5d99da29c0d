//! The way of a command into its group.
//!
//! - Owns: the permits of this node. Takes: commands, from any thread. Gives: replies once flushed and
//!   applied (FLUSH-THEN-ACK).
//! - Bound: `COMMAND_BYTES_MAX` per command, permits before every proposal; after `PROPOSE_TIMEOUT` the outcome is unknown.
//! - Source: own design.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::oneshot, time::Sleep};

use crate::{
    error::ProposeError,
    id::ShardId,
    limits::{COMMAND_BYTES_MAX, PROPOSE_TIMEOUT},
    raft_group::{group::Group, permits::Permits},
    storage::health::Health,
    stream::queue::Caller,
};

/// Takes commands for every group of this node.
pub(crate) struct Proposals {
    /// By number; the last is the meta group.
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) health: Arc<Health>,
    /// Where time is kept while a disk holds up everything else.
    pub(crate) timers: Handle,
}

impl Proposals {
    /// Proposes a command to a group; enqueued by the call. Refused if one of the order `behind` has failed.
    pub(crate) fn propose(
        &self,
        group: ShardId,
        command: Bytes,
        behind: Option<Order>,
    ) -> Proposed {
        let group = self.groups.get(usize::from(group.0)).filter(|group| group.is_open());
        let Some(group) = group else {
            return Proposed::refused(ProposeError::Unavailable);
        };
        if command.len() > COMMAND_BYTES_MAX {
            return Proposed::refused(ProposeError::TooLarge);
        }
        let Some(permit) = self.permits.take(command.len()) else {
            return Proposed::refused(ProposeError::Overloaded);
        };
        let (reply, told) = oneshot::channel();
        let refusal = self.health.state().refusal();
        let caller = Caller { reply, _permit: permit };
        match group.queue.push(command, caller, behind.map(|order| order.0), refusal) {
            Err(why) => Proposed::refused(why),
            Ok(order) => {
                let _time = self.timers.enter();
                let time_out = Box::pin(tokio::time::sleep(PROPOSE_TIMEOUT));
                Proposed(Outcome::Waiting(Order(order), told, time_out))
            }
        }
    }
}

/// Where a proposal stands among those of its node and shard: what is proposed behind it, by who has not
/// seen its outcome yet, is applied behind it or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order(u64);

/// A proposal on its way: resolves to the reply.
#[must_use = "the reply says whether the command was applied"]
#[derive(Debug)]
pub struct Proposed(Outcome);

#[derive(Debug)]
enum Outcome {
    Refused(ProposeError),
    Waiting(Order, oneshot::Receiver<Result<Bytes, ProposeError>>, Pin<Box<Sleep>>),
}

impl Proposed {
    pub(crate) fn refused(why: ProposeError) -> Self {
        Self(Outcome::Refused(why))
    }

    /// Returns its order; `None` if it was refused by the call.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        match self.0 {
            Outcome::Refused(_) => None,
            Outcome::Waiting(order, ..) => Some(order),
        }
    }
}

impl Future for Proposed {
    type Output = Result<Bytes, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Outcome::Refused(why) => Poll::Ready(Err(*why)),
            Outcome::Waiting(_, told, time_out) => match Pin::new(told).poll(cx) {
                Poll::Ready(told) => Poll::Ready(told.unwrap_or(Err(ProposeError::Unknown))),
                Poll::Pending => time_out.as_mut().poll(cx).map(|()| Err(ProposeError::Unknown)),
            },
        }
    }
}
