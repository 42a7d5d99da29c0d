//! A leader without space on its disk, under load.
//!
//! - Promises: its leads go to members that can write, and come back when it can; NO-LOSS and ORDER meanwhile.
//! - Needs: root, for the disk. Bound: `PATIENCE` for each change of leads.

use std::time::Duration;

use super::{client::World, judge, nemesis::Deeds, run, three_hosts};
use crate::support::wait::{let_pass, now, wait_until_within};

const PATIENCE: Duration = Duration::from_secs(60);
/// Writes go on for so long without the node.
const WITHOUT: Duration = Duration::from_secs(3);

#[test]
fn disk_of_a_leader_when_full_then_others_lead_until_it_has_space_again() {
    let _turn = crate::delivery::alone();
    let Some(victims) = three_hosts() else { return };
    let world = World::new(victims.addresses(), victims.user());
    let leads = || victims.led_by(1, 0);
    let history = run(&world, rand::random(), super::DYING, |_| {
        wait_until_within(PATIENCE, "every shard is everywhere", || victims.are_grown(1));
        wait_until_within(PATIENCE, "the node leads shards", || leads() > 0);
        victims.disks[0].fill();
        let filled = now();
        wait_until_within(PATIENCE, "others lead them while its disk is full", || leads() == 0);
        eprintln!("its leads were given away after {:?}", filled.elapsed());
        let_pass(WITHOUT);
        assert_eq!(leads(), 0, "a node that cannot write leads");
        victims.disks[0].free();
        wait_until_within(PATIENCE, "its shards come back", || leads() > 0);
        Deeds::default()
    });
    judge(&history, victims.panics());
}
