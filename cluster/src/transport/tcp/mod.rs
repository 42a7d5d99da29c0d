//! Links over TCP: one connection per peer, class and direction of asking.
//!
//! ```text
//! caller ─▶ link (window, queue) ─▶ dial: connect, greet, pipe ═══════▶ accept: greet, seat
//!             ▲                                                             │
//!             └────────── answers ◀═══════════ pipe ◀── answers ◀── serve ◀─┘ ─▶ Service
//! ```
//!
//! - Owns: the listening socket and every connection; all end with [`TcpNetwork::stop`].
//! - Takes: requests of any thread, peers and their addresses. Gives: what `Network` promises.
//! - Bound: three connections out and three in per peer; windows per link; handshakes at a time.
//! - Knows no actix and starts no thread: everything runs on the runtime that it is given.
//! - Source: own design.

pub(crate) mod frame;
pub(crate) mod hello;
mod greet;
mod quiet;
mod registry;
mod link;
mod news;
mod pipe;
mod serve;
mod accept;
mod dial;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{oneshot, watch},
    task::{AbortHandle, JoinHandle},
};

pub(crate) use self::greet::Identity;
use self::{link::Link, news::News, quiet::Quiet, registry::Registry};
use super::{Class, ClusterId, Desk, LinkError, LinkState, Network, Service, reply};
use crate::{id::NodeId, limits::FRAME_BYTES_MAX};

/// Oldest and newest protocol version of this release. A release speaks that of the one before too.
pub(crate) const VERSIONS: (u16, u16) =
    if cfg!(feature = "bumped-protocol") { (1, 2) } else { (1, 1) };

/// What the tasks of a network share.
struct Inner {
    identity: ArcSwap<Identity>,
    cluster: RwLock<Option<ClusterId>>,
    /// Nodes that are let in no more.
    removed: RwLock<BTreeSet<NodeId>>,
    /// A peer has said that this node is one of those.
    told_removed: watch::Sender<bool>,
    service: RwLock<Option<Arc<dyn Service>>>,
    registry: Arc<Registry>,
    quiet: Quiet,
}

impl Inner {
    fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.read()
    }

    fn service(&self) -> Option<Arc<dyn Service>> {
        self.service.read().clone()
    }
}

/// One peer: its links, and where they get its address from.
struct Peer {
    address: watch::Sender<String>,
    links: [Arc<Link>; 3],
    tasks: [JoinHandle<()>; 3],
}

/// The links of one node over TCP.
pub(crate) struct TcpNetwork {
    inner: Arc<Inner>,
    runtime: Handle,
    listens: SocketAddr,
    accepts: AbortHandle,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// The links of `peers`, for callers on any thread.
    links: ArcSwap<HashMap<NodeId, [Arc<Link>; 3]>>,
}

impl TcpNetwork {
    /// Listens for peers. They are refused until service and cluster are known.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) async fn bind(address: &str, identity: Identity) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind(address).await?;
        let listens = listener.local_addr()?;
        let inner = Arc::new(Inner {
            identity: ArcSwap::from_pointee(identity),
            cluster: RwLock::default(),
            removed: RwLock::default(),
            told_removed: watch::Sender::default(),
            service: RwLock::default(),
            registry: Arc::default(),
            quiet: Quiet::default(),
        });
        let accepts = tokio::spawn(accept::accept_all(listener, inner.clone())).abort_handle();
        Ok(Arc::new(Self {
            inner,
            runtime: Handle::current(),
            listens,
            accepts,
            peers: Mutex::default(),
            links: ArcSwap::default(),
        }))
    }

    /// Returns where it listens, with the port that was really taken.
    pub(crate) fn listens(&self) -> SocketAddr {
        self.listens
    }

    fn with_link<T>(
        &self,
        to: NodeId,
        class: Class,
        act: impl FnOnce(&Link) -> Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        let links = self.links.load();
        let links = links.get(&to).ok_or(LinkError::Unreachable)?;
        act(&links[class as usize - 1])
    }

    fn start_peer(&self, peer: NodeId, address: &str) -> Peer {
        let sender = watch::Sender::new(address.to_owned());
        let links = Class::ALL.map(|class| Arc::new(Link::new(peer, class, address.to_owned())));
        let news = Arc::new(News::of(peer));
        let tasks = links.each_ref().map(|link| {
            let keep =
                dial::keep(link.clone(), self.inner.clone(), news.clone(), sender.subscribe());
            self.runtime.spawn(keep)
        });
        Peer { address: sender, links, tasks }
    }
}

impl Network for TcpNetwork {
    fn set_service(&self, service: Arc<dyn Service>) {
        *self.inner.service.write() = Some(service);
    }

    fn set_cluster(&self, cluster: ClusterId) {
        *self.inner.cluster.write() = Some(cluster);
    }

    fn set_peers(&self, mut addresses: BTreeMap<NodeId, String>) {
        addresses.remove(&self.inner.identity.load().node);
        let mut peers = self.peers.lock();
        // Those whose address is gone end by themselves.
        peers.retain(|node, _| addresses.contains_key(node));
        for (node, address) in addresses {
            match peers.get(&node) {
                Some(peer) => {
                    peer.address.send_if_modified(|old| {
                        let is_new = *old != address;
                        *old = address;
                        is_new
                    });
                }
                None => {
                    peers.insert(node, self.start_peer(node, &address));
                }
            }
        }
        let links = peers.iter().map(|(node, peer)| (*node, peer.links.clone()));
        self.links.store(Arc::new(links.collect()));
    }

    fn set_removed(&self, removed: BTreeSet<NodeId>) {
        let old = std::mem::replace(&mut *self.inner.removed.write(), removed.clone());
        removed.difference(&old).for_each(|node| self.inner.registry.evict(*node));
    }

    fn removed(&self) -> watch::Receiver<bool> {
        self.inner.told_removed.subscribe()
    }

    fn set_node(&self, node: NodeId) {
        let identity = Identity { node, ..Identity::clone(&self.inner.identity.load()) };
        self.inner.identity.store(Arc::new(identity));
    }

    fn resolve(&self, address: String) -> BoxFuture<'static, Vec<String>> {
        let resolving = self.runtime.spawn(dial::resolve(address));
        Box::pin(async move { resolving.await.unwrap_or_default() })
    }

    fn request(
        &self,
        to: NodeId,
        class: Class,
        desk: Desk,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let (tell, told) = oneshot::channel();
        match self.with_link(to, class, |link| link.ask(desk, body, time_out, tell)) {
            Ok(()) => reply::within(told, time_out, &self.runtime),
            Err(why) => reply::refused(why),
        }
    }

    fn cast(&self, to: NodeId, class: Class, desk: Desk, body: Bytes) -> Result<(), LinkError> {
        self.with_link(to, class, |link| link.cast(desk, body))
    }

    fn knock(
        &self,
        address: String,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        if body.len() > FRAME_BYTES_MAX {
            return reply::refused(LinkError::TooLong);
        }
        let (tell, told) = oneshot::channel();
        let knock = dial::knock(self.inner.clone(), address, body, time_out);
        self.runtime.spawn(async move {
            let limited = tokio::time::timeout(time_out, knock).await;
            let _ = tell.send(limited.unwrap_or(Err(LinkError::TimedOut)));
        });
        Box::pin(async move { told.await.unwrap_or(Err(LinkError::Lost)) })
    }

    fn links(&self) -> Vec<LinkState> {
        let peers = self.peers.lock();
        peers.values().flat_map(|peer| peer.links.iter().map(|link| link.state())).collect()
    }

    fn stop(&self) {
        self.accepts.abort();
        let peers = std::mem::take(&mut *self.peers.lock());
        self.links.store(Arc::default());
        for (_, peer) in peers {
            for task in &peer.tasks {
                task.abort();
            }
        }
        // The service may hold this network.
        self.inner.service.write().take();
    }
}

impl Drop for TcpNetwork {
    fn drop(&mut self) {
        self.stop();
    }
}
