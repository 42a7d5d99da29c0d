//! One named listener: where it listens, who may come in, and what each connection may use.
//!
//! - Owns: plain values. Takes: `[listeners.NAME]` over `[limits]`. Gives: what fronts and actors
//!   read; see `config/default.toml` for what each key means.
//! - Bound: `ConnectionLimits::validate` keeps every number inside what the protocol can carry.

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use serde::Deserialize;

use super::{error::ConfigError, units};
use crate::limits;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerKind {
    /// MQTT over plain TCP.
    Mqtt,
    /// HTTP and WebSocket.
    Http,
}

/// `[listeners.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// What it speaks.
    pub kind: ListenerKind,
    /// `false`: as if it were not there; switches a listener of a lower layer off.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Where; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Tenant (`org#app`) of clients whose user name does not tell another.
    pub app: String,
    /// `Some(false)`: no anonymous clients here even where `auth.mode` would allow them.
    #[serde(default)]
    pub anonymous: Option<bool>,
    /// HTTP only: paths that upgrade to MQTT over WebSocket.
    #[serde(default)]
    pub websocket_paths: Vec<String>,
    /// HTTP only: which pages may open a WebSocket; see [`Listener::allows_origin`].
    #[serde(default)]
    pub websocket_origins: Vec<String>,
    /// What it and its connections may use; keys that are not given come from `[limits]`.
    pub limits: ConnectionLimits,
}

/// `[limits]` and `[listeners.NAME.limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionLimits {
    /// Open connections of the listener.
    pub connections_max: u32,
    /// From accept to a whole CONNECT.
    #[serde(deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
    /// Largest packet, fixed header included.
    #[serde(deserialize_with = "units::bytes")]
    pub packet_bytes_max: u32,
    /// Unfinished QoS 1 and 2 publishes of one client.
    pub receive_maximum: NonZeroU16,
    /// Bytes of unfinished publishes of one client.
    #[serde(deserialize_with = "units::bytes")]
    pub inbound_bytes_max: u32,
    /// Longest keep alive; [`units::NEVER`] = whatever the client asks, none included.
    #[serde(deserialize_with = "units::duration")]
    pub keep_alive_max: Duration,
    /// Longest session expiry; [`units::NEVER`] = no end.
    #[serde(deserialize_with = "units::duration")]
    pub session_expiry_max: Duration,
    /// Topic aliases that a client may set.
    pub topic_alias_max: u16,
    /// Longest topic or filter in bytes.
    #[serde(deserialize_with = "units::bytes")]
    pub topic_bytes_max: u16,
    /// Most levels of a topic or filter.
    pub topic_levels_max: u16,
    /// Most filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet_max: u16,
    /// Most subscriptions of one session.
    pub filters_per_session_max: u32,
    /// Most user properties of one packet.
    pub user_properties_max: u16,
    /// Messages that wait for a slow receiver.
    pub outbound_messages_max: NonZeroU32,
    /// Bytes that wait for a slow receiver.
    #[serde(deserialize_with = "units::bytes")]
    pub outbound_bytes_max: u32,
}

fn enabled() -> bool {
    true
}

impl Listener {
    /// Returns whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    /// Decides whether a page may open a WebSocket here.
    ///
    /// - `origin`: the `Origin` header; programs that are no browser send none and are let in.
    /// - `host`: the `Host` header; `"self"` in the list means that both name the same host and port.
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        self.websocket_origins.iter().any(|allowed| match allowed.as_str() {
            "*" => true,
            "self" => {
                let authority = origin.split_once("://").map(|(_, authority)| authority);
                matches!((authority, host), (Some(a), Some(h)) if a.eq_ignore_ascii_case(h))
            }
            exact => exact.eq_ignore_ascii_case(origin),
        })
    }

    pub(super) fn validate(&self, name: &str) -> Result<(), ConfigError> {
        let key = |key: &str| format!("listeners.{name}.{key}");
        super::validate::app_name(&key("app"), &self.app)?;
        if self.kind == ListenerKind::Mqtt
            && !(self.websocket_paths.is_empty() && self.websocket_origins.is_empty())
        {
            return Err(ConfigError::invalid(
                key("websocket_paths"),
                "only listeners of kind \"http\" have WebSocket paths and origins",
            ));
        }
        if let Some(path) = self.websocket_paths.iter().find(|path| !path.starts_with('/')) {
            return Err(ConfigError::invalid(
                key("websocket_paths"),
                format!("path {path:?} does not begin with \"/\""),
            ));
        }
        self.limits.validate(&key("limits"))
    }
}

impl ConnectionLimits {
    pub(super) fn validate(&self, section: &str) -> Result<(), ConfigError> {
        let fail = |key: &str, problem: String| {
            Err(ConfigError::invalid(format!("{section}.{key}"), problem))
        };
        let packet_range = limits::MQTT_PACKET_BYTES_MIN..=limits::MQTT_PACKET_BYTES_MAX;
        if !packet_range.contains(&self.packet_bytes_max) {
            let (low, high) = packet_range.into_inner();
            return fail("packet_bytes_max", format!("must be between {low} and {high} bytes"));
        }
        if self.inbound_bytes_max < self.packet_bytes_max {
            return fail("inbound_bytes_max", "must not be less than packet_bytes_max".to_owned());
        }
        if self.outbound_bytes_max < self.packet_bytes_max {
            return fail("outbound_bytes_max", "must not be less than packet_bytes_max".to_owned());
        }
        if self.connect_timeout.is_zero() || self.connect_timeout >= units::NEVER {
            return fail("connect_timeout", "must be a time above 0 s".to_owned());
        }
        let keep_alive = self.keep_alive_max.as_secs();
        if self.keep_alive_max < units::NEVER && !(1..=u64::from(u16::MAX)).contains(&keep_alive) {
            return fail("keep_alive_max", "must be between 1 s and 65535 s, or never".to_owned());
        }
        if self.session_expiry_max > units::NEVER {
            return fail("session_expiry_max", format!("must be under {} s", u32::MAX));
        }
        let counts = [
            ("connections_max", self.connections_max),
            ("topic_bytes_max", self.topic_bytes_max.into()),
            ("topic_levels_max", self.topic_levels_max.into()),
            ("filters_per_packet_max", self.filters_per_packet_max.into()),
            ("filters_per_session_max", self.filters_per_session_max),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => fail(key, "must be at least 1".to_owned()),
            None => Ok(()),
        }
    }

    /// Returns the longest keep alive in seconds; `None` = whatever the client asks.
    #[must_use]
    pub fn keep_alive_max_secs(&self) -> Option<NonZeroU16> {
        u16::try_from(self.keep_alive_max.as_secs()).ok().and_then(NonZeroU16::new)
    }

    /// Returns the longest session expiry in seconds; `u32::MAX` = no end.
    #[must_use]
    pub fn session_expiry_max_secs(&self) -> u32 {
        u32::try_from(self.session_expiry_max.as_secs()).unwrap_or(u32::MAX)
    }
}
