//! Gives a member of a group its share.
//!
//! - Takes: messages that were dealt to one member. Gives: `DeliverTo` to the router of its worker; `Share` to
//!   the shard of its session, with an id if the message has one (`again`).
//! - Bound: a member whose session has ended is passed over once.

use std::{pin::Pin, sync::Arc};

use actix::Addr;

use super::{
    DeliverTo, Dispatch, GroupKey, Groups, Member, NoRoom, NotAMember, Share, again::Unknown,
};
use crate::{
    actors::{
        appender::{Submit, SubmitError},
        publish,
    },
    limits,
    model::{
        id::SessionKey,
        message::{Message as Published, Qos},
        reason::Reason,
    },
    shard::command::{Command, Reply},
};

/// Says that a member, or its log, has what it was given.
pub(super) type Handed = Pin<Box<dyn Future<Output = Result<(), Reason>>>>;

pub(super) fn boxed(future: impl Future<Output = Result<(), Reason>> + 'static) -> Handed {
    Box::pin(future)
}

/// Who is next if a member turns out to be none.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    /// So many members had no room; after `limits::GROUPS_PASSES_MAX` it waits at the next.
    Any {
        passes: u32,
    },
    Durable,
}

impl Groups {
    /// Sends a member its share; the futures say when it, or its log, has it.
    pub(super) fn hand_over(
        &mut self,
        key: GroupKey,
        (member, messages): Share,
        turn: Turn,
        own: &Addr<Self>,
    ) -> Vec<Handed> {
        let (stored, live): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|message| member.log().is_some() && message.qos > Qos::AtMostOnce);
        let mut handed = Vec::new();
        if let (Some(connection), false) = (member.connection, live.is_empty())
            && let Some(router) = self.neighbours.routers.get(connection.worker())
        {
            for id in live.iter().filter_map(|message| message.id) {
                self.dealt_live.insert(id.in_group(key.0));
            }
            // Live members get nothing for a second time.
            let Turn::Any { passes } = turn else { return handed };
            let forced = passes >= limits::GROUPS_PASSES_MAX;
            let deliver = DeliverTo { group: key, member, connection, messages: live, forced };
            let (sent, own) = (router.send(deliver), own.clone());
            handed.push(boxed(async move {
                let messages = sent.await.map_err(|_| Reason::ServerShuttingDown)?;
                if messages.is_empty() {
                    return Ok(());
                }
                let passes = passes.saturating_add(1);
                let no_room = NoRoom { group: key, who: member.key, messages, passes };
                let dealt = own.send(no_room).await;
                dealt.unwrap_or(Err(Reason::ServerShuttingDown))
            }));
        }
        let Some(session) = member.log().filter(|_| !stored.is_empty()) else { return handed };
        let mut store = |messages| {
            handed.extend(self.store(key, (member, session), messages, (turn, own)));
        };
        // Each id must be known by itself.
        if stored.iter().any(|message| message.id.is_some()) {
            stored.into_iter().for_each(|message| store(vec![message]));
        } else {
            store(stored);
        }
        handed
    }

    /// Puts messages into the log of a member: one, or several without ids.
    fn store(
        &self,
        key: GroupKey,
        (member, session): (Member, SessionKey),
        messages: Vec<Arc<Published>>,
        (turn, own): (Turn, &Addr<Self>),
    ) -> Option<Handed> {
        let group = self.groups.get(&key)?;
        let command = Command::Share {
            key: session,
            share: group.share.clone(),
            filter: group.filter.clone(),
            id: messages.first().and_then(|message| message.id).map(|id| id.in_group(key.0)),
            messages: messages.clone(),
            quota: self.neighbours.quotas.of(group.app).quota,
        };
        let shard = session.bucket().shard(self.neighbours.shards);
        let reply = self.neighbours.submit.send(Submit { shard, command });
        let own = own.clone();
        Some(boxed(async move {
            let reply = reply.await.unwrap_or(Err(SubmitError::Unavailable));
            if reply != Ok(Reply::Fenced) {
                return publish::accepted(&reply);
            }
            // Its session has ended, and the news is still on its way here: another member gets it.
            let _ = own.send(NotAMember { group: key, member }).await;
            let dealt = match (turn, messages.first()) {
                (Turn::Durable, Some(message)) => {
                    own.send(Unknown { group: key, message: Arc::clone(message) }).await
                }
                _ => own.send(Dispatch { group: key, key: None, messages }).await,
            };
            dealt.unwrap_or(Err(Reason::ServerShuttingDown))
        }))
    }
}
