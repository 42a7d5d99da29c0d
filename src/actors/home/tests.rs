//! Tests of the register: hubs, appender and upkeep are doubles that write down what they are asked; the
//! cluster is what a test says it is.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix::{Addr, Message};
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use hongqiao_cluster::{Lead, id::NodeId};
use parking_lot::Mutex;
use tokio::sync::watch;

mod full;
mod several;

use super::*;
use crate::{
    actors::{
        peer::{PeerError, PeerReply, Wire, decode, encode},
        view::{Member, Members},
    },
    model::id::AppId,
};

type Log = Rc<RefCell<Vec<String>>>;

/// A hub, an appender and an upkeep in one.
struct Double {
    log: Log,
    epoch: u64,
    /// Whom the shard names as holder before the next claim.
    previous: Option<Holder>,
    /// Released by the connection when it is kicked.
    home: Option<Addr<Home>>,
}

impl Actor for Double {
    type Context = Context<Self>;
}

impl Handler<Kick> for Double {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, kick: Kick, _: &mut Self::Context) -> Self::Result {
        self.log.borrow_mut().push(format!("kick {:?}", kick.connection));
        let (home, log) = (self.home.clone(), Rc::clone(&self.log));
        Box::pin(async move {
            let Some(home) = home else { return std::future::pending().await };
            home.send(release(kick.connection)).await.unwrap();
            log.borrow_mut().push("released".to_owned());
        })
    }
}

impl Handler<SessionsGrew> for Double {
    type Result = ();

    fn handle(&mut self, grew: SessionsGrew, _: &mut Self::Context) {
        self.log.borrow_mut().push(format!("grew {:?}", grew.connections));
    }
}

impl Handler<TakeRoll> for Double {
    type Result = actix::MessageResult<TakeRoll>;

    fn handle(&mut self, _: TakeRoll, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult((Vec::new(), None))
    }
}

impl Handler<Look> for Double {
    type Result = ();

    fn handle(&mut self, _: Look, _: &mut Self::Context) {}
}

impl Handler<Sweep> for Double {
    type Result = ();

    fn handle(&mut self, sweep: Sweep, _: &mut Self::Context) {
        self.log.borrow_mut().push(format!("sweep {}", sweep.0.node.0));
    }
}

impl Handler<Submit> for Double {
    type Result = Result<Reply, SubmitError>;

    fn handle(&mut self, submit: Submit, _: &mut Self::Context) -> Self::Result {
        match submit.command {
            Command::ClaimIn { claim, .. } => {
                let holder = claim.holder;
                self.epoch += 1;
                let id = ConnectionId::from_u64(holder.connection);
                self.log.borrow_mut().push(format!("claim {id:?}"));
                let (epoch, previous_holder) = (Epoch(self.epoch), self.previous.take());
                let (session, will) = match claim.expiry_secs {
                    0 => (Epoch(0), epoch),
                    _ => (epoch, Epoch(0)),
                };
                let claimed =
                    Claimed { epoch: session, will, previous_holder, ..Claimed::default() };
                Ok(Reply::Claimed(Box::new(claimed)))
            }
            Command::Release { epoch: FENCED, .. } => Ok(Reply::Fenced),
            Command::Release { .. } => {
                self.log.borrow_mut().push("release".to_owned());
                Ok(Reply::Done)
            }
            _ => Err(SubmitError::Unknown),
        }
    }
}

/// Sets the home that a kicked connection releases to.
#[derive(Message)]
#[rtype(result = "()")]
struct SetHome(Addr<Home>);

impl Handler<SetHome> for Double {
    type Result = ();

    fn handle(&mut self, set: SetHome, _: &mut Self::Context) {
        self.home = Some(set.0);
    }
}

/// Says whom the shard names as holder before the next claim.
#[derive(Message)]
#[rtype(result = "()")]
struct SetPrevious(Holder);

impl Handler<SetPrevious> for Double {
    type Result = ();

    fn handle(&mut self, set: SetPrevious, _: &mut Self::Context) {
        self.previous = Some(set.0);
    }
}

/// The other nodes: answers what a test has prepared, notes what was asked.
#[derive(Default)]
struct Others {
    asked: Mutex<Vec<(u64, PeerRequest)>>,
    rolls: Mutex<AHashMap<u64, Vec<(SessionKey, ConnectionId)>>>,
    silent: Mutex<AHashSet<u64>>,
}

impl Others {
    fn asked(&self) -> Vec<(u64, PeerRequest)> {
        std::mem::take(&mut *self.asked.lock())
    }

    /// Whom they were asked to kick.
    fn kicked(&self) -> Vec<(u64, u64, ConnectionId)> {
        let asked = self.asked();
        let kicked = asked.into_iter().filter_map(|(node, request)| match request {
            PeerRequest::Kick { incarnation, kick } => Some((node, incarnation, kick.connection)),
            _ => None,
        });
        kicked.collect()
    }
}

impl Wire for Others {
    fn request(
        &self,
        to: NodeId,
        _: Class,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let request: PeerRequest = decode(&body).unwrap();
        let reply = match &request {
            PeerRequest::RollCall { .. } => PeerReply::Roll {
                connections: self.rolls.lock().get(&to.0).cloned().unwrap_or_default(),
                next: None,
            },
            _ => PeerReply::Done,
        };
        self.asked.lock().push((to.0, request));
        if self.silent.lock().contains(&to.0) {
            return Box::pin(async move {
                tokio::time::sleep(time_out).await;
                Err(PeerError::Unknown)
            });
        }
        Box::pin(async move { Ok(encode(&reply).unwrap()) })
    }

    fn cast(&self, _: NodeId, _: Class, _: Bytes) -> Result<(), PeerError> {
        Err(PeerError::Unreachable)
    }
}

/// A home and all that it sees.
struct World {
    home: Addr<Home>,
    double: Addr<Double>,
    news: Arc<News>,
    log: Log,
    others: Arc<Others>,
    lead: watch::Sender<Lead>,
    members: watch::Sender<Arc<Members>>,
}

const ME: Start = Start { node: NodeId(1), incarnation: 1 };

fn start_of(node: u64, incarnation: u64) -> Start {
    Start { node: NodeId(node), incarnation }
}

fn here(term: u64) -> Lead {
    Lead { leader: Some(NodeId(1)), term, here: true }
}

fn members(others: &[(Start, bool)]) -> Arc<Members> {
    let alone = others.is_empty();
    let others = others.iter().map(|(start, up)| Member { start: *start, up: *up });
    let all = std::iter::once(Member { start: ME, up: true }).chain(others).collect();
    Arc::new(Members { me: ME, alone, all, leaders: Vec::new() })
}

impl World {
    fn new(lead: Lead, others: &[(Start, bool)], held: Vec<(SessionKey, Option<Holder>)>) -> Self {
        Self::with_hub(lead, others, held, None)
    }

    /// As `new`; `grew` hears the news in the place of the double.
    fn with_hub(
        lead: Lead,
        others: &[(Start, bool)],
        held: Vec<(SessionKey, Option<Holder>)>,
        grew: Option<Recipient<SessionsGrew>>,
    ) -> Self {
        tokio::time::pause();
        let log = Log::default();
        let double = Double { log: Rc::clone(&log), epoch: 0, previous: None, home: None }.start();
        let (lead, members) = (watch::Sender::new(lead), watch::Sender::new(members(others)));
        let links = Arc::<Others>::default();
        let neighbours = Neighbours {
            kick: vec![double.clone().recipient()],
            grew: vec![grew.unwrap_or_else(|| double.clone().recipient())],
            roll: vec![double.clone().recipient()],
            submit: double.clone().recipient(),
            look: double.clone().recipient(),
            sweep: double.clone().recipient(),
            groups: Vec::new(),
            held: Rc::new(move |_| {
                let sessions = held.iter().map(|(key, held)| (*key, Epoch(1), *held)).collect();
                Box::pin(async { Some(HeldPage { sessions, next: None }) })
            }),
            peers: Peers::new(Arc::clone(&links) as _),
            view: View::new(vec![lead.subscribe()], members.subscribe()),
        };
        let news = Arc::<News>::default();
        let home = Home::new(ShardId(0), neighbours, Arc::clone(&news)).start();
        Self { home, double, news, log, others: links, lead, members }
    }

    fn alone() -> Self {
        Self::new(here(1), &[], Vec::new())
    }

    /// Kicked connections of this node release.
    async fn polite(self) -> Self {
        self.double.send(SetHome(self.home.clone())).await.unwrap();
        self
    }

    async fn who_is(&self, key: SessionKey) -> Option<(Start, ConnectionId)> {
        self.home.send(WhoIs(key)).await.unwrap()
    }
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

const KEY: SessionKey = SessionKey(5);
/// What carries it is refused by the shard.
const FENCED: Epoch = Epoch(99);

fn connection(slot: u32) -> ConnectionId {
    ConnectionId::new(0, 1, slot)
}

fn claim_of(start: Start, slot: u32, expiry_secs: u32) -> ClaimBy {
    let claim = Claim {
        key: KEY,
        app: AppId(1),
        client_id: "c".to_owned(),
        clean_start: expiry_secs == 0,
        expiry_secs,
        will: None,
        connection: connection(slot),
    };
    ClaimBy { by: start, claim }
}

fn claim(slot: u32, expiry_secs: u32) -> ClaimBy {
    claim_of(ME, slot, expiry_secs)
}

fn release(connection: ConnectionId) -> ReleaseBy {
    let release = Release {
        key: KEY,
        connection,
        epoch: Epoch(1),
        expiry_secs: None,
        will_dropped: false,
        inflight: Vec::new(),
    };
    ReleaseBy { by: ME, release }
}

fn holder(start: Start, slot: u32) -> Holder {
    let connection = connection(slot).to_u64();
    Holder { node: start.node.0, incarnation: start.incarnation, connection }
}

#[actix::test]
async fn claim_when_nothing_is_durable_commits_nothing() {
    let world = World::alone();
    let granted = world.home.send(claim(1, 0)).await.unwrap().unwrap();
    let claimed = granted.claimed;
    assert_eq!((claimed.epoch, claimed.session_present), (Epoch(0), false));
    assert!(world.log.borrow().is_empty());
    assert_eq!(world.who_is(KEY).await, Some((ME, connection(1))));
}

#[actix::test]
async fn claim_with_a_will_and_without_a_session_is_committed_and_leaves_nothing() {
    let world = World::alone().polite().await;
    let mut with_will = claim(1, 0);
    let message =
        crate::actors::testing::message("w", "gone", crate::model::message::Qos::AtMostOnce);
    let will = crate::shard::command::StoredWill { message, delay_secs: 0, expiry_secs: None };
    with_will.claim.will = Some(Box::new(will));
    let claimed = world.home.send(with_will).await.unwrap().unwrap().claimed;
    assert_eq!((claimed.epoch, claimed.will), (Epoch(0), Epoch(1)));
    // The next one waits for its release, with which the will is committed to be due; it stores nothing itself.
    world.home.send(claim(2, 0)).await.unwrap().unwrap();
    let want = ["claim c0.1.1", "kick c0.1.1", "release", "released"];
    assert_eq!(*world.log.borrow(), want);
    assert!(world.home.send(release(connection(2))).await.unwrap());
    assert_eq!(world.who_is(KEY).await, None);
}

#[actix::test]
async fn claim_when_another_holds_the_session_waits_for_its_release() {
    let world = World::alone().polite().await;
    world.home.send(claim(1, 60)).await.unwrap().unwrap();
    world.home.send(claim(2, 60)).await.unwrap().unwrap();
    let want = ["claim c0.1.1", "kick c0.1.1", "release", "released", "claim c0.2.1"];
    assert_eq!(*world.log.borrow(), want);
    assert_eq!(world.who_is(KEY).await, Some((ME, connection(2))));
}

#[actix::test]
async fn claims_when_at_the_same_moment_follow_each_other_and_one_remains() {
    let world = World::alone().polite().await;
    let claims = join_all((1..=4).map(|slot| world.home.send(claim(slot, 60)))).await;
    assert!(claims.into_iter().all(|claimed| claimed.unwrap().is_ok()));
    let claims = world.log.borrow().iter().filter(|line| line.starts_with("claim")).count();
    let kicks = world.log.borrow().iter().filter(|line| line.starts_with("kick")).count();
    assert_eq!((claims, kicks), (4, 3));
}

#[actix::test]
async fn claims_beyond_the_limit_are_busy() {
    let world = World::alone();
    world.home.send(claim(1, 0)).await.unwrap().unwrap();
    // The double never answers a kick without a home, so the first of these waits 2 s.
    let count = u32::try_from(limits::CLAIMS_WAITING_MAX).unwrap() + 2;
    let claims: Vec<_> = (2..2 + count).map(|slot| world.home.send(claim(slot, 0))).collect();
    let last = claims.into_iter().next_back().unwrap().await.unwrap();
    assert_eq!(last.unwrap_err(), ClaimError::Busy);
}

#[actix::test]
async fn release_by_an_older_connection_keeps_the_newer_one() {
    let world = World::alone().polite().await;
    world.home.send(claim(1, 60)).await.unwrap().unwrap();
    world.home.send(claim(2, 60)).await.unwrap().unwrap();
    assert!(world.home.send(release(connection(1))).await.unwrap());
    assert_eq!(world.who_is(KEY).await, Some((ME, connection(2))));
}

#[actix::test]
async fn news_reach_the_hub_of_whoever_holds_the_session() {
    let world = World::alone();
    settle().await;
    let gone = holder(start_of(7, 1), 3);
    world.news.add([(KEY, holder(ME, 7)), (SessionKey(99), gone)]);
    settle().await;
    assert_eq!(world.log.borrow().last().unwrap(), "grew [c0.7.1]");
}
