//! Which copies are skipped, on a node alone and where clocks of several nodes stamped the messages.

use hongqiao_cluster::{
    MetaChange,
    directory::{Directory, Member},
    id::NodeId,
};

mod again;

use super::*;
use crate::actors::{
    testing::{self, message},
    worker::LinkLimits,
};

const HOUR_MS: u64 = 3_600_000;

fn version(entry: u64) -> Position {
    Position { entry, offset: 0 }
}

fn retained(topic: &str) -> Message {
    Message { retain: true, ..message(topic, "x", Qos::AtLeastOnce) }
}

/// Tables of a node that has, or has not, had others beside it.
fn tables(others: &[u64]) -> Arc<RouteTables> {
    let tables = RouteTables::new(NodeId(1));
    let member = Member {
        incarnation: 1,
        up: true,
        routes_complete: true,
        cluster_addr: String::new(),
        client_addr: String::new(),
        version: String::new(),
    };
    let nodes = others.iter().map(|node| (NodeId(*node), member.clone())).collect();
    tables.take(&Directory { nodes, ..Directory::default() }, &[MetaChange::Reloaded]);
    tables
}

#[test]
fn copy_is_overtaken_by_itself_and_by_later_ones_and_not_by_earlier_ones() {
    let mut fresh = FreshTopics { senders: 1, ..FreshTopics::default() };
    let copy = retained("a");
    fresh.note(&copy, Some(version(5)));
    fresh.note(&retained("b"), Some(version(9)));
    assert!(fresh.has_overtaken((version(4), &copy), 0, None));
    assert!(fresh.has_overtaken((version(5), &copy), 0, None));
    // A message of another node may be routed late, although its copy was replaced long ago.
    assert!(!fresh.has_overtaken((version(6), &copy), 0, None));
    assert!(!fresh.has_overtaken((version(4), &copy), 1, None), "noted before");
    fresh.note(&copy, None);
    assert!(fresh.has_overtaken((version(6), &copy), 0, None), "its version is not known");
}

#[test]
fn clocks_that_are_an_hour_apart_lose_no_copy() {
    testing::on_worker(LinkLimits::DEFAULT, |bench| async move {
        let now_ms = clock::wall_ms();
        let sending = Sending::begin(&bench.worker, &tables(&[1, 2]));
        while clock::wall_ms() <= now_ms + 1 {
            tokio::task::yield_now().await;
        }
        for published_at_ms in [now_ms - HOUR_MS, now_ms + 1, now_ms + HOUR_MS] {
            let copy = Message { published_at_ms, ..retained("a") };
            assert!(!sending.has_overtaken((version(1), &copy), None), "{published_at_ms}");
        }
    });
}

#[test]
fn node_that_was_always_alone_skips_what_came_in_since() {
    testing::on_worker(LinkLimits::DEFAULT, |bench| async move {
        let sending = Sending::begin(&bench.worker, &tables(&[1]));
        let began_ms = clock::wall_ms();
        while clock::wall_ms() <= began_ms + 1 {
            tokio::task::yield_now().await;
        }
        let came = |published_at_ms| Message { published_at_ms, ..retained("a") };
        assert!(sending.has_overtaken((version(1), &came(began_ms + 1)), None));
        assert!(!sending.has_overtaken((version(1), &came(began_ms - 1_000)), None));
        let of_a_clock_ahead = came(began_ms + HOUR_MS);
        assert!(!sending.has_overtaken((version(1), &of_a_clock_ahead), None));
    });
}
