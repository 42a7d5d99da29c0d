//! What a node prints once it runs: text for people, or JSON for scripts.
//!
//! - Takes: what was bound and, at the first start, the demo password. Gives: text, or one line of JSON, for standard
//!   output; logs go to standard error and stay machine readable.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::config::{AuthMode, Config, Durability, ListenerKind};
use crate::data_folder::Listening;

/// Name of the demo user; its app is [`DEMO_APP`].
pub const DEMO_USER: &str = "demo";

/// App of anonymous clients and of the demo user.
pub const DEMO_APP: &str = "demo#demo";

/// For whom a node prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// People.
    #[default]
    Text,
    /// Scripts: an object a line.
    Json,
}

/// Writes where a node serves, in the form that was asked for.
#[must_use]
pub fn running(
    form: Form,
    node: u64,
    config: &Config,
    listening: &Listening,
    demo_password: Option<&str>,
) -> String {
    if form == Form::Text {
        return text(config, listening, demo_password);
    }
    let mut said = serde_json::json!({
        "node": node,
        "version": env!("CARGO_PKG_VERSION"),
        "listeners": listening,
        "data": config.storage.data_dir.display().to_string(),
    });
    if let Some(password) = demo_password {
        said["demo_user"] =
            serde_json::json!({ "app": DEMO_APP, "name": DEMO_USER, "password": password });
    }
    format!("{said}\n")
}

/// Writes that a node has left its cluster for good.
#[must_use]
pub fn left(form: Form, node: u64) -> String {
    match form {
        Form::Text => {
            format!("node {node} has left the cluster; its data folder is of no use any more\n")
        }
        Form::Json => format!("{}\n", serde_json::json!({ "left": node })),
    }
}

/// Writes the text. `demo_password` is given when the demo user was created just now.
#[must_use]
pub fn text(config: &Config, listening: &Listening, demo_password: Option<&str>) -> String {
    let mut text = format!("Hongqiao {} is running\n\n", env!("CARGO_PKG_VERSION"));
    let mut listeners: Vec<_> = config.listeners_enabled().collect();
    listeners.sort_by_key(|(_, listener)| listener.kind != ListenerKind::Mqtt);
    for (name, listener) in listeners {
        for address in listening.get(name).into_iter().flatten() {
            match listener.kind {
                ListenerKind::Mqtt => line(&mut text, "MQTT", &address.to_string()),
                ListenerKind::Http => {
                    for path in &listener.websocket_paths {
                        line(&mut text, "MQTT (WebSocket)", &format!("ws://{address}{path}"));
                    }
                    line(&mut text, "HTTP API", &format!("http://{address}/api/v1"));
                    line(&mut text, "Metrics", &format!("http://{address}/metrics"));
                }
            }
        }
    }
    let durability = match config.storage.durability {
        Durability::Disk => "survives power loss",
        Durability::Os => "survives the end of the process, not power loss",
    };
    line(&mut text, "Data", &format!("{} ({durability})", config.storage.data_dir.display()));
    if let Some(password) = demo_password {
        line(&mut text, "Demo user", &format!("{DEMO_USER} (app {DEMO_APP})"));
        line(&mut text, "Demo password", &format!("{password}   (shown this once)"));
    }
    text + &lines_to_copy(config, listening, demo_password)
}

fn line(text: &mut String, label: &str, value: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "  {label:<17} {value}");
}

fn lines_to_copy(config: &Config, listening: &Listening, demo_password: Option<&str>) -> String {
    let first = |kind| {
        config
            .listeners_enabled()
            .filter(|(_, listener)| listener.kind == kind)
            .find_map(|(name, _)| listening.get(name)?.first().copied())
            .map(from_here)
    };
    let mut text = "\nTo try it, in another terminal:\n".to_owned();
    if let Some(address) = first(ListenerKind::Mqtt) {
        let user = match (config.auth.mode, demo_password) {
            (AuthMode::Auto, _) => String::new(),
            (AuthMode::Password, Some(password)) => format!(" -u {DEMO_USER} -P {password}"),
            (AuthMode::Password, None) => " -u USER -P PASSWORD".to_owned(),
        };
        let to = format!("-h {} -p {}{user}", address.ip(), address.port());
        let _ = writeln!(text, "  mosquitto_sub {to} -q 1 -t 'hello/#' -v &");
        let _ = writeln!(text, "  mosquitto_pub {to} -q 1 -t hello/world -m 'over the bridge'");
    }
    if let Some(address) = first(ListenerKind::Http) {
        let _ = writeln!(text, "  curl http://{address}/readyz");
    }
    text
}

/// An address to which a program on this machine can connect.
fn from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn banner(sets: &[&str], demo_password: Option<&str>) -> String {
        let assignments = sets.iter().map(|&set| set.to_owned()).collect();
        let config = Config::load(&Sources { assignments, ..Sources::default() }).unwrap();
        let listening = config
            .listeners_enabled()
            .map(|(name, listener)| (name.to_owned(), vec![listener.address]))
            .collect();
        text(&config, &listening, demo_password)
    }

    #[test]
    fn banner_of_first_start_has_addresses_credentials_and_lines_to_copy() {
        let text = banner(&[], Some("s3cret"));
        for part in [
            "MQTT              127.0.0.1:1883",
            "ws://127.0.0.1:8080/mqtt",
            "HTTP API          http://127.0.0.1:8080/api/v1",
            "demo (app demo#demo)",
            "s3cret",
            "mosquitto_sub -h 127.0.0.1 -p 1883 -q 1",
            "mosquitto_pub -h 127.0.0.1 -p 1883 -q 1",
            "curl http://127.0.0.1:8080/readyz",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!banner(&[], None).contains("Demo"));
    }

    #[test]
    fn banner_as_json_is_one_line_with_what_scripts_need() {
        let config = Config::load(&Sources::default()).unwrap();
        let listening =
            Listening::from([("mqtt".to_owned(), vec!["127.0.0.1:9".parse().unwrap()])]);
        let line = running(Form::Json, 7, &config, &listening, Some("s3cret"));
        assert_eq!(line.lines().count(), 1);
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(said["node"], 7);
        assert_eq!(said["listeners"]["mqtt"][0], "127.0.0.1:9");
        assert_eq!(said["demo_user"]["password"], "s3cret");
        let later = running(Form::Json, 7, &config, &listening, None);
        assert!(!later.contains("demo_user"), "{later}");
        assert_eq!(left(Form::Json, 7), "{\"left\":7}\n");
    }

    #[test]
    fn banner_with_passwords_shows_how_to_log_in_from_here() {
        let sets = ["auth.mode=password", "listeners.mqtt.address=0.0.0.0:1883"];
        let text = banner(&sets, Some("s3cret"));
        assert!(text.contains("-h 127.0.0.1 -p 1883 -u demo -P s3cret"), "{text}");
        assert!(banner(&sets, None).contains("-u USER -P PASSWORD"));
    }
}
