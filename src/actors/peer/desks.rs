//! Where questions of other nodes arrive on this one.
//!
//! - Owns: the addresses of those who answer. Takes: bytes of a peer. Gives: the reply as bytes.
//! - Bound: that of the links, and of each mailbox.
//! - What is asked goes into its mailbox at once, so that requests of one peer and class keep their order.

use std::sync::Arc;

use actix::Recipient;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::{Served, id::NodeId};

use super::{Class, PeerReply, PeerRequest, RollFrom, decode, encode};
use crate::{
    actors::{
        durable_routes::DurableRoutes,
        groups::{GroupsDesk, SHARES_VERSION},
        home::{
            CallAgain, Claim, ClaimBy, Release, ReleaseBy,
            client::{Duty, take_roll},
        },
        hub::{GoneAmong, Kick, SessionsGrew, TakeRoll},
        relay::Arrivals,
        view::{Start, View},
    },
    clock,
    model::{connection_id::ConnectionId, id::SessionKey},
};

/// Who answers on this node.
pub struct Desks {
    /// Hubs, by worker.
    pub kick: Vec<Recipient<Kick>>,
    /// Hubs, by worker.
    pub grew: Vec<Recipient<SessionsGrew>>,
    /// Routes of the shards that are led here.
    pub durable_routes: Arc<DurableRoutes>,
    /// Takes what comes by the link for delivery.
    pub arrivals: Arc<Arrivals>,
    /// Takes shares of groups, which come by the same link.
    pub groups: GroupsDesk,
    /// Hubs, by worker.
    pub roll: Vec<Recipient<TakeRoll>>,
    /// Hubs, by worker.
    pub gone: Vec<Recipient<GoneAmong>>,
    /// Homes, by shard.
    pub claim: Vec<Recipient<ClaimBy>>,
    /// Homes, by shard.
    pub release: Vec<Recipient<ReleaseBy>>,
    /// Homes, by shard.
    pub again: Vec<Recipient<CallAgain>>,
    /// Roll calls are noted there.
    pub duty: Arc<Duty>,
    /// Who this node is.
    pub view: View,
}

type Serving = BoxFuture<'static, PeerReply>;

impl Desks {
    /// Serves what came from a peer. What is asked goes into its mailbox before this returns, so that
    /// requests of one peer and class are taken in the order of sending.
    ///
    /// # Errors
    /// The bytes are no request of a version that is known; the link is to be dropped.
    pub fn dispatch(&self, from: NodeId, class: Class, body: &Bytes) -> Served {
        if class == Class::Delivery && body.first() == Some(&SHARES_VERSION) {
            return self.groups.serve(from, body);
        }
        if class == Class::Delivery {
            return self.arrivals.arrive(from, body.clone());
        }
        let request = match decode::<PeerRequest>(body) {
            Ok(request) => request,
            Err(problem) => {
                return Box::pin(async move { Err(format!("node {}: {problem}", from.0)) });
            }
        };
        let reply = self.serve(from, request);
        Box::pin(async move { encode(&reply.await).map_err(|error| error.to_string()) })
    }

    fn serve(&self, from: NodeId, request: PeerRequest) -> Serving {
        match request {
            PeerRequest::EnsureRoutes { shard, keys } => {
                let routes = Arc::clone(&self.durable_routes);
                Box::pin(async move {
                    let ensured = routes.ensure(shard, &keys).await;
                    ensured.map_or(PeerReply::NotLed, |()| PeerReply::Done)
                })
            }
            PeerRequest::Time => {
                let system_ms = clock::system_ms();
                Box::pin(async move { PeerReply::Time { system_ms } })
            }
            PeerRequest::Kick { incarnation, kick } => {
                self.if_me(incarnation, || post(self.kick.get(kick.connection.worker()), kick))
            }
            PeerRequest::SessionsGrew { incarnation, connections } => {
                self.if_me(incarnation, || self.serve_grew(connections))
            }
            PeerRequest::Claim { incarnation, claim } => {
                self.serve_claim(Start { node: from, incarnation }, *claim)
            }
            PeerRequest::Release { incarnation, release } => {
                self.serve_release(Start { node: from, incarnation }, *release)
            }
            PeerRequest::RollCall { incarnation, shard, term, from } => {
                self.serve_roll(incarnation, shard, term, from)
            }
            PeerRequest::CallAgain { incarnation, shard } => {
                self.serve_again(Start { node: from, incarnation }, shard)
            }
            PeerRequest::GoneAmong { incarnation, connections } => {
                self.serve_gone(incarnation, connections)
            }
        }
    }

    /// Of connections of another start nothing is left.
    fn if_me(&self, incarnation: u64, serve: impl FnOnce() -> Serving) -> Serving {
        if incarnation == self.view.me().incarnation {
            return serve();
        }
        Box::pin(async { PeerReply::Done })
    }

    fn serve_grew(&self, connections: Vec<ConnectionId>) -> Serving {
        let lists = by_worker(connections, self.grew.len()).into_iter().zip(&self.grew);
        let told: Vec<_> = lists
            .filter(|(list, _)| !list.is_empty())
            .map(|(connections, hub)| hub.send(SessionsGrew { connections }))
            .collect();
        Box::pin(async move {
            for told in told {
                if told.await.is_err() {
                    return PeerReply::Stopping;
                }
            }
            PeerReply::Done
        })
    }

    fn shard(&self, key: SessionKey) -> usize {
        usize::from(key.bucket().shard(self.view.shards()).0)
    }

    fn serve_claim(&self, by: Start, claim: Claim) -> Serving {
        let Some(home) = self.claim.get(self.shard(claim.key)) else { return no_such_place() };
        let granted = home.send(ClaimBy { by, claim });
        Box::pin(async move { granted.await.map_or(PeerReply::Stopping, PeerReply::Claimed) })
    }

    fn serve_release(&self, by: Start, release: Release) -> Serving {
        let Some(home) = self.release.get(self.shard(release.key)) else { return no_such_place() };
        let released = home.send(ReleaseBy { by, release });
        Box::pin(async move { released.await.map_or(PeerReply::Stopping, PeerReply::Released) })
    }

    fn serve_roll(&self, incarnation: u64, shard: u16, term: u64, from: RollFrom) -> Serving {
        if incarnation != self.view.me().incarnation {
            // This node is not yet, or no longer, who is asked.
            return Box::pin(async { PeerReply::Stopping });
        }
        self.duty.called(shard, term);
        let (hubs, shards) = (self.roll.clone(), self.view.shards());
        Box::pin(async move {
            match take_roll(&hubs, (shard, shards), from).await {
                Some((connections, next)) => PeerReply::Roll { connections, next },
                None => PeerReply::NoSuchPlace,
            }
        })
    }

    fn serve_again(&self, by: Start, shard: u16) -> Serving {
        let Some(home) = self.again.get(usize::from(shard)) else { return no_such_place() };
        let called = home.send(CallAgain(by));
        Box::pin(async move {
            if called.await == Ok(true) { PeerReply::Done } else { PeerReply::Stopping }
        })
    }

    fn serve_gone(&self, incarnation: u64, connections: Vec<ConnectionId>) -> Serving {
        if incarnation != self.view.me().incarnation {
            return Box::pin(async { PeerReply::Stopping });
        }
        let gone = gone_among(&self.gone, connections);
        Box::pin(async move { gone.await.map_or(PeerReply::Stopping, PeerReply::Gone) })
    }
}

/// Asks the hubs of this node which connections are gone.
pub(in crate::actors) fn gone_among(
    hubs: &[Recipient<GoneAmong>],
    connections: Vec<ConnectionId>,
) -> BoxFuture<'static, Option<Vec<ConnectionId>>> {
    let lists = by_worker(connections, hubs.len()).into_iter().zip(hubs);
    let asked: Vec<_> = lists
        .filter(|(list, _)| !list.is_empty())
        .map(|(connections, hub)| hub.send(GoneAmong(connections)))
        .collect();
    Box::pin(async move {
        let mut gone = Vec::new();
        for asked in asked {
            gone.extend(asked.await.ok()?);
        }
        Some(gone)
    })
}

fn by_worker(connections: Vec<ConnectionId>, workers: usize) -> Vec<Vec<ConnectionId>> {
    let mut lists = vec![Vec::new(); workers];
    for connection in connections {
        if let Some(list) = lists.get_mut(connection.worker()) {
            list.push(connection);
        }
    }
    lists
}

fn no_such_place() -> Serving {
    Box::pin(async { PeerReply::NoSuchPlace })
}

/// Puts a message without a result into a mailbox.
fn post<M>(desk: Option<&Recipient<M>>, message: M) -> BoxFuture<'static, PeerReply>
where
    M: actix::Message<Result = ()> + Send + 'static,
{
    let Some(desk) = desk else { return Box::pin(async { PeerReply::NoSuchPlace }) };
    let done = desk.send(message);
    Box::pin(async move { done.await.map_or(PeerReply::Stopping, |()| PeerReply::Done) })
}
