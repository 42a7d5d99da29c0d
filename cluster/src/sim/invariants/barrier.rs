//! The barrier of SUBACK: once it has returned for a route, no node relies on a directory without it, for as
//! long as the route's node is up in that incarnation (ARCHITECTURE.md, "The directory").

use std::collections::BTreeMap;

use super::{Event, Invariant};
use crate::sim::routes::Route;

#[derive(Default)]
pub(super) struct Barrier {
    /// The highest index that has passed.
    passed: u64,
    routes: BTreeMap<Route, u64>,
}

impl Invariant for Barrier {
    fn name(&self) -> &'static str {
        "BARRIER"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Subscribed { route, index } => {
                self.passed = self.passed.max(index);
                self.routes.insert(route, index);
                Ok(())
            }
            Event::Unsubscribed { route } => {
                self.routes.remove(&route);
                Ok(())
            }
            Event::Relies { node, directory } => {
                if directory.index < self.passed {
                    let (known, passed) = (directory.index, self.passed);
                    return Err(format!("{node:?} relies on {known}, {passed} has passed"));
                }
                let is_missing = |route: &&Route| {
                    directory.is_up(route.node, route.incarnation)
                        && !directory
                            .routes
                            .get(&route.key())
                            .is_some_and(|places| places.nodes.contains(&route.node))
                };
                match self.routes.keys().find(is_missing) {
                    Some(route) => Err(format!("{node:?} relies on a directory without {route:?}")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
