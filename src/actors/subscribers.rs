//! The subscribers of one filter on one thread: add and remove in constant time, walk in order.
//!
//! - Owns: eight bytes per subscriber; one inline; an index only from `INDEXED_MIN` on.
//! - Takes: slots of the worker's table. Gives: subscribers by place, so that a walk can pause.
//! - Bound: one entry per connection.
//!
//! While somebody walks the list, removals leave a hole and additions go to the end, so that a paused
//! walk neither skips nor repeats anyone; the last walker closes the holes.

use std::num::NonZeroU32;

use ahash::AHashMap;

use crate::model::{message::Qos, wire::SubscriptionOptions};

/// From how many subscribers on a list has an index.
const INDEXED_MIN: usize = 32;

/// A hole that a removal left.
const HOLE: u32 = u32::MAX;

const ID_BITS: u32 = 28;
const ID_MASK: u32 = (1 << ID_BITS) - 1;
const NO_LOCAL: u32 = 1 << 30;
const RETAIN_AS_PUBLISHED: u32 = 1 << 31;

/// In place of the QoS: what has QoS 1 or 2 comes from the session's log.
const FROM_LOG: u32 = 0b11;

/// One subscriber: slot, and options packed over the 28 bits of the subscription identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    slot: u32,
    packed: u32,
}

impl Subscriber {
    /// Packs a subscription; that of a durable session has QoS 1 and 2 from its log.
    #[must_use]
    pub fn new(
        slot: u32,
        options: SubscriptionOptions,
        id: Option<NonZeroU32>,
        is_durable: bool,
    ) -> Self {
        let is_from_log = is_durable && options.qos > Qos::AtMostOnce;
        let qos = if is_from_log { FROM_LOG } else { options.qos as u32 };
        let mut packed = id.map_or(0, |id| id.get() & ID_MASK) | qos << ID_BITS;
        if options.no_local {
            packed |= NO_LOCAL;
        }
        if options.retain_as_published {
            packed |= RETAIN_AS_PUBLISHED;
        }
        Self { slot, packed }
    }

    /// Returns whose it is.
    #[must_use]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Returns the highest QoS it wants; 2 of one that has QoS 1 and 2 from its log.
    #[must_use]
    pub fn qos(self) -> Qos {
        match self.packed >> ID_BITS & 0b11 {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        }
    }

    /// Tells whether what has QoS 1 or 2 comes from the session's log, and only QoS 0 live.
    #[must_use]
    pub fn is_from_log(self) -> bool {
        self.packed >> ID_BITS & 0b11 == FROM_LOG
    }

    /// Returns its options; how retained messages are handled is not kept.
    #[must_use]
    pub fn options(self) -> SubscriptionOptions {
        SubscriptionOptions {
            qos: self.qos(),
            no_local: self.no_local(),
            retain_as_published: self.retain_as_published(),
            ..SubscriptionOptions::default()
        }
    }

    /// Tells whether it wants nothing that its own client published.
    #[must_use]
    pub fn no_local(self) -> bool {
        self.packed & NO_LOCAL != 0
    }

    /// Tells whether it wants the retain flag as published.
    #[must_use]
    pub fn retain_as_published(self) -> bool {
        self.packed & RETAIN_AS_PUBLISHED != 0
    }

    /// Returns its subscription identifier.
    #[must_use]
    pub fn id(self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.packed & ID_MASK)
    }

    /// Returns everything but the slot; equal numbers mean equal treatment.
    #[must_use]
    pub fn terms(self) -> u32 {
        self.packed
    }

    /// Tells whether this is nobody any more.
    #[must_use]
    pub fn is_hole(self) -> bool {
        self.slot == HOLE
    }
}

/// Which live messages the subscribers of a filter take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// One of them takes messages of any QoS.
    pub all: bool,
    /// One of them takes messages of QoS 0 alone.
    pub qos_0: bool,
}

/// More than one subscriber.
#[derive(Debug, Default)]
struct Many {
    list: Vec<Subscriber>,
    /// How many of them have QoS 1 and 2 from their logs.
    from_log: u32,
    index: Option<AHashMap<u32, u32>>,
    holes: u32,
    walkers: u32,
}

/// The subscribers of one filter.
#[derive(Debug, Default)]
pub struct Subscribers(Kind);

#[derive(Debug, Default)]
enum Kind {
    #[default]
    None,
    One(Subscriber),
    Many(Box<Many>),
}

impl Subscribers {
    /// Adds or replaces the subscription of a slot; `true` if it is new.
    pub fn insert(&mut self, subscriber: Subscriber) -> bool {
        match &mut self.0 {
            Kind::None => self.0 = Kind::One(subscriber),
            Kind::One(one) if one.slot == subscriber.slot => {
                *one = subscriber;
                return false;
            }
            Kind::One(one) => {
                self.0 = Kind::Many(Box::new(Many::of(vec![*one, subscriber])));
            }
            Kind::Many(many) => return many.insert(subscriber),
        }
        true
    }

    /// Removes the subscription of a slot; `true` if there was one.
    pub fn remove(&mut self, slot: u32) -> bool {
        match &mut self.0 {
            Kind::One(one) if one.slot == slot => self.0 = Kind::None,
            Kind::Many(many) => {
                if !many.remove(slot) {
                    return false;
                }
                self.shrink();
            }
            Kind::None | Kind::One(_) => return false,
        }
        true
    }

    /// Returns the subscription of a slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<Subscriber> {
        match &self.0 {
            Kind::Many(many) => many.place(slot).map(|place| many.list[place]),
            Kind::One(one) if one.slot == slot => Some(*one),
            Kind::None | Kind::One(_) => None,
        }
    }

    /// Tells whether there is none, and nobody walks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Kind::None)
    }

    /// Returns how many subscribers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::None => 0,
            Kind::One(_) => 1,
            Kind::Many(many) => many.list.len() - many.holes as usize,
        }
    }

    /// Returns which live messages must come here.
    #[must_use]
    pub fn reach(&self) -> Reach {
        match &self.0 {
            Kind::None => Reach::default(),
            Kind::One(one) => Reach { all: !one.is_from_log(), qos_0: one.is_from_log() },
            Kind::Many(many) => {
                let from_log = many.from_log as usize;
                Reach { all: self.len() > from_log, qos_0: from_log > 0 }
            }
        }
    }

    /// Returns all places, holes included (see [`Subscriber::is_hole`]).
    #[must_use]
    pub fn places(&self) -> &[Subscriber] {
        match &self.0 {
            Kind::None => &[],
            Kind::One(one) => std::slice::from_ref(one),
            Kind::Many(many) => &many.list,
        }
    }

    /// Keeps places where they are until [`end_walk`](Self::end_walk).
    pub fn begin_walk(&mut self) {
        match &mut self.0 {
            Kind::Many(many) => many.walkers += 1,
            Kind::None => {
                self.0 = Kind::Many(Box::new(Many { walkers: 1, ..Many::default() }));
            }
            Kind::One(one) => {
                self.0 = Kind::Many(Box::new(Many { walkers: 1, ..Many::of(vec![*one]) }));
            }
        }
    }

    /// Ends one walk.
    pub fn end_walk(&mut self) {
        if let Kind::Many(many) = &mut self.0 {
            debug_assert!(many.walkers > 0);
            many.walkers = many.walkers.saturating_sub(1);
            self.shrink();
        }
    }

    /// Closes holes and goes back to a smaller form, unless somebody walks.
    fn shrink(&mut self) {
        let Kind::Many(many) = &mut self.0 else { return };
        if many.walkers > 0 {
            return;
        }
        many.close_holes();
        match many.list[..] {
            [] => self.0 = Kind::None,
            [one] => self.0 = Kind::One(one),
            _ => {}
        }
    }
}

impl Many {
    fn of(list: Vec<Subscriber>) -> Self {
        let from_log = small(list.iter().filter(|one| one.is_from_log()).count());
        Self { list, from_log, ..Self::default() }
    }

    fn place(&self, slot: u32) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&slot).map(|place| *place as usize),
            None => self.list.iter().position(|subscriber| subscriber.slot == slot),
        }
    }

    fn insert(&mut self, subscriber: Subscriber) -> bool {
        self.from_log += u32::from(subscriber.is_from_log());
        if let Some(place) = self.place(subscriber.slot) {
            let old = std::mem::replace(&mut self.list[place], subscriber);
            self.from_log -= u32::from(old.is_from_log());
            return false;
        }
        let place = small(self.list.len());
        self.list.push(subscriber);
        match &mut self.index {
            Some(index) => {
                index.insert(subscriber.slot, place);
            }
            None if self.list.len() >= INDEXED_MIN => self.rebuild_index(),
            None => {}
        }
        true
    }

    fn remove(&mut self, slot: u32) -> bool {
        let Some(place) = self.place(slot) else { return false };
        self.from_log -= u32::from(self.list[place].is_from_log());
        if let Some(index) = &mut self.index {
            index.remove(&slot);
        }
        if self.walkers > 0 {
            self.list[place].slot = HOLE;
            self.holes += 1;
            return true;
        }
        self.list.swap_remove(place);
        if let (Some(index), Some(moved)) = (&mut self.index, self.list.get(place)) {
            index.insert(moved.slot, small(place));
        }
        if self.list.capacity() > 4 * self.list.len() {
            self.list.shrink_to(2 * self.list.len());
            if self.list.len() < INDEXED_MIN / 2 {
                self.index = None;
            } else if let Some(index) = &mut self.index {
                index.shrink_to(2 * self.list.len());
            }
        }
        true
    }

    fn close_holes(&mut self) {
        if self.holes == 0 {
            return;
        }
        self.holes = 0;
        self.list.retain(|subscriber| !subscriber.is_hole());
        self.index = None;
        if self.list.len() >= INDEXED_MIN {
            self.rebuild_index();
        }
    }

    fn rebuild_index(&mut self) {
        let places = self.list.iter().enumerate().filter(|(_, subscriber)| !subscriber.is_hole());
        self.index = Some(places.map(|(place, one)| (one.slot, small(place))).collect());
    }
}

fn small(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

const _: () = assert!(size_of::<Subscriber>() == 8 && size_of::<Subscribers>() == 16);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn subscriber(slot: u32) -> Subscriber {
        with_qos(slot, Qos::AtMostOnce, false)
    }

    fn with_qos(slot: u32, qos: Qos, is_durable: bool) -> Subscriber {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        Subscriber::new(slot, options, None, is_durable)
    }

    fn slots(subscribers: &Subscribers) -> Vec<u32> {
        let living = subscribers.places().iter().filter(|one| !one.is_hole());
        living.map(|one| one.slot()).collect()
    }

    #[test]
    fn packing_gives_every_option_back() {
        let options = SubscriptionOptions {
            qos: Qos::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            ..SubscriptionOptions::default()
        };
        let id = NonZeroU32::new(268_435_455);
        let packed = Subscriber::new(9, options, id, false);
        assert_eq!((packed.slot(), packed.qos(), packed.id()), (9, Qos::ExactlyOnce, id));
        assert!(packed.no_local() && packed.retain_as_published());
        let plain = subscriber(9);
        assert_eq!((plain.qos(), plain.id()), (Qos::AtMostOnce, None));
        assert!(!plain.no_local() && !plain.retain_as_published());
        assert!(!packed.is_from_log() && !with_qos(9, Qos::AtMostOnce, true).is_from_log());
        let durable = with_qos(9, Qos::AtLeastOnce, true);
        assert!(durable.is_from_log() && durable.qos() == Qos::ExactlyOnce);
    }

    #[test]
    fn insert_of_a_known_slot_replaces_its_options() {
        for others in [0, 1, 100] {
            let mut subscribers = Subscribers::default();
            for slot in 0..=others {
                assert!(subscribers.insert(subscriber(slot)));
            }
            assert!(!subscribers.insert(with_qos(0, Qos::AtLeastOnce, false)));
            assert_eq!(subscribers.len(), others as usize + 1);
            assert_eq!(subscribers.places()[0].qos(), Qos::AtLeastOnce);
        }
    }

    #[test]
    fn removal_during_a_walk_leaves_places_and_the_end_closes_holes() {
        let mut subscribers = Subscribers::default();
        for slot in 0..100 {
            subscribers.insert(subscriber(slot));
        }
        subscribers.begin_walk();
        for slot in 0..90 {
            assert!(subscribers.remove(slot));
        }
        assert!(!subscribers.remove(5));
        subscribers.insert(subscriber(200));
        subscribers.insert(subscriber(5));
        assert_eq!(subscribers.places()[95].slot(), 95);
        assert_eq!(subscribers.len(), 12);
        subscribers.end_walk();
        assert_eq!(subscribers.places().len(), 12);
        assert!(subscribers.remove(200) && subscribers.remove(5) && subscribers.remove(95));
    }

    #[test]
    fn list_emptied_during_a_walk_is_empty_only_after_it() {
        let mut subscribers = Subscribers::default();
        subscribers.insert(subscriber(1));
        subscribers.begin_walk();
        subscribers.remove(1);
        assert!(!subscribers.is_empty());
        subscribers.end_walk();
        assert!(subscribers.is_empty());
    }

    proptest! {
        #[test]
        fn any_changes_leave_what_a_set_would_hold(
            steps in prop::collection::vec((0_u8..5, 0_u32..80), 0..400)
        ) {
            let mut subscribers = Subscribers::default();
            // By slot: whether it has QoS 1 and 2 from its log.
            let mut model = BTreeMap::new();
            let mut walks = 0;
            for (step, slot) in steps {
                match step {
                    0 | 4 => {
                        let one = with_qos(slot, Qos::AtLeastOnce, step == 4);
                        let is_new = model.insert(slot, step == 4).is_none();
                        prop_assert_eq!(subscribers.insert(one), is_new);
                    }
                    1 => prop_assert_eq!(subscribers.remove(slot), model.remove(&slot).is_some()),
                    2 if walks < 3 => { subscribers.begin_walk(); walks += 1; }
                    3 if walks > 0 => { subscribers.end_walk(); walks -= 1; }
                    _ => {}
                }
                prop_assert_eq!(subscribers.len(), model.len());
                let mut have = slots(&subscribers);
                have.sort_unstable();
                prop_assert_eq!(have, model.keys().copied().collect::<Vec<_>>());
                let has = |from_log| model.values().any(|one| *one == from_log);
                prop_assert_eq!(subscribers.reach(), Reach { all: has(false), qos_0: has(true) });
            }
        }
    }
}
