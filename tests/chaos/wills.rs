//! Clients that die: the will of each must come, and come once.
//!
//! - Owns: nothing between runs. Takes: a world. Gives: its part of the history, a will a number.
//! - Bound: one connection at a time per thread; every wait has a time limit.
//! - A will counts as acknowledged when CONNACK accepts the connection: whether its session outlives the
//!   connection or not, in either version.

use std::time::Duration;

use rand::Rng as _;

use super::{
    client::{Client, World},
    history::{Kind, Sent},
};
use crate::support::{
    packet::{Version, Will},
    property::Props,
    wait::let_pass,
};

/// Connects and dies, again and again, until the world stops.
pub(super) fn die(world: &World, number: usize, seed: u64) -> Sent {
    let mut sent = Sent { kind: Kind::Will, ..Sent::default() };
    while !world.is_stopped() {
        let round = sent.sent;
        let name = format!("dies{number}.{round}");
        let (version, durable) = match round % 4 {
            0 => (Version::V4, false),
            1 => (Version::V5, false),
            2 => (Version::V4, true),
            _ => (Version::V5, true),
        };
        let mut client = Client::new(world, version, &name, durable, seed.wrapping_add(round))
            .with_will(Will {
                topic: format!("chaos/{number}"),
                payload: format!("{number}:{round}").into_bytes(),
                qos: 2,
                retain: false,
                props: Props::new(),
            });
        sent.sent += 1;
        // One try: with a second one there could be two wills.
        if client.connect_once() {
            sent.acked.insert(round);
        }
        let_pass(Duration::from_millis(client.random.random_range(0..400)));
        client.cut();
        let_pass(Duration::from_millis(client.random.random_range(0..100)));
    }
    sent
}
