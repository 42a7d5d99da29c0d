//! Alive, ready, counted.
//!
//! - Gives: `/healthz` (the process answers), `/readyz` (it can serve clients), `/metrics`.

use actix_web::{HttpResponse, http::StatusCode, web};
use serde_json::json;

use super::{HttpState, Problem};
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

pub(super) async fn metrics(state: web::Data<HttpState>) -> HttpResponse {
    let page = state.node.snapshot().await.to_text();
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(page)
}
