//! The register of one shard's sessions: who is online where; takeover; news from the log.
//!
//! - Owns: session key → connection, for the shard it leads (soft state, rule 4), and which keys may
//!   have something durable.
//! - Takes: `Claim`, `Release`, `SessionsEnded`, news. Gives: `Kick`, `SessionsGrew` to hubs; commands to
//!   the appender; `Look` to the upkeep.
//! - Bound: one entry per session that is online or durable; claims of one key wait for each other, at
//!   most `limits::CLAIMS_WAITING_MAX`, then `ClaimError::Busy`.
//! - Source: design of takeover in ARCHITECTURE.md (FENCED, SESSION-TRUE).
//!
//! ```text
//! Claim ─► (others of this key wait) ─► Kick the old connection, it releases ─► commit Claim ─► reply
//! ```

mod register;

use std::{collections::VecDeque, sync::Arc};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, Recipient,
    ResponseFuture, WrapFuture as _,
};
use ahash::{AHashMap, AHashSet};
use hongqiao_cluster::id::ShardId;
use tokio::sync::oneshot;

use register::{Register, Seat};

use super::{
    appender::{Submit, SubmitError},
    facts::News,
    groups::SessionsGone,
    hub::{Kick, SessionsGrew},
    upkeep::Look,
};
use crate::{
    clock, limits,
    model::{
        connection_id::ConnectionId,
        id::{AppId, Epoch, SessionKey},
        reason::Reason,
    },
    shard::command::{Claimed, Command, Holder, InflightOut, Reply, StoredWill},
};

/// Sent by a connection after CONNECT was authenticated. The old connection of this key, if any, is
/// kicked and has released before the reply comes (at most 2 s).
#[derive(Debug, Message)]
#[rtype(result = "Result<Box<Claimed>, ClaimError>")]
pub struct Claim {
    /// Which session.
    pub key: SessionKey,
    /// Tenant.
    pub app: AppId,
    /// As the client sent it or the server assigned it.
    pub client_id: String,
    /// Forget what was.
    pub clean_start: bool,
    /// 0 = the session ends with its connection; `epoch` 0 in the reply says that nothing durable
    /// exists.
    pub expiry_secs: u32,
    /// Stored with durable sessions; a non-durable connection keeps its will itself and passes `None`.
    pub will: Option<Box<StoredWill>>,
    /// The claimant.
    pub connection: ConnectionId,
}

/// Why a CONNECT cannot be served now. Nothing was changed, or it is unknown whether it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The shard has no leader or its disk refuses writes; 0x88, in 3.1.1 code 3.
    #[error("the session's shard cannot write")]
    Unavailable,
    /// Too many claims of one client id wait; 0x89, in 3.1.1 code 3.
    #[error("too many connections claim this client id")]
    Busy,
}

/// Sent by a connection that ends, durable or not; after it the connection sends nothing more for the
/// session. Replies when the release is committed (durable) or done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Release {
    /// Which session.
    pub key: SessionKey,
    /// Who; a release by a connection that no longer owns the entry changes nothing in the register.
    pub connection: ConnectionId,
    /// 0 = non-durable: only the register is changed.
    pub epoch: Epoch,
    /// Changed by DISCONNECT.
    pub expiry_secs: Option<u32>,
    /// DISCONNECT 0x00 came.
    pub will_dropped: bool,
    /// Deliveries sent and not acknowledged.
    pub inflight: Vec<InflightOut>,
}

/// Sent by the upkeep of the shard: nothing durable is left of these sessions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SessionsEnded(pub Vec<SessionKey>);

/// Sent by anyone who wants to know whether a session is online; replies with its connection.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Option<ConnectionId>")]
pub struct WhoIs(pub SessionKey);

/// Whom a home talks to.
pub struct Neighbours {
    /// By worker.
    pub kick: Vec<Recipient<Kick>>,
    /// By worker.
    pub grew: Vec<Recipient<SessionsGrew>>,
    /// Of the home's own worker.
    pub submit: Recipient<Submit>,
    /// Of the same shard.
    pub look: Recipient<Look>,
    /// By worker.
    pub groups: Vec<Recipient<SessionsGone>>,
}

type Answer = oneshot::Sender<Result<Box<Claimed>, ClaimError>>;

/// See the file header.
pub struct Home {
    shard: ShardId,
    node: u64,
    incarnation: u64,
    sessions: Register,
    claiming: AHashMap<SessionKey, VecDeque<(Claim, Answer)>>,
    neighbours: Neighbours,
    news: Arc<News>,
}

impl Home {
    /// Creates the home of `shard`; `durable` are the sessions that the shard holds already.
    #[must_use]
    pub fn new(
        shard: ShardId,
        (node, incarnation): (u64, u64),
        durable: impl IntoIterator<Item = SessionKey>,
        neighbours: Neighbours,
        news: Arc<News>,
    ) -> Self {
        let sessions = Register::of_durable(durable);
        let claiming = AHashMap::new();
        Self { shard, node, incarnation, sessions, claiming, neighbours, news }
    }

    fn queue_claim(&mut self, claim: Claim, answer: Answer, ctx: &mut Context<Self>) {
        match self.claiming.get_mut(&claim.key) {
            Some(waiting) if waiting.len() >= limits::CLAIMS_WAITING_MAX => {
                let _ = answer.send(Err(ClaimError::Busy));
            }
            Some(waiting) => waiting.push_back((claim, answer)),
            None => {
                self.claiming.insert(claim.key, VecDeque::new());
                self.start_claim(claim, answer, ctx);
            }
        }
    }

    fn start_claim(&mut self, claim: Claim, answer: Answer, ctx: &mut Context<Self>) {
        let seat = self.sessions.get(claim.key).unwrap_or_default();
        let durable = seat.is_durable() || claim.expiry_secs > 0;
        if seat.connection().is_none() && !durable {
            return self.finish_claim(&claim, Ok(Box::default()), answer, ctx);
        }
        let kicked = seat.connection().and_then(|old| self.kick(old));
        let submitted = durable.then(|| {
            let command = self.claim_command(&claim);
            (self.neighbours.submit.clone(), Submit { shard: self.shard, command })
        });
        let work = async move {
            if let Some(kicked) = kicked {
                let _ = tokio::time::timeout(limits::TAKEOVER_WAIT, kicked).await;
            }
            let Some((submit, message)) = submitted else { return Ok(Box::default()) };
            match submit.send(message).await {
                Ok(Ok(Reply::Claimed(claimed))) => Ok(claimed),
                Ok(Err(SubmitError::Overloaded)) => Err(ClaimError::Busy),
                _ => Err(ClaimError::Unavailable),
            }
        };
        ctx.spawn(work.into_actor(self).map(move |claimed, actor, ctx| {
            actor.finish_claim(&claim, claimed, answer, ctx);
        }));
    }

    fn kick(&self, old: ConnectionId) -> Option<actix::dev::RecipientRequest<Kick>> {
        let kick = Kick { connection: old, reason: Reason::SessionTakenOver };
        Some(self.neighbours.kick.get(old.worker())?.send(kick))
    }

    fn claim_command(&self, claim: &Claim) -> Command {
        Command::Claim {
            key: claim.key,
            app: claim.app,
            client_id: claim.client_id.clone(),
            clean_start: claim.clean_start,
            expiry_secs: claim.expiry_secs,
            will: claim.will.clone(),
            holder: Holder {
                node: self.node,
                incarnation: self.incarnation,
                connection: claim.connection.to_u64(),
            },
            now_ms: clock::wall_ms(),
        }
    }

    fn finish_claim(
        &mut self,
        claim: &Claim,
        claimed: Result<Box<Claimed>, ClaimError>,
        answer: Answer,
        ctx: &mut Context<Self>,
    ) {
        if let Ok(claimed) = &claimed {
            let seat = Seat::new(claim.connection)
                .durable(claimed.epoch != Epoch::default())
                .ending_with_connection(claim.expiry_secs == 0);
            let old = self.sessions.insert(claim.key, seat);
            if claim.clean_start && old.is_some_and(Seat::is_durable) {
                self.look();
                self.say_gone(claim.key);
            }
        }
        let _ = answer.send(claimed);
        match self.claiming.get_mut(&claim.key).and_then(VecDeque::pop_front) {
            Some((next, answer)) => self.start_claim(next, answer, ctx),
            None => {
                self.claiming.remove(&claim.key);
            }
        }
    }

    /// Forgets the connection of a session, if it is still this one, and the session if it ends.
    fn unregister(&mut self, release: &Release) {
        let Some(seat) = self.sessions.leave(release.key, release.connection) else { return };
        let ends = release.expiry_secs.map_or(seat.ends_with_connection(), |secs| secs == 0);
        if seat.is_durable() && ends {
            // The entry stays: until the release is committed the shard holds something.
            self.say_gone(release.key);
        }
    }

    /// Tells the shared groups that a session is no member any more.
    fn say_gone(&self, key: SessionKey) {
        for groups in &self.neighbours.groups {
            // A full mailbox leaves a member without session; its share is refused by the shard.
            let _ = groups.try_send(SessionsGone(vec![key]));
        }
    }

    /// Something may be due now: a will, a session that ended.
    fn look(&self) {
        // A full mailbox is no loss: the upkeep looks on its own every second.
        let _ = self.neighbours.look.try_send(Look);
    }

    /// Tells the hubs which of their connections have news; what a hub cannot take comes again.
    fn tell(&self, keys: &AHashSet<SessionKey>) {
        let mut by_worker = vec![Vec::new(); self.neighbours.grew.len()];
        let online = |key: &SessionKey| self.sessions.connection(*key);
        for (key, connection) in keys.iter().filter_map(|key| Some((*key, online(key)?))) {
            if let Some(list) = by_worker.get_mut(connection.worker()) {
                list.push((key, connection));
            }
        }
        for (list, hub) in by_worker.into_iter().zip(&self.neighbours.grew) {
            let connections = list.iter().map(|(_, connection)| *connection).collect();
            if !list.is_empty() && hub.try_send(SessionsGrew { connections }).is_err() {
                self.news.add(list.into_iter().map(|(key, _)| key));
            }
        }
    }

    fn wait_for_news(&self, ctx: &mut Context<Self>) {
        let news = Arc::clone(&self.news);
        let taken = async move { news.take().await };
        ctx.spawn(taken.into_actor(self).map(|keys, actor, ctx| {
            actor.tell(&keys);
            actor.wait_for_news(ctx);
        }));
    }
}

impl Actor for Home {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::HOME_MAILBOX_MESSAGES);
        self.wait_for_news(ctx);
    }
}

impl Handler<Claim> for Home {
    type Result = ResponseFuture<Result<Box<Claimed>, ClaimError>>;

    fn handle(&mut self, claim: Claim, ctx: &mut Self::Context) -> Self::Result {
        let (answer, reply) = oneshot::channel();
        self.queue_claim(claim, answer, ctx);
        Box::pin(async move { reply.await.unwrap_or(Err(ClaimError::Unavailable)) })
    }
}

impl Handler<Release> for Home {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, release: Release, _ctx: &mut Self::Context) -> Self::Result {
        self.unregister(&release);
        if release.epoch == Epoch::default() {
            return Box::pin(async {});
        }
        let command = Command::Release {
            key: release.key,
            epoch: release.epoch,
            expiry_secs: release.expiry_secs,
            will_dropped: release.will_dropped,
            inflight: release.inflight,
            now_ms: clock::wall_ms(),
        };
        // Sent here, not when the reply is first polled: a claim handled next must be applied after it,
        // or a dropped will would be taken for one that is due.
        let released = self.neighbours.submit.send(Submit { shard: self.shard, command });
        let look = self.neighbours.look.clone();
        Box::pin(async move {
            // Without a commit the next start of the node, or the next claim, releases it.
            let _ = released.await;
            let _ = look.try_send(Look);
        })
    }
}

impl Handler<SessionsEnded> for Home {
    type Result = ();

    fn handle(&mut self, ended: SessionsEnded, _ctx: &mut Self::Context) {
        for key in ended.0 {
            if !self.claiming.contains_key(&key) {
                self.sessions.forget(key);
            }
        }
    }
}

impl Handler<WhoIs> for Home {
    type Result = Option<ConnectionId>;

    fn handle(&mut self, who: WhoIs, _ctx: &mut Self::Context) -> Self::Result {
        self.sessions.connection(who.0)
    }
}

#[cfg(test)]
mod tests;
