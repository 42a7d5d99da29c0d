//! The cluster as the actors see it: links, who leads, who is up.
//!
//! - Owns: the task that translates the directory. Takes: the handle. Gives: [`Peers`] and a [`View`].
//! - Bound: one list of members at a time; it is made again when the directory changes.

use std::sync::Arc;

use hongqiao_cluster::{ClusterHandle, Directory, id::ShardId};
use tokio::sync::watch;

use crate::{
    actors::{
        cluster_port::ClusterPort,
        peer::Peers,
        route_tables::RouteTables,
        view::{Member, Members, Start, View},
    },
    clock, limits,
    shard::machine::ShardMachine,
};

type Handle = ClusterHandle<ShardMachine>;

/// Returns the links to the other nodes.
pub(super) fn peers(cluster: &Handle) -> Peers {
    Peers::new(Arc::new(ClusterPort(cluster.clone())))
}

/// Returns what this node knows of the cluster, and keeps it up to date as long as the runtime runs.
pub(super) fn view(cluster: &Handle) -> View {
    let shards = 0..cluster.shards();
    let leads = shards.map(|shard| cluster.leadership(ShardId(shard)));
    let leads = leads.collect();
    let mut changed = cluster.meta().changed();
    changed.mark_changed();
    let (tell, members) = watch::channel(Arc::new(members_of(cluster)));
    let cluster = cluster.clone();
    actix_rt::spawn(async move {
        while changed.changed().await.is_ok() {
            let members = Arc::new(members_of(&cluster));
            tell.send_if_modified(|told| {
                let is_new = *told != members;
                *told = members;
                is_new
            });
        }
    });
    View::new(leads, members)
}

fn members_of(cluster: &Handle) -> Members {
    let me = Start { node: cluster.node(), incarnation: cluster.incarnation() };
    translate(me, &cluster.meta().directory())
}

/// Waits until this node is a member: before that it does not know whether it is alone.
pub(super) async fn wait_for_membership(cluster: &Handle) {
    let (me, mut changed) = (cluster.node(), cluster.meta().changed());
    let start = clock::now();
    let mut said = 0;
    while !cluster.meta().directory().nodes.contains_key(&me) {
        // The directory may have changed before the receiver was made.
        let _ = tokio::time::timeout(limits::HOME_RETRY, changed.changed()).await;
        let due = start.elapsed().as_secs() / limits::BOOT_SAYS_EVERY.as_secs();
        if due > said {
            said = due;
            tracing::warn!("waiting for the cluster: this node is no member yet");
        }
    }
}

/// Waits until the others have told all their routes: of a shared group they do not tell only its members know,
/// and what is published here meanwhile would not reach it. A node that does not tell is not waited for for ever.
pub(super) async fn wait_for_routes(tables: &RouteTables) {
    let told = async {
        while !tables.load().knows_all() {
            tokio::time::sleep(limits::LEASE_LOOK).await;
        }
    };
    if tokio::time::timeout(limits::ROUTES_TOLD_WAIT, told).await.is_err() {
        tracing::warn!(
            "other nodes or shards have not told all their routes: shared groups may miss messages"
        );
    }
}

/// This node is what it knows itself to be, whatever the others have written down so far.
fn translate(me: Start, directory: &Directory) -> Members {
    let others = directory.nodes.iter().filter(|(node, _)| **node != me.node);
    let others = others.map(|(node, member)| Member {
        start: Start { node: *node, incarnation: member.incarnation },
        up: member.up,
    });
    // Whatever was held by a node that was removed is held by nobody.
    let removed = directory
        .removed
        .iter()
        .map(|node| Member { start: Start { node: *node, incarnation: u64::MAX }, up: false });
    let all = std::iter::once(Member { start: me, up: true }).chain(others).chain(removed);
    let all = all.collect();
    let leaders = directory.leaders.iter().copied().collect();
    Members { me, alone: directory.is_alone(me.node), all, leaders }
}
