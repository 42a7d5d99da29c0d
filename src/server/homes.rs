//! Starts the homes and upkeeps of all shards, and puts together who answers other nodes.
//!
//! - Owns: nothing that stays. Takes: the actors of the first rounds. Gives: addresses by shard and worker.
//! - Shards are dealt to the workers in turn; every node has a home of every shard, and that of the leader acts.

use std::{rc::Rc, sync::Arc};

use actix::{Actor as _, Addr, Arbiter, Recipient};
use hongqiao_cluster::id::ShardId;

use super::workers::{First, LOAD_PAGE, Shared, on};
use crate::{
    actors::{
        appender::Appender,
        groups::{Groups, GroupsDesk},
        home::{
            self, CallAgain, ClaimBy, Home, ReleaseBy,
            client::{Duty, Homes},
        },
        hub::{GoneAmong, Kick, SessionsGrew, TakeRoll},
        peer::Desks,
        publish::{Publisher, Targets},
        redispatch::{FarMover, Moved, Mover, ReadOrphan},
        relay::Arrivals,
        upkeep::{self, Local, Meet, Upkeep},
    },
    clock, limits,
    model::id::SessionKey,
    shard::{
        client::ShardClient,
        query::{self, Held, HeldPage},
    },
};

/// The hubs, by what they take; each list by worker.
#[derive(Clone)]
pub(super) struct Hubs {
    kick: Vec<Recipient<Kick>>,
    grew: Vec<Recipient<SessionsGrew>>,
    roll: Vec<Recipient<TakeRoll>>,
    gone: Vec<Recipient<GoneAmong>>,
}

impl Hubs {
    /// Names the hubs of all workers, in their order.
    pub(super) fn of(first: &[First]) -> Self {
        let hubs = || first.iter().map(|first| first.hub.clone());
        Self {
            kick: hubs().map(Addr::recipient).collect(),
            grew: hubs().map(Addr::recipient).collect(),
            roll: hubs().map(Addr::recipient).collect(),
            gone: hubs().map(Addr::recipient).collect(),
        }
    }
}

/// The homes, by what they take; each list by shard.
#[derive(Clone, Default)]
pub(super) struct HomeDesks {
    claim: Vec<Recipient<ClaimBy>>,
    release: Vec<Recipient<ReleaseBy>>,
    again: Vec<Recipient<CallAgain>>,
}

/// Makes the way of one worker's connections to the homes.
pub(super) fn home_client(homes: HomeDesks, duty: Arc<Duty>, shared: &Shared) -> Homes {
    let HomeDesks { claim, release, again } = homes;
    let (view, peers) = (shared.view.clone(), shared.peers.clone());
    Homes { view, peers, claim, release, again, duty }
}

/// From now on this node answers the others.
pub(super) fn serve_peers(
    hubs: Hubs,
    homes: &HomeDesks,
    duty: &Arc<Duty>,
    (arrivals, groups): (Arc<Arrivals>, &[Addr<Groups>]),
    shared: &Shared,
) {
    let HomeDesks { claim, release, again } = homes.clone();
    let Hubs { kick, grew, roll, gone } = hubs;
    let desks = Desks {
        kick,
        grew,
        roll,
        gone,
        claim,
        release,
        again,
        duty: Arc::clone(duty),
        view: shared.view.clone(),
        durable_routes: Arc::clone(&shared.facts.durable_routes),
        arrivals,
        groups: GroupsDesk {
            deal: groups.iter().map(|each| each.clone().recipient()).collect(),
            choose: groups.iter().map(|each| each.clone().recipient()).collect(),
            offer: groups.iter().map(|each| each.clone().recipient()).collect(),
            view: shared.view.clone(),
        },
    };
    shared.shards.cluster().set_service(Arc::new(desks));
}

/// Starts the home and the upkeep of every shard; shards are dealt to the workers in turn.
pub(super) async fn start_homes(
    arbiters: &[Arbiter],
    first: &[First],
    hubs: &Hubs,
    targets: &Targets,
    shared: &Shared,
) -> anyhow::Result<HomeDesks> {
    let mut homes = HomeDesks::default();
    for shard in shared.shards.shards() {
        let at = usize::from(shard.0) % arbiters.len();
        let (shared, targets, hubs) = (shared.clone(), targets.clone(), hubs.clone());
        let appender = first[at].appender.clone();
        let start = move || start_home(shard, &shared, &targets, hubs, &appender);
        let home = on(&arbiters[at], start).await?;
        homes.claim.push(home.clone().recipient());
        homes.release.push(home.clone().recipient());
        homes.again.push(home.recipient());
    }
    Ok(homes)
}

fn start_home(
    shard: ShardId,
    shared: &Shared,
    targets: &Targets,
    hubs: Hubs,
    appender: &Addr<Appender>,
) -> Addr<Home> {
    let groups: Vec<_> = targets.groups.iter().map(|each| each.clone().recipient()).collect();
    let upkeep = upkeep::Neighbours {
        groups: groups.clone(),
        gone: hubs.gone,
        ..upkeep_neighbours(shard, shared, targets, appender)
    };
    let upkeep = Upkeep::new(shard, upkeep).start();
    let neighbours = home::Neighbours {
        kick: hubs.kick,
        grew: hubs.grew,
        roll: hubs.roll,
        submit: appender.clone().recipient(),
        look: upkeep.clone().recipient(),
        sweep: upkeep.clone().recipient(),
        groups,
        held: held(shard, &shared.shards, LOAD_PAGE, Held::Durable),
        peers: shared.peers.clone(),
        view: shared.view.clone(),
    };
    let home = Home::new(shard, neighbours, shared.facts.news(shard)).start();
    let meet = upkeep.send(Meet(home.clone().recipient()));
    actix_rt::spawn(meet);
    home
}

fn upkeep_neighbours(
    shard: ShardId,
    shared: &Shared,
    targets: &Targets,
    appender: &Addr<Appender>,
) -> upkeep::Neighbours {
    let publisher = Rc::new(Publisher::new(targets.clone(), appender.clone()));
    let shards = shared.shards.clone();
    upkeep::Neighbours {
        submit: appender.clone().recipient(),
        groups: Vec::new(),
        gone: Vec::new(),
        peers: shared.peers.clone(),
        view: shared.view.clone(),
        mover: mover(shard, shared, targets, appender),
        held: held(shard, &shared.shards, limits::STALE_SESSIONS_LOOKED, Held::Wills),
        is_due: Rc::new(move |now_ms| {
            let cluster = shards.cluster().clone();
            Box::pin(async move {
                let ask = move |machine: &_, store: &dyn hongqiao_cluster::Store| upkeep::Due {
                    tick: query::is_due(machine, store, now_ms),
                    orphans: query::has_orphans(machine),
                };
                cluster.read(shard, ask).await.unwrap_or_default()
            })
        }),
        publish: Rc::new(move |message, progress| {
            let publisher = Rc::clone(&publisher);
            Box::pin(async move { publisher.publish_will(Arc::new(message), progress).await })
        }),
    }
}

/// Moves what members of shared groups left in `shard`, one round for each call.
fn mover(
    shard: ShardId,
    shared: &Shared,
    targets: &Targets,
    appender: &Addr<Appender>,
) -> Rc<dyn Fn() -> upkeep::Local<Moved>> {
    let cluster = shared.shards.cluster().clone();
    let read: ReadOrphan = Rc::new(move |after| {
        let cluster = cluster.clone();
        let (messages, bytes) = (limits::ORPHAN_CHUNK_MESSAGES, limits::ORPHAN_CHUNK_BYTES);
        let (limits, now_ms) = (query::PageLimits { messages, bytes }, clock::wall_ms());
        Box::pin(async move {
            let ask = move |machine: &_, store: &dyn hongqiao_cluster::Store| {
                query::orphan_after(machine, store, after, limits, now_ms)
            };
            cluster.read(shard, ask).await.ok().flatten()
        })
    });
    let mover = Mover {
        shard,
        shards: targets.shards,
        hash_key: targets.hash_key,
        read,
        submit: appender.clone().recipient(),
        choose: targets.groups.iter().map(|each| each.clone().recipient()).collect(),
        not_a_member: targets.groups.iter().map(|each| each.clone().recipient()).collect(),
        offer: targets.routers.iter().map(|each| each.clone().recipient()).collect(),
        quotas: Arc::clone(&targets.quotas),
        far: FarMover {
            far: Arc::clone(&shared.far),
            choose: targets.groups.iter().map(|each| each.clone().recipient()).collect(),
            turn: Rc::default(),
        },
    };
    Rc::new(move || {
        let mover = mover.clone();
        Box::pin(async move { mover.round().await })
    })
}

/// Lists sessions of a shard that is led here.
fn held(
    shard: ShardId,
    shards: &ShardClient,
    limit: usize,
    which: Held,
) -> Rc<dyn Fn(Option<SessionKey>) -> Local<Option<HeldPage>>> {
    let cluster = shards.cluster().clone();
    Rc::new(move |after| {
        let cluster = cluster.clone();
        Box::pin(async move {
            let ask = move |machine: &_, _: &dyn hongqiao_cluster::Store| {
                query::held(machine, after, limit, which)
            };
            cluster.read(shard, ask).await.ok()
        })
    })
}
