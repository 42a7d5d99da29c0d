//! Random commands against a plain model: a list of messages, and per session a list of subscriptions.
//!
//! - Checked after each entry: what each session would be delivered, with ids and QoS, and how much waits.
//! - Crash: at random points all memory is dropped and loaded from the store.
//! - Determinism: a second shard gets the same entries and never crashes; replies and stores stay equal.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::support::*;
use crate::{
    model::{
        id::{Epoch, MessageId, Position, SessionKey},
        message::{Message, Qos},
        wire::SubscriptionOptions,
    },
    shard::{
        command::{Command, Quota, Reply, StoredSubscription},
        query,
    },
};

mod model;

use model::{Model, Reader, Subscription};

const SESSIONS: u128 = 3;
const QUEUE_MAX: usize = 8;
const END: Position = Position { entry: u64::MAX, offset: 0 };

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<NewMessage>),
    Enqueue {
        session: u128,
        topic: &'static str,
    },
    Subscribe {
        session: u128,
        filter: &'static str,
        qos: Qos,
        id: u32,
        no_local: bool,
    },
    Unsubscribe {
        session: u128,
        filter: &'static str,
    },
    /// Acknowledges the first `count` of what waits, and of the rest each whose bit is set.
    Acknowledge {
        session: u128,
        count: usize,
        beyond: u8,
    },
    Claim {
        session: u128,
        clean: bool,
    },
    Tick,
    Crash,
}

#[derive(Clone, Copy, Debug)]
struct NewMessage {
    topic: &'static str,
    qos: Qos,
    publisher: Option<u128>,
    id: Option<u128>,
    expired: bool,
    bytes: usize,
}

/// The two shards and the model, step by step.
struct Run {
    shard: Shard,
    twin: Shard,
    model: Model,
}

impl Run {
    fn new(drop_oldest: bool) -> Self {
        let readers = BTreeMap::new();
        let model = Model { held: Vec::new(), readers, ids: BTreeMap::new(), drop_oldest, logs: 0 };
        let mut run = Self { shard: Shard::new(), twin: Shard::new(), model };
        for session in 0..SESSIONS {
            run.step(&Step::Claim { session, clean: true });
        }
        run
    }

    fn apply(&mut self, commands: &[Command]) -> Vec<Reply> {
        let replies = self.shard.apply(commands);
        assert_eq!(self.twin.apply(commands), replies);
        replies
    }

    fn quota(&self) -> Quota {
        let session_messages_max = u64::try_from(QUEUE_MAX).unwrap();
        Quota { session_messages_max, drop_oldest: self.model.drop_oldest, ..QUOTA }
    }

    fn epoch(&self, session: u128) -> Epoch {
        self.model.readers[&session].epoch
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(messages) => self.append(messages),
            Step::Enqueue { session, topic } => self.enqueue(*session, topic),
            Step::Subscribe { session, filter, qos, id, no_local } => {
                let options =
                    SubscriptionOptions { qos: *qos, no_local: *no_local, ..Default::default() };
                let subscription_id = *id;
                let item =
                    StoredSubscription { options, subscription_id, ..subscription(filter, *qos) };
                self.subscribe(*session, item);
            }
            Step::Unsubscribe { session, filter } => self.unsubscribe(*session, filter),
            Step::Acknowledge { session, count, beyond } => {
                self.acknowledge(*session, *count, *beyond);
            }
            Step::Claim { session, clean } => self.claim(*session, *clean),
            Step::Tick => {
                self.apply(&[Command::Tick { now_ms: NOW, limit: 3 }]);
            }
            Step::Crash => self.shard.reload(),
        }
    }

    fn append(&mut self, messages: &[NewMessage]) {
        let messages: Vec<Message> = messages.iter().map(NewMessage::message).collect();
        let quota = self.quota();
        let commands: Vec<Command> =
            messages.iter().map(|message| append(message.clone(), quota)).collect();
        let replies = self.apply(&commands);
        for (offset, (message, reply)) in (0u32..).zip(messages.into_iter().zip(replies)) {
            let position = Position { entry: self.shard.index, offset };
            let known = message.id.and_then(|id| self.model.ids.get(&id.0).copied());
            let Reply::Appended { position: told, .. } = reply else { panic!("no append") };
            assert_eq!(told, known.unwrap_or(position));
            self.model.append(position, message);
        }
        self.model.settle();
    }

    fn enqueue(&mut self, session: u128, topic: &str) {
        let message = message(topic, "kept");
        let (key, epoch) = (SessionKey(session), self.epoch(session));
        let messages = vec![std::sync::Arc::new(message.clone())];
        let (qos, subscription_id, quota) = (Qos::AtLeastOnce, 77, self.quota());
        self.apply(&[Command::Enqueue { key, epoch, messages, qos, subscription_id, quota }]);
        let position = Position { entry: self.shard.index, offset: 0 };
        let held = self.model.to_hold(position, message, Some(session));
        self.model.hold(held);
        self.model.settle();
    }

    fn subscribe(&mut self, session: u128, item: StoredSubscription) {
        let (key, epoch) = (SessionKey(session), self.epoch(session));
        let items = vec![item.clone()];
        let replies = self.apply(&[Command::Subscribe { key, epoch, items, filters_max: 99 }]);
        let here = Position { entry: self.shard.index, offset: 0 };
        let loud = |item: &StoredSubscription| item.options.qos > Qos::AtMostOnce;
        let log = if loud(&item) { self.model.log_of(&item) } else { 0 };
        let Some(reader) = self.model.readers.get_mut(&session) else { return };
        let full_since = reader.full_since.unwrap_or(END);
        let in_force = |sub: &&mut Subscription| sub.to == END && sub.filter.filter == item.filter;
        let old = reader.subscriptions.iter_mut().find(in_force);
        assert_eq!(replies[0], Reply::Subscribed(vec![Ok(old.is_none())]));
        let (mut from, mut since) = (here, here);
        match old {
            Some(old) if loud(&old.filter) == loud(&item) => {
                old.filter = item;
                return;
            }
            // The QoS 0 subscription is gone, and its id with it.
            Some(old) if loud(&item) => {
                since = old.since;
                old.to = old.from;
            }
            Some(old) => {
                (from, since) = (old.since, old.since);
                old.to = here.min(full_since);
            }
            None => {}
        }
        reader.subscriptions.push(Subscription { filter: item, from, to: END, since, log });
        reader.forget_drained(&self.model.held);
    }

    fn unsubscribe(&mut self, session: u128, filter: &str) {
        let epoch = self.epoch(session);
        let reply = self.shard.unsubscribe(session, epoch, filter);
        assert_eq!(self.twin.unsubscribe(session, epoch, filter), reply);
        let Some(reader) = self.model.readers.get_mut(&session) else { return };
        let before = reader.subscriptions.len();
        reader.subscriptions.retain(|sub| sub.to != END || sub.filter.filter.as_str() != filter);
        assert_eq!(reply, Reply::Unsubscribed(vec![before > reader.subscriptions.len()]));
        let here = Position { entry: self.shard.index, offset: 0 };
        reader.reopen(session, &self.model.held, here);
    }

    fn acknowledge(&mut self, session: u128, count: usize, beyond: u8) {
        let (key, epoch) = (SessionKey(session), self.epoch(session));
        let Some(reader) = self.model.readers.get_mut(&session) else { return };
        let waiting = reader.deliveries(session, &self.model.held);
        let cursor = match count.min(waiting.len()) {
            0 => reader.cursor,
            count => waiting[count - 1].0,
        };
        let bits = waiting.iter().enumerate().filter(|(at, _)| beyond >> (at % 8) & 1 == 1);
        let beyond: Vec<Position> =
            bits.map(|(_, (position, ..))| *position).filter(|at| *at > cursor).collect();
        reader.cursor = cursor;
        reader.beyond.extend(&beyond);
        reader.beyond.retain(|position| *position > cursor);
        if count > 0 && !waiting.is_empty() {
            let here = Position { entry: self.shard.index + 1, offset: 0 };
            reader.pass_skips();
            reader.reopen(session, &self.model.held, here);
            reader.pass_skips();
        }
        reader.forget_drained(&self.model.held);
        self.apply(&[Command::Acknowledge { key, epoch, cursor, beyond }]);
    }

    fn claim(&mut self, session: u128, clean: bool) {
        let mut claim = claim(session);
        claim.clean_start = clean;
        claim.holder.connection = self.shard.index + 1;
        let command = Command::Claim(Box::new(claim));
        let Reply::Claimed(claimed) = self.apply(&[command]).remove(0) else { panic!("no claim") };
        let reader = self.model.readers.entry(session).or_default();
        if clean {
            *reader = Reader::default();
            self.model.held.retain(|held| held.private != Some(session));
        }
        reader.epoch = claimed.epoch;
        assert_eq!(claimed.session_present, !clean);
        let in_force = reader.subscriptions.iter().filter(|sub| sub.to == END).count();
        assert_eq!(claimed.subscriptions.len(), in_force);
    }

    fn check(&self) {
        assert_eq!(self.shard.store, self.twin.store, "stores differ");
        for (key, reader) in &self.model.readers {
            let have = self.shard.page(*key, reader.epoch, Position::START, 1_000).messages;
            let have: Vec<_> = have
                .into_iter()
                .map(|queued| (queued.position, queued.qos, queued.subscription_ids))
                .collect();
            assert_eq!(have, reader.deliveries(*key, &self.model.held), "session {key}");
            let depth = query::queue_depth(&self.shard.machine, SessionKey(*key)).unwrap();
            let want = reader.depth(*key, &self.model.held);
            assert_eq!(depth.messages, u64::try_from(want).unwrap(), "depth of session {key}");
        }
    }

    /// Everything is acknowledged: nothing of any message may be left.
    fn finish(&mut self) {
        for key in 0..SESSIONS {
            let cursor = Position { entry: self.shard.index, offset: u32::MAX };
            let (key, epoch) = (SessionKey(key), self.epoch(key));
            self.apply(&[Command::Acknowledge { key, epoch, cursor, beyond: vec![] }]);
            assert_eq!(query::queue_depth(&self.shard.machine, key), Some(Default::default()));
        }
        assert_eq!(self.shard.message_pairs(), 0, "something is left");
    }
}

impl NewMessage {
    fn message(&self) -> Message {
        Message {
            qos: self.qos,
            publisher: self.publisher.map(SessionKey),
            id: self.id.map(|id| MessageId(id << 64)),
            expires_at_ms: self.expired.then_some(NOW),
            ..message(self.topic, &"x".repeat(self.bytes))
        }
    }
}

fn a_qos() -> impl Strategy<Value = Qos> {
    prop::sample::select(vec![Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce])
}

fn a_topic() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "a/b", "c"])
}

fn a_message() -> impl Strategy<Value = NewMessage> {
    let id = prop_oneof![3 => Just(None), 1 => (0..20u128).prop_map(Some)];
    let publisher = prop_oneof![2 => Just(None), 1 => (0..SESSIONS).prop_map(Some)];
    let bytes = prop_oneof![8 => 1..50usize, 1 => 3_000..5_000usize];
    let expired = prop::bool::weighted(0.1);
    (a_topic(), a_qos(), publisher, id, expired, bytes).prop_map(
        |(topic, qos, publisher, id, expired, bytes)| NewMessage {
            topic,
            qos,
            publisher,
            id,
            expired,
            bytes,
        },
    )
}

fn a_step() -> impl Strategy<Value = Step> {
    let filter = prop::sample::select(vec!["a", "#", "a/+", "b", "+"]);
    let session = 0..SESSIONS;
    prop_oneof![
        8 => prop::collection::vec(a_message(), 1..6).prop_map(Step::Append),
        1 => (session.clone(), a_topic())
            .prop_map(|(session, topic)| Step::Enqueue { session, topic }),
        4 => (session.clone(), filter.clone(), a_qos(), 0..4u32, any::<bool>()).prop_map(
            |(session, filter, qos, id, no_local)| Step::Subscribe {
                session, filter, qos, id, no_local
            }
        ),
        2 => (session.clone(), filter)
            .prop_map(|(session, filter)| Step::Unsubscribe { session, filter }),
        4 => (session.clone(), 0..6usize, any::<u8>())
            .prop_map(|(session, count, beyond)| Step::Acknowledge { session, count, beyond }),
        1 => (session, prop::bool::weighted(0.3))
            .prop_map(|(session, clean)| Step::Claim { session, clean }),
        1 => Just(Step::Tick),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #[test]
    fn shard_after_any_commands_and_crashes_then_delivers_what_the_model_does(
        drop_oldest in any::<bool>(),
        steps in prop::collection::vec(a_step(), 1..60),
    ) {
        live(drop_oldest, &steps);
    }
}

fn subscribe(session: u128, filter: &'static str) -> Step {
    let (qos, id, no_local) = (Qos::AtLeastOnce, 0, false);
    Step::Subscribe { session, filter, qos, id, no_local }
}

const fn sent(topic: &'static str, bytes: usize) -> NewMessage {
    let qos = Qos::AtMostOnce;
    NewMessage { topic, qos, publisher: None, id: None, expired: false, bytes }
}

fn live(drop_oldest: bool, steps: &[Step]) {
    let mut run = Run::new(drop_oldest);
    for step in steps {
        run.step(step);
        run.check();
    }
    run.finish();
}

/// A session that starts again reads its subscriptions in another order, and moves its cursor in that order.
#[test]
fn chunks_of_an_entry_when_logs_are_trimmed_in_another_order_then_are_stored_alike() {
    live(
        true,
        &[
            subscribe(2, "#"),
            subscribe(2, "a/+"),
            Step::Crash,
            subscribe(0, "+"),
            Step::Append(vec![sent("a/b", 1), sent("a", 3_900), sent("a", 3_860), sent("a", 43)]),
            Step::Acknowledge { session: 0, count: 1, beyond: 0 },
            Step::Append(vec![sent("a/b", 1); 3]),
        ],
    );
}

/// What a full session skips right behind its cursor does not wait: its subscription is over at once.
#[test]
fn log_when_its_other_reader_has_only_skipped_messages_left_then_takes_no_own_only_ones() {
    live(
        false,
        &[
            subscribe(2, "b"),
            Step::Append(vec![sent("b", 1); 7]),
            Step::Append(vec![sent("b", 1); 2]),
            Step::Subscribe {
                session: 0,
                filter: "b",
                qos: Qos::AtLeastOnce,
                id: 0,
                no_local: true,
            },
            Step::Acknowledge { session: 2, count: 8, beyond: 0 },
            Step::Subscribe {
                session: 2,
                filter: "b",
                qos: Qos::AtMostOnce,
                id: 0,
                no_local: false,
            },
            Step::Append(vec![NewMessage { publisher: Some(0), ..sent("b", 1) }]),
        ],
    );
}
