//! Which process speaks for which node here, and on which connections.
//!
//! - Owns: one entry per (node, class) that has a connection into this node.
//! - Takes: handshakes. Gives: a place, or a refusal while another process speaks for that node.
//! - Bound: three connections per node; a newer one takes the place of the older, which has stopped
//!   serving before the newer begins, so the order per peer and class holds.
//! - A process that is gone is noticed by its closed connections, at the latest after 3 s of silence.
//! - Source: own design.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard};

use super::{super::Class, hello::Refusal};
use crate::id::NodeId;

/// One connection into this node.
#[derive(Debug)]
struct Place {
    number: u64,
    /// Told when a newer connection wants the place.
    replaced: Arc<Notify>,
    /// Held while requests of the peer and class are served.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Holder {
    instance: [u8; 16],
    places: HashMap<Class, Place>,
}

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    holders: HashMap<NodeId, Holder>,
}

/// All connections into this node.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<State>);

/// A place of one connection; given back by dropping it.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Arc<Registry>,
    node: NodeId,
    class: Class,
    number: u64,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Told when a newer connection of the same process wants the place.
    pub(super) replaced: Arc<Notify>,
}

impl Registry {
    /// Gives a place to a connection of `instance`.
    ///
    /// # Errors
    /// `NodeTaken` while another process has connections as that node.
    pub(super) fn sit(
        self: &Arc<Self>,
        node: NodeId,
        instance: [u8; 16],
        class: Class,
    ) -> Result<Seat, Refusal> {
        let mut state = self.0.lock();
        state.last_number += 1;
        let number = state.last_number;
        let holder = state
            .holders
            .entry(node)
            .or_insert_with(|| Holder { instance, places: HashMap::new() });
        if holder.instance != instance {
            return Err(Refusal::NodeTaken(node));
        }
        let replaced = Arc::new(Notify::new());
        let old = holder.places.remove(&class);
        let turn = old.as_ref().map_or_else(Arc::default, |old| old.turn.clone());
        let place = Place { number, replaced: replaced.clone(), turn: turn.clone() };
        holder.places.insert(class, place);
        if let Some(old) = old {
            old.replaced.notify_one();
        }
        Ok(Seat { registry: self.clone(), node, class, number, turn, replaced })
    }

    /// Ends all connections of a node.
    pub(super) fn evict(&self, node: NodeId) {
        if let Some(holder) = self.0.lock().holders.get(&node) {
            holder.places.values().for_each(|place| place.replaced.notify_one());
        }
    }

    /// Says whether `instance` may speak for `node`.
    pub(super) fn check(&self, node: NodeId, instance: [u8; 16]) -> Result<(), Refusal> {
        match self.0.lock().holders.get(&node) {
            Some(holder) if holder.instance != instance => Err(Refusal::NodeTaken(node)),
            _ => Ok(()),
        }
    }
}

impl Seat {
    /// Waits until the connection before this one has stopped serving.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.registry.0.lock();
        let Some(holder) = state.holders.get_mut(&self.node) else { return };
        let is_mine =
            holder.places.get(&self.class).is_some_and(|place| place.number == self.number);
        if is_mine {
            holder.places.remove(&self.class);
        }
        if holder.places.is_empty() {
            state.holders.remove(&self.node);
        }
    }
}
