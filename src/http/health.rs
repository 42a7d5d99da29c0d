//! Alive, ready, counted.
//!
//! - Gives: `/healthz` (the process answers), `/readyz` (it can serve clients), `/metrics`; and what a node says that
//!   does not serve yet: the first as ever, all else 503 with what it waits for.

use actix_web::{
    HttpResponse, ResponseError as _,
    http::{ConnectionType, StatusCode},
    web,
};
use serde_json::json;

use super::{HttpState, Problem, WaitsFor};
use crate::metrics::CONTENT_TYPE;

pub(super) async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}

pub(super) async fn ready(state: web::Data<HttpState>) -> Result<HttpResponse, Problem> {
    match state.node.ready() {
        Ok(()) => Ok(HttpResponse::Ok().json(json!({ "status": "ready" }))),
        Err(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

/// As `alive`, of a node that does not serve yet.
pub(super) async fn alive_yet() -> HttpResponse {
    once(alive().await)
}

/// Whatever is asked of a node that does not serve yet, but whether it is alive.
pub(super) async fn waits(waits_for: web::Data<WaitsFor>) -> HttpResponse {
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, *waits_for.borrow());
    once(problem.error_response())
}

/// Ends the connection with its answer: the next question is for the node that serves by then.
fn once(mut response: HttpResponse) -> HttpResponse {
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

pub(super) async fn metrics(state: web::Data<HttpState>) -> HttpResponse {
    let page = state.node.snapshot().await.to_text();
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(page)
}
