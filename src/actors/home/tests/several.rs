//! Homes of a cluster of several nodes: the lead comes and goes, connections are anywhere.

use super::*;

const PEER: Start = Start { node: NodeId(2), incarnation: 3 };

#[actix::test]
async fn home_without_the_lead_refuses_and_names_the_leader() {
    let lead = Lead { leader: Some(NodeId(2)), term: 4, here: false };
    let world = World::new(lead, &[(PEER, true)], Vec::new());
    let refused = world.home.send(claim(1, 60)).await.unwrap().unwrap_err();
    assert_eq!(refused, ClaimError::Moved { to: Some(NodeId(2)) });
    assert!(!world.home.send(release(connection(1))).await.unwrap(), "to be sent elsewhere");
    world.news.add([(KEY, holder(ME, 7))]);
    settle().await;
    assert!(world.log.borrow().is_empty(), "news of a shard led elsewhere are nobody's");
}

#[actix::test]
async fn home_that_begins_to_lead_knows_the_connections_of_all_nodes() {
    let world = World::new(Lead::default(), &[(PEER, true)], Vec::new());
    world.others.rolls.lock().insert(2, vec![(KEY, connection(9))]);
    world.lead.send_replace(here(4));
    // Waits until the register is filled.
    let granted = world.home.send(claim(1, 0)).await.unwrap().unwrap();
    assert_eq!(granted.term, 4);
    assert_eq!(world.others.kicked(), [(2, 3, connection(9))]);
    assert_eq!(world.who_is(KEY).await, Some((ME, connection(1))));
}

#[actix::test]
async fn home_opens_after_two_seconds_without_the_silent_and_hears_them_later() {
    let world = World::new(Lead::default(), &[(PEER, true)], Vec::new());
    let reported = SessionKey(6);
    world.others.rolls.lock().insert(2, vec![(KEY, connection(9)), (reported, connection(8))]);
    world.others.silent.lock().insert(2);
    let begun = tokio::time::Instant::now();
    world.lead.send_replace(here(4));
    world.home.send(claim(1, 0)).await.unwrap().unwrap();
    assert!(begun.elapsed() >= limits::GATHER_WAIT && begun.elapsed() < limits::CLAIM_PATIENCE);
    world.others.silent.lock().clear();
    world.others.asked();
    tokio::time::sleep(limits::ROLL_TIMEOUT * 2).await;
    // Whom the home let in meanwhile stays, the other one goes.
    assert_eq!(world.others.kicked(), [(2, 3, connection(9))]);
    assert_eq!(world.who_is(KEY).await, Some((ME, connection(1))));
    assert_eq!(world.who_is(reported).await, Some((PEER, connection(8))));
}

#[actix::test]
async fn holder_on_another_node_is_kicked_there_before_the_claim_is_granted() {
    let held = vec![(KEY, Some(holder(PEER, 9)))];
    let world = World::new(here(4), &[(PEER, true)], held);
    settle().await;
    world.others.silent.lock().insert(2);
    let begun = tokio::time::Instant::now();
    // Nothing is to be stored, but what is there has to end.
    world.home.send(claim(1, 0)).await.unwrap().unwrap();
    assert!(begun.elapsed() >= limits::TAKEOVER_WAIT);
    assert_eq!(world.others.kicked(), [(2, 3, connection(9))]);
    assert_eq!(*world.log.borrow(), ["claim c0.1.1"]);
}

#[actix::test]
async fn holder_that_only_the_shard_knows_is_kicked_once_it_is_named() {
    let world = World::new(here(4), &[(PEER, true)], Vec::new());
    let previous = holder(PEER, 9);
    world.double.send(SetPrevious(previous)).await.unwrap();
    world.home.send(claim(1, 60)).await.unwrap().unwrap();
    assert_eq!(world.others.kicked(), [(2, 3, connection(9))]);
    // The claimant itself is the holder that its first attempt made.
    world.double.send(SetPrevious(holder(ME, 1))).await.unwrap();
    world.home.send(claim(1, 60)).await.unwrap().unwrap();
    assert!(world.others.kicked().is_empty());
    assert_eq!(*world.log.borrow(), ["claim c0.1.1", "claim c0.1.1"]);
}

#[actix::test]
async fn holder_on_a_dead_node_is_not_waited_for() {
    let held = vec![(KEY, Some(holder(PEER, 9)))];
    let world = World::new(here(4), &[(PEER, true)], held);
    settle().await;
    assert_eq!(world.who_is(KEY).await, Some((PEER, connection(9))));
    world.members.send_replace(members(&[(PEER, false)]));
    settle().await;
    assert_eq!(world.who_is(KEY).await, None, "its node is down");
    let begun = tokio::time::Instant::now();
    world.home.send(claim(1, 60)).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(10));
    assert!(world.others.kicked().is_empty());
}

#[actix::test]
async fn claim_under_way_when_the_lead_is_lost_is_not_granted_here() {
    let held = vec![(KEY, Some(holder(PEER, 9)))];
    let world = World::new(here(4), &[(PEER, true)], held);
    settle().await;
    world.others.silent.lock().insert(2);
    let (first, second) = (world.home.send(claim(1, 60)), world.home.send(claim(2, 60)));
    let lose = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.lead.send_replace(Lead { leader: Some(NodeId(2)), term: 5, here: false });
    };
    let (first, second, ()) = tokio::join!(first, second, lose);
    let moved = ClaimError::Moved { to: Some(NodeId(2)) };
    assert_eq!((first.unwrap(), second.unwrap()), (Err(moved), Err(moved)));
    assert_eq!(world.who_is(KEY).await, None);
}

#[actix::test]
async fn connection_with_an_old_name_of_its_node_may_not_claim() {
    let world = World::new(here(4), &[(PEER, true)], Vec::new());
    let refused = world.home.send(claim_of(start_of(2, 2), 1, 60)).await.unwrap();
    assert_eq!(refused, Err(ClaimError::Moved { to: Some(NodeId(1)) }));
    assert!(world.home.send(claim_of(PEER, 1, 60)).await.unwrap().is_ok());
}

#[actix::test]
async fn news_for_another_node_are_sent_until_they_are_confirmed() {
    let world = World::new(here(4), &[(PEER, true)], Vec::new());
    settle().await;
    world.others.asked();
    world.others.silent.lock().insert(2);
    world.news.add([(KEY, holder(PEER, 7))]);
    settle().await;
    world.news.add([(SessionKey(8), holder(PEER, 8))]);
    tokio::time::sleep(limits::NEWS_TIMEOUT).await;
    world.others.silent.lock().clear();
    tokio::time::sleep(limits::HOME_RETRY * 2).await;
    let told = |asked: Vec<(u64, PeerRequest)>| -> Vec<usize> {
        let sizes = asked.into_iter().map(|(_, request)| match request {
            PeerRequest::SessionsGrew { incarnation: 3, connections } => connections.len(),
            other => panic!("{other:?}"),
        });
        sizes.collect()
    };
    assert_eq!(told(world.others.asked()), [1, 2], "what comes meanwhile gathers");
    tokio::time::sleep(limits::NEWS_TIMEOUT).await;
    assert!(told(world.others.asked()).is_empty());
}

#[actix::test]
async fn two_connections_that_no_home_knew_of_each_other_both_go() {
    let other = start_of(3, 1);
    let world = World::new(Lead::default(), &[(PEER, true), (other, true)], Vec::new());
    world.others.rolls.lock().insert(2, vec![(KEY, connection(8))]);
    world.others.rolls.lock().insert(3, vec![(KEY, connection(9))]);
    world.lead.send_replace(here(4));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut kicked = world.others.kicked();
    kicked.sort_unstable();
    assert_eq!(kicked, [(2, 3, connection(8)), (3, 1, connection(9))]);
    assert_eq!(world.who_is(KEY).await, None);
}

#[actix::test]
async fn home_that_is_told_so_calls_the_roll_again_and_has_the_upkeep_look() {
    let world = World::new(here(4), &[(PEER, true)], Vec::new());
    settle().await;
    world.others.rolls.lock().insert(2, vec![(KEY, connection(8))]);
    assert!(world.home.send(CallAgain(PEER)).await.unwrap());
    settle().await;
    assert_eq!(world.who_is(KEY).await, Some((PEER, connection(8))));
    assert_eq!(world.log.borrow().last().unwrap(), "sweep 2");
    world.lead.send_replace(Lead::default());
    settle().await;
    assert!(!world.home.send(CallAgain(PEER)).await.unwrap());
}

/// Its connection may be what the shard names as the holder, under an epoch that it was never told.
#[actix::test]
async fn release_that_is_fenced_then_the_upkeep_looks_who_holds_the_session() {
    let world = World::new(here(4), &[(PEER, true)], Vec::new());
    settle().await;
    let ReleaseBy { release, .. } = release(connection(8));
    let release = Release { epoch: FENCED, ..release };
    assert!(world.home.send(ReleaseBy { by: PEER, release }).await.unwrap());
    assert!(!world.log.borrow().iter().any(|line| line.starts_with("sweep")), "it is there still");
    tokio::time::sleep(limits::HOME_RETRY_MAX * 2).await;
    assert_eq!(world.log.borrow().last().unwrap(), "sweep 2");
}

/// The claim of a start that was declared dead may have been granted, and its will published.
#[actix::test]
async fn claim_when_its_node_is_taken_for_dead_meanwhile_then_refused_and_not_made_again() {
    let elsewhere = Lead { leader: Some(NodeId(2)), term: 4, here: false };
    let world = World::new(elsewhere, &[(PEER, true)], Vec::new());
    let view = View::new(vec![world.lead.subscribe()], world.members.subscribe());
    let homes = Rc::new(client::Homes {
        view,
        peers: Peers::new(Arc::clone(&world.others) as _),
        claim: vec![world.home.clone().recipient()],
        release: vec![world.home.clone().recipient()],
        again: vec![world.home.clone().recipient()],
        duty: client::Duty::new(1),
    });
    // Nobody answers as a home.
    for (expiry_secs, refused) in [(60, true), (0, false)] {
        let ClaimBy { claim, .. } = claim(1, expiry_secs);
        let claimed = homes.claim(ShardId(0), claim);
        let die = async {
            tokio::time::sleep(limits::CLAIM_PATIENCE / 2).await;
            world.members.send_modify(|members| Arc::make_mut(members).me.incarnation += 1);
        };
        let (claimed, ()) = tokio::join!(claimed, die);
        assert_eq!(claimed.is_err(), refused);
        let asked = world.others.asked().into_iter().filter_map(|(_, request)| match request {
            PeerRequest::Claim { incarnation, .. } => Some(incarnation),
            _ => None,
        });
        let asked: std::collections::BTreeSet<_> = asked.collect();
        assert_eq!(asked.len(), if refused { 1 } else { 2 }, "{asked:?}");
    }
}

/// What goes out behind the upkeep's look at a dead node would be seen by nobody.
#[actix::test]
async fn claim_of_a_node_that_dies_while_the_old_connection_is_kicked_is_not_stored() {
    let other = start_of(3, 1);
    let world = World::new(here(4), &[(PEER, true), (other, true)], Vec::new());
    world.home.send(claim_of(PEER, 1, 60)).await.unwrap().unwrap();
    world.others.silent.lock().insert(2);
    let claims = || {
        let log = world.log.borrow();
        log.iter().filter(|line| line.starts_with("claim")).count()
    };
    let claimed = world.home.send(claim_of(other, 2, 60));
    let die = async {
        tokio::time::sleep(limits::TAKEOVER_WAIT / 2).await;
        assert_eq!(claims(), 1, "it waits for the old one");
        world.members.send_replace(members(&[(PEER, true), (other, false)]));
    };
    let (claimed, ()) = tokio::join!(claimed, die);
    assert_eq!(claimed.unwrap().unwrap_err(), ClaimError::Unavailable);
    assert_eq!(claims(), 1);
}
