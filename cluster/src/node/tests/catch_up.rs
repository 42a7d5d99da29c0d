//! A member that was away for longer than the log goes back gets its state as snapshots.

use std::time::Duration;

use super::*;

const SHARD: u16 = 1;

/// Three members whose logs hold little.
fn forgetful() -> World {
    let mut world = World::new();
    world.more.checkpoint_bytes = 1 << 16;
    world.start(1, &[]);
    for node in 2..=3 {
        world.start(node, &["n1"]);
    }
    world.wait_for_members(3);
    world
}

fn name(round: usize) -> String {
    format!("{round:04} {}", "x".repeat(4_000))
}

impl World {
    /// Writes while a member is away until its log has no way on.
    fn leave_behind(&mut self, node: u64, from: usize) -> usize {
        let has = |world: &Self, node| {
            let handle = world.handle(node);
            let group = &handle.shared().groups.groups[usize::from(SHARD)];
            let metrics = group.raft.metrics().borrow().clone();
            (metrics.last_log_index.unwrap_or(0), metrics.purged.map_or(0, |id| id.index))
        };
        let (last, _) = has(self, node);
        self.kill(node);
        for round in from..from + 2_000 {
            self.write(SHARD, &name(round));
            let leader = self.leader(SHARD);
            if leader.is_some_and(|leader| has(self, leader).1 > last) && round >= from + 100 {
                return round + 1;
            }
        }
        panic!("the log keeps everything");
    }

    fn has_all(&self, node: u64, rounds: usize) -> bool {
        (0..rounds).all(|round| self.has_name(node, &name(round)))
    }

    /// As `has`, for names that are longer than keys.
    fn has_name(&self, node: u64, name: &str) -> bool {
        let handle = self.handle(node);
        let store = &handle.shared().groups.shards[usize::from(SHARD)].store;
        let key = [b"k", &name.as_bytes()[..64]].concat();
        store.state.lock().get(&key).is_some_and(|value| value == name)
    }
}

#[test]
fn member_away_for_longer_than_the_log_then_catches_up_and_follows() {
    let mut world = forgetful();
    let rounds = world.leave_behind(3, 0);
    world.start(3, &[]);
    world.wait("it has the state", |world| world.has_all(3, rounds));
    world.write(SHARD, "afterwards");
    world.wait("it follows", |world| world.has(3, SHARD, "afterwards"));
    // What it got survives its own restart.
    world.kill(3);
    world.start(3, &[]);
    assert!(world.has_all(3, rounds));
    world.wait("no file stays", |world| {
        (1..=3).all(|node| {
            let files = std::fs::read_dir(world.folder(node).join("snapshots")).unwrap();
            files.count() == 0
        })
    });
}

#[test]
fn member_that_dies_while_it_catches_up_over_broken_links_then_catches_up_all_the_same() {
    let mut world = forgetful();
    let rounds = world.leave_behind(3, 0);
    world.hub.set_resets(50_000);
    world.hub.set_delay(Duration::from_millis(0)..=Duration::from_millis(5));
    for pause_ms in [5, 40, 120, 300] {
        world.start(3, &[]);
        world.pause(Duration::from_millis(pause_ms));
        world.kill(3);
    }
    let rounds = world.leave_behind_again(rounds);
    world.start(3, &[]);
    world.wait("it has the state", |world| world.has_all(3, rounds));
}

impl World {
    fn leave_behind_again(&self, rounds: usize) -> usize {
        for round in rounds..rounds + 30 {
            self.write(SHARD, &name(round));
        }
        rounds + 30
    }
}
