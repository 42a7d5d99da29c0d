//! Lets go of log entries that a checkpoint covers, and that no other member may still need.
//!
//! - Owns: nothing. Takes: news of checkpoints. Gives: snapshots that name them, and what openraft may purge.
//! - Rule: alone everything that is covered goes. A leader keeps what the slowest member lacks, another
//!   member keeps what it has: it may lead next. All that only while the logs of this node fit their budget.
//! - Bound: `checkpoint_bytes` of entries that wait for other members, over all groups.
//! - Source: own design. openraft itself is told to keep everything (`max_in_snapshot_log_to_keep`).

use std::time::Duration;

use super::group::Group;

/// A snapshot only names a checkpoint; it takes longer when the node is busy or stops.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);

/// What may be let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    /// Last index that the checkpoint covers.
    covered: u64,
    /// Last index that all other members have; `None`: not known, or there are none.
    matched: Option<u64>,
    alone: bool,
    /// Last index that may go if memory is short.
    over_budget: u64,
}

fn purge_to(needs: Needs) -> u64 {
    if needs.alone {
        return needs.covered;
    }
    needs.matched.unwrap_or(0).max(needs.over_budget).min(needs.covered)
}

impl Group {
    /// Names the newest checkpoint and purges what it covers; `budget` is this group's part in bytes, or
    /// `None` while memory is not short.
    pub(crate) async fn purge(&self, budget: Option<usize>) -> Option<()> {
        if budget.is_none() && self.snapshots.ready_meta(self.number).is_some() {
            // One that is being sent can be gone on with as long as openraft hears of no newer one.
            return None;
        }
        let stored = self.store.state.lock().stored.last?.index;
        let mut metrics = self.raft.data_metrics();
        if metrics.borrow().snapshot.is_none_or(|id| id.index < stored) {
            self.raft.trigger().snapshot().await.ok()?;
        }
        let named = metrics.wait_for(|data| data.snapshot.is_some_and(|id| id.index >= stored));
        let covered = tokio::time::timeout(NAME_TIMEOUT, named).await.ok()?.ok()?.snapshot?.index;
        let needs = self.needs(covered, budget);
        let to = purge_to(needs);
        let purged = metrics.borrow().purged.map_or(0, |id| id.index);
        if to > purged {
            self.raft.trigger().purge_log(to).await.ok()?;
        }
        Some(())
    }

    fn needs(&self, covered: u64, budget: Option<usize>) -> Needs {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        let matched = metrics.replication.as_ref().and_then(|matched| {
            let others = members.nodes().map(|(id, _)| *id).filter(|id| *id != metrics.id);
            others.map(|id| matched.get(&id).copied().flatten().map_or(0, |id| id.index)).min()
        });
        let over_budget = budget.map_or(0, |bytes| self.log.first_within(self.number, bytes));
        let alone = members.nodes().all(|(id, _)| *id == metrics.id);
        Needs { covered, matched, alone, over_budget: over_budget.saturating_sub(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purge_when_others_lag_then_what_they_lack_stays_within_the_budget() {
        let needs = Needs { covered: 100, matched: Some(70), alone: false, over_budget: 0 };
        assert_eq!(purge_to(needs), 70);
        assert_eq!(purge_to(Needs { matched: Some(200), ..needs }), 100);
        assert_eq!(purge_to(Needs { over_budget: 90, ..needs }), 90);
        assert_eq!(purge_to(Needs { over_budget: 500, ..needs }), 100);
        // A member that does not lead does not know what others have.
        assert_eq!(purge_to(Needs { matched: None, ..needs }), 0);
        assert_eq!(purge_to(Needs { alone: true, matched: None, ..needs }), 100);
    }
}
