//! Background work of one shard: what is due by the clock.
//!
//! - Owns: the knowledge that a round is under way, how far sessions of dead connections are released
//!   (`upkeep/stale.rs`), and how far wills are that could not be finished (`upkeep/wills.rs`).
//! - Takes: `Look` (something may be due), `Sweep`, and its own tick each second. Gives: `Tick` commands,
//!   wills to publish, `SessionsEnded` to the home; lets orphans of shared groups move (`redispatch`).
//! - Acts only while this node leads the shard.
//! - Bound: one round at a time, `limits::UPKEEP_STEPS` steps per commit and that many wills at once, `limits::STALE_SESSIONS_LOOKED`
//!   sessions looked at for a release; an idle shard is only read, never written, so that an idle node
//!   leaves its disk alone.
//! - Source: MQTT 5.0 sections 3.1.2.5 (will) and 3.1.2.11.2 (session expiry).

mod stale;
mod wills;

use std::{pin::Pin, rc::Rc};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, Recipient,
    WrapFuture as _,
};
use hongqiao_cluster::id::ShardId;

use stale::Stale;
use wills::Wills;

use super::{
    appender::Submit,
    groups::SessionsGone,
    home::SessionsEnded,
    hub::GoneAmong,
    peer::Peers,
    publish::{Fate, Progress},
    redispatch::Moved,
    view::{Start, View},
};
use crate::{
    clock, limits,
    model::{id::SessionKey, message::Message as Published},
    shard::{
        command::{Command, Reply},
        query::HeldPage,
    },
};

/// Sent by the home: something may be due now.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Look;

/// Sent by the home: this start of a node may have lost releases of its connections.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Sweep(pub Start);

/// A future of this thread.
pub type Local<T> = Pin<Box<dyn Future<Output = T>>>;

/// Whom the upkeep talks to.
#[derive(Clone)]
pub struct Neighbours {
    /// Of this worker.
    pub submit: Recipient<Submit>,
    /// By worker.
    pub groups: Vec<Recipient<SessionsGone>>,
    /// Asks the shard what is due at that time; a read.
    pub is_due: Rc<dyn Fn(u64) -> Local<Due>>,
    /// Moves what members of shared groups left.
    pub mover: Rc<dyn Fn() -> Local<Moved>>,
    /// Lists the next durable sessions with their holders; a read.
    pub held: Rc<dyn Fn(Option<SessionKey>) -> Local<Option<HeldPage>>>,
    /// Hubs, by worker.
    pub gone: Vec<Recipient<GoneAmong>>,
    /// The other nodes.
    pub peers: Peers,
    /// Who leads, who is up.
    pub view: View,
    /// Publishes a will, or what is still open of it.
    pub publish: Rc<dyn Fn(Published, Progress) -> Local<Fate>>,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// `Tick` would find something.
    pub tick: bool,
    /// Members of shared groups have left something.
    pub orphans: bool,
}

/// See the file header.
pub struct Upkeep {
    shard: ShardId,
    neighbours: Neighbours,
    home: Option<Recipient<SessionsEnded>>,
    busy: bool,
    again: bool,
    stale: Stale,
    /// While a round is under way, it has them.
    wills: Wills,
    /// Orphans are being moved, beside the rounds: one member that is slow holds up no deadline.
    moving: bool,
}

/// Sent by the server once both exist: the home of the same shard.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Meet(pub Recipient<SessionsEnded>);

impl Upkeep {
    /// Creates the upkeep of `shard`.
    #[must_use]
    pub fn new(shard: ShardId, neighbours: Neighbours) -> Self {
        Self {
            shard,
            neighbours,
            home: None,
            busy: false,
            again: false,
            stale: Stale::default(),
            wills: Wills::default(),
            moving: false,
        }
    }

    fn start_round(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            self.again = true;
            return;
        }
        let lead = self.neighbours.view.lead(self.shard);
        if !lead.here {
            self.stale = Stale::default();
            self.wills = Wills::default();
            return;
        }
        self.stale.follow(lead.term, &self.neighbours.view.members());
        self.wills.follow(lead.term);
        self.busy = true;
        let (shard, mut stale) = (self.shard, std::mem::take(&mut self.stale));
        let mut wills = std::mem::take(&mut self.wills);
        let (neighbours, home) = (self.neighbours.clone(), self.home.clone());
        let work = async move {
            let moved = stale.step(shard, &neighbours).await;
            let due = (neighbours.is_due)(clock::wall_ms()).await;
            let more = due.tick && round(shard, &neighbours, home, &mut wills).await;
            ((stale, wills), moved, due.orphans, more)
        };
        ctx.spawn(work.into_actor(self).map(
            |((stale, wills), moved, orphans, more), actor, ctx| {
                actor.busy = false;
                actor.wills = wills;
                // The round may have ended sessions that leave orphans; if it has, the next look finds them.
                if orphans {
                    actor.start_moving(ctx);
                }
                let meanwhile = std::mem::replace(&mut actor.stale, stale);
                actor.stale.add_unsure(meanwhile);
                if more || moved || std::mem::take(&mut actor.again) {
                    actor.start_round(ctx);
                }
            },
        ));
    }

    fn start_moving(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.moving, true) {
            return;
        }
        let mover = Rc::clone(&self.neighbours.mover);
        let work = async move {
            let mut pause = limits::ORPHAN_PAUSE;
            loop {
                match mover().await {
                    Moved::All => return,
                    Moved::Some => pause = limits::ORPHAN_PAUSE,
                    // Members without room: soon again at first, then once a second.
                    Moved::Nothing => {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(limits::UPKEEP_INTERVAL);
                    }
                }
            }
        };
        ctx.spawn(work.into_actor(self).map(|(), actor, _| actor.moving = false));
    }
}

/// One commit of due work; `true` if more is left.
async fn round(
    shard: ShardId,
    neighbours: &Neighbours,
    home: Option<Recipient<SessionsEnded>>,
    open: &mut Wills,
) -> bool {
    let command = Command::Tick { now_ms: clock::wall_ms(), limit: limits::UPKEEP_STEPS };
    let reply = neighbours.submit.send(Submit { shard, command }).await;
    let Ok(Ok(Reply::Ticked { wills, sessions_ended, more })) = reply else { return false };
    if !sessions_ended.is_empty() {
        for groups in &neighbours.groups {
            let _ = groups.send(SessionsGone(sessions_ended.clone())).await;
        }
        if let Some(home) = home {
            let _ = home.send(SessionsEnded(sessions_ended)).await;
        }
    }
    open.publish(shard, neighbours, wills).await;
    // A will that is still open is due again later: it holds up nothing.
    more
}

impl Actor for Upkeep {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(limits::UPKEEP_INTERVAL, Self::start_round);
    }
}

impl Handler<Look> for Upkeep {
    type Result = ();

    fn handle(&mut self, _: Look, ctx: &mut Self::Context) {
        self.start_round(ctx);
    }
}

impl Handler<Sweep> for Upkeep {
    type Result = ();

    fn handle(&mut self, Sweep(start): Sweep, ctx: &mut Self::Context) {
        self.stale.doubt(start);
        self.start_round(ctx);
    }
}

impl Handler<Meet> for Upkeep {
    type Result = ();

    fn handle(&mut self, meet: Meet, _ctx: &mut Self::Context) {
        self.home = Some(meet.0);
    }
}
