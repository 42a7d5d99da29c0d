//! Whose turn it is among the nodes that have members of a group.
//!
//! - Owns: per node how many members it said to have, and how far behind its part it is.
//! - Takes: the nodes of the route, what they answer, the time. Gives: the node that gets the next message.
//! - Choice: smooth weighted turns, so that each member of the group gets as much as each other, on whatever node.
//!   Until a node has answered it counts for one. One that said to have none is asked last for a while: its route
//!   stays longer than its members, and a new member may come at any time.
//! - Bound: the nodes of the cluster.
//! - Source: the weighted turns of nginx (`ngx_http_upstream_round_robin.c`).

use std::time::Duration;

use hongqiao_cluster::id::NodeId;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::model::node_set::NodeSet;

/// How long a node that has no member is asked last.
const EMPTY_FOR: Duration = Duration::from_secs(1);

/// A node with members; `None`: this one.
type Place = Option<NodeId>;

#[derive(Debug)]
struct Seat {
    place: Place,
    weight: i64,
    credit: i64,
    empty_since: Option<Instant>,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Seats(SmallVec<[Seat; 3]>);

impl Seats {
    /// Gives the node whose turn it is: this one has `here` connected members, of the others those in `nodes`
    /// count that are not in `tried`.
    pub(super) fn next(
        &mut self,
        here: usize,
        nodes: &NodeSet,
        tried: &NodeSet,
        now: Instant,
    ) -> Option<Place> {
        self.keep(here, nodes);
        let may = |seat: &Seat| match seat.place {
            None => here > 0,
            Some(node) => !tried.contains(node),
        };
        let is_empty = |seat: &Seat| {
            seat.empty_since.is_some_and(|since| now.duration_since(since) < EMPTY_FOR)
        };
        let full = self.0.iter().any(|seat| may(seat) && !is_empty(seat));
        let mut total = 0;
        for seat in self.0.iter_mut().filter(|seat| may(seat) && !(full && is_empty(seat))) {
            seat.credit += seat.weight;
            total += seat.weight;
        }
        let takes_part = |seat: &&mut Seat| may(seat) && !(full && is_empty(seat));
        let next = self.0.iter_mut().filter(takes_part).max_by_key(|seat| seat.credit)?;
        next.credit -= total;
        Some(next.place)
    }

    /// Notes how many members a node has.
    pub(super) fn weigh(&mut self, node: NodeId, members: u32, now: Instant) {
        let Some(seat) = self.0.iter_mut().find(|seat| seat.place == Some(node)) else { return };
        seat.weight = i64::from(members.max(1));
        seat.empty_since = (members == 0).then_some(now);
    }

    /// Forgets nodes without a route, and takes new ones in.
    fn keep(&mut self, here: usize, nodes: &NodeSet) {
        self.0.retain(|seat| seat.place.is_none_or(|node| nodes.contains(node)));
        let weight = i64::try_from(here.max(1)).unwrap_or(i64::MAX);
        for place in std::iter::once(None).chain(nodes.iter().map(Some)) {
            match self.0.iter_mut().find(|seat| seat.place == place) {
                Some(seat) if place.is_none() => seat.weight = weight,
                Some(_) => {}
                None => {
                    let weight = if place.is_none() { weight } else { 1 };
                    self.0.push(Seat { place, weight, credit: 0, empty_since: None });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock;

    fn set(nodes: &[u64]) -> NodeSet {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn count(seats: &mut Seats, here: usize, nodes: &NodeSet, rounds: usize) -> BTreeMap<u64, u32> {
        let mut counts = BTreeMap::new();
        for _ in 0..rounds {
            let next = seats.next(here, nodes, &NodeSet::default(), clock::timer_now()).unwrap();
            *counts.entry(next.map_or(0, |node| node.0)).or_default() += 1;
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn members_get_the_same_part_on_whatever_node_they_are() {
        let (mut seats, nodes) = (Seats::default(), set(&[2, 3]));
        assert_eq!(count(&mut seats, 1, &nodes, 30), [(0, 10), (2, 10), (3, 10)].into());
        seats.weigh(NodeId(3), 4, clock::timer_now());
        assert_eq!(count(&mut seats, 2, &nodes, 70), [(0, 20), (2, 10), (3, 40)].into());
        assert_eq!(count(&mut seats, 0, &nodes, 50), [(2, 10), (3, 40)].into());
    }

    #[tokio::test(start_paused = true)]
    async fn node_without_members_is_asked_last_and_again_after_a_while() {
        let (mut seats, nodes, none) = (Seats::default(), set(&[2, 3]), NodeSet::default());
        count(&mut seats, 0, &nodes, 2);
        seats.weigh(NodeId(2), 0, clock::timer_now());
        assert_eq!(count(&mut seats, 0, &nodes, 10), [(3, 10)].into());
        let tried = set(&[3]);
        let last = seats.next(0, &nodes, &tried, clock::timer_now());
        assert_eq!(last, Some(Some(NodeId(2))), "a new member may have come");
        assert_eq!(seats.next(0, &nodes, &set(&[2, 3]), clock::timer_now()), None);
        tokio::time::advance(EMPTY_FOR).await;
        assert_eq!(count(&mut seats, 0, &nodes, 10).len(), 2);
        assert_eq!(seats.next(0, &none, &none, clock::timer_now()), None, "no route, no turn");
    }
}
