//! Brings facts from other threads to the connections of this one.
//!
//! - Owns: nothing; looks connections up by id in its worker's table.
//! - Takes: `Kick`, `SessionsGrew`, `TakeRoll`, `GoneAmong`, `Drain`. Gives: signals to links, which are flags
//!   and never queue; what is in the table.
//! - Bound: `limits::HUB_MAILBOX_MESSAGES`; homes keep what a full hub does not take.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message, MessageResult, ResponseFuture};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::worker::Worker;
use crate::{
    limits,
    model::{connection_id::ConnectionId, id::SessionKey, reason::Reason},
};

/// Sent by a home: end this connection and tell it why. Replies once the connection has released
/// its session (its last command for it has been submitted), or at once if it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message, Serialize, Deserialize)]
#[rtype(result = "()")]
pub struct Kick {
    /// Whom.
    pub connection: ConnectionId,
    /// What a v5 client is told.
    pub reason: Reason,
}

/// Sent by a home: the logs of these sessions grew; each connection reads on when it can.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct SessionsGrew {
    /// Connections of this worker.
    pub connections: Vec<ConnectionId>,
}

/// Sent by homes, of any node: which connections of a shard are in this part of the table? Those with
/// durable sessions are known to the shard; they are told to read on, in case nobody told them before.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "(Vec<(SessionKey, ConnectionId)>, Option<u32>)")]
pub struct TakeRoll {
    /// Of which shard.
    pub shard: u16,
    /// How many shards there are.
    pub shards: u16,
    /// First slot of the part; the reply says where the next part begins.
    pub slot: u32,
}

/// Sent by upkeeps, of any node: which of these connections are gone?
#[derive(Clone, Debug, Message)]
#[rtype(result = "Vec<ConnectionId>")]
pub struct GoneAmong(pub Vec<ConnectionId>);

/// Sent by the server at shutdown: tell every client and close. Replies when all have released.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// What v5 clients are told.
    pub reason: Reason,
    /// Where they may go instead; each is told one of these.
    pub elsewhere: Vec<String>,
    /// Clients of which the shards hold nothing, neither a session nor a will, stay.
    pub durable_only: bool,
}

/// See the file header.
pub struct Hub {
    worker: Rc<Worker>,
}

impl Hub {
    /// Creates the hub of `worker`, on its thread.
    #[must_use]
    pub fn new(worker: Rc<Worker>) -> Self {
        Self { worker }
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::HUB_MAILBOX_MESSAGES);
    }
}

impl Handler<Kick> for Hub {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, kick: Kick, _ctx: &mut Self::Context) -> Self::Result {
        let Some(link) = self.worker.find(kick.connection) else { return Box::pin(async {}) };
        let released = link.watch_release();
        link.kick(kick.reason);
        Box::pin(async move {
            // An error says that the link is gone, which is a release too.
            let _ = released.await;
        })
    }
}

impl Handler<SessionsGrew> for Hub {
    type Result = ();

    fn handle(&mut self, grew: SessionsGrew, _ctx: &mut Self::Context) {
        for link in grew.connections.into_iter().filter_map(|id| self.worker.find(id)) {
            link.log_grew();
        }
    }
}

impl Handler<TakeRoll> for Hub {
    type Result = MessageResult<TakeRoll>;

    fn handle(&mut self, roll: TakeRoll, _ctx: &mut Self::Context) -> Self::Result {
        let TakeRoll { shard, shards, slot } = roll;
        let mut found = Vec::new();
        let next = self.worker.walk(slot, limits::ROLL_SLOTS, |id, link| {
            let session = link.session();
            let is_open = session != SessionKey(0) && !link.is_closing();
            if !is_open || session.bucket().shard(shards).0 != shard {
                return;
            }
            if link.is_durable() {
                link.log_grew();
            } else {
                found.push((session, id));
            }
        });
        MessageResult((found, next))
    }
}

impl Handler<GoneAmong> for Hub {
    type Result = MessageResult<GoneAmong>;

    fn handle(&mut self, among: GoneAmong, _ctx: &mut Self::Context) -> Self::Result {
        let is_gone = |id: &ConnectionId| self.worker.find(*id).is_none();
        MessageResult(among.0.into_iter().filter(is_gone).collect())
    }
}

impl Handler<Drain> for Hub {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, drain: Drain, _ctx: &mut Self::Context) -> Self::Result {
        let mut released = Vec::new();
        self.worker.set_elsewhere(drain.elsewhere);
        self.worker.for_each(|link| {
            if drain.durable_only && !link.is_durable() {
                // The link does not know whether the shard held a will of it; the connection does.
                link.log_grew();
                return;
            }
            released.push(link.watch_release());
            link.kick(drain.reason);
        });
        Box::pin(async move {
            join_all(released).await;
        })
    }
}
