//! A slow reader or a flood costs bounded memory and nobody else's service. Promise BOUNDED.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    delivery::load::Pipeline,
    support::{
        broker::Broker,
        http_client::metric,
        mqtt_client::message,
        node::Node,
        packet::{Publish, Version},
        process::resident_kib,
        wait::{let_pass, now, wait_until, wait_until_within},
    },
};

/// One round trip of a fresh client through publish and delivery.
fn service_time(broker: Broker) -> Duration {
    let start: Instant = now();
    let mut client = broker.v5("healthy").connect();
    client.subscribe("healthy", 1);
    client.publish("healthy", "x", 1);
    client.expect_publish();
    start.elapsed()
}

fn assert_served(broker: Broker) {
    let took = service_time(broker);
    assert!(took < Duration::from_secs(1), "a healthy client waited {took:?}");
}

#[test]
fn qos0_for_a_reader_that_stands_still_is_dropped_for_it_alone() {
    let _turn = super::alone();
    let node = Node::start();
    let broker = node.broker();
    let mut stuck = broker.v5("stuck").connect();
    stuck.subscribe("flood/#", 0);
    let mut reader = broker.v5("reader").connect();
    reader.subscribe("flood/#", 0);
    let mut from = broker.v5("from").connect();
    let before = resident_kib(node.pid());
    let payload = vec![b'x'; 32 * 1024];
    // 128 MiB; the reader keeps up because the sender waits for it now and then.
    for n in 0..4_096 {
        from.send_publish(Publish { payload: payload.clone(), ..message("flood/a", "", 0) });
        if n % 32 == 31 {
            for _ in 0..32 {
                reader.expect_publish();
            }
        }
    }
    assert_served(broker);
    let grown = resident_kib(node.pid()).saturating_sub(before) / 1_024;
    assert!(grown < 64, "{grown} MiB for one slow reader");
    if broker.ours {
        let dropped = metric(broker.http(), "hongqiao_messages_dropped_total{cause=\"slow\"}");
        assert!(dropped.unwrap_or(0.0) > 0.0, "drops are counted");
    }
    // It reads again: the rest of the queue, then what is new.
    from.publish_with(message("flood/end", "end", 1));
    drop(from);
    let mut seen = 0;
    loop {
        let came = stuck.expect_publish();
        if came.topic == "flood/end" {
            break;
        }
        seen += 1;
        if seen % 512 == 0 {
            broker.v5("from").connect().publish("flood/end", "end", 0);
        }
    }
    assert!(seen < 4_096);
}

#[test]
fn qos1_beyond_the_queue_ends_a_session_that_is_not_durable() {
    let node = Node::start_with(&[("limits.outbound_messages_max", "500")]);
    let broker = node.broker();
    if !broker.ours {
        return;
    }
    let mut stuck = broker.v5("stuck").receive_maximum(10).manual().connect();
    stuck.subscribe("flood", 1);
    let mut from = Pipeline::new(&broker.v5("from"), 50);
    for n in 0..1_000 {
        assert!(from.send(message("flood", &n.to_string(), 1)), "the publisher is not to blame");
    }
    assert!(from.finish());
    stuck.expect_disconnect(&[0x97]);
    assert_served(broker);
}

#[test]
fn durable_backlog_of_a_slow_reader_stays_out_of_memory_and_is_delivered() {
    let _turn = super::alone();
    let node = Node::start_with(&[
        ("storage.durability", "os"),
        ("storage.cache_bytes", "16 MiB"),
        ("storage.checkpoint_bytes", "8 MiB"),
        ("quotas.session_bytes_max", "1 GiB"),
    ]);
    let broker = node.broker();
    let mut stuck = broker.v5("stuck").durable().connect();
    stuck.subscribe("flood", 1);
    let before = resident_kib(node.pid());
    let mut from = Pipeline::new(&broker.v5("from"), 50);
    const COUNT: usize = 16_000;
    for n in 0..COUNT {
        let mut payload = n.to_string().into_bytes();
        payload.resize(16 * 1024, b' ');
        assert!(from.send(Publish { payload, ..message("flood", "", 1) }));
        if n % 1_000 == 999 {
            assert_served(broker);
            // A checkpoint is due each second: what is measured is the rest, not the burst.
            let_pass(Duration::from_millis(1_100));
        }
    }
    assert!(from.finish());
    // The allocator gives pages back a second after they were freed, and only while something goes on.
    wait_until("less than 180 MiB resident for 250 MiB of backlog", || {
        assert_served(broker);
        let grown = resident_kib(node.pid()).saturating_sub(before) / 1_024;
        !broker.ours || grown < 180
    });
    for n in 0..COUNT {
        assert_eq!(stuck.expect_publish().text().trim_end(), n.to_string());
    }
}

#[test]
fn flood_of_publishers_leaves_others_served() {
    let _turn = super::alone();
    let node = Node::start();
    let broker = node.broker();
    let before = resident_kib(node.pid());
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..6)
        .map(|n| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut client = broker.v5(&format!("flood{n}")).connect();
                let bytes =
                    message("flood/x", &"x".repeat(1_000), 0).encode(Version::V5).repeat(16);
                while !stop.load(Ordering::Relaxed) && client.send_raw(&bytes) {}
            })
        })
        .collect();
    let mut worst = Duration::ZERO;
    for _ in 0..10 {
        worst = worst.max(service_time(broker));
    }
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    assert!(worst < Duration::from_secs(1), "a healthy client waited {worst:?}");
    let grown = resident_kib(node.pid()).saturating_sub(before) / 1_024;
    assert!(grown < 96, "{grown} MiB for a flood");
}

#[test]
fn publisher_that_never_reads_its_acknowledgements_is_held_back() {
    let _turn = super::alone();
    let node = Node::start_with(&[("storage.durability", "os")]);
    let broker = node.broker();
    let before = resident_kib(node.pid());
    let client = broker.v4("deaf").connect();
    let flood = std::thread::spawn(move || {
        let mut client = client;
        let start = now();
        let publish = Publish { id: 9, ..message("x", &"x".repeat(200), 1) };
        let bytes = publish.encode(Version::V4).repeat(32);
        client.wire().socket().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        while start.elapsed() < Duration::from_secs(5) && client.send_raw(&bytes) {}
    });
    while !flood.is_finished() {
        assert_served(broker);
        crate::support::wait::let_pass(Duration::from_millis(300));
    }
    flood.join().unwrap();
    let grown = resident_kib(node.pid()).saturating_sub(before) / 1_024;
    assert!(grown < 96, "{grown} MiB for a deaf publisher");
}

#[test]
fn connections_that_come_and_go_leave_no_memory_behind() {
    let _turn = super::alone();
    let node = Node::start_with(&[("storage.durability", "os")]);
    let broker = node.broker();
    let mut after = Vec::new();
    for _ in 0..3 {
        for batch in 0..10 {
            let clients: Vec<_> = (0..200)
                .map(|n| {
                    let mut client = broker.v5(&format!("c{batch}-{n}")).connect();
                    client.subscribe(&format!("t/{batch}/{n}"), 1);
                    client
                })
                .collect();
            drop(clients);
        }
        if broker.ours {
            wait_until_within(Duration::from_secs(20), "all connections are gone", || {
                metric(broker.http(), "hongqiao_connections ") == Some(0.0)
            });
        }
        after.push(resident_kib(node.pid()) / 1_024);
    }
    assert!(after[2] <= after[0] + 12, "MiB after each round: {after:?}");
}
