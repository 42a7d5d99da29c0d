//! Puts a snapshot in the place of a group's state, also when that was cut off in the middle.
//!
//! ```text
//! no meta record ─▶ old pairs go ─▶ new pairs come ─▶ meta record ─▶ flush ─▶ install file goes
//! ```
//!
//! - Owns: the state while it is replaced: nobody reads it, no checkpoint is written.
//! - Takes: the install file of the group. Gives: what openraft knows of it.
//! - Bound: batches of `BATCH_BYTES`, whatever the state is.
//! - A state without its meta record is none: a start that finds one begins again from the file, and if
//!   that is damaged refuses to start. Errors of the disk are tried again until it works (HEAL).
//! - Source: own design.

use std::{io, path::Path, sync::Arc};

use super::file::{self, Meta, Reader};
use crate::{
    clock,
    error::StartError,
    limits::{RETRY_MAX, RETRY_MIN},
    raft_group::{log_store, types::LogId},
    runtime,
    storage::{
        checkpoint::ShardStore,
        log::Log,
        shelf::{Item, Kind, Shelf},
        state::{
            blocks::META,
            kv::{Batch, Kv},
            shard_state::decode_meta,
        },
    },
};

/// What is put into the store at once.
const BATCH_BYTES: usize = 512 << 10;

/// Replaces the state of a running group. The caller holds its pin, and loads its machine anew.
///
/// # Errors
/// If the file turns out to be damaged after all, or the node stops. The group cannot go on then; the
/// next start begins again.
pub(crate) async fn install(store: Arc<ShardStore>, shelf: Arc<dyn Shelf>) -> io::Result<Meta> {
    let installed = runtime::aside(move || {
        let gate = store.state.lock().gate.clone();
        let _gate = gate.write();
        install_until_done(&store, &*shelf)
    });
    installed.await.unwrap_or_else(|| Err(super::spool::stopping()))
}

fn install_until_done(store: &ShardStore, shelf: &dyn Shelf) -> io::Result<Meta> {
    let (kv, health) = (&*store.base.kv, &store.base.health);
    let item = Item { kind: Kind::Install, group: store.shard };
    let mut wait = RETRY_MIN;
    loop {
        let generation = kv.generation();
        match replace(kv, shelf, item) {
            // Opened again by a checkpoint meanwhile: what was not flushed then is gone.
            Ok(_) if kv.generation() != generation => continue,
            Ok(meta) => {
                health.note_state(None);
                return Ok(meta);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
            Err(error) if store.fill.is_stopped() => return Err(error),
            Err(error) => health.note_state(Some(&error)),
        }
        clock::rest(wait);
        wait = (wait * 2).min(RETRY_MAX);
        if kv.generation() == generation
            && let Err(error) = kv.reopen()
        {
            health.note_state(Some(&error));
        }
    }
}

/// A batch that is put into the store when it is large enough.
struct Filler<'a> {
    kv: &'a dyn Kv,
    group: u16,
    batch: Batch,
    bytes: usize,
}

impl Filler<'_> {
    fn push(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> io::Result<()> {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.batch.push((key, value));
        if self.bytes >= BATCH_BYTES { self.apply() } else { Ok(()) }
    }

    fn apply(&mut self) -> io::Result<()> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.kv.apply(self.group, batch) }
    }
}

/// Replaces the pairs of a group by those of a file; flushed when it returns.
fn replace(kv: &dyn Kv, shelf: &dyn Shelf, item: Item) -> io::Result<Meta> {
    let mut reader = Reader::open(shelf, item)?;
    let group = item.group;
    let mut filler = Filler { kv, group, batch: Batch::new(), bytes: 0 };
    filler.push(META.to_vec(), None)?;
    // By itself, so that nothing is gone before it.
    filler.apply()?;
    let mut at = META.to_vec();
    while let Some((key, _)) = kv.above(group, &at)? {
        at = key.to_vec();
        filler.push(at.clone(), None)?;
    }
    filler.apply()?;
    let mut meta_record = None;
    while let Some((key, value)) = reader.next()? {
        if key == META {
            meta_record = Some(value.to_vec());
        } else {
            filler.push(key.to_vec(), Some(value.to_vec()))?;
        }
    }
    filler.apply()?;
    if meta_record.is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it has no meta record"));
    }
    filler.push(META.to_vec(), meta_record)?;
    filler.apply()?;
    kv.flush()?;
    Ok(reader.meta)
}

/// Ends at a start what the last one had begun. Called before any state is opened.
///
/// # Errors
/// `StateHalf` if a state is neither whole nor can be made so.
pub(crate) async fn redo(
    shelf: &Arc<dyn Shelf>,
    kv: &dyn Kv,
    log: &Arc<Log>,
    groups: u16,
    folder: &Path,
) -> Result<(), StartError> {
    let unreadable = StartError::of_state("read the state in", &folder.join("state"));
    let failed = |what, item| {
        let path = shelf.path(item);
        move |source| StartError::Io { what, path, source }
    };
    let none = Item { kind: Kind::Install, group: groups };
    let installs = shelf.installs().map_err(failed("look for", none))?;
    for group in installs {
        let item = Item { kind: Kind::Install, group };
        redo_one(&**shelf, kv, log, item).await?;
        shelf.remove(item).map_err(failed("remove", item))?;
    }
    for group in 0..groups {
        let item = Item { kind: Kind::Install, group };
        let has_meta = kv.get(group, META).map_err(&unreadable)?.is_some();
        let has_more = kv.above(group, META).map_err(&unreadable)?.is_some();
        if has_more && !has_meta {
            return Err(StartError::StateHalf { shard: group, path: shelf.path(item) });
        }
    }
    Ok(())
}

async fn redo_one(
    shelf: &dyn Shelf,
    kv: &dyn Kv,
    log: &Arc<Log>,
    item: Item,
) -> Result<(), StartError> {
    let group = item.group;
    let path = shelf.path(item);
    let failed = |what| {
        let path = path.clone();
        move |source| StartError::Io { what, path, source }
    };
    let stored = kv.get(group, META).map_err(failed("read the state before"))?;
    let is_whole = stored.is_some();
    let stored = stored.map(|record| decode_meta(&record)).transpose();
    let stored = stored.map_err(failed("read the state before"))?.and_then(|applied| applied.last);
    let meta = match file::check(shelf, item) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let purged = log.group(group).and_then(|group| group.purged);
            let is_usable = is_whole && stored >= purged;
            if !is_usable {
                tracing::error!(group, path = %path.display(), %error, "the snapshot is damaged");
                return Err(StartError::StateHalf { shard: group, path });
            }
            tracing::warn!(
                group,
                path = %path.display(),
                %error,
                "a snapshot that was not installed yet is damaged and thrown away"
            );
            return Ok(());
        }
        Err(error) => return Err(failed("read")(error)),
    };
    if is_whole && stored >= meta.last_log_id {
        return Ok(());
    }
    replace(kv, shelf, item).map_err(failed("install"))?;
    let last = meta.last_log_id.map(|id| id.index);
    tracing::warn!(group, last, "a snapshot whose installation was cut off is installed");
    if let Some(last) = meta.last_log_id {
        drop_conflict(log, group, last).await.map_err(failed("correct the log for"))?;
    }
    Ok(())
}

/// Takes back entries that the snapshot contradicts: they never were committed.
async fn drop_conflict(log: &Arc<Log>, group: u16, last: LogId) -> io::Result<()> {
    let found = log.group(group).map(|group| group.range(last.index..=last.index));
    let conflicts =
        found.and_then(|found| found.first().map(|entry| entry.log_id != last)).unwrap_or(false);
    if !conflicts {
        return Ok(());
    }
    let (done, told) = log_store::awaited();
    log.truncate(group, last.index, done);
    log_store::durable(told).await
}
