//! The appender against shards that answer, refuse, fail and never come back.

use std::cell::RefCell;

use futures_util::future::join_all;

use super::*;
use crate::{
    actors::testing::message,
    model::{
        id::Position,
        message::{Message as Published, Qos},
    },
};

type Batches = Rc<RefCell<Vec<(ShardId, usize)>>>;

/// A shard that answers `Done` to everything after a turn of the loop, and notes batch sizes.
fn recording(batches: &Batches) -> Propose {
    let batches = Rc::clone(batches);
    Rc::new(move |shard, batch, _| {
        let commands = command::decode_batch(&batch).unwrap();
        batches.borrow_mut().push((shard, commands.len()));
        let proposed = Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(command::encode_replies(&vec![Reply::Done; commands.len()]))
        });
        (Some(Order::default()), proposed as _)
    })
}

const QUOTA: command::Quota = command::Quota {
    session_messages_max: 1,
    session_bytes_max: 1,
    app_bytes_max: 1,
    drop_oldest: true,
};

fn large() -> Published {
    message("t", vec![0; limits::APPEND_BATCH_BYTES_MAX], Qos::AtLeastOnce)
}

fn tick(now_ms: u64) -> Command {
    Command::Tick { now_ms, limit: 1 }
}

#[actix::test]
async fn submits_of_one_poll_are_one_proposal_per_shard() {
    let batches = Batches::default();
    let appender = Appender::new(2, recording(&batches), Facts::new(2)).start();
    let sends = (0..10)
        .map(|n| appender.send(Submit { shard: ShardId(u16::from(n % 5 == 0)), command: tick(n) }));
    for reply in join_all(sends).await {
        assert_eq!(reply.unwrap(), Ok(Reply::Done));
    }
    let mut batches = batches.borrow().clone();
    batches.sort_unstable();
    assert_eq!(batches, [(ShardId(0), 8), (ShardId(1), 2)]);
}

#[actix::test]
async fn submit_to_unknown_shard_is_unavailable() {
    let appender = Appender::new(1, recording(&Batches::default()), Facts::new(1)).start();
    let reply = appender.send(Submit { shard: ShardId(9), command: tick(1) }).await.unwrap();
    assert_eq!(reply, Err(SubmitError::Unavailable));
}

fn refused(facts: &Facts) -> Vec<(&'static str, u64)> {
    facts.refused_writes().filter(|(_, count)| *count > 0).collect()
}

#[actix::test]
async fn refused_batch_tells_every_asker_and_is_counted_by_cause() {
    for (error, cause) in [
        (SubmitError::Overloaded, "overloaded"),
        (SubmitError::DiskFull, "disk_full"),
        (SubmitError::DiskFailing, "disk_failing"),
        (SubmitError::Unavailable, "no_leader"),
        (SubmitError::Unknown, "unknown"),
    ] {
        let facts = Facts::new(1);
        let propose: Propose = Rc::new(move |_, _, _| (None, Box::pin(async move { Err(error) })));
        let appender = Appender::new(1, propose, Arc::clone(&facts)).start();
        let send = |n| appender.send(Submit { shard: ShardId(0), command: tick(n) });
        for reply in join_all((0..3).map(send)).await {
            assert_eq!(reply.unwrap(), Err(error));
        }
        assert_eq!(refused(&facts), [(cause, 3)]);
    }
}

/// What waits behind a refusal is refused for the same reason, known at once or later: a client that
/// is told that the disk is full does not look for another leader.
#[actix::test]
async fn submits_that_wait_behind_a_refusal_hear_its_cause() {
    for (error, told) in [
        (SubmitError::Overloaded, SubmitError::Overloaded),
        (SubmitError::DiskFull, SubmitError::DiskFull),
        (SubmitError::Unknown, SubmitError::Unavailable),
    ] {
        for order in [None, Some(Order::default())] {
            let propose: Propose = Rc::new(move |_, _, _| {
                let refused = async move {
                    if order.is_some() {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    Err(error)
                };
                (order, Box::pin(refused))
            });
            let appender = Appender::new(1, propose, Facts::new(1)).start();
            let command = Command::Append { message: Arc::new(large()), quota: QUOTA };
            let send = |_| appender.send(Submit { shard: ShardId(0), command: command.clone() });
            let replies = join_all((0..8).map(send)).await;
            let proposed = if order.is_some() { limits::APPEND_PROPOSALS_MAX } else { 1 };
            let (proposed, waited) = replies.split_at(proposed);
            assert!(proposed.iter().all(|reply| *reply.as_ref().unwrap() == Err(error)));
            assert!(waited.iter().all(|reply| *reply.as_ref().unwrap() == Err(told)));
        }
    }
}

#[actix::test]
async fn replies_that_refuse_are_counted_as_quota() {
    let facts = Facts::new(1);
    let propose: Propose = Rc::new(|_, _, _| {
        let (position, dropped) = (Position::START, 0);
        let appended = |refused| Reply::Appended { position, sessions: 0, dropped, refused };
        let retained = Reply::Retained { version: position, refused: true };
        let replies = [appended(true), appended(false), retained, Reply::Done];
        let replied = async move { Ok(command::encode_replies(&replies)) };
        (Some(Order::default()), Box::pin(replied))
    });
    let appender = Appender::new(1, propose, Arc::clone(&facts)).start();
    let send = |n| appender.send(Submit { shard: ShardId(0), command: tick(n) });
    join_all((0..4).map(send)).await;
    assert_eq!(refused(&facts), [("quota", 2)]);
}

#[actix::test]
async fn submits_beyond_what_may_wait_are_refused_and_counted() {
    let facts = Facts::new(1);
    let propose: Propose =
        Rc::new(|_, _, _| (Some(Order::default()), Box::pin(std::future::pending())));
    let appender = Appender::new(1, propose, Arc::clone(&facts)).start();
    let command = Command::Append { message: Arc::new(large()), quota: QUOTA };
    let send = |_: usize| {
        let submit = Submit { shard: ShardId(0), command: command.clone() };
        tokio::time::timeout(std::time::Duration::from_millis(500), appender.send(submit))
    };
    // Two batches are under way and the rest waits, up to its bound.
    let fit = limits::APPEND_WAITING_BYTES_MAX / limits::APPEND_BATCH_BYTES_MAX;
    let replies = join_all((0..fit + 8).map(send)).await;
    let overloaded =
        replies.iter().filter(|reply| matches!(reply, Ok(Ok(Err(SubmitError::Overloaded)))));
    let overloaded = overloaded.count() as u64;
    assert!(overloaded > 0);
    assert_eq!(refused(&facts), [("overloaded", overloaded)]);
}

#[actix::test]
async fn batch_behind_another_has_no_fewer_commands_than_that() {
    let (answer, answered) = tokio::sync::watch::channel(0_usize);
    let sizes = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&sizes);
    let propose: Propose = Rc::new(move |_, batch, _| {
        let count = command::decode_batch(&batch).unwrap().len();
        let number = noted.borrow().len();
        noted.borrow_mut().push(count);
        let mut answered = answered.clone();
        let proposed = Box::pin(async move {
            let _ = answered.wait_for(|answered| *answered > number).await;
            Ok(command::encode_replies(&vec![Reply::Done; count]))
        });
        (Some(Order::default()), proposed as _)
    });
    let appender = Appender::new(1, propose, Facts::new(1)).start();
    let mut replies = Vec::new();
    let mut submit = async |count: u64| {
        let send = |_| appender.send(Submit { shard: ShardId(0), command: tick(1) });
        replies.extend((0..count).map(send));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    submit(5).await;
    submit(4).await;
    assert_eq!(*sizes.borrow(), [5], "4 behind 5");
    submit(2).await;
    assert_eq!(*sizes.borrow(), [5, 6]);
    submit(50).await;
    assert_eq!(*sizes.borrow(), [5, 6], "no more than two");
    answer.send(1).unwrap();
    submit(0).await;
    assert_eq!(*sizes.borrow(), [5, 6, 50], "at once when the first has come back");
    answer.send(9).unwrap();
    assert!(join_all(replies).await.into_iter().all(|reply| reply.unwrap() == Ok(Reply::Done)));
}

#[actix::test]
async fn submits_behind_a_batch_that_fails_fail_with_it_and_later_ones_pass() {
    let (fail, failed) = tokio::sync::watch::channel(false);
    let behinds = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&behinds);
    let propose: Propose = Rc::new(move |_, _, behind| {
        noted.borrow_mut().push(behind);
        let mut failed = failed.clone();
        let proposed = Box::pin(async move {
            let _ = failed.wait_for(|failed| *failed).await;
            Err(SubmitError::Unknown)
        });
        (Some(Order::default()), proposed as _)
    });
    let appender = Appender::new(1, propose, Facts::new(1)).start();
    let mut replies = Vec::new();
    for now_ms in 0..=limits::APPEND_PROPOSALS_MAX as u64 {
        let submit = Submit { shard: ShardId(0), command: tick(now_ms) };
        replies.push(appender.send(submit));
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    fail.send(true).unwrap();
    let replies: Vec<_> = join_all(replies).await.into_iter().map(Result::unwrap).collect();
    let (waited, proposed) = replies.split_last().unwrap();
    assert!(proposed.iter().all(|reply| *reply == Err(SubmitError::Unknown)));
    assert_eq!(*waited, Err(SubmitError::Unavailable));
    // Each says that it is to follow the one before; after a failure nothing is followed.
    let late = Submit { shard: ShardId(0), command: tick(9) };
    assert_eq!(appender.send(late).await.unwrap(), Err(SubmitError::Unknown));
    assert_eq!(*behinds.borrow(), [None, Some(Order::default()), None]);
}

#[actix::test]
async fn message_behind_a_failure_of_its_line_is_refused_and_those_of_others_pass() {
    let failures = Rc::new(RefCell::new(vec![Err(SubmitError::Unknown)]));
    let propose: Propose = Rc::new(move |_, _, _| {
        let reply = failures.borrow_mut().pop();
        let reply = reply.unwrap_or_else(|| Ok(command::encode_replies(&[Reply::Done])));
        (Some(Order::default()), Box::pin(std::future::ready(reply)))
    });
    let appender = Appender::new(2, propose, Facts::new(2)).start();
    let small = Arc::new(message("t", b"m".to_vec(), Qos::AtLeastOnce));
    let (line, other) = (Line::default(), Line::default());
    let append = |shard, line: &Line| {
        let command = Command::Append { message: Arc::clone(&small), quota: QUOTA };
        let submit = Submit { shard: ShardId(shard), command };
        appender.send(SubmitInLine { submit, line: line.clone() })
    };
    assert_eq!(append(0, &line).await.unwrap(), Err(SubmitError::Unknown));
    // Nothing of it is written, whenever and to wherever it comes.
    for shard in [0, 1] {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(append(shard, &line).await.unwrap(), Err(SubmitError::Unavailable));
    }
    assert_eq!(append(0, &other).await.unwrap(), Ok(Reply::Done));
    let no_message = Submit { shard: ShardId(0), command: tick(1) };
    assert_eq!(appender.send(no_message).await.unwrap(), Ok(Reply::Done));
}
