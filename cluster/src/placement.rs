//! Which nodes keep which shard, and who of them shall lead it. Pure.
//!
//! - Owns: nothing. Takes: members, which of them are up, where replicas are. Gives: where they shall be.
//! - Shape: as many replicas as there are nodes, three at most; no node keeps more than one replica more
//!   than another, none leads more than one shard more, as far as that is possible; nothing moves without need.
//! - Bound: `SHARDS_MAX` shards, some hundred nodes; a few passes over them.
//! - Source: own design.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    directory::Directory,
    id::{NodeId, ShardId},
};

/// Most replicas of a shard.
pub(crate) const REPLICAS_MAX: usize = 3;

/// Most voters of the meta group; other members only follow.
pub(crate) const META_VOTERS_MAX: usize = 5;

type Load = BTreeMap<NodeId, usize>;

/// Where shards were wished to be.
pub(crate) type Wishes = imbl::OrdMap<ShardId, Vec<NodeId>>;

/// Returns where every shard's replicas shall be by what the directory says, if they are at `now`.
pub(crate) fn of(directory: &Directory, now: &[Vec<NodeId>]) -> Vec<Vec<NodeId>> {
    let (staying, up) = (directory.staying(), directory.up());
    let up = staying.intersection(&up).copied().collect();
    desired(&staying, &up, now, &directory.wishes)
}

/// Returns where every shard's replicas shall be, the preferred leader first.
///
/// - `members` are those that do not leave: others give all that they have and get nothing.
/// - `now` says where replicas are. A member that is not in `up` keeps what it has and gets nothing new.
/// - `wishes` are fulfilled and kept, as far as they name members.
pub(crate) fn desired(
    members: &BTreeSet<NodeId>,
    up: &BTreeSet<NodeId>,
    now: &[Vec<NodeId>],
    wishes: &Wishes,
) -> Vec<Vec<NodeId>> {
    let replicas = members.len().min(REPLICAS_MAX);
    let keep = |(shard, at): (u16, &Vec<NodeId>)| {
        // A wish for a member that is down waits until that is up.
        let can = |wish: &&Vec<NodeId>| wish.iter().all(|to| at.contains(to) || up.contains(to));
        let at = wishes.get(&ShardId(shard)).filter(can).unwrap_or(at);
        let kept = at.iter().copied().filter(|node| members.contains(node));
        kept.take(replicas).collect::<Vec<_>>()
    };
    let mut shards: Vec<Vec<NodeId>> = (0..).zip(now).map(keep).collect();
    let mut load: Load = members.iter().map(|node| (*node, 0)).collect();
    for node in shards.iter().flatten() {
        *load.entry(*node).or_default() += 1;
    }
    fill(&mut shards, &mut load, up, replicas);
    level(&mut shards, &mut load, up, wishes);
    order(shards, now, members)
}

/// Gives each shard the replicas that it lacks, on the nodes that have fewest.
fn fill(shards: &mut [Vec<NodeId>], load: &mut Load, up: &BTreeSet<NodeId>, replicas: usize) {
    for shard in shards {
        while shard.len() < replicas {
            let free = up.iter().filter(|node| !shard.contains(node));
            let Some(node) = free.min_by_key(|node| load.get(node)).copied() else { break };
            shard.push(node);
            *load.entry(node).or_default() += 1;
        }
    }
}

/// Moves replicas from the fullest node to the emptiest, for as long as that makes them more equal.
fn level(shards: &mut [Vec<NodeId>], load: &mut Load, up: &BTreeSet<NodeId>, wishes: &Wishes) {
    loop {
        let emptiest = up.iter().min_by_key(|node| load.get(node)).copied();
        let Some((to, few)) = emptiest.map(|to| (to, load.get(&to).copied().unwrap_or(0))) else {
            return;
        };
        // From the fullest that can give: it may share all its shards with the emptiest already.
        let mut fuller: Vec<_> = load.iter().filter(|(_, count)| **count > few + 1).collect();
        fuller.sort_by_key(|(node, count)| (usize::MAX - **count, **node));
        let fuller: Vec<NodeId> = fuller.into_iter().map(|(node, _)| *node).collect();
        let moved = fuller.into_iter().find_map(|from| {
            let mut free =
                (0..).zip(&mut *shards).filter(|(shard, _)| !wishes.contains_key(&ShardId(*shard)));
            let (_, shard) = free.find(|(_, at)| at.contains(&from) && !at.contains(&to))?;
            let place = shard.iter_mut().find(|node| **node == from)?;
            *place = to;
            Some(from)
        });
        let Some(from) = moved else { return };
        *load.entry(from).or_default() -= 1;
        *load.entry(to).or_default() += 1;
    }
}

/// Puts the preferred leader first: the replica that leads fewest so far, or the one that is first now.
fn order(
    shards: Vec<Vec<NodeId>>,
    now: &[Vec<NodeId>],
    members: &BTreeSet<NodeId>,
) -> Vec<Vec<NodeId>> {
    let mut leads: Load = members.iter().map(|node| (*node, 0)).collect();
    let ordered = shards.into_iter().zip(now).map(|(mut shard, now)| {
        let was_first = now.first().copied();
        shard.sort_unstable();
        let key = |node: &&NodeId| (leads.get(*node).copied(), Some(**node) != was_first, **node);
        if let Some(first) = shard.iter().min_by_key(key).copied() {
            *leads.entry(first).or_default() += 1;
            let place = shard.iter().position(|node| *node == first).unwrap_or(0);
            shard.rotate_left(place);
        }
        shard
    });
    ordered.collect()
}

/// Returns who shall vote in the meta group: those who do, then others that are up, at most
/// [`META_VOTERS_MAX`] and an odd number of them beyond two.
pub(crate) fn meta_voters(
    members: &BTreeSet<NodeId>,
    up: &BTreeSet<NodeId>,
    now: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    let kept = now.iter().filter(|node| members.contains(node));
    let new = up.iter().filter(|node| members.contains(node) && !now.contains(node));
    // Who is up and votes already comes first, so that nothing moves without need.
    let mut order: Vec<NodeId> = kept.chain(new).copied().collect();
    order.sort_by_key(|node| !(up.contains(node) && now.contains(node)));
    let mut count = order.len().min(META_VOTERS_MAX);
    if count > 2 && count.is_multiple_of(2) {
        count -= 1;
    }
    order.into_iter().take(count).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    fn spread(counts: impl Iterator<Item = usize>) -> usize {
        let counts: Vec<_> = counts.collect();
        counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
    }

    fn of(shards: &[Vec<NodeId>], node: NodeId) -> usize {
        shards.iter().filter(|at| at.contains(&node)).count()
    }

    fn led(shards: &[Vec<NodeId>], node: NodeId) -> usize {
        shards.iter().filter(|at| at.first() == Some(&node)).count()
    }

    #[test]
    fn cluster_when_it_grows_to_three_then_all_have_all_and_leads_are_spread() {
        let mut now = vec![vec![NodeId(1)]; 16];
        for count in 2..=3 {
            let members = nodes(1..=count);
            now = desired(&members, &members, &now, &Wishes::new());
            assert!(now.iter().all(|at| at.len() == members.len()));
            assert!(spread(members.iter().map(|node| led(&now, *node))) <= 1, "{now:?}");
        }
    }

    #[test]
    fn cluster_when_it_grows_to_five_then_only_the_share_of_the_new_moves() {
        let three = nodes(1..=3);
        let now = desired(&three, &three, &vec![vec![NodeId(1)]; 16], &Wishes::new());
        let five = nodes(1..=5);
        let then = desired(&five, &five, &now, &Wishes::new());
        let moved = now.iter().zip(&then).flat_map(|(a, b)| b.iter().filter(|n| !a.contains(n)));
        assert_eq!(moved.count(), of(&then, NodeId(4)) + of(&then, NodeId(5)));
        assert!(spread(five.iter().map(|node| of(&then, *node))) <= 1);
    }

    #[test]
    fn member_when_down_then_keeps_what_it_has_and_gets_nothing() {
        let members = nodes(1..=4);
        let three = nodes(1..=3);
        let now = desired(&three, &three, &vec![vec![NodeId(1)]; 8], &Wishes::new());
        assert_eq!(desired(&members, &three, &now, &Wishes::new()), now);
        let without_two = nodes([1, 3, 4]);
        let then = desired(&members, &without_two, &now, &Wishes::new());
        assert!(of(&then, NodeId(2)) > 0 && of(&then, NodeId(4)) > 0);
    }

    #[test]
    fn meta_voters_when_members_come_and_go_then_odd_and_stable() {
        let voters = |members: u64, up: &BTreeSet<NodeId>, now: &BTreeSet<NodeId>| {
            meta_voters(&nodes(1..=members), up, now)
        };
        assert_eq!(voters(1, &nodes([1]), &nodes([1])), nodes([1]));
        assert_eq!(voters(2, &nodes([1, 2]), &nodes([1])), nodes([1, 2]));
        assert_eq!(voters(4, &nodes(1..=4), &nodes(1..=3)), nodes(1..=3));
        assert_eq!(voters(7, &nodes(1..=7), &nodes([2, 4, 6])), nodes([1, 2, 3, 4, 6]));
        // One that is down is replaced only where another takes its place.
        assert_eq!(voters(3, &nodes([1, 2]), &nodes(1..=3)), nodes(1..=3));
        assert_eq!(voters(4, &nodes([1, 2, 4]), &nodes(1..=3)), nodes([1, 2, 3]));
    }

    proptest! {
        /// From wherever replicas are: full, level, of members only, and a second look changes nothing.
        #[test]
        fn desired_when_all_are_up_then_full_level_and_at_rest(
            count in 1..7_u64,
            now in collection::vec(collection::btree_set(1..9_u64, 0..4), 1..20),
        ) {
            let members = nodes(1..=count);
            let now: Vec<Vec<NodeId>> =
                now.into_iter().map(|at| at.into_iter().map(NodeId).collect()).collect();
            let then = desired(&members, &members, &now, &Wishes::new());
            let replicas = members.len().min(REPLICAS_MAX);
            for shard in &then {
                prop_assert_eq!(shard.iter().collect::<BTreeSet<_>>().len(), replicas);
                prop_assert!(shard.iter().all(|node| members.contains(node)));
            }
            prop_assert!(spread(members.iter().map(|node| of(&then, *node))) <= 1, "{:?}", then);
            prop_assert_eq!(desired(&members, &members, &then, &Wishes::new()), then);
        }

        /// With members that are down: they keep what they have, and nothing comes to them.
        #[test]
        fn desired_when_some_are_down_then_they_get_nothing(
            count in 1..7_u64,
            down in collection::btree_set(1..7_u64, 0..3),
            now in collection::vec(collection::btree_set(1..9_u64, 1..4), 1..20),
        ) {
            let members = nodes(1..=count);
            let up: BTreeSet<_> =
                members.iter().copied().filter(|node| !down.contains(&node.0)).collect();
            let now: Vec<Vec<NodeId>> =
                now.into_iter().map(|at| at.into_iter().map(NodeId).collect()).collect();
            let then = desired(&members, &up, &now, &Wishes::new());
            for (before, after) in now.iter().zip(&then) {
                let came = after.iter().filter(|node| !before.contains(node));
                prop_assert!(came.into_iter().all(|node| up.contains(node)));
            }
        }
    }
}
