//! Publishes the wills that are due, each until it is done.
//!
//! - Owns: how far the wills are that could not be finished, for one term of the lead.
//! - Takes: what a `Tick` hands out. Gives: the wills to the publisher, `WillDone` to the shard.
//! - Bound: the wills of one `Tick` at once, and each as the publisher says: a slow one holds up its page, not all that come
//!   behind it one by one. `limits::WILLS_OPEN_MAX` are remembered.
//! - A will that a shard or a link has no room for is done: it would be refused, and delivered live, for ever.
//! - The shard hands out again what is not done, `limits::WILL_RETRY` later; another home, and one beyond the bound, begins
//!   from the start, so live receivers may get such a will twice.

use ahash::AHashMap;
use futures_util::future::join_all;
use hongqiao_cluster::id::ShardId;

use super::Neighbours;
use crate::{
    actors::{
        appender::Submit,
        publish::{Fate, Progress},
    },
    limits,
    model::id::{Epoch, SessionKey},
    shard::command::{Command, DueWill},
};

/// See the file header.
#[derive(Debug, Default)]
pub(super) struct Wills {
    term: Option<u64>,
    open: AHashMap<(SessionKey, Epoch), Progress>,
}

impl Wills {
    /// Takes note of who leads: what another home has done meanwhile is not known here.
    pub(super) fn follow(&mut self, term: u64) {
        if self.term.replace(term) != Some(term) {
            self.open.clear();
        }
    }

    /// Publishes wills, then commits of each that is finished that it is; a crash in between repeats it with the
    /// same id. They are begun in the order in which they became due.
    pub(super) async fn publish(
        &mut self,
        shard: ShardId,
        neighbours: &Neighbours,
        wills: Vec<DueWill>,
    ) {
        let publish = wills.into_iter().map(|DueWill { key, epoch, message }| {
            let progress = self.open.get(&(key, epoch)).copied().unwrap_or_default();
            publish_one(shard, neighbours, (key, epoch), (neighbours.publish)(message, progress))
        });
        let published = join_all(publish).await;
        let mut refused = 0;
        for (name, fate, is_done) in published {
            refused += usize::from(is_done && fate == Fate::Refused);
            match fate {
                _ if is_done => drop(self.open.remove(&name)),
                Fate::Open(progress) => self.remember(name, progress),
                // Nobody knows yet that it is done: it comes again, and everything of it is repeated by its id.
                Fate::Done | Fate::Refused => self.remember(name, Progress::WHOLE),
            }
        }
        if refused > 0 {
            tracing::warn!(
                shard = shard.0,
                refused,
                "no room for wills: given up, in whole or in part"
            );
        }
    }

    fn remember(&mut self, name: (SessionKey, Epoch), progress: Progress) {
        if self.open.len() < limits::WILLS_OPEN_MAX || self.open.contains_key(&name) {
            self.open.insert(name, progress);
        }
    }
}

type Published = ((SessionKey, Epoch), Fate, bool);

async fn publish_one(
    shard: ShardId,
    neighbours: &Neighbours,
    (key, epoch): (SessionKey, Epoch),
    published: super::Local<Fate>,
) -> Published {
    let fate = published.await;
    let is_done = match fate {
        Fate::Open(_) => false,
        Fate::Done | Fate::Refused => {
            let submit = Submit { shard, command: Command::WillDone { key, epoch } };
            matches!(neighbours.submit.send(submit).await, Ok(Ok(_)))
        }
    };
    ((key, epoch), fate, is_done)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc, time::Duration};

    use actix::{Actor, Context, Handler};
    use hongqiao_cluster::id::NodeId;

    use super::*;
    use crate::{
        actors::{
            appender::SubmitError, peer::Peers, redispatch::Moved, testing, upkeep::Due, view::View,
        },
        model::message::Qos,
        shard::command::Reply,
    };

    const SHARD: ShardId = ShardId(0);

    type Log = Rc<RefCell<Vec<String>>>;

    /// The shard; writes down which wills are done.
    struct Shard(Log);

    impl Actor for Shard {
        type Context = Context<Self>;
    }

    impl Handler<Submit> for Shard {
        type Result = Result<Reply, SubmitError>;

        fn handle(&mut self, submit: Submit, _: &mut Self::Context) -> Self::Result {
            let Command::WillDone { key, .. } = submit.command else { panic!("{submit:?}") };
            // Of the eighth nobody hears that it is done.
            self.0.borrow_mut().push(format!("done {}", key.0));
            if key.0 == 8 { Err(SubmitError::Unknown) } else { Ok(Reply::Done) }
        }
    }

    /// Where a will without end takes its time-out, an open one tells how far it is.
    fn neighbours(log: &Log) -> Neighbours {
        let noted = Rc::clone(log);
        Neighbours {
            submit: Shard(Rc::clone(log)).start().recipient(),
            groups: Vec::new(),
            is_due: Rc::new(|_| Box::pin(std::future::ready(Due::default()))),
            mover: Rc::new(|| Box::pin(std::future::ready(Moved::All))),
            held: Rc::new(|_| Box::pin(std::future::ready(None))),
            gone: Vec::new(),
            peers: Peers::none(),
            view: View::alone(NodeId(1), 1, 1),
            publish: Rc::new(move |message, progress| {
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                let seen = if progress == Progress::default() { "new" } else { "open" };
                noted.borrow_mut().push(format!("{text} {seen}"));
                Box::pin(async move {
                    match text.as_str() {
                        "slow" => {
                            tokio::time::sleep(limits::RELAY_WAIT).await;
                            Fate::Open(Progress::WHOLE)
                        }
                        "refused" => Fate::Refused,
                        _ => Fate::Done,
                    }
                })
            }),
        }
    }

    fn will(key: u128, payload: &str) -> DueWill {
        let message = testing::message("a", payload.to_owned(), Qos::AtLeastOnce);
        DueWill { key: SessionKey(key), epoch: Epoch(1), message }
    }

    fn took(log: &Log) -> Vec<String> {
        std::mem::take(&mut *log.borrow_mut())
    }

    #[actix::test]
    async fn wills_that_take_their_time_hold_up_no_other_one_by_one() {
        tokio::time::pause();
        let log = Log::default();
        let (neighbours, mut wills) = (neighbours(&log), Wills::default());
        wills.follow(1);
        let mut due: Vec<_> = (10..40).map(|key| will(key, "slow")).collect();
        due.extend([will(1, "good"), will(2, "refused")]);
        let began = tokio::time::Instant::now();
        wills.publish(SHARD, &neighbours, due).await;
        assert!(began.elapsed() < limits::RELAY_WAIT + Duration::from_secs(1));
        let done: Vec<_> = took(&log).into_iter().filter(|one| one.starts_with("done")).collect();
        assert_eq!(done, ["done 1", "done 2"], "what is refused is over as well");
        assert_eq!(wills.open.len(), 30);
    }

    #[actix::test]
    async fn will_that_is_open_goes_on_where_it_was_until_another_term() {
        tokio::time::pause();
        let log = Log::default();
        let (neighbours, mut wills) = (neighbours(&log), Wills::default());
        for (term, seen) in [(1, "new"), (1, "open"), (2, "new"), (2, "open")] {
            wills.follow(term);
            wills.publish(SHARD, &neighbours, vec![will(7, "slow"), will(8, "good")]).await;
            assert_eq!(
                took(&log),
                [format!("slow {seen}"), format!("good {seen}"), "done 8".to_owned()],
                "{term}"
            );
        }
    }
}
