//! The typed configuration: built-in defaults, file, environment, command line, in that order.
//!
//! - Owns: every key an operator may set; `config/default.toml` is the base layer and names them all.
//! - Takes: [`Sources`]. Gives: a [`Config`] that [`Config::validate`] has accepted.
//! - Bound: `limits::CONFIG_FILE_BYTES_MAX`; an unknown key is an error with the nearest known name.
//! - Blocks: reads one file, and one with the cluster's secret, at start. Nothing else of the program reads files or environment for
//!   configuration.

pub mod units;
mod error;
mod layer;
mod listener;
mod cluster;
mod validate;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use self::{
    cluster::{Cluster, Secret},
    error::ConfigError,
    layer::Sources,
    listener::{ConnectionLimits, Listener, ListenerKind},
    validate::is_app_name,
};

/// The base layer, as compiled in.
pub const DEFAULT_TOML: &str = include_str!("../config/default.toml");

/// All that an operator may say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What a connection may use, unless its listener says otherwise.
    pub limits: ConnectionLimits,
    /// Where to listen, by name. Holds disabled ones too; see [`Config::listeners_enabled`].
    pub listeners: BTreeMap<String, Listener>,
    /// Who may come in.
    pub auth: Auth,
    /// The data folder.
    pub storage: Storage,
    /// The other nodes.
    pub cluster: Cluster,
    /// Bounds of durable state.
    pub quotas: Quotas,
    /// What differs for one tenant, by `org#app`.
    pub apps: BTreeMap<String, AppOverrides>,
    /// Threads.
    pub workers: Workers,
    /// HTTP.
    pub http: Http,
    /// Logging.
    pub log: Log,
    /// Stopping.
    pub shutdown: Shutdown,
}

/// How clients are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Anonymous clients while every listener is on loopback, passwords checked where shown.
    Auto,
    /// Everybody shows a user name and a password.
    Password,
}

/// `[auth]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// How clients are let in.
    pub mode: AuthMode,
    /// Create user `demo` in `demo#demo` at the first start.
    pub demo_user: bool,
}

/// What an acknowledgement of a durable message promises (FLUSH-THEN-ACK).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Survives power loss.
    Disk,
    /// Survives the end of the process.
    Os,
}

/// `[storage]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Everything that outlives the process.
    pub data_dir: PathBuf,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// Shards of a new data folder.
    pub shards: u16,
    /// Page cache of the state store.
    #[serde(deserialize_with = "units::bytes")]
    pub cache_bytes: u64,
    /// Longest time between checkpoints.
    #[serde(deserialize_with = "units::duration")]
    pub checkpoint_interval: Duration,
    /// Size of the memory table that starts a checkpoint.
    #[serde(deserialize_with = "units::bytes")]
    pub checkpoint_bytes: u64,
    /// With less free space durable writes are refused.
    #[serde(deserialize_with = "units::bytes")]
    pub disk_reserve_bytes: u64,
}

/// What goes when a session's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drop {
    /// Its oldest message.
    Oldest,
    /// The one that arrives.
    Newest,
}

/// `[quotas]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// Messages that wait for one session.
    pub session_messages_max: u64,
    /// Bytes that wait for one session.
    #[serde(deserialize_with = "units::bytes")]
    pub session_bytes_max: u64,
    /// Stored bytes of one app.
    #[serde(deserialize_with = "units::bytes")]
    pub app_bytes_max: u64,
    /// Retained messages of one app.
    pub retained_messages_max: u64,
    /// Bytes of the retained messages of one app.
    #[serde(deserialize_with = "units::bytes")]
    pub retained_bytes_max: u64,
    /// What goes when a session is full.
    pub drop: Drop,
}

/// `[apps."org#app"]`: any key of `[quotas]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "fields are those of Quotas")]
pub struct AppOverrides {
    pub session_messages_max: Option<u64>,
    #[serde(deserialize_with = "units::bytes_option")]
    pub session_bytes_max: Option<u64>,
    #[serde(deserialize_with = "units::bytes_option")]
    pub app_bytes_max: Option<u64>,
    pub retained_messages_max: Option<u64>,
    #[serde(deserialize_with = "units::bytes_option")]
    pub retained_bytes_max: Option<u64>,
    pub drop: Option<Drop>,
}

/// `[workers]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// Connection threads; 0 = one per core but one, which is left to the rest.
    pub threads: usize,
    /// Threads of consensus and storage.
    pub cluster_threads: usize,
}

/// `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Largest request body.
    #[serde(deserialize_with = "units::bytes")]
    pub body_bytes_max: usize,
    /// From accept, or from the end of the last answer, to a whole request head.
    #[serde(deserialize_with = "units::duration")]
    pub request_timeout: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, else JSON.
    Auto,
    /// One line of text, coloured on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// A level, or a list of `target=level`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// `[shutdown]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// From SIGTERM to exit, at the latest.
    #[serde(deserialize_with = "units::duration")]
    pub drain_timeout: Duration,
}

impl Config {
    /// Reads all layers, merges and validates them.
    ///
    /// # Errors
    /// [`ConfigError`] names the key, the layer that set it, and what would be right.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let figment = layer::merge(sources)?;
        let mut config: Self =
            figment.extract().map_err(|error| ConfigError::from_figment(&error, &figment))?;
        config.cluster.read_secret()?;
        config.validate()?;
        Ok(config)
    }

    /// Returns the listeners that are switched on, by name.
    pub fn listeners_enabled(&self) -> impl Iterator<Item = (&str, &Listener)> {
        self.listeners
            .iter()
            .filter(|(_, listener)| listener.enabled)
            .map(|(name, listener)| (name.as_str(), listener))
    }

    /// Returns whether clients without user name are let in at `listener`.
    #[must_use]
    pub fn allows_anonymous(&self, listener: &Listener) -> bool {
        self.auth.mode == AuthMode::Auto
            && listener.anonymous.unwrap_or(true)
            && self.listeners_enabled().all(|(_, listener)| listener.is_loopback())
    }

    /// Returns the bounds of one tenant's durable state.
    #[must_use]
    pub fn quotas_of(&self, app: &str) -> Quotas {
        let base = &self.quotas;
        let Some(app) = self.apps.get(app) else { return base.clone() };
        Quotas {
            session_messages_max: app.session_messages_max.unwrap_or(base.session_messages_max),
            session_bytes_max: app.session_bytes_max.unwrap_or(base.session_bytes_max),
            app_bytes_max: app.app_bytes_max.unwrap_or(base.app_bytes_max),
            retained_messages_max: app.retained_messages_max.unwrap_or(base.retained_messages_max),
            retained_bytes_max: app.retained_bytes_max.unwrap_or(base.retained_bytes_max),
            drop: app.drop.unwrap_or(base.drop),
        }
    }
}
