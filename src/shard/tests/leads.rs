//! Claims and the leaders that they come from (FENCED, ONCE).

use super::support::*;
use crate::{
    model::id::SessionKey,
    shard::command::{Command, Reply},
};

fn claim_in(term: u64, key: u128) -> Command {
    Command::ClaimIn { term, claim: Box::new(claim(key)) }
}

#[test]
fn claim_of_a_leader_is_as_any_claim() {
    let (mut shard, mut other) = (Shard::new(), Shard::new());
    for key in [1, 1, 2] {
        assert_eq!(shard.one(claim_in(3, key)), other.one(Command::Claim(Box::new(claim(key)))));
    }
}

#[test]
fn claim_under_way_from_an_earlier_leader_is_refused_once_a_later_one_has_spoken() {
    for speaks in [Command::Lead { term: 5 }, claim_in(5, 2)] {
        let mut shard = Shard::new();
        assert!(matches!(shard.one(claim_in(4, 1)), Reply::Claimed(_)));
        assert_ne!(shard.one(speaks), Reply::Fenced);
        // Whoever leads next may lead in any later term, and has what the shard stores alone.
        for _ in 0..2 {
            assert_eq!(shard.one(claim_in(4, 1)), Reply::Fenced);
            assert_eq!(shard.one(claim_in(4, 9)), Reply::Fenced);
            assert_eq!(shard.one(Command::Lead { term: 4 }), Reply::Fenced);
            shard.reload();
        }
        assert!(!shard.machine.state.by_key.contains_key(&SessionKey(9)));
        assert_eq!(shard.one(Command::Lead { term: 5 }), Reply::Done);
        assert!(matches!(shard.one(claim_in(5, 1)), Reply::Claimed(_)));
        assert!(matches!(shard.one(claim_in(7, 1)), Reply::Claimed(_)));
        assert_eq!(shard.one(claim_in(5, 1)), Reply::Fenced);
    }
}
