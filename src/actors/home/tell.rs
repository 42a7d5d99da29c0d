//! Tells connections that the logs of their sessions grew, on whatever node they are.
//!
//! - Owns: what the other nodes have not confirmed yet, and what waits for room at hubs of this one.
//! - Takes: news of the shard. Gives: `SessionsGrew` to hubs, and over the links.
//! - Bound: one entry per session; one message under way per node, and one beyond a full mailbox per hub; what
//!   comes meanwhile gathers.
//! - A message that is not confirmed is sent again; one about a connection that is gone changes nothing.

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _, prelude::SendError};
use ahash::AHashSet;

use super::{Home, lead::Role};
use crate::{
    actors::{
        facts::Told,
        hub::SessionsGrew,
        peer::{Class, PeerReply, PeerRequest},
        view::Start,
    },
    limits,
    model::connection_id::ConnectionId,
};

/// What one node has to be told.
#[derive(Default)]
pub(super) struct Untold {
    connections: AHashSet<ConnectionId>,
    /// A message is under way, or rests before the next attempt.
    busy: bool,
}

impl Home {
    /// Waits for news of the log, again and again.
    pub(super) fn wait_for_news(&self, ctx: &mut Context<Self>) {
        let news = std::sync::Arc::clone(&self.news);
        let taken = async move { news.take().await };
        ctx.spawn(taken.into_actor(self).map(|told, actor, ctx| {
            actor.tell(told, ctx);
            actor.wait_for_news(ctx);
        }));
    }

    fn tell(&mut self, told: Told, ctx: &mut Context<Self>) {
        if matches!(self.role, Role::Away) {
            return;
        }
        for key in told.began {
            self.sessions.mark_durable(key);
        }
        let me = self.neighbours.view.me();
        let mut here = vec![Vec::new(); self.neighbours.grew.len()];
        let mut others = AHashSet::new();
        for (_, holder) in told.grew {
            let connection = ConnectionId::from_u64(holder.connection);
            let start = Start::of(&holder);
            if start != me {
                self.untold.entry(start).or_default().connections.insert(connection);
                others.insert(start);
            } else if let Some(list) = here.get_mut(connection.worker()) {
                list.push(connection);
            }
        }
        for (worker, connections) in here.into_iter().enumerate() {
            self.tell_here(worker, connections, ctx);
        }
        for start in others {
            self.tell_there(start, ctx);
        }
    }

    /// Tells a hub which of its connections have news; what it has no room for gathers until it has.
    fn tell_here(
        &mut self,
        worker: usize,
        connections: Vec<ConnectionId>,
        ctx: &mut Context<Self>,
    ) {
        if connections.is_empty() {
            return;
        }
        if let Some(waiting) = self.waiting_for_hub.get_mut(&worker) {
            return waiting.extend(connections);
        }
        let Some(hub) = self.neighbours.grew.get(worker) else { return };
        // One that is closed has no connections any more.
        let Err(SendError::Full(grew)) = hub.try_send(SessionsGrew { connections }) else { return };
        // A request has a place of its own in a mailbox, beyond its capacity, and is answered when its turn has
        // come. Nothing is tried again meanwhile: the hub may be on this thread and wait for it.
        let heard = hub.send(grew);
        self.waiting_for_hub.insert(worker, AHashSet::new());
        ctx.spawn(heard.into_actor(self).map(move |_, actor, ctx| {
            let waiting = actor.waiting_for_hub.remove(&worker).unwrap_or_default();
            actor.tell_here(worker, waiting.into_iter().collect(), ctx);
        }));
    }

    fn tell_there(&mut self, start: Start, ctx: &mut Context<Self>) {
        if self.neighbours.view.members().is_gone(start) {
            self.untold.remove(&start);
            return;
        }
        let Some(untold) = self.untold.get_mut(&start) else { return };
        if untold.connections.is_empty() {
            self.untold.remove(&start);
            return;
        }
        if std::mem::replace(&mut untold.busy, true) {
            return;
        }
        let some = untold.connections.iter().take(limits::NEWS_PER_MESSAGE).copied();
        let connections: Vec<_> = some.collect();
        for connection in &connections {
            untold.connections.remove(connection);
        }
        let (incarnation, now) = (start.incarnation, self.era.now());
        let request = PeerRequest::SessionsGrew { incarnation, connections: connections.clone() };
        let peers = &self.neighbours.peers;
        let told = peers.ask(start.node, Class::Control, &request, limits::NEWS_TIMEOUT);
        let told = async move {
            let confirmed = matches!(told.await, Ok(PeerReply::Done));
            if !confirmed {
                tokio::time::sleep(limits::HOME_RETRY).await;
            }
            confirmed
        };
        ctx.spawn(told.into_actor(self).map(move |confirmed, actor, ctx| {
            if !actor.era.is(now) {
                return;
            }
            if let Some(untold) = actor.untold.get_mut(&start) {
                untold.busy = false;
                if !confirmed {
                    untold.connections.extend(connections);
                }
            }
            actor.tell_there(start, ctx);
        }));
    }
}
