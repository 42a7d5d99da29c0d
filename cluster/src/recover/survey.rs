//! What a folder has of each group, and what it lacks.
//!
//! - Owns: nothing. Takes: logs, stored states, and the directory as of the last entry here. Gives: `Survey`.
//! - Bound: one record per group and member.
//! - Source: own design.

use std::time::SystemTime;

use openraft::EntryPayload;

use super::Survivor;
use crate::{
    id::{NodeId, ShardId},
    raft_group::types::{LogId, StoredMembership},
};

/// What an operator must know before a majority is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Whose folder it is.
    pub node: NodeId,
    /// The cluster that it belongs to.
    pub cluster: [u8; 16],
    /// When its log was last written.
    pub written: Option<SystemTime>,
    /// An earlier attempt was cut off: it has to be ended.
    pub is_begun: bool,
    /// The cluster had removed this node: its copies are old.
    pub is_removed: bool,
    /// Everybody that the directory here knows, this node too.
    pub members: Vec<MemberSurvey>,
    /// Every group; the last one is the meta group.
    pub groups: Vec<GroupSurvey>,
}

/// One member, as the directory here has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSurvey {
    /// Its id.
    pub node: NodeId,
    /// Which start of it.
    pub incarnation: u64,
    /// It was not declared down, as far as this node has heard.
    pub up: bool,
    /// Where others found it.
    pub cluster_addr: String,
}

/// What this node was in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A member that counts: what was acknowledged here or with its vote is here.
    Voter,
    /// A copy that was still being made.
    Learner,
    /// A member once: what is here may be old.
    LetGo,
    /// Nothing is here.
    Absent,
}

/// What is here of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSurvey {
    /// Its number.
    pub shard: ShardId,
    /// It is the meta group.
    pub is_meta: bool,
    /// What this node was in it.
    pub standing: Standing,
    /// What is here can be gone on with; else an operator has to name the group.
    pub is_usable: bool,
    /// The last entry that is here.
    pub last: u64,
    /// Its term.
    pub last_term: u64,
    /// The newest term that this node has voted in.
    pub term: u64,
    /// The last entry that this node knows to be committed.
    pub committed: u64,
    /// The last entry in the state on the disk.
    pub applied: u64,
    /// Members that counted, as of the last entry here.
    pub voters: Vec<NodeId>,
    /// Members that followed.
    pub learners: Vec<NodeId>,
    /// Where the directory here places it; empty for the meta group.
    pub placed: Vec<NodeId>,
}

/// Puts the survey together.
pub(super) fn of(folder: &Survivor) -> Survey {
    let directory = &folder.directory;
    let members = directory.nodes.iter().map(|(node, member)| MemberSurvey {
        node: *node,
        incarnation: member.incarnation,
        up: member.up,
        cluster_addr: member.cluster_addr.clone(),
    });
    Survey {
        node: folder.found.node,
        cluster: folder.found.format.cluster,
        written: folder.written,
        is_begun: folder.begun.is_some(),
        is_removed: directory.removed.contains(&folder.found.node),
        members: members.collect(),
        groups: (0..=folder.found.format.shards).map(|group| group_of(folder, group)).collect(),
    }
}

/// Returns the last entry that is here, in the log or in the state.
pub(super) fn last(folder: &Survivor, group: u16) -> Option<LogId> {
    let stored = folder.stored.get(usize::from(group)).and_then(|applied| applied.last);
    let logged = folder.log.group(group).and_then(|log| log.last());
    logged.max(stored)
}

/// Returns the members as of the last entry that is here.
pub(super) fn membership(folder: &Survivor, group: u16) -> StoredMembership {
    let stored = folder.stored.get(usize::from(group));
    let stored = stored.map(|applied| applied.membership.clone()).unwrap_or_default();
    let from = stored.log_id().map_or(0, |id| id.index + 1);
    let entries = folder.log.group(group).map(|log| log.range(from..)).unwrap_or_default();
    let newest = entries.into_iter().rev().find_map(|entry| match entry.payload {
        EntryPayload::Membership(members) => {
            Some(StoredMembership::new(Some(entry.log_id), members))
        }
        EntryPayload::Blank | EntryPayload::Normal(_) => None,
    });
    newest.unwrap_or(stored)
}

fn group_of(folder: &Survivor, group: u16) -> GroupSurvey {
    let node = folder.found.node.0;
    let (last, members) = (last(folder, group), membership(folder, group));
    let members = members.membership();
    let (vote, committed) =
        folder.log.group(group).map(|log| (log.vote, log.committed)).unwrap_or_default();
    let applied = folder.stored.get(usize::from(group)).and_then(|applied| applied.last);
    let standing = if members.voter_ids().any(|id| id == node) {
        Standing::Voter
    } else if members.get_node(&node).is_some() {
        Standing::Learner
    } else if last.is_some() {
        Standing::LetGo
    } else {
        Standing::Absent
    };
    let is_meta = group == folder.found.format.shards;
    // Of the meta group some nodes are learners for good; one that knows itself has its copy.
    let follows = is_meta && folder.directory.nodes.contains_key(&folder.found.node);
    let is_usable = match standing {
        Standing::Voter => true,
        Standing::Learner => follows,
        Standing::LetGo | Standing::Absent => false,
    };
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let placed = folder.directory.shards.get(usize::from(group));
    GroupSurvey {
        shard: ShardId(group),
        is_meta,
        standing,
        is_usable,
        last: index(last),
        last_term: last.map_or(0, |id| id.leader_id.term),
        term: vote.map_or(0, |vote| vote.leader_id.term),
        committed: index(committed.max(applied)),
        applied: index(applied),
        voters: members.voter_ids().map(NodeId).collect(),
        learners: members.learner_ids().map(NodeId).collect(),
        placed: placed.cloned().unwrap_or_default(),
    }
}
