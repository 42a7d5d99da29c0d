//! Routes: opaque keys to nodes with live subscribers and shards with durable ones.
//!
//! - Owns: routes of the directory, and which of them lead to which node.
//! - Takes: additions and removals of one place, fenced by its incarnation or term. Gives: changes.
//! - Bound: `META_ROUTES_MAX`, `META_ROUTE_KEY_BYTES_MAX`, `META_KEYS_MAX` per command; a route without
//!   places goes.
//! - Source: own design; EDGE-ROUTE.

use bytes::Bytes;

use super::{
    command::{Place, Refusal},
    machine::{MetaMachine, No, Turn},
    record::{self, LongRoute},
};
use crate::{
    directory::Places,
    id::NodeId,
    limits::{META_KEYS_MAX, META_ROUTE_KEY_BYTES_MAX, META_STORED_KEY_BYTES_MAX},
    machine::Store,
};

impl Places {
    /// Adds a place; returns whether it was not there.
    fn add(&mut self, place: Place) -> bool {
        match place {
            Place::Node { node, .. } => match self.nodes.binary_search(&node) {
                Ok(_) => false,
                Err(at) => {
                    self.nodes.insert(at, node);
                    true
                }
            },
            Place::Shard { shard, .. } => {
                let before = self.shards;
                self.shards |= 1 << shard.0;
                self.shards != before
            }
        }
    }

    /// Removes a place; returns whether it was there.
    fn remove(&mut self, place: Place) -> bool {
        match place {
            Place::Node { node, .. } => {
                let found = self.nodes.binary_search(&node);
                found.map(|at| self.nodes.remove(at)).is_ok()
            }
            Place::Shard { shard, .. } => {
                let before = self.shards;
                self.shards &= !(1 << shard.0);
                self.shards != before
            }
        }
    }
}

impl MetaMachine {
    pub(super) fn load_routes(&mut self, store: &dyn Store) {
        record::each(store, record::ROUTE, |key, value| {
            if let Some(places) = record::read(b"R", &value) {
                self.loaded_route(key, places);
            }
        });
        record::each(store, record::LONG_ROUTE, |key, value| {
            let route = record::read::<LongRoute>(b"L", &value);
            if let Some((place, route)) = record::long_route_parts(&key).zip(route) {
                self.long_routes.insert(route.key.clone(), place);
                self.loaded_route(route.key, route.places);
            }
        });
    }

    fn loaded_route(&mut self, key: Bytes, places: Places) {
        for node in &places.nodes {
            self.routes_of.entry(*node).or_default().insert(key.clone());
        }
        self.now.routes.insert(key, places);
    }

    /// Checks that a place may change its routes, and that the keys keep the limits.
    fn check_routes(&self, place: Place, keys: &[Bytes]) -> Result<(), No> {
        let is_wrong = |key: &Bytes| key.is_empty() || key.len() > META_ROUTE_KEY_BYTES_MAX;
        if keys.len() > META_KEYS_MAX || keys.iter().any(is_wrong) {
            return Err(Refusal::Limit.into());
        }
        match place {
            Place::Node { node, incarnation } => self.check_up(node, incarnation),
            Place::Shard { shard, .. } if shard.0 >= self.shards() => Err(Refusal::NoShard.into()),
            Place::Shard { shard, term } => {
                let is_last = self.now.leader(shard).is_some_and(|led| led.term == term);
                if is_last { Ok(()) } else { Err(No::Fenced) }
            }
        }
    }

    pub(super) fn add_routes(
        &mut self,
        turn: &mut Turn<'_>,
        place: Place,
        keys: Vec<Bytes>,
    ) -> Result<(), No> {
        self.check_routes(place, &keys)?;
        // All of them or none.
        let room = self.limits.routes.saturating_sub(self.now.routes.len());
        if keys.len() > room {
            let is_new = |key: &&Bytes| !self.now.routes.contains_key(*key);
            if keys.iter().filter(is_new).count() > room {
                return Err(Refusal::Full.into());
            }
        }
        for key in keys {
            let mut places = self.now.routes.get(&key).cloned().unwrap_or_default();
            if places.add(place) {
                if let Place::Node { node, .. } = place {
                    self.routes_of.entry(node).or_default().insert(key.clone());
                }
                self.put_route(turn, key, places);
            }
        }
        Ok(())
    }

    pub(super) fn remove_routes(
        &mut self,
        turn: &mut Turn<'_>,
        place: Place,
        keys: Vec<Bytes>,
    ) -> Result<(), No> {
        self.check_routes(place, &keys)?;
        for key in keys {
            self.remove_route(turn, place, key);
        }
        Ok(())
    }

    fn remove_route(&mut self, turn: &mut Turn<'_>, place: Place, key: Bytes) {
        let Some(mut places) = self.now.routes.get(&key).cloned() else { return };
        if !places.remove(place) {
            return;
        }
        if let Place::Node { node, .. } = place
            && let Some(routes) = self.routes_of.get_mut(&node)
        {
            routes.remove(&key);
            if routes.is_empty() {
                self.routes_of.remove(&node);
            }
        }
        self.put_route(turn, key, places);
    }

    /// Drops all live routes of a node.
    pub(super) fn drop_live_routes(&mut self, turn: &mut Turn<'_>, node: NodeId) {
        let place = Place::Node { node, incarnation: 0 };
        for key in self.routes_of.remove(&node).unwrap_or_default() {
            self.remove_route(turn, place, key);
        }
    }

    fn put_route(&mut self, turn: &mut Turn<'_>, key: Bytes, places: Places) {
        if key.len() > META_STORED_KEY_BYTES_MAX {
            self.put_long_route(turn, &key, &places);
        } else if places.is_empty() {
            turn.store.delete(&record::route(&key));
        } else {
            turn.store.put(record::route(&key), record::value(&places));
        }
        self.changes.routes.insert(key.clone());
        if places.is_empty() {
            self.now.routes.remove(&key);
        } else {
            self.now.routes.insert(key, places);
        }
    }

    fn put_long_route(&mut self, turn: &mut Turn<'_>, key: &Bytes, places: &Places) {
        if places.is_empty() {
            if let Some(place) = self.long_routes.remove(key) {
                turn.store.delete(&record::long_route(place));
            }
            return;
        }
        let place = *self.long_routes.entry(key.clone()).or_insert_with(|| {
            turn.long_next += 1;
            (turn.index, turn.long_next)
        });
        let route = LongRoute { key: key.clone(), places: places.clone() };
        turn.store.put(record::long_route(place), record::value(&route));
    }
}
