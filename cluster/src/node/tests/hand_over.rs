//! A leader that gives its lead away reads nothing by its lease meanwhile: the heir may win without its knowing.
//!
//! - Owns: a network that is cut as soon as the heir is asked. Takes: a world. Gives: failures. Bound: tests only.

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::*;
use crate::{
    limits::LEADER_LEASE,
    raft_group::members::PLEDGE,
    transport::{Class, ClusterId, Desk, LinkError, LinkState, Network, Service},
};

/// Carries requests to the heir until the third of a hand-over, which says "now". That one arrives, and nothing
/// comes back any more.
struct Severed {
    inner: Arc<dyn Network>,
    world: Arc<World>,
    leader: NodeId,
    requests: std::sync::atomic::AtomicUsize,
}

impl Network for Severed {
    fn request(
        &self,
        to: NodeId,
        class: Class,
        desk: Desk,
        body: Bytes,
        time_out: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let asked = self.inner.request(to, class, desk, body, time_out);
        if self.requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2 {
            self.world.hub.cut(to, self.leader);
        }
        asked
    }

    fn set_service(&self, _: Arc<dyn Service>) {}
    fn set_cluster(&self, _: ClusterId) {}
    fn set_peers(&self, _: BTreeMap<NodeId, String>) {}
    fn set_removed(&self, _: BTreeSet<NodeId>) {}
    fn removed(&self) -> watch::Receiver<bool> {
        self.inner.removed()
    }
    fn set_node(&self, _: NodeId) {}
    fn cast(&self, _: NodeId, _: Class, _: Desk, _: Bytes) -> Result<(), LinkError> {
        Err(LinkError::Unreachable)
    }
    fn knock(
        &self,
        _: String,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        Box::pin(std::future::ready(Err(LinkError::Unreachable)))
    }
    fn links(&self) -> Vec<LinkState> {
        Vec::new()
    }
    fn stop(&self) {}
}

#[test]
fn leader_when_the_heir_wins_unheard_then_reads_nothing_by_its_lease() {
    let world = Arc::new(World::grown(3));
    world.write(0, "early");
    let old = world.leader(0).unwrap();
    let [heir, third] =
        [1, 2, 3].map(NodeId).into_iter().filter(|node| node.0 != old).collect::<Vec<_>>()[..]
    else {
        panic!("three nodes")
    };
    // The third hears of the leader no more, and votes for whoever asks.
    world.hub.partition(&[NodeId(old)], &[third]);
    world.pause(LEADER_LEASE + Duration::from_millis(100));
    let handle = world.handle(old);
    let shared = handle.shared();
    let group = &shared.groups.groups[0];
    world.wait("it leads, and may read", |_| group.read_index().is_some());
    let network = Severed {
        inner: shared.network.clone().unwrap(),
        world: world.clone(),
        leader: NodeId(old),
        requests: Default::default(),
    };
    let led = world.handle(heir.0).leadership(ShardId(0));
    let handing = world.runtime.block_on(async {
        let handing = group.hand_over(heir, &network, false);
        let wins = async {
            let mut led = led.clone();
            led.wait_for(|lead| lead.here).await.unwrap();
            // It may write from now on.
            assert_eq!(group.read_index(), None, "a leader reads while another leads");
        };
        tokio::join!(handing, wins).0
    });
    assert!(!handing, "nobody has told it");
    world.hub.heal_all();
    world.wait("it follows", |_| !group.lead.now().here);
    world.write(0, "late");
}

#[test]
fn pledge_when_of_another_or_late_or_taken_then_it_does_not_hold() {
    let mut world = World::new();
    world.start(1, &[]);
    let handle = world.handle(1);
    let group = &handle.shared().groups.groups[0];
    let (leader, other) = (NodeId(2), NodeId(3));
    group.pledge(leader, 7);
    assert!(!group.take_pledge(leader, 8) && !group.take_pledge(other, 7));
    assert!(group.take_pledge(leader, 7));
    assert!(!group.take_pledge(leader, 7));
    group.pledge(leader, 8);
    world.pause(PLEDGE);
    assert!(!group.take_pledge(leader, 8));
}
