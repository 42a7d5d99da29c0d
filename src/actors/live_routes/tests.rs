//! One node's live routes against a meta group whose answers the test decides.

use super::*;
use crate::{
    actors::meta::fake::FakeMeta,
    model::{id::AppId, route_key, topic::TopicFilter},
};

const APP: AppId = AppId(1);

fn keys(filters: &[&str]) -> Vec<Bytes> {
    filters.iter().map(|text| route_key::of_filter(APP, text.as_bytes())).collect()
}

fn nobody() -> Tellers {
    Tellers { routers: Vec::new(), groups: Vec::new() }
}

fn key(text: &str) -> Bytes {
    route_key::of_filter(APP, text.as_bytes())
}

fn hold(routes: &LiveRoutes, text: &str) {
    routes.hold(0, [key(text)]);
}

fn start(meta: &Arc<FakeMeta>) -> Arc<LiveRoutes> {
    let routes = Arc::<LiveRoutes>::default();
    tokio::spawn(Arc::clone(&routes).run(Arc::new(Arc::clone(meta)), nobody()));
    routes
}

async fn routed(routes: &Arc<LiveRoutes>, text: &str) -> bool {
    match routes.routed(keys(&[text])) {
        None => true,
        Some(answer) => answer.await == [true],
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_alone_proposes_nothing_and_nobody_waits() {
    let meta = FakeMeta::alone();
    let routes = start(&meta);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(routes.routed(keys(&["a"])).is_none());
    assert_eq!(meta.changes(), 0);
}

#[tokio::test(start_paused = true)]
async fn subscribers_wait_for_commit_and_barrier_together() {
    let meta = FakeMeta::in_company();
    let routes = start(&meta);
    until(|| meta.is_complete()).await;
    meta.set_behind(true);
    hold(&routes, "a");
    hold(&routes, "b");
    let both = keys(&["a", "b"]);
    let first = tokio::spawn(routes.routed(both.clone()).unwrap());
    let second = tokio::spawn(routes.routed(both[..1].to_vec()).unwrap());
    until(|| meta.live().len() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_finished() && !second.is_finished(), "a node is behind");
    meta.set_behind(false);
    assert_eq!(first.await.unwrap(), [true, true]);
    assert_eq!(second.await.unwrap(), [true]);
    assert!(routes.routed(both.clone()).is_none(), "later subscribers wait for nothing");
}

#[tokio::test(start_paused = true)]
async fn subscribe_without_quorum_is_refused_after_the_limit_and_works_again_with_it() {
    let meta = FakeMeta::in_company();
    let routes = start(&meta);
    until(|| meta.is_complete()).await;
    hold(&routes, "old");
    assert!(routed(&routes, "old").await);
    meta.set_quorum(false);
    hold(&routes, "a");
    let began = tokio::time::Instant::now();
    let answer = routes.routed(keys(&["a", "old"])).unwrap().await;
    assert_eq!(answer, [false, true]);
    assert!(began.elapsed() >= limits::ROUTE_WAIT && began.elapsed() < 2 * limits::ROUTE_WAIT);
    meta.set_quorum(true);
    assert!(routed(&routes, "a").await);
}

#[tokio::test(start_paused = true)]
async fn node_without_lease_lets_nobody_in_by_an_old_route() {
    let meta = FakeMeta::in_company();
    let routes = start(&meta);
    until(|| meta.is_complete()).await;
    hold(&routes, "a");
    assert!(routed(&routes, "a").await);
    meta.set_lease(false);
    assert!(!routed(&routes, "a").await, "the others may have declared this node down");
    meta.set_lease(true);
    assert!(routed(&routes, "a").await);
}

#[tokio::test(start_paused = true)]
async fn node_declared_down_proposes_everything_again_before_the_next_suback() {
    let meta = FakeMeta::in_company();
    let routes = start(&meta);
    until(|| meta.is_complete()).await;
    hold(&routes, "a");
    hold(&routes, "b");
    assert!(routed(&routes, "a").await && routed(&routes, "b").await);
    meta.declare_down();
    assert!(!routed(&routes, "a").await);
    let waits = tokio::spawn(routes.routed(keys(&["b"])).unwrap());
    meta.declare_up();
    assert_eq!(waits.await.unwrap(), [true]);
    assert!(meta.live().contains(&key("b")));
    until(|| meta.is_complete()).await;
    assert_eq!(meta.live(), [key("a"), key("b")].into());
}

#[tokio::test(start_paused = true)]
async fn route_without_subscriber_goes_late_and_not_if_one_came_back() {
    let meta = FakeMeta::in_company();
    let routes = start(&meta);
    for text in ["goes", "stays"] {
        hold(&routes, text);
        assert!(routed(&routes, text).await);
        routes.release(0, &key(text));
    }
    hold(&routes, "stays");
    tokio::time::sleep(limits::ROUTE_LINGER / 2).await;
    assert_eq!(meta.live().len(), 2, "too early");
    tokio::time::sleep(limits::ROUTE_LINGER).await;
    assert_eq!(meta.live(), [key("stays")].into());
}

#[test]
fn router_tells_which_filters_need_all_messages_and_which_qos_0_alone() {
    use crate::{
        actors::{testing, topic_router},
        model::{message::Qos, wire::SubscriptionOptions},
    };
    testing::on_worker(crate::actors::worker::LinkLimits::DEFAULT, |bench| async move {
        let (durable, _peer) = bench.connect(1 << 16, |terms| terms.durable = true);
        let (volatile, _peer) = bench.connect(1 << 16, |_| {});
        let filter = || TopicFilter::parse("a").unwrap();
        let subscribe = |link: &crate::actors::link::AnyLink, qos| {
            let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
            let items = vec![topic_router::Subscription { filter: filter(), options, id: None }];
            bench.router.send(topic_router::Subscribe {
                connection: link.id(),
                app: APP,
                items,
                keep_live: false,
            })
        };
        let unsubscribe = |link: &crate::actors::link::AnyLink| {
            let gone = topic_router::Unsubscribe {
                connection: link.id(),
                app: APP,
                filters: vec![filter()],
            };
            bench.router.send(gone)
        };
        let held = || {
            let inner = bench.worker.live_routes().inner.lock();
            let of_qos_0 = route_key::of_filter_qos_0(APP, b"a");
            [key("a"), of_qos_0].map(|key| inner.book.ticket(&key).is_some())
        };
        subscribe(&durable, Qos::AtLeastOnce).await.unwrap();
        bench.router.send(TellFilters { from: 0 }).await.unwrap();
        assert_eq!(held(), [false, true], "told when the node got company");
        subscribe(&volatile, Qos::AtLeastOnce).await.unwrap();
        assert_eq!(held(), [true, true]);
        unsubscribe(&volatile).await.unwrap();
        assert_eq!(held(), [false, true]);
        subscribe(&durable, Qos::AtMostOnce).await.unwrap();
        assert_eq!(held(), [true, false], "QoS 1 comes live, as QoS 0");
        subscribe(&durable, Qos::ExactlyOnce).await.unwrap();
        assert_eq!(held(), [false, true]);
        unsubscribe(&durable).await.unwrap();
        assert_eq!(held(), [false, false]);
    });
}

#[test]
fn router_whose_node_gets_company_tells_of_all_its_filters_and_of_news() {
    use crate::actors::{testing, topic_router};
    testing::on_worker(crate::actors::worker::LinkLimits::DEFAULT, |bench| async move {
        let (link, _peer) = bench.connect(1 << 16, |_| {});
        let subscribe = |texts: Vec<String>| {
            let items = texts.iter().map(|text| topic_router::Subscription {
                filter: TopicFilter::parse(text).unwrap(),
                options: crate::model::wire::SubscriptionOptions::default(),
                id: None,
            });
            let items = items.collect();
            bench.router.send(topic_router::Subscribe {
                connection: link.id(),
                app: APP,
                items,
                keep_live: false,
            })
        };
        let many = limits::ROUTE_WALK_FILTERS + 10;
        subscribe((0..many).map(|n| format!("f/{n}")).collect()).await.unwrap();
        let routes = bench.worker.live_routes();
        assert!(routes.is_empty(), "nobody asked");
        let next = bench.router.send(TellFilters { from: 0 }).await.unwrap();
        assert_eq!((next, routes.len()), (Some(limits::ROUTE_WALK_FILTERS), 1_024));
        subscribe(vec!["new".to_owned()]).await.unwrap();
        let next = bench.router.send(TellFilters { from: next.unwrap() }).await.unwrap();
        assert_eq!((next, routes.len()), (None, many as usize + 1));
        let gone = topic_router::Unsubscribe {
            connection: link.id(),
            app: APP,
            filters: vec![TopicFilter::parse("f/3").unwrap()],
        };
        bench.router.send(gone).await.unwrap();
        assert!(routes.inner.lock().book.ticket(&key("f/3")).is_none());
        assert!(routes.inner.lock().book.ticket(&key("f/4")).is_some());
    });
}
