//! Releases of what dead connections hold: the shard is a double that notes what it is told and asked.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix::{Actor, Context, Handler};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hongqiao_cluster::Lead;
use tokio::sync::watch;

use super::*;
use crate::{
    actors::{
        appender::SubmitError,
        peer::{PeerError, Peers, Wire, decode, encode},
        publish::Fate,
        upkeep::Due,
        view::{Member, View},
    },
    shard::{command::Holder, query::HeldPage},
};

type Log = Rc<RefCell<Vec<String>>>;

const SHARD: ShardId = ShardId(0);
const ME: Start = Start { node: NodeId(1), incarnation: 4 };
const DEAD: Start = Start { node: NodeId(2), incarnation: 7 };
const UP: Start = Start { node: NodeId(3), incarnation: 2 };
/// The only one that its node does not have any more.
const GONE: u64 = 30;

struct Shard {
    log: Log,
    lead: Rc<RefCell<Reply>>,
}

impl Actor for Shard {
    type Context = Context<Self>;
}

impl Handler<Submit> for Shard {
    type Result = Result<Reply, SubmitError>;

    fn handle(&mut self, submit: Submit, _: &mut Self::Context) -> Self::Result {
        let (told, reply) = match submit.command {
            Command::Lead { term } => (format!("lead {term}"), self.lead.borrow().clone()),
            Command::ReleaseStale { keys, node, incarnation, .. } => {
                (format!("dead {node}<{incarnation} {keys:?}"), Reply::Done)
            }
            Command::Release { key, epoch, .. } => (format!("gone {key:?} {epoch:?}"), Reply::Done),
            other => panic!("{other:?}"),
        };
        self.log.borrow_mut().push(told);
        Ok(reply)
    }
}

/// Node 3 answers, others do not.
struct Others(Vec<ConnectionId>);

impl Wire for Others {
    fn request(
        &self,
        to: NodeId,
        _: Class,
        body: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let asked: PeerRequest = decode(&body).unwrap();
        let PeerRequest::GoneAmong { connections, .. } = asked else { panic!("{asked:?}") };
        let is_gone = |connection: &ConnectionId| self.0.contains(connection);
        let gone = connections.into_iter().filter(is_gone).collect();
        let answer = if to == UP.node {
            Ok(encode(&PeerReply::Gone(gone)).unwrap())
        } else {
            Err(PeerError::Unreachable)
        };
        Box::pin(std::future::ready(answer))
    }

    fn cast(&self, _: NodeId, _: Class, _: Bytes) -> Result<(), PeerError> {
        Err(PeerError::Unreachable)
    }
}

struct World {
    log: Log,
    lead: Rc<RefCell<Reply>>,
    neighbours: Neighbours,
    members: Members,
}

fn holder(start: Start, connection: u64) -> Option<Holder> {
    Some(Holder { node: start.node.0, incarnation: start.incarnation, connection })
}

impl World {
    /// Two pages of sessions: held by a dead start, by nobody; by one that is up, twice.
    fn new() -> Self {
        let (log, lead) = (Log::default(), Rc::new(RefCell::new(Reply::Done)));
        let shard = Shard { log: Rc::clone(&log), lead: Rc::clone(&lead) }.start();
        let all = [(ME, true), (DEAD, false), (UP, true)];
        let all = all.map(|(start, up)| Member { start, up }).to_vec();
        let members = Members { me: ME, alone: false, all, leaders: Vec::new() };
        let view = View::new(
            vec![watch::Sender::new(Lead::default()).subscribe()],
            watch::Sender::new(std::sync::Arc::new(members.clone())).subscribe(),
        );
        let reads = Rc::clone(&log);
        let held = move |after: Option<SessionKey>| {
            reads.borrow_mut().push(format!("read {after:?}"));
            let page = match after {
                None => HeldPage {
                    sessions: vec![
                        (SessionKey(1), Epoch(11), holder(DEAD, 10)),
                        (SessionKey(2), Epoch(12), None),
                    ],
                    next: Some(SessionKey(2)),
                },
                Some(_) => HeldPage {
                    sessions: vec![
                        (SessionKey(3), Epoch(13), holder(UP, GONE)),
                        (SessionKey(4), Epoch(14), holder(UP, 31)),
                    ],
                    next: None,
                },
            };
            Box::pin(std::future::ready(Some(page))) as _
        };
        let neighbours = Neighbours {
            submit: shard.recipient(),
            groups: Vec::new(),
            is_due: Rc::new(|_| Box::pin(std::future::ready(Due::default()))),
            mover: Rc::new(|| Box::pin(std::future::ready(crate::actors::redispatch::Moved::All))),
            held: Rc::new(held),
            gone: Vec::new(),
            peers: Peers::new(std::sync::Arc::new(Others(vec![ConnectionId::from_u64(GONE)]))),
            view,
            publish: Rc::new(|_, _| Box::pin(std::future::ready(Fate::Done))),
        };
        Self { log, lead, neighbours, members }
    }

    fn took(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.borrow_mut())
    }
}

#[actix::test]
async fn pass_looks_at_everything_once_behind_the_word_of_the_leader() {
    let world = World::new();
    let mut stale = Stale::default();
    stale.follow(6, &world.members);
    assert!(stale.step(SHARD, &world.neighbours).await, "there is a second page");
    let read = format!("read {:?}", None::<SessionKey>);
    let dead = format!("dead 2<8 {:?}", [SessionKey(1)]);
    assert_eq!(world.took(), ["lead 6".to_owned(), read, dead]);
    assert!(!stale.step(SHARD, &world.neighbours).await);
    let read = format!("read {:?}", Some(SessionKey(2)));
    let gone = format!("gone {:?} {:?}", SessionKey(3), Epoch(13));
    assert_eq!(world.took(), [read, gone]);
    // Nothing has changed: nothing is read.
    stale.follow(6, &world.members);
    assert!(!stale.step(SHARD, &world.neighbours).await);
    assert!(world.took().is_empty());
    // A node dies: everything is looked at again, behind what was claimed until then.
    let mut members = world.members.clone();
    members.all[2].up = false;
    stale.follow(6, &members);
    while stale.step(SHARD, &world.neighbours).await {}
    let took = world.took();
    assert_eq!(took[0], "lead 6");
    let lost = format!("dead 3<3 {:?}", [SessionKey(3), SessionKey(4)]);
    assert_eq!(took.last().unwrap(), &lost);
}

#[actix::test]
async fn pass_without_the_word_of_the_leader_reads_nothing_and_is_tried_again() {
    let world = World::new();
    let mut stale = Stale::default();
    stale.follow(6, &world.members);
    *world.lead.borrow_mut() = Reply::Fenced;
    for _ in 0..2 {
        assert!(!stale.step(SHARD, &world.neighbours).await);
        assert_eq!(world.took(), ["lead 6"]);
    }
    *world.lead.borrow_mut() = Reply::Done;
    assert!(stale.step(SHARD, &world.neighbours).await);
    assert_eq!(world.took().len(), 3);
}

#[actix::test]
async fn start_that_could_not_be_asked_is_asked_again() {
    let mut world = World::new();
    // Node 3 has another number now; who answers is not there.
    world.neighbours.peers = Peers::new(std::sync::Arc::new(Silent));
    let mut stale = Stale::default();
    stale.follow(6, &world.members);
    while stale.step(SHARD, &world.neighbours).await {}
    assert!(!world.took().iter().any(|line| line.starts_with("gone")));
    world.neighbours.peers = World::new().neighbours.peers;
    stale.follow(6, &world.members);
    while stale.step(SHARD, &world.neighbours).await {}
    let gone = format!("gone {:?} {:?}", SessionKey(3), Epoch(13));
    assert_eq!(world.took().last().unwrap(), &gone);
}

/// No node answers.
struct Silent;

impl Wire for Silent {
    fn request(
        &self,
        _: NodeId,
        _: Class,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        Box::pin(std::future::ready(Err(PeerError::Unreachable)))
    }

    fn cast(&self, _: NodeId, _: Class, _: Bytes) -> Result<(), PeerError> {
        Err(PeerError::Unreachable)
    }
}
