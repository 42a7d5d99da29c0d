//! The control plane over HTTP: health, metrics, administration.
//!
//! - Owns: routes. Takes: requests; what they ask goes to [`NodeApi`]. Gives: JSON, problem+json, text.
//! - Bound: `http.body_bytes_max`, `http.request_timeout`; heads by `limits::HTTP_HEAD_BYTES_MAX`.
//! - Source: RFC 9110, RFC 9457 (problem details), OpenMetrics 1.0.
//!
//! The WebSocket upgrade of the same port never comes here: `front/ws.rs` takes it before routing.
//! The app is mounted with `map_config(app, |_| AppConfig::default())`, so nothing here may derive a
//! URL from the app's configuration.

mod admin;
mod cluster;
mod health;
mod node_api;
mod orders;
mod problem;
mod token;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use actix_web::{
    App, Error,
    body::MessageBody,
    dev::{ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::{DefaultHeaders, from_fn},
    web,
};
use tokio::sync::watch;

pub use self::{
    cluster::{
        ClusterReport, GroupReport, LagReport, LinkReport, MemberMove, NodeReport, ShardMove,
    },
    node_api::{AdminError, Lacking, Missing, NodeApi},
    orders::{ClusterOrder, Covered, Leave, MoveShard, Ordered, Snapshot, Transfer},
    problem::Problem,
    token::AdminToken,
};

/// What every request may use. Cloned into each worker.
#[derive(Clone)]
pub struct HttpState {
    /// The node that is administered.
    pub node: Arc<dyn NodeApi>,
    /// Secret of this start; see [`AdminToken`].
    pub admin_token: AdminToken,
    /// Largest request body.
    pub body_bytes_max: usize,
}

impl std::fmt::Debug for HttpState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HttpState")
    }
}

/// Why a node does not serve yet, for people; see [`starting`].
pub type WaitsFor = watch::Receiver<&'static str>;

/// Builds the app of a node that does not serve yet: alive, and not ready, so that a probe neither ends it nor sends
/// clients.
pub fn starting(
    waits_for: WaitsFor,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new()
        .app_data(web::Data::new(waits_for))
        .wrap(DefaultHeaders::new().add(("Cache-Control", "no-store")))
        .service(
            web::resource("/healthz")
                .route(web::get().to(health::alive_yet))
                .route(web::head().to(health::alive_yet)),
        )
        .default_service(web::to(health::waits))
}

/// Builds the app of one worker.
///
/// ```no_run
/// # use actix_service::map_config;
/// # use actix_web::dev::AppConfig;
/// # fn mount(state: hongqiao::http::HttpState) {
/// let factory = map_config(hongqiao::http::app(state), |(): ()| AppConfig::default());
/// # }
/// ```
pub fn app(
    state: HttpState,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    let body_bytes_max = state.body_bytes_max;
    App::new()
        .app_data(web::Data::new(state))
        .app_data(web::PayloadConfig::new(body_bytes_max))
        .app_data(
            web::JsonConfig::default()
                .limit(body_bytes_max)
                .error_handler(|error, _| problem::from_json_error(&error).into()),
        )
        .wrap(from_fn(problem::explain_errors))
        .wrap(
            DefaultHeaders::new()
                .add(("X-Content-Type-Options", "nosniff"))
                .add(("Cache-Control", "no-store")),
        )
        .service(
            web::resource("/healthz")
                .route(web::get().to(health::alive))
                .route(web::head().to(health::alive)),
        )
        .service(
            web::resource("/readyz")
                .route(web::get().to(health::ready))
                .route(web::head().to(health::ready)),
        )
        .service(web::resource("/metrics").route(web::get().to(health::metrics)))
        .service(web::scope("/api/v1").configure(admin::routes))
}
