//! The broker under test: the addresses of a node of ours, or of a foreign one.
//!
//! - Owns: the node that all conformance tests of a process share.
//! - Takes: `HONGQIAO_TEST_BROKER`: unset (our own binary), `mosquitto` (an installed one is started),
//!   or `HOST:PORT` of any running broker.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::OnceLock,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{dial::Dial, node::Node, packet::Version};

/// Where a broker listens. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broker {
    mqtt: SocketAddr,
    http: Option<SocketAddr>,
    websocket_path: &'static str,
    /// One of ours; else tests of our own choices are passed over.
    pub(crate) ours: bool,
}

impl Broker {
    pub(super) fn new(mqtt: SocketAddr, http: Option<SocketAddr>, ours: bool) -> Self {
        Self { mqtt, http, websocket_path: if ours { "/mqtt" } else { "/" }, ours }
    }

    pub(crate) fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.http.unwrap()
    }

    pub(crate) fn websocket(&self) -> (SocketAddr, &'static str) {
        (self.http.unwrap(), self.websocket_path)
    }

    pub(crate) fn v4(&self, client_id: &str) -> Dial {
        self.dial(Version::V4, client_id)
    }

    pub(crate) fn v5(&self, client_id: &str) -> Dial {
        self.dial(Version::V5, client_id)
    }

    pub(crate) fn dial(&self, version: Version, client_id: &str) -> Dial {
        Dial::new(*self, version, client_id)
    }
}

/// Returns the foreign broker that the environment asks for.
pub(crate) fn foreign() -> Option<String> {
    std::env::var("HONGQIAO_TEST_BROKER").ok().filter(|name| !name.is_empty())
}

/// Returns the broker that all conformance tests of this process share.
pub(crate) fn broker() -> Broker {
    static SHARED: OnceLock<(Broker, Option<Node>)> = OnceLock::new();
    let (broker, _) = SHARED.get_or_init(|| match foreign().as_deref() {
        None | Some("mosquitto") => {
            let node = Node::shared();
            (node.broker(), Some(node))
        }
        Some(address) => {
            let addr = address.to_socket_addrs().unwrap().next().unwrap();
            (Broker::new(addr, None, false), None)
        }
    });
    *broker
}

/// Names that no other test uses, so that all can share a broker.
pub(crate) struct Names(String);

impl Names {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("t{}-{count}", std::process::id()))
    }

    /// A client id.
    pub(crate) fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.0)
    }

    /// A topic or filter below a first level of its own.
    pub(crate) fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.0)
    }
}
