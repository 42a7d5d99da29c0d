//! Where a durable subscription has its QoS 1 and 2 from while its QoS changes: live, or from the session's log.
//!
//! - Takes: `Subscribe` that keeps live what is live, `TakeLive`. Gives: live copies at QoS 0 besides what the log gives, so that
//!   nothing is missed while the session's shard and the other nodes get to know the change; a few come twice.
//! - Bound: none of its own.
//! - Source: MQTT 5.0 section 3.8.4: replacing a subscription must not lose messages.

use actix::{Handler, Message, MessageResult};

use super::{Subscriber, Subscription, TopicRouter};
use crate::model::{connection_id::ConnectionId, id::AppId, message::Qos, topic::TopicFilter};

/// Sent by a durable session's connection of the same thread: subscriptions whose QoS 1 and 2 come from the session's log have
/// them live too from now on, at QoS 0. Replies those, as they were, so that [`Subscribe`](super::Subscribe) can put them back.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Subscription>")]
pub struct TakeLive {
    /// Whose.
    pub connection: ConnectionId,
    /// Tenant.
    pub app: AppId,
    /// Which; others than those of such subscriptions are passed over.
    pub filters: Vec<TopicFilter>,
}

/// Sent by a durable session's connection of the same thread. Replies whether QoS 1 and 2 of one of these subscriptions
/// come live.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct ComesLive {
    /// Whose.
    pub connection: ConnectionId,
    /// Tenant.
    pub app: AppId,
    /// Which.
    pub filters: Vec<TopicFilter>,
}

impl TopicRouter {
    /// Returns `item` at QoS 0 if QoS 1 and 2 come live to it so far.
    pub(super) fn kept_live(&self, slot: u32, app: AppId, item: &Subscription) -> Subscription {
        let mut item = item.clone();
        if self.has_live(slot, app, &item.filter) {
            item.options.qos = Qos::AtMostOnce;
        }
        item
    }

    fn has_live(&self, slot: u32, app: AppId, filter: &TopicFilter) -> bool {
        self.has(slot, app, filter).is_some_and(|old| !old.is_from_log())
    }

    fn has(&self, slot: u32, app: AppId, filter: &TopicFilter) -> Option<Subscriber> {
        let id = self.trie.get(app, filter)?;
        self.subscribers.get(id.0 as usize)?.get(slot)
    }
}

impl Handler<TakeLive> for TopicRouter {
    type Result = MessageResult<TakeLive>;

    fn handle(&mut self, take: TakeLive, _ctx: &mut Self::Context) -> Self::Result {
        self.forget_ended();
        let (slot, app) = (take.connection.slot(), take.app);
        if self.worker.find(take.connection).is_none_or(|link| link.is_closing()) {
            return MessageResult(Vec::new());
        }
        let mut replaced = Vec::new();
        for filter in take.filters {
            let Some(old) = self.has(slot, app, &filter).filter(|old| old.is_from_log()) else {
                continue;
            };
            let old = Subscription { filter, options: old.options(), id: old.id() };
            let mut live = old.clone();
            live.options.qos = Qos::AtMostOnce;
            self.subscribe(slot, app, &live, true);
            replaced.push(old);
        }
        MessageResult(replaced)
    }
}

impl Handler<ComesLive> for TopicRouter {
    type Result = MessageResult<ComesLive>;

    fn handle(&mut self, ask: ComesLive, _ctx: &mut Self::Context) -> Self::Result {
        self.forget_ended();
        let (slot, app) = (ask.connection.slot(), ask.app);
        let is_there = self.worker.find(ask.connection).is_some();
        let comes_live = |filter: &TopicFilter| self.has_live(slot, app, filter);
        MessageResult(is_there && ask.filters.iter().any(comes_live))
    }
}
