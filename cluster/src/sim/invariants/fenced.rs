//! FENCED, as far as the directory goes: no route leads to a node in an incarnation that is over. What an old
//! start of a node, or one that was declared down, still says changes nothing.

use super::{Event, Invariant};
use crate::sim::routes::Route;

#[derive(Default)]
pub(super) struct Fenced;

impl Invariant for Fenced {
    fn name(&self) -> &'static str {
        "FENCED"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Published { node, directory } = *event else { return Ok(()) };
        let routes = directory.routes.iter().filter_map(|(key, _)| Route::of_key(key));
        // The first in order, because the map has none.
        let stale = routes.filter(|route| !directory.is_up(route.node, route.incarnation)).min();
        match stale {
            Some(route) => {
                let known = directory.nodes.get(&route.node);
                Err(format!("{node:?} has {route:?}, and of its node {known:?}"))
            }
            None => Ok(()),
        }
    }
}
