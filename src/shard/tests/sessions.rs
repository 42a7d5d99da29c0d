//! Claims, releases, expiry, wills, packet ids, users and apps.

use super::support::*;
use crate::{
    model::{
        id::{AppId, Epoch, MessageId, Position, SessionKey},
        message::Qos,
        route_key,
        topic::TopicFilter,
    },
    shard::{
        command::{
            Command, DueWill, Fact, FiltersFull, InflightOut, OutState, Reply, SessionClaim,
            StoredSubscription, StoredWill,
        },
        query,
    },
};

const KEY: SessionKey = SessionKey(7);

/// Changes a claim: clean start and expiry.
pub(super) fn start(clean: bool, expiry: u32) -> impl FnOnce(&mut SessionClaim) {
    move |claim| {
        (claim.clean_start, claim.expiry_secs) = (clean, expiry);
    }
}

fn claim_at(at_ms: u64) -> impl FnOnce(&mut SessionClaim) {
    move |claim| {
        claim.now_ms = at_ms;
    }
}

fn due_wills(reply: Reply) -> Vec<DueWill> {
    match reply {
        Reply::Ticked { wills, .. } => wills,
        other => panic!("no tick: {other:?}"),
    }
}

#[test]
fn claim_when_clean_start_and_expiry_vary_then_as_the_specification_says() {
    // (old session, clean start, expiry) → (present, epoch is 0, session exists after)
    let table = [
        ((false, true, 0), (false, true, false)),
        ((false, false, 0), (false, true, false)),
        ((false, true, 9), (false, false, true)),
        ((false, false, 9), (false, false, true)),
        ((true, true, 0), (false, true, false)),
        ((true, false, 0), (true, false, true)),
        ((true, true, 9), (false, false, true)),
        ((true, false, u32::MAX), (true, false, true)),
    ];
    for ((old, clean, expiry), want) in table {
        let mut shard = Shard::new();
        if old {
            let epoch = shard.claim(7).epoch;
            shard.subscribe(7, epoch, &[subscription("a", Qos::AtLeastOnce)]);
            shard.append(&[message("a", "x")]);
            shard.release(7, epoch, NOW);
        }
        let claimed = shard.claim_with(7, start(clean, expiry));
        let exists = query::queue_depth(&shard.machine, KEY).is_some();
        assert_eq!(
            (claimed.session_present, claimed.epoch == Epoch(0), exists),
            want,
            "old {old}, clean {clean}, expiry {expiry}"
        );
        assert_eq!(claimed.subscriptions.len(), usize::from(claimed.session_present));
        assert_eq!(shard.message_pairs() > 0, claimed.session_present);
    }
}

#[test]
fn epoch_when_a_session_lives_again_then_its_earlier_life_stays_fenced() {
    let mut shard = Shard::new();
    let first = shard.claim(7).epoch;
    shard.claim_with(7, start(true, 0));
    assert_eq!(shard.release(7, first, NOW), Reply::Fenced);
    let second = shard.claim(7).epoch;
    assert!(second > first);
    shard.reload();
    assert_eq!(shard.acknowledge(7, first, Position::START), Reply::Fenced);
    assert_eq!(shard.acknowledge(7, second, Position::START), Reply::Done);
    let claims = [claim(7), claim(7)].map(|claim| Command::Claim(Box::new(claim)));
    let epochs: Vec<Epoch> = shard
        .apply(&claims)
        .into_iter()
        .map(|reply| match reply {
            Reply::Claimed(claimed) => claimed.epoch,
            other => panic!("no claim: {other:?}"),
        })
        .collect();
    assert!(second < epochs[0] && epochs[0] < epochs[1]);
}

#[test]
fn claim_when_the_old_connection_has_not_released_then_it_is_named() {
    let mut shard = Shard::new();
    assert_eq!(shard.claim(7).previous_holder, None);
    assert_eq!(shard.claim(7).previous_holder, Some(holder(1)));
    assert_eq!(shard.claim_with(7, start(true, 0)).previous_holder, Some(holder(2)));
    assert_eq!(shard.claim(7).previous_holder, None);
}

#[test]
fn session_when_its_expiry_passes_then_tick_ends_it_even_after_a_restart() {
    let mut shard = Shard::new();
    let epoch = shard.claim_with(7, start(false, 10)).epoch;
    shard.subscribe(7, epoch, &[subscription("a", Qos::AtLeastOnce)]);
    shard.append(&[message("a", "x")]);
    shard.release(7, epoch, NOW);
    shard.reload();
    assert!(!query::is_due(&shard.machine, &shard.store, NOW + 9_999));
    shard.tick(NOW + 9_999);
    assert!(query::queue_depth(&shard.machine, KEY).is_some());
    shard.facts();
    let reply = shard.tick(NOW + 10_000);
    assert_eq!(reply, Reply::Ticked { wills: vec![], sessions_ended: vec![KEY], more: false });
    let filter = TopicFilter::parse("a").unwrap();
    assert_eq!(shard.facts(), [Fact::FilterRemoved { app: APP, filter }]);
    // Nothing of it is left but the numbers and the app's count, and for a while that it was there.
    assert_eq!(shard.store.len(), 4);
    shard.tick(NOW + 10_000 + 60_000);
    assert_eq!(shard.store.len(), 2);
}

#[test]
fn session_when_claimed_after_its_time_but_before_the_tick_then_not_present() {
    let mut shard = Shard::new();
    let epoch = shard.claim_with(7, start(false, 10)).epoch;
    shard.release(7, epoch, NOW);
    assert!(!shard.claim_with(7, claim_at(NOW + 10_000)).session_present);
    assert!(!query::is_due(&shard.machine, &shard.store, u64::MAX));
}

#[test]
fn session_when_resumed_in_time_then_its_deadline_is_gone() {
    let mut shard = Shard::new();
    let epoch = shard.claim_with(7, start(false, 10)).epoch;
    shard.release(7, epoch, NOW);
    assert!(shard.claim_with(7, claim_at(NOW + 9_999)).session_present);
    assert!(!query::is_due(&shard.machine, &shard.store, u64::MAX));
}

#[test]
fn release_when_expiry_is_changed_to_zero_then_the_session_ends() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    shard.one(Command::Release {
        key: KEY,
        epoch,
        expiry_secs: Some(0),
        will_dropped: false,
        inflight: vec![],
        now_ms: NOW,
    });
    assert!(!shard.claim(7).session_present);
}

#[test]
fn will_when_the_connection_ends_then_due_after_its_delay_until_done() {
    let with_will = |delay, expiry| {
        move |claim: &mut SessionClaim| {
            (claim.will, claim.expiry_secs) = (will("w", delay), expiry);
        }
    };
    // (delay, session expiry) → seconds after release at which it is due
    for (delay, expiry, due) in
        [(0, 100, 0), (5, 100, 5), (50, 10, 10), (5, 0, 0), (5, u32::MAX, 5)]
    {
        let mut shard = Shard::new();
        // A session that exists, so that a claim with expiry 0 resumes it.
        shard.claim(7);
        let epoch = shard.claim_with(7, with_will(delay, expiry)).epoch;
        shard.release(7, epoch, NOW);
        shard.reload();
        let at = NOW + due * 1_000;
        if due > 0 {
            assert!(due_wills(shard.tick(at - 1)).is_empty());
        }
        let wills = due_wills(shard.tick(at));
        assert_eq!(wills.len(), 1, "delay {delay}, expiry {expiry}");
        assert_eq!((wills[0].key, wills[0].epoch), (KEY, epoch));
        assert_eq!(wills[0].message.published_at_ms, at);
        assert_eq!(wills[0].message.expires_at_ms, Some(at + 60_000));
        assert!(due_wills(shard.tick(at + 1)).is_empty());
        assert_eq!(due_wills(shard.tick(at + 5_000)), wills);
        shard.one(Command::WillDone { key: KEY, epoch });
        assert!(due_wills(shard.tick(at + 60_000)).is_empty());
    }
}

#[test]
fn will_when_the_session_is_taken_again_then_cancelled_or_due() {
    // (delay, released, clean start) → published. A claim may carry an older time than the release
    // that it waited for.
    let table = [
        (9, true, false, false),
        (9, true, true, true),
        (9, false, false, false),
        (0, false, false, true),
        (0, true, false, true),
        (9, false, true, true),
    ];
    for (delay, released, clean, published) in table {
        let mut shard = Shard::new();
        let epoch = shard
            .claim_with(7, |claim| {
                claim.will = will("w", delay);
            })
            .epoch;
        if released {
            shard.release(7, epoch, NOW + 5);
        }
        shard.claim_with(7, start(clean, 100));
        let wills = due_wills(shard.tick(NOW + 60_000));
        assert_eq!(wills.len(), usize::from(published), "{delay} {released} {clean}");
    }
}

#[test]
fn will_when_disconnect_drops_it_then_never_due() {
    let mut shard = Shard::new();
    let epoch = shard
        .claim_with(7, |claim| {
            claim.will = will("w", 0);
        })
        .epoch;
    shard.one(Command::Release {
        key: KEY,
        epoch,
        expiry_secs: None,
        will_dropped: true,
        inflight: vec![],
        now_ms: NOW,
    });
    assert!(due_wills(shard.tick(u64::MAX - 1)).is_empty());
}

#[test]
fn start_when_the_last_one_held_sessions_then_they_are_released() {
    let mut shard = Shard::new();
    let epoch = shard
        .claim_with(7, |claim| {
            (claim.will, claim.expiry_secs) = (will("w", 0), 10);
        })
        .epoch;
    shard.claim(8);
    release_stale(&mut shard, 1);
    assert!(due_wills(shard.tick(NOW)).is_empty());
    shard.reload();
    release_stale(&mut shard, 2);
    let wills = due_wills(shard.tick(NOW));
    assert_eq!(wills.iter().map(|will| will.epoch).collect::<Vec<_>>(), [epoch]);
    assert_eq!(shard.claim(8).previous_holder, None);
    shard.tick(NOW + 10_000);
    assert!(query::queue_depth(&shard.machine, KEY).is_none());
}

fn held_before(page: &query::HeldPage, incarnation: u64) -> Vec<SessionKey> {
    let held = page.sessions.iter().filter(|(.., holder)| {
        holder.is_some_and(|holder| holder.node == 1 && holder.incarnation < incarnation)
    });
    held.map(|(key, ..)| *key).collect()
}

/// What the upkeep does after a start: looks at two sessions at a time.
fn release_stale(shard: &mut Shard, incarnation: u64) -> usize {
    let (mut after, mut steps) = (None, 0);
    loop {
        let found = query::held(&shard.machine, after, 2, query::Held::Wills);
        assert!(found.sessions.len() <= 2);
        let keys = held_before(&found, incarnation);
        shard.one(Command::ReleaseStale { keys, node: 1, incarnation, now_ms: NOW });
        steps += 1;
        after = found.next;
        if after.is_none() {
            return steps;
        }
    }
}

#[test]
fn start_when_many_sessions_are_held_then_each_step_releases_a_few() {
    let mut shard = Shard::new();
    for key in 1..=9 {
        shard.claim(key);
    }
    let here = |claim: &mut SessionClaim| {
        claim.holder.incarnation = 2;
    };
    // This one is back before the background work comes to it.
    let epoch = shard.claim_with(9, here).epoch;
    assert_eq!(release_stale(&mut shard, 2), 5);
    assert_eq!(held_before(&query::held(&shard.machine, None, 99, query::Held::Wills), 2), []);
    let held = query::sessions_durable(&shard.machine, &shard.store, None, 99);
    let held: Vec<u128> =
        held.iter().filter(|view| view.holder.is_some()).map(|view| view.key.0).collect();
    assert_eq!(held, [9]);
    assert_eq!(shard.acknowledge(9, epoch, Position::START), Reply::Done);
}

#[test]
fn claim_when_the_last_start_held_the_session_then_what_that_connection_owed_is_settled() {
    let mut shard = Shard::new();
    let of_start = |expiry: u32, incarnation: u64| {
        move |claim: &mut SessionClaim| {
            (claim.will, claim.expiry_secs) = (will("w", 0), expiry);
            claim.holder.incarnation = incarnation;
        }
    };
    // Resumed with expiry 0: it ends with its connection, even if that died with the node.
    let epoch = shard.claim(7).epoch;
    shard.subscribe(7, epoch, &[subscription("a", Qos::AtLeastOnce)]);
    assert!(shard.claim_with(7, of_start(0, 1)).session_present);
    let claimed = shard.claim_with(7, of_start(60, 2));
    assert!(!claimed.session_present);
    assert_eq!((claimed.subscriptions.len(), claimed.previous_holder), (0, None));
    assert_eq!(due_wills(shard.tick(NOW)).len(), 1);
    let claimed = shard.claim_with(7, of_start(60, 3));
    assert_eq!((claimed.session_present, claimed.previous_holder), (true, None));
}

#[test]
fn qos2_delivery_when_completed_and_the_cursor_not_yet_moved_then_not_delivered_again() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    shard.subscribe(7, epoch, &[subscription("a", Qos::ExactlyOnce)]);
    for n in 0..3 {
        shard.append(&[message("a", &format!("{n}"))]);
    }
    let at: Vec<Position> =
        shard.page(7, epoch, Position::START, 9).messages.iter().map(|q| q.position).collect();
    let key = KEY;
    shard.apply(&[
        Command::OutPublish { key, epoch, ids: vec![(1, at[0]), (2, at[1])] },
        Command::OutReceived { key, epoch, packet_id: 2 },
        Command::OutCompleted { key, epoch, packet_id: 2 },
    ]);
    shard.reload();
    let claimed = shard.claim(7);
    assert_eq!(claimed.inflight.iter().map(|out| out.packet_id).collect::<Vec<_>>(), [1]);
    assert_eq!(shard.waiting(7, claimed.epoch), ["0", "2"]);
}

#[test]
fn packet_ids_when_under_way_then_claimed_again_in_order_of_sending() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    shard.subscribe(7, epoch, &[subscription("a", Qos::ExactlyOnce)]);
    for n in 0..4 {
        shard.append(&[message("a", &format!("{n}"))]);
    }
    let at: Vec<Position> =
        shard.page(7, epoch, Position::START, 9).messages.iter().map(|q| q.position).collect();
    let key = KEY;
    let ids = vec![(10, at[3]), (11, at[0]), (12, at[1])];
    shard.apply(&[
        Command::OutPublish { key, epoch, ids },
        Command::OutReceived { key, epoch, packet_id: 11 },
        Command::OutCompleted { key, epoch, packet_id: 12 },
        Command::Acknowledge { key, epoch, cursor: at[1], beyond: vec![] },
    ]);
    let known = InflightOut {
        packet_id: 9,
        position: at[2],
        qos: Qos::AtLeastOnce,
        state: OutState::Published,
    };
    let begin = |packet_id, id| Command::InBegin { key, epoch, packet_id, id: MessageId(id) };
    assert_eq!(shard.one(begin(3, 33)), Reply::InBegun { known: None });
    assert_eq!(shard.one(begin(3, 44)), Reply::InBegun { known: Some(MessageId(33)) });
    shard.one(Command::Release {
        key,
        epoch,
        expiry_secs: None,
        will_dropped: false,
        inflight: vec![known],
        now_ms: NOW,
    });
    shard.reload();
    let claimed = shard.claim(7);
    let sent: Vec<_> = claimed.inflight.iter().map(|out| (out.packet_id, out.state)).collect();
    use OutState::{Published, Received};
    assert_eq!(sent, [(11, Received), (9, Published), (10, Published)]);
    assert_eq!(claimed.incoming, [(3, MessageId(33))]);
    let epoch = claimed.epoch;
    assert_eq!(shard.one(Command::InEnd { key, epoch, packet_id: 3 }), Reply::InEnded(true));
    assert_eq!(shard.one(Command::InEnd { key, epoch, packet_id: 3 }), Reply::InEnded(false));
}

#[test]
fn subscribe_when_the_limit_is_reached_then_only_known_filters_are_taken() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    let shared = StoredSubscription {
        share: Some(bytes::Bytes::from_static(b"g")),
        ..subscription("a", Qos::AtLeastOnce)
    };
    let items = vec![
        subscription("a", Qos::AtLeastOnce),
        shared.clone(),
        subscription("b", Qos::AtMostOnce),
        subscription("a", Qos::ExactlyOnce),
    ];
    shard.facts();
    let reply = shard.one(Command::Subscribe { key: KEY, epoch, items, filters_max: 2 });
    let want = vec![Ok(true), Ok(true), Err(FiltersFull), Ok(false)];
    assert_eq!(reply, Reply::Subscribed(want));
    let filter = TopicFilter::parse("a").unwrap();
    let key = route_key::of_group(APP, b"g", b"a");
    let told = [Fact::FilterAdded { app: APP, filter }, Fact::GroupAdded { key }];
    assert_eq!(shard.facts(), told);
    shard.reload();
    assert_eq!(shard.facts(), told);
    let mut subscriptions = shard.claim(7).subscriptions;
    subscriptions.sort_by_key(|item| item.share.clone());
    assert_eq!(subscriptions, [subscription("a", Qos::ExactlyOnce), shared]);
}

#[test]
fn apps_and_users_when_made_then_found_again() {
    let mut shard = Shard::new();
    let create = |name: &str| Command::CreateApp { name: name.to_owned() };
    assert_eq!(shard.one(create("demo#demo")), Reply::App(AppId(1)));
    shard.reload();
    assert_eq!(shard.one(create("a#b")), Reply::App(AppId(2)));
    assert_eq!(shard.one(create("demo#demo")), Reply::App(AppId(1)));
    let apps = [(AppId(1), "demo#demo".to_owned()), (AppId(2), "a#b".to_owned())];
    assert_eq!(query::apps(&shard.store), apps);
    assert_eq!(query::app(&shard.store, "a#b"), Some(AppId(2)));
    shard.one(Command::PutUser {
        app: APP,
        name: "ann".to_owned(),
        password_hash: "hash".to_owned(),
    });
    assert_eq!(query::user(&shard.store, APP, "ann").as_deref(), Some("hash"));
    assert_eq!(query::user(&shard.store, AppId(2), "ann"), None);
}

#[test]
fn sessions_durable_when_listed_then_paged_by_key() {
    let mut shard = Shard::new();
    for key in [3, 1, 2] {
        shard.claim(key);
    }
    let list = query::sessions_durable(&shard.machine, &shard.store, None, 2);
    let keys: Vec<u128> = list.iter().map(|view| view.key.0).collect();
    assert_eq!((keys, &list[0].client_id[..]), (vec![1, 2], "client-1"));
    let list = query::sessions_durable(&shard.machine, &shard.store, Some(SessionKey(2)), 9);
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].holder, Some(holder(1)));
}

#[test]
fn claim_when_the_same_connection_asks_again_then_nothing_of_its_first_attempt_is_told() {
    let mut shard = Shard::new();
    let first = |claim: &mut SessionClaim| {
        claim.holder = holder(9);
        claim.will = Some(Box::new(StoredWill {
            message: message("will", "gone"),
            delay_secs: 0,
            expiry_secs: None,
        }));
    };
    let epoch = shard.claim_with(7, first).epoch;
    let again = shard.claim_with(7, first);
    assert!(again.epoch > epoch, "what the first attempt still sends is refused");
    assert!(!again.session_present, "only the first attempt has made it");
    assert_eq!(again.previous_holder, Some(holder(9)));
    assert!(due_wills(shard.tick(NOW)).is_empty(), "the connection has not ended");
    shard.subscribe(7, again.epoch, &[subscription("a", Qos::AtLeastOnce)]);
    let third = shard.claim_with(7, first);
    assert!(third.session_present);
    shard.release(7, third.epoch, NOW);
    assert_eq!(due_wills(shard.tick(NOW)).len(), 1, "one will, of the last attempt");
}
