//! Keep alive: MQTT 5.0 sections 3.1.2.10, 3.2.2.3.14, 3.12.

use std::time::Duration;

use crate::support::{
    broker::{Names, broker},
    mqtt_client::message,
    packet::BOTH,
    property::SERVER_KEEP_ALIVE,
    wait::{let_pass, now},
};

#[test]
fn silent_client_is_closed_after_one_and_a_half_times_keep_alive() {
    for version in BOTH {
        let names = Names::new();
        let mut client = broker().dial(version, &names.id("silent")).keep_alive(2).connect();
        let secs = client.connack.props.get_number(SERVER_KEEP_ALIVE).unwrap_or(2);
        let start = now();
        client.expect_disconnect(&[0x8D]);
        let took = start.elapsed().as_millis();
        let due = u128::from(secs) * 1_500;
        assert!(took + 200 >= due && took < due + 4_000, "{took} ms of {due}");
    }
}

#[test]
fn keep_alive_of_zero_never_closes() {
    for version in BOTH {
        let mut client = broker().dial(version, &Names::new().id("zero")).keep_alive(0).connect();
        let_pass(Duration::from_secs(3));
        client.ping();
    }
}

#[test]
fn any_packet_from_the_client_counts() {
    for version in BOTH {
        let names = Names::new();
        // Closed after 4.5 s without a packet; a client on a loaded machine is late as well.
        let mut client = broker().dial(version, &names.id("busy")).keep_alive(3).connect();
        for n in 0..5 {
            let_pass(Duration::from_millis(1_500));
            if n % 2 == 0 {
                client.publish(&names.topic("a"), "x", 0);
            } else {
                client.ping();
            }
        }
        client.ping();
    }
}

#[test]
fn what_the_server_sends_does_not_count() {
    let names = Names::new();
    let mut deaf = broker().v5(&names.id("deaf")).keep_alive(1).manual().connect();
    deaf.subscribe(&names.topic("a"), 0);
    let mut from = broker().v5(&names.id("from")).connect();
    let start = now();
    while start.elapsed() < Duration::from_secs(4) {
        from.send_publish(message(&names.topic("a"), "x", 0));
        let_pass(Duration::from_millis(200));
    }
    deaf.expect_disconnect(&[0x8D]);
}

#[test]
fn half_a_packet_does_not_count() {
    let names = Names::new();
    let mut client = broker().v5(&names.id("half")).keep_alive(1).connect();
    let start = now();
    let bytes = message(&names.topic("a"), "a payload in small pieces", 0)
        .encode(crate::support::packet::Version::V5);
    // One byte every 300 ms; the packet would be whole only after the time is up.
    for byte in bytes.iter().take(14) {
        if !client.send_raw(&[*byte]) {
            break;
        }
        let_pass(Duration::from_millis(300));
    }
    client.expect_closed();
    assert!(start.elapsed() < Duration::from_secs(7));
}

#[test]
fn ping_is_answered_at_once_and_each_time() {
    for version in BOTH {
        let mut client = broker().dial(version, &Names::new().id("ping")).connect();
        for _ in 0..50 {
            client.ping();
        }
        client.send_raw(&[0xC0, 0].repeat(50));
        for _ in 0..50 {
            assert_eq!(client.expect_next(), crate::support::packet::Packet::Pingresp);
        }
    }
}

#[test]
fn without_a_limit_every_keep_alive_is_granted() {
    for secs in [0, 1, 65_535] {
        let client = broker().v5(&Names::new().id("asks")).keep_alive(secs).connect();
        assert_eq!(client.connack.props.get_number(SERVER_KEEP_ALIVE), None, "{secs} s asked");
    }
}
