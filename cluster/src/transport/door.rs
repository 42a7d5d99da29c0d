//! Two nodes on loopback for `benches/relay.rs` alone; nothing of a node comes through.
//!
//! - Owns: both networks. Takes: requests and casts of the first to the second. Gives: echoes.
//! - Bound: as every link.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};

use super::{
    Class, Desk, LinkError, Network, Served, Service,
    tcp::{Identity, TcpNetwork, VERSIONS, hello::Secret},
};
use crate::id::NodeId;

const TIME_OUT: Duration = Duration::from_secs(10);

/// Answers with what it was asked.
#[derive(Default)]
struct Echo {
    served: AtomicU64,
}

impl Service for Echo {
    fn serve(&self, _from: NodeId, _class: Class, _desk: Desk, body: Bytes) -> Served {
        self.served.fetch_add(1, Ordering::Relaxed);
        async { Ok(body) }.boxed()
    }
}

/// Two nodes that are linked.
pub struct EchoPair {
    one: Arc<TcpNetwork>,
    two: Arc<TcpNetwork>,
    echo: Arc<Echo>,
}

impl EchoPair {
    /// Starts both and waits until they are linked.
    ///
    /// # Errors
    /// When a socket cannot be opened, or the links do not stand within a few seconds.
    pub async fn start() -> io::Result<Self> {
        let echo = Arc::new(Echo::default());
        let identity = |node| Identity {
            node: NodeId(node),
            incarnation: 1,
            secret: Secret::new(b"a secret of benches"),
            versions: VERSIONS,
            instance: rand::random(),
        };
        let one = TcpNetwork::bind("127.0.0.1:0", identity(1)).await?;
        let two = TcpNetwork::bind("127.0.0.1:0", identity(2)).await?;
        for network in [&one, &two] {
            network.set_cluster([1; 16]);
            network.set_service(echo.clone());
        }
        one.set_peers(BTreeMap::from([(NodeId(2), two.listens().to_string())]));
        for _ in 0..500 {
            if one.links().iter().all(|link| link.connected) {
                return Ok(Self { one, two, echo });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Asks the second node.
    pub fn ask(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        self.one.request(NodeId(2), Class::Delivery, Desk::Server, body, TIME_OUT)
    }

    /// Tells the second node.
    ///
    /// # Errors
    /// `Full` until it has taken more.
    pub fn tell(&self, body: Bytes) -> Result<(), LinkError> {
        self.one.cast(NodeId(2), Class::Delivery, Desk::Server, body)
    }

    /// Returns how much the second node has been asked and told.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.echo.served.load(Ordering::Relaxed)
    }
}

impl Drop for EchoPair {
    fn drop(&mut self) {
        self.one.stop();
        self.two.stop();
    }
}
