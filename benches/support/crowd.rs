//! Workers whose clients are let in and granted everything: no homes, no shards, nothing durable.
//!
//! - Owns: nothing that stays. Takes: `script::ScriptSocket`s. Gives: real connection actors and routers.
//! - Bound: none of its own.

use std::{
    num::{NonZeroU16, NonZeroU32},
    rc::Rc,
    sync::Arc,
};

use actix::Addr;
use bytes::Bytes;
use hongqiao::{
    actors::{
        appender::SubmitError,
        connection::{
            backend::{self, Backend, Later, PageError, Subscriber},
            options::ListenerOptions,
        },
        counters::Counters,
        home::{Claim, ClaimError, Release},
        interest::Interests,
        line::Line,
        publish::{Outcome, Published},
        topic_router::{Subscribe, Subscription, TopicRouter},
        worker::{LinkLimits, Worker, WorkerConfig},
    },
    auth::{Admission, Credentials, Principal, Verdict},
    front::mqtt::fronts,
    model::{
        id::{AppId, Epoch, HashKey, Position, SessionKey},
        message::{Message, Qos},
        session::admission::Offer,
        topic::TopicFilter,
        wire::DecodeLimits,
    },
    shard::command::{Claimed, Command, FiltersFull, Page, Reply, StoredSubscription},
};

use super::script::APP;

/// Grants everything; subscriptions go to the real router.
struct Grant {
    router: Addr<TopicRouter>,
    hash_key: HashKey,
}

impl Backend for Grant {
    fn authenticate(&self, admission: &Admission, _: Credentials) -> Verdict {
        Verdict::Now(Ok(Principal { app: admission.app, user: None }))
    }

    fn session_key(&self, app: AppId, client_id: &str) -> SessionKey {
        self.hash_key.session(app, client_id)
    }

    fn claim(&self, _: Claim) -> Later<Result<Box<Claimed>, ClaimError>> {
        Box::pin(async { Ok(Box::default()) })
    }

    fn release(&self, _: Release) -> Later<()> {
        Box::pin(async {})
    }

    fn submit(&self, _: SessionKey, _: Command) -> Later<Result<Reply, SubmitError>> {
        Box::pin(async { Ok(Reply::Done) })
    }

    fn submit_in_line(
        &self,
        _: SessionKey,
        _: Command,
        _: Line,
    ) -> Later<Result<Reply, SubmitError>> {
        Box::pin(async { Ok(Reply::Done) })
    }

    fn page(
        &self,
        _: SessionKey,
        _: Epoch,
        _: Position,
        _: usize,
        _: usize,
    ) -> Later<Result<Page, PageError>> {
        Box::pin(async { Ok(Page::default()) })
    }

    fn publish(&self, _: &[Arc<Message>], _: &mut Option<Line>) -> Published {
        Published { outcomes: Vec::new(), taken: None }
    }

    fn publish_again(&self, messages: &[Arc<Message>], _: &mut Option<Line>) -> Published {
        let outcomes = messages.iter().map(|_| Outcome::Done(Ok(()))).collect();
        Published { outcomes, taken: None }
    }

    fn subscribe(
        &self,
        who: Subscriber,
        items: Vec<StoredSubscription>,
        _: usize,
        _: u32,
    ) -> Later<Vec<Result<bool, FiltersFull>>> {
        let items = items.iter().map(Subscription::from).collect();
        let (connection, app) = (who.connection, who.app);
        let sent = self.router.send(Subscribe { connection, app, items, keep_live: false });
        Box::pin(async move { sent.await.unwrap_or_default().into_iter().map(Ok).collect() })
    }

    fn take_live(&self, _: Subscriber, _: Vec<TopicFilter>) -> Later<Vec<Subscription>> {
        Box::pin(async { Vec::new() })
    }

    fn comes_live(&self, _: Subscriber, _: Vec<TopicFilter>) -> Later<bool> {
        Box::pin(async { false })
    }

    fn take_from_log(&self, _: Subscriber, _: Vec<Subscription>) -> Later<()> {
        Box::pin(async {})
    }

    fn unsubscribe(&self, _: Subscriber, _: Vec<(Option<Bytes>, TopicFilter)>) -> Later<Vec<bool>> {
        Box::pin(async { Vec::new() })
    }

    fn leave(&self, _: Subscriber, _: Vec<(Bytes, TopicFilter)>) {}

    fn send_retained(&self, _: Subscriber, _: StoredSubscription) {}
}

/// Returns a listener that lets everybody in.
pub(crate) fn listener() -> Arc<ListenerOptions> {
    let decode = DecodeLimits {
        packet_bytes_max: 1 << 20,
        topic_bytes_max: 1_024,
        topic_levels_max: 32,
        filters_per_packet_max: 64,
        user_properties_max: 64,
    };
    let offer = Offer {
        receive_maximum: NonZeroU16::MAX,
        packet_bytes_max: NonZeroU32::MAX,
        topic_alias_maximum: 0,
        keep_alive_secs_max: 0,
        session_expiry_secs_max: 0,
        maximum_qos: Qos::ExactlyOnce,
        retain_available: true,
        client_id_bytes_max: 64,
    };
    let admission = Admission { app_name: "demo#demo".into(), app: APP, anonymous: true };
    let all = u32::MAX;
    Arc::new(ListenerOptions::new("crowd", admission, (offer, decode), all, 1 << 20, 64))
}

/// Makes the current thread a worker.
pub(crate) fn start_worker(
    index: u8,
    interests: &Interests,
    counters: &Arc<Counters>,
) -> Option<(Rc<Worker>, Addr<TopicRouter>)> {
    let config = WorkerConfig {
        index,
        fronts: fronts(),
        limits: vec![LinkLimits { connect_secs: 600, ..LinkLimits::default() }],
        live_routes: Arc::default(),
        interests: interests.clone(),
        counters: Arc::clone(counters),
    };
    let (worker, router) = Worker::start(config).ok()?;
    let hash_key = HashKey([7; 16]);
    backend::install(Box::new(Grant { router: router.clone(), hash_key }));
    Some((worker, router))
}
