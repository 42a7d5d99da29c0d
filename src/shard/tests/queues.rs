//! Appending, paging, acknowledging, trimming.

use std::sync::Arc;

use super::support::*;
use crate::{
    model::{
        id::{Epoch, MessageId, Position, SessionKey},
        message::{Message, Qos},
        topic::TopicFilter,
        wire::SubscriptionOptions,
    },
    shard::{
        command::{Command, Fact, Reply, StoredSubscription},
        query::{self, Fenced, PageLimits, QueueDepth},
    },
};

fn one_reader(filter: &str) -> (Shard, Epoch) {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    shard.subscribe(7, epoch, &[subscription(filter, Qos::ExactlyOnce)]);
    (shard, epoch)
}

#[test]
fn page_when_messages_wait_then_they_come_in_order_and_survive_a_reload() {
    let (mut shard, epoch) = one_reader("a/#");
    let texts: Vec<String> = (0..500).map(|n| format!("{n}")).collect();
    for batch in texts.chunks(7) {
        let batch: Vec<Command> =
            batch.iter().map(|text| append(message("a/b", text), QUOTA)).collect();
        shard.apply(&batch);
    }
    assert_eq!(shard.waiting(7, epoch), texts);
    shard.reload();
    assert_eq!(shard.waiting(7, epoch), texts);
    let depth = query::queue_depth(&shard.machine, SessionKey(7)).unwrap();
    assert_eq!(depth.messages, 500);
}

#[test]
fn page_when_the_epoch_is_old_then_fenced() {
    let (mut shard, epoch) = one_reader("a");
    shard.claim(7);
    let limits = PageLimits { messages: 1, bytes: 1 };
    let key = (SessionKey(7), epoch);
    let page = query::page(&shard.machine, &shard.store, key, Position::START, limits, NOW);
    assert_eq!(page, Err(Fenced));
    assert_eq!(shard.acknowledge(7, epoch, Position::START), Reply::Fenced);
}

#[test]
fn acknowledge_when_all_is_read_then_nothing_of_the_messages_is_left() {
    let (mut shard, epoch) = one_reader("a/#");
    for n in 0..300 {
        shard.append(&[message("a/b", &format!("{n}"))]);
    }
    let page = shard.page(7, epoch, Position::START, 300);
    assert!(page.caught_up);
    shard.acknowledge(7, epoch, page.messages[99].position);
    assert_eq!(shard.waiting(7, epoch).len(), 200);
    let depth = query::queue_depth(&shard.machine, SessionKey(7)).unwrap();
    assert_eq!(depth.messages, 200);
    assert_eq!(shard.pairs(b'b'), 200);
    shard.acknowledge(7, epoch, page.read_to);
    assert_eq!(shard.message_pairs(), 0);
    let depth = query::queue_depth(&shard.machine, SessionKey(7)).unwrap();
    assert_eq!(depth, QueueDepth::default());
    shard.append(&[message("a/b", "new")]);
    assert_eq!(shard.waiting(7, epoch), ["new"]);
}

#[test]
fn acknowledge_when_out_of_order_then_those_are_left_out_and_claimed_again() {
    let (mut shard, epoch) = one_reader("a");
    for n in 0..5 {
        shard.append(&[message("a", &format!("{n}"))]);
    }
    let at: Vec<Position> =
        shard.page(7, epoch, Position::START, 9).messages.iter().map(|q| q.position).collect();
    shard.one(Command::Acknowledge {
        key: SessionKey(7),
        epoch,
        cursor: at[0],
        beyond: vec![at[3], at[2]],
    });
    assert_eq!(shard.waiting(7, epoch), ["1", "4"]);
    shard.reload();
    let claimed = shard.claim(7);
    assert!(claimed.session_present);
    assert_eq!((claimed.cursor, claimed.beyond), (at[0], vec![at[2], at[3]]));
    assert_eq!(shard.waiting(7, claimed.epoch), ["1", "4"]);
    // A cursor from the future would swallow what is still to come.
    let future = Position { entry: 1 << 60, offset: 0 };
    shard.acknowledge(7, claimed.epoch, future);
    shard.append(&[message("a", "new")]);
    assert_eq!(shard.waiting(7, claimed.epoch), ["new"]);
}

#[test]
fn page_when_filters_overlap_then_one_delivery_with_all_ids_at_the_greatest_qos() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    shard.subscribe(
        7,
        epoch,
        &[
            subscription_id(5, "a/+", Qos::AtLeastOnce),
            subscription_id(2, "a/#", Qos::ExactlyOnce),
            subscription_id(9, "+/b", Qos::AtMostOnce),
            subscription_id(9, "c", Qos::AtMostOnce),
        ],
    );
    let twice = Message { qos: Qos::ExactlyOnce, ..message("a/b", "x") };
    assert!(matches!(shard.append(&[twice]), Reply::Appended { sessions: 1, .. }));
    assert!(matches!(shard.append(&[message("c", "y")]), Reply::Appended { sessions: 0, .. }));
    for _ in 0..2 {
        let page = shard.page(7, epoch, Position::START, 9);
        assert_eq!(page.messages.len(), 1);
        assert_eq!(page.messages[0].subscription_ids, [2, 5, 9]);
        assert_eq!(page.messages[0].qos, Qos::ExactlyOnce);
        shard.reload();
    }
    shard.acknowledge(7, epoch, Position { entry: 3, offset: 0 });
    assert_eq!(shard.message_pairs(), 0);
}

#[test]
fn page_when_options_say_so_then_own_messages_and_retain_flags_are_left_out() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    let other = shard.claim(8).epoch;
    let options = |no_local, retain_as_published| SubscriptionOptions {
        qos: Qos::AtLeastOnce,
        no_local,
        retain_as_published,
        ..Default::default()
    };
    let item = |filter: &str, options| StoredSubscription {
        options,
        ..subscription(filter, Qos::AtLeastOnce)
    };
    shard.subscribe(7, epoch, &[item("a", options(true, false)), item("b", options(true, true))]);
    shard.subscribe(8, other, &[item("a", options(false, true))]);
    let own = |topic: &str| Message {
        publisher: Some(SessionKey(7)),
        retain: true,
        ..message(topic, "own")
    };
    shard.append(&[own("a"), own("b"), Message { retain: true, ..message("b", "other") }]);
    let page = shard.page(7, epoch, Position::START, 9);
    assert_eq!(shard.waiting(7, epoch), ["other"]);
    assert!(page.messages[0].retain);
    assert!(page.caught_up);
    assert!(shard.page(8, other, Position::START, 9).messages[0].retain);
    shard.acknowledge(7, epoch, page.read_to);
    shard.acknowledge(8, other, Position { entry: shard.index, offset: 0 });
    assert_eq!(shard.message_pairs(), 0);
}

#[test]
fn page_when_messages_expired_then_skipped_and_tick_frees_them() {
    let (mut shard, epoch) = one_reader("a");
    let expiring = |at_ms, text| Message { expires_at_ms: Some(at_ms), ..message("a", text) };
    shard.append(&[expiring(NOW, "dead"), expiring(NOW + 5_000, "alive"), message("a", "ever")]);
    assert_eq!(shard.waiting(7, epoch), ["alive", "ever"]);
    assert!(query::is_due(&shard.machine, &shard.store, NOW));
    shard.tick(NOW);
    assert!(!query::is_due(&shard.machine, &shard.store, NOW));
    assert_eq!(shard.pairs(b'b'), 2);
    assert_eq!(shard.waiting(7, epoch), ["alive", "ever"]);
    shard.acknowledge(7, epoch, Position { entry: shard.index, offset: 0 });
    assert_eq!(shard.message_pairs() + shard.pairs(b'd'), 0);
}

#[test]
fn subscribe_when_later_then_earlier_messages_are_not_seen_and_replacing_keeps_them() {
    let (mut shard, epoch) = one_reader("a");
    shard.append(&[message("a", "1")]);
    let late = shard.claim(8).epoch;
    let subscribe = Command::Subscribe {
        key: SessionKey(8),
        epoch: late,
        items: vec![subscription("a", Qos::AtLeastOnce)],
        filters_max: 9,
    };
    shard.apply(&[append(message("a", "2"), QUOTA), subscribe, append(message("a", "3"), QUOTA)]);
    assert_eq!(shard.waiting(8, late), ["3"]);
    shard.subscribe(7, epoch, &[subscription_id(4, "a", Qos::AtLeastOnce)]);
    assert_eq!(shard.waiting(7, epoch), ["1", "2", "3"]);
    assert_eq!(shard.page(7, epoch, Position::START, 1).messages[0].subscription_ids, [4]);
    shard.reload();
    assert_eq!(shard.waiting(8, late), ["3"]);
}

#[test]
fn subscribe_when_qos_falls_to_zero_then_what_waits_is_kept_and_nothing_new_comes() {
    let (mut shard, epoch) = one_reader("a");
    let filter = TopicFilter::parse("a").unwrap();
    shard.append(&[message("a", "1"), message("a", "2")]);
    shard.facts();
    shard.subscribe(7, epoch, &[subscription("a", Qos::AtMostOnce)]);
    assert_eq!(shard.facts(), [Fact::FilterRemoved { app: APP, filter: filter.clone() }]);
    assert!(matches!(shard.append(&[message("a", "3")]), Reply::Appended { sessions: 0, .. }));
    shard.reload();
    assert_eq!(shard.waiting(7, epoch), ["1", "2"]);
    shard.subscribe(7, epoch, &[subscription("a", Qos::AtLeastOnce)]);
    assert_eq!(shard.facts(), [Fact::FilterAdded { app: APP, filter }]);
    shard.append(&[message("a", "4")]);
    shard.reload();
    assert_eq!(shard.waiting(7, epoch), ["1", "2", "4"]);
    let end = Position { entry: shard.index, offset: 0 };
    shard.acknowledge(7, epoch, end);
    assert_eq!(shard.message_pairs(), 0);
    assert_eq!(shard.pairs(b'f'), 1);
}

#[test]
fn unsubscribe_when_others_read_on_then_only_own_messages_go() {
    let mut shard = Shard::new();
    let (one, two) = (shard.claim(1).epoch, shard.claim(2).epoch);
    shard.subscribe(
        1,
        one,
        &[subscription("a", Qos::AtLeastOnce), subscription("b", Qos::AtLeastOnce)],
    );
    shard.subscribe(2, two, &[subscription("a", Qos::AtLeastOnce)]);
    shard.append(&[message("a", "1"), message("b", "2")]);
    assert_eq!(shard.unsubscribe(1, one, "a"), Reply::Unsubscribed(vec![true]));
    assert_eq!(shard.unsubscribe(1, one, "a"), Reply::Unsubscribed(vec![false]));
    assert_eq!(shard.waiting(1, one), ["2"]);
    assert_eq!(shard.waiting(2, two), ["1"]);
    shard.facts();
    shard.unsubscribe(2, two, "a");
    let removed = Fact::FilterRemoved { app: APP, filter: TopicFilter::parse("a").unwrap() };
    assert_eq!(shard.facts(), [removed]);
    shard.unsubscribe(1, one, "b");
    assert_eq!(shard.message_pairs() + shard.pairs(b'f') + shard.pairs(b'g'), 0);
}

#[test]
fn append_when_the_id_is_known_then_the_same_reply_and_nothing_stored() {
    let (mut shard, epoch) = one_reader("a");
    let first = shard.one(append(with_id(5, message("a", "x")), QUOTA));
    let batch = [append(with_id(6, message("a", "y")), QUOTA); 1];
    shard.apply(&batch);
    shard.reload();
    assert_eq!(shard.one(append(with_id(5, message("a", "x")), QUOTA)), first);
    let twice = append(with_id(8, message("a", "z")), QUOTA);
    let replies = shard.apply(&[twice.clone(), twice]);
    assert_eq!(replies[0], replies[1]);
    assert_eq!(shard.waiting(7, epoch), ["x", "y", "z"]);
}

#[test]
fn append_when_sent_again_after_any_number_of_others_then_known_while_its_exchange_is_open() {
    let (mut shard, epoch) = one_reader("a");
    let publisher = SessionKey(1 << 80);
    let id = |publisher, exchange, unique| MessageId::in_exchange(publisher, exchange, unique);
    let append_as =
        |id, payload: &str| append(Message { id: Some(id), ..message("a", payload) }, QUOTA);
    let stuck = append_as(id(publisher, 0, 1), "stuck");
    let first = shard.one(stuck.clone());
    // More than the shard remembers, of this publisher and of another; each exchange ends at once.
    let others = 2 * u64::try_from(crate::limits::DEDUP_IDS_MAX).unwrap() / 512;
    for n in 0..others {
        let batch: Vec<Command> = (0..512)
            .map(|at| {
                let publisher = SessionKey(u128::from(1 + at % 2) << 80);
                append_as(id(publisher, 1 + u16::try_from(at % 32).unwrap(), n * 512 + at), "x")
            })
            .collect();
        let replies = shard.apply(&batch);
        let Some(Reply::Appended { position, .. }) = replies.last() else { panic!() };
        shard.acknowledge(7, epoch, *position);
        if n == others / 2 {
            shard.reload();
        }
    }
    assert_eq!(shard.one(stuck.clone()), first);
    shard.reload();
    assert_eq!(shard.one(stuck), first);
    assert!(shard.pairs(b'm') < 20, "ids that nobody asks for are not kept");
    // The exchange goes on to another message: the first one would be new again.
    shard.one(append_as(id(publisher, 0, 2), "next"));
    shard.one(append_as(id(publisher, 0, 2), "next"));
    assert_eq!(shard.waiting(7, epoch), ["next"]);
}

#[test]
fn append_when_more_exchanges_are_open_than_remembered_then_the_oldest_is_new_again() {
    let (mut shard, epoch) = one_reader("a");
    let append_in = |slot: u64| {
        let id = Some(MessageId::in_slot(slot, 9));
        append(Message { id, ..message("a", "x") }, QUOTA)
    };
    let max = u64::try_from(crate::limits::DEDUP_IDS_MAX).unwrap();
    let mut last = Position::START;
    for from in (0..max).step_by(1_024) {
        let batch: Vec<Command> = (from..from + 1_024).map(append_in).collect();
        let replies = shard.apply(&batch);
        let Some(Reply::Appended { position, .. }) = replies.last() else { panic!() };
        last = *position;
        shard.acknowledge(7, epoch, last);
    }
    // As many as it holds: all are known.
    for slot in [0, 1, max / 2, max - 1] {
        shard.one(append_in(slot));
    }
    assert!(shard.waiting(7, epoch).is_empty());
    // One chunk of 64 more, and the oldest are forgotten; the others are not.
    let batch: Vec<Command> = (max..max + 65).map(append_in).collect();
    shard.apply(&batch);
    let new = shard.waiting(7, epoch).len();
    assert_eq!(new, 65);
    for slot in [0, max / 2, max - 1, max] {
        shard.one(append_in(slot));
    }
    assert_eq!(shard.waiting(7, epoch).len(), new + 1);
    assert!(last > Position::START);
}

#[test]
fn append_when_it_matched_nothing_then_a_resend_reaches_who_subscribed_since_once() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    let command = append(with_id(5, message("a", "x")), QUOTA);
    shard.one(command.clone());
    shard.subscribe(7, epoch, &[subscription("a", Qos::ExactlyOnce)]);
    shard.one(command.clone());
    shard.one(command);
    assert_eq!(shard.waiting(7, epoch), ["x"]);
}

#[test]
fn enqueue_when_for_one_session_then_it_keeps_its_own_options() {
    let (mut shard, epoch) = one_reader("a");
    let retained = Message { retain: true, ..message("b", "kept") };
    let reply = shard.one(Command::Enqueue {
        key: SessionKey(7),
        epoch,
        messages: vec![Arc::new(retained.clone()), Arc::new(retained)],
        qos: Qos::AtLeastOnce,
        subscription_id: 3,
        quota: QUOTA,
    });
    assert!(matches!(reply, Reply::Appended { sessions: 1, dropped: 0, refused: false, .. }));
    shard.append(&[message("a", "live")]);
    shard.reload();
    assert_eq!(shard.waiting(7, epoch), ["kept", "kept", "live"]);
    let page = shard.page(7, epoch, Position::START, 2);
    assert!(page.messages[0].retain);
    assert_eq!(page.messages[0].subscription_ids, [3]);
    shard.acknowledge(7, epoch, Position { entry: shard.index, offset: 0 });
    assert_eq!(shard.message_pairs(), 0);
}

#[test]
fn log_grew_when_a_holder_is_there_then_told_once_per_entry() {
    let (mut shard, epoch) = one_reader("a/#");
    shard.subscribe(7, epoch, &[subscription("a/b", Qos::AtLeastOnce)]);
    shard.facts();
    shard.apply(&[append(message("a/b", "1"), QUOTA), append(message("a/c", "2"), QUOTA)]);
    let holder = holder(1);
    assert_eq!(shard.facts(), [Fact::LogGrew { sessions: vec![(SessionKey(7), holder)] }]);
    shard.release(7, epoch, NOW);
    shard.append(&[message("a/b", "3")]);
    assert_eq!(shard.facts(), []);
}

#[test]
fn page_when_limits_are_small_then_it_goes_on_where_it_stopped() {
    let (mut shard, epoch) = one_reader("a");
    shard.append(&[message("a", &"x".repeat(9_000)), message("a", "y")]);
    let limits = PageLimits { messages: 9, bytes: 10 };
    let key = (SessionKey(7), epoch);
    let page =
        query::page(&shard.machine, &shard.store, key, Position::START, limits, NOW).unwrap();
    assert_eq!((page.messages.len(), page.caught_up), (1, false));
    let page = query::page(&shard.machine, &shard.store, key, page.read_to, limits, NOW).unwrap();
    assert_eq!((page.messages.len(), page.caught_up), (1, true));
}

#[test]
fn trim_when_a_log_has_many_readers_then_tick_does_it_behind_the_slowest() {
    let mut shard = Shard::new();
    let readers: Vec<(u128, Epoch)> = (1..=100).map(|key| (key, shard.claim(key).epoch)).collect();
    for &(key, epoch) in &readers {
        shard.subscribe(key, epoch, &[subscription("a", Qos::AtLeastOnce)]);
    }
    shard.append(&[message("a", "1"), message("a", "2")]);
    let end = Position { entry: shard.index, offset: 0 };
    for &(key, epoch) in &readers[1..] {
        shard.acknowledge(key, epoch, end);
    }
    while matches!(shard.tick(NOW), Reply::Ticked { more: true, .. }) {}
    assert_eq!(shard.pairs(b'b'), 2);
    let (key, epoch) = readers[0];
    shard.acknowledge(key, epoch, end);
    shard.reload();
    while matches!(shard.tick(NOW), Reply::Ticked { more: true, .. }) {}
    assert_eq!(shard.message_pairs(), 0);
}
