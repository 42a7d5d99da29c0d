//! Retained messages.

use std::sync::Arc;

use super::support::*;
use crate::{
    model::{
        id::{AppId, Position, SessionKey},
        message::{Message, Qos},
        topic::{TopicFilter, TopicName},
    },
    shard::{
        command::{Command, Reply},
        query,
    },
};

fn retain(topic: &str, payload: &str) -> Command {
    retain_with(message(topic, payload), 100, 1 << 20)
}

fn retain_with(message: Message, messages_max: u64, bytes_max: u64) -> Command {
    Command::Retain { message: Arc::new(message), messages_max, bytes_max }
}

/// Reads all pages; topics and payloads.
fn retained(shard: &Shard, filter: &str, limit: usize, now_ms: u64) -> Vec<(String, String)> {
    let filter = TopicFilter::parse(filter).unwrap();
    let mut found = Vec::new();
    let mut after: Option<TopicName> = None;
    let limits = query::PageLimits { messages: limit, bytes: 1 << 30 };
    loop {
        let page = query::retained(&shard.store, APP, &filter, after.as_ref(), limits, now_ms);
        found.extend(page.messages.iter().map(|(_, message)| {
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            (message.topic.as_str().to_owned(), payload)
        }));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

#[test]
fn retained_when_filters_vary_then_those_that_match_come_in_topic_order() {
    let mut shard = Shard::new();
    let topics = ["a", "a/b", "a/b/c", "a/x", "ab", "b/b", "$SYS/x", "a/"];
    for topic in topics {
        shard.one(retain(topic, topic));
    }
    shard.one(retain_with(Message { app: AppId(2), ..message("a/b", "foreign") }, 9, 99));
    for filter in
        ["#", "+", "a/#", "a/+", "a/+/c", "+/b", "a/b", "ab", "$SYS/#", "x/#", "/#", "a/b/#"]
    {
        let parsed = TopicFilter::parse(filter).unwrap();
        let mut want: Vec<&str> = topics
            .into_iter()
            .filter(|topic| parsed.matches(&TopicName::parse(*topic).unwrap()))
            .collect();
        want.sort_unstable();
        for limit in [1, 2, 100] {
            let have = retained(&shard, filter, limit, NOW);
            assert_eq!(
                have.iter().map(|(topic, _)| &topic[..]).collect::<Vec<_>>(),
                want,
                "{filter}"
            );
        }
    }
}

#[test]
fn retain_when_set_again_or_cleared_then_versions_grow_and_counts_hold() {
    let mut shard = Shard::new();
    let limited = |topic: &str, payload: &str| retain_with(message(topic, payload), 2, 8);
    let version = |reply| match reply {
        Reply::Retained { version, refused } => (version, refused),
        other => panic!("no retain: {other:?}"),
    };
    let (first, _) = version(shard.one(limited("a", "1")));
    let (second, _) = version(shard.one(limited("a", "2")));
    assert!(Position::START < first && first < second);
    assert!(!version(shard.one(limited("b", "1"))).1);
    assert!(version(shard.one(limited("c", "1"))).1, "too many");
    shard.reload();
    assert!(version(shard.one(limited("b", "1234567"))).1, "too large");
    assert!(!version(shard.one(limited("b", "12345"))).1);
    assert_eq!(retained(&shard, "+", 9, NOW).len(), 2);
    assert!(!version(shard.one(limited("a", ""))).1);
    assert!(!version(shard.one(limited("a", ""))).1);
    assert!(!version(shard.one(limited("c", "1"))).1);
    assert_eq!(retained(&shard, "#", 9, NOW).len(), 2);
}

#[test]
fn retain_when_sent_again_then_a_newer_message_of_its_topic_stays() {
    let mut shard = Shard::new();
    let again = |id, payload: &str| retain_with(with_id(id, message("a", payload)), 100, 1 << 20);
    let first = shard.one(again(1, "offline"));
    shard.one(retain("a", "online"));
    shard.reload();
    assert_eq!(shard.one(again(1, "offline")), first, "the version that its copy had");
    assert_eq!(retained(&shard, "a", 9, NOW), [("a".to_owned(), "online".to_owned())]);
    // Clearing is remembered, too, also where nothing was.
    for (id, before) in [(2, "online"), (3, "")] {
        if before.is_empty() {
            shard.one(retain("a", ""));
        }
        let cleared = shard.one(again(id, ""));
        shard.one(retain("a", "newer"));
        shard.reload();
        assert_eq!(shard.one(again(id, "")), cleared);
        assert_eq!(retained(&shard, "a", 9, NOW).len(), 1, "{id}");
    }
    // In one entry as well.
    let replies = shard.apply(&[again(4, "4"), retain("a", "newest"), again(4, "4")]);
    assert_eq!(replies[0], replies[2]);
    assert_eq!(retained(&shard, "a", 9, NOW), [("a".to_owned(), "newest".to_owned())]);
}

#[test]
fn retain_when_refused_then_not_remembered() {
    let mut shard = Shard::new();
    let limited = |messages_max| retain_with(with_id(1, message("b", "b")), messages_max, 1 << 20);
    shard.one(retain("a", "a"));
    assert!(matches!(shard.one(limited(1)), Reply::Retained { refused: true, .. }));
    assert!(matches!(shard.one(limited(2)), Reply::Retained { refused: false, .. }));
    assert_eq!(retained(&shard, "b", 9, NOW).len(), 1);
}

#[test]
fn message_and_its_retained_copy_when_in_one_shard_then_each_is_stored_once() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    shard.subscribe(7, epoch, &[subscription("a", Qos::ExactlyOnce)]);
    let message = Message { retain: true, ..with_id(9, message("a", "x")) };
    let copy = || retain_with(message.clone(), 100, 1 << 20);
    let replies = shard.apply(&[copy(), append(message.clone(), QUOTA)]);
    assert!(matches!(replies[1], Reply::Appended { sessions: 1, .. }));
    assert_eq!(shard.waiting(7, epoch), ["x"]);
    // The other order: a copy is no double of its message, either.
    let other = Message {
        retain: true,
        ..with_id(10, Message { topic: TopicName::parse("a").unwrap(), ..message.clone() })
    };
    let replies = shard.apply(&[append(other.clone(), QUOTA), retain_with(other, 100, 1 << 20)]);
    assert!(matches!(replies[1], Reply::Retained { version, .. } if version.offset == 1));
    shard.reload();
    shard.apply(&[copy(), append(message.clone(), QUOTA)]);
    assert_eq!(shard.waiting(7, epoch), ["x", "x"]);
}

#[test]
fn retained_when_expired_then_not_given_and_tick_makes_room() {
    let mut shard = Shard::new();
    let expiring =
        |topic: &str, at_ms| Message { expires_at_ms: Some(at_ms), ..message(topic, "x") };
    shard.one(retain_with(expiring("a", NOW + 10), 2, 99));
    shard.one(retain_with(expiring("b", NOW + 20), 2, 99));
    // Replaced: its deadline must not take the new one away.
    shard.one(retain_with(expiring("b", NOW + 90), 2, 99));
    assert_eq!(retained(&shard, "a", 9, NOW + 10), []);
    assert_eq!(retained(&shard, "+", 9, NOW + 50).len(), 1);
    shard.tick(NOW + 50);
    shard.reload();
    let reply = shard.one(retain_with(message("c", "x"), 2, 99));
    assert!(matches!(reply, Reply::Retained { refused: false, .. }));
    assert_eq!(retained(&shard, "#", 9, NOW + 50).len(), 2);
    shard.tick(NOW + 90);
    assert_eq!(shard.pairs(b'd'), 0);
    assert_eq!(shard.pairs(b'r'), 1);
}

#[test]
fn retained_when_messages_are_large_then_pages_end_at_their_bytes() {
    let mut shard = Shard::new();
    let payload = "x".repeat(1_000);
    for number in 0..100 {
        shard.one(retain_with(message(&format!("t/{number:02}"), &payload), 100, 1 << 20));
    }
    let filter = TopicFilter::parse("t/#").unwrap();
    let limits = query::PageLimits { messages: 50, bytes: 2_500 };
    let mut after: Option<TopicName> = None;
    let mut sizes = Vec::new();
    loop {
        let page = query::retained(&shard.store, APP, &filter, after.as_ref(), limits, NOW);
        sizes.push(page.messages.len());
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), 100);
    assert!(sizes.iter().all(|size| *size <= 3), "{sizes:?}");
}

#[test]
fn retained_copy_when_the_log_has_a_newer_message_of_its_topic_then_skipped() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    let retained = |topic: &str, payload: &str| Message { retain: true, ..message(topic, payload) };
    let copies = |topics: &[&str]| Command::EnqueueRetained {
        key: SessionKey(7),
        epoch,
        filter: TopicFilter::parse("a/+").unwrap(),
        messages: topics.iter().map(|topic| Arc::new(retained(topic, "copy"))).collect(),
        quota: QUOTA,
    };
    let other = shard.claim(8).epoch;
    shard.subscribe(8, other, &[subscription("a/#", Qos::AtLeastOnce)]);
    // Before the subscription: not in its log.
    shard.append(&[retained("a/1", "before")]);
    shard.subscribe(7, epoch, &[subscription("a/+", Qos::AtLeastOnce)]);
    shard.append(&[retained("a/2", "after"), message("a/3", "not retained")]);
    shard.reload();
    shard.one(copies(&["a/1", "a/2", "a/3"]));
    assert_eq!(shard.waiting(7, epoch), ["after", "not retained", "copy", "copy"]);
    // Subscribed again: what came before that is no reason to send no copy.
    shard.subscribe(7, epoch, &[subscription("a/+", Qos::AtLeastOnce)]);
    shard.one(copies(&["a/2"]));
    assert_eq!(shard.waiting(7, epoch).len(), 5);
    shard.unsubscribe(7, epoch, "a/+");
    shard.one(copies(&["a/2"]));
    assert_eq!(shard.waiting(7, epoch).len(), 3);
}
