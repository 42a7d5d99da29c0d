//! Tests of the routes on a node that only remembers what it was asked.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use actix_web::{
    http::{Method, StatusCode, header},
    test,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::json;

use super::*;

use crate::{auth::UserName, limits, metrics::Snapshot};

const LOOPBACK: &str = "127.0.0.1:40000";

#[derive(Default)]
struct FakeNode {
    not_ready: Option<String>,
    users: Mutex<Vec<(String, String)>>,
    backup: Option<AdminError>,
    backup_takes: Duration,
    order: Option<AdminError>,
    orders: Mutex<Vec<ClusterOrder>>,
    folders: Mutex<Vec<PathBuf>>,
}

impl NodeApi for FakeNode {
    fn ready(&self) -> Result<(), String> {
        self.not_ready.clone().map_or(Ok(()), Err)
    }

    fn snapshot(&self) -> BoxFuture<'static, Snapshot> {
        Box::pin(async { Snapshot { connections: 3, ..Snapshot::default() } })
    }

    fn cluster(&self) -> ClusterReport {
        let group = GroupReport { group: 3, leader: Some(2), ..GroupReport::default() };
        ClusterReport { node: 1, groups: vec![group], ..ClusterReport::default() }
    }

    fn put_user(&self, name: UserName, hash: String) -> BoxFuture<'static, Result<(), AdminError>> {
        self.users.lock().push((name.to_string(), hash));
        Box::pin(async { Ok(()) })
    }

    fn order(&self, order: ClusterOrder) -> BoxFuture<'static, Result<Ordered, AdminError>> {
        let done = Ordered { status: "done", groups: Vec::new() };
        let outcome = self.order.clone().map_or(Ok(done), Err);
        if outcome.is_ok() {
            self.orders.lock().push(order);
        }
        Box::pin(std::future::ready(outcome))
    }

    fn backup(&self, folder: PathBuf) -> BoxFuture<'static, Result<Lacking, AdminError>> {
        self.folders.lock().push(folder);
        let (takes, outcome) =
            (self.backup_takes, self.backup.clone().map_or_else(|| Ok(Lacking::default()), Err));
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            outcome
        })
    }
}

fn state(node: FakeNode) -> (HttpState, Arc<FakeNode>) {
    let node = Arc::new(node);
    let state = HttpState {
        node: node.clone(),
        admin_token: AdminToken::generate(),
        body_bytes_max: 1_024,
    };
    (state, node)
}

/// What one request got.
struct Answer {
    status: StatusCode,
    content_type: String,
    body: Result<String, String>,
}

async fn ask(state: &HttpState, request: test::TestRequest) -> Answer {
    let service = test::init_service(app(state.clone())).await;
    let response = match test::try_call_service(&service, request.to_request()).await {
        Ok(response) => response.map_into_boxed_body(),
        Err(error) => {
            let response = error.error_response();
            let request = test::TestRequest::default().to_http_request();
            actix_web::dev::ServiceResponse::new(request, response)
        }
    };
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or("", |value| value.to_str().unwrap()).to_owned();
    let body = actix_web::body::to_bytes(response.into_body()).await;
    let body = body
        .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        .map_err(|error| error.to_string());
    Answer { status, content_type, body }
}

fn get(path: &str) -> test::TestRequest {
    test::TestRequest::get().uri(path)
}

fn admin(state: &HttpState, method: Method, path: &str) -> test::TestRequest {
    let peer: SocketAddr = LOOPBACK.parse().unwrap();
    let token = format!("Bearer {}", state.admin_token.secret());
    test::TestRequest::default()
        .method(method)
        .uri(path)
        .peer_addr(peer)
        .insert_header((header::AUTHORIZATION, token))
}

#[actix_web::test]
async fn health_ready_and_metrics_answer() {
    let (state, _) = state(FakeNode::default());
    assert_eq!(ask(&state, get("/healthz")).await.status, StatusCode::OK);
    let ready = ask(&state, get("/readyz")).await;
    assert_eq!(
        (ready.status, ready.body.as_deref()),
        (StatusCode::OK, Ok(r#"{"status":"ready"}"#))
    );
    let metrics = ask(&state, get("/metrics")).await;
    assert_eq!(metrics.content_type, crate::metrics::CONTENT_TYPE);
    assert!(metrics.body.unwrap().contains("hongqiao_connections 3"));
}

#[actix_web::test]
async fn ready_when_node_cannot_serve_says_why() {
    let (state, _) =
        state(FakeNode { not_ready: Some("shard 3 has no leader".into()), ..FakeNode::default() });
    assert_eq!(ask(&state, get("/healthz")).await.status, StatusCode::OK);
    let answer = ask(&state, get("/readyz")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.content_type, "application/problem+json");
    assert!(answer.body.unwrap().contains("shard 3 has no leader"));
}

#[actix_web::test]
async fn errors_without_handler_are_problem_json() {
    let (state, _) = state(FakeNode::default());
    for (request, status) in [
        (get("/"), StatusCode::NOT_FOUND),
        (get("/mqtt"), StatusCode::NOT_FOUND),
        (get("/api/v1/nothing"), StatusCode::NOT_FOUND),
        (test::TestRequest::post().uri("/healthz"), StatusCode::METHOD_NOT_ALLOWED),
        (test::TestRequest::delete().uri("/metrics"), StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = ask(&state, request).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.content_type, "application/problem+json");
        let body: serde_json::Value = serde_json::from_str(&answer.body.unwrap()).unwrap();
        assert_eq!(body["status"], status.as_u16());
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    }
}

#[actix_web::test]
async fn admin_without_token_or_from_elsewhere_is_refused() {
    let (state, node) = state(FakeNode::default());
    let body = serde_json::json!({ "name": "a#b/ann", "password": "secret" });
    let remote: SocketAddr = "192.0.2.7:1".parse().unwrap();
    let put = || test::TestRequest::put().uri("/api/v1/admin/users").set_json(&body);
    let local = || put().peer_addr(LOOPBACK.parse().unwrap());
    let token = format!("Bearer {}", state.admin_token.secret());
    for (request, status) in [
        (put(), StatusCode::FORBIDDEN),
        (
            put().peer_addr(remote).insert_header((header::AUTHORIZATION, token)),
            StatusCode::FORBIDDEN,
        ),
        (local(), StatusCode::UNAUTHORIZED),
        (local().insert_header((header::AUTHORIZATION, "Bearer x")), StatusCode::UNAUTHORIZED),
        (local().insert_header((header::AUTHORIZATION, "Basic eDp5")), StatusCode::UNAUTHORIZED),
    ] {
        let answer = ask(&state, request).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.content_type, "application/problem+json");
    }
    assert!(node.users.lock().is_empty());
}

#[actix_web::test]
async fn cluster_is_told_to_who_has_the_token() {
    let (state, _) = state(FakeNode::default());
    let nobody = get("/api/v1/cluster").peer_addr(LOOPBACK.parse().unwrap());
    assert_eq!(ask(&state, nobody).await.status, StatusCode::UNAUTHORIZED);
    let answer = ask(&state, admin(&state, Method::GET, "/api/v1/cluster")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let report: serde_json::Value = serde_json::from_str(&answer.body.unwrap()).unwrap();
    assert_eq!((&report["node"], &report["groups"][0]["leader"]), (&1.into(), &2.into()));
}

#[actix_web::test]
async fn put_user_stores_a_hash_and_refuses_bad_bodies() {
    let (state, node) = state(FakeNode::default());
    let put = || admin(&state, Method::PUT, "/api/v1/admin/users");
    let user =
        |name: &str, password: &str| serde_json::json!({ "name": name, "password": password });
    let answer = ask(&state, put().set_json(user("a#b/ann", "secret"))).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{:?}", answer.body);
    let (name, hash) = node.users.lock().pop().unwrap();
    assert_eq!(name, "a#b/ann");
    assert!(hash.starts_with("$argon2id$"));
    let json = (header::CONTENT_TYPE, "application/json");
    for (request, status) in [
        (put().set_json(user("ann", "secret")), StatusCode::BAD_REQUEST),
        (put().set_json(user("a#b/ann", "")), StatusCode::BAD_REQUEST),
        (put().set_json(user("a#b/ann", &"x".repeat(2_000))), StatusCode::PAYLOAD_TOO_LARGE),
        (put().insert_header(json).set_payload("{"), StatusCode::BAD_REQUEST),
        (put().set_payload("{}"), StatusCode::BAD_REQUEST),
        (put().set_json(serde_json::json!({ "nam": 1 })), StatusCode::BAD_REQUEST),
    ] {
        let answer = ask(&state, request).await;
        let expected =
            if status == StatusCode::NOT_ACCEPTABLE { StatusCode::BAD_REQUEST } else { status };
        assert_eq!(answer.status, expected, "{:?}", answer.body);
        assert_eq!(answer.content_type, "application/problem+json");
    }
    assert!(node.users.lock().is_empty());
}

#[actix_web::test]
async fn backup_goes_to_an_absolute_folder_or_says_why_not() {
    tokio::time::pause();
    let refused = AdminError::Refused("/b is not an empty folder".into());
    for (folder, outcome, status) in [
        ("/b", None, StatusCode::OK),
        ("b", None, StatusCode::BAD_REQUEST),
        ("/b", Some(refused), StatusCode::CONFLICT),
        ("/b", Some(AdminError::Busy), StatusCode::CONFLICT),
        ("/b", Some(AdminError::Unavailable("x".into())), StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let (state, node) = state(FakeNode { backup: outcome, ..FakeNode::default() });
        let request = admin(&state, Method::POST, "/api/v1/admin/backup");
        let body = serde_json::json!({ "folder": folder });
        let answer = ask(&state, request.set_json(body)).await;
        assert_eq!(answer.status, status, "{:?}", answer.body);
        let asked = node.folders.lock().clone();
        assert_eq!(asked.is_empty(), status == StatusCode::BAD_REQUEST);
    }
}

#[actix_web::test]
async fn backup_that_takes_long_sends_pulses_and_then_its_outcome() {
    tokio::time::pause();
    for (outcome, last) in [
        (None, r#"{"behind":[],"missing":[],"status":"done"}"#),
        (Some(AdminError::Unknown), r#""status":503"#),
    ] {
        let takes = limits::BACKUP_PULSE * 3;
        let (state, _) =
            state(FakeNode { backup: outcome, backup_takes: takes, ..FakeNode::default() });
        let request = admin(&state, Method::POST, "/api/v1/admin/backup");
        let request = request.set_json(serde_json::json!({ "folder": "/b" }));
        let answer = ask(&state, request).await;
        assert_eq!(answer.status, StatusCode::OK);
        let body = answer.body.unwrap();
        assert!(body.starts_with('\n'), "{body:?}");
        assert!(body.trim().contains(last) && body.trim().lines().count() == 1, "{body:?}");
    }
}

#[actix_web::test]
async fn orders_reach_the_node_or_say_why_not() {
    let (state, node) = state(FakeNode::default());
    let post = |path: &str| admin(&state, Method::POST, &format!("/api/v1/cluster/{path}"));
    for (path, body, order) in [
        ("leave", json!({ "node": 3 }), ClusterOrder::Leave(Leave { node: 3, lost: false })),
        (
            "leave",
            json!({ "node": 3, "lost": true }),
            ClusterOrder::Leave(Leave { node: 3, lost: true }),
        ),
        (
            "move-shard",
            json!({ "shard": 1, "from": 2, "to": 4 }),
            ClusterOrder::MoveShard(MoveShard { shard: 1, from: 2, to: 4 }),
        ),
        (
            "transfer",
            json!({ "group": 16, "to": 2 }),
            ClusterOrder::Transfer(Transfer { group: 16, to: 2 }),
        ),
        ("snapshot", json!({}), ClusterOrder::Snapshot(orders::Snapshot { groups: None })),
        (
            "snapshot",
            json!({ "groups": [0] }),
            ClusterOrder::Snapshot(orders::Snapshot { groups: Some(vec![0]) }),
        ),
    ] {
        let answer = ask(&state, post(path).set_json(body)).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        assert_eq!(node.orders.lock().pop(), Some(order));
    }
    for (path, body) in [
        ("leave", json!({ "node": "3" })),
        ("leave", json!({})),
        ("leave", json!({ "node": 3, "force": true })),
        ("move-shard", json!({ "shard": 1, "from": 2 })),
        ("transfer", json!({ "group": 70_000, "to": 2 })),
    ] {
        let answer = ask(&state, post(path).set_json(body)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(answer.content_type, "application/problem+json");
    }
    let stranger = test::TestRequest::post().uri("/api/v1/cluster/leave");
    let stranger = stranger.peer_addr(LOOPBACK.parse().unwrap()).set_json(json!({ "node": 3 }));
    assert_eq!(ask(&state, stranger).await.status, StatusCode::UNAUTHORIZED);
    assert!(node.orders.lock().is_empty());
    for (error, status) in [
        (AdminError::NotFound("no such node".into()), StatusCode::NOT_FOUND),
        (AdminError::Refused("it is up".into()), StatusCode::CONFLICT),
        (AdminError::Unavailable("no leader".into()), StatusCode::SERVICE_UNAVAILABLE),
        (AdminError::Unknown, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let (state, _) =
            self::state(FakeNode { order: Some(error.clone()), ..FakeNode::default() });
        let request = admin(&state, Method::POST, "/api/v1/cluster/leave");
        let answer = ask(&state, request.set_json(json!({ "node": 3 }))).await;
        assert_eq!(answer.status, status);
        let problem: serde_json::Value = serde_json::from_str(&answer.body.unwrap()).unwrap();
        assert_eq!(problem["detail"], error.to_string());
    }
}
