//! How the claims of a session are counted: each numbers its QoS 2 exchanges apart from those before it (ONCE).

use super::{sessions::start, support::*};
use crate::{
    model::id::SessionKey,
    shard::command::{Command, Reply},
};

/// A late publish of an earlier connection is known for what it is as long as its number is not given again.
#[test]
fn claims_of_a_session_are_counted_whatever_was_applied_between() {
    let mut shard = Shard::new();
    let mut counts = Vec::new();
    for round in 0..20 {
        for other in 0..round * round % 7 {
            shard.claim(100 + other);
        }
        shard.reload();
        counts.push(shard.claim_with(7, start(round % 5 == 4, 60)).claims);
    }
    for pair in counts.windows(2) {
        assert_eq!(pair[1], pair[0].wrapping_add(1), "{counts:?}");
    }
}

#[test]
fn claims_of_a_session_that_ended_a_moment_ago_are_counted_on_and_forgotten_in_time() {
    let mut shard = Shard::new();
    let count = |shard: &mut Shard, clean| shard.claim_with(7, start(clean, 60)).claims;
    let mut last = count(&mut shard, false);
    for round in 0..6 {
        let epoch = shard.claim_with(7, start(round % 2 == 0, 60)).epoch;
        let released = shard.one(Command::Release {
            key: SessionKey(7),
            epoch,
            expiry_secs: Some(0),
            will_dropped: false,
            inflight: Vec::new(),
            now_ms: NOW,
        });
        assert_eq!(released, Reply::Done);
        shard.reload();
        // Two claims, of which one begins a session anew.
        let now = count(&mut shard, round % 3 == 0);
        assert_eq!(now, last + 2);
        last = now;
    }
    let epoch = shard.claim_with(7, start(false, 1)).epoch;
    shard.release(7, epoch, NOW);
    shard.tick(NOW + 1_000);
    let pairs = |shard: &Shard| shard.store.iter().count();
    let ended = pairs(&shard);
    shard.tick(NOW + 60_999);
    assert_eq!(pairs(&shard), ended);
    shard.tick(NOW + 61_000);
    assert_eq!(pairs(&shard), ended - 2);
    assert_eq!(count(&mut shard, false), 0);
}
