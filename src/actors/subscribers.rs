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

/// One subscriber: slot, and options packed over the 28 bits of the subscription identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    slot: u32,
    packed: u32,
}

impl Subscriber {
    /// Packs a subscription.
    #[must_use]
    pub fn new(slot: u32, options: SubscriptionOptions, id: Option<NonZeroU32>) -> Self {
        let mut packed = id.map_or(0, |id| id.get() & ID_MASK) | (options.qos as u32) << ID_BITS;
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

    /// Returns the highest QoS it wants.
    #[must_use]
    pub fn qos(self) -> Qos {
        match self.packed >> ID_BITS & 0b11 {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
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

/// More than one subscriber.
#[derive(Debug, Default)]
struct Many {
    list: Vec<Subscriber>,
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
                let list = vec![*one, subscriber];
                self.0 = Kind::Many(Box::new(Many { list, ..Many::default() }));
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
                let list = vec![*one];
                self.0 = Kind::Many(Box::new(Many { list, walkers: 1, ..Many::default() }));
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
    fn place(&self, slot: u32) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&slot).map(|place| *place as usize),
            None => self.list.iter().position(|subscriber| subscriber.slot == slot),
        }
    }

    fn insert(&mut self, subscriber: Subscriber) -> bool {
        if let Some(place) = self.place(subscriber.slot) {
            self.list[place] = subscriber;
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
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn subscriber(slot: u32) -> Subscriber {
        Subscriber::new(slot, SubscriptionOptions::default(), None)
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
        let packed = Subscriber::new(9, options, id);
        assert_eq!((packed.slot(), packed.qos(), packed.id()), (9, Qos::ExactlyOnce, id));
        assert!(packed.no_local() && packed.retain_as_published());
        let plain = subscriber(9);
        assert_eq!((plain.qos(), plain.id()), (Qos::AtMostOnce, None));
        assert!(!plain.no_local() && !plain.retain_as_published());
    }

    #[test]
    fn insert_of_a_known_slot_replaces_its_options() {
        for others in [0, 1, 100] {
            let mut subscribers = Subscribers::default();
            for slot in 0..=others {
                assert!(subscribers.insert(subscriber(slot)));
            }
            let options =
                SubscriptionOptions { qos: Qos::AtLeastOnce, ..SubscriptionOptions::default() };
            assert!(!subscribers.insert(Subscriber::new(0, options, None)));
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
            steps in prop::collection::vec((0_u8..4, 0_u32..80), 0..400)
        ) {
            let mut subscribers = Subscribers::default();
            let mut model = BTreeSet::new();
            let mut walks = 0;
            for (step, slot) in steps {
                match step {
                    0 => prop_assert_eq!(subscribers.insert(subscriber(slot)), model.insert(slot)),
                    1 => prop_assert_eq!(subscribers.remove(slot), model.remove(&slot)),
                    2 if walks < 3 => { subscribers.begin_walk(); walks += 1; }
                    3 if walks > 0 => { subscribers.end_walk(); walks -= 1; }
                    _ => {}
                }
                prop_assert_eq!(subscribers.len(), model.len());
                let mut have = slots(&subscribers);
                have.sort_unstable();
                prop_assert_eq!(have, model.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
