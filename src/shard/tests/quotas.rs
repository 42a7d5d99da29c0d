//! Full sessions and full apps.

use super::support::*;
use crate::{
    model::{
        id::{Epoch, Position, SessionKey},
        message::{Message, Qos},
    },
    shard::{
        command::{Command, Fact, Quota, Reply},
        query,
    },
};

fn quota(messages: u64, drop_oldest: bool) -> Quota {
    Quota { session_messages_max: messages, drop_oldest, ..QUOTA }
}

fn reader(shard: &mut Shard, key: u128, filters: &[&str]) -> Epoch {
    let epoch = shard.claim(key).epoch;
    for filter in filters {
        shard.subscribe(key, epoch, &[subscription(filter, Qos::AtLeastOnce)]);
    }
    shard.facts();
    epoch
}

/// Appends numbered messages, `per_entry` in an entry; returns how many replies told of a drop.
fn fill(shard: &mut Shard, topic: &str, range: std::ops::Range<u32>, quota: Quota) -> u32 {
    let numbers: Vec<u32> = range.collect();
    let mut dropped_all = 0;
    for entry in numbers.chunks(4) {
        let append = |n: &u32| append(message(topic, &format!("{n}")), quota);
        let commands: Vec<Command> = entry.iter().map(append).collect();
        for reply in shard.apply(&commands) {
            if let Reply::Appended { dropped, .. } = reply {
                dropped_all += dropped;
            }
        }
    }
    dropped_all
}

fn dropped(shard: &Shard) -> u64 {
    let facts = shard.facts();
    let told = facts.iter().map(|fact| match fact {
        Fact::Dropped { messages, .. } => *messages,
        _ => 0,
    });
    told.sum()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn session_when_full_and_oldest_drop_then_the_newest_are_kept() {
    for filters in [&["a"][..], &["a", "b"], &["a", "a/#"]] {
        let mut shard = Shard::new();
        let epoch = reader(&mut shard, 7, filters);
        // With two matching filters a message counts twice.
        let twice = if filters.contains(&"a/#") { 2 } else { 1 };
        let lost = fill(&mut shard, "a", 0..30, quota(10 * twice, true));
        assert_eq!(shard.waiting(7, epoch), numbers(20..30));
        assert_eq!((lost, dropped(&shard)), (20, 20));
        shard.reload();
        assert_eq!(shard.waiting(7, epoch), numbers(20..30));
        assert_eq!(fill(&mut shard, "a", 30..31, quota(10 * twice, true)), 1);
        assert_eq!(shard.waiting(7, epoch), numbers(21..31));
        assert_eq!(shard.pairs(b'e'), 4);
    }
}

#[test]
fn session_when_full_and_newest_drop_then_the_oldest_are_kept() {
    let mut shard = Shard::new();
    let epoch = reader(&mut shard, 7, &["a", "b"]);
    let limit = quota(10, false);
    assert_eq!(fill(&mut shard, "a", 0..6, limit), 0);
    assert_eq!(fill(&mut shard, "b", 6..30, limit), 20);
    assert_eq!(shard.waiting(7, epoch), numbers(0..10));
    assert_eq!(dropped(&shard), 20);
    shard.reload();
    assert_eq!(query::queue_depth(&shard.machine, SessionKey(7)).unwrap().messages, 10);
    let page = shard.page(7, epoch, Position::START, 2);
    shard.acknowledge(7, epoch, page.read_to);
    assert_eq!(fill(&mut shard, "a", 30..40, limit), 8);
    assert_eq!(shard.waiting(7, epoch), [numbers(2..10), numbers(30..32)].concat());
    shard.reload();
    assert_eq!(query::queue_depth(&shard.machine, SessionKey(7)).unwrap().messages, 10);
    assert_eq!(fill(&mut shard, "a", 40..41, limit), 1);
    let page = shard.page(7, epoch, Position::START, 100);
    shard.acknowledge(7, epoch, page.read_to);
    assert_eq!(shard.message_pairs(), 0);
    assert_eq!(fill(&mut shard, "b", 50..55, limit), 0);
    assert_eq!(shard.waiting(7, epoch), numbers(50..55));
}

#[test]
fn session_when_full_of_bytes_then_the_same() {
    let limit = Quota { session_bytes_max: 10, ..quota(1_000, true) };
    let mut shard = Shard::new();
    let epoch = reader(&mut shard, 7, &["a"]);
    assert_eq!(fill(&mut shard, "a", 0..9, limit), 4);
    assert_eq!(shard.waiting(7, epoch), numbers(4..9));
    // One that is larger than all there is for the session drops all, itself too.
    let Reply::Appended { dropped, .. } = shard.one(append(message("a", &"x".repeat(99)), limit))
    else {
        panic!("no append")
    };
    assert_eq!(dropped, 1);
    assert_eq!(shard.waiting(7, epoch), Vec::<String>::new());
    assert_eq!(shard.message_pairs(), 0);
}

#[test]
fn sessions_when_many_are_full_then_an_eighth_goes_at_once() {
    let mut shard = Shard::new();
    let readers: Vec<Epoch> = (1..=70).map(|key| reader(&mut shard, key, &["a"])).collect();
    fill(&mut shard, "a", 0..16, quota(16, true));
    assert_eq!(dropped(&shard), 0);
    fill(&mut shard, "a", 16..17, quota(16, true));
    assert_eq!(dropped(&shard), 70 * 3);
    assert_eq!(shard.waiting(5, readers[4]), numbers(3..17));
    fill(&mut shard, "a", 17..19, quota(16, true));
    assert_eq!(dropped(&shard), 0);
}

#[test]
fn app_when_full_then_refused_until_messages_are_read() {
    let mut shard = Shard::new();
    let epoch = reader(&mut shard, 7, &["a", "b"]);
    let limit = Quota { app_bytes_max: 6, ..QUOTA };
    let put = |n: u32| append(message("a", &n.to_string()), limit);
    let refused =
        |reply: &Reply| matches!(reply, Reply::Appended { refused: true, sessions: 0, .. });
    let replies = shard.apply(&[put(1), put(2), put(3), put(4)]);
    assert_eq!(replies.iter().map(refused).collect::<Vec<_>>(), [false, false, false, true]);
    shard.reload();
    assert!(refused(&shard.one(put(5))));
    let page = shard.page(7, epoch, Position::START, 9);
    assert_eq!(page.messages.len(), 3);
    shard.acknowledge(7, epoch, page.read_to);
    assert!(!refused(&shard.one(put(6))));
    assert_eq!(shard.waiting(7, epoch), ["6"]);
}

/// Publishers divide an app's quota by what shards tell: it must be true after every change.
#[test]
fn usage_when_it_changes_then_told_as_it_is() {
    let mut shard = Shard::new();
    let told = |shard: &Shard| {
        let usage = shard.usage();
        (usage.log_bytes, usage.retained_messages, usage.retained_bytes)
    };
    let epoch = reader(&mut shard, 7, &["a"]);
    shard.append(&[message("a", "123"), message("a", "12345")]);
    assert_eq!(told(&shard), (10, 0, 0));
    let retain = |payload: &str, expires_at_ms| {
        let message = Message { retain: true, expires_at_ms, ..message("r", payload) };
        let (messages_max, bytes_max) = (9, 99);
        Command::Retain { message: message.into(), messages_max, bytes_max }
    };
    shard.one(retain("1234", None));
    assert_eq!(told(&shard), (10, 1, 5));
    shard.one(retain("12", Some(NOW + 1_000)));
    assert_eq!(told(&shard), (10, 1, 3));
    shard.reload();
    assert_eq!(told(&shard), (10, 1, 3));
    shard.tick(NOW + 2_000);
    assert_eq!(told(&shard), (10, 0, 0));
    let page = shard.page(7, epoch, Position::START, 9);
    shard.acknowledge(7, epoch, page.read_to);
    assert_eq!(told(&shard), (0, 0, 0));
    shard.reload();
    assert_eq!(told(&shard), (0, 0, 0));
}
