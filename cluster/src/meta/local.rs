//! A meta group of this node alone, in memory: every command is applied by the call that proposes it.
//!
//! - Owns: a machine without a store. Takes: batches. Gives: replies at once.
//! - Bound: as the machine's. It forgets everything with the process.
//! - Source: own design; tests, and nodes without a meta group.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{
    command::{self, MetaCommand},
    handle::{MetaHandle, MetaPort},
    machine::{MetaMachine, MetaSink, Published},
};
use crate::{
    error::ProposeError,
    id::NodeId,
    machine::{Machine, Store, StoreMut},
};

struct Local(Mutex<(MetaMachine, u64)>);

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

impl Local {
    fn apply(&self, batch: &Bytes) -> Bytes {
        let (machine, index) = &mut *self.0.lock();
        *index += 1;
        let reply = machine.apply(*index, batch, &mut NoStore);
        machine.applied();
        reply
    }
}

impl MetaPort for Local {
    fn propose(&self, batch: Bytes) -> BoxFuture<'static, Result<Bytes, ProposeError>> {
        let reply = self.apply(&batch);
        Box::pin(async move { Ok(reply) })
    }
}

/// Returns a handle whose directory has this node only.
pub(crate) fn handle(
    (node, incarnation): (NodeId, u64),
    shards: u16,
    sink: MetaSink,
    runtime: Handle,
) -> MetaHandle {
    let published = Published::new(sink);
    let local = Local(Mutex::new((MetaMachine::new(shards, published.clone()), 0)));
    let up = MetaCommand::NodeUp {
        node,
        incarnation,
        cluster_addr: String::new(),
        client_addr: String::new(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    local.apply(&command::encode(&vec![up]));
    MetaHandle::new(node, published, Arc::new(local), runtime)
}
