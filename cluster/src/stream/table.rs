//! The place of each node's stream in one group: part of the replicated state, so every replica agrees.
//!
//! - Owns: per node its incarnation, epoch, and the number of its last command in the state.
//! - Takes: runs, in log order. Gives: which of their commands are new.
//! - Promise: a command is applied at most once and behind those before it; an opening voids what is still
//!   on its way from earlier epochs.
//! - Bound: `STREAM_NODES_MAX` nodes. The one whose last run is oldest in the log goes first: a node that is
//!   gone for good.
//! - Source: own design.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::run::Run;
use crate::limits::STREAM_NODES_MAX;

/// Where one node's stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    incarnation: u64,
    epoch: u64,
    /// Last command of the epoch that is in the state.
    last: u64,
    /// What `last` was at the end of the epoch before.
    last_before: u64,
    /// Index of the entry with the stream's last run.
    used: u64,
}

/// See the file header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamTable {
    places: BTreeMap<u64, Place>,
}

/// What is to be done with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Its first `known` commands are in the state; the others are next.
    Apply { known: u32 },
    /// The epoch has begun; `last` of the one before.
    Opened { last: u64 },
    /// Commands in front are missing.
    Gap,
    /// It is of an earlier incarnation or epoch than these.
    Superseded { incarnation: u64, epoch: u64 },
}

/// Version of a place's record; the first.
const VERSION: u8 = 1;

impl StreamTable {
    pub(crate) fn has(&self, node: u64) -> bool {
        self.places.contains_key(&node)
    }

    /// Encodes the record of each node.
    pub(crate) fn encoded(&self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let encode = |(node, place): (&u64, &Place)| {
            let mut record = vec![VERSION];
            bincode::serialize_into(&mut record, place).map_err(io::Error::other)?;
            Ok((*node, record))
        };
        self.places.iter().map(encode).collect()
    }

    /// Reads what `encoded` wrote.
    pub(crate) fn decode(records: impl IntoIterator<Item = (u64, Bytes)>) -> io::Result<Self> {
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, "unknown record of a stream");
        let decode = |(node, record): (u64, Bytes)| match record.split_first() {
            Some((&VERSION, place)) => {
                Ok((node, bincode::deserialize(place).map_err(io::Error::other)?))
            }
            _ => Err(unknown()),
        };
        let places = records.into_iter().map(decode).collect::<io::Result<_>>()?;
        Ok(Self { places })
    }

    /// Moves the run's stream forward by what is new in it. `index` is that of its entry.
    pub(crate) fn admit(&mut self, run: &Run, index: u64) -> Admission {
        let (node, incarnation) = (run.origin.node, run.origin.incarnation);
        let fresh = Place { incarnation, epoch: run.epoch, last: 0, last_before: 0, used: index };
        let place = self.places.get(&node).copied();
        let mut next = match place {
            Some(place) if (place.incarnation, place.epoch) > (incarnation, run.epoch) => {
                let Place { incarnation, epoch, .. } = place;
                return Admission::Superseded { incarnation, epoch };
            }
            Some(place) if (place.incarnation, place.epoch) == (incarnation, run.epoch) => {
                Place { used: index, ..place }
            }
            // An epoch follows the one before only by an opening; a first run opens it by itself.
            Some(place) if place.incarnation == incarnation && place.epoch + 1 == run.epoch => {
                Place { last_before: place.last, ..fresh }
            }
            Some(_) | None => fresh,
        };
        let admission = if run.is_opening() {
            Admission::Opened { last: next.last_before }
        } else if run.first > next.last.saturating_add(1) {
            return Admission::Gap;
        } else {
            let known = next.last.saturating_add(1).saturating_sub(run.first);
            next.last = next.last.max(run.last());
            Admission::Apply { known: u32::try_from(known).unwrap_or(u32::MAX).min(run.count) }
        };
        if place.is_none() && self.places.len() >= STREAM_NODES_MAX {
            let oldest = self.places.iter().min_by_key(|(_, place)| place.used);
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                self.places.remove(&oldest);
            }
        }
        self.places.insert(node, next);
        admission
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::run::Origin;

    fn run(incarnation: u64, epoch: u64, first: u64, count: u32) -> Run {
        Run { origin: Origin { node: 7, incarnation }, epoch, first, count }
    }

    fn admit(table: &mut StreamTable, runs: &[(Run, Admission)]) {
        for (index, (run, expected)) in (1..).zip(runs) {
            assert_eq!(table.admit(run, index), *expected, "{run:?}");
        }
    }

    const fn apply(known: u32) -> Admission {
        Admission::Apply { known }
    }

    #[test]
    fn table_when_runs_repeat_overlap_or_skip_then_only_what_is_next_is_new() {
        admit(
            &mut StreamTable::default(),
            &[
                (run(1, 1, 2, 1), Admission::Gap),
                (run(1, 1, 1, 3), apply(0)),
                (run(1, 1, 1, 3), apply(3)),
                (run(1, 1, 2, 4), apply(2)),
                (run(1, 1, 7, 1), Admission::Gap),
                (run(1, 1, 6, 1), apply(0)),
            ],
        );
    }

    #[test]
    fn table_when_an_epoch_opens_then_it_tells_the_last_and_voids_what_comes_late() {
        let late = Admission::Superseded { incarnation: 1, epoch: 2 };
        admit(
            &mut StreamTable::default(),
            &[
                (run(1, 1, 1, 3), apply(0)),
                (run(1, 2, 3, 0), Admission::Opened { last: 3 }),
                (run(1, 1, 4, 2), late),
                (run(1, 2, 1, 1), apply(0)),
                // Its answer was lost; it is asked again, and tells the same.
                (run(1, 2, 3, 0), Admission::Opened { last: 3 }),
                (run(1, 2, 2, 1), apply(0)),
                (run(1, 3, 2, 0), Admission::Opened { last: 2 }),
                (run(1, 4, 1, 0), Admission::Opened { last: 0 }),
                // Another life of the node: nothing of the one before counts.
                (run(2, 1, 1, 1), apply(0)),
                (run(1, 9, 1, 0), Admission::Superseded { incarnation: 2, epoch: 1 }),
                (run(3, 2, 1, 0), Admission::Opened { last: 0 }),
            ],
        );
    }

    #[test]
    fn table_when_it_is_full_then_the_node_that_was_silent_longest_goes() {
        let mut table = StreamTable::default();
        let of =
            |node| Run { origin: Origin { node, incarnation: 1 }, epoch: 1, first: 1, count: 1 };
        let nodes = STREAM_NODES_MAX as u64;
        for node in 0..nodes {
            assert_eq!(table.admit(&of(node), node + 1), apply(0));
        }
        assert_eq!(table.admit(&of(0), nodes + 1), apply(1));
        assert_eq!(table.admit(&of(nodes), nodes + 2), apply(0));
        assert_eq!(table.places.len(), STREAM_NODES_MAX);
        assert!(table.places.contains_key(&0) && !table.places.contains_key(&1));
    }
}
