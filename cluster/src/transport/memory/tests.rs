//! The hub keeps the contract, its faults do what they say, and one seed is one run.

use std::{ops::RangeInclusive, sync::atomic::Ordering};

use futures_util::future::join_all;

use super::*;
use crate::transport::contract::{self, Clerk, Fabric, LONG, ONE, Pair, TWO};

const CLUSTER: ClusterId = [7; 16];

struct Memory {
    hub: Hub,
}

impl Memory {
    fn new(seed: u64, delay: RangeInclusive<Duration>) -> Self {
        let hub = Hub::new(seed);
        hub.set_delay(delay);
        Self { hub }
    }
}

fn at_once() -> RangeInclusive<Duration> {
    Duration::ZERO..=Duration::ZERO
}

fn slow() -> RangeInclusive<Duration> {
    Duration::from_millis(1)..=Duration::from_millis(40)
}

impl Fabric for Memory {
    fn start(&mut self, node: NodeId) -> BoxFuture<'_, Arc<dyn Network>> {
        let network = self.hub.join(node, &self.address(node));
        network.set_cluster(CLUSTER);
        Box::pin(async move { network as Arc<dyn Network> })
    }

    fn kill(&mut self, node: NodeId) -> BoxFuture<'_, ()> {
        self.hub.leave(node);
        Box::pin(async {})
    }

    fn address(&self, node: NodeId) -> String {
        format!("node-{}:1", node.0)
    }
}

contract::contract!((start_paused = true) Memory::new(1, slow()));

fn ask(pair: &Pair, text: &'static str) -> BoxFuture<'static, Result<Bytes, LinkError>> {
    pair.one.request(TWO, Class::Control, Desk::Server, Bytes::from_static(text.as_bytes()), LONG)
}

#[tokio::test(start_paused = true)]
async fn short_cut_when_it_heals_then_what_was_held_arrives_in_order() {
    let mut fabric = Memory::new(3, slow());
    let pair = contract::pair(&mut fabric).await;
    for (from, to) in [(ONE, TWO), (TWO, ONE)] {
        fabric.hub.cut(from, to);
        let asked: Vec<_> = ["a", "b", "c", "d"].into_iter().map(|text| ask(&pair, text)).collect();
        tokio::time::sleep(Duration::from_secs(2)).await;
        fabric.hub.heal(from, to);
        let more = [ask(&pair, "e"), ask(&pair, "g")];
        assert!(join_all(asked.into_iter().chain(more)).await.iter().all(Result::is_ok));
        assert_eq!(pair.clerk.bodies(Class::Control), ["a", "b", "c", "d", "e", "g"]);
        pair.clerk.seen.lock().clear();
    }
    assert!(pair.one.links().iter().all(|link| link.connects == 1));
}

#[tokio::test(start_paused = true)]
async fn long_cut_of_either_way_then_requests_are_lost_and_no_link_is_made_until_it_heals() {
    let mut fabric = Memory::new(4, at_once());
    let pair = contract::pair(&mut fabric).await;
    for (from, to) in [(ONE, TWO), (TWO, ONE)] {
        fabric.hub.cut(from, to);
        let started = clock::now();
        assert_eq!(ask(&pair, "into the void").await, Err(LinkError::Lost));
        assert_eq!(clock::now() - started, LINK_SILENCE_MAX);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(ask(&pair, "no way").await, Err(LinkError::Unreachable));
        fabric.hub.heal_all();
        assert_eq!(ask(&pair, "back").await, Ok(Bytes::from_static(b"back")));
    }
    // What was sent into the second cut was served, only its answer is lost.
    assert_eq!(pair.clerk.bodies(Class::Control), ["back", "into the void", "back"]);
}

#[tokio::test(start_paused = true)]
async fn partition_when_it_heals_early_then_silence_starts_anew() {
    let mut fabric = Memory::new(5, at_once());
    let pair = contract::pair(&mut fabric).await;
    for _ in 0..3 {
        fabric.hub.partition(&[ONE], &[TWO]);
        tokio::time::sleep(Duration::from_millis(2_900)).await;
        fabric.hub.heal_all();
    }
    assert_eq!(ask(&pair, "still here").await, Ok(Bytes::from_static(b"still here")));
    assert!(pair.one.links().iter().all(|link| link.connects == 1));
}

#[tokio::test(start_paused = true)]
async fn reset_then_what_is_under_way_is_lost_and_the_link_comes_back() {
    let mut fabric = Memory::new(6, slow());
    let pair = contract::pair(&mut fabric).await;
    let waits = ask(&pair, "wait");
    contract::wait_until("served", || pair.clerk.waiting.load(Ordering::SeqCst) == 1).await;
    let travels = ask(&pair, "on its way");
    fabric.hub.reset(ONE, TWO);
    assert_eq!(waits.await, Err(LinkError::Lost));
    assert_eq!(travels.await, Err(LinkError::Lost));
    assert_eq!(ask(&pair, "too soon").await, Err(LinkError::Unreachable));
    contract::meet(&*pair.one, TWO).await;
    assert!(!pair.clerk.bodies(Class::Control).contains(&Bytes::from_static(b"on its way")));
}

/// Runs a load with random delays and resets; tells what was seen, when, and what came of it.
fn run(seed: u64) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut fabric = Memory::new(seed, slow());
        let pair = contract::pair(&mut fabric).await;
        fabric.hub.set_resets(20_000);
        let started = clock::now();
        let mut trace = String::new();
        for round in 0..40_u8 {
            let class = Class::ALL[usize::from(round) % 3];
            let ask = |number: u8| {
                let body = Bytes::copy_from_slice(&[b'0', round, number]);
                pair.one.request(TWO, class, Desk::Server, body, Duration::from_millis(70))
            };
            let outcomes = join_all((0..5).map(ask)).await;
            trace += &format!("{:?} {outcomes:?}\n", clock::now() - started);
        }
        trace += &format!("{:?}", pair.clerk.seen.lock());
        trace
    })
}

#[test]
fn one_seed_run_twice_is_one_run() {
    let trace = run(11);
    assert_eq!(trace, run(11));
    assert_ne!(trace, run(12));
    assert!(trace.contains("Lost") && trace.contains("Ok("), "{trace}");
}

#[tokio::test(start_paused = true)]
async fn node_that_left_then_its_old_network_and_what_it_served_are_dead() {
    let mut fabric = Memory::new(7, at_once());
    let pair = contract::pair(&mut fabric).await;
    let clerk = pair.clerk.clone();
    let _waits = ask(&pair, "wait");
    contract::wait_until("served", || clerk.waiting.load(Ordering::SeqCst) == 1).await;
    fabric.kill(TWO).await;
    clerk.gate.add_permits(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(clerk.gate.available_permits(), 1, "what a dead node served goes on");
    let again = fabric.start(TWO).await;
    again.set_service(Arc::new(Clerk::default()));
    contract::meet(&*pair.one, TWO).await;
    let old = pair.two.request(ONE, Class::Control, Desk::Server, Bytes::new(), LONG);
    assert_eq!(old.await, Err(LinkError::Unreachable));
    assert!(pair.two.links().is_empty());
}
