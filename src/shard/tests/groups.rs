//! Members of shared groups, as other nodes find them; owners of shares. Promises ONCE, NO-LOSS.

use bytes::Bytes;

use super::support::*;
use crate::{
    limits,
    model::{
        id::{Epoch, MessageId, SessionKey},
        message::Qos,
        route_key,
    },
    shard::{
        command::{Command, Fact, Reply, SessionClaim, ShareOwner, StoredSubscription},
        query,
    },
};

fn group(qos: Qos) -> StoredSubscription {
    StoredSubscription { share: Some(Bytes::from_static(b"g")), ..subscription("a/+", qos) }
}

fn key() -> Bytes {
    route_key::of_group(APP, b"g", b"a/+")
}

impl Shard {
    fn join(&mut self, session: u128, qos: Qos) -> Epoch {
        let epoch = self.claim(session).epoch;
        self.subscribe(session, epoch, &[group(qos)]);
        epoch
    }

    fn group_facts(&self) -> Vec<Fact> {
        let is_group =
            |fact: &Fact| matches!(fact, Fact::GroupAdded { .. } | Fact::GroupRemoved { .. });
        self.facts().into_iter().filter(is_group).collect()
    }

    fn members(&self) -> Vec<u128> {
        let members = query::group_members(&self.machine, &key(), None, 100);
        members.into_iter().map(|session| session.0).collect()
    }

    fn routes(&self) -> Vec<Bytes> {
        let (mut keys, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = query::visit_routes(&self.machine, from, 2, &mut |key| keys.push(key));
        }
        keys
    }

    fn assign(&mut self, id: u128, owner: ShareOwner, instead: Option<ShareOwner>) -> Reply {
        self.one(Command::Assign { id: MessageId(id), owner, instead })
    }
}

#[test]
fn group_is_told_with_its_first_member_that_stores_and_gone_with_its_last() {
    let mut shard = Shard::new();
    shard.join(1, Qos::AtMostOnce);
    assert_eq!((shard.group_facts(), shard.members()), (vec![], vec![]));
    let epoch = shard.join(2, Qos::AtLeastOnce);
    assert_eq!(shard.group_facts(), [Fact::GroupAdded { key: key() }]);
    shard.join(3, Qos::ExactlyOnce);
    assert_eq!((shard.group_facts(), shard.members()), (vec![], vec![2, 3]));
    shard.subscribe(2, epoch, &[subscription("b", Qos::AtLeastOnce)]);
    let filter = route_key::of_filter(APP, b"b");
    assert_eq!(shard.routes(), [filter.clone(), key()]);
    shard.reload();
    assert_eq!(shard.group_facts(), [Fact::GroupAdded { key: key() }]);
    assert_eq!(shard.members(), [2, 3]);
    // One takes nothing stored any more, the other's session ends.
    shard.subscribe(2, epoch, &[group(Qos::AtMostOnce)]);
    assert_eq!((shard.group_facts(), shard.members()), (vec![], vec![3]));
    let end = |claim: &mut SessionClaim| {
        (claim.clean_start, claim.expiry_secs) = (true, 0);
    };
    shard.claim_with(3, end);
    assert_eq!(shard.group_facts(), [Fact::GroupRemoved { key: key() }]);
    assert_eq!(shard.routes(), [filter]);
    shard.reload();
    assert_eq!((shard.group_facts(), shard.members()), (vec![], vec![]));
}

#[test]
fn group_is_gone_when_its_last_member_unsubscribes() {
    let mut shard = Shard::new();
    let epoch = shard.join(1, Qos::AtLeastOnce);
    shard.facts();
    let items = vec![(group(Qos::AtLeastOnce).share, group(Qos::AtLeastOnce).filter)];
    shard.one(Command::Unsubscribe { key: SessionKey(1), epoch, items });
    assert_eq!(shard.group_facts(), [Fact::GroupRemoved { key: key() }]);
}

#[test]
fn share_has_the_owner_that_was_written_down_first_until_another_takes_its_place() {
    let mut shard = Shard::new();
    let [one, two] = [1, 2].map(|session| ShareOwner::Session(SessionKey(session)));
    let live = ShareOwner::Live { node: 3, incarnation: 4 };
    let id = 7 << 64 | 1;
    assert_eq!(shard.assign(id, one, None), Reply::Assigned(one));
    assert_eq!(shard.assign(id, two, None), Reply::Assigned(one));
    shard.reload();
    assert_eq!(shard.assign(id, two, Some(live)), Reply::Assigned(one));
    assert_eq!(shard.assign(id, live, Some(one)), Reply::Assigned(live));
    // Asked again, because the answer was lost; and by somebody else who saw the same owner end.
    assert_eq!(shard.assign(id, live, Some(one)), Reply::Assigned(live));
    assert_eq!(shard.assign(id, two, Some(one)), Reply::Assigned(live));
    // The next message of the same exchange.
    assert_eq!(shard.assign(id + 1, two, None), Reply::Assigned(two));
    shard.reload();
    assert_eq!(shard.assign(id + 1, one, None), Reply::Assigned(two));
    assert_eq!(shard.pairs(b'M'), 1, "one record for each slot");
}

#[test]
fn owners_beyond_the_limit_are_forgotten_oldest_first() {
    let mut shard = Shard::new();
    let owner = ShareOwner::Session(SessionKey(1));
    let other = ShareOwner::Session(SessionKey(2));
    let id = |slot: usize| MessageId::in_slot(u64::try_from(slot).unwrap(), 1);
    let assign = |slot| Command::Assign { id: id(slot), owner, instead: None };
    let all: Vec<_> = (0..=limits::ASSIGNED_MAX).map(assign).collect();
    all.chunks(4_096).for_each(|commands| drop(shard.apply(commands)));
    assert_eq!(shard.pairs(b'M'), limits::ASSIGNED_MAX);
    assert_eq!(shard.assign(id(1).0, other, None), Reply::Assigned(owner));
    assert_eq!(shard.assign(id(0).0, other, None), Reply::Assigned(other), "forgotten");
}
