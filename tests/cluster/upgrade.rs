//! One release after the other: nodes are replaced one by one under load, up and down again. NO-LOSS, HEAL.
//!
//! - Takes: `target/upgrade/hongqiao`, this release with one protocol version more (`make upgrade-binary`).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use super::alone;
use crate::{
    chaos,
    support::{cluster::Cluster, node::own_program, wait::let_pass},
};

/// Under load between two replacements.
const PAUSE: Duration = Duration::from_secs(1);

/// The other release.
fn bumped() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let program = target.join("upgrade/hongqiao");
    assert!(program.exists(), "{} is missing; run: make upgrade-binary", program.display());
    program
}

/// Replaces one node as an operator does: SIGTERM, the other program on the same folder, wait.
fn replace(cluster: &mut Cluster, number: usize, program: &Path) {
    cluster.stop(number);
    cluster.node_mut(number).set_program(program);
    cluster.restart(number);
    cluster.wait_ready();
    let_pass(PAUSE);
}

/// Each link of each node speaks the newest version that both of its ends know.
fn check_versions(cluster: &Cluster, bumped: &BTreeSet<usize>) {
    for number in cluster.numbers() {
        let expected = |peer: usize| {
            if bumped.contains(&number) && bumped.contains(&peer) { 2 } else { 1 }
        };
        cluster.wait_until("every link speaks the version of both ends", || {
            let report = cluster.report(number);
            let links = report["links"].as_array().unwrap();
            let right = |link: &serde_json::Value| {
                let peer = usize::try_from(link["node"].as_u64().unwrap()).unwrap();
                link["connected"] == true && link["protocol"] == expected(peer)
            };
            links.len() == 6 && links.iter().all(right)
        });
    }
}

/// Any node takes what any other one delivers, whatever releases they are.
fn every_pair_talks(cluster: &Cluster) {
    for to in cluster.numbers() {
        let mut receiver = cluster.broker(to).v5(&format!("pair{to}")).durable().connect();
        receiver.subscribe(&format!("pair/{to}"), 1);
        for from in cluster.numbers() {
            let mut sender = cluster.broker(from).v5("sender").connect();
            sender.publish(&format!("pair/{to}"), &from.to_string(), 1);
            assert_eq!(receiver.expect_publish().text(), from.to_string());
        }
        receiver.disconnect();
    }
}

#[test]
fn cluster_when_nodes_are_replaced_one_by_one_under_load_then_nothing_is_lost() {
    let (old, new) = (own_program(), bumped());
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    let addresses = cluster.numbers().map(|number| cluster.broker(number).mqtt()).collect();
    chaos::under_load(addresses, || {
        let mut upgraded = BTreeSet::new();
        check_versions(&cluster, &upgraded);
        // Two up, one of them back, then all.
        for (number, up) in [(1, true), (2, true), (1, false), (3, true), (1, true)] {
            replace(&mut cluster, number, if up { &new } else { &old });
            if up {
                upgraded.insert(number);
            } else {
                upgraded.remove(&number);
            }
            check_versions(&cluster, &upgraded);
            every_pair_talks(&cluster);
        }
        assert_eq!(upgraded.len(), 3);
    });
}
