//! Rules that span more than one key.
//!
//! - Takes: a parsed [`Config`]. Gives: the first rule it breaks, in words that say what to set.
//! - Bound: constants of `limits.rs`.

use std::{collections::BTreeMap, net::SocketAddr};

use tracing_subscriber::filter::LevelFilter;

use super::{AuthMode, Config, ConfigError, Quotas};
use crate::limits;

impl Config {
    /// Checks what types alone cannot say.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the key to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.limits.validate("limits")?;
        self.validate_listeners()?;
        self.validate_access()?;
        self.validate_storage()?;
        self.cluster.validate()?;
        self.validate_threads()?;
        validate_quotas("quotas", &self.quotas)?;
        for app in self.apps.keys() {
            let section = format!("apps.\"{app}\"");
            app_name(&section, app)?;
            validate_quotas(&section, &self.quotas_of(app))?;
        }
        if !is_log_filter(&self.log.level) {
            let problem = "expected error, warn, info, debug, trace or off, \
                           or a list such as \"info,hongqiao::actors=debug\"";
            return Err(ConfigError::invalid("log.level", problem));
        }
        Ok(())
    }

    fn validate_listeners(&self) -> Result<(), ConfigError> {
        if self.listeners_enabled().next().is_none() {
            return Err(ConfigError::invalid("listeners", "no listener is enabled"));
        }
        if self.listeners.len() > limits::LISTENERS_MAX {
            let problem = format!("at most {} are allowed", limits::LISTENERS_MAX);
            return Err(ConfigError::invalid("listeners", problem));
        }
        let mut seen: BTreeMap<SocketAddr, &str> = BTreeMap::new();
        for (name, listener) in self.listeners_enabled() {
            listener.validate(name)?;
            self.cluster.validate_beside(name, listener)?;
            if listener.limits.connections_max > limits::CONNECTIONS_PER_WORKER_MAX {
                let problem = format!("at most {} are allowed", limits::CONNECTIONS_PER_WORKER_MAX);
                let key = format!("listeners.{name}.limits.connections_max");
                return Err(ConfigError::invalid(key, problem));
            }
            let packet_max = limits::CLUSTER_PACKET_BYTES_MAX;
            if self.cluster.listen.is_some() && listener.limits.packet_bytes_max > packet_max {
                let problem = format!("nodes hand each other at most {packet_max} bytes at once");
                let key = format!("listeners.{name}.limits.packet_bytes_max");
                return Err(ConfigError::invalid(key, problem));
            }
            let other = seen.insert(listener.address, name);
            if let Some(other) = other.filter(|_| listener.address.port() != 0) {
                let problem = format!("{} is already used by `{other}`", listener.address);
                return Err(ConfigError::invalid(format!("listeners.{name}.address"), problem));
            }
        }
        Ok(())
    }

    /// Nobody gets in without a password from another machine.
    fn validate_access(&self) -> Result<(), ConfigError> {
        for (name, listener) in self.listeners_enabled() {
            if self.auth.mode == AuthMode::Password && listener.anonymous == Some(true) {
                return Err(ConfigError::invalid(
                    format!("listeners.{name}.anonymous"),
                    "cannot be true while auth.mode is \"password\"",
                ));
            }
            if self.auth.mode == AuthMode::Auto && !listener.is_loopback() {
                let problem = format!(
                    "{} can be reached from other machines, and auth.mode = \"auto\" lets anonymous \
                     clients in on loopback only; set auth.mode = \"password\" (then create users with \
                     `hongqiao user put`), or listen on 127.0.0.1",
                    listener.address
                );
                return Err(ConfigError::invalid(format!("listeners.{name}.address"), problem));
            }
        }
        Ok(())
    }

    fn validate_storage(&self) -> Result<(), ConfigError> {
        let storage = &self.storage;
        let shards_max = hongqiao_cluster::id::SHARDS_MAX;
        if !(1..=shards_max).contains(&storage.shards) {
            let problem = format!("must be between 1 and {shards_max}");
            return Err(ConfigError::invalid("storage.shards", problem));
        }
        if storage.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::invalid("storage.data_dir", "must not be empty"));
        }
        if storage.checkpoint_interval.is_zero() {
            return Err(ConfigError::invalid("storage.checkpoint_interval", "must be above 0 s"));
        }
        for (key, bytes) in
            [("cache_bytes", storage.cache_bytes), ("checkpoint_bytes", storage.checkpoint_bytes)]
        {
            if bytes < limits::STORAGE_BUFFER_BYTES_MIN {
                let problem = "must be at least 1 MiB";
                return Err(ConfigError::invalid(format!("storage.{key}"), problem));
            }
        }
        Ok(())
    }

    fn validate_threads(&self) -> Result<(), ConfigError> {
        if self.workers.threads > limits::WORKER_THREADS_MAX {
            let problem = format!("must be at most {}", limits::WORKER_THREADS_MAX);
            return Err(ConfigError::invalid("workers.threads", problem));
        }
        if !(1..=limits::CLUSTER_THREADS_MAX).contains(&self.workers.cluster_threads) {
            let problem = format!("must be between 1 and {}", limits::CLUSTER_THREADS_MAX);
            return Err(ConfigError::invalid("workers.cluster_threads", problem));
        }
        Ok(())
    }
}

fn validate_quotas(section: &str, quotas: &Quotas) -> Result<(), ConfigError> {
    let fail =
        |key: &str, problem: &str| Err(ConfigError::invalid(format!("{section}.{key}"), problem));
    if quotas.session_messages_max == 0 {
        return fail("session_messages_max", "must be at least 1");
    }
    if quotas.session_bytes_max == 0 {
        return fail("session_bytes_max", "must be at least 1");
    }
    if quotas.app_bytes_max < quotas.session_bytes_max {
        return fail("app_bytes_max", "must not be less than session_bytes_max");
    }
    Ok(())
}

/// `Targets` takes a misspelt level for the name of a target; this is stricter.
fn is_log_filter(text: &str) -> bool {
    let is_level = |text: &str| text.parse::<LevelFilter>().is_ok();
    text.split(',').all(|item| match item.trim().split_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(item.trim()),
    })
}

/// Checks the form `org#app`.
pub(super) fn app_name(key: &str, name: &str) -> Result<(), ConfigError> {
    if is_app_name(name) {
        return Ok(());
    }
    let problem = format!(
        "{name:?} is no app name: expected \"org#app\" of letters, digits, \"-\", \"_\" and \".\""
    );
    Err(ConfigError::invalid(key, problem))
}

/// Returns whether `name` has the form `org#app`.
///
/// ```
/// assert!(hongqiao::config::is_app_name("acme#chat"));
/// assert!(!hongqiao::config::is_app_name("chat"));
/// ```
#[must_use]
pub fn is_app_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty() && part.bytes().all(legal)
    };
    name.len() <= limits::APP_NAME_BYTES_MAX
        && name.split_once('#').is_some_and(|(org, app)| is_part(org) && is_part(app))
}
