//! Shares that came back from live members, and shards that cannot take them.

use std::{cell::Cell, time::Duration};

use super::*;
use crate::{
    actors::{
        counters::DropCause,
        testing::{Bench, on_worker_for},
        worker::LinkLimits,
    },
    limits,
};

/// Stands for every shard.
#[derive(Clone, Default)]
struct Shards {
    refusal: Rc<Cell<Option<SubmitError>>>,
    asked: Rc<Cell<usize>>,
    stored: Rc<RefCell<Vec<u8>>>,
}

impl Actor for Shards {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(2 * limits::GIVEN_BACK_MAX);
    }
}

impl Handler<Submit> for Shards {
    type Result = Result<Reply, SubmitError>;

    fn handle(&mut self, submit: Submit, _: &mut Self::Context) -> Self::Result {
        let Command::Share { messages, .. } = submit.command else { panic!("{submit:?}") };
        self.asked.set(self.asked.get() + 1);
        if let Some(refusal) = self.refusal.get() {
            return Err(refusal);
        }
        self.stored.borrow_mut().extend(messages.iter().map(|message| message.payload[0]));
        Ok(Reply::Done)
    }
}

struct World {
    bench: Bench,
    shards: Shards,
    groups: Addr<Groups>,
}

impl World {
    /// A group whose one member is away; the shards refuse.
    async fn new(bench: Bench, refusal: SubmitError) -> Self {
        tokio::time::pause();
        let shards = Shards::default();
        shards.refusal.set(Some(refusal));
        let submit = shards.clone().start().recipient();
        let groups = Groups::new(Arc::default(), neighbours(Vec::new(), submit, Far::nothing()));
        let groups = groups.start();
        groups.send(away(5)).await.unwrap();
        Self { bench, shards, groups }
    }

    async fn give_back(&self, messages: Vec<Arc<Published>>) {
        self.groups.send(GivenBack { group: KEY, messages }).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn given_up(&self) -> u64 {
        self.bench.dropped(DropCause::GivenBack)
    }
}

fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Bench) -> F + Send + 'static) {
    on_worker_for(Duration::from_secs(600), LinkLimits::DEFAULT, test);
}

#[test]
fn share_that_came_back_is_stored_once_a_shard_takes_it() {
    run(|bench| async move {
        let world = World::new(bench, SubmitError::Unavailable).await;
        world.give_back(vec![message(1), exactly(2, 2), message(3)]).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(world.shards.asked.get() > 3, "it is tried again");
        assert!(world.shards.stored.borrow().is_empty());
        world.shards.refusal.set(None);
        tokio::time::sleep(2 * limits::GIVEN_BACK_RETRY).await;
        let mut stored = world.shards.stored.take();
        stored.sort_unstable();
        assert_eq!(stored, [1, 2, 3]);
        tokio::time::sleep(Duration::from_secs(99)).await;
        assert!(world.shards.stored.take().is_empty(), "once");
        assert_eq!(world.given_up(), 0);
    });
}

#[test]
fn share_that_came_back_is_given_up_after_a_while_and_counted() {
    run(|bench| async move {
        let world = World::new(bench, SubmitError::DiskFull).await;
        world.give_back(vec![message(1)]).await;
        tokio::time::sleep(limits::GIVEN_BACK_PATIENCE - Duration::from_secs(1)).await;
        assert_eq!(world.given_up(), 0);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(world.given_up(), 1);
        let asked = world.shards.asked.get();
        tokio::time::sleep(Duration::from_secs(99)).await;
        assert_eq!(world.shards.asked.get(), asked);
    });
}

#[test]
fn share_that_came_back_and_may_be_stored_is_dealt_again_with_qos_1_alone() {
    run(|bench| async move {
        let world = World::new(bench, SubmitError::Unknown).await;
        world.give_back(vec![message(1), exactly(2, 2)]).await;
        assert_eq!(world.given_up(), 1);
        world.shards.refusal.set(None);
        tokio::time::sleep(limits::GIVEN_BACK_RETRY).await;
        assert_eq!(world.shards.stored.take(), [1]);
    });
}

#[test]
fn shares_that_came_back_wait_up_to_the_limit() {
    run(|bench| async move {
        let world = World::new(bench, SubmitError::Unavailable).await;
        world.give_back(vec![message(1); limits::GIVEN_BACK_MAX + 3]).await;
        assert_eq!(world.given_up(), 3);
        world.shards.refusal.set(None);
        tokio::time::sleep(limits::GIVEN_BACK_RETRY).await;
        assert_eq!(world.shards.stored.take().len(), limits::GIVEN_BACK_MAX);
        // There is room again.
        world.shards.refusal.set(Some(SubmitError::Unavailable));
        world.give_back(vec![message(1)]).await;
        assert_eq!(world.given_up(), 3);
    });
}
