//! How a home begins and ends to act, as the lead of its shard comes and goes.
//!
//! ```text
//! Away ─(this node leads)─► Gathering ─(all loaded, all answered, or 2 s)─► Here
//!   ▲                            └───────────(no longer)───────────┴──► Away
//! ```
//!
//! - Owns: the role, and the number of the era, which tells late answers from those that count.
//! - Takes: leader and members; the durable sessions of the shard; the roll of each node that is up.
//! - Gives: a register that knows every durable session with its holder, and every other connection.
//! - Bound: `limits::CLAIMS_GATHERING_MAX` claims wait meanwhile; one roll call per node and era.
//! - A node that does not answer is asked until it does, or is declared down; claims do not wait for it.
//! - Two connections without storage that share a key were granted by homes that did not know each other
//!   (a partition): both are kicked while gathering, later the one that was not known.

use std::{cell::Cell, collections::VecDeque, rc::Rc, sync::Arc};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use hongqiao_cluster::Lead;
use tokio::sync::watch;

use super::{
    Answer, ClaimBy, ClaimError, Home,
    client::{RollPage, take_roll},
    register::{Seat, Seated},
};
use crate::{
    actors::{
        hub::TakeRoll,
        peer::{Class, PeerReply, PeerRequest, Peers, RollFrom},
        upkeep::Local,
        view::{Members, Start, View},
    },
    limits,
    model::{connection_id::ConnectionId, id::SessionKey},
    shard::{command::Holder, query::HeldPage},
};

/// What a home does now.
pub(super) enum Role {
    /// Another node leads, or nobody.
    Away,
    /// The register is being filled.
    Gathering(Gathering),
    /// Claims are granted.
    Here { term: u64 },
}

impl Role {
    /// Returns the term in which this node leads.
    pub(super) fn term(&self) -> Option<u64> {
        match self {
            Self::Away => None,
            Self::Gathering(gathering) => Some(gathering.term),
            Self::Here { term } => Some(*term),
        }
    }
}

/// What is missing until claims are granted.
pub(super) struct Gathering {
    term: u64,
    /// The durable sessions are in the register.
    loaded: bool,
    /// Nodes that have not answered yet.
    unheard: usize,
    /// They had their time.
    late: bool,
    waiting: VecDeque<(ClaimBy, Answer)>,
}

impl Gathering {
    /// Keeps a claim until the register is filled.
    pub(super) fn wait(&mut self, claim: ClaimBy, answer: Answer) {
        if self.waiting.len() < limits::CLAIMS_GATHERING_MAX {
            self.waiting.push_back((claim, answer));
        } else {
            let _ = answer.send(Err(ClaimError::Busy));
        }
    }

    fn is_done(&self) -> bool {
        self.loaded && (self.unheard == 0 || self.late)
    }
}

/// Counts the changes of role; shared with what works for the home.
#[derive(Clone, Default)]
pub(super) struct Era(Rc<Cell<u64>>);

impl Era {
    pub(super) fn now(&self) -> u64 {
        self.0.get()
    }

    pub(super) fn is(&self, era: u64) -> bool {
        self.0.get() == era
    }

    fn end(&self) {
        self.0.set(self.0.get() + 1);
    }
}

type Loaded = Vec<(SessionKey, Option<Holder>)>;

impl Home {
    /// Follows leader and members until they never change again.
    pub(super) fn follow(&mut self, ctx: &mut Context<Self>) {
        self.on_lead(ctx);
        if let Some(lead) = self.neighbours.view.watch_lead(self.shard) {
            self.wait_for_lead(lead, ctx);
        }
        self.wait_for_members(self.neighbours.view.watch_members(), ctx);
    }

    fn wait_for_lead(&self, mut lead: watch::Receiver<Lead>, ctx: &mut Context<Self>) {
        let changed = async move { lead.changed().await.is_ok().then_some(lead) };
        ctx.spawn(changed.into_actor(self).map(|lead, actor, ctx| {
            if let Some(lead) = lead {
                actor.on_lead(ctx);
                actor.wait_for_lead(lead, ctx);
            }
        }));
    }

    fn wait_for_members(
        &self,
        mut members: watch::Receiver<Arc<Members>>,
        ctx: &mut Context<Self>,
    ) {
        let changed = async move { members.changed().await.is_ok().then_some(members) };
        ctx.spawn(changed.into_actor(self).map(|members, actor, ctx| {
            if let Some(members) = members {
                actor.on_members(ctx);
                actor.wait_for_members(members, ctx);
            }
        }));
    }

    fn on_lead(&mut self, ctx: &mut Context<Self>) {
        let lead = self.neighbours.view.lead(self.shard);
        if self.role.term() == lead.here.then_some(lead.term) {
            return;
        }
        self.end_lead();
        if lead.here {
            self.begin_lead(lead.term, ctx);
        }
    }

    fn end_lead(&mut self) {
        self.era.end();
        self.news.keep(false);
        let role = std::mem::replace(&mut self.role, Role::Away);
        if let Role::Gathering(gathering) = role {
            gathering.waiting.into_iter().for_each(|(_, answer)| self.say_moved(answer));
        }
        let waiting = std::mem::take(&mut self.claiming).into_values().flatten();
        for (_, answer) in waiting.collect::<Vec<_>>() {
            self.say_moved(answer);
        }
        self.sessions = Default::default();
        self.called.clear();
        self.untold.clear();
    }

    fn begin_lead(&mut self, term: u64, ctx: &mut Context<Self>) {
        // What is told from now on is about entries behind those that are loaded.
        self.news.keep(true);
        self.role = Role::Gathering(Gathering {
            term,
            loaded: false,
            unheard: 0,
            late: false,
            waiting: VecDeque::new(),
        });
        let era = self.era.now();
        let load = load(self.neighbours.held.clone(), self.era.clone());
        ctx.spawn(load.into_actor(self).map(move |loaded, actor, ctx| {
            if actor.era.is(era) {
                actor.take_loaded(loaded);
                actor.open_if_done(ctx);
            }
        }));
        for start in self.neighbours.view.members().up() {
            self.call_roll(start, ctx);
        }
        ctx.run_later(limits::GATHER_WAIT, move |actor, ctx| {
            if let (true, Role::Gathering(gathering)) = (actor.era.is(era), &mut actor.role) {
                gathering.late = true;
                actor.open_if_done(ctx);
            }
        });
        tracing::debug!(shard = self.shard.0, term, "home gathers its sessions");
    }

    fn on_members(&mut self, ctx: &mut Context<Self>) {
        if matches!(self.role, Role::Away) {
            return;
        }
        let members = self.neighbours.view.members();
        for start in self.called.iter().copied().filter(|start| members.is_gone(*start)) {
            self.sessions.forget_start(start);
            self.untold.remove(&start);
        }
        self.called.retain(|start| !members.is_gone(*start));
        for start in members.up().filter(|start| !self.called.contains(start)).collect::<Vec<_>>() {
            self.call_roll(start, ctx);
        }
    }

    /// Asks a node for its connections of this shard.
    pub(super) fn call_roll(&mut self, start: Start, ctx: &mut Context<Self>) {
        let Some(term) = self.role.term() else { return };
        self.called.insert(start);
        if let Role::Gathering(gathering) = &mut self.role {
            gathering.unheard += 1;
        }
        let (era, now) = (self.era.clone(), self.era.now());
        let call = RollCall {
            shard: self.shard.0,
            term,
            view: self.neighbours.view.clone(),
            hubs: self.neighbours.roll.clone(),
            peers: self.neighbours.peers.clone(),
        };
        let called = call.of(start, move || era.is(now));
        ctx.spawn(called.into_actor(self).map(move |roll, actor, ctx| {
            if !actor.era.is(now) {
                return;
            }
            actor.take_roll(start, roll.unwrap_or_default());
            if let Role::Gathering(gathering) = &mut actor.role {
                gathering.unheard = gathering.unheard.saturating_sub(1);
            }
            actor.open_if_done(ctx);
        }));
    }

    fn take_loaded(&mut self, loaded: Loaded) {
        let members = self.neighbours.view.members();
        for (key, holder) in loaded {
            let start = holder.as_ref().map(Start::of).filter(|start| !members.is_gone(*start));
            let connection = holder.map(|held| ConnectionId::from_u64(held.connection));
            let seated = start.zip(connection);
            let seated = seated.and_then(|(start, id)| self.sessions.seated(start, id));
            let known = self.sessions.get(key).and_then(Seat::seated);
            let seat = seated.map_or_else(Seat::default, Seat::new).durable(true);
            self.sessions.insert(key, seat);
            // A connection without storage that has the key of a durable session was let in by nobody who
            // knew of it.
            if let Some(known) = known.filter(|known| Some(*known) != seated) {
                self.kick_seated(known);
            }
        }
        if let Role::Gathering(gathering) = &mut self.role {
            gathering.loaded = true;
        }
    }

    /// Takes the connections of a node into the register.
    fn take_roll(&mut self, start: Start, roll: Vec<(SessionKey, ConnectionId)>) {
        let gathering = matches!(self.role, Role::Gathering(_));
        for (key, connection) in roll {
            let Some(reported) = self.sessions.seated(start, connection) else { return };
            let Some(seat) = self.sessions.get(key) else {
                self.sessions.insert(key, Seat::new(reported));
                continue;
            };
            let known = seat.seated();
            if known == Some(reported) {
                continue;
            }
            self.kick_seated(reported);
            if let Some(known) = known.filter(|_| gathering && !seat.is_durable()) {
                self.kick_seated(known);
                self.sessions.leave(key, known);
            }
        }
    }

    fn kick_seated(&self, seated: Seated) {
        if let Some(start) = self.sessions.start(seated.place) {
            actix_rt::spawn(self.kick((start, seated.connection)));
        }
    }

    fn open_if_done(&mut self, ctx: &mut Context<Self>) {
        let Role::Gathering(gathering) = &mut self.role else { return };
        if !gathering.is_done() {
            return;
        }
        let (term, unheard) = (gathering.term, gathering.unheard);
        let waiting = std::mem::take(&mut gathering.waiting);
        self.role = Role::Here { term };
        if unheard > 0 {
            tracing::debug!(
                shard = self.shard.0,
                unheard,
                "home opens before every node has answered"
            );
        }
        for (claim, answer) in waiting {
            self.take_claim(claim, answer, ctx);
        }
        // What was released or ended while nobody led is due.
        self.look();
    }
}

/// Lists all durable sessions, however often the shard cannot be read meanwhile.
async fn load(held: Rc<dyn Fn(Option<SessionKey>) -> Local<Option<HeldPage>>>, era: Era) -> Loaded {
    let (mut loaded, mut after, now) = (Loaded::new(), None, era.now());
    while era.is(now) {
        let Some(page) = held(after).await else {
            tokio::time::sleep(limits::HOME_RETRY).await;
            continue;
        };
        loaded.extend(page.sessions.into_iter().map(|(key, _, holder)| (key, holder)));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    loaded
}

/// A roll call under way.
struct RollCall {
    shard: u16,
    term: u64,
    view: View,
    hubs: Vec<actix::Recipient<TakeRoll>>,
    peers: Peers,
}

type Roll = Vec<(SessionKey, ConnectionId)>;

impl RollCall {
    /// Asks until there is an answer; `None`: the node is gone, or `goes_on` says no.
    async fn of(self, start: Start, goes_on: impl Fn() -> bool) -> Option<Roll> {
        let (mut roll, mut from) = (Roll::new(), RollFrom::default());
        while goes_on() && !self.view.members().is_gone(start) {
            let Some((some, next)) = self.page(start, from).await else {
                tokio::time::sleep(limits::HOME_RETRY).await;
                continue;
            };
            roll.extend(some);
            match next {
                Some(next) => from = next,
                None => return Some(roll),
            }
        }
        None
    }

    async fn page(&self, start: Start, from: RollFrom) -> Option<RollPage> {
        let Self { shard, term, .. } = *self;
        if start == self.view.me() {
            return take_roll(&self.hubs, (shard, self.view.shards()), from).await;
        }
        let incarnation = start.incarnation;
        let request = PeerRequest::RollCall { incarnation, shard, term, from };
        let asked = self.peers.ask(start.node, Class::Control, &request, limits::ROLL_TIMEOUT);
        match asked.await {
            Ok(PeerReply::Roll { connections, next }) => Some((connections, next)),
            _ => None,
        }
    }
}
