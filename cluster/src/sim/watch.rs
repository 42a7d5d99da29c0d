//! Looks into the nodes from outside: who leads, what the logs hold, how far the replicas are.
//!
//! - Owns: how far each log was looked at. Takes: hosts. Gives: events.
//! - Bound: looks at new entries only.
//! - Source: own design.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{EntryPayload, ServerState};

use super::{event::Event, host::Host, ledger::digest, oracle::Oracle, trace::Trace};
use crate::{
    id::NodeId,
    raft_group::types::{Entry, LogId},
};

#[derive(Default)]
pub(super) struct Watch {
    /// The last entry seen of each log, and of which life of the node.
    seen: BTreeMap<(NodeId, u16), (u64, LogId)>,
    leaders: BTreeSet<(u16, u64, NodeId)>,
}

impl Watch {
    pub(super) fn look(&mut self, host: &Host, now_ms: u64, oracle: &Oracle, trace: &mut Trace) {
        let Some(handle) = host.handle() else { return };
        if let Some(visit) = host.visit()
            && visit.handle.meta().has_lease()
        {
            let directory = &*visit.handle.meta().directory();
            oracle.see(&Event::Relies { node: host.node, directory });
        }
        let groups = &handle.shared().groups;
        for group in &groups.groups {
            let number = group.store.shard;
            let metrics = group.raft.metrics().borrow().clone();
            if metrics.state == ServerState::Leader {
                let (node, term) = (host.node, metrics.current_term);
                oracle.see(&Event::Leads { node, group: number, term });
                if self.leaders.insert((number, term, node)) {
                    let line = format_args!("node {} leads group {number}, term {term}", node.0);
                    trace.line(now_ms, line);
                }
            }
            if let Some(log) = groups.log.group(number) {
                let key = (host.node, number);
                let seen = self.seen.get(&key).filter(|seen| seen.0 == host.incarnation);
                let entries = match seen {
                    Some((_, id)) => log.range(id.index..),
                    None => log.range(..),
                };
                // Cut meanwhile, or purged: all of it is new.
                let is_known = seen
                    .is_none_or(|(_, id)| entries.first().is_some_and(|entry| entry.log_id == *id));
                let entries = if is_known { entries } else { log.range(..) };
                drop(log);
                if let Some(last) = entries.last() {
                    self.seen.insert(key, (host.incarnation, last.log_id));
                }
                tell(host.node, number, &entries, oracle);
            }
        }
    }
}

fn tell(node: NodeId, group: u16, entries: &[Entry], oracle: &Oracle) {
    let mut before = None;
    for entry in entries {
        let (id, digest) = (entry.log_id, digest_of(entry));
        oracle.see(&Event::Logged { node, group, before, id, digest });
        before = Some(id);
    }
}

fn digest_of(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(proposal) => {
            let commands: Vec<&[u8]> = proposal.commands.iter().map(AsRef::as_ref).collect();
            digest(&commands)
        }
        EntryPayload::Membership(members) => digest(&[format!("{members:?}").as_bytes()]),
    }
}
