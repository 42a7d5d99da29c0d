//! The durable members of groups over several nodes, which get messages while nobody is connected.
//!
//! - Owns: per group the sessions that were read last, and whose turn it is.
//! - Takes: pages of the shards that the route names. Gives: the next session; reads again in the background.
//! - A session that is not a member any more is taken out when its shard says so. That there is nobody is never
//!   believed from memory: a member may have come since.
//! - Bound: `limits::GROUPS_TURNS_MAX` groups, a page of each shard.

use std::{sync::Arc, time::Duration};

use actix::{Addr, Handler, Message};
use tokio::time::Instant;

use super::{GroupKey, Groups, far::FarState};
use crate::{actors::route_tables::GroupRoute, clock, limits, model::id::SessionKey};

/// How long the durable members that were read are taken without reading them again.
const AWAY_FRESH: Duration = Duration::from_secs(1);

/// Durable members of a group, connected or not.
pub(super) struct Away {
    sessions: Vec<SessionKey>,
    next: usize,
    read: Instant,
    reading: bool,
}

/// Sent by a home to itself: the durable members of a group; `None`: they could not be read.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AreAway(pub(super) GroupKey, pub(super) Option<Vec<SessionKey>>);

/// Sent by a home to itself: this session is not among them any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct NotAway(pub(super) GroupKey, pub(super) SessionKey);

impl FarState {
    /// Gives the durable member whose turn it is, if any are known.
    pub(super) fn stored_turn(&mut self, group: GroupKey) -> Option<SessionKey> {
        let away = self.away.get_mut(&group)?;
        away.next = (away.next + 1) % away.sessions.len().max(1);
        away.sessions.get(away.next).copied()
    }
}

impl Groups {
    /// Reads the durable members of a group again, if it was some time ago.
    pub(super) fn read_away(&mut self, group: GroupKey, route: &Arc<GroupRoute>, own: &Addr<Self>) {
        let Some(away) = self.far.away.get_mut(&group) else { return };
        if away.reading || away.read.elapsed() < AWAY_FRESH {
            return;
        }
        away.reading = true;
        let (far, route, own) = (Arc::clone(&self.neighbours.far), Arc::clone(route), own.clone());
        actix::spawn(async move {
            let sessions = far.durable_members(&route).await;
            let _ = own.send(AreAway(group, sessions)).await;
        });
    }
}

impl Handler<AreAway> for Groups {
    type Result = ();

    fn handle(&mut self, AreAway(group, sessions): AreAway, _ctx: &mut Self::Context) {
        let away = &mut self.far.away;
        match sessions {
            Some(sessions) if !sessions.is_empty() => {
                if away.len() >= limits::GROUPS_TURNS_MAX && !away.contains_key(&group) {
                    away.clear();
                }
                let next = away.get(&group).map_or(0, |away| away.next);
                let read = clock::timer_now();
                away.insert(group, Away { sessions, next, read, reading: false });
            }
            // Who needs them reads them himself.
            Some(_) => drop(away.remove(&group)),
            None => drop(away.get_mut(&group).map(|away| away.reading = false)),
        }
    }
}

impl Handler<NotAway> for Groups {
    type Result = ();

    fn handle(&mut self, NotAway(group, session): NotAway, _ctx: &mut Self::Context) {
        let Some(away) = self.far.away.get_mut(&group) else { return };
        away.sessions.retain(|known| *known != session);
        if away.sessions.is_empty() {
            self.far.away.remove(&group);
        }
    }
}
