//! Nodes in memory around one meta group whose log is a list: leaders, cuts and stops are up to the test.
//!
//! - Owns: machines without a store. Takes: batches. Gives: replies once the leader has applied them.
//! - Bound: tests only. A node that is cut off neither applies nor answers.
//! - Source: own design.

use std::{
    future::{pending, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch};

use super::{
    Addresses, MetaHandle, MetaSink,
    handle::MetaPort,
    leases::LeaseClerk,
    machine::{MetaMachine, Published},
};
use crate::{
    error::ProposeError,
    id::NodeId,
    machine::{Machine, Store, StoreMut},
    raft_group::lead::Lead,
    storage::folder::incarnation::Incarnation,
    transport::{Class, LinkError, PeerService},
};

/// Keeps nothing: the machine reads its store in `load` alone.
struct NoStore;

impl Store for NoStore {
    fn get(&self, _key: &[u8]) -> Option<Bytes> {
        None
    }

    fn scan(&self, _from: &[u8], _to: &[u8], _limit: usize) -> Vec<(Bytes, Bytes)> {
        Vec::new()
    }

    fn last(&self, _from: &[u8], _to: &[u8]) -> Option<(Bytes, Bytes)> {
        None
    }
}

impl StoreMut for NoStore {
    fn put(&mut self, _key: Vec<u8>, _value: Bytes) {}

    fn delete(&mut self, _key: &[u8]) {}
}

/// One node.
struct Replica {
    node: NodeId,
    machine: Mutex<(MetaMachine, usize)>,
    lead: watch::Sender<Lead>,
    clerk: Mutex<Option<LeaseClerk>>,
    is_cut: AtomicBool,
}

impl Replica {
    /// Applies all that is in the log; returns the last reply.
    fn apply(&self, log: &[Bytes]) -> Bytes {
        let (machine, applied) = &mut *self.machine.lock();
        let mut reply = Bytes::new();
        while let Some(batch) = log.get(*applied) {
            *applied += 1;
            reply = machine.apply(*applied as u64, batch, &mut NoStore);
        }
        machine.applied();
        reply
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }
}

/// The nodes, and the log of their group.
pub(crate) struct Twins {
    replicas: Vec<Arc<Replica>>,
    log: Mutex<Vec<Bytes>>,
}

struct Port {
    twins: Arc<Twins>,
    me: usize,
}

impl Twins {
    /// Makes nodes 1 to `count`; the first one leads. None is a member yet.
    pub(crate) fn new(count: u64, shards: u16, sink: &MetaSink) -> Arc<Self> {
        let replica = |node| {
            let machine = MetaMachine::new(shards, Published::new(sink.clone()));
            Arc::new(Replica {
                node: NodeId(node),
                machine: Mutex::new((machine, 0)),
                lead: watch::Sender::default(),
                clerk: Mutex::default(),
                is_cut: AtomicBool::new(false),
            })
        };
        let replicas = (1..=count).map(replica).collect();
        let twins = Arc::new(Self { replicas, log: Mutex::default() });
        twins.lead(1, 1);
        twins
    }

    /// Makes a handle on a node, under its first incarnation.
    pub(crate) fn handle(self: &Arc<Self>, node: u64) -> MetaHandle {
        let me = usize::try_from(node - 1).unwrap();
        let replica = &self.replicas[me];
        let published = replica.machine.lock().0.published().clone();
        let port = Arc::new(Port { twins: self.clone(), me });
        let incarnation = Incarnation::in_memory(replica.node, 1);
        let handle =
            MetaHandle::new((replica.node, incarnation), published, port, Handle::current());
        *replica.clerk.lock() = Some(handle.clerk());
        handle
    }

    /// Makes a node a member, and keeps it one.
    pub(crate) async fn start(self: &Arc<Self>, node: u64) -> MetaHandle {
        let handle = self.handle(node);
        let cluster = format!("h:{node}");
        handle.start(Addresses { cluster, client: String::new() });
        handle.is_up().await;
        handle
    }

    /// Makes a node lead.
    pub(crate) fn lead(&self, node: u64, term: u64) {
        let log = self.log.lock();
        for replica in &self.replicas {
            let here = replica.node == NodeId(node);
            if here {
                replica.apply(&log);
            }
            if here || !replica.is_cut() {
                replica.lead.send_replace(Lead { leader: Some(NodeId(node)), term, here });
            }
        }
    }

    /// Cuts a node off, or lets it hear again.
    pub(crate) fn cut(&self, node: u64, is_cut: bool) {
        let log = self.log.lock();
        let replica = &self.replicas[usize::try_from(node - 1).unwrap()];
        replica.is_cut.store(is_cut, Ordering::SeqCst);
        if !is_cut {
            let newest = self.replicas.iter().map(|of| *of.lead.borrow());
            if let Some(lead) = newest.max_by_key(|lead| lead.term) {
                let here = lead.leader == Some(replica.node);
                replica.lead.send_replace(Lead { here, ..lead });
            }
            replica.apply(&log);
        }
    }

    fn commit(&self, me: usize, batch: Bytes) -> Result<Bytes, ProposeError> {
        let mut log = self.log.lock();
        let leaders = self.replicas.iter().filter(|of| of.lead.borrow().here && !of.is_cut());
        let leader = leaders.max_by_key(|of| of.lead.borrow().term);
        let leader = leader.filter(|_| !self.replicas[me].is_cut());
        let leader = leader.ok_or(ProposeError::Unavailable)?;
        log.push(batch);
        let reply = leader.apply(&log);
        for replica in self.replicas.iter().filter(|of| !of.is_cut() && of.node != leader.node) {
            replica.apply(&log);
        }
        Ok(reply)
    }
}

impl MetaPort for Port {
    fn propose(&self, batch: Bytes) -> BoxFuture<'static, Result<Bytes, ProposeError>> {
        Box::pin(ready(self.twins.commit(self.me, batch)))
    }

    fn lead(&self) -> watch::Receiver<Lead> {
        self.twins.replicas[self.me].lead.subscribe()
    }

    fn leads(&self) -> Option<u64> {
        let me = &self.twins.replicas[self.me];
        let lead = *me.lead.borrow();
        (lead.here && !me.is_cut()).then_some(lead.term)
    }

    fn ask(
        &self,
        to: NodeId,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let from = self.twins.replicas[self.me].clone();
        let to = self.twins.replicas.iter().find(|of| of.node == to).cloned();
        Box::pin(async move {
            let answer = async {
                let to = to.filter(|to| !to.is_cut() && !from.is_cut())?;
                let clerk = to.clerk.lock().as_ref().map(|clerk| LeaseClerk(clerk.0.clone()))?;
                let answer = clerk.serve(from.node, Class::Control, body).await.ok()?;
                (!to.is_cut() && !from.is_cut()).then_some(answer)
            };
            let told = async {
                match answer.await {
                    Some(answer) => answer,
                    None => pending().await,
                }
            };
            tokio::time::timeout(time_out, told).await.map_err(|_| LinkError::TimedOut)
        })
    }
}
