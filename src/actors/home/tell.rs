//! Tells connections that the logs of their sessions grew, on whatever node they are.
//!
//! - Owns: what the other nodes have not confirmed yet.
//! - Takes: news of the shard. Gives: `SessionsGrew` to hubs, and over the links.
//! - Bound: one entry per session; one message under way per node, what comes meanwhile gathers.
//! - A message that is not confirmed is sent again; one about a connection that is gone changes nothing.

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
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
    model::{connection_id::ConnectionId, id::SessionKey},
    shard::command::Holder,
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
        for (key, holder) in told.grew {
            let connection = ConnectionId::from_u64(holder.connection);
            let start = Start::of(&holder);
            if start != me {
                self.untold.entry(start).or_default().connections.insert(connection);
                others.insert(start);
            } else if let Some(list) = here.get_mut(connection.worker()) {
                list.push((key, holder));
            }
        }
        self.tell_here(here);
        for start in others {
            self.tell_there(start, ctx);
        }
    }

    /// Tells the hubs which of their connections have news; what a hub cannot take comes again.
    fn tell_here(&self, by_worker: Vec<Vec<(SessionKey, Holder)>>) {
        for (list, hub) in by_worker.into_iter().zip(&self.neighbours.grew) {
            let id = |holder: &Holder| ConnectionId::from_u64(holder.connection);
            let connections = list.iter().map(|(_, holder)| id(holder)).collect();
            if !list.is_empty() && hub.try_send(SessionsGrew { connections }).is_err() {
                self.news.add(list);
            }
        }
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
