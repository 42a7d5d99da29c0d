//! The day when most nodes are gone: one goes on alone, from its folder or from a backup, and others join.
//! Promises NO-LOSS as far as the folder goes, ORDER, SESSION-TRUE.

use std::{
    fs,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::alone;
use crate::support::{
    broker::Broker,
    cluster::Cluster,
    mqtt_client::{Client, Received, message},
    packet::{AckKind, Packet},
    wait::let_pass,
};

/// Acknowledged long before the nodes are lost.
const EARLY: usize = 300;

pub(super) fn hongqiao(arguments: &[&str], data: &std::path::Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hongqiao"));
    command.args(arguments).arg("--data").arg(data).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", out(output)))
}

pub(super) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn subscribe(broker: Broker) {
    let mut to = broker.v5("to").durable().connect();
    to.subscribe("c/#", 1);
    to.disconnect();
}

fn publish_early(broker: Broker) {
    let mut from = broker.v5("from").connect();
    for number in 0..EARLY {
        from.publish("c/1", &number.to_string(), 1);
    }
    from.disconnect();
}

/// Publishes numbers from `EARLY` on until the connection ends or it is told to stop.
fn publish_on(mut from: Client, stop: &AtomicBool) {
    for number in EARLY.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mut publish = message("c/1", &number.to_string(), 1);
        publish.id = from.next_id();
        if !from.send_raw(&publish.encode(from.version)) {
            return;
        }
        loop {
            match from.receive(Duration::from_secs(1)) {
                Received::Packet(Packet::Ack { kind: AckKind::Puback, .. }) => break,
                Received::Packet(_) => {}
                Received::Nothing | Received::Closed => return,
            }
        }
    }
}

/// Reads the session on: all that was acknowledged early, then what came through, without a gap.
fn expect_prefix(broker: Broker) {
    let mut to = broker.v5("to").durable().connect();
    assert!(to.connack.present, "the session is lost");
    let mut next = 0;
    while let Received::Packet(packet) = to.receive(Duration::from_secs(2)) {
        if let Packet::Publish(publish) = packet {
            assert_eq!(publish.text(), next.to_string());
            next += 1;
        }
    }
    assert!(next >= EARLY, "only {next} of {EARLY} are there");
    to.disconnect();
}

fn expect_whole(cluster: &Cluster, at: usize, nodes: usize) {
    cluster.wait_until("every group has all its replicas", || {
        let report = cluster.report(at);
        let groups = report["groups"].as_array().unwrap();
        report["nodes"].as_array().unwrap().len() == nodes
            && groups.iter().all(|group| group["voters"].as_array().unwrap().len() == nodes)
    });
    let mut to = cluster.broker(at).v5("later").connect();
    to.subscribe("later", 1);
    for number in cluster.numbers().filter(|number| cluster.node(*number).is_running()) {
        cluster.broker(number).v5("from").connect().publish("later", "x", 1);
        assert_eq!(to.expect_publish().text(), "x");
    }
}

#[test]
fn survivor_of_three_goes_on_alone_and_the_cluster_grows_again() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    subscribe(cluster.broker(1));
    publish_early(cluster.broker(2));
    let_pass(Duration::from_secs(1));
    // From here on an acknowledgement may be the word of nodes 1 and 2 alone.
    let stop = Arc::<AtomicBool>::default();
    let from = cluster.broker(3).v5("from").connect();
    let load = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || publish_on(from, &stop)
    });
    let_pass(Duration::from_secs(1));
    cluster.kill(1);
    cluster.kill(2);
    stop.store(true, Ordering::Relaxed);
    load.join().unwrap();
    let data = cluster.node(3).data();
    let busy = hongqiao(&["cluster", "recover", "--yes"], &data);
    assert_eq!(busy.status.code(), Some(1));
    assert!(out(&busy).contains("another process uses the data folder"), "{}", out(&busy));
    cluster.kill(3);
    fs::remove_dir_all(cluster.node(1).data()).unwrap();
    let format = fs::read(data.join("FORMAT")).unwrap();
    let shown = hongqiao(&["cluster", "recover"], &data);
    assert!(shown.status.success(), "{}", out(&shown));
    for part in
        ["node 3 of cluster", "a whole copy", "nodes 1, 2 are given up", "nothing was changed"]
    {
        assert!(out(&shown).contains(part), "{part}\n{}", out(&shown));
    }
    assert_eq!(fs::read(data.join("FORMAT")).unwrap(), format);
    let done = hongqiao(&["cluster", "recover", "--yes"], &data);
    assert!(done.status.success(), "{}", out(&done));
    cluster.restart(3);
    cluster.wait_ready();
    expect_prefix(cluster.broker(3));
    // Who was given up is not let in, with its folder or without.
    cluster.node(2).never_serves("belongs to another cluster");
    fs::remove_dir_all(cluster.node(2).data()).unwrap();
    cluster.join(3);
    cluster.join(3);
    cluster.wait_ready();
    expect_whole(&cluster, 3, 3);
}

#[test]
fn backup_of_one_of_three_starts_a_cluster_of_one_that_others_join() {
    let _turn = alone();
    let mut cluster = Cluster::start(3);
    subscribe(cluster.broker(1));
    publish_early(cluster.broker(1));
    let backup = cluster.node(2).folder().join("backup");
    let backup_text = backup.to_str().unwrap();
    // A follower has what is acknowledged some milliseconds later.
    let_pass(Duration::from_secs(1));
    let written = hongqiao(&["cluster", "backup", backup_text, "--json"], &cluster.node(2).data());
    assert!(written.status.success(), "{}", out(&written));
    assert_eq!(json(&written), serde_json::json!({ "backup": backup_text, "missing": [] }));
    for number in cluster.numbers() {
        cluster.kill(number);
        fs::remove_dir_all(cluster.node(number).data()).unwrap();
    }
    let data = cluster.node(2).data();
    let restored = hongqiao(&["cluster", "restore", backup_text, "--json"], &data);
    assert!(restored.status.success(), "{}", out(&restored));
    let restored = json(&restored);
    assert_eq!(restored["data"], data.to_str().unwrap());
    let id =
        |text: String| text.lines().find(|line| line.starts_with("cluster")).unwrap().to_owned();
    let read = |folder: &std::path::Path| id(fs::read_to_string(folder.join("FORMAT")).unwrap());
    assert_ne!(read(&data), read(&backup), "nodes of the old cluster could come in");
    assert!(read(&data).ends_with(restored["cluster"].as_str().unwrap()), "{restored}");
    cluster.restart(2);
    cluster.wait_ready();
    expect_prefix(cluster.broker(2));
    cluster.join(2);
    cluster.wait_ready();
    expect_whole(&cluster, 2, 2);
}
