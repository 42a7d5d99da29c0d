//! Tests of shared groups: a double stands for routers and the appender.

use std::{cell::RefCell, rc::Rc};

use actix::Addr;
use ahash::AHashSet;
use bytes::Bytes;
use hongqiao_cluster::id::ShardId;

mod back;
mod far;

use super::*;
use crate::{
    actors::{appender::SubmitError, publish::AppQuota, testing},
    model::{route::Places as _, topic::TopicName},
    shard::command::{Command, Quota, Reply},
};

type Log = Rc<RefCell<Vec<(u32, u8)>>>;

/// Also stands for every shard: knows the ids of what it stored.
struct Router(Log, AHashSet<(ShardId, MessageId)>);

impl Actor for Router {
    type Context = Context<Self>;
}

impl Handler<DeliverTo> for Router {
    type Result = actix::MessageResult<DeliverTo>;

    fn handle(&mut self, deliver: DeliverTo, _: &mut Self::Context) -> Self::Result {
        let slot = deliver.connection.slot();
        let bodies = deliver.messages.iter().map(|message| (slot, message.payload[0]));
        self.0.borrow_mut().extend(bodies);
        actix::MessageResult(Vec::new())
    }
}

const KEY: GroupKey = GroupKey(9);
const APP: AppId = AppId(1);
/// A session that the shard does not know any more.
const ENDED: SessionKey = SessionKey(404);
/// No share with this body is stored.
const CUT: u8 = 66;
/// One shard does not answer what it knows of this exchange.
const SILENT: u16 = 9;

fn message(body: u8) -> Arc<Published> {
    Arc::new(testing::message("a/b", vec![body], Qos::AtLeastOnce))
}

impl Handler<Submit> for Router {
    type Result = Result<Reply, SubmitError>;

    fn handle(&mut self, submit: Submit, _: &mut Self::Context) -> Self::Result {
        let (key, id, messages) = match submit.command {
            Command::Share { key, id, messages, .. } => (key, id, messages),
            Command::IsKnown { id } if id.exchange() == SILENT && submit.shard == ShardId(3) => {
                return Err(SubmitError::Unavailable);
            }
            Command::IsKnown { id } => {
                return Ok(Reply::Known(self.1.contains(&(submit.shard, id))));
            }
            _ => return Err(SubmitError::Unknown),
        };
        if messages[0].payload[0] == CUT {
            return Err(SubmitError::Unknown);
        }
        if key == ENDED {
            return Ok(Reply::Fenced);
        }
        if id.is_some_and(|id| !self.1.insert((submit.shard, id))) {
            return Ok(Reply::Done);
        }
        let slot = 1_000 + u32::try_from(key.0).unwrap();
        let bodies = messages.iter().map(|message| (slot, message.payload[0]));
        self.0.borrow_mut().extend(bodies);
        Ok(Reply::Done)
    }
}

fn join(slot: u32) -> Join {
    let connection = ConnectionId::new(0, 1, slot);
    let (key, options) = (MemberKey::Connection(connection), SubscriptionOptions::default());
    let member = Member { key, connection: Some(connection), options, subscription_id: 0 };
    Join {
        group: KEY,
        app: APP,
        share: Bytes::from_static(b"g"),
        filter: TopicFilter::parse("a/+").unwrap(),
        member,
    }
}

fn start() -> (Addr<Groups>, Arc<GroupTable>, Log) {
    start_with(Far::nothing())
}

fn start_with(far: Arc<Far>) -> (Addr<Groups>, Arc<GroupTable>, Log) {
    let log = Log::default();
    let router = Router(Rc::clone(&log), AHashSet::new()).start();
    let table = Arc::<GroupTable>::default();
    let routers = vec![router.clone().recipient()];
    let neighbours = neighbours(routers, router.recipient(), far);
    (Groups::new(Arc::clone(&table), neighbours).start(), table, log)
}

fn neighbours(
    routers: Vec<Recipient<DeliverTo>>,
    submit: Recipient<Submit>,
    far: Arc<Far>,
) -> Neighbours {
    let quota = Quota {
        session_messages_max: 10,
        session_bytes_max: 10,
        app_bytes_max: 10,
        drop_oldest: true,
    };
    let common = AppQuota { quota, retained_messages_max: 1, retained_bytes_max: 1 };
    let quotas = Arc::new(AppQuotas { common, special: AHashMap::new() });
    Neighbours { routers, offers: Vec::new(), submit, shards: 4, quotas, worker: 0, far }
}

#[actix::test]
async fn messages_when_dispatched_go_to_members_in_turn_and_once_each() {
    let (groups, _, log) = start();
    for slot in [1, 2, 3] {
        assert!(groups.send(join(slot)).await.unwrap());
    }
    assert!(!groups.send(join(2)).await.unwrap());
    for batch in [vec![0, 1, 2, 3], vec![4], vec![5, 6]] {
        let messages = batch.into_iter().map(message).collect();
        groups.send(Dispatch { group: KEY, key: None, messages }).await.unwrap().unwrap();
    }
    tokio::task::yield_now().await;
    let mut got = log.borrow().clone();
    assert_eq!(got.len(), 7);
    let first: Vec<_> = got.iter().filter(|(slot, _)| *slot == 1).map(|(_, b)| *b).collect();
    assert_eq!(first, [0, 3, 6]);
    got.sort_by_key(|(_, body)| *body);
    assert_eq!(got.iter().map(|(_, body)| *body).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
}

#[actix::test]
async fn table_when_members_come_and_go_names_the_group_only_while_it_has_some() {
    let (groups, table, _) = start();
    let topic = TopicName::parse("a/b").unwrap();
    assert!(table.load().places(APP, &topic).is_empty());
    groups.send(join(1)).await.unwrap();
    groups.send(join(2)).await.unwrap();
    assert_eq!(table.load().places(APP, &topic).iter().collect::<Vec<_>>(), [KEY]);
    for slot in [1, 2] {
        let who = MemberKey::Connection(ConnectionId::new(0, 1, slot));
        let leave = Leave { group: KEY, who, stays: false };
        assert!(groups.send(leave).await.unwrap());
    }
    assert!(table.load().places(APP, &topic).is_empty());
}

#[actix::test]
async fn durable_member_when_away_gets_messages_only_while_nobody_is_connected() {
    let (groups, _, log) = start();
    let options = SubscriptionOptions { qos: Qos::AtLeastOnce, ..Default::default() };
    let key = MemberKey::Session(SessionKey(5));
    let away = Member { key, connection: None, options, subscription_id: 0 };
    groups.send(Join { member: away, ..join(0) }).await.unwrap();
    groups.send(join(1)).await.unwrap();
    let send = |body| Dispatch { group: KEY, key: None, messages: vec![message(body)] };
    groups.send(send(1)).await.unwrap().unwrap();
    groups.send(send(2)).await.unwrap().unwrap();
    let who = MemberKey::Connection(ConnectionId::new(0, 1, 1));
    groups.send(Leave { group: KEY, who, stays: false }).await.unwrap();
    groups.send(send(3)).await.unwrap().unwrap();
    groups.send(SessionsGone(vec![SessionKey(5)])).await.unwrap();
    groups.send(send(4)).await.unwrap().unwrap();
    assert_eq!(*log.borrow(), [(1, 1), (1, 2), (1_005, 3)]);
}

#[actix::test]
async fn share_when_the_members_session_has_ended_goes_to_another_member() {
    let (groups, _, log) = start();
    let options = SubscriptionOptions { qos: Qos::AtLeastOnce, ..Default::default() };
    let member = |key, connection| {
        let key = MemberKey::Session(key);
        Member { key, connection, options, subscription_id: 0 }
    };
    let connection = Some(ConnectionId::new(0, 1, 4));
    groups.send(Join { member: member(ENDED, connection), ..join(0) }).await.unwrap();
    groups.send(Join { member: member(SessionKey(5), None), ..join(0) }).await.unwrap();
    let send = |body| Dispatch { group: KEY, key: None, messages: vec![message(body)] };
    groups.send(send(1)).await.unwrap().unwrap();
    groups.send(send(2)).await.unwrap().unwrap();
    assert_eq!(*log.borrow(), [(1_005, 1), (1_005, 2)]);
    let chosen = groups.send(Choose(KEY)).await.unwrap();
    assert_eq!(chosen, Choice::Stored(member(SessionKey(5), None), SessionKey(5)));
    // News of a session that has come back meanwhile takes nothing away.
    let back = Join { member: member(SessionKey(5), connection), ..join(0) };
    groups.send(back).await.unwrap();
    groups.send(NotAMember { group: KEY, member: member(SessionKey(5), None) }).await.unwrap();
    groups.send(SessionsGone(vec![SessionKey(5)])).await.unwrap();
    assert_ne!(groups.send(Choose(KEY)).await.unwrap(), Choice::Nobody);
}

/// A session that is away.
fn away(session: u128) -> Join {
    let options = SubscriptionOptions { qos: Qos::ExactlyOnce, ..Default::default() };
    let key = MemberKey::Session(SessionKey(session));
    Join { member: Member { key, connection: None, options, subscription_id: 0 }, ..join(0) }
}

fn exactly(body: u8, exchange: u16) -> Arc<Published> {
    let id = Some(MessageId::in_exchange(SessionKey(77), exchange, 1));
    let qos = Qos::ExactlyOnce;
    Arc::new(Published { id, qos, ..Published::clone(&message(body)) })
}

async fn first(groups: &Addr<Groups>, message: &Arc<Published>) -> Result<(), Reason> {
    let messages = vec![Arc::clone(message)];
    groups.send(Dispatch { group: KEY, key: None, messages }).await.unwrap()
}

fn again(message: &Arc<Published>) -> DispatchAgain {
    DispatchAgain { group: KEY, key: None, message: Arc::clone(message) }
}

#[actix::test]
async fn message_when_sent_again_is_stored_if_the_first_share_was_cut_and_once() {
    let (groups, _, log) = start();
    for session in [5, 6, 7] {
        groups.send(away(session)).await.unwrap();
    }
    assert!(first(&groups, &exactly(CUT, 1)).await.is_err());
    assert_eq!(*log.borrow(), []);
    // The same exchange; two connections of its publisher ask at a time.
    let message = exactly(2, 1);
    let (one, two) = (groups.send(again(&message)), groups.send(again(&message)));
    one.await.unwrap().unwrap();
    two.await.unwrap().unwrap();
    assert_eq!(log.borrow().len(), 1);
    groups.send(again(&message)).await.unwrap().unwrap();
    first(&groups, &exactly(3, 2)).await.unwrap();
    groups.send(again(&exactly(3, 2))).await.unwrap().unwrap();
    assert_eq!(log.borrow().len(), 2, "known, though another member's turn has come");
    // Both of the members that had something have ended.
    let gone = log.borrow().iter().map(|(slot, _)| SessionKey((slot - 1_000).into())).collect();
    groups.send(SessionsGone(gone)).await.unwrap();
    groups.send(again(&message)).await.unwrap().unwrap();
    assert_eq!(log.borrow().len(), 2);
}

#[actix::test]
async fn message_when_sent_again_and_a_shard_does_not_answer_is_neither_dealt_nor_accepted() {
    let (groups, _, log) = start();
    groups.send(away(5)).await.unwrap();
    let message = exactly(1, SILENT);
    assert!(groups.send(again(&message)).await.unwrap().is_err());
    assert_eq!(*log.borrow(), []);
    // Nothing of it is left over.
    groups.send(again(&exactly(2, 2))).await.unwrap().unwrap();
    assert_eq!(*log.borrow(), [(1_005, 2)]);
}

#[actix::test]
async fn message_when_sent_again_passes_live_members_and_what_they_had() {
    let (groups, _, log) = start();
    groups.send(join(1)).await.unwrap();
    groups.send(again(&exactly(1, 1))).await.unwrap().unwrap();
    groups.send(away(5)).await.unwrap();
    first(&groups, &exactly(2, 2)).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(*log.borrow(), [(1, 2)]);
    groups.send(again(&exactly(2, 2))).await.unwrap().unwrap();
    assert_eq!(*log.borrow(), [(1, 2)], "a live member had it");
    groups.send(again(&exactly(3, 3))).await.unwrap().unwrap();
    assert_eq!(*log.borrow(), [(1, 2), (1_005, 3)]);
}

#[actix::test]
async fn message_when_sent_again_and_the_members_session_has_ended_goes_to_a_durable_one() {
    let (groups, _, log) = start();
    groups.send(away(ENDED.0)).await.unwrap();
    groups.send(away(5)).await.unwrap();
    groups.send(join(1)).await.unwrap();
    for (body, exchange) in [(1, 1), (2, 2)] {
        groups.send(again(&exactly(body, exchange))).await.unwrap().unwrap();
    }
    assert_eq!(*log.borrow(), [(1_005, 1), (1_005, 2)]);
}
