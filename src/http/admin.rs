//! Administration of the node by somebody who may read its data folder.
//!
//! - Takes: requests from loopback that carry the token of `DATA/admin.token`. Gives: users, backups, how the
//!   cluster does.
//! - Bound: bodies by `http.body_bytes_max`; one backup at a time.

use std::path::PathBuf;

use actix_web::{
    Error, HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{StatusCode, header},
    middleware::{Next, from_fn},
    web,
};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use tokio::{task::JoinError, time::timeout};

use super::{AdminError, HttpState, Lacking, Problem, cluster, orders};
use crate::{
    auth::{UserName, hash_password},
    limits,
};

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("/cluster")
            .wrap(from_fn(guard))
            .service(web::resource("").route(web::get().to(cluster::report)))
            .service(web::resource("/leave").route(web::post().to(orders::leave)))
            .service(web::resource("/move-shard").route(web::post().to(orders::move_shard)))
            .service(web::resource("/transfer").route(web::post().to(orders::transfer)))
            .service(web::resource("/snapshot").route(web::post().to(orders::snapshot))),
    );
    config.service(
        web::scope("/admin")
            .wrap(from_fn(guard))
            .service(web::resource("/backup").route(web::post().to(backup)))
            .service(web::resource("/users").route(web::put().to(put_user))),
    );
}

/// Lets in who is on this machine and knows the token.
async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    check(request.request())?;
    Ok(next.call(request).await?.map_into_boxed_body())
}

fn check(request: &HttpRequest) -> Result<(), Problem> {
    // A request without peer address is not from a socket of ours, so it is nobody.
    let local = request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    if !local {
        return Err(Problem::new(StatusCode::FORBIDDEN, "administration is for loopback only"));
    }
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("");
    let state = request.app_data::<web::Data<HttpState>>();
    if state.is_some_and(|state| state.admin_token.matches(shown)) {
        return Ok(());
    }
    let detail = "show the token of admin.token in the data folder as a bearer token";
    Err(Problem::new(StatusCode::UNAUTHORIZED, detail))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutUser {
    /// `org#app/user`.
    name: String,
    password: String,
}

async fn put_user(
    state: web::Data<HttpState>,
    body: web::Json<PutUser>,
) -> Result<HttpResponse, Problem> {
    let PutUser { name, password } = body.into_inner();
    let name = UserName::parse(&name, "").map_err(|error| bad_request(&error))?;
    let hash = web::block(move || hash_password(password.as_bytes()))
        .await
        .map_err(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping"))?
        .map_err(|error| bad_request(&error))?;
    state.node.put_user(name, hash).await.map_err(|error| refused(&error))?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    /// Folder on the node's machine; absolute, and absent or empty.
    folder: PathBuf,
}

/// A backup that fails early is answered with its own status. One that takes longer is answered with
/// a line feed now and then, so that nobody takes the connection for dead, and with a last line:
/// `{"status":"done"}` with the groups that the node has no whole copy of, or no current one, or a problem.
async fn backup(
    state: web::Data<HttpState>,
    body: web::Json<Backup>,
) -> Result<HttpResponse, Problem> {
    let folder = body.into_inner().folder;
    if !folder.is_absolute() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "folder must be an absolute path"));
    }
    // A task of its own: a caller that goes away does not leave half a backup.
    let mut work = actix_rt::spawn(state.node.backup(folder));
    if let Ok(result) = timeout(limits::BACKUP_PULSE, &mut work).await {
        return Ok(HttpResponse::Ok().json(done(&outcome(result)?)));
    }
    let pulses = stream::unfold(Some(work), async |work| {
        let mut work = work?;
        let line = match timeout(limits::BACKUP_PULSE, &mut work).await {
            Err(_) => return Some((Ok::<_, Error>(Bytes::from_static(b"\n")), Some(work))),
            Ok(result) => outcome(result).map_or_else(|problem| problem.to_json(), |of| done(&of)),
        };
        Some((Ok(Bytes::from(format!("{line}\n"))), None))
    });
    Ok(HttpResponse::Ok().content_type("application/json").streaming(Box::pin(pulses)))
}

fn done(lacking: &Lacking) -> serde_json::Value {
    let Lacking { missing, behind } = lacking;
    serde_json::json!({ "status": "done", "missing": missing, "behind": behind })
}

type BackedUp = Lacking;

fn outcome(result: Result<Result<BackedUp, AdminError>, JoinError>) -> Result<BackedUp, Problem> {
    let result = result.unwrap_or(Err(AdminError::Unknown));
    result.map_err(|error| {
        tracing::warn!(%error, "backup failed");
        refused(&error)
    })
}

fn bad_request(error: &dyn std::error::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error.to_string())
}

/// Says what an error of the node is over HTTP.
pub(super) fn refused(error: &AdminError) -> Problem {
    let status = match error {
        AdminError::Unavailable(_) | AdminError::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        AdminError::NotFound(_) => StatusCode::NOT_FOUND,
        AdminError::Refused(_) | AdminError::Busy => StatusCode::CONFLICT,
    };
    Problem::new(status, error.to_string())
}
