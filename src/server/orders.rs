//! Carries out what an operator orders of the cluster.
//!
//! - Owns: nothing. Takes: checked orders. Gives: what came of them, in words for people.
//! - Bound: each order takes some seconds at most; what follows from it goes on by itself.

use hongqiao_cluster::{
    ClusterHandle, MemberError,
    id::{NodeId, ShardId},
};

use crate::{
    http::{AdminError, ClusterOrder, Covered, Ordered},
    shard::machine::ShardMachine,
};

/// Gives one order.
pub(super) async fn give(
    cluster: ClusterHandle<ShardMachine>,
    order: ClusterOrder,
) -> Result<Ordered, AdminError> {
    let mut groups = Vec::new();
    match order {
        ClusterOrder::Leave(leave) => cluster.leave(NodeId(leave.node), leave.lost).await,
        ClusterOrder::MoveShard(of) => {
            cluster.move_shard(ShardId(of.shard), NodeId(of.from), NodeId(of.to)).await
        }
        ClusterOrder::Transfer(of) => cluster.transfer(ShardId(of.group), NodeId(of.to)).await,
        ClusterOrder::Snapshot(of) => {
            let chosen = of.groups.map(|groups| groups.into_iter().map(ShardId).collect());
            cluster.snapshot(chosen).await.map(|done| {
                groups = done
                    .into_iter()
                    .map(|of| Covered { group: of.shard.0, covered: of.covered, purged: of.purged })
                    .collect();
            })
        }
    }
    .map_err(|why| refusal(&why))?;
    Ok(Ordered { status: "done", groups })
}

fn refusal(why: &MemberError) -> AdminError {
    let text = why.to_string();
    match why {
        MemberError::NoNode(_) | MemberError::NoShard(_) => AdminError::NotFound(text),
        MemberError::NoLeader(_) => AdminError::Unavailable(text),
        MemberError::Unavailable(why) => AdminError::Unavailable(why.clone()),
        MemberError::Unknown => AdminError::Unknown,
        _ => AdminError::Refused(text),
    }
}
