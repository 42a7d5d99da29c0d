//! Serves one run to its receivers: merging of overlapping filters, encoding once, direct writes.
//!
//! - Owns: the encoded variants of a run; the marks that find overlaps.
//! - Takes: a run and the filters that match it. Gives: frames to links.
//! - Bound: a slice of `limits::WALK_RECEIVERS_PER_TURN` receivers per topic and turn.
//! - Source: MQTT 5.0 section 3.3.4: overlapping subscriptions get one copy, at the highest QoS,
//!   with all identifiers.

use std::num::NonZeroU32;

use smallvec::SmallVec;

use super::{
    TopicRouter,
    walks::{Done, Run, Walk},
};
use crate::{
    actors::{
        link::{AnyLink, EncodedRun, Terms, delivery},
        subscribers::Subscriber,
        worker::Worker,
    },
    limits,
    model::{message::Qos, trie::FilterId, wire::Dialect},
};

/// Who gets a run.
pub(super) enum Receivers {
    /// The first places of one filter's list.
    Filter {
        /// Which.
        filter: FilterId,
        /// Later places subscribed after the message.
        end: usize,
    },
    /// Receivers of several filters, each once.
    Merged(Vec<Merged>),
}

/// One receiver of several filters.
pub(super) struct Merged {
    slot: u32,
    qos: Qos,
    /// Any of its subscriptions keeps the retain flag.
    retain_as_published: bool,
    ids: SmallVec<[NonZeroU32; 2]>,
}

/// Finds receivers that several filters name: per slot the round and the place of its last mark.
#[derive(Default)]
pub(super) struct Merge {
    marks: Vec<(u32, u32)>,
    round: u32,
}

/// What all receivers of a kind share: a run encoded for (dialect, QoS, retain, identifier).
#[derive(Default)]
pub(super) struct Variants(SmallVec<[(Kind, EncodedRun); 2]>);

type Kind = (Dialect, Qos, bool, Option<NonZeroU32>);

/// Most variants that are kept; subscription identifiers beyond it are encoded for each receiver.
const VARIANTS_MAX: usize = 16;

/// How one receiver gets a run.
struct Share<'a> {
    qos: Qos,
    retain: bool,
    ids: &'a [NonZeroU32],
}

impl TopicRouter {
    /// Serves a run to all receivers at once.
    pub(super) fn serve_now(&mut self, run: &Run, found: &[FilterId], now_ms: u64) {
        let mut variants = Variants::default();
        if let [filter] = found {
            let places = self.subscribers[filter.0 as usize].places();
            serve_places(&self.worker, run, places, &mut variants, now_ms);
        } else {
            let merged = self.merge(run, found);
            serve_merged(&self.worker, run, &merged, &mut variants, now_ms);
        }
    }

    /// Queues a run behind the others of its topic.
    pub(super) fn queue(&mut self, run: Run, found: &[FilterId], _now_ms: u64, done: Done) {
        let receivers = if let [filter] = found {
            let list = &mut self.subscribers[filter.0 as usize];
            list.begin_walk();
            Receivers::Filter { filter: *filter, end: list.places().len() }
        } else {
            Receivers::Merged(self.merge(&run, found))
        };
        let variants = Variants::default();
        self.walks.push(Walk { run, receivers, at: 0, variants, _done: done });
    }

    /// Serves slices of queued runs, topic by topic, until the budget is used up.
    pub(super) fn serve_queued(&mut self) {
        let now_ms = crate::clock::wall_ms();
        while self.budget > 0 {
            let Some(mut walk) = self.walks.take() else { return };
            let size = self.budget.min(limits::WALK_RECEIVERS_PER_TURN);
            let end = match &walk.receivers {
                Receivers::Filter { filter, end } => {
                    let places = self.subscribers[filter.0 as usize].places();
                    let slice = &places[walk.at..(walk.at + size).min(*end)];
                    serve_places(&self.worker, &walk.run, slice, &mut walk.variants, now_ms);
                    *end
                }
                Receivers::Merged(merged) => {
                    let slice = &merged[walk.at..(walk.at + size).min(merged.len())];
                    serve_merged(&self.worker, &walk.run, slice, &mut walk.variants, now_ms);
                    merged.len()
                }
            };
            let served = size.min(end - walk.at).max(1);
            self.budget = self.budget.saturating_sub(served);
            walk.at += served;
            if walk.at < end {
                self.walks.put_back(walk);
            } else {
                self.finish(walk);
            }
        }
    }

    fn finish(&mut self, walk: Walk) {
        let filter = match walk.receivers {
            Receivers::Filter { filter, .. } => Some(filter),
            Receivers::Merged(_) => None,
        };
        self.walks.finish(walk);
        let Some(filter) = filter else { return };
        let list = &mut self.subscribers[filter.0 as usize];
        list.end_walk();
        if list.is_empty() {
            self.remove_filter(filter);
        }
    }

    /// Names every receiver of several filters once.
    fn merge(&mut self, run: &Run, found: &[FilterId]) -> Vec<Merged> {
        self.merge.round = self.merge.round.wrapping_add(1).max(1);
        let round = self.merge.round;
        let mut merged = Vec::new();
        let table = self.worker.table();
        for filter in found {
            for subscriber in self.subscribers[filter.0 as usize].places() {
                let slot = subscriber.slot() as usize;
                let Some(link) = table.get(subscriber.slot()) else { continue };
                if is_own(*subscriber, run, link) {
                    continue;
                }
                if self.merge.marks.len() <= slot {
                    self.merge.marks.resize(slot + 1, (0, 0));
                }
                let mark = &mut self.merge.marks[slot];
                if mark.0 != round {
                    *mark = (round, u32::try_from(merged.len()).unwrap_or(u32::MAX));
                    merged.push(Merged::new(*subscriber));
                } else if let Some(known) = merged.get_mut(mark.1 as usize) {
                    known.add(*subscriber);
                }
            }
        }
        merged
    }
}

impl Merged {
    fn new(subscriber: Subscriber) -> Self {
        Self {
            slot: subscriber.slot(),
            qos: subscriber.qos(),
            retain_as_published: subscriber.retain_as_published(),
            ids: subscriber.id().into_iter().collect(),
        }
    }

    fn add(&mut self, subscriber: Subscriber) {
        self.qos = self.qos.max(subscriber.qos());
        self.retain_as_published |= subscriber.retain_as_published();
        self.ids.extend(subscriber.id());
    }
}

fn serve_places(
    worker: &Worker,
    run: &Run,
    places: &[Subscriber],
    variants: &mut Variants,
    now_ms: u64,
) {
    let table = worker.table();
    let alone = places.len() == 1;
    for subscriber in places {
        let Some(link) = table.get(subscriber.slot()) else { continue };
        if is_own(*subscriber, run, link) {
            continue;
        }
        let id = subscriber.id();
        let share = Share {
            qos: run.qos().min(subscriber.qos()),
            retain: run.retain() && subscriber.retain_as_published(),
            ids: id.as_slice(),
        };
        serve_one(worker, link, run, &share, (!alone).then_some(&mut *variants), now_ms);
    }
}

fn serve_merged(
    worker: &Worker,
    run: &Run,
    merged: &[Merged],
    variants: &mut Variants,
    now_ms: u64,
) {
    let table = worker.table();
    for receiver in merged {
        let Some(link) = table.get(receiver.slot) else { continue };
        let share = Share {
            qos: run.qos().min(receiver.qos),
            retain: run.retain() && receiver.retain_as_published,
            ids: &receiver.ids,
        };
        serve_one(worker, link, run, &share, Some(variants), now_ms);
    }
}

/// Tells whether the receiver asked not to get what its own client published.
fn is_own(subscriber: Subscriber, run: &Run, link: &AnyLink) -> bool {
    subscriber.no_local() && run.publisher() == Some(link.session())
}

/// Hands the run to one link: a shared encoding where there is one, else its own. A durable session
/// gets QoS 1 and 2 from its log.
fn serve_one(
    worker: &Worker,
    link: &AnyLink,
    run: &Run,
    share: &Share<'_>,
    variants: Option<&mut Variants>,
    now_ms: u64,
) {
    if link.is_closing() || (link.is_durable() && share.qos > Qos::AtMostOnce) {
        return;
    }
    let shared = variants
        .filter(|_| share.ids.len() <= 1 && !link.has_aliases())
        .and_then(|variants| variants.get(worker, link.dialect(), run, share, now_ms));
    if let Some(encoded) = shared {
        link.deliver_run(worker, encoded);
        return;
    }
    let terms =
        Terms { qos: share.qos, dup: false, retain: share.retain, subscription_ids: share.ids };
    for message in run.messages() {
        link.queue_live(worker, message, &terms, now_ms);
    }
}

impl Variants {
    /// Returns the run encoded for receivers of this kind; `None` if there are too many kinds.
    fn get(
        &mut self,
        worker: &Worker,
        dialect: Dialect,
        run: &Run,
        share: &Share<'_>,
        now_ms: u64,
    ) -> Option<&EncodedRun> {
        let kind = (dialect, share.qos, share.retain, share.ids.first().copied());
        let known = self.0.iter().position(|(other, _)| *other == kind);
        if known.is_none() && self.0.len() >= VARIANTS_MAX {
            return None;
        }
        let place = known.unwrap_or_else(|| {
            let terms = Terms {
                qos: share.qos,
                dup: false,
                retain: share.retain,
                subscription_ids: share.ids,
            };
            let deliveries =
                run.messages().map(|message| (delivery(message, &terms, None, now_ms), message));
            let mut chunk = worker.chunk();
            let front = worker.front(dialect);
            self.0.push((kind, EncodedRun::encode(front, share.qos, deliveries, &mut chunk)));
            self.0.len() - 1
        });
        self.0.get(place).map(|(_, encoded)| encoded)
    }
}
