//! The register of one shard's sessions: who is online where; takeover; news from the log.
//!
//! - Owns: session key → connection of any node, while this node leads the shard (soft state, rule 4), and
//!   which keys may have something durable. While another node leads, it owns nothing and refuses.
//! - Takes: `ClaimBy`, `ReleaseBy`, `SessionsEnded`, `CallAgain`, news, changes of leader and members.
//! - Gives: `Kick`, `SessionsGrew` to hubs of all nodes; commands to the appender; `Look` to the upkeep.
//! - Bound: one entry per session that is online or durable; claims of one key wait for each other, at
//!   most `limits::CLAIMS_WAITING_MAX`, and for the roll call `limits::CLAIMS_GATHERING_MAX`; then
//!   `ClaimError::Busy`.
//! - Source: design of takeover in ARCHITECTURE.md (FENCED, SESSION-TRUE).
//!
//! ```text
//! ClaimBy ─► (others of this key wait) ─► Kick the old connection, it releases ─► commit Claim
//!                           reply ◄─ kick whom the shard still names as holder ◄───────┘
//! ```

mod message;
mod register;
mod lead;
mod tell;
pub mod client;

use std::{collections::VecDeque, rc::Rc, sync::Arc};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient, ResponseFuture,
    WrapFuture as _,
};
use ahash::{AHashMap, AHashSet};
use hongqiao_cluster::id::ShardId;
use tokio::sync::oneshot;

use lead::{Era, Role};
pub use message::{
    CallAgain, Claim, ClaimBy, ClaimError, Granted, Release, ReleaseBy, SessionsEnded, WhoIs,
};
use register::{Register, Seat};
use tell::Untold;

use super::{
    appender::{Submit, SubmitError},
    facts::News,
    groups::SessionsGone,
    hub::{Kick, SessionsGrew, TakeRoll},
    peer::{Class, PeerRequest, Peers},
    upkeep::{Local, Look, Sweep},
    view::{Start, View},
};
use crate::{
    clock, limits,
    model::{
        connection_id::ConnectionId,
        id::{Epoch, SessionKey},
        reason::Reason,
    },
    shard::{
        command::{Claimed, Command, Holder, Reply, SessionClaim},
        query::HeldPage,
    },
};

/// Whom a home talks to.
pub struct Neighbours {
    /// By worker.
    pub kick: Vec<Recipient<Kick>>,
    /// By worker.
    pub grew: Vec<Recipient<SessionsGrew>>,
    /// By worker.
    pub roll: Vec<Recipient<TakeRoll>>,
    /// Of the home's own worker.
    pub submit: Recipient<Submit>,
    /// Of the same shard.
    pub look: Recipient<Look>,
    /// Of the same shard.
    pub sweep: Recipient<Sweep>,
    /// By worker.
    pub groups: Vec<Recipient<SessionsGone>>,
    /// Lists the next durable sessions of the shard; a read.
    pub held: Rc<dyn Fn(Option<SessionKey>) -> Local<Option<HeldPage>>>,
    /// The other nodes.
    pub peers: Peers,
    /// Who leads and who is up.
    pub view: View,
}

type Answer = oneshot::Sender<Result<Granted, ClaimError>>;

/// See the file header.
pub struct Home {
    shard: ShardId,
    role: Role,
    era: Era,
    sessions: Register,
    claiming: AHashMap<SessionKey, VecDeque<(ClaimBy, Answer)>>,
    /// Starts of nodes whose roll was called in this era.
    called: AHashSet<Start>,
    /// What other nodes have to be told.
    untold: AHashMap<Start, Untold>,
    /// By worker: connections with news for a hub whose mailbox is full.
    waiting_for_hub: AHashMap<usize, AHashSet<ConnectionId>>,
    neighbours: Neighbours,
    news: Arc<News>,
}

impl Home {
    /// Creates the home of `shard`; it begins to act when the view says that this node leads.
    #[must_use]
    pub fn new(shard: ShardId, neighbours: Neighbours, news: Arc<News>) -> Self {
        Self {
            shard,
            role: Role::Away,
            era: Era::default(),
            sessions: Register::default(),
            claiming: AHashMap::new(),
            called: AHashSet::new(),
            untold: AHashMap::new(),
            waiting_for_hub: AHashMap::new(),
            neighbours,
            news,
        }
    }

    fn take_claim(&mut self, claim: ClaimBy, answer: Answer, ctx: &mut Context<Self>) {
        // Its claimant may have a new name by now.
        if self.neighbours.view.members().is_gone(claim.by) {
            return self.say_moved(answer);
        }
        match &mut self.role {
            Role::Away => self.say_moved(answer),
            Role::Gathering(gathering) => gathering.wait(claim, answer),
            Role::Here { .. } => self.queue_claim(claim, answer, ctx),
        }
    }

    fn queue_claim(&mut self, claim: ClaimBy, answer: Answer, ctx: &mut Context<Self>) {
        match self.claiming.get_mut(&claim.claim.key) {
            Some(waiting) if waiting.len() >= limits::CLAIMS_WAITING_MAX => {
                let _ = answer.send(Err(ClaimError::Busy));
            }
            Some(waiting) => waiting.push_back((claim, answer)),
            None => {
                self.claiming.insert(claim.claim.key, VecDeque::new());
                self.start_claim(claim, answer, ctx);
            }
        }
    }

    fn start_claim(&mut self, claim: ClaimBy, answer: Answer, ctx: &mut Context<Self>) {
        let key = claim.claim.key;
        let seat = self.sessions.get(key).unwrap_or_default();
        let durable = seat.is_durable() || claim.claim.stores();
        let own = (claim.by, claim.claim.connection);
        let old = self.sessions.connection(key).filter(|old| *old != own);
        if old.is_none() && !durable {
            return self.finish_claim(&claim, Ok(Box::default()), answer, ctx);
        }
        let kicked = old.map(|old| self.kick(old));
        let term = self.role.term().unwrap_or(0);
        let submitted = durable.then(|| {
            let command = claim_command(term, &claim);
            (self.neighbours.submit.clone(), Submit { shard: self.shard, command })
        });
        let (view, by) = (self.neighbours.view.clone(), claim.by);
        let work = async move {
            if let Some(kicked) = kicked {
                kicked.await;
            }
            let Some((submit, message)) = submitted else { return Ok(Box::default()) };
            // Looked at when it is sent: what goes out behind the upkeep's `Lead` is of nobody who was dead then.
            if view.members().is_gone(by) {
                return Err(ClaimError::Unavailable);
            }
            match submit.send(message).await {
                Ok(Ok(Reply::Claimed(claimed))) => Ok(claimed),
                Ok(Err(SubmitError::Overloaded)) => Err(ClaimError::Busy),
                _ => Err(ClaimError::Unavailable),
            }
        };
        let era = self.era.now();
        ctx.spawn(work.into_actor(self).map(move |claimed, actor, ctx| {
            // What is committed now may be unknown to the home that follows.
            if !actor.era.is(era) {
                return actor.say_moved(answer);
            }
            actor.kick_holder(claim, claimed, old, answer, ctx);
        }));
    }

    /// Kicks the connection that the shard names as the last holder, if the register did not know it.
    fn kick_holder(
        &mut self,
        claim: ClaimBy,
        claimed: Result<Box<Claimed>, ClaimError>,
        kicked: Option<(Start, ConnectionId)>,
        answer: Answer,
        ctx: &mut Context<Self>,
    ) {
        let holder = claimed.as_ref().ok().and_then(|claimed| claimed.previous_holder);
        let holder = holder.map(|held| (Start::of(&held), ConnectionId::from_u64(held.connection)));
        let own = (claim.by, claim.claim.connection);
        let Some(holder) = holder.filter(|held| *held != own && Some(*held) != kicked) else {
            return self.finish_claim(&claim, claimed, answer, ctx);
        };
        let (kicked, era) = (self.kick(holder), self.era.now());
        ctx.spawn(kicked.into_actor(self).map(move |(), actor, ctx| {
            if !actor.era.is(era) {
                return actor.say_moved(answer);
            }
            actor.finish_claim(&claim, claimed, answer, ctx);
        }));
    }

    fn say_moved(&self, answer: Answer) {
        let to = self.neighbours.view.lead(self.shard).leader;
        let _ = answer.send(Err(ClaimError::Moved { to }));
    }

    /// Ends a connection of any node. Completes when it has released, is known to be dead, or after
    /// `limits::TAKEOVER_WAIT`.
    fn kick(&self, (start, connection): (Start, ConnectionId)) -> Local<()> {
        let kick = Kick { connection, reason: Reason::SessionTakenOver };
        let members = self.neighbours.view.members();
        if start == members.me {
            let Some(hub) = self.neighbours.kick.get(connection.worker()) else {
                return Box::pin(async {});
            };
            let kicked = tokio::time::timeout(limits::TAKEOVER_WAIT, hub.send(kick));
            return Box::pin(async move { drop(kicked.await) });
        }
        if members.is_gone(start) {
            return Box::pin(async {});
        }
        let request = PeerRequest::Kick { incarnation: start.incarnation, kick };
        let peers = &self.neighbours.peers;
        let kicked = peers.ask(start.node, Class::Control, &request, limits::TAKEOVER_WAIT);
        Box::pin(async move { drop(kicked.await) })
    }

    fn finish_claim(
        &mut self,
        ClaimBy { by, claim }: &ClaimBy,
        claimed: Result<Box<Claimed>, ClaimError>,
        answer: Answer,
        ctx: &mut Context<Self>,
    ) {
        let granted = claimed.and_then(|claimed| {
            let seated =
                self.sessions.seated(*by, claim.connection).ok_or(ClaimError::Unavailable)?;
            let seat = Seat::new(seated)
                .durable(claimed.epoch != Epoch::default())
                .ending_with_connection(claim.expiry_secs == 0);
            let old = self.sessions.insert(claim.key, seat);
            if claim.clean_start && old.is_some_and(Seat::is_durable) {
                self.look();
                self.say_gone(claim.key);
            }
            Ok(Granted { claimed, term: self.role.term().unwrap_or(0) })
        });
        let _ = answer.send(granted);
        match self.claiming.get_mut(&claim.key).and_then(VecDeque::pop_front) {
            Some((next, answer)) => self.start_claim(next, answer, ctx),
            None => {
                self.claiming.remove(&claim.key);
            }
        }
    }

    /// Forgets the connection of a session, if it is still this one, and the session if it ends.
    fn unregister(&mut self, ReleaseBy { by, release }: &ReleaseBy) {
        let Some(seated) = self.sessions.seated(*by, release.connection) else { return };
        let Some(seat) = self.sessions.leave(release.key, seated) else { return };
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
}

fn claim_command(term: u64, ClaimBy { by, claim }: &ClaimBy) -> Command {
    let claim = SessionClaim {
        key: claim.key,
        app: claim.app,
        client_id: claim.client_id.clone(),
        clean_start: claim.clean_start,
        expiry_secs: claim.expiry_secs,
        will: claim.will.clone(),
        holder: Holder {
            node: by.node.0,
            incarnation: by.incarnation,
            connection: claim.connection.to_u64(),
        },
        now_ms: clock::wall_ms(),
    };
    Command::ClaimIn { term, claim: Box::new(claim) }
}

impl Actor for Home {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::HOME_MAILBOX_MESSAGES);
        self.wait_for_news(ctx);
        self.follow(ctx);
    }
}

impl Handler<ClaimBy> for Home {
    type Result = ResponseFuture<Result<Granted, ClaimError>>;

    fn handle(&mut self, claim: ClaimBy, ctx: &mut Self::Context) -> Self::Result {
        let (answer, reply) = oneshot::channel();
        self.take_claim(claim, answer, ctx);
        Box::pin(async move { reply.await.unwrap_or(Err(ClaimError::Unavailable)) })
    }
}

impl Handler<ReleaseBy> for Home {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, by: ReleaseBy, _ctx: &mut Self::Context) -> Self::Result {
        if matches!(self.role, Role::Away) {
            return Box::pin(async { false });
        }
        self.unregister(&by);
        let release = by.release;
        if release.epoch == Epoch::default() {
            return Box::pin(async { true });
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
        let (look, sweep) = (self.neighbours.look.clone(), self.neighbours.sweep.clone());
        let start = by.by;
        Box::pin(async move {
            // Without a commit the next start of the node, or the next claim, releases it.
            let released = released.await;
            let _ = look.try_send(Look);
            if matches!(released, Ok(Ok(Reply::Fenced))) {
                // Taken over; or its own claim was applied twice, the second time by the stream of an earlier
                // home and with an epoch that nobody has been told. Then the session is held by a connection
                // that will be gone in a moment.
                actix_rt::spawn(async move {
                    tokio::time::sleep(limits::HOME_RETRY_MAX).await;
                    let _ = sweep.try_send(Sweep(start));
                });
            }
            matches!(released, Ok(Ok(_)))
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

impl Handler<CallAgain> for Home {
    type Result = bool;

    fn handle(&mut self, CallAgain(start): CallAgain, ctx: &mut Self::Context) -> bool {
        let here = !matches!(self.role, Role::Away);
        if here {
            self.call_roll(start, ctx);
            // A full mailbox: the session is released with the next claim, or change of leader.
            let _ = self.neighbours.sweep.try_send(Sweep(start));
        }
        here
    }
}

impl Handler<WhoIs> for Home {
    type Result = actix::MessageResult<WhoIs>;

    fn handle(&mut self, who: WhoIs, _ctx: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.sessions.connection(who.0))
    }
}

#[cfg(test)]
mod tests;
