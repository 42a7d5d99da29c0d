//! What a client sent behind a publish that failed is not stored in front of what it sends again (ORDER).

use std::time::Duration;

use hongqiao_cluster::id::ShardId;

use super::{
    bench::{Bench, connect_v4, connect_v5, delivery, durable_v5, id},
    remote::Remote,
};
use crate::{
    actors::appender::SubmitError,
    front::mqtt::client::Client,
    limits,
    model::{
        message::Qos,
        reason::Reason,
        wire::{AckKind, Connect, Delivery, SubackCode},
    },
};

const Q1: Qos = Qos::AtLeastOnce;
const Q2: Qos = Qos::ExactlyOnce;

/// How a connection ends while publishes of it are on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its publishes stand still for too long.
    Stalled,
    /// The client waits no longer.
    Closed,
    /// The node is told to let it go.
    Kicked,
}

/// A node among others with the session of a client that is away, subscribed to `a`.
async fn absent() -> Bench {
    let bench = Bench::in_company();
    while !bench.meta.is_complete() || bench.meta.durable(ShardId(0)).is_empty() {
        pass(5).await;
    }
    let (mut receiver, _) = bench.durable("r").await;
    assert_eq!(receiver.subscribe("a", Q2).await, SubackCode::Granted(Q2));
    bench.cut(receiver).await;
    bench.storage.commands();
    bench
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn stored(bench: &Bench) -> usize {
    bench.storage.commands().iter().filter(|name| **name == "append").count()
}

fn senders(qos: Qos) -> Vec<(Client, Connect)> {
    match qos {
        Q2 => vec![(Client::V5, durable_v5("s"))],
        _ => vec![(Client::V5, connect_v5("s")), (Client::V4, connect_v4("s"))],
    }
}

/// One publish without an outcome, and two behind it that wait for the lease of the directory.
async fn under_way(bench: &Bench, qos: Qos, (codec, connect): (Client, Connect)) -> Remote {
    let (mut sender, _) = bench.connect(codec, &connect).await;
    if qos == Q2 {
        // Their packet ids are written; only then the shard goes silent.
        bench.meta.set_lease(false);
        sender.publish(&delivery("a", qos, b"1"));
        pass(5).await;
        bench.storage.hang(true);
        bench.meta.set_lease(true);
        pass(limits::LEASE_LOOK.as_millis().try_into().unwrap()).await;
        pass(5).await;
        bench.meta.set_lease(false);
    } else {
        bench.storage.hang(true);
        sender.publish(&delivery("a", qos, b"1"));
        pass(5).await;
        bench.meta.set_lease(false);
    }
    sender.publish(&delivery("a", qos, b"2"));
    pass(5).await;
    sender.publish(&delivery("a", qos, b"3"));
    pass(5).await;
    sender
}

/// A node that was paused wakes: everything has waited for too long, and only then the lease comes back.
#[actix::test]
async fn publishes_behind_one_that_fails_when_the_connection_has_ended_then_none_is_stored() {
    let bench = absent().await;
    for end in [End::Stalled, End::Closed, End::Kicked] {
        for sender in senders(Q1) {
            let codec = sender.0;
            let sender = under_way(&bench, Q1, sender).await;
            match end {
                End::Stalled => bench.worker.tick(bench.worker.now() + 7),
                End::Closed => sender.peer.close(),
                End::Kicked => bench.drain().await,
            }
            pass(5).await;
            bench.storage.refuse(Some(SubmitError::Unknown));
            bench.storage.hang(false);
            pass(50).await;
            bench.storage.refuse(None);
            bench.meta.set_lease(true);
            pass(100).await;
            assert_eq!(stored(&bench), 0, "{end:?} {codec:?}");
        }
    }
}

/// The client may never hear of it: whatever it has sent behind it comes again.
#[actix::test]
async fn publish_without_outcome_then_the_connection_ends_and_nothing_behind_it_is_stored() {
    let bench = absent().await;
    for error in [SubmitError::Unknown, SubmitError::Unavailable] {
        let mut sender = bench.client("s").await;
        bench.storage.refuse(Some(error));
        sender.publish(&delivery("a", Q1, b"1"));
        pass(5).await;
        bench.storage.refuse(None);
        pass(50).await;
        sender.publish(&delivery("a", Q1, b"2"));
        let reason = match error {
            SubmitError::Unknown => Reason::UnspecifiedError,
            _ => Reason::ImplementationSpecificError,
        };
        sender.expect_end(Some(reason)).await;
        pass(50).await;
        assert_eq!(stored(&bench), 0, "{error:?}");
    }
}

/// The refusal is not told before the end of its exchange is written, and a connection may end before that.
#[actix::test]
async fn publish_behind_a_refusal_that_is_not_told_yet_then_refused_too() {
    let bench = absent().await;
    let (mut sender, _) = bench.durable("s").await;
    bench.meta.set_lease(false);
    let (first, second, third) = (id(1), id(2), id(3));
    sender.publish_as(&delivery("a", Q2, b"1"), Some(first));
    pass(5).await;
    // Its packet id is written. The disk is full when the lease comes back, and has room in a moment.
    bench.storage.hang_on(Some("in end"));
    bench.storage.refuse(Some(SubmitError::DiskFull));
    bench.meta.set_lease(true);
    pass(100).await;
    bench.storage.refuse(None);
    sender.publish_as(&delivery("a", Q2, b"2"), Some(second));
    pass(50).await;
    assert_eq!(stored(&bench), 0, "stored in front of what may come again");
    bench.storage.hang_on(None);
    sender.expect_ack(AckKind::Pubrec, first, Reason::QuotaExceeded).await;
    sender.expect_ack(AckKind::Pubrec, second, Reason::QuotaExceeded).await;
    // Told: what comes now is new.
    sender.publish_as(&delivery("a", Q2, b"3"), Some(third));
    sender.expect_ack(AckKind::Pubrec, third, Reason::Success).await;
    assert_eq!(stored(&bench), 1);
}

/// What an earlier connection sent may still be on its way; a client that is told no goes on behind it.
#[actix::test]
async fn publish_sent_again_when_there_is_no_room_then_the_connection_ends() {
    let bench = absent().await;
    let (mut first, _) = bench.durable("first").await;
    let (mut second, _) = bench.durable("second").await;
    bench.storage.refuse(Some(SubmitError::DiskFull));
    for (sender, qos, kind) in
        [(&mut first, Q1, AckKind::Puback), (&mut second, Q2, AckKind::Pubrec)]
    {
        sender.publish_as(&delivery("a", qos, b"new"), Some(id(1)));
        sender.expect_ack(kind, id(1), Reason::QuotaExceeded).await;
        sender.publish_as(&Delivery { dup: true, ..delivery("a", qos, b"again") }, Some(id(2)));
        sender.expect_end(Some(Reason::QuotaExceeded)).await;
    }
}
