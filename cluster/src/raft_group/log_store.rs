//! openraft's view of one group's part of the log.
//!
//! - Owns: nothing but a number. Takes: what openraft stores. Gives: it back, from memory.
//! - Bound: see `storage/log`. Never an error while the node runs: the flusher tries until it works.
//! - Source: openraft 0.9 `RaftLogStorage`, `RaftLogReader`.

use std::{fmt::Debug, io, ops::RangeBounds, sync::Arc};

use openraft::{
    LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::types::{Entry, LogId, StorageError, Types, Vote};
use crate::{
    id::NodeId,
    limits::APPEND_BYTES_TARGET,
    storage::log::{Done, Log},
};

/// One group's log.
#[derive(Clone)]
pub(crate) struct LogStore {
    pub(crate) log: Arc<Log>,
    pub(crate) group: u16,
    /// This node, if it must not take up a lead again that it had before it stopped; see `read_vote`.
    pub(crate) node: Option<NodeId>,
}

/// A callback, and what it tells.
pub(crate) fn awaited() -> (Done, oneshot::Receiver<io::Result<()>>) {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| {
        let _ = tell.send(result);
    });
    (done, told)
}

pub(crate) async fn durable(told: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    told.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.log.group(self.group).map(|group| group.range(range)).unwrap_or_default())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let group = self.log.group(self.group);
        Ok(group.map(|group| group.run(start..end, APPEND_BYTES_TARGET)).unwrap_or_default())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let group = self.log.group(self.group);
        let (purged, last) = group.map(|group| (group.purged, group.last())).unwrap_or_default();
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (done, told) = awaited();
        self.log.vote(self.group, *vote, done);
        durable(told).await.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let Some(group) = self.log.group(self.group) else { return Ok(None) };
        let mut vote = group.vote;
        if let (Some(vote), Some(node)) = (&mut vote, self.node)
            && vote.leader_id.node_id == node.0
        {
            // openraft would lead at once in its old term, without the entries that tell how far others
            // have come meanwhile. A vote for itself that was not won does no harm.
            vote.committed = false;
        }
        Ok(vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(id) = committed {
            self.log.committed(self.group, id);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.log.group(self.group).and_then(|group| group.committed))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let done = Box::new(move |result| callback.log_io_completed(result));
        self.log.append(self.group, entries, done);
        Ok(())
    }

    async fn truncate(&mut self, id: LogId) -> Result<(), StorageError> {
        let (done, told) = awaited();
        self.log.truncate(self.group, id.index, done);
        durable(told).await.map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, id: LogId) -> Result<(), StorageError> {
        self.log.purge(self.group, id);
        Ok(())
    }
}
