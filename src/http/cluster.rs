//! How the cluster does, as this node sees it.
//!
//! - Owns: the shape of the report. Takes: `GET /api/v1/cluster` with the token. Gives: JSON.
//! - Bound: a line per node, shard and link.

use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::HttpState;

/// What `GET /api/v1/cluster` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterReport {
    /// Identity of the cluster, in hexadecimal digits.
    pub cluster: String,
    /// The node that answers.
    pub node: u64,
    /// It may rely on what it knows of the others.
    pub has_lease: bool,
    /// Every member that is known.
    pub nodes: Vec<NodeReport>,
    /// Groups of durable state, by number; the last one holds the metadata.
    pub groups: Vec<GroupReport>,
    /// What this node asks of the others, by node and class.
    pub links: Vec<LinkReport>,
    /// Filters for which messages cross nodes.
    pub routes: usize,
    /// Members that come, leave, or whose share of the shards changes.
    pub members_moving: Vec<MemberMove>,
    /// Groups on their way to other members.
    pub groups_moving: Vec<ShardMove>,
}

/// What a member still has to get and to give.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemberMove {
    /// The member.
    pub node: u64,
    /// Replicas that it gets.
    pub to_get: usize,
    /// Replicas that it gives away.
    pub to_give: usize,
}

/// A group on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardMove {
    /// Its number.
    pub group: u16,
    /// Who votes now; empty while no leader can be asked.
    pub now: Vec<u64>,
    /// Who shall.
    pub to: Vec<u64>,
    /// What new members still lack.
    pub behind: Vec<LagReport>,
    /// Bytes of a snapshot that were sent, and bytes in all; only its leader knows.
    pub snapshot_bytes: Option<(u64, u64)>,
    /// It has made no step for a while.
    pub stuck: bool,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Its id.
    pub node: u64,
    /// Not declared down.
    pub up: bool,
    /// How it leaves: `moving`, `lost`, or `released` once it may stop.
    pub leaving: Option<&'static str>,
    /// Number of its start.
    pub incarnation: u64,
    /// Where peers find it.
    pub cluster_address: String,
    /// Where clients may be sent to; may be empty.
    pub client_address: String,
    /// Its release.
    pub version: String,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupReport {
    /// Its number.
    pub group: u16,
    /// It holds the metadata, not a shard.
    pub meta: bool,
    /// Who leads it, if somebody does.
    pub leader: Option<u64>,
    /// The newest term.
    pub term: u64,
    /// Members that count for a quorum; empty if this node is none.
    pub voters: Vec<u64>,
    /// Members that follow without counting.
    pub learners: Vec<u64>,
    /// Where its replicas shall be, the preferred leader first; empty for the metadata.
    pub replicas: Vec<u64>,
    /// Index of the last entry that this node has applied.
    pub applied: u64,
    /// Entries that others are behind; only its leader knows.
    pub lag: Vec<LagReport>,
}

/// How far one member of a group is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LagReport {
    /// The member.
    pub node: u64,
    /// Entries.
    pub entries: u64,
}

/// One link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkReport {
    /// To which node.
    pub node: u64,
    /// What it carries.
    pub class: String,
    /// Requests can be sent.
    pub connected: bool,
    /// For so many milliseconds.
    pub since_ms: u64,
    /// Version of the protocol that both ends speak; 0 until they have met.
    pub protocol: u16,
    /// Bytes of requests without an answer yet.
    pub in_flight_bytes: u64,
    /// Why the last connection, or the last try of one, ended.
    pub last_error: Option<String>,
}

pub(super) async fn report(state: web::Data<HttpState>) -> HttpResponse {
    HttpResponse::Ok().json(state.node.cluster())
}
