//! Plain HTTP requests to a node.
//!
//! - Takes: an address and a path. Gives: status and body; any status is an answer, not an error.

use std::net::SocketAddr;

/// GET; returns status and body.
pub(crate) fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(super::wait::PATIENCE))
        .build()
        .into();
    let mut response = agent.get(format!("http://{addr}{path}")).call().unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

/// GET of what only the owner of the data folder may see.
pub(crate) fn get_as_owner(
    addr: SocketAddr,
    data: &std::path::Path,
    path: &str,
) -> serde_json::Value {
    let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
    let request = ureq::get(format!("http://{addr}{path}"));
    let mut answer = request.header("authorization", format!("Bearer {token}")).call().unwrap();
    serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
}

/// POST of what only the owner of the data folder may order.
pub(crate) fn post_as_owner(
    addr: SocketAddr,
    data: &std::path::Path,
    path: &str,
    body: &serde_json::Value,
) {
    let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
    let request = ureq::post(format!("http://{addr}{path}"));
    let request = request.header("authorization", format!("Bearer {token}"));
    request.header("content-type", "application/json").send(body.to_string()).unwrap();
}

/// Returns a sample of `/metrics` by the start of its line.
pub(crate) fn metric(addr: SocketAddr, start: &str) -> Option<f64> {
    let (status, body) = get(addr, "/metrics");
    assert_eq!(status, 200);
    let line = body.lines().find(|line| line.starts_with(start))?;
    line.split_whitespace().last()?.parse().ok()
}
