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
use crate::storage::log::{Done, Log};

/// One group's log.
#[derive(Clone)]
pub(crate) struct LogStore {
    pub(crate) log: Arc<Log>,
    pub(crate) group: u16,
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
        Ok(self.log.group(self.group).and_then(|group| group.vote))
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
