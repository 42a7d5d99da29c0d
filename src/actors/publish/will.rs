//! A will that is due, published by the upkeep of its session's shard until nothing of it is open.
//!
//! - Owns: nothing; what of a will is done is kept by the upkeep ([`Progress`]).
//! - Takes: the message with the id of the will. Gives: its [`Fate`].
//! - Bound: `limits::LEASE_WAIT` and `limits::RELAY_WAIT`, and what the appender waits for a shard.
//! - Every part is waited for: one shard that refuses says nothing of the others. What has no room for it (quota, too
//!   large for a link) is final, or a will would come again for ever; what failed is tried again.
//! - Shards know the doubles of a will by its id. Live receivers do not, so what has reached all of them is not
//!   sent to them again.
//! - Source: MQTT 5.0 section 3.1.2.5; ARCHITECTURE.md "Wills".

use std::sync::Arc;

use futures_util::future::{join, join_all};
use hongqiao_cluster::id::ShardId;

use super::{Accepted, DispatchAgain, Parts, Publisher, Submit, SubmitError, Versions, one_of};
use crate::{
    actors::line::Line,
    limits,
    model::{
        message::{Message, Qos},
        reason::Reason,
    },
    shard::command::{Command, Reply},
};

/// What has become of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Everybody has it who is to have it.
    Done,
    /// What has no room for it does not get it; everybody else has it.
    Refused,
    /// To be tried again.
    Open(Progress),
}

/// What of a will needs not be done again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Live receivers have it, on all nodes.
    routed: bool,
    /// Shared groups have it.
    dealt: bool,
    /// How often it was tried.
    tries: u32,
}

impl Progress {
    /// Nothing is open but what shards know by its id.
    pub const WHOLE: Self = Self { routed: true, dealt: true, tries: 1 };
}

/// What the parts of a will have come to.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    failed: bool,
    refused: bool,
}

impl Sum {
    fn add(&mut self, reply: &Result<Reply, SubmitError>) {
        match reply {
            Ok(Reply::Appended { refused, .. } | Reply::Retained { refused, .. }) => {
                self.refused |= refused;
            }
            Ok(_) => {}
            Err(_) => self.failed = true,
        }
    }
}

impl Publisher {
    /// Publishes a will, or what is still open of it.
    pub async fn publish_will(&self, message: Arc<Message>, progress: Progress) -> Fate {
        if !self.has_lease_in_time(&message).await {
            return Fate::Open(progress);
        }
        let mut progress = Progress { tries: progress.tries.saturating_add(1), ..progress };
        // Groups come first, as with any message: they do not wait for the retained copy.
        let dealt = join_all(self.deal_will(&message, progress));
        let stored = async {
            let (mut sum, mut versions) = (Sum::default(), Versions::default());
            if message.retain {
                let (shard, command) = self.retain_command(&message);
                let reply = self.submitted(shard, command).await;
                if let Ok(Reply::Retained { version, refused: false }) = reply {
                    versions.push(0, Some(version));
                }
                sum.add(&reply);
            }
            // The commit may have taken longer than the lease lasted.
            if !self.has_lease_in_time(&message).await {
                return (Sum { failed: true, ..sum }, progress.routed);
            }
            let stored = join_all(self.store_will(&message));
            let routed = self.route_will(&message, &versions, progress.routed);
            let (replies, routed) = join(stored, routed).await;
            replies.iter().for_each(|reply| sum.add(reply));
            sum.refused |= routed == Err(Reason::QuotaExceeded);
            let routed = matches!(routed, Ok(()) | Err(Reason::QuotaExceeded));
            (Sum { failed: sum.failed || !routed, ..sum }, routed)
        };
        let (dealt, (mut sum, routed)) = join(dealt, stored).await;
        progress.routed = routed;
        progress.dealt = dealt.iter().all(Result::is_ok);
        if !progress.dealt {
            // A group does not say whether its member is over the quota or its shard is busy: that ends.
            let full = dealt.iter().all(|each| matches!(each, Ok(()) | Err(Reason::QuotaExceeded)));
            let is_over = full && progress.tries >= limits::WILL_SHARE_TRIES;
            sum.refused |= is_over;
            sum.failed |= !is_over;
        }
        match sum {
            Sum { failed: true, .. } => Fate::Open(progress),
            Sum { refused: true, .. } => Fate::Refused,
            Sum { .. } => Fate::Done,
        }
    }

    async fn has_lease_in_time(&self, message: &Arc<Message>) -> bool {
        self.may_publish(std::slice::from_ref(message)) || self.lease().await
    }

    /// Gives a will to its shared groups; again under the same id, if it is not the first time.
    fn deal_will(&self, message: &Arc<Message>, progress: Progress) -> Parts {
        let (mut parts, messages) = ([Parts::new()], std::slice::from_ref(message));
        match progress {
            Progress { dealt: true, .. } => {}
            Progress { tries: 1, .. } => self.deal_by(messages, &mut parts, one_of),
            Progress { .. } => self.deal_by(messages, &mut parts, DispatchAgain::of),
        }
        let [parts] = parts;
        parts
    }

    /// Stores a will in the shards with durable subscribers.
    fn store_will(
        &self,
        message: &Arc<Message>,
    ) -> Vec<impl Future<Output = Result<Reply, SubmitError>>> {
        if message.qos == Qos::AtMostOnce {
            return Vec::new();
        }
        let tables = self.targets.beyond.tables.load();
        let routes = self.targets.facts.routes.load();
        let shards = tables.shards(message.app, &message.topic, &routes);
        shards.iter().map(|shard| self.submitted(shard, self.append_command(message))).collect()
    }

    /// Gives a will to live receivers here and elsewhere. A refusal with `QuotaExceeded` is final.
    async fn route_will(
        &self,
        message: &Arc<Message>,
        versions: &Versions,
        routed: bool,
    ) -> Accepted {
        if routed {
            return Ok(());
        }
        let (mut parts, mut line) = ([Parts::new()], Some(Line::default()));
        let taken = self.route_all(std::slice::from_ref(message), versions, &mut parts, &mut line);
        let [parts] = parts;
        let routed: Accepted = join_all(taken.into_iter().chain(parts)).await.into_iter().collect();
        // A lane that is full for now cuts the line; a message that no frame takes does not.
        let is_cut = line.as_ref().and_then(Line::failure).is_some();
        routed.map_err(|reason| if is_cut { Reason::UnspecifiedError } else { reason })
    }

    /// Has a shard apply a command; enqueued when called.
    fn submitted(
        &self,
        shard: ShardId,
        command: Command,
    ) -> impl Future<Output = Result<Reply, SubmitError>> + use<> {
        let reply = self.appender.send(Submit { shard, command });
        async move { reply.await.unwrap_or(Err(SubmitError::Unavailable)) }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque, rc::Rc};

    use bytes::Bytes;
    use hongqiao_cluster::Order;

    use super::{
        super::tests::{add_shard, got, with_publisher_and},
        *,
    };
    use crate::{
        actors::{appender::Propose, testing},
        model::id::{MessageId, Position},
        shard::command::{decode_batch, encode_replies},
    };

    const NEW: Progress = Progress { routed: false, dealt: false, tries: 0 };

    thread_local! {
        /// What the shard says to the next batches, by command; then it takes everything.
        static ANSWERS: RefCell<VecDeque<Answer>> = const { RefCell::new(VecDeque::new()) };
    }

    #[derive(Clone, Copy)]
    enum Answer {
        Takes,
        Refuses,
        Fails(SubmitError),
    }

    fn shard() -> Propose {
        Rc::new(|_, batch, _| {
            let answer = ANSWERS.with_borrow_mut(VecDeque::pop_front).unwrap_or(Answer::Takes);
            let reply = |refused| -> Bytes {
                let replies =
                    decode_batch(&batch).unwrap().into_iter().map(|command| match command {
                        Command::Retain { .. } => {
                            Reply::Retained { version: Position::START, refused }
                        }
                        _ => Reply::Appended {
                            position: Position::START,
                            sessions: 1,
                            dropped: 0,
                            refused,
                        },
                    });
                encode_replies(&replies.collect::<Vec<_>>())
            };
            let proposed = match answer {
                Answer::Takes => Ok(reply(false)),
                Answer::Refuses => Ok(reply(true)),
                Answer::Fails(error) => Err(error),
            };
            (Some(Order::default()), Box::pin(std::future::ready(proposed)))
        })
    }

    fn will(retain: bool) -> Arc<Message> {
        let message = testing::message("a", "gone".to_owned(), Qos::AtLeastOnce);
        Arc::new(Message { id: Some(MessageId(7 << 64)), retain, ..message })
    }

    /// Publishes a retained will whose shards say this to its copy and then to itself.
    async fn publish(publisher: &Publisher, progress: Progress, answers: [Answer; 2]) -> Fate {
        ANSWERS.set(answers.into());
        let fate = publisher.publish_will(will(true), progress).await;
        testing::settle().await;
        assert!(ANSWERS.take().is_empty());
        fate
    }

    #[test]
    fn will_that_shards_have_no_room_for_is_delivered_once_and_over() {
        with_publisher_and(&[0, 1], shard, |publisher, _meta, peer| async move {
            add_shard(&publisher);
            for answers in [
                [Answer::Refuses, Answer::Takes],
                [Answer::Takes, Answer::Refuses],
                [Answer::Refuses, Answer::Refuses],
            ] {
                assert_eq!(publish(&publisher, NEW, answers).await, Fate::Refused);
                assert_eq!(got(&peer), ["gone"], "traffic goes on");
            }
            let fate = publish(&publisher, NEW, [Answer::Takes, Answer::Takes]).await;
            assert_eq!((fate, got(&peer)), (Fate::Done, vec!["gone".to_owned()]));
        });
    }

    #[test]
    fn will_that_a_shard_cannot_store_now_is_tried_again_and_not_delivered_again() {
        with_publisher_and(&[0, 1], shard, |publisher, _meta, peer| async move {
            add_shard(&publisher);
            let errors = [
                SubmitError::Overloaded,
                SubmitError::DiskFull,
                SubmitError::DiskFailing,
                SubmitError::Unavailable,
                SubmitError::Unknown,
            ];
            for error in errors {
                // A copy that is refused says nothing of the durable subscribers.
                let answers = [Answer::Refuses, Answer::Fails(error)];
                let fate = publish(&publisher, NEW, answers).await;
                let Fate::Open(progress) = fate else { panic!("{error}: {fate:?}") };
                assert_eq!(progress, Progress { routed: true, dealt: true, tries: 1 });
                assert_eq!(got(&peer), ["gone"]);
                let fate =
                    publish(&publisher, progress, [Answer::Fails(error), Answer::Takes]).await;
                assert!(matches!(fate, Fate::Open(Progress { tries: 2, .. })), "{error}: {fate:?}");
                let fate = publish(&publisher, progress, [Answer::Refuses, Answer::Takes]).await;
                assert_eq!(fate, Fate::Refused);
                assert_eq!(got(&peer), Vec::<String>::new(), "they have it");
            }
        });
    }

    #[test]
    fn will_without_the_lease_waits_and_goes_out_later() {
        with_publisher_and(&[0, 1], shard, |publisher, meta, peer| async move {
            meta.set_lease(false);
            assert_eq!(publisher.publish_will(will(true), NEW).await, Fate::Open(NEW));
            testing::settle().await;
            assert_eq!(got(&peer), Vec::<String>::new());
            meta.set_lease(true);
            assert_eq!(publisher.publish_will(will(false), NEW).await, Fate::Done);
            testing::settle().await;
            assert_eq!(got(&peer), ["gone"]);
        });
    }
}
