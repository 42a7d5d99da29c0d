//! Order of messages: MQTT 5.0 section 4.6. Promise ORDER.

use crate::support::{
    broker::{Broker, Names, broker},
    mqtt_client::{Client, message},
    packet::{AckKind, BOTH, Version},
    property::RECEIVE_MAXIMUM,
};

/// Sends numbers without waiting, inside the window of the server.
struct Stream {
    client: Client,
    topic: String,
    qos: u8,
    open: std::collections::VecDeque<u16>,
    window: usize,
    next: u32,
}

impl Stream {
    fn new(broker: Broker, id: &str, topic: &str, qos: u8) -> Self {
        let client = broker.v5(id).connect();
        let maximum = client.connack.props.get_number(RECEIVE_MAXIMUM).unwrap_or(65_535);
        let window = maximum.min(50) as usize;
        Self { client, topic: topic.to_owned(), qos, open: [].into(), window, next: 0 }
    }

    fn send(&mut self, count: u32) {
        for _ in 0..count {
            while self.open.len() >= self.window {
                self.finish_one();
            }
            let publish = message(&self.topic, &self.next.to_string(), self.qos);
            let id = self.client.send_publish(publish);
            if self.qos > 0 {
                self.open.push_back(id);
            }
            self.next += 1;
        }
    }

    fn finish_one(&mut self) {
        let Some(id) = self.open.pop_front() else { return };
        if self.qos == 1 {
            assert!(self.client.expect_ack(AckKind::Puback, id) < 0x80);
        } else {
            assert!(self.client.expect_ack(AckKind::Pubrec, id) < 0x80);
            self.client.ack(AckKind::Pubrel, id);
            self.client.expect_ack(AckKind::Pubcomp, id);
        }
    }

    fn finish(&mut self) {
        while !self.open.is_empty() {
            self.finish_one();
        }
        self.client.ping();
    }
}

fn expect_numbers(client: &mut Client, from: u32, to: u32) {
    for wanted in from..to {
        assert_eq!(client.expect_publish().text(), wanted.to_string());
    }
}

#[test]
fn live_messages_of_one_publisher_keep_their_order() {
    for version in BOTH {
        for qos in 0..3 {
            let names = Names::new();
            let topic = names.topic("a");
            let mut to = broker().dial(version, &names.id("to")).connect();
            to.subscribe(&topic, qos);
            let mut stream = Stream::new(broker(), &names.id("from"), &topic, qos);
            stream.send(500);
            stream.finish();
            expect_numbers(&mut to, 0, 500);
        }
    }
}

#[test]
fn messages_of_one_publisher_keep_their_order_for_wildcards_and_many_topics() {
    let names = Names::new();
    let mut to = broker().v5(&names.id("to")).connect();
    to.subscribe(&names.topic("#"), 1);
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..200 {
        from.send_publish(message(&names.topic(&format!("{}", n % 9)), &n.to_string(), 0));
    }
    let mut last = [-1; 9];
    for _ in 0..200 {
        let came = to.expect_publish();
        let number: i32 = came.text().parse().unwrap();
        let lane = (number % 9) as usize;
        assert!(number > last[lane], "{number} after {}", last[lane]);
        last[lane] = number;
    }
}

#[test]
fn backlog_and_live_messages_join_without_gap_or_overlap() {
    for qos in 1..3 {
        let names = Names::new();
        let topic = names.topic("a");
        let dial = broker().v5(&names.id("to")).durable().receive_maximum(20);
        let mut to = dial.connect();
        to.subscribe(&topic, qos);
        to.disconnect();
        let mut stream = Stream::new(broker(), &names.id("from"), &topic, qos);
        stream.send(300);
        // The subscriber returns in the middle of the stream.
        let mut to = dial.connect();
        stream.send(300);
        stream.finish();
        expect_numbers(&mut to, 0, 600);
        to.expect_silence();
    }
}

#[test]
fn takeovers_under_load_keep_order_and_lose_nothing() {
    let names = Names::new();
    let topic = names.topic("a");
    let dial = broker().v5(&names.id("to")).durable().receive_maximum(30);
    let mut to = dial.connect();
    to.subscribe(&topic, 1);
    let mut stream = Stream::new(broker(), &names.id("from"), &topic, 1);
    let mut next = 0;
    for _ in 0..8 {
        stream.send(100);
        // Take some, then be taken over by oneself with the rest under way.
        for _ in 0..40 {
            next = follow(&mut to, next);
        }
        to = dial.connect();
        assert!(to.connack.present);
    }
    stream.finish();
    while next < 800 {
        next = follow(&mut to, next);
    }
    to.expect_silence();
}

/// Reads one message: the next number, or one already seen that carries DUP.
fn follow(client: &mut Client, next: u32) -> u32 {
    let came = client.expect_publish();
    let number: u32 = came.text().parse().unwrap();
    if number == next {
        return next + 1;
    }
    assert!(number < next && came.dup, "{number} where {next} was due");
    next
}

#[test]
fn two_publishers_each_keep_their_order() {
    let names = Names::new();
    let topic = names.topic("a");
    let mut to = broker().dial(Version::V4, &names.id("to")).connect();
    to.subscribe(&topic, 2);
    let mut streams: Vec<Stream> = (1..3)
        .map(|qos| Stream::new(broker(), &names.id(&format!("from{qos}")), &topic, qos))
        .collect();
    for _ in 0..20 {
        for stream in &mut streams {
            stream.send(10);
        }
    }
    for stream in &mut streams {
        stream.finish();
    }
    let mut next = [0u32; 3];
    for _ in 0..400 {
        let came = to.expect_publish();
        let lane = usize::from(came.qos);
        assert_eq!(came.text(), next[lane].to_string());
        next[lane] += 1;
    }
}

#[test]
fn small_window_keeps_order() {
    for qos in 1..3 {
        let names = Names::new();
        let topic = names.topic("a");
        let mut to = broker().v5(&names.id("to")).receive_maximum(1).connect();
        to.subscribe(&topic, qos);
        let mut stream = Stream::new(broker(), &names.id("from"), &topic, qos);
        stream.send(200);
        stream.finish();
        expect_numbers(&mut to, 0, 200);
    }
}
