//! How a test client connects: a CONNECT packet built step by step.
//!
//! - Takes: an endpoint and options. Gives: a `Client`, accepted or refused.

use super::{
    broker::Broker,
    mqtt_client::Client,
    packet::{Connect, Version, Will},
    property::{
        MAXIMUM_PACKET_SIZE, Props, RECEIVE_MAXIMUM, SESSION_EXPIRY, TOPIC_ALIAS_MAXIMUM,
        WILL_DELAY,
    },
    wire::{Tcp, Wire},
    ws_client::Ws,
};

/// A connection to be.
#[derive(Clone)]
pub(crate) struct Dial {
    broker: Broker,
    pub(super) connect: Connect,
    pub(super) auto_ack: bool,
    websocket: bool,
}

impl Dial {
    pub(super) fn new(broker: Broker, version: Version, client_id: &str) -> Self {
        let connect = Connect {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive: 0,
            user: None,
            password: None,
            will: None,
            props: Props::new(),
        };
        Self { broker, connect, auto_ack: true, websocket: false }
    }

    #[must_use]
    pub(crate) fn clean(mut self, clean: bool) -> Self {
        self.connect.clean = clean;
        self
    }

    /// Where it connects to.
    pub(crate) fn broker(&self) -> Broker {
        self.broker
    }

    /// A session that outlives the connection, resumed if it is there.
    #[must_use]
    pub(crate) fn durable(self) -> Self {
        let v5 = self.connect.version == Version::V5;
        let dial = self.clean(false);
        if v5 { dial.expiry(300) } else { dial }
    }

    #[must_use]
    pub(crate) fn expiry(self, secs: u32) -> Self {
        self.number(SESSION_EXPIRY, secs)
    }

    #[must_use]
    pub(crate) fn receive_maximum(self, count: u32) -> Self {
        self.number(RECEIVE_MAXIMUM, count)
    }

    #[must_use]
    pub(crate) fn packet_bytes_max(self, bytes: u32) -> Self {
        self.number(MAXIMUM_PACKET_SIZE, bytes)
    }

    #[must_use]
    pub(crate) fn alias_maximum(self, count: u32) -> Self {
        self.number(TOPIC_ALIAS_MAXIMUM, count)
    }

    #[must_use]
    pub(crate) fn keep_alive(mut self, secs: u16) -> Self {
        self.connect.keep_alive = secs;
        self
    }

    #[must_use]
    pub(crate) fn number(mut self, id: u8, number: u32) -> Self {
        self.connect.props = self.connect.props.number(id, number);
        self
    }

    #[must_use]
    pub(crate) fn text(mut self, id: u8, text: &str) -> Self {
        self.connect.props = self.connect.props.text(id, text);
        self
    }

    /// Changes the properties of CONNECT.
    pub(crate) fn connect_props(&mut self, change: impl FnOnce(Props) -> Props) {
        self.connect.props = change(std::mem::take(&mut self.connect.props));
    }

    #[must_use]
    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        self.connect.user = Some(name.to_owned());
        self.connect.password = Some(password.as_bytes().to_vec());
        self
    }

    #[must_use]
    pub(crate) fn will(self, topic: &str, payload: &str, qos: u8) -> Self {
        self.will_with(Will {
            topic: topic.to_owned(),
            payload: payload.as_bytes().to_vec(),
            qos,
            retain: false,
            props: Props::new(),
        })
    }

    /// The will waits for so long.
    #[must_use]
    pub(crate) fn will_delay(mut self, secs: u32) -> Self {
        let will = self.connect.will.as_mut().expect("a will");
        will.props = std::mem::replace(&mut will.props, Props::new()).number(WILL_DELAY, secs);
        self
    }

    #[must_use]
    pub(crate) fn will_with(mut self, will: Will) -> Self {
        self.connect.will = Some(will);
        self
    }

    /// The test answers PUBLISH and PUBREL itself.
    #[must_use]
    pub(crate) fn manual(mut self) -> Self {
        self.auto_ack = false;
        self
    }

    #[must_use]
    pub(crate) fn websocket(mut self) -> Self {
        self.websocket = true;
        self
    }

    /// The bytes of the CONNECT packet.
    pub(crate) fn connect_bytes(&self) -> Vec<u8> {
        self.connect.encode()
    }

    /// Opens the socket and sends nothing.
    pub(crate) fn open(&self) -> Client {
        let wire: Box<dyn Wire> = if self.websocket {
            let (addr, path) = self.broker.websocket();
            Box::new(Ws::connect(addr, path, Some("mqtt"), None).unwrap())
        } else {
            Box::new(Tcp::connect(self.broker.mqtt()))
        };
        Client::open(wire, self)
    }

    /// Connects; `None` where nobody listens, or the server does not take the client now.
    pub(crate) fn try_connect(&self) -> Option<Client> {
        let mut client = if self.websocket {
            self.open()
        } else {
            Client::open(Box::new(Tcp::try_connect(self.broker.mqtt()).ok()?), self)
        };
        (client.send_raw(&self.connect_bytes()) && client.try_read_connack()).then_some(client)
    }

    /// Connects; accepted or not, the answer is in `Client::connack`.
    pub(crate) fn ask(&self) -> Client {
        let mut client = self.open();
        client.send_raw(&self.connect_bytes());
        client.read_connack();
        client
    }

    /// Connects; the server must accept.
    pub(crate) fn connect(&self) -> Client {
        let client = self.ask();
        assert_eq!(client.connack.code, 0, "refused: {:?}", client.connack);
        client
    }

    /// The server must refuse with one of these codes, session present 0, and close.
    pub(crate) fn expect_refused(&self, codes: &[u8]) {
        let mut client = self.ask();
        let code = client.connack.code;
        assert!(codes.contains(&code), "wanted one of {codes:x?}, got {code:#x}");
        assert!(!client.connack.present);
        client.expect_closed();
    }
}
