//! Writes what makes a survivor a cluster of one: an entry or two behind each log, and a new cluster id.
//!
//! - Owns: the mark `recovering`: from its first byte to its removal no node starts on the folder.
//! - Takes: the open folder. Gives: logs whose last members are this node alone, in a term that nobody has
//!   heard of; a directory without the others; `FORMAT` of a cluster that this node has founded.
//! - Bound: two entries per group. What is done already is not done again.
//! - Source: own design.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use openraft::{CommittedLeaderId, EmptyNode, EntryPayload, Membership};

use super::{Survey, Survivor, io as start_io, survey};
use crate::{
    directory::Directory,
    error::{RecoverError, StartError},
    id::{NodeId, ShardId},
    meta::{MetaCommand, command},
    raft_group::types::{Entry, LogId, Proposal, Types, Vote},
    storage::folder::{
        self,
        format::{self, Format},
        marks::replace,
        record::NodeRecord,
    },
};

/// Returns where the mark is.
pub(super) fn mark(folder: &Path) -> PathBuf {
    folder.join(folder::RECOVERING)
}

/// Returns the cluster that an earlier attempt had begun to make.
pub(super) fn begun(mark: &Path) -> Result<Option<[u8; 16]>, StartError> {
    match fs::read_to_string(mark) {
        Ok(text) => folder::cluster_of(mark, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(start_io("read", mark)(error)),
    }
}

/// Does it, or the first `steps` of it for a test: a group each, `FORMAT`, the end. Gives the new cluster's id.
pub(super) fn run(
    folder: &Survivor,
    survey: &Survey,
    steps: usize,
) -> Result<[u8; 16], RecoverError> {
    let mut batches = batches(folder, survey)?;
    let rest = steps.saturating_sub(batches.len());
    batches.truncate(steps);
    let mark = mark(&folder.path);
    let cluster = folder.begun.map_or_else(format::random_id, Ok)?;
    replace(&mark, &folder::cluster_text(&cluster)).map_err(start_io("write", &mark))?;
    write(folder, batches)?;
    let format = Format { cluster, joined: false, ..folder.found.format.clone() };
    if rest > 0 {
        // The only member of its cluster is whoever it was a copy of.
        let record =
            NodeRecord { is_copy: false, superseded: false, ..folder.found.record.clone() };
        let node = folder.path.join("node");
        replace(&node, &record.text()).map_err(start_io("write", &node))?;
        format::write(&folder.path.join("FORMAT"), &format)?;
    }
    if rest > 1 {
        fs::remove_file(&mark)
            .and_then(|()| File::open(&folder.path)?.sync_all())
            .map_err(start_io("remove", &mark))?;
    }
    Ok(cluster)
}

/// What is added to one group.
struct Batch {
    group: u16,
    /// Entries up to here are in the state, and not in the log.
    purge: Option<LogId>,
    vote: Vote,
    entries: Vec<Entry>,
}

/// Makes what is added to every group that is not done yet.
fn batches(folder: &Survivor, survey: &Survey) -> Result<Vec<Batch>, RecoverError> {
    let node = folder.found.node.0;
    let mut batches = Vec::new();
    for group in survey.groups.iter().map(|group| group.shard.0) {
        let is_meta = group == folder.found.format.shards;
        let members = survey::membership(folder, group);
        let members = members.membership();
        let mut payloads = Vec::new();
        if !members.nodes().map(|(id, _)| *id).eq([node]) {
            let alone = Membership::new(
                vec![BTreeSet::from([node])],
                BTreeMap::from([(node, EmptyNode::new())]),
            );
            payloads.push(EntryPayload::Membership(alone));
        }
        let commands = if is_meta { commands(folder) } else { Vec::new() };
        if !commands.is_empty() {
            let commands = Arc::from([command::encode(&commands)]);
            payloads.push(EntryPayload::Normal(Proposal { commands, ..Proposal::default() }));
        }
        let is_done = payloads.is_empty();
        let batch = batch(folder, group, payloads);
        // A log that is gone begins anew where the state ends.
        if is_done && batch.purge.is_none() {
            continue;
        }
        if is_meta {
            check(folder, &batch.entries)?;
        }
        batches.push(batch);
    }
    Ok(batches)
}

fn batch(folder: &Survivor, group: u16, payloads: Vec<EntryPayload<Types>>) -> Batch {
    let node = folder.found.node.0;
    let last = survey::last(folder, group);
    let (vote, logged) =
        folder.log.group(group).map(|log| (log.vote, log.last())).unwrap_or_default();
    // Others may have voted, and led, in later terms than the log here knows.
    let led = folder.directory.leader(ShardId(group)).map_or(0, |led| led.term);
    let terms = [vote.map_or(0, |vote| vote.leader_id.term), led];
    let term = terms.into_iter().chain(last.map(|id| id.leader_id.term)).max().unwrap_or(0) + 1;
    let id = CommittedLeaderId::new(term, node);
    let first = last.map_or(0, |id| id.index + 1);
    let entries = (first..).zip(payloads);
    Batch {
        group,
        purge: last.filter(|_| logged < last),
        vote: Vote::new(term, node),
        entries: entries
            .map(|(index, payload)| Entry { log_id: LogId::new(id, index), payload })
            .collect(),
    }
}

/// Returns what the directory is told: the others are gone, and everything is here.
fn commands(folder: &Survivor) -> Vec<MetaCommand> {
    let (node, directory) = (folder.found.node, &folder.directory);
    let mut commands = Vec::new();
    if directory.nodes.is_empty() {
        // The first who comes founds it, as in a new cluster.
        return commands;
    }
    if !directory.nodes.contains_key(&node) {
        commands.push(MetaCommand::NodeUp {
            node,
            incarnation: folder.found.record.incarnation,
            cluster_addr: String::new(),
            client_addr: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
    }
    if directory.leaving.contains_key(&node) {
        commands.push(MetaCommand::Stay { node });
    }
    let others = || directory.nodes.iter().filter(|(id, _)| **id != node);
    for (lost, member) in others().filter(|(_, member)| member.up) {
        commands.push(MetaCommand::NodeDown { node: *lost, incarnation: member.incarnation });
    }
    for (shard, replicas) in (0..).map(ShardId).zip(&directory.shards) {
        if *replicas != [node] {
            commands.push(MetaCommand::SetReplicas { shard, replicas: vec![node] });
        }
    }
    commands.extend(others().map(|(lost, _)| MetaCommand::RemoveNode { node: *lost }));
    commands
}

/// Refuses before anything was written if the directory would not become what it shall be.
fn check(folder: &Survivor, entries: &[Entry]) -> Result<(), RecoverError> {
    let node = folder.found.node;
    folder.meta.apply(entries.iter().cloned());
    let after: Directory = folder.meta.machine.lock().directory().clone();
    let is_alone = after.nodes.is_empty()
        || after.nodes.keys().eq([&node])
            && after.leaving.is_empty()
            && after.shards.iter().all(|at| *at == [node]);
    if is_alone { Ok(()) } else { Err(RecoverError::Refused { members: others(&after, node) }) }
}

fn others(directory: &Directory, node: NodeId) -> Vec<NodeId> {
    directory.nodes.keys().copied().filter(|id| *id != node).collect()
}

/// Writes all of it; synced when it returns.
fn write(folder: &Survivor, batches: Vec<Batch>) -> Result<(), StartError> {
    let (tell, told) = mpsc::sync_channel(2 * batches.len() + 1);
    let mut waiting = 0;
    for Batch { group, purge, vote, entries } in batches {
        let done = || {
            let tell = tell.clone();
            Box::new(move |result| drop(tell.send(result)))
        };
        if let Some(last) = purge {
            folder.log.purge(group, last);
        }
        folder.log.vote(group, vote, done());
        folder.log.append(group, entries, done());
        waiting += 2;
    }
    let written = (0..waiting).try_for_each(|_| told.recv().map_err(io::Error::other)?);
    written.map_err(start_io("write", &folder.path.join("log")))
}
