//! The book against a directory, with outcomes that are lost and places that begin again.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LINGER_MS: u64 = 60_000;
const RETRY_MS: u64 = 1_000;

fn book(forgetful: bool) -> RouteBook {
    RouteBook::new(BookTerms {
        step_keys_max: 3,
        step_bytes_max: 1_000,
        linger_ms: LINGER_MS,
        retry_ms: RETRY_MS,
        forgetful,
    })
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![number; 3])
}

#[test]
fn first_hold_is_added_and_settled_by_the_barrier_only() {
    let mut book = book(false);
    let ticket = book.hold(&key(1), 0);
    assert_eq!(book.hold(&key(1), 5), ticket, "shared by later holders");
    assert_eq!(book.step(0), Some(Step::Add(vec![key(1)])));
    assert_eq!(book.step(0), None, "one step at a time");
    book.done(7);
    assert_eq!(book.to_settle(), Some(7));
    assert!(!book.is_settled(ticket));
    book.settle(6);
    assert!(!book.is_settled(ticket));
    book.settle(7);
    assert!(book.is_settled(ticket) && book.to_settle().is_none());
}

#[test]
fn last_release_removes_after_the_delay_unless_held_again() {
    let mut book = book(false);
    let ticket = book.hold(&key(1), 0);
    book.hold(&key(1), 1);
    book.step(0);
    book.done(1);
    book.settle(1);
    book.release(&key(1), 0, 10);
    assert_eq!(book.step(10 + LINGER_MS), None, "worker 1 holds it");
    book.release(&key(1), 1, 20);
    assert_eq!(book.step(19 + LINGER_MS), None, "too early");
    assert_eq!(book.hold(&key(1), 2), ticket, "back in time: nothing to add");
    assert_eq!(book.step(20 + LINGER_MS), None);
    book.release(&key(1), 2, 30);
    assert_eq!(book.step(30 + LINGER_MS), Some(Step::Remove(vec![key(1)])));
    book.done(2);
    assert!(book.is_empty());
}

#[test]
fn hold_during_the_removal_is_added_after_it() {
    let mut book = book(false);
    book.hold(&key(1), 0);
    book.step(0);
    book.done(1);
    book.settle(1);
    book.release(&key(1), 0, 0);
    assert_eq!(book.step(LINGER_MS), Some(Step::Remove(vec![key(1)])));
    let ticket = book.hold(&key(1), 0);
    assert_eq!(book.step(LINGER_MS), None);
    assert!(!book.is_settled(ticket));
    book.done(2);
    assert_eq!(book.step(LINGER_MS), Some(Step::Add(vec![key(1)])));
}

#[test]
fn removal_has_its_turn_between_additions_that_never_end() {
    let mut book = book(false);
    book.hold(&key(0), 0);
    book.step(0);
    book.done(1);
    book.release(&key(0), 0, 0);
    for number in 1..100 {
        book.hold(&key(number), 0);
    }
    let now_ms = LINGER_MS;
    let steps: Vec<_> = (0..3)
        .filter_map(|index| {
            let step = book.step(now_ms);
            book.done(index);
            step
        })
        .collect();
    assert!(steps.iter().any(|step| matches!(step, Step::Remove(_))), "{steps:?}");
}

#[test]
fn book_that_begins_again_adds_all_that_is_held_and_nothing_else() {
    let mut book = book(false);
    let old = book.hold(&key(1), 0);
    book.hold(&key(2), 0);
    book.step(0);
    book.done(1);
    book.settle(1);
    book.release(&key(2), 0, 0);
    book.begin_again();
    assert!(book.is_settled(old));
    assert!(!book.is_settled(book.ticket(&key(1)).unwrap()));
    assert_eq!(book.step(LINGER_MS), Some(Step::Add(vec![key(1)])));
    book.done(2);
    book.settle(2);
    assert!(book.is_settled(book.last()) && book.len() == 1);
}

#[test]
fn forgetful_book_remembers_only_what_changes() {
    let mut book = book(true);
    for number in 0..9 {
        book.hold(&key(number), 0);
    }
    while book.step(0).is_some() {
        book.done(1);
    }
    assert_eq!(book.len(), 9);
    book.settle(1);
    assert!(book.is_empty());
    book.release(&key(4), 0, 0);
    assert_eq!(book.step(LINGER_MS), Some(Step::Remove(vec![key(4)])));
    book.done(2);
    assert!(book.is_empty());
}

#[derive(Clone, Debug)]
enum Do {
    Hold(u8, u8),
    Release(u8, u8),
    /// Takes a step; its outcome: applied and known, applied and unknown, not applied.
    Step(u8),
    Settle,
    Pass(u64),
    BeginAgain,
}

fn deed() -> impl Strategy<Value = Do> {
    prop_oneof![
        6 => (0_u8..6, 0_u8..3).prop_map(|(key, holder)| Do::Hold(key, holder)),
        6 => (0_u8..6, 0_u8..3).prop_map(|(key, holder)| Do::Release(key, holder)),
        8 => (0_u8..4).prop_map(Do::Step),
        4 => Just(Do::Settle),
        4 => (0_u64..80_000).prop_map(Do::Pass),
        1 => Just(Do::BeginAgain),
    ]
}

/// The directory, and what every node has seen of it.
#[derive(Default)]
struct World {
    directory: BTreeSet<Bytes>,
    index: u64,
    now_ms: u64,
    held: BTreeMap<Bytes, BTreeSet<u8>>,
}

impl World {
    fn perform(&mut self, book: &mut RouteBook, outcome: u8) -> bool {
        let Some(step) = book.step(self.now_ms) else { return false };
        if outcome < 3 {
            self.index += 1;
            match &step {
                Step::Add(keys) => self.directory.extend(keys.iter().cloned()),
                Step::Remove(keys) => {
                    for key in keys {
                        self.directory.remove(key);
                    }
                }
            }
        }
        if outcome < 2 {
            book.done(self.index);
        } else {
            book.failed(self.now_ms);
        }
        true
    }

    fn check(&self, book: &RouteBook, forgetful: bool) -> Result<(), TestCaseError> {
        for (key, holders) in &self.held {
            let there = self.directory.contains(key);
            match book.ticket(key) {
                _ if holders.is_empty() => {}
                Some(ticket) => prop_assert!(there || !book.is_settled(ticket), "{key:?}"),
                None => prop_assert!(forgetful && there, "held, forgotten and not there: {key:?}"),
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_is_settled_is_in_the_directory_and_in_the_end_nothing_else(
        forgetful in any::<bool>(),
        deeds in prop::collection::vec(deed(), 0..200),
    ) {
        let (mut book, mut world) = (book(forgetful), World::default());
        for deed in deeds {
            match deed {
                Do::Hold(number, holder) => {
                    // A shard has one holder, and says so with the first subscriber only.
                    let holder = if forgetful { 0 } else { holder };
                    if world.held.entry(key(number)).or_default().insert(holder) {
                        book.hold(&key(number), holder);
                    }
                }
                Do::Release(number, holder) => {
                    let holder = if forgetful { 0 } else { holder };
                    if world.held.entry(key(number)).or_default().remove(&holder) {
                        book.release(&key(number), holder, world.now_ms);
                    }
                }
                Do::Step(outcome) => drop(world.perform(&mut book, outcome)),
                Do::Settle => {
                    if let Some(index) = book.to_settle() {
                        book.settle(index);
                    }
                }
                Do::Pass(ms) => world.now_ms += ms,
                Do::BeginAgain if !forgetful => {
                    world.directory.clear();
                    book.begin_again();
                }
                Do::BeginAgain => {}
            }
            world.check(&book, forgetful)?;
        }
        for _ in 0..20 {
            while world.perform(&mut book, 0) {}
            world.now_ms += LINGER_MS + RETRY_MS;
        }
        if let Some(index) = book.to_settle() {
            book.settle(index);
        }
        prop_assert!(book.is_settled(book.last()));
        let held = world.held.iter().filter(|(_, holders)| !holders.is_empty());
        let held: BTreeSet<_> = held.map(|(key, _)| key.clone()).collect();
        prop_assert_eq!(&world.directory, &held);
        prop_assert_eq!(book.len(), if forgetful { 0 } else { held.len() });
    }
}
