//! Wills of connections without a durable session: the shard holds the will and who may end it, nothing else.

use bytes::Bytes;

use super::support::*;
use crate::{
    model::{
        id::{AppId, Epoch, SessionKey},
        message::Qos,
    },
    shard::{
        command::{Claimed, Command, DueWill, Holder, Reply, SessionClaim},
        key,
        query::{self, Held},
    },
};

const KEY: SessionKey = SessionKey(7);

type Taker = Box<dyn FnOnce(&mut SessionClaim)>;

/// A clean connection with a will.
fn mortal(delay_secs: u32) -> impl FnOnce(&mut SessionClaim) {
    move |claim| {
        (claim.clean_start, claim.expiry_secs) = (true, 0);
        claim.will = will("w", delay_secs);
    }
}

fn clean(claim: &mut SessionClaim) {
    (claim.clean_start, claim.expiry_secs) = (true, 0);
}

fn due(shard: &mut Shard, now_ms: u64) -> Vec<DueWill> {
    match shard.tick(now_ms) {
        Reply::Ticked { wills, .. } => wills,
        other => panic!("no tick: {other:?}"),
    }
}

fn release(shard: &mut Shard, epoch: Epoch, will_dropped: bool) -> Reply {
    let (expiry_secs, inflight, now_ms) = (None, Vec::new(), NOW);
    shard.one(Command::Release { key: KEY, epoch, expiry_secs, will_dropped, inflight, now_ms })
}

fn release_stale(shard: &mut Shard) {
    let (keys, node, incarnation, now_ms) = (vec![KEY], 1, 2, NOW);
    shard.one(Command::ReleaseStale { keys, node, incarnation, now_ms });
}

/// Counts what is stored of sessions.
fn of_sessions(shard: &Shard) -> usize {
    shard.store.iter().filter(|(key, _)| !key.starts_with(&[0xff, 0xff])).count()
}

#[test]
fn will_without_a_session_is_held_and_the_session_is_told_to_nobody() {
    let mut shard = Shard::new();
    let claimed = shard.claim_with(7, mortal(0));
    let Claimed { epoch, will, session_present, .. } = claimed;
    assert_eq!((epoch, session_present), (Epoch(0), false), "nothing durable");
    assert_ne!(will, Epoch(0));
    for _ in 0..2 {
        assert!(shard.facts().is_empty(), "no session began");
        assert_eq!(query::totals(&shard.machine).sessions, 0);
        assert_eq!(query::held(&shard.machine, None, 9, Held::Durable).sessions, []);
        let held = query::held(&shard.machine, None, 9, Held::Wills).sessions;
        assert_eq!(held, [(KEY, will, Some(holder(1)))]);
        shard.reload();
    }
    // Pages are as long as what is looked at, not as what is found.
    shard.claim(8);
    let page = query::held(&shard.machine, None, 1, Held::Durable);
    assert_eq!((page.sessions.len(), page.next), (0, Some(KEY)));
    assert_eq!(query::held(&shard.machine, page.next, 9, Held::Durable).sessions.len(), 1);
}

#[test]
fn will_without_a_session_when_the_connection_ends_then_due_at_once_or_dropped() {
    for (delay, dropped) in [(0, false), (50, false), (0, true), (50, true)] {
        let mut shard = Shard::new();
        let epoch = shard.claim_with(7, mortal(delay)).will;
        shard.reload();
        assert!(due(&mut shard, NOW).is_empty(), "the connection lives");
        release(&mut shard, epoch, dropped);
        shard.reload();
        let wills = due(&mut shard, NOW);
        assert_eq!(wills.len(), usize::from(!dropped), "delay {delay}: the session ends with it");
        for DueWill { key, epoch, .. } in wills {
            shard.one(Command::WillDone { key, epoch });
        }
        assert_eq!((of_sessions(&shard), shard.pairs(b'd')), (0, 0), "nothing is left");
        assert_eq!(release(&mut shard, epoch, false), Reply::Fenced);
    }
}

#[test]
fn will_without_a_session_when_its_node_is_dead_then_due_once() {
    let mut shard = Shard::new();
    let epoch = shard.claim_with(7, mortal(0)).will;
    release_stale(&mut shard);
    release_stale(&mut shard);
    // The node was only taken for dead: its connection has nothing to say any more.
    assert_eq!(release(&mut shard, epoch, true), Reply::Fenced);
    let wills = due(&mut shard, NOW);
    assert_eq!(wills.iter().map(|will| will.epoch).collect::<Vec<_>>(), [epoch]);
    shard.one(Command::WillDone { key: KEY, epoch });
    assert!(due(&mut shard, u64::MAX - 1).is_empty());
}

#[test]
fn will_without_a_session_when_taken_over_then_due_and_no_session_is_present() {
    let durable = |claim: &mut SessionClaim| claim.expiry_secs = 9;
    let takers: [(&str, Taker); 4] = [
        ("clean", Box::new(clean)),
        ("clean with a will", Box::new(mortal(9))),
        ("durable", Box::new(durable)),
        ("resumes", Box::new(|claim| claim.expiry_secs = 0)),
    ];
    for (name, taker) in takers {
        let mut shard = Shard::new();
        // A delay would hold back only the will of a session that lasts.
        let old = shard.claim_with(7, mortal(50)).will;
        let new = shard.claim_with(7, taker);
        assert_eq!((new.previous_holder, new.session_present), (Some(holder(1)), false), "{name}");
        let wills = due(&mut shard, NOW);
        assert_eq!(wills.iter().map(|will| will.epoch).collect::<Vec<_>>(), [old], "{name}");
        assert_eq!(release(&mut shard, old, true), Reply::Fenced, "{name}");
        assert!(new.will == Epoch(0) || new.will > old, "{name}");
    }
}

#[test]
fn will_without_a_session_when_the_same_connection_asks_again_then_one_will() {
    let mut shard = Shard::new();
    let same = |claim: &mut SessionClaim| {
        mortal(0)(claim);
        claim.holder = holder(9);
    };
    let first = shard.claim_with(7, same).will;
    let again = shard.claim_with(7, same);
    assert!(again.will > first && !again.session_present);
    assert!(due(&mut shard, NOW).is_empty(), "the connection has not ended");
    assert_eq!(release(&mut shard, first, false), Reply::Fenced);
    release(&mut shard, again.will, false);
    let wills = due(&mut shard, NOW);
    assert_eq!(wills.iter().map(|will| will.epoch).collect::<Vec<_>>(), [again.will]);
}

#[test]
fn durable_session_with_a_will_is_as_it_was() {
    let mut shard = Shard::new();
    let epoch = shard.claim(7).epoch;
    shard.subscribe(7, epoch, &[subscription("a", Qos::AtLeastOnce)]);
    shard.append(&[message("a", "x")]);
    // It goes on with what was stored, and ends with its connection.
    let resumed = shard.claim_with(7, |claim| {
        (claim.expiry_secs, claim.will) = (0, will("w", 0));
    });
    assert!(resumed.session_present && resumed.epoch > epoch);
    assert_eq!(resumed.will, Epoch(0), "its epoch is that of the session");
    assert_eq!(shard.waiting(7, resumed.epoch), ["x"]);
    release(&mut shard, resumed.epoch, false);
    assert_eq!(due(&mut shard, NOW).len(), 1);
}

#[test]
fn session_that_an_earlier_release_stored_is_read_as_durable() {
    let mut shard = Shard::new();
    let record = (
        (AppId(1), "c".to_owned(), Epoch(5), 9_u32),
        (None::<Holder>, None::<u64>, None::<Epoch>, None::<u64>),
    );
    let mut bytes = vec![1];
    bincode::serialize_into(&mut bytes, &record).unwrap();
    shard.apply(&[]);
    hongqiao_cluster::machine::StoreMut::put(
        &mut shard.store,
        key::of_session(KEY, key::SESSION, &[]),
        Bytes::from(bytes),
    );
    shard.reload();
    assert_eq!(query::held(&shard.machine, None, 9, Held::Durable).sessions.len(), 1);
    assert!(shard.claim(7).session_present);
}
