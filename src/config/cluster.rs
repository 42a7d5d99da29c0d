//! `[cluster]`: which node this is, and how it meets the others.
//!
//! - Owns: plain values. Takes: the merged layers, and the file that holds the secret. Gives: what the
//!   cluster crate starts with, or what to set.
//! - Bound: `limits::CLUSTER_SECRET_BYTES_MIN` for the secret, which is never printed.

use std::{
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{ConfigError, Listener};
use crate::limits;

/// `[cluster]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// This node; given once, never used again for another machine. 0 = as the folder says, or as the cluster
    /// gives it.
    pub node: u64,
    /// Where peers are listened for; `None` = this node is alone.
    #[serde(deserialize_with = "address_or_none")]
    pub listen: Option<SocketAddr>,
    /// `host:port` that peers dial; empty = `listen`.
    pub advertise: String,
    /// `host:port` that clients are referred to when they have to leave another node; empty = none.
    pub client_address: String,
    /// What all nodes of the cluster know.
    pub secret: Secret,
    /// File with the secret, instead of `secret`.
    pub secret_file: PathBuf,
    /// `host:port` of members; empty = this node makes a new cluster.
    pub join: Vec<String>,
    /// A member that is lost, whose place this node takes; 0 = none.
    pub replaces: u64,
    /// Host name of the node that may make the cluster although `join` names somebody; empty = none.
    pub founder: String,
    /// It does so when this many addresses belong to no cluster.
    pub expect: usize,
}

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "Secret(none)" } else { "Secret(…)" })
    }
}

impl Cluster {
    /// Returns what peers dial; `None` if this node is alone.
    #[must_use]
    pub fn advertised(&self) -> Option<String> {
        let listen = self.listen?;
        Some(if self.advertise.is_empty() { listen.to_string() } else { self.advertise.clone() })
    }

    /// Takes the secret out of its file, if it is in one.
    pub(super) fn read_secret(&mut self) -> Result<(), ConfigError> {
        if self.secret_file.as_os_str().is_empty() {
            return Ok(());
        }
        if !self.secret.0.is_empty() {
            return fail("secret_file", "set either this or cluster.secret, not both");
        }
        let path = self.secret_file.display();
        match fs::read_to_string(&self.secret_file) {
            Ok(text) => self.secret = Secret(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => return fail("secret_file", format!("{path} cannot be read: {error}")),
        }
        if self.secret.0.is_empty() {
            return fail("secret_file", format!("{path} is empty"));
        }
        Ok(())
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.validate_founding()?;
        if !self.client_address.is_empty() {
            host_and_port("client_address", &self.client_address)?;
        }
        let Some(listen) = self.listen else { return self.validate_alone() };
        let secret_min = limits::CLUSTER_SECRET_BYTES_MIN;
        match self.secret.0.len() {
            0 => fail(
                "secret",
                "must be set where cluster.listen is: all nodes of a cluster know the same secret; \
                 `head -c 24 /dev/urandom | base64` makes one",
            )?,
            len if len < secret_min => {
                fail("secret", format!("has {len} bytes, must have at least {secret_min}"))?;
            }
            _ => {}
        }
        self.validate_advertise(listen)?;
        for member in &self.join {
            host_and_port("join", member)?;
        }
        let own = self.advertised().unwrap_or_default();
        if !self.join.is_empty() && self.join.iter().all(|member| *member == own) {
            return fail("join", "names only this node; name another member, or nobody");
        }
        Ok(())
    }

    /// Returns whether this machine is to make the cluster if there is none, and with how many.
    #[must_use]
    pub fn founds_with(&self, host: &str) -> Option<usize> {
        (!self.founder.is_empty() && self.founder == host).then_some(self.expect)
    }

    fn validate_founding(&self) -> Result<(), ConfigError> {
        if self.expect == 0 {
            return fail("expect", "must be at least 1: this node itself");
        }
        if !self.founder.is_empty() && self.join.is_empty() {
            return fail("founder", "needs cluster.join; without it every node makes a cluster");
        }
        if self.replaces != 0 && self.join.is_empty() {
            return fail("replaces", "needs cluster.join: the members of the cluster decide it");
        }
        if self.replaces != 0 && self.replaces == self.node {
            return fail(
                "replaces",
                "an id is not given again; leave cluster.node out, or take another",
            );
        }
        Ok(())
    }

    /// Settings that do nothing without a listener were meant for something.
    fn validate_alone(&self) -> Result<(), ConfigError> {
        if !self.join.is_empty() || !self.advertise.is_empty() {
            let key = if self.join.is_empty() { "advertise" } else { "join" };
            return fail(key, "needs cluster.listen, such as \"0.0.0.0:7000\"");
        }
        Ok(())
    }

    fn validate_advertise(&self, listen: SocketAddr) -> Result<(), ConfigError> {
        let advertise = self.advertised().unwrap_or_default();
        let (host, port) = host_and_port("advertise", &advertise)?;
        let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        if ip.is_some_and(|ip| ip.to_canonical().is_unspecified()) {
            let problem = format!(
                "peers cannot dial {advertise}; cluster.listen = \"{listen}\" takes every address of this \
                 machine, so say which one peers reach it by"
            );
            return fail("advertise", problem);
        }
        if port == 0 {
            return fail("advertise", "port 0 cannot be dialled; give cluster.listen a port");
        }
        Ok(())
    }

    /// Peers and clients cannot share a port.
    pub(super) fn validate_beside(&self, name: &str, other: &Listener) -> Result<(), ConfigError> {
        if self.listen.is_some_and(|listen| listen == other.address && listen.port() != 0) {
            let problem = format!("{} is already used by listener `{name}`", other.address);
            return fail("listen", problem);
        }
        Ok(())
    }
}

fn fail<T>(key: &str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::invalid(format!("cluster.{key}"), problem))
}

/// Splits `host:port`; the host may be a name.
fn host_and_port<'a>(key: &str, text: &'a str) -> Result<(&'a str, u16), ConfigError> {
    let parts = text.rsplit_once(':').filter(|(host, _)| {
        let is_v6 = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (is_v6 || !host.contains(':')) && !host.contains(['/', ' '])
    });
    match parts.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some(parts) => Ok(parts),
        None => {
            fail(key, format!("{text:?} is no address: expected \"host:port\" or \"[ip]:port\""))
        }
    }
}

fn address_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    let expected = || {
        D::Error::custom(format!(
            "{text:?} is no address to listen on: expected \"ip:port\", such as \"0.0.0.0:7000\", or \"\""
        ))
    };
    text.parse().map(Some).map_err(|_| expected())
}
