//! rumqttc, a Rust client of other people, in both versions.

use std::{collections::VecDeque, time::Duration};

use rumqttc::{Client, Connection, Event, LastWill, MqttOptions, Packet, QoS};

use crate::support::{
    broker::{Names, broker},
    wait::PATIENCE,
};

/// A client and the connection it drives, stepped by the test.
struct Peer {
    client: Client,
    connection: Connection,
    messages: VecDeque<rumqttc::Publish>,
    session_present: bool,
}

impl Peer {
    fn connect(options: MqttOptions) -> Self {
        let (client, connection) = Client::new(options, 20_000);
        let mut peer =
            Self { client, connection, messages: VecDeque::new(), session_present: false };
        let mut present = None;
        peer.step_until(|packet| {
            if let Packet::ConnAck(connack) = packet {
                present = Some(connack.session_present);
            }
            present.is_some()
        });
        peer.session_present = present.unwrap();
        peer
    }

    /// Drives the connection until a packet is the one; publishes are kept.
    fn step_until(&mut self, mut done: impl FnMut(&Packet) -> bool) {
        loop {
            let event = self.connection.recv_timeout(PATIENCE).expect("an event in time").unwrap();
            let Event::Incoming(packet) = event else { continue };
            if let Packet::Publish(publish) = &packet {
                self.messages.push_back(publish.clone());
            }
            if done(&packet) {
                return;
            }
        }
    }

    fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.client.subscribe(filter, qos).unwrap();
        self.step_until(|packet| matches!(packet, Packet::SubAck(_)));
    }

    fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS, retain: bool) {
        self.client.publish(topic, qos, retain, payload).unwrap();
        self.step_until(|packet| match qos {
            QoS::AtMostOnce => true,
            QoS::AtLeastOnce => matches!(packet, Packet::PubAck(_)),
            QoS::ExactlyOnce => matches!(packet, Packet::PubComp(_)),
        });
    }

    fn next(&mut self) -> rumqttc::Publish {
        while self.messages.is_empty() {
            self.step_until(|packet| matches!(packet, Packet::Publish(_)));
        }
        self.messages.pop_front().unwrap()
    }

    /// DISCONNECT, driven until the connection has ended.
    fn disconnect(mut self) {
        self.client.disconnect().unwrap();
        while let Ok(Ok(_)) = self.connection.recv_timeout(Duration::from_secs(2)) {}
    }
}

fn options(id: &str, clean: bool) -> MqttOptions {
    let mut options = MqttOptions::new(id, "127.0.0.1", broker().mqtt().port());
    options.set_clean_session(clean).set_inflight(60).set_max_packet_size(3 << 20, 3 << 20);
    options
}

#[test]
fn session_of_rumqttc_is_replayed_in_order() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut away = Peer::connect(options(&names.id("away"), false));
    assert!(!away.session_present);
    away.subscribe(&topic, QoS::ExactlyOnce);
    away.disconnect();
    let mut from = Peer::connect(options(&names.id("from"), true));
    for n in 0..100 {
        let qos = if n < 50 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        from.publish(&topic, n.to_string().as_bytes(), qos, false);
    }
    let mut away = Peer::connect(options(&names.id("away"), false));
    assert!(away.session_present);
    for n in 0..100 {
        assert_eq!(away.next().payload, n.to_string().as_bytes());
    }
}

#[test]
fn will_retained_and_large_messages_of_rumqttc_arrive() {
    let names = Names::new();
    let (will, kept) = (names.topic("will"), names.topic("kept"));
    let mut watcher = Peer::connect(options(&names.id("watcher"), true));
    watcher.subscribe(&will, QoS::AtLeastOnce);
    let mut mortal = options(&names.id("mortal"), true);
    mortal.set_last_will(LastWill::new(&will, "gone", QoS::AtLeastOnce, false));
    drop(Peer::connect(mortal));
    assert_eq!(&watcher.next().payload[..], b"gone");
    let payload: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    watcher.publish(&kept, &payload, QoS::ExactlyOnce, true);
    watcher.subscribe(&kept, QoS::ExactlyOnce);
    let came = watcher.next();
    assert!(came.retain && came.payload[..] == payload[..]);
    watcher.publish(&kept, b"", QoS::AtLeastOnce, true);
}

#[test]
fn burst_of_rumqttc_arrives_in_order() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut to = Peer::connect(options(&names.id("to"), true));
    to.subscribe(&topic, QoS::AtLeastOnce);
    let from = options(&names.id("from"), true);
    let sender = std::thread::spawn(move || {
        let mut from = Peer::connect(from);
        for n in 0..10_000 {
            from.client.try_publish(&topic, QoS::AtLeastOnce, false, n.to_string()).unwrap();
        }
        let mut acked = 0;
        from.step_until(|packet| {
            acked += usize::from(matches!(packet, Packet::PubAck(_)));
            acked == 10_000
        });
    });
    for n in 0..10_000 {
        assert_eq!(to.next().payload, n.to_string().as_bytes());
    }
    sender.join().unwrap();
}

mod v5 {
    //! The same crate's MQTT 5.0 client: properties and shared subscriptions.

    use rumqttc::v5::{
        Client, Connection, Event, Incoming, MqttOptions,
        mqttbytes::{QoS, v5::PublishProperties},
    };

    use crate::support::{
        broker::{Names, broker},
        wait::PATIENCE,
    };

    fn connect(id: &str) -> (Client, Connection) {
        let options = MqttOptions::new(id, "127.0.0.1", broker().mqtt().port());
        let (client, mut connection) = Client::new(options, 100);
        step_until(&mut connection, |packet| matches!(packet, Incoming::ConnAck(_)));
        (client, connection)
    }

    fn step_until(connection: &mut Connection, mut done: impl FnMut(&Incoming) -> bool) {
        loop {
            let event = connection.recv_timeout(PATIENCE).expect("an event in time").unwrap();
            if let Event::Incoming(packet) = event
                && done(&packet)
            {
                return;
            }
        }
    }

    #[test]
    fn properties_of_rumqttc_come_back_through_a_shared_subscription() {
        let names = Names::new();
        let topic = names.topic("a");
        let (client, mut connection) = connect(&names.id("v5"));
        client.subscribe(format!("$share/g/{topic}"), QoS::ExactlyOnce).unwrap();
        step_until(&mut connection, |packet| matches!(packet, Incoming::SubAck(_)));
        let properties = PublishProperties {
            content_type: Some("text/plain".to_owned()),
            response_topic: Some("answer/here".to_owned()),
            user_properties: vec![("b".into(), "1".into()), ("a".into(), "2".into())],
            ..PublishProperties::default()
        };
        let sent = properties.clone();
        client.publish_with_properties(&topic, QoS::ExactlyOnce, false, "body", sent).unwrap();
        let mut came = None;
        step_until(&mut connection, |packet| {
            if let Incoming::Publish(publish) = packet {
                came = Some(publish.clone());
            }
            came.is_some()
        });
        let came = came.unwrap();
        assert_eq!(&came.payload[..], b"body");
        let got = came.properties.unwrap();
        assert_eq!(got.content_type, properties.content_type);
        assert_eq!(got.response_topic, properties.response_topic);
        assert_eq!(got.user_properties, properties.user_properties);
    }
}
