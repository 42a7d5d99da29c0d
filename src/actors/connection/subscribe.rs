//! SUBSCRIBE and UNSUBSCRIBE: one at a time, answered when they are in force.
//!
//! - Owns: nothing. Takes: packets; replies of the session's shard and of the routers.
//! - Gives: SUBACK and UNSUBACK with one code per filter, in order; retained messages after SUBACK.
//! - Bound: one operation per connection under way, decoding waits for it; filters by the listener.
//! - Source: MQTT 5.0 sections 3.8 to 3.11. A subscription is replaced without a gap by its owner (shard,
//!   router, group), never removed first.
//!
//! ```text
//! SUBSCRIBE ─[durable: commit in the shard]─► routers and groups ─[other nodes know it]─► SUBACK
//!           ─► retained messages
//! ```
//! (A change of the QoS of a durable subscription: see `durable`.)
//! What other nodes do not get to know in time is taken back and refused.

mod durable;

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::{
    actors::durable_reader::Trouble,
    model::{
        id::Epoch,
        reason::Reason,
        session::admission::Ending,
        topic::TopicFilter,
        wire::{Outbound, RetainHandling, SubackCode, Subscribe, SubscribeItem, Unsubscribe},
    },
    shard::command::{Command, FiltersFull, Reply, StoredSubscription},
};

use super::{
    Connection, Event, Stop,
    backend::{Later, SharedBackend, Subscriber},
    flag,
};

/// How a SUBSCRIBE or UNSUBSCRIBE came out.
#[derive(Debug)]
pub(in crate::actors) enum Controlled {
    /// SUBACK is due; per item its code, and the subscription with whether it is new.
    Subscribed {
        packet_id: NonZeroU16,
        codes: Vec<SubackCode>,
        added: Vec<(StoredSubscription, bool)>,
    },
    /// UNSUBACK is due.
    Unsubscribed { packet_id: NonZeroU16, reasons: Vec<Reason>, removed: Vec<(Bytes, TopicFilter)> },
    /// The session cannot go on here.
    Trouble(Trouble),
}

/// Why a subscription is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotAdded {
    /// The session has its limit of filters.
    Full,
    /// Not every node could be told.
    NotRouted,
}

type Added = Result<Vec<Result<bool, NotAdded>>, Trouble>;
type Removed = Result<Vec<bool>, Trouble>;

impl Connection {
    pub(super) fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), Stop> {
        let shared_no_local = |item: &SubscribeItem| item.share.is_some() && item.options.no_local;
        if subscribe.items.iter().any(shared_no_local) {
            return Err((Reason::ProtocolError, "no-local on a shared subscription"));
        }
        let maximum_qos = self.listener.offer.maximum_qos;
        let mut asked = Vec::with_capacity(subscribe.items.len());
        let mut codes = Vec::with_capacity(subscribe.items.len());
        for item in subscribe.items {
            match item.filter {
                Err(reason) => codes.push(SubackCode::Refused(reason)),
                Ok(filter) => {
                    let mut options = item.options;
                    options.qos = options.qos.min(maximum_qos);
                    let id = subscribe.subscription_id.map_or(0, NonZeroU32::get);
                    codes.push(SubackCode::Granted(options.qos));
                    let share = item.share;
                    asked.push(StoredSubscription { filter, share, options, subscription_id: id });
                }
            }
        }
        self.flags |= flag::CONTROL;
        let added = self.add(asked.clone());
        let packet_id = subscribe.packet_id;
        self.works.push(async move {
            Event::Controlled(Box::new(match added.await {
                Ok(added) => subscribed(packet_id, codes, asked, added),
                Err(Trouble::Fenced) => Controlled::Trouble(Trouble::Fenced),
                Err(trouble) => refused(packet_id, codes, trouble),
            }))
        });
        Ok(())
    }

    /// Puts subscriptions in force: first in the shard (durable), then where live messages go, then on
    /// other nodes.
    fn add(&self, items: Vec<StoredSubscription>) -> Later<Added> {
        let who = self.subscriber();
        let filters_max = self.listener.filters_max;
        let backend = self.backend.clone();
        if self.durable.is_none() {
            let shared = self.rare.as_ref().map_or(0, |rare| rare.shared.len());
            let added = backend.subscribe(who, items.clone(), shared, filters_max);
            return Box::pin(async move { routed(&backend, who, items, added.await).await });
        }
        Box::pin(durable::add(backend, who, items, filters_max))
    }

    pub(super) fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let mut reasons = Vec::with_capacity(unsubscribe.items.len());
        let mut asked = Vec::with_capacity(unsubscribe.items.len());
        for item in unsubscribe.items {
            match item {
                Err(reason) => reasons.push(reason),
                Ok(item) => {
                    reasons.push(Reason::Success);
                    asked.push(item);
                }
            }
        }
        self.flags |= flag::CONTROL;
        let removed = self.remove(asked.clone());
        let (packet_id, v5) = (unsubscribe.packet_id, self.is_v5());
        self.works.push(async move {
            Event::Controlled(Box::new(match removed.await {
                Ok(removed) => unsubscribed(packet_id, reasons, asked, removed),
                // UNSUBACK of 3.1.1 cannot say no.
                Err(trouble) if trouble == Trouble::Fenced || !v5 => Controlled::Trouble(trouble),
                Err(_) => not_unsubscribed(packet_id, reasons),
            }))
        });
    }

    fn remove(&mut self, items: Vec<(Option<Bytes>, TopicFilter)>) -> Later<Removed> {
        let who = self.subscriber();
        let backend = self.backend.clone();
        if self.durable.is_none() {
            let removed = backend.unsubscribe(who, items);
            return Box::pin(async move { Ok(removed.await) });
        }
        let (key, epoch, asked) = (who.session, who.epoch, items.clone());
        let durable = self.durable.as_mut();
        let command = match durable.filter(|_| items.iter().any(|(share, _)| share.is_some())) {
            Some(durable) => {
                let sent = durable.hold();
                Command::UnsubscribeShared { key, epoch, items: asked, sent }
            }
            None => Command::Unsubscribe { key, epoch, items: asked },
        };
        let stored = backend.submit(key, command);
        Box::pin(async move {
            let stored = match stored.await? {
                Reply::Unsubscribed(stored) => stored,
                Reply::Fenced => return Err(Trouble::Fenced),
                _ => return Err(Trouble::Failed),
            };
            backend.unsubscribe(who, items).await;
            Ok(stored)
        })
    }

    /// Answers, and lets decoding go on.
    pub(super) fn on_controlled(&mut self, controlled: Controlled) {
        self.flags &= !flag::CONTROL;
        if let Some(durable) = &mut self.durable {
            durable.go_on();
        }
        match controlled {
            Controlled::Subscribed { packet_id, codes, added } => {
                self.link.send(&Outbound::Suback { packet_id, codes });
                let who = self.subscriber();
                for (subscription, new) in added {
                    self.subscribed(who, subscription, new);
                }
            }
            Controlled::Unsubscribed { packet_id, reasons, removed } => {
                self.link.send(&Outbound::Unsuback { packet_id, reasons });
                if !removed.is_empty() {
                    self.rare().shared.retain(|shared| !removed.contains(shared));
                    self.drop_rare();
                }
            }
            Controlled::Trouble(trouble) => self.end(Some(trouble.stop()), Ending::default()),
        }
    }

    /// The connection ends while groups took it in: it leaves them again.
    pub(super) fn on_late(&mut self, controlled: Controlled) {
        self.flags &= !flag::CONTROL;
        if let Controlled::Subscribed { added, .. } = controlled {
            let joined = added.into_iter().map(|(subscription, _)| subscription);
            let joined = joined.filter_map(|item| Some((item.share?, item.filter)));
            let joined: Vec<_> = joined.collect();
            if !joined.is_empty() {
                self.backend.leave(self.subscriber(), joined);
            }
        }
        self.release_if_begun();
    }

    /// Does what follows a subscription that is in force.
    fn subscribed(&mut self, who: Subscriber, subscription: StoredSubscription, new: bool) {
        if let Some(share) = &subscription.share {
            if new {
                let shared = (share.clone(), subscription.filter);
                self.rare().shared.push(shared);
            }
            return;
        }
        let wanted = match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => new,
            RetainHandling::DoNotSend => false,
        };
        if wanted {
            self.backend.send_retained(who, subscription);
        }
    }
}

/// Waits until every node knows what was added, and takes back what they do not get to know.
async fn routed(
    backend: &SharedBackend,
    who: Subscriber,
    items: Vec<StoredSubscription>,
    added: Vec<Result<bool, FiltersFull>>,
) -> Added {
    let mut outcomes: Vec<_> =
        added.into_iter().map(|added| added.map_err(|FiltersFull| NotAdded::Full)).collect();
    let in_force: Vec<usize> =
        (0..outcomes.len()).filter(|place| outcomes[*place].is_ok()).collect();
    let asked: Vec<_> = in_force.iter().filter_map(|place| items.get(*place).cloned()).collect();
    let Some(routed) = backend.routed(who, &asked) else { return Ok(outcomes) };
    let mut taken_back = Vec::new();
    for (place, routed) in in_force.into_iter().zip(routed.await) {
        let (Some(outcome), Some(item)) = (outcomes.get_mut(place), items.get(place)) else {
            break;
        };
        // One that replaced an older one stays, so that its client has no less than before.
        if !routed && std::mem::replace(outcome, Err(NotAdded::NotRouted)) == Ok(true) {
            taken_back.push((item.share.clone(), item.filter.clone()));
        }
    }
    if taken_back.is_empty() {
        return Ok(outcomes);
    }
    if who.epoch != Epoch::default() {
        let (key, epoch) = (who.session, who.epoch);
        let command = Command::Unsubscribe { key, epoch, items: taken_back.clone() };
        match backend.submit(key, command).await? {
            Reply::Unsubscribed(_) => {}
            Reply::Fenced => return Err(Trouble::Fenced),
            // Stored, and said to be refused: the client must come back and look.
            _ => return Err(Trouble::Failed),
        }
    }
    backend.unsubscribe(who, taken_back).await;
    Ok(outcomes)
}

/// Puts the outcome of each accepted filter into its place among the codes.
fn subscribed(
    packet_id: NonZeroU16,
    mut codes: Vec<SubackCode>,
    asked: Vec<StoredSubscription>,
    outcomes: Vec<Result<bool, NotAdded>>,
) -> Controlled {
    let granted = codes.iter_mut().filter(|code| matches!(code, SubackCode::Granted(_)));
    let mut added = Vec::with_capacity(asked.len());
    for ((code, subscription), outcome) in granted.zip(asked).zip(outcomes) {
        match outcome {
            Ok(new) => added.push((subscription, new)),
            Err(NotAdded::Full) => *code = SubackCode::Refused(Reason::QuotaExceeded),
            Err(NotAdded::NotRouted) => {
                *code = SubackCode::Refused(Reason::ImplementationSpecificError);
            }
        }
    }
    Controlled::Subscribed { packet_id, codes, added }
}

/// The shard cannot write now: nothing is in force, the client may try again.
fn refused(packet_id: NonZeroU16, mut codes: Vec<SubackCode>, trouble: Trouble) -> Controlled {
    let reason = match trouble {
        Trouble::Full => Reason::QuotaExceeded,
        Trouble::Fenced | Trouble::Unavailable | Trouble::Failed | Trouble::Violation => {
            Reason::UnspecifiedError
        }
    };
    for code in codes.iter_mut().filter(|code| matches!(code, SubackCode::Granted(_))) {
        *code = SubackCode::Refused(reason);
    }
    Controlled::Subscribed { packet_id, codes, added: Vec::new() }
}

fn not_unsubscribed(packet_id: NonZeroU16, mut reasons: Vec<Reason>) -> Controlled {
    for reason in reasons.iter_mut().filter(|reason| **reason == Reason::Success) {
        *reason = Reason::UnspecifiedError;
    }
    Controlled::Unsubscribed { packet_id, reasons, removed: Vec::new() }
}

fn unsubscribed(
    packet_id: NonZeroU16,
    mut reasons: Vec<Reason>,
    asked: Vec<(Option<Bytes>, TopicFilter)>,
    outcomes: Vec<bool>,
) -> Controlled {
    let places = reasons.iter_mut().filter(|reason| **reason == Reason::Success);
    let mut removed = Vec::new();
    for ((reason, (share, filter)), there) in places.zip(asked).zip(outcomes) {
        if !there {
            *reason = Reason::NoSubscriptionExisted;
        }
        removed.extend(share.map(|share| (share, filter)));
    }
    Controlled::Unsubscribed { packet_id, reasons, removed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::message::Qos;

    fn subscription(filter: &str) -> StoredSubscription {
        StoredSubscription {
            filter: TopicFilter::parse(filter).unwrap(),
            share: None,
            options: crate::model::wire::SubscriptionOptions::default(),
            subscription_id: 0,
        }
    }

    #[test]
    fn suback_codes_when_some_filters_were_refused_before_then_order_is_kept() {
        let invalid = SubackCode::Refused(Reason::TopicFilterInvalid);
        let granted = SubackCode::Granted(Qos::AtLeastOnce);
        let controlled = subscribed(
            NonZeroU16::MIN,
            vec![invalid, granted, invalid, granted],
            vec![subscription("a"), subscription("b")],
            vec![Err(NotAdded::Full), Ok(false)],
        );
        let Controlled::Subscribed { codes, added, .. } = controlled else { panic!() };
        let full = SubackCode::Refused(Reason::QuotaExceeded);
        assert_eq!(codes, [invalid, full, invalid, granted]);
        assert_eq!(added, [(subscription("b"), false)]);
    }

    #[test]
    fn unsuback_reasons_when_some_were_not_there_then_order_is_kept() {
        let filter = TopicFilter::parse("a").unwrap();
        let controlled = unsubscribed(
            NonZeroU16::MIN,
            vec![Reason::Success, Reason::TopicFilterInvalid, Reason::Success],
            vec![(None, filter.clone()), (Some(Bytes::from_static(b"g")), filter.clone())],
            vec![false, true],
        );
        let Controlled::Unsubscribed { reasons, removed, .. } = controlled else { panic!() };
        let missing = Reason::NoSubscriptionExisted;
        assert_eq!(reasons, [missing, Reason::TopicFilterInvalid, Reason::Success]);
        assert_eq!(removed, [(Bytes::from_static(b"g"), filter)]);
    }
}
