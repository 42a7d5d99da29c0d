//! The handle on a group in memory: batches, order, limits.
//!
//! - Owns: a runtime per test. Takes: nothing. Gives: failures. Bound: tests only.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    id::NodeId,
    meta::{MetaCommand, MetaReply, MetaSink, Place, Refusal, local::Twins},
};

const ME: NodeId = NodeId(1);

#[tokio::test]
async fn handle_when_commands_wait_then_one_batch_in_order_and_sink_before_index() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let sink: MetaSink = Arc::new(move |directory, changes| {
        told.lock().push((directory.index, changes.len()));
    });
    let meta = Twins::new(1, 4, &sink).start(1).await;
    assert!(meta.directory().is_alone(ME) && meta.has_lease());
    assert_eq!(meta.directory().shards.len(), 4);
    let place = Place::Node { node: ME, incarnation: 1 };
    let add = |key: u8| MetaCommand::AddRoutes { place, keys: vec![Bytes::from(vec![key])] };
    // Enqueued by the calls: the first two are under way at once, the others wait for them.
    let proposed: Vec<_> = (0..100).map(|key| meta.propose(add(key))).collect();
    let mut last = 0;
    for proposed in proposed {
        let (reply, index) = proposed.await.unwrap();
        assert_eq!(reply, MetaReply::Done);
        assert!(index >= last);
        last = index;
    }
    assert_eq!(meta.directory().routes.len(), 100);
    assert_eq!(seen.lock().iter().map(|(_, changes)| changes).sum::<usize>(), 1 + 4 + 100);
    assert!(seen.lock().len() < 10, "what waits goes together");
    meta.barrier(last).await;
    let refused = meta.propose(add(0)).await.unwrap();
    assert_eq!(refused.0, MetaReply::Done, "again is no error");
    let long = MetaCommand::AddRoutes { place, keys: vec![Bytes::from(vec![1; 70_000])] };
    assert_eq!(meta.propose(long).await.unwrap().0, MetaReply::Refused(Refusal::Limit));
    let old = Place::Node { node: ME, incarnation: 0 };
    let stale = MetaCommand::RemoveRoutes { place: old, keys: vec![Bytes::from_static(&[1])] };
    assert_eq!(meta.propose(stale).await.unwrap().0, MetaReply::Fenced);
}
