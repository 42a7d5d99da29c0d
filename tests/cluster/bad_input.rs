//! Folders and clocks that are not what they should be: a clear word, and nobody else notices.
//! Promises NO-LOSS, HEAL.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    alone,
    recover::{hongqiao, out},
};
use crate::support::{
    cluster::{Cluster, member_settings},
    mqtt_client::message,
    node::Node,
    packet::Publish,
    property::{MESSAGE_EXPIRY, Props},
    wait::let_pass,
};

const MESSAGES: usize = 400;

/// What an operator may do with a damaged folder.
const TWO_WAYS: &str = "leave NODE --lost` on another node and join with an empty folder";

/// A cluster with a queue that every node has.
fn cluster() -> Cluster {
    let cluster = Cluster::start(3);
    let mut to = cluster.broker(1).v5("to").durable().connect();
    to.subscribe("q", 1);
    to.disconnect();
    let mut from = cluster.broker(2).v5("from").connect();
    let padding = "x".repeat(400);
    for number in 0..MESSAGES {
        from.publish("q", &format!("{number} {padding}"), 1);
    }
    from.disconnect();
    // Followers write it down, and a checkpoint comes once a second.
    let_pass(Duration::from_secs(3));
    cluster
}

/// Turns 64 bytes around at each of these places.
fn damage(path: &Path, places: impl Iterator<Item = u64>) {
    let mut file = fs::File::options().read(true).write(true).open(path).unwrap();
    let bytes = file.metadata().unwrap().len();
    for place in places.take_while(|place| place + 64 < bytes) {
        let mut found = [0; 64];
        file.seek(SeekFrom::Start(place)).unwrap();
        file.read_exact(&mut found).unwrap();
        file.seek(SeekFrom::Start(place)).unwrap();
        file.write_all(&found.map(|byte| byte ^ 0xFF)).unwrap();
    }
}

fn log_segments(data: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(data.join("log")).unwrap().map(|item| item.unwrap().path());
    let mut segments: Vec<_> =
        items.filter(|path| path.extension().is_some_and(|ending| ending == "log")).collect();
    segments.sort();
    segments
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

fn expect_queue(cluster: &Cluster, number: usize) {
    let mut to = cluster.broker(number).v5("to").durable().connect();
    assert!(to.connack.present);
    for expected in 0..MESSAGES {
        let text = to.expect_publish().text();
        assert_eq!(text.split(' ').next(), Some(expected.to_string().as_str()));
    }
    to.disconnect();
}

#[test]
fn node_with_a_damaged_folder_says_what_to_do_and_is_made_anew_from_the_others() {
    let _turn = alone();
    let mut cluster = cluster();
    cluster.kill(3);
    let data = cluster.node(3).data();
    let kept = cluster.node(3).folder().join("kept");
    copy(&data, &kept);
    let segment = log_segments(&data).pop().unwrap();
    damage(&segment, std::iter::once(200));
    cluster.node(3).never_serves(TWO_WAYS);
    let log = cluster.node(3).log();
    assert!(log.contains(&format!("{} is damaged at byte", segment.display())), "{log}");
    // Never silently: the file is as it was left.
    fs::remove_dir_all(&data).unwrap();
    copy(&kept, &data);
    cluster.restart(3);
    cluster.wait_ready();
    // With its whole log it would make a lost state anew.
    let written = hongqiao(&["cluster", "snapshot"], &data);
    assert!(written.status.success(), "{}", out(&written));
    cluster.kill(3);
    damage(&data.join("state/db"), (0..).map(|part| 1_000 + part * 4_096));
    cluster.node(3).never_serves(TWO_WAYS);
    let log = cluster.node(3).log();
    assert!(log.contains(&data.join("state").display().to_string()), "{log}");
    // The operator's word.
    cluster.wait_until("node 3 is declared down", || {
        let nodes = cluster.report(1)["nodes"].as_array().unwrap().clone();
        nodes.iter().any(|node| node["node"] == 3 && node["up"] == false)
    });
    let order = ["cluster", "leave", "3", "--lost", "--no-wait"];
    let lost = hongqiao(&order, &cluster.node(1).data());
    assert!(lost.status.success(), "{}", out(&lost));
    // From its peers, into an empty folder.
    let anew = cluster.join(1);
    cluster.wait_until("the new node has everything", || {
        let report = cluster.report(anew);
        let groups = report["groups"].as_array().unwrap();
        groups.iter().all(|group| {
            let voters = group["voters"].as_array().unwrap();
            voters.len() == 3 && !voters.contains(&3.into())
        })
    });
    cluster.wait_until("nobody knows the lost one", || {
        cluster.report(1)["nodes"].as_array().unwrap().len() == 3
    });
    expect_queue(&cluster, anew);
}

#[test]
fn node_with_half_a_snapshot_throws_it_away_and_a_copy_of_a_folder_is_no_new_node() {
    let _turn = alone();
    let mut cluster = cluster();
    cluster.kill(3);
    let half = cluster.node(3).data().join("snapshots/00000.install");
    fs::create_dir_all(half.parent().unwrap()).unwrap();
    fs::write(&half, [7; 1_000]).unwrap();
    cluster.restart(3);
    cluster.wait_ready();
    let log = cluster.node(3).log();
    assert!(log.contains("is damaged and thrown away"), "{log}");
    assert!(!half.exists());
    let host = cluster.host().to_owned();
    cluster.kill(3);
    let data = cluster.node(3).data();
    let mut settings = member_settings(&host, 3, &[1]);
    settings.push(("cluster.listen".into(), format!("{host}:7033")));
    let twin = Node::stopped_on(|own| copy(&data, own), &settings);
    cluster.restart(3);
    cluster.wait_ready();
    twin.never_serves("is used by another running process");
    expect_queue(&cluster, 3);
}

#[test]
fn node_whose_clock_is_an_hour_ahead_ends_nothing_early() {
    let _turn = alone();
    let mut cluster = cluster();
    cluster.kill(3);
    cluster.node_mut(3).set_environment("HONGQIAO_TEST_CLOCK_AHEAD_MS", "3600000");
    cluster.restart(3);
    cluster.wait_ready();
    let log = cluster.node(3).log();
    assert!(log.contains("clock is ahead of those of most nodes"), "{log}");
    let dial = |number: usize| cluster.broker(number).v5("short").clean(false).expiry(600);
    let mut short = dial(2).will("will", "too early", 1).will_delay(300).connect();
    short.subscribe("soon", 1);
    short.cut();
    let mut watcher = cluster.broker(1).v5("watcher").connect();
    watcher.subscribe("will", 1);
    let soon = Publish {
        props: Props::new().number(MESSAGE_EXPIRY, 600),
        ..message("soon", "still good", 1)
    };
    cluster.broker(1).v5("from").connect().publish_with(soon);
    let led_elsewhere = |cluster: &Cluster| {
        let report = cluster.report(3);
        let groups = report["groups"].as_array().unwrap().clone();
        groups.into_iter().filter(|group| group["leader"] != 3).collect::<Vec<_>>()
    };
    cluster.wait_until("node 3 leads everything", || {
        let others = led_elsewhere(&cluster);
        for group in &others {
            let is_meta = group["meta"] == true;
            let name = if is_meta { "meta".to_owned() } else { group["group"].to_string() };
            // One that has just changed hands may stay where it is for a moment.
            hongqiao(&["cluster", "transfer", &name, "3"], &cluster.node(1).data());
        }
        others.is_empty()
    });
    // Ticks come once a second.
    watcher.expect_silence_for(Duration::from_secs(4));
    let mut short = dial(3).connect();
    assert!(short.connack.present, "the session has ended early");
    assert_eq!(short.expect_publish().text(), "still good");
    expect_queue(&cluster, 3);
}
