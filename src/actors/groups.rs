//! Shared subscriptions: one message of a group goes to one of its members.
//!
//! - Owns: the groups whose home is this worker, with their connected members on all workers.
//! - Takes: `Join`, `Leave`, `Dispatch` (a publish matched a group), `Redispatch` (a member left with
//!   unacknowledged messages). Gives: `DeliverTo` to the router of the member's worker.
//! - Bound: one entry per member; `limits::GROUPS_MAILBOX_MESSAGES`; a message for a group without
//!   members is dropped and counted.
//! - Source: MQTT 5.0 section 4.8.2. Redelivery goes by group, so by filter, never by topic.
//!
//! ```text
//! publish ─(GroupTable snapshot)─► Dispatch ─► home of the group ─► DeliverTo ─► router ─► link
//! ```

use std::sync::Arc;

use actix::{Actor, AsyncContext as _, Context, Handler, Message, Recipient};
use ahash::AHashMap;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{
    limits,
    model::{
        connection_id::ConnectionId,
        id::{AppId, HashKey},
        message::Message as Published,
        route::{FilterTable, Places},
        topic::TopicFilter,
        wire::SubscriptionOptions,
    },
};

/// Which group: a keyed hash of (app, share name, filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey(pub u128);

impl GroupKey {
    /// Names the group of `share` and `filter` in `app`.
    #[must_use]
    pub fn new(hash_key: &HashKey, app: AppId, share: &[u8], filter: &TopicFilter) -> Self {
        // A share name has no slash, so the two parts cannot run into each other.
        let mut name = Vec::with_capacity(share.len() + filter.as_bytes().len() + 1);
        name.extend_from_slice(share);
        name.push(b'/');
        name.extend_from_slice(filter.as_bytes());
        Self(hash_key.group(app, &name))
    }

    /// Returns which of `workers` is the home of the group.
    #[must_use]
    pub fn home(self, workers: usize) -> usize {
        usize::try_from(self.0 % workers.max(1) as u128).unwrap_or(0)
    }
}

/// Groups that match a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSet(SmallVec<[GroupKey; 1]>);

impl GroupSet {
    /// Walks the groups.
    pub fn iter(&self) -> impl Iterator<Item = GroupKey> {
        self.0.iter().copied()
    }
}

impl Places for GroupSet {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }
}

/// Which groups have members: read by every publisher, changed by the groups' homes.
#[derive(Default)]
pub struct GroupTable {
    writing: Mutex<()>,
    snapshot: ArcSwap<FilterTable<GroupSet>>,
}

impl GroupTable {
    /// Returns the present table.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<FilterTable<GroupSet>>> {
        self.snapshot.load()
    }

    fn change(&self, app: AppId, filter: &TopicFilter, apply: impl Fn(&mut GroupSet)) {
        let _writing = self.writing.lock();
        let mut table = FilterTable::clone(&self.snapshot.load());
        table.change(app, filter, apply);
        self.snapshot.store(Arc::new(table));
    }
}

/// Sent by a connection that subscribes. Replies whether it is a new member; an old one gets the new
/// options.
#[derive(Clone, Debug, Message)]
#[rtype(result = "bool")]
pub struct Join {
    /// Which group.
    pub group: GroupKey,
    /// Tenant.
    pub app: AppId,
    /// What the group subscribes to.
    pub filter: TopicFilter,
    /// Who.
    pub member: Member,
}

/// Sent by a connection that unsubscribes or ends. Replies whether it was a member.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "bool")]
pub struct Leave {
    /// Which group.
    pub group: GroupKey,
    /// Who.
    pub connection: ConnectionId,
}

/// Sent by a publisher's worker: each message goes to one member.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Dispatch {
    /// Which group.
    pub group: GroupKey,
    /// In order of publication.
    pub messages: Vec<Arc<Published>>,
}

/// Sent by a home to the router of the member's worker. If the member is gone the router sends the
/// messages back as a `Dispatch`.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct DeliverTo {
    /// Whose message it is.
    pub group: GroupKey,
    /// Who gets it.
    pub member: Member,
    /// What.
    pub messages: Vec<Arc<Published>>,
}

/// One connected member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which connection.
    pub connection: ConnectionId,
    /// Its options for this subscription.
    pub options: SubscriptionOptions,
    /// Its subscription identifier; 0 = none.
    pub subscription_id: u32,
}

struct Group {
    app: AppId,
    filter: TopicFilter,
    members: Vec<Member>,
    next: usize,
}

/// See the file header.
pub struct Groups {
    groups: AHashMap<GroupKey, Group>,
    table: Arc<GroupTable>,
    routers: Vec<Recipient<DeliverTo>>,
}

impl Groups {
    /// Creates the groups of one worker; `routers` by worker.
    #[must_use]
    pub fn new(table: Arc<GroupTable>, routers: Vec<Recipient<DeliverTo>>) -> Self {
        Self { groups: AHashMap::new(), table, routers }
    }
}

impl Group {
    /// Deals messages to members in turn; each member gets its share in order.
    fn deal(&mut self, messages: Vec<Arc<Published>>) -> Vec<(Member, Vec<Arc<Published>>)> {
        let mut dealt: Vec<(Member, Vec<_>)> = Vec::new();
        let members = self.members.len();
        let first = self.next;
        for (nth, message) in messages.into_iter().enumerate() {
            let Some(member) = self.members.get((first + nth) % members.max(1)) else { break };
            match dealt.get_mut(nth % members) {
                Some((_, share)) => share.push(message),
                None => dealt.push((*member, vec![message])),
            }
            self.next = (first + nth + 1) % members;
        }
        dealt
    }
}

impl Actor for Groups {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::GROUPS_MAILBOX_MESSAGES);
    }
}

impl Handler<Join> for Groups {
    type Result = bool;

    fn handle(&mut self, join: Join, _ctx: &mut Self::Context) -> Self::Result {
        let group = self.groups.entry(join.group).or_insert_with(|| {
            self.table.change(join.app, &join.filter, |set| set.0.push(join.group));
            Group { app: join.app, filter: join.filter.clone(), members: Vec::new(), next: 0 }
        });
        let same = |member: &&mut Member| member.connection == join.member.connection;
        if let Some(member) = group.members.iter_mut().find(same) {
            *member = join.member;
            return false;
        }
        group.members.push(join.member);
        true
    }
}

impl Handler<Leave> for Groups {
    type Result = bool;

    fn handle(&mut self, leave: Leave, _ctx: &mut Self::Context) -> Self::Result {
        let Some(group) = self.groups.get_mut(&leave.group) else { return false };
        let before = group.members.len();
        group.members.retain(|member| member.connection != leave.connection);
        let left = group.members.len() < before;
        if group.members.is_empty() {
            let key = leave.group;
            self.table.change(group.app, &group.filter, |set| set.0.retain(|each| *each != key));
            self.groups.remove(&key);
        }
        left
    }
}

impl Handler<Dispatch> for Groups {
    type Result = ();

    fn handle(&mut self, dispatch: Dispatch, ctx: &mut Self::Context) {
        let Some(group) = self.groups.get_mut(&dispatch.group) else {
            tracing::debug!(messages = dispatch.messages.len(), "shared group has no member");
            return;
        };
        for (member, messages) in group.deal(dispatch.messages) {
            let Some(router) = self.routers.get(member.connection.worker()) else { continue };
            let deliver = DeliverTo { group: dispatch.group, member, messages };
            if let Err(full) = router.try_send(deliver) {
                // The router is behind; wait with this share rather than lose it.
                let deliver = full.into_inner();
                let router = router.clone();
                ctx.spawn(actix::fut::wrap_future(async move {
                    let _ = router.send(deliver).await;
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use actix::Addr;
    use bytes::Bytes;

    use super::*;
    use crate::model::{message::Qos, topic::TopicName};

    type Log = Rc<RefCell<Vec<(u32, u8)>>>;

    struct Router(Log);

    impl Actor for Router {
        type Context = Context<Self>;
    }

    impl Handler<DeliverTo> for Router {
        type Result = ();

        fn handle(&mut self, deliver: DeliverTo, _: &mut Self::Context) {
            let slot = deliver.member.connection.slot();
            let bodies = deliver.messages.iter().map(|message| (slot, message.payload[0]));
            self.0.borrow_mut().extend(bodies);
        }
    }

    const KEY: GroupKey = GroupKey(9);
    const APP: AppId = AppId(1);

    fn message(body: u8) -> Arc<Published> {
        Arc::new(Published {
            app: APP,
            topic: TopicName::parse("a/b").unwrap(),
            publisher: None,
            id: None,
            qos: Qos::AtLeastOnce,
            retain: false,
            published_at_ms: 0,
            expires_at_ms: None,
            properties: Bytes::new(),
            payload: Bytes::copy_from_slice(&[body]),
        })
    }

    fn join(slot: u32) -> Join {
        let connection = ConnectionId::new(0, 1, slot);
        let options = SubscriptionOptions::default();
        let member = Member { connection, options, subscription_id: 0 };
        Join { group: KEY, app: APP, filter: TopicFilter::parse("a/+").unwrap(), member }
    }

    fn start() -> (Addr<Groups>, Arc<GroupTable>, Log) {
        let log = Log::default();
        let router = Router(Rc::clone(&log)).start();
        let table = Arc::<GroupTable>::default();
        (Groups::new(Arc::clone(&table), vec![router.recipient()]).start(), table, log)
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
            groups.send(Dispatch { group: KEY, messages }).await.unwrap();
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
            let leave = Leave { group: KEY, connection: ConnectionId::new(0, 1, slot) };
            assert!(groups.send(leave).await.unwrap());
        }
        assert!(table.load().places(APP, &topic).is_empty());
    }
}
