//! What every network promises: one suite, run on the memory twin and on sockets.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Class, Desk, LinkError, Network, Served, Service};
use crate::{
    id::NodeId,
    limits::{FRAME_BYTES_MAX, LINK_BYTES_MAX, LINK_REQUESTS_MAX},
};

pub(super) const LONG: Duration = Duration::from_secs(20);
pub(super) const ONE: NodeId = NodeId(1);
pub(super) const TWO: NodeId = NodeId(2);

/// Makes nodes and ends them.
pub(super) trait Fabric {
    /// Starts a node, or starts it again at its old address. It belongs to the cluster but knows no peers.
    fn start(&mut self, node: NodeId) -> BoxFuture<'_, Arc<dyn Network>>;
    /// Ends a node as `kill -9` does.
    fn kill(&mut self, node: NodeId) -> BoxFuture<'_, ()>;
    fn address(&self, node: NodeId) -> String;
}

/// Answers by the first byte of a request; everything that arrives is noted.
pub(super) struct Clerk {
    pub(super) seen: Mutex<Vec<(NodeId, Class, Desk, Bytes)>>,
    pub(super) gate: Arc<Semaphore>,
    pub(super) waiting: Arc<AtomicUsize>,
}

impl Default for Clerk {
    fn default() -> Self {
        let gate = Arc::new(Semaphore::new(0));
        Self { seen: Mutex::default(), gate, waiting: Arc::default() }
    }
}

impl Clerk {
    pub(super) fn bodies(&self, class: Class) -> Vec<Bytes> {
        let seen = self.seen.lock();
        seen.iter().filter(|seen| seen.1 == class).map(|seen| seen.3.clone()).collect()
    }
}

impl Service for Clerk {
    fn serve(&self, from: NodeId, class: Class, desk: Desk, body: Bytes) -> Served {
        self.seen.lock().push((from, class, desk, body.clone()));
        let (gate, waiting) = (self.gate.clone(), self.waiting.clone());
        async move {
            match body.first() {
                Some(b'n') => Err("no, thanks".to_owned()),
                Some(b'w') => {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    let permit = gate.acquire().await;
                    permit.map_err(|_| "closed".to_owned())?.forget();
                    Ok(body)
                }
                Some(b'f') => std::future::pending().await,
                _ => Ok(body),
            }
        }
        .boxed()
    }
}

/// Two nodes that know each other.
pub(super) struct Pair {
    pub(super) one: Arc<dyn Network>,
    pub(super) two: Arc<dyn Network>,
    pub(super) clerk: Arc<Clerk>,
}

pub(super) async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("timed out waiting until {what}");
}

pub(super) async fn pair(fabric: &mut impl Fabric) -> Pair {
    let clerk = Arc::new(Clerk::default());
    let (one, two) = (fabric.start(ONE).await, fabric.start(TWO).await);
    one.set_service(Arc::new(Clerk::default()));
    two.set_service(clerk.clone());
    let peers = BTreeMap::from([(ONE, fabric.address(ONE)), (TWO, fabric.address(TWO))]);
    one.set_peers(peers.clone());
    two.set_peers(peers);
    meet(&*one, TWO).await;
    meet(&*two, ONE).await;
    clerk.seen.lock().clear();
    Pair { one, two, clerk }
}

/// Waits until requests of every class get through.
pub(super) async fn meet(from: &dyn Network, to: NodeId) {
    for class in Class::ALL {
        for _ in 0..2_000 {
            let asked = from.request(to, class, Desk::Server, Bytes::from_static(b"hello"), LONG);
            if asked.await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let told = from.request(to, Class::Delivery, Desk::Server, Bytes::new(), LONG).await;
    assert_eq!(told, Ok(Bytes::new()));
}

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Order of sending is order of serving per class, casts among them; answers find their requests.
pub(super) async fn order(fabric: &mut impl Fabric) {
    let pair = pair(fabric).await;
    let mut asked = Vec::new();
    for number in 0..3_000_usize {
        let class = Class::ALL[number % 3];
        let text = body(&number.to_string());
        if number % 7 == 0 {
            pair.one.cast(TWO, class, Desk::Server, text).unwrap();
        } else {
            asked.push((text.clone(), pair.one.request(TWO, class, Desk::Query, text, LONG)));
        }
    }
    let (texts, answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    // Polled backwards: the order is that of the calls.
    let mut answers = join_all(answers.into_iter().rev()).await;
    answers.reverse();
    assert!(texts.into_iter().map(Ok).eq(answers));
    wait_until("all casts have arrived", || pair.clerk.seen.lock().len() == 3_000).await;
    for (place, class) in Class::ALL.into_iter().enumerate() {
        let sent = (0..3_000).filter(|number| number % 3 == place).map(|n| body(&n.to_string()));
        assert!(pair.clerk.bodies(class).into_iter().eq(sent), "{class} out of order");
    }
    assert!(pair.clerk.seen.lock().iter().all(|(from, ..)| *from == ONE));
}

/// A refusal comes with its words; a slow request holds up none behind it; a late one times out.
pub(super) async fn answers(fabric: &mut impl Fabric) {
    let pair = pair(fabric).await;
    let ask = |text: &str, time_out: Duration| {
        pair.one.request(TWO, Class::Control, Desk::Server, body(text), time_out)
    };
    assert_eq!(ask("no", LONG).await, Err(LinkError::Refused("no, thanks".into())));
    let slow = ask("wait", LONG);
    assert_eq!(ask("quick", LONG).await, Ok(body("quick")));
    pair.clerk.gate.add_permits(1);
    assert_eq!(slow.await, Ok(body("wait")));
    let late = ask("forever", Duration::from_millis(100)).await;
    assert!(matches!(late, Err(LinkError::TimedOut | LinkError::Refused(_))), "{late:?}");
    // What nobody waits for any more gives its place back.
    wait_until("the window is empty", || {
        pair.one.links().iter().all(|link| link.in_flight == 0 && link.in_flight_bytes == 0)
    })
    .await;
    assert_eq!(ask("again", LONG).await, Ok(body("again")));
}

/// Beyond the window of a class requests are refused, by bytes and by number; others pass.
pub(super) async fn full(fabric: &mut impl Fabric) {
    let pair = pair(fabric).await;
    let mut block = vec![b'w'; FRAME_BYTES_MAX];
    block[1] = 0;
    let block = Bytes::from(block);
    let ask = |class, body| pair.one.request(TWO, class, Desk::Server, body, LONG);
    let fitting = LINK_BYTES_MAX / FRAME_BYTES_MAX;
    let held: Vec<_> = (0..fitting).map(|_| ask(Class::Delivery, block.clone())).collect();
    assert_eq!(ask(Class::Delivery, body("one more")).await, Err(LinkError::Full));
    assert_eq!(ask(Class::Consensus, body("other class")).await, Ok(body("other class")));
    pair.clerk.gate.add_permits(fitting);
    assert!(join_all(held).await.into_iter().all(|answer| answer.as_ref() == Ok(&block)));
    assert_eq!(ask(Class::Delivery, body("room again")).await, Ok(body("room again")));

    let held: Vec<_> = (0..LINK_REQUESTS_MAX).map(|_| ask(Class::Control, body("w"))).collect();
    assert_eq!(ask(Class::Control, body("one more")).await, Err(LinkError::Full));
    pair.clerk.gate.add_permits(LINK_REQUESTS_MAX);
    assert!(join_all(held).await.into_iter().all(|answer| answer.is_ok()));

    let long = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
    assert_eq!(ask(Class::Control, long.clone()).await, Err(LinkError::TooLong));
    let cast = pair.one.cast(TWO, Class::Control, Desk::Server, long);
    assert_eq!(cast, Err(LinkError::TooLong));
    let refused: u64 = pair.one.links().iter().map(|link| link.refused_full).sum();
    assert_eq!(refused, 2);
}

/// When a peer dies its answers are lost, then it is unreachable, and back after it has started.
pub(super) async fn death(fabric: &mut impl Fabric) {
    let pair = pair(fabric).await;
    let ask = |text: &str| pair.one.request(TWO, Class::Consensus, Desk::Raft, body(text), LONG);
    let waits = ask("wait");
    wait_until("it is served", || pair.clerk.waiting.load(Ordering::SeqCst) == 1).await;
    fabric.kill(TWO).await;
    assert_eq!(waits.await, Err(LinkError::Lost));
    assert_eq!(ask("gone").await, Err(LinkError::Unreachable));
    let cast = pair.one.cast(TWO, Class::Consensus, Desk::Raft, body("gone"));
    assert_eq!(cast, Err(LinkError::Unreachable));
    let state = pair.one.links().into_iter().find(|link| link.class == Class::Consensus).unwrap();
    assert!(!state.connected && state.last_error.is_some(), "{state:?}");
    assert_eq!((state.in_flight, state.in_flight_bytes, state.connects), (0, 0, 1));

    let two = fabric.start(TWO).await;
    let clerk = Arc::new(Clerk::default());
    two.set_service(clerk.clone());
    meet(&*pair.one, TWO).await;
    let state = pair.one.links().into_iter().find(|link| link.class == Class::Consensus).unwrap();
    assert!(state.connected && state.connects == 2, "{state:?}");
    assert!(pair.clerk.seen.lock().iter().all(|seen| seen.3 != "gone"));
}

/// Who is no peer any more is not reached; who moved is found at the new address.
pub(super) async fn peers(fabric: &mut impl Fabric) {
    let pair = pair(fabric).await;
    let ask = |to, text: &str| pair.one.request(to, Class::Control, Desk::Query, body(text), LONG);
    assert_eq!(ask(NodeId(9), "nobody").await, Err(LinkError::Unreachable));
    let waits = ask(TWO, "wait");
    wait_until("it is served", || pair.clerk.waiting.load(Ordering::SeqCst) == 1).await;
    pair.one.set_peers(BTreeMap::new());
    assert_eq!(waits.await, Err(LinkError::Lost));
    assert_eq!(ask(TWO, "gone").await, Err(LinkError::Unreachable));
    assert!(pair.one.links().is_empty());
    pair.one.set_peers(BTreeMap::from([(TWO, fabric.address(TWO)), (ONE, fabric.address(ONE))]));
    meet(&*pair.one, TWO).await;
    assert_eq!(pair.one.links().len(), 3, "three classes, none to itself");
    // The other way was never disturbed.
    let back = pair.two.request(ONE, Class::Control, Desk::Query, body("back"), LONG);
    assert_eq!(back.await, Ok(body("back")));
}

/// A node that is no member yet can ask at an address, and nothing else.
pub(super) async fn knock(fabric: &mut impl Fabric) {
    let pair = pair(fabric).await;
    let three = fabric.start(NodeId(3)).await;
    let asked = three.knock(fabric.address(TWO), body("may I join"), LONG).await;
    assert_eq!(asked, Ok(body("may I join")));
    assert_eq!(
        *pair.clerk.seen.lock(),
        [(NodeId(3), Class::Control, Desk::Member, body("may I join"))]
    );
    let refused = three.knock(fabric.address(TWO), body("no"), LONG).await;
    assert_eq!(refused, Err(LinkError::Refused("no, thanks".into())));
    let nobody = three.knock("127.0.0.1:1".into(), body("hello"), LONG).await;
    assert_eq!(nobody, Err(LinkError::Unreachable));
    let asked = three.request(TWO, Class::Control, Desk::Member, body("hello"), LONG).await;
    assert_eq!(asked, Err(LinkError::Unreachable));
}

/// Makes one test of each promise: how tests run, then how a fabric is made.
macro_rules! contract {
    ($how:tt $fabric:expr) => {
        $crate::transport::contract::contract! {
            @each $how ($fabric) order, answers, full, death, peers, knock
        }
    };
    (@each $how:tt $fabric:tt $($promise:ident),*) => {
        mod contract_of {
            use super::*;
            $($crate::transport::contract::contract! { @one $how $fabric $promise })*
        }
    };
    (@one $how:tt $fabric:tt $promise:ident) => {
        #[tokio::test $how]
        async fn $promise() {
            $crate::transport::contract::$promise(&mut $fabric).await;
        }
    };
}
pub(super) use contract;
