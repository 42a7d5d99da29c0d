//! Subscribers: each node puts routes to itself into the directory, waits at the barrier, and takes some back.
//!
//! - Owns: what is under way. Takes: turns. Gives: events of what was asked for and what has passed.
//! - A key names its node and that node's incarnation, so that a route which outlives them is seen.
//! - Bound: one command under way per node, `ROUTES_MAX` routes of each.
//! - Source: own design; ARCHITECTURE.md, "The directory".

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;

use super::{event::Event, host::Visit, workload::Turn};
use crate::{
    id::NodeId,
    meta::{MetaCommand, MetaHandle, MetaReply, Place},
};

const ROUTES_MAX: usize = 20;

/// A route of a node, in one of its incarnations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) number: u64,
}

impl Route {
    pub(super) fn key(self) -> Bytes {
        let numbers = [self.node.0, self.incarnation, self.number];
        Bytes::from(numbers.map(u64::to_be_bytes).concat())
    }

    pub(super) fn of_key(key: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?));
        Some(Self { node: NodeId(number(0)?), incarnation: number(8)?, number: number(16)? })
    }

    fn place(self) -> Place {
        Place::Node { node: self.node, incarnation: self.incarnation }
    }
}

/// What a command has come to: the index that has passed the barrier, if it was not refused.
type Slot = Arc<Mutex<Option<Option<u64>>>>;

struct UnderWay {
    life: u64,
    route: Route,
    adds: bool,
    passed: Slot,
}

/// The subscribers of all nodes.
#[derive(Default)]
pub(super) struct Subscribers {
    next_number: u64,
    under_way: BTreeMap<NodeId, UnderWay>,
    routes: BTreeMap<NodeId, Vec<Route>>,
    complete: BTreeMap<NodeId, u64>,
}

impl Subscribers {
    /// Reports what has passed, and asks for more.
    pub(super) fn act(&mut self, world: &mut Turn<'_>) {
        for at in 0..world.hosts.len() {
            let (node, life) = (world.hosts[at].node, world.hosts[at].incarnation);
            if let Some(open) = self.under_way.remove(&node) {
                let passed = open.passed.lock().take();
                match passed {
                    None if open.life == life && world.hosts[at].is_alive() => {
                        self.under_way.insert(node, open);
                        continue;
                    }
                    Some(Some(index)) if open.adds => {
                        world.oracle.see(&Event::Subscribed { route: open.route, index });
                        self.routes.entry(node).or_default().push(open.route);
                    }
                    _ => {}
                }
            }
            if world.random.gen_ratio(1, 100) {
                self.ask(at, world);
            }
        }
    }

    fn ask(&mut self, at: usize, world: &mut Turn<'_>) {
        let host = &world.hosts[at];
        let Some(Visit { handle, runtime, .. }) = &host.visit() else { return };
        let meta = handle.meta().clone();
        let (node, incarnation) = (host.node, meta.incarnation());
        let routes = self.routes.entry(node).or_default();
        routes.retain(|route| route.incarnation == incarnation);
        if self.complete.insert(node, incarnation) != Some(incarnation) {
            drop(runtime.spawn(meta.propose(MetaCommand::RoutesComplete { node, incarnation })));
        }
        let adds = routes.len() < ROUTES_MAX && (routes.is_empty() || world.random.gen_bool(0.7));
        let route = if adds {
            self.next_number += 1;
            Route { node, incarnation, number: self.next_number }
        } else {
            routes.swap_remove(world.random.gen_range(0..routes.len()))
        };
        if !adds {
            world.oracle.see(&Event::Unsubscribed { route });
        }
        let passed = Slot::default();
        runtime.spawn(pass(meta, route, adds, passed.clone()));
        self.under_way.insert(node, UnderWay { life: host.incarnation, route, adds, passed });
    }
}

async fn pass(meta: MetaHandle, route: Route, adds: bool, passed: Slot) {
    let (place, keys) = (route.place(), vec![route.key()]);
    let command = if adds {
        MetaCommand::AddRoutes { place, keys }
    } else {
        MetaCommand::RemoveRoutes { place, keys }
    };
    let index = match meta.propose(command).await {
        Ok((MetaReply::Done, index)) => Some(index),
        _ => None,
    };
    if let Some(index) = index {
        meta.barrier(index).await;
    }
    *passed.lock() = Some(index);
}
