//! Talks to the node that runs on a data folder of this machine.
//!
//! - Takes: the folder's `listeners.json` and `admin.token`. Gives: requests to its HTTP listener.
//! - Blocks: until the node answers; connecting takes 5 s at most.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use ureq::{Agent, http::Method};

use crate::data_folder::DataFolder;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A running node that lets its owner administer it.
pub(super) struct AdminClient {
    agent: Agent,
    address: SocketAddr,
    token: String,
}

impl AdminClient {
    /// Finds the node of a data folder.
    ///
    /// # Errors
    /// No node runs on it, its files cannot be read, or it has no HTTP listener on loopback.
    pub(super) fn find(folder: &Path) -> anyhow::Result<Self> {
        let data = DataFolder::new(folder);
        let missing = || format!("no node runs on {} (is --data right?)", folder.display());
        let listening = data.listening().with_context(missing)?;
        let token = data.admin_token().with_context(missing)?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .build()
            .new_agent();
        let addresses = listening.into_values().flatten().filter_map(from_loopback);
        let speaks_http = |address: &SocketAddr| {
            let probe = agent.get(format!("http://{address}/healthz"));
            let answer = probe.config().timeout_global(Some(CONNECT_TIMEOUT)).build().call();
            answer.is_ok_and(|answer| answer.status() == 200)
        };
        let Some(address) = addresses.into_iter().find(speaks_http) else {
            bail!(
                "the node of {} does not answer over HTTP on loopback; does it run, and has it an \
                 enabled listener of kind \"http\" on 127.0.0.1?",
                folder.display()
            );
        };
        Ok(Self { agent, address, token })
    }

    /// Asks for a report.
    ///
    /// # Errors
    /// What the node says, or why it cannot be asked.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let request = self.agent.get(format!("http://{}/api/v1/{path}", self.address));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let mut answer = request.call().context("the node broke off")?;
        let body = answer.body_mut().read_to_string().context("the node broke off")?;
        let said: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_default();
        if answer.status().is_success() {
            return Ok(said);
        }
        let detail = said["detail"].as_str().unwrap_or("it did not say why");
        Err(anyhow!("the node refused: {detail}"))
    }

    /// Sends one command and waits for its end; gives what the node says of it.
    ///
    /// # Errors
    /// What the node says, or why it cannot be asked.
    pub(super) fn send(
        &self,
        method: Method,
        path: &str,
        body: &serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}/api/v1/{path}", self.address))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.to_string())?;
        let mut answer = self.agent.run(request).context("the node broke off")?;
        // Long work may fail after the status was sent, so the body has the last word.
        let body = answer.body_mut().read_to_string().context("the node broke off")?;
        let said: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_default();
        match said["detail"].as_str() {
            None if answer.status().is_success() => Ok(said),
            detail => Err(anyhow!("the node refused: {}", detail.unwrap_or("it did not say why"))),
        }
    }
}

/// The address by which a listener is reached from loopback, if it is.
fn from_loopback(address: SocketAddr) -> Option<SocketAddr> {
    let ip = address.ip();
    if ip.to_canonical().is_loopback() {
        Some(address)
    } else if ip.is_unspecified() {
        Some(SocketAddr::from(([127, 0, 0, 1], address.port())))
    } else {
        None
    }
}
