//! A home whose neighbours have full mailboxes.
//!
//! - Takes: a hub on the home's own thread that handles nothing for a while. Gives: what it hears afterwards.
//! - Bound: each test runs on a thread of its own, so that one that spins fails instead of hanging.

use std::sync::mpsc;

use super::*;

/// A hub that handles nothing until it is let go.
struct Busy {
    until: Option<oneshot::Receiver<()>>,
    heard: Rc<RefCell<Vec<Vec<ConnectionId>>>>,
}

impl Actor for Busy {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1);
        if let Some(until) = self.until.take() {
            ctx.wait(until.into_actor(self).map(|_, _, _| ()));
        }
    }
}

impl Handler<SessionsGrew> for Busy {
    type Result = ();

    fn handle(&mut self, mut grew: SessionsGrew, _: &mut Self::Context) {
        grew.connections.sort_unstable();
        self.heard.borrow_mut().push(grew.connections);
    }
}

/// Runs a test beside this thread and gives it so long.
fn within<T, F>(time: Duration, test: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (done, result) = mpsc::sync_channel(1);
    std::thread::spawn(move || done.send(actix_rt::System::new().block_on(test())));
    result.recv_timeout(time).expect("the thread of the home is not stuck")
}

/// Tells of connections 1 to 5, one after the other, while the hub has room for two; says what it hears.
async fn tell_five() -> Vec<Vec<ConnectionId>> {
    let (go, until) = oneshot::channel();
    let heard = Rc::<RefCell<Vec<Vec<ConnectionId>>>>::default();
    let hub = Busy { until: Some(until), heard: Rc::clone(&heard) }.start();
    settle().await;
    let world = World::with_hub(here(1), &[], Vec::new(), Some(hub.recipient()));
    settle().await;
    for slot in 1..=5 {
        world.news.add([(SessionKey(slot.into()), holder(ME, slot))]);
        settle().await;
    }
    // It goes on with its other work meanwhile.
    world.home.send(claim(9, 0)).await.unwrap().unwrap();
    assert!(heard.borrow().is_empty());
    go.send(()).unwrap();
    settle().await;
    world.news.add([(SessionKey(6), holder(ME, 6))]);
    settle().await;
    heard.take()
}

#[test]
fn news_for_a_hub_on_this_thread_that_is_full_gather_and_come_once_it_has_room() {
    let heard = within(Duration::from_secs(20), tell_five);
    let slots = |slots: &[u32]| slots.iter().map(|slot| connection(*slot)).collect::<Vec<_>>();
    let want = [slots(&[1]), slots(&[2]), slots(&[3, 4, 5]), slots(&[6])];
    assert_eq!(heard, want, "one beyond the mailbox, the others in one message");
}
