//! What an operator orders of the cluster, from any node.
//!
//! - Owns: the shape of orders. Takes: `POST /api/v1/cluster/...` with the token. Gives: 200 once it is decided,
//!   or problem+json; what follows is in `GET /api/v1/cluster`.
//! - Bound: bodies by `http.body_bytes_max`; an order takes some seconds at most.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::{HttpState, Problem, admin::refused};

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterOrder {
    /// A member is to leave for good.
    Leave(Leave),
    /// A replica of a shard is to move.
    MoveShard(MoveShard),
    /// The lead of a group is to change hands.
    Transfer(Transfer),
    /// This node is to write checkpoints and to let go of the log behind them.
    Snapshot(Snapshot),
}

/// What came of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ordered {
    /// It is decided.
    pub status: &'static str,
    /// What a snapshot has covered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Covered>,
}

/// How far a checkpoint goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// The group.
    pub group: u16,
    /// Last entry in the checkpoint.
    pub covered: u64,
    /// Last entry that was let go of.
    pub purged: u64,
}

/// Body of `leave`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leave {
    /// Who.
    pub node: u64,
    /// It is down and will not come back with its data.
    #[serde(default)]
    pub lost: bool,
}

/// Body of `move-shard`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveShard {
    /// Which shard.
    pub shard: u16,
    /// Where a replica is.
    pub from: u64,
    /// Where it shall be.
    pub to: u64,
}

/// Body of `transfer`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Which group.
    pub group: u16,
    /// Who shall lead it.
    pub to: u64,
}

/// Body of `snapshot`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Which groups; without it all.
    #[serde(default)]
    pub groups: Option<Vec<u16>>,
}

/// Serves one kind of order.
macro_rules! handler {
    ($name:ident, $body:ident) => {
        pub(super) async fn $name(
            state: web::Data<HttpState>,
            body: web::Json<$body>,
        ) -> Result<HttpResponse, Problem> {
            give(&state, ClusterOrder::$body(body.into_inner())).await
        }
    };
}

handler!(leave, Leave);
handler!(move_shard, MoveShard);
handler!(transfer, Transfer);
handler!(snapshot, Snapshot);

async fn give(state: &HttpState, order: ClusterOrder) -> Result<HttpResponse, Problem> {
    let done = state.node.order(order).await.map_err(|error| refused(&error))?;
    Ok(HttpResponse::Ok().json(done))
}
