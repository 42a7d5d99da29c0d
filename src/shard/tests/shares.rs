//! Shares of shared groups: stored for a member, given back, moved to others. Promises NO-LOSS, ONCE.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use proptest::prelude::*;

use super::support::*;
use crate::{
    model::{
        id::{Epoch, MessageId, Position, SessionKey},
        message::Qos,
        topic::TopicFilter,
    },
    shard::{
        command::{Command, Quota, Reply, SessionClaim, StoredSubscription},
        query::{self, PageLimits},
    },
};

const CHUNK: PageLimits = PageLimits { messages: 4, bytes: 1 << 20 };

fn filter() -> TopicFilter {
    TopicFilter::parse("a/+").unwrap()
}

fn group() -> StoredSubscription {
    let share = Some(Bytes::from_static(b"g"));
    StoredSubscription { share, ..subscription("a/+", Qos::ExactlyOnce) }
}

fn share(key: u128, id: Option<MessageId>, payloads: &[String]) -> Command {
    let message = |payload: &String| Arc::new(message("a/b", payload));
    Command::Share {
        key: SessionKey(key),
        share: Bytes::from_static(b"g"),
        filter: filter(),
        id,
        messages: payloads.iter().map(message).collect(),
        quota: QUOTA,
    }
}

fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

impl Shard {
    /// A member of the group.
    fn member(&mut self, key: u128) -> Epoch {
        let epoch = self.claim(key).epoch;
        self.subscribe(key, epoch, &[group()]);
        epoch
    }

    fn give(&mut self, key: u128, payloads: &[String]) {
        let reply = self.one(share(key, None, payloads));
        assert!(matches!(reply, Reply::Appended { refused: false, .. }), "{reply:?}");
    }

    fn end(&mut self, key: u128) {
        let clean = |claim: &mut SessionClaim| {
            (claim.clean_start, claim.expiry_secs) = (true, 0);
        };
        self.claim_with(key, clean);
    }

    fn leave_group(&mut self, key: u128, epoch: Epoch, sent: Position) {
        let (key, items) = (SessionKey(key), vec![(group().share, filter())]);
        let reply = self.one(Command::UnsubscribeShared { key, epoch, items, sent });
        assert_eq!(reply, Reply::Unsubscribed(vec![true]));
    }

    /// Moves the next chunk to `to`; only the first `steps` of it are done. `false`: there is none.
    fn move_chunk(&mut self, to: u128, steps: usize) -> bool {
        let found = query::orphan_after(&self.machine, &self.store, None, CHUNK, NOW);
        let Some(chunk) = found else { return false };
        let (log, start) = chunk.key;
        let owner = chunk.owner.unwrap_or(SessionKey(to));
        let step = |moved, owner| Command::Redispatch { log, start, moved, owner };
        if steps > 0 {
            self.one(step(None, Some((chunk.to, owner))));
        }
        let text = |payload: &Bytes| String::from_utf8_lossy(payload).into_owned();
        let payloads: Vec<String> =
            chunk.messages.iter().map(|(_, message)| text(&message.payload)).collect();
        if steps > 1 {
            match self.one(share(owner.0, Some(chunk.id(0)), &payloads)) {
                Reply::Appended { .. } => {}
                // It has left; somebody else is asked the next time.
                Reply::Fenced => {
                    self.one(step(None, None));
                    return true;
                }
                other => panic!("{other:?}"),
            }
        }
        if steps > 2 {
            self.one(step(Some(chunk.to), None));
        }
        true
    }

    fn move_all(&mut self, to: u128) {
        while self.move_chunk(to, 3) {}
    }
}

#[test]
fn shares_when_the_session_ends_then_wait_for_another_in_order() {
    let mut shard = Shard::new();
    shard.member(7);
    let other = shard.member(8);
    for n in 0..10 {
        shard.give(7, &texts(n * 3..n * 3 + 3));
    }
    shard.end(7);
    assert!(shard.waiting(8, other).is_empty());
    shard.reload();
    shard.move_all(8);
    assert_eq!(shard.waiting(8, other), texts(0..30));
    // Nothing of the first member is left.
    let cursor = Position { entry: shard.index, offset: u32::MAX };
    shard.acknowledge(8, other, cursor);
    assert_eq!((shard.message_pairs(), shard.pairs(b'o')), (0, 0));
}

#[test]
fn shares_when_partly_acknowledged_or_sent_with_qos_2_then_only_the_rest_moves() {
    let mut shard = Shard::new();
    let (key, epoch) = (SessionKey(7), shard.member(7));
    let other = shard.member(8);
    shard.give(7, &texts(0..8));
    let at: Vec<Position> =
        shard.page(7, epoch, Position::START, 9).messages.iter().map(|q| q.position).collect();
    let beyond = vec![at[3]];
    shard.one(Command::Acknowledge { key, epoch, cursor: at[1], beyond });
    shard.one(Command::OutPublish { key, epoch, ids: vec![(1, at[4]), (2, at[5])] });
    shard.one(Command::OutReceived { key, epoch, packet_id: 2 });
    shard.end(7);
    shard.move_all(8);
    assert_eq!(shard.waiting(8, other), ["2", "6", "7"]);
}

#[test]
fn retained_copies_and_own_filters_when_the_session_ends_then_go_with_it() {
    let mut shard = Shard::new();
    let (key, epoch) = (SessionKey(7), shard.member(7));
    shard.member(8);
    shard.subscribe(7, epoch, &[subscription("b", Qos::AtLeastOnce)]);
    shard.append(&[message("b", "its own")]);
    shard.one(Command::Enqueue {
        key,
        epoch,
        messages: vec![Arc::new(message("b", "retained"))],
        qos: Qos::AtLeastOnce,
        subscription_id: 0,
        quota: QUOTA,
    });
    shard.end(7);
    assert!(!query::has_orphans(&shard.machine));
    assert_eq!(shard.message_pairs(), 0);
}

#[test]
fn shares_when_unsubscribed_then_what_was_sent_stays_and_the_rest_moves() {
    let mut shard = Shard::new();
    let epoch = shard.member(7);
    let other = shard.member(8);
    shard.give(7, &texts(0..6));
    let sent = shard.page(7, epoch, Position::START, 2).messages[1].position;
    shard.leave_group(7, epoch, sent);
    assert_eq!(shard.one(share(7, None, &texts(9..10))), Reply::Fenced);
    shard.reload();
    shard.move_all(8);
    assert_eq!(shard.waiting(8, other), texts(2..6));
    assert_eq!(shard.waiting(7, epoch), texts(0..2));
    // Back in the group: what comes now has a log of its own.
    shard.subscribe(7, epoch, &[group()]);
    shard.give(7, &texts(6..7));
    assert_eq!(shard.waiting(7, epoch), ["0", "1", "6"]);
    // The session ends before it has acknowledged them.
    shard.end(7);
    shard.move_all(8);
    assert_eq!(shard.waiting(8, other), ["2", "3", "4", "5", "0", "1", "6"]);
    let cursor = Position { entry: shard.index, offset: u32::MAX };
    shard.acknowledge(8, other, cursor);
    assert_eq!((shard.message_pairs(), shard.pairs(b'f')), (0, 1));
}

#[test]
fn chunk_when_sent_again_then_its_owner_stores_it_once_even_if_it_has_ended_since() {
    let mut shard = Shard::new();
    for key in [7, 8, 9] {
        shard.member(key);
    }
    shard.give(7, &texts(0..4));
    shard.end(7);
    // Crash after the owner has it, before that is noted.
    shard.move_chunk(8, 2);
    shard.end(8);
    shard.reload();
    let last = shard.member(9);
    // First 7's chunk: its owner had it. Then what 8 left.
    shard.move_all(9);
    assert_eq!(shard.waiting(9, last), texts(0..4));
}

#[test]
fn chunk_when_the_app_is_over_its_bytes_then_all_of_it_waits() {
    let mut shard = Shard::new();
    shard.member(8);
    let mut command = share(8, Some(MessageId(5)), &texts(0..3));
    if let Command::Share { quota, .. } = &mut command {
        *quota = Quota { app_bytes_max: 10, ..QUOTA };
    }
    let reply = shard.one(command);
    assert!(matches!(reply, Reply::Appended { refused: true, .. }));
    assert_eq!(shard.message_pairs(), 0);
    let reply = shard.one(share(8, Some(MessageId(5)), &texts(0..3)));
    assert!(matches!(reply, Reply::Appended { refused: false, sessions: 1, .. }));
}

#[test]
fn orphan_when_all_of_it_has_expired_then_an_empty_chunk_ends_it() {
    let mut shard = Shard::new();
    shard.member(7);
    let mut command = share(7, None, &texts(0..3));
    if let Command::Share { messages, .. } = &mut command {
        let expired = |message: &mut Arc<_>| {
            let message: &mut crate::model::message::Message = Arc::make_mut(message);
            message.expires_at_ms = Some(NOW);
        };
        messages.iter_mut().for_each(expired);
    }
    shard.one(command);
    shard.end(7);
    let chunk = query::orphan_after(&shard.machine, &shard.store, None, CHUNK, NOW).unwrap();
    assert!(chunk.messages.is_empty() && chunk.to == chunk.end);
    let (log, start) = chunk.key;
    shard.one(Command::Redispatch { log, start, moved: Some(chunk.to), owner: None });
    assert_eq!((shard.message_pairs(), shard.pairs(b'o'), shard.pairs(b'f')), (0, 0, 0));
}

#[test]
fn share_with_an_id_when_acknowledged_or_its_member_ended_then_known_until_the_next_of_its_exchange()
 {
    let mut shard = Shard::new();
    let epoch = shard.member(7);
    let id = |unique| MessageId::in_exchange(SessionKey(5), 3, unique).in_group(9 << 64);
    let known = |shard: &mut Shard, id| shard.one(Command::IsKnown { id }) == Reply::Known(true);
    assert!(!known(&mut shard, id(1)));
    shard.one(share(7, Some(id(1)), &texts(0..1)));
    let other_group = MessageId::in_exchange(SessionKey(5), 3, 1).in_group(8 << 64);
    assert!(known(&mut shard, id(1)) && !known(&mut shard, other_group));
    let cursor = Position { entry: shard.index, offset: u32::MAX };
    shard.acknowledge(7, epoch, cursor);
    assert_eq!(shard.message_pairs(), 0);
    assert!(known(&mut shard, id(1)), "acknowledged");
    shard.end(7);
    shard.reload();
    assert!(known(&mut shard, id(1)), "ended");
    // Its publisher goes on: nobody sends the one before again.
    shard.member(8);
    shard.one(share(8, Some(id(2)), &texts(1..2)));
    assert!(known(&mut shard, id(2)) && !known(&mut shard, id(1)));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Give(u128),
    /// Acknowledges this many.
    Acknowledge(u128, usize),
    End(u128),
    Return(u128),
    /// So much was sent when it leaves the group.
    Unsubscribe(u128, usize),
    /// Only so many steps of moving a chunk to a member.
    Move(u128, usize),
    Crash,
}

fn a_step() -> impl Strategy<Value = Step> {
    let key = 1..4u128;
    prop_oneof![
        6 => key.clone().prop_map(Step::Give),
        2 => (key.clone(), 0..6usize).prop_map(|(key, count)| Step::Acknowledge(key, count)),
        2 => key.clone().prop_map(Step::End),
        2 => key.clone().prop_map(Step::Return),
        1 => (key.clone(), 0..4usize).prop_map(|(key, sent)| Step::Unsubscribe(key, sent)),
        5 => (key, 0..4usize).prop_map(|(key, steps)| Step::Move(key, steps)),
        2 => Just(Step::Crash),
    ]
}

/// A shard, who is a member, and what has been acknowledged.
struct Run {
    shard: Shard,
    members: BTreeMap<u128, Epoch>,
    given: u32,
    acknowledged: Vec<String>,
}

impl Run {
    fn step(&mut self, step: Step) {
        let shard = &mut self.shard;
        match step {
            Step::Give(key) if self.members.contains_key(&key) => {
                shard.give(key, &texts(self.given..self.given + 3));
                self.given += 3;
            }
            Step::Acknowledge(key, count) => {
                let Some(&epoch) = self.members.get(&key) else { return };
                let page = shard.page(key, epoch, Position::START, count.max(1));
                let taken = page.messages.iter().take(count);
                let Some(last) = taken.clone().next_back() else { return };
                shard.acknowledge(key, epoch, last.position);
                let text = |queued: &crate::shard::command::Queued| {
                    String::from_utf8_lossy(&queued.message.payload).into_owned()
                };
                self.acknowledged.extend(taken.map(text));
            }
            // Somebody stays, or what waits would be nobody's for ever.
            Step::End(key) if self.members.len() > 1 => {
                self.members.remove(&key);
                shard.end(key);
            }
            Step::Return(key) => {
                self.members.entry(key).or_insert_with(|| shard.member(key));
            }
            Step::Unsubscribe(key, sent) => {
                let Some(&epoch) = self.members.get(&key) else { return };
                let page = shard.page(key, epoch, Position::START, sent.max(1)).messages;
                let sent = page.iter().take(sent).next_back();
                let sent = sent.map_or(Position::START, |queued| queued.position);
                shard.leave_group(key, epoch, sent);
                shard.subscribe(key, epoch, &[group()]);
            }
            Step::Move(key, steps) => {
                shard.move_chunk(key, steps);
            }
            Step::Crash => shard.reload(),
            _ => {}
        }
    }

    /// Everything moves; each share is then acknowledged or waits, once.
    fn finish(mut self) {
        let Some((&key, _)) = self.members.iter().next() else { return };
        self.shard.move_all(key);
        let mut all = self.acknowledged;
        for (&key, &epoch) in &self.members {
            all.extend(self.shard.waiting(key, epoch));
        }
        let distinct: BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "a share is there twice");
        assert_eq!(all.len(), usize::try_from(self.given).unwrap(), "a share is lost");
    }
}

proptest! {
    #[test]
    fn shares_after_any_ends_and_crashes_then_each_is_somewhere_once(
        steps in prop::collection::vec(a_step(), 1..80),
    ) {
        let mut run = Run {
            shard: Shard::new(),
            members: BTreeMap::new(),
            given: 0,
            acknowledged: Vec::new(),
        };
        run.step(Step::Return(1));
        for step in steps {
            run.step(step);
        }
        run.finish();
    }
}
