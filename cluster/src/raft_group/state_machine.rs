//! Applies committed entries to a machine, and tells openraft how far the state is.
//!
//! - Owns: the group's machine. Takes: entries in log order. Gives: one reply per command.
//! - Bound: memory tables, see `storage/state/table.rs`. Never an error while the node runs.
//! - Source: openraft 0.9 `RaftStateMachine`.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
    storage::RaftStateMachine,
};
use parking_lot::Mutex;

use super::{
    snapshot::{self, SnapshotData, file::Meta, install, spool::Snapshots},
    types::{Entry, LogId, Proposal, StorageError, StoredMembership, Types},
};
use crate::{
    limits::ENTRY_COMMANDS_MAX,
    machine::Machine,
    runtime,
    storage::{
        checkpoint::{Checkpointer, ShardStore},
        shelf::{Item, Kind},
        state::shard_state::{Applied, ShardState, read_streams},
    },
    stream::{apply::Streams, queue::Asks, replies::Kept, run::Outcome},
};

/// A machine and its state. Locked in this order.
pub(crate) struct Shard<M> {
    pub(crate) machine: Mutex<M>,
    pub(crate) store: Arc<ShardStore>,
    /// Replies that somebody may ask for again.
    kept: Mutex<Kept>,
}

/// openraft's handle on a shard.
pub(crate) struct StateMachine<M> {
    pub(crate) shard: Arc<Shard<M>>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) snapshots: Arc<Snapshots>,
}

impl<M: Machine> Shard<M> {
    /// Loads the machine from what the last checkpoint left.
    pub(crate) fn open(mut machine: M, store: Arc<ShardStore>) -> Arc<Self> {
        machine.load(&*store.state.lock());
        Arc::new(Self { machine: Mutex::new(machine), store, kept: Mutex::default() })
    }

    /// Applies entries in log order, and answers who asked.
    pub(crate) fn apply(&self, entries: impl Iterator<Item = Entry>) -> Vec<()> {
        let mut machine = self.machine.lock();
        let mut state = self.store.state.lock();
        let mut kept = self.kept.lock();
        let before = state.active_bytes();
        let mut apply = |entry| apply_entry(&mut *machine, &mut state, &mut kept, entry);
        let told: Vec<_> = entries.map(&mut apply).collect();
        machine.applied();
        self.store.fill.changed(before, state.active_bytes());
        drop((kept, state, machine));
        // Whoever is told finds what he wrote, in the store and in what `applied` has published.
        told.into_iter().map(|(asks, outcomes)| asks.answer(outcomes)).collect()
    }
}

fn apply_entry<M: Machine>(
    machine: &mut M,
    state: &mut ShardState,
    kept: &mut Kept,
    entry: Entry,
) -> (Asks, Vec<Outcome>) {
    state.applied.last = Some(entry.log_id);
    match entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(proposal) => {
            let outcomes = apply_runs(machine, state, kept, entry.log_id.index, &proposal);
            return (proposal.asks, outcomes);
        }
        EntryPayload::Membership(membership) => {
            state.applied.membership = StoredMembership::new(Some(entry.log_id), membership);
        }
    }
    Default::default()
}

fn apply_runs<M: Machine>(
    machine: &mut M,
    state: &mut ShardState,
    kept: &mut Kept,
    entry: u64,
    proposal: &Proposal,
) -> Vec<Outcome> {
    let commands = &proposal.commands;
    let first = entry * ENTRY_COMMANDS_MAX as u64;
    if proposal.runs.is_empty() {
        for (index, command) in (first..).zip(commands.iter()) {
            machine.apply(index, command, state);
        }
        return Vec::new();
    }
    let mut table = std::mem::take(&mut state.applied.streams);
    // A stream of the only member has its replies at once; others may lose the answer on the way.
    let alone = only_member(&state.applied.membership);
    let mut streams = Streams { table: &mut table, kept, alone };
    let mut outcomes = Vec::with_capacity(proposal.runs.len());
    let mut at = 0_usize;
    for run in proposal.runs.iter() {
        let count = usize::try_from(run.count).unwrap_or(usize::MAX);
        let end = at.saturating_add(count).min(commands.len());
        let own = commands.get(at..end).unwrap_or_default();
        outcomes.push(streams.apply(run, entry, own, |place, command| {
            machine.apply(first + (at + place) as u64, command, state)
        }));
        at = end;
    }
    state.applied.streams = table;
    outcomes
}

fn only_member(membership: &StoredMembership) -> Option<u64> {
    let mut members = membership.membership().nodes().map(|(node, _)| *node);
    let first = members.next()?;
    members.next().is_none().then_some(first)
}

impl<M: Machine> RaftStateMachine<Types> for StateMachine<M> {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let state = self.shard.store.state.lock();
        Ok((state.applied.last, state.applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(self.shard.apply(entries.into_iter()))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.shard.store.clone(), checkpointer: self.checkpointer.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let failed = |error: &io::Error| {
            tracing::error!(group = self.shard.store.shard, %error, "cannot install a snapshot");
            StorageError::from(StorageIOError::write_snapshot(Some(meta.signature()), error))
        };
        let store = &self.shard.store;
        if let SnapshotData::Source(source) = *snapshot {
            self.snapshots.take_over(&source, store.shard).await.map_err(|error| failed(&error))?;
        }
        // Held until the tables are gone that belong to the old state.
        let _pin = store.pin.clone().lock_owned().await;
        let shelf = self.snapshots.shelf.clone();
        let installed = install::install(store.clone(), shelf).await;
        let installed = installed.map_err(|error| failed(&error))?;
        if installed.last_log_id != meta.last_log_id {
            return Err(failed(&io::Error::other("it is another one")));
        }
        self.load(meta);
        store.name(meta.last_log_id);
        // If it stays, the next start sees that the state is newer.
        let item = Item { kind: Kind::Install, group: store.shard };
        if let Err(error) = self.snapshots.shelf.remove(item) {
            tracing::warn!(group = store.shard, %error, "cannot remove a snapshot that is installed");
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let store = self.shard.store.clone();
        let newest = snapshot::meta(&store.state.lock().stored);
        let named = store.named.load(Ordering::SeqCst);
        // One that was sent in part goes on where it ended; openraft takes none older than it has heard of.
        let ready = self.snapshots.ready_meta(store.shard);
        let ready = ready.filter(|meta| meta.last_log_id.is_some_and(|id| id.index >= named));
        let meta = ready.unwrap_or(newest);
        let data = Box::new(SnapshotData::Source(store));
        Ok(meta.last_log_id.is_some().then_some(Snapshot { meta, snapshot: data }))
    }
}

impl<M: Machine> StateMachine<M> {
    /// Takes over what a snapshot has put into the store.
    fn load(&self, meta: &Meta) {
        let store = &self.shard.store;
        let mut machine = self.shard.machine.lock();
        let streams = store.base.ask(|kv| read_streams(kv, store.shard));
        let mut state = store.state.lock();
        let before = state.active_bytes();
        let (last, membership) = (meta.last_log_id, meta.last_membership.clone());
        state.replaced(Applied { last, membership, streams });
        self.shard.kept.lock().clear();
        store.fill.changed(before, 0);
        machine.load(&*state);
    }
}

/// Builds a snapshot: names the checkpoint that was just written, or writes one.
pub(crate) struct Builder {
    store: Arc<ShardStore>,
    checkpointer: Arc<Checkpointer>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let store = self.store.clone();
        let _pin = store.pin.clone().lock_owned().await;
        // Snapshots that follow a checkpoint cost nothing; others cover all that is applied.
        if !store.unnamed.swap(false, Ordering::SeqCst) {
            let (store, checkpointer) = (store.clone(), self.checkpointer.clone());
            let written = runtime::aside(move || checkpointer.write(&[&store])).await;
            if written != Some(true) {
                let error = io::Error::other("the node is stopping");
                return Err(StorageIOError::write_snapshot(None, &error).into());
            }
        }
        store.unnamed.store(false, Ordering::SeqCst);
        let stored = store.state.lock().stored.clone();
        store.name(stored.last);
        // A sender asks for the current snapshot; only then is its data pinned.
        Ok(Snapshot { meta: snapshot::meta(&stored), snapshot: Box::default() })
    }
}
