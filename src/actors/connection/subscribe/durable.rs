//! SUBSCRIBE of a durable session: stored first, and replaced without a gap when its QoS changes.
//!
//! - Takes: subscriptions. Gives: per item whether it is in force.
//! - Bound: as its parent.
//! - Source: MQTT 5.0 section 3.8.4: replacing a subscription must not lose messages.
//!
//! QoS 1 and 2 of a subscription of QoS 1 or 2 come from the session's log, of one of QoS 0 they come live. Between the commit in the
//! shard and the moment at which this router and the other nodes know it, either way alone would miss some. So
//! while the QoS changes both are open, and messages of that time may come twice, once of them at QoS 0:
//! ```text
//! to QoS 0:      live here ─► other nodes know it ─► overlap ─► commit in the shard (log closed)
//! to QoS 1 or 2: commit in the shard (log open) ─► other nodes know it ─► overlap ─► live closed
//! ```
//! The overlap (`limits::QOS_CHANGE_OVERLAP`) is for publishes that were already on their way when the nodes got to know it; one that needs
//! longer, because a node or link just failed, may be missed.

use crate::{
    actors::{appender::SubmitError, durable_reader::Trouble, topic_router::Subscription},
    limits,
    model::{message::Qos, topic::TopicFilter, wire::SubscriptionOptions},
    shard::command::{Command, Reply, StoredSubscription},
};

use super::{Added, NotAdded, SharedBackend, Subscriber, routed};

/// Puts subscriptions in force: in the shard, then where live messages go, then on other nodes.
pub(super) async fn add(
    backend: SharedBackend,
    who: Subscriber,
    items: Vec<StoredSubscription>,
    filters_max: u32,
) -> Added {
    let Ok(replaced) = take_live(&backend, who, &items).await else {
        return Ok(vec![Err(NotAdded::NotRouted); items.len()]);
    };
    let (key, epoch) = (who.session, who.epoch);
    let command = Command::Subscribe { key, epoch, items: items.clone(), filters_max };
    let stored = match backend.submit(key, command).await {
        Ok(Reply::Subscribed(stored)) => stored,
        Ok(Reply::Fenced) => return Err(Trouble::Fenced),
        // Nobody knows where the log ends: both ways stay open until the client asks again.
        Ok(_) | Err(SubmitError::Unknown) => return Err(Trouble::Failed),
        Err(error) => {
            put_back(&backend, who, replaced).await;
            return Err(error.into());
        }
    };
    let accepted = items.iter().zip(&stored);
    let accepted = accepted.filter(|(_, stored)| stored.is_ok()).map(|(item, _)| item);
    backend.subscribe(who, accepted.cloned().collect(), 0, u32::MAX).await;
    let outcomes = routed(&backend, who, items.clone(), stored).await?;
    let all = items.iter().zip(&outcomes);
    let in_force = all.filter(|(item, outcome)| outcome.is_ok() && item.share.is_none());
    // Only one that was there before can have come live until now.
    let was_there = in_force
        .clone()
        .filter(|(item, outcome)| item.options.qos > Qos::AtMostOnce && **outcome == Ok(false));
    let filters: Vec<_> = was_there.map(|(item, _)| item.filter.clone()).collect();
    if !filters.is_empty() && backend.comes_live(who, filters).await {
        tokio::time::sleep(limits::QOS_CHANGE_OVERLAP).await;
        // All of them: if a filter comes twice, its last options count.
        let items = in_force.map(|(item, _)| Subscription::from(item)).collect();
        backend.take_from_log(who, items).await;
    }
    Ok(outcomes)
}

/// Has what is about to have QoS 0 come live, and waits until the other nodes know it. Replies what was changed for it; an error,
/// with all as it was, if they do not get to know it.
async fn take_live(
    backend: &SharedBackend,
    who: Subscriber,
    items: &[StoredSubscription],
) -> Result<Vec<Subscription>, NotAdded> {
    let will_come_live =
        |item: &&StoredSubscription| item.share.is_none() && item.options.qos == Qos::AtMostOnce;
    let filters: Vec<TopicFilter> =
        items.iter().filter(will_come_live).map(|item| item.filter.clone()).collect();
    if filters.is_empty() {
        return Ok(Vec::new());
    }
    let replaced = backend.take_live(who, filters).await;
    let as_live = |old: &Subscription| StoredSubscription {
        filter: old.filter.clone(),
        share: None,
        options: SubscriptionOptions { qos: Qos::AtMostOnce, ..old.options },
        subscription_id: 0,
    };
    let asked: Vec<_> = replaced.iter().map(as_live).collect();
    if let Some(routed) = backend.routed(who, &asked)
        && routed.await.contains(&false)
    {
        put_back(backend, who, replaced).await;
        return Err(NotAdded::NotRouted);
    }
    if !replaced.is_empty() {
        tokio::time::sleep(limits::QOS_CHANGE_OVERLAP).await;
    }
    Ok(replaced)
}

/// Has QoS 1 and 2 of these come from the log alone, as before.
async fn put_back(backend: &SharedBackend, who: Subscriber, items: Vec<Subscription>) {
    if !items.is_empty() {
        backend.take_from_log(who, items).await;
    }
}
