//! The folder of a node that does not run: what it has of its cluster, and how one node goes on alone.
//!
//! - Owns: the folder while it is looked at. Takes: an operator's word. Gives: a report; a folder that a node
//!   starts on as the only member of a new cluster.
//! - Bound: a line per member and group.

use std::{collections::BTreeSet, path::Path, time::UNIX_EPOCH};

use hongqiao_cluster::{
    id::{NodeId, ShardId},
    recover::{GroupSurvey, Standing, Survivor},
};
use serde::Serialize;

/// A folder that is locked and looked at.
pub struct Folder {
    survivor: Survivor,
}

/// What is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FolderReport {
    /// Identity of its cluster, in hexadecimal digits.
    pub cluster: String,
    /// Whose folder it is.
    pub node: u64,
    /// When its log was last written, milliseconds since 1970.
    pub written_ms: Option<u64>,
    /// A recovery was cut off and has to be ended.
    pub is_begun: bool,
    /// The cluster had removed this node.
    pub is_removed: bool,
    /// The members that are known here.
    pub members: Vec<FolderMember>,
    /// The groups, by number; the last one holds the metadata.
    pub groups: Vec<FolderGroup>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FolderMember {
    /// Its id.
    pub node: u64,
    /// Not declared down, as far as was heard here.
    pub up: bool,
    /// Where peers found it.
    pub cluster_address: String,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FolderGroup {
    /// Its number.
    pub group: u16,
    /// It holds the metadata, not a shard.
    pub meta: bool,
    /// `voter`, `learner`, `old` (a member once) or `none`.
    pub here: &'static str,
    /// It can be gone on with; else it has to be named.
    pub usable: bool,
    /// Last entry here.
    pub last: u64,
    /// Its term.
    pub last_term: u64,
    /// Last entry that is known to be committed.
    pub committed: u64,
    /// Last entry in the state store.
    pub applied: u64,
    /// Members that counted for a quorum.
    pub voters: Vec<u64>,
    /// Where the metadata here places it.
    pub placed: Vec<u64>,
}

impl Folder {
    /// Locks a data folder and reads it.
    ///
    /// # Errors
    /// A node runs on it, it is none, or it is damaged.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { survivor: Survivor::open(path)? })
    }

    /// Tells what is in it; changes nothing.
    #[must_use]
    pub fn report(&self) -> FolderReport {
        let survey = self.survivor.survey();
        let written = survey.written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let members = survey.members.into_iter().map(|member| FolderMember {
            node: member.node.0,
            up: member.up,
            cluster_address: member.cluster_addr,
        });
        FolderReport {
            cluster: hex(survey.cluster),
            node: survey.node.0,
            written_ms: written.and_then(|time| u64::try_from(time.as_millis()).ok()),
            is_begun: survey.is_begun,
            is_removed: survey.is_removed,
            members: members.collect(),
            groups: survey.groups.into_iter().map(group).collect(),
        }
    }

    /// Makes the node the only member of a new cluster; returns its id. `accept` names groups that are
    /// not usable and go on with what is here.
    ///
    /// # Errors
    /// A group is neither usable nor named, or a disk fails; then it may be done again.
    pub fn found(self, accept: &BTreeSet<u16>) -> anyhow::Result<String> {
        let accept = accept.iter().copied().map(ShardId).collect();
        Ok(hex(self.survivor.found(&accept)?))
    }
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn group(of: GroupSurvey) -> FolderGroup {
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    FolderGroup {
        group: of.shard.0,
        meta: of.is_meta,
        here: match of.standing {
            Standing::Voter => "voter",
            Standing::Learner => "learner",
            Standing::LetGo => "old",
            Standing::Absent => "none",
        },
        usable: of.is_usable,
        last: of.last,
        last_term: of.last_term,
        committed: of.committed,
        applied: of.applied,
        voters: ids(of.voters),
        placed: ids(of.placed),
    }
}
