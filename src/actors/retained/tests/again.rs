//! Copies that cannot be read or stored at first: they come later, once, and hold up nothing else.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use ahash::AHashMap;
use hongqiao_cluster::ReadError;

use super::*;
use crate::{
    actors::{
        appender::SubmitError,
        publish::AppQuota,
        testing::{Bench, MemoryPeer, on_worker_for, parse, settle},
        upkeep::Local,
    },
    model::{topic::TopicFilter, wire::SubscriptionOptions},
    shard::command::{Quota, RetainedPage},
};

/// Shards that may be out of order.
#[derive(Default)]
struct Broken {
    topics: RefCell<BTreeMap<u16, Vec<&'static str>>>,
    /// Cannot be read.
    down: RefCell<Vec<u16>>,
    /// What becomes of copies for logs.
    refusal: RefCell<Option<SubmitError>>,
    fenced: RefCell<bool>,
    reads: RefCell<Vec<u16>>,
    stored: RefCell<Vec<String>>,
}

impl Shelf for Broken {
    fn shards_of(&self, _: AppId, filter: &TopicFilter) -> Vec<ShardId> {
        let topics = self.topics.borrow();
        let has = |names: &[&str]| filter.has_wildcard() || names.contains(&filter.as_str());
        let shards = topics.iter().filter(|(_, names)| has(names));
        shards.map(|(shard, _)| ShardId(*shard)).collect()
    }

    fn read(
        &self,
        shard: ShardId,
        _: (AppId, TopicFilter),
        after: Option<TopicName>,
    ) -> Local<Result<RetainedPage, ReadError>> {
        self.reads.borrow_mut().push(shard.0);
        if self.down.borrow().contains(&shard.0) {
            return Box::pin(async { Err(ReadError::Unavailable) });
        }
        // A topic a page.
        let topics = self.topics.borrow();
        let mut left = topics[&shard.0].iter();
        if let Some(after) = after {
            left.find(|topic| **topic == after.as_str());
        }
        let messages = left.next().map(|topic| {
            let qos = if *topic == "zero" { Qos::AtMostOnce } else { Qos::AtLeastOnce };
            (version(1), Arc::new(Message { qos, ..retained(topic) }))
        });
        let last = messages.as_ref().map(|(_, message)| message.topic.clone());
        let next = last.filter(|_| left.next().is_some());
        let page = RetainedPage { messages: messages.into_iter().collect(), next };
        Box::pin(async move { Ok(page) })
    }

    fn store(&self, _: SessionKey, command: Command) -> Local<Result<Reply, SubmitError>> {
        let Command::EnqueueRetained { messages, .. } = command else { panic!("{command:?}") };
        let refusal = *self.refusal.borrow();
        let answer = match refusal {
            Some(refusal) => Err(refusal),
            None if *self.fenced.borrow() => Ok(Reply::Fenced),
            None => {
                let topics = messages.iter().map(|message| message.topic.as_str().to_owned());
                self.stored.borrow_mut().extend(topics);
                Ok(Reply::Done)
            }
        };
        Box::pin(async move { answer })
    }
}

struct World {
    shelf: Rc<Broken>,
    turns: Rc<Turns>,
    link: Rc<AnyLink>,
    peer: MemoryPeer,
}

impl World {
    fn new(bench: &Bench, topics: &[(u16, &[&'static str])]) -> Self {
        tokio::time::pause();
        let shelf = Rc::new(Broken::default());
        let topics = topics.iter().map(|(shard, topics)| (*shard, topics.to_vec()));
        shelf.topics.borrow_mut().extend(topics);
        let quota = Quota {
            session_messages_max: 100,
            session_bytes_max: 1 << 20,
            app_bytes_max: 1 << 20,
            drop_oldest: true,
        };
        let common = AppQuota { quota, retained_messages_max: 100, retained_bytes_max: 1 << 20 };
        let quotas = Arc::new(AppQuotas { common, special: AHashMap::new() });
        let source = Source {
            shelf: Rc::clone(&shelf) as _,
            quotas,
            // Of several nodes: the times of messages tell nothing.
            tables: tables(&[1, 2]),
        };
        let (link, peer) = bench.connect(1 << 20, |_| {});
        Self { shelf, turns: Turns::new(source), link, peer }
    }

    fn subscribe(&self, filter: &str, epoch: u64) {
        let receiver = Receiver {
            connection: self.link.id(),
            app: testing::APP,
            session: SessionKey(1),
            epoch: Epoch(epoch),
        };
        let options =
            SubscriptionOptions { qos: Qos::AtLeastOnce, ..SubscriptionOptions::default() };
        let filter = TopicFilter::parse(filter).unwrap();
        let subscription = StoredSubscription { filter, share: None, options, subscription_id: 0 };
        self.turns.begin(receiver, subscription);
    }

    /// What the client has got since the last call.
    async fn got(&self) -> Vec<String> {
        settle().await;
        parse(self.peer.take()).into_iter().map(|got| got.topic).collect()
    }
}

fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Bench) -> F + Send + 'static) {
    on_worker_for(Duration::from_secs(600), LinkLimits::DEFAULT, test);
}

#[test]
fn copies_of_a_shard_that_cannot_be_read_come_when_it_can() {
    run(|bench| async move {
        let world = World::new(&bench, &[(0, &["a"]), (1, &["b", "c"]), (2, &["d"])]);
        world.shelf.down.borrow_mut().push(1);
        world.subscribe("#", 0);
        assert_eq!(world.got().await, ["a", "d"], "it holds up no other shard");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(world.got().await.is_empty());
        let reads = world.shelf.reads.take().len();
        assert!((40..=70).contains(&reads), "at most once a second in the end: {reads}");
        world.shelf.down.borrow_mut().clear();
        tokio::time::sleep(limits::RETAINED_RETRY_MAX).await;
        assert_eq!(world.got().await, ["b", "c"]);
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(world.shelf.reads.take(), [1, 1], "then it is done");
    });
}

#[test]
fn copies_that_stand_still_hold_up_no_other_subscription() {
    run(|bench| async move {
        let world = World::new(&bench, &[(0, &["a"]), (1, &["b"])]);
        world.shelf.down.borrow_mut().push(0);
        world.subscribe("a", 0);
        world.subscribe("b", 0);
        assert_eq!(world.got().await, ["b"]);
        world.shelf.down.borrow_mut().clear();
        tokio::time::sleep(limits::READER_RETRY).await;
        assert_eq!(world.got().await, ["a"]);
    });
}

#[test]
fn copies_that_stand_still_end_with_the_subscription_and_begin_anew_with_a_new_one() {
    run(|bench| async move {
        let world = World::new(&bench, &[(0, &["a"]), (1, &["b"])]);
        world.shelf.down.borrow_mut().extend([0, 1]);
        world.subscribe("a", 0);
        world.subscribe("b", 0);
        settle().await;
        world.turns.forget(world.link.id(), &TopicFilter::parse("a").unwrap());
        world.subscribe("b", 0);
        settle().await;
        world.shelf.down.borrow_mut().clear();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(world.got().await, ["b"], "once, and nothing that was unsubscribed");
    });
}

#[test]
fn copies_that_stand_still_end_with_the_connection() {
    run(|bench| async move {
        let world = World::new(&bench, &[(0, &["a"])]);
        world.shelf.down.borrow_mut().push(0);
        world.subscribe("a", 0);
        settle().await;
        world.link.close();
        tokio::time::sleep(limits::RETAINED_RETRY_MAX).await;
        world.shelf.reads.borrow_mut().clear();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(world.shelf.reads.take().is_empty());
        assert!(bench.worker.fresh_topics.borrow().senders == 0, "no notes are made any more");
    });
}

#[test]
fn copies_that_a_log_cannot_take_come_when_it_can_and_the_others_once() {
    run(|bench| async move {
        let world = World::new(&bench, &[(0, &["one", "zero", "two"])]);
        *world.shelf.refusal.borrow_mut() = Some(SubmitError::Unavailable);
        world.subscribe("#", 7);
        assert!(world.got().await.is_empty());
        *world.shelf.refusal.borrow_mut() = None;
        tokio::time::sleep(limits::READER_RETRY).await;
        assert_eq!(world.got().await, ["zero"], "QoS 0 is sent, not stored");
        assert_eq!(world.shelf.stored.take(), ["one", "two"]);
        *world.shelf.fenced.borrow_mut() = true;
        world.subscribe("#", 7);
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(world.got().await.is_empty(), "the session is another connection's");
    });
}
