//! Wills: MQTT 5.0 sections 3.1.2.5, 3.1.3.2, 3.14; MQTT 3.1.1 section 3.1.2.5.

use std::time::Duration;

use crate::support::{
    broker::{Names, broker},
    dial::Dial,
    mqtt_client::Client,
    packet::{BOTH, Version, Will},
    property::{
        CONTENT_TYPE, CORRELATION_DATA, MESSAGE_EXPIRY, PAYLOAD_FORMAT, Props, RESPONSE_TOPIC,
        SESSION_EXPIRY, WILL_DELAY,
    },
    wait::{let_pass, now},
};

/// A watcher of everything below, and a dial with a will on "will".
fn setup(version: Version, names: &Names) -> (Client, Dial) {
    let mut watcher = broker().dial(version, &names.id("watcher")).connect();
    watcher.subscribe(&names.topic("#"), 2);
    let dial = broker().dial(version, &names.id("mortal")).will(&names.topic("will"), "gone", 1);
    (watcher, dial)
}

/// As `setup` for v5, with a delay in seconds and properties.
fn setup_delayed(names: &Names, delay_secs: u32) -> (Client, Dial) {
    let (watcher, dial) = setup(Version::V5, names);
    let will = Will {
        topic: names.topic("will"),
        payload: b"gone".to_vec(),
        qos: 1,
        retain: false,
        props: Props::new().number(WILL_DELAY, delay_secs),
    };
    (watcher, dial.will_with(will))
}

#[test]
fn will_is_published_when_the_connection_is_cut() {
    for version in BOTH {
        for qos in 0..3 {
            let names = Names::new();
            let (mut watcher, dial) = setup(version, &names);
            let mortal = dial.will(&names.topic("will"), "gone", qos).connect();
            mortal.cut();
            let came = watcher.expect_publish();
            assert_eq!((came.text().as_str(), came.qos, came.retain), ("gone", qos, false));
            watcher.expect_silence();
        }
    }
}

#[test]
fn will_is_dropped_by_a_normal_disconnect() {
    for version in BOTH {
        let names = Names::new();
        let (mut watcher, dial) = setup(version, &names);
        dial.connect().disconnect();
        watcher.expect_silence();
    }
}

#[test]
fn will_is_published_by_disconnect_with_any_other_code() {
    for code in [0x04, 0x80, 0x81, 0x93, 0x99] {
        let names = Names::new();
        let (mut watcher, dial) = setup(Version::V5, &names);
        dial.connect().disconnect_with(code, &Props::new());
        assert_eq!(watcher.expect_publish().text(), "gone", "{code:#x}");
    }
}

#[test]
fn will_is_published_after_a_protocol_error() {
    for version in BOTH {
        let names = Names::new();
        let (mut watcher, dial) = setup(version, &names);
        let mut mortal = dial.connect();
        mortal.send_raw(&dial.connect_bytes());
        mortal.expect_closed();
        assert_eq!(watcher.expect_publish().text(), "gone");
    }
}

#[test]
fn will_is_published_when_keep_alive_runs_out() {
    for version in BOTH {
        let names = Names::new();
        let (mut watcher, dial) = setup(version, &names);
        let mut mortal = dial.keep_alive(1).connect();
        assert_eq!(watcher.expect_publish().text(), "gone");
        mortal.expect_closed();
    }
}

#[test]
fn will_of_the_old_connection_is_published_at_takeover() {
    for version in BOTH {
        for clean in [true, false] {
            let names = Names::new();
            let (mut watcher, dial) = setup(version, &names);
            let dial = if clean { dial } else { dial.durable() };
            let mut old = dial.connect();
            let plain = broker().dial(version, &names.id("mortal"));
            let plain = if clean { plain } else { plain.durable() };
            let new = plain.connect();
            old.expect_closed();
            assert_eq!(watcher.expect_publish().text(), "gone", "{version:?} clean {clean}");
            new.disconnect();
            watcher.expect_silence();
        }
    }
}

#[test]
fn will_with_retain_is_retained() {
    for version in BOTH {
        let names = Names::new();
        let (mut watcher, dial) = setup(version, &names);
        let will = Will {
            topic: names.topic("will"),
            payload: b"kept".to_vec(),
            qos: 1,
            retain: true,
            props: Props::new(),
        };
        dial.will_with(will).connect().cut();
        assert!(!watcher.expect_publish().retain);
        let mut late = broker().dial(version, &names.id("late")).connect();
        late.subscribe(&names.topic("will"), 1);
        let came = late.expect_publish();
        assert!(came.retain && came.text() == "kept");
    }
}

#[test]
fn empty_will_with_retain_deletes() {
    for version in BOTH {
        let names = Names::new();
        let (mut watcher, dial) = setup(version, &names);
        let mut keeper = broker().dial(version, &names.id("keeper")).connect();
        keeper.retain(&names.topic("will"), "kept", 1);
        watcher.expect_publish();
        let will = Will {
            topic: names.topic("will"),
            payload: Vec::new(),
            qos: 1,
            retain: true,
            props: Props::new(),
        };
        dial.will_with(will).connect().cut();
        assert!(watcher.expect_publish().payload.is_empty());
        keeper.subscribe(&names.topic("will"), 1);
        keeper.expect_silence();
    }
}

#[test]
fn will_keeps_its_properties() {
    let names = Names::new();
    let (mut watcher, dial) = setup(Version::V5, &names);
    let props = Props::new()
        .number(WILL_DELAY, 0)
        .number(PAYLOAD_FORMAT, 1)
        .number(MESSAGE_EXPIRY, 1_000)
        .text(CONTENT_TYPE, "last/words")
        .text(RESPONSE_TOPIC, "to/whom")
        .data(CORRELATION_DATA, &[7])
        .user("b", "1")
        .user("a", "2");
    let will = Will {
        topic: names.topic("will"),
        payload: b"gone".to_vec(),
        qos: 2,
        retain: false,
        props,
    };
    dial.will_with(will).connect().cut();
    let came = watcher.expect_publish();
    assert_eq!(came.qos, 2);
    assert_eq!(came.props.get_number(PAYLOAD_FORMAT), Some(1));
    assert!((990..=1_000).contains(&came.props.get_number(MESSAGE_EXPIRY).unwrap()));
    assert_eq!(came.props.get_text(CONTENT_TYPE), Some("last/words"));
    assert_eq!(came.props.get_text(RESPONSE_TOPIC), Some("to/whom"));
    assert_eq!(came.props.get_data(CORRELATION_DATA), Some(&[7][..]));
    assert_eq!(came.props.user_pairs(), [("b", "1"), ("a", "2")]);
    assert!(!came.props.has(WILL_DELAY));
}

#[test]
fn will_delay_holds_the_will_back() {
    let names = Names::new();
    let (mut watcher, dial) = setup_delayed(&names, 2);
    let mortal = dial.expiry(60).connect();
    let start = now();
    mortal.cut();
    assert_eq!(watcher.expect_publish().text(), "gone");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1_500) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn will_delay_ends_with_the_session() {
    // (session expiry, earliest and latest time of the will in ms)
    for (expiry, earliest, latest) in [(0, 0, 1_500), (2, 1_500, 6_000)] {
        let names = Names::new();
        let (mut watcher, dial) = setup_delayed(&names, 600);
        let mortal = dial.expiry(expiry).connect();
        let start = now();
        mortal.cut();
        assert_eq!(watcher.expect_publish().text(), "gone");
        let took = start.elapsed().as_millis();
        assert!((earliest..latest).contains(&took), "expiry {expiry}: {took} ms");
    }
}

#[test]
fn will_delay_is_cancelled_by_a_return_in_time() {
    let names = Names::new();
    let (mut watcher, dial) = setup_delayed(&names, 1);
    dial.clone().expiry(60).connect().cut();
    let back = broker().v5(&names.id("mortal")).clean(false).expiry(60).connect();
    assert!(back.connack.present);
    watcher.expect_silence_for(Duration::from_millis(2_500));
    back.disconnect();
    watcher.expect_silence();
}

#[test]
fn will_delay_is_ended_by_a_clean_start() {
    let names = Names::new();
    let (mut watcher, dial) = setup_delayed(&names, 600);
    dial.expiry(60).connect().cut();
    let new = broker().v5(&names.id("mortal")).clean(true).expiry(60).connect();
    assert!(!new.connack.present);
    assert_eq!(watcher.expect_publish().text(), "gone");
}

#[test]
fn will_delay_holds_at_takeover_of_a_session_that_goes_on() {
    let names = Names::new();
    let (mut watcher, dial) = setup_delayed(&names, 1);
    let dial = dial.clean(false).expiry(60);
    let mut old = dial.connect();
    let _new = broker().v5(&names.id("mortal")).clean(false).expiry(60).connect();
    old.expect_disconnect(&[0x8E]);
    watcher.expect_silence_for(Duration::from_millis(2_500));
}

#[test]
fn will_delay_holds_after_disconnect_with_will() {
    let names = Names::new();
    let (mut watcher, dial) = setup_delayed(&names, 2);
    let mortal = dial.expiry(60).connect();
    let start = now();
    mortal.disconnect_with(0x04, &Props::new());
    assert_eq!(watcher.expect_publish().text(), "gone");
    assert!(start.elapsed() >= Duration::from_millis(1_500));
}

#[test]
fn will_delay_follows_a_session_expiry_changed_by_disconnect() {
    let names = Names::new();
    let (mut watcher, dial) = setup_delayed(&names, 600);
    let mortal = dial.expiry(60).connect();
    mortal.disconnect_with(0x04, &Props::new().number(SESSION_EXPIRY, 0));
    assert_eq!(watcher.expect_publish().text(), "gone");
}

#[test]
fn will_is_queued_for_an_absent_durable_session() {
    for version in BOTH {
        let names = Names::new();
        let away = broker().dial(version, &names.id("away")).durable();
        let mut client = away.connect();
        client.subscribe(&names.topic("will"), 1);
        client.disconnect();
        let (mut watcher, dial) = setup(version, &names);
        dial.connect().cut();
        watcher.expect_publish();
        assert_eq!(away.connect().expect_publish().text(), "gone");
    }
}

#[test]
fn will_reaches_its_own_client_after_it_returns() {
    let names = Names::new();
    let dial = broker().v5(&names.id("mortal")).durable();
    let mut client = dial.clone().will(&names.topic("will"), "mine", 1).connect();
    client.subscribe(&names.topic("will"), 1);
    client.cut();
    let_pass(Duration::from_millis(200));
    assert_eq!(dial.connect().expect_publish().text(), "mine");
}

#[test]
fn will_is_replaced_by_the_one_of_the_next_connection() {
    let names = Names::new();
    let (mut watcher, dial) = setup(Version::V5, &names);
    dial.clone().durable().connect().disconnect();
    let second = dial.durable().will(&names.topic("will"), "second", 1).connect();
    assert!(second.connack.present);
    second.cut();
    assert_eq!(watcher.expect_publish().text(), "second");
    watcher.expect_silence();
}

#[test]
fn will_of_a_connection_without_one_is_not_inherited() {
    let names = Names::new();
    let (mut watcher, dial) = setup(Version::V5, &names);
    dial.durable().connect().disconnect();
    broker().v5(&names.id("mortal")).durable().connect().cut();
    watcher.expect_silence();
}
