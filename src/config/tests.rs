//! Tests of layers, messages and rules.

use super::*;

fn load(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.toml");
    std::fs::write(&path, file).unwrap();
    let own = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
    Config::load(&Sources {
        file: Some(path),
        environment: environment.iter().map(own).collect(),
        assignments: sets.iter().map(|&set| set.to_owned()).collect(),
    })
}

fn refusal(sets: &[&str]) -> String {
    load("", &[], sets).unwrap_err().to_string()
}

#[test]
fn defaults_alone_are_valid_and_on_loopback() {
    let config = Config::load(&Sources::default()).unwrap();
    let listeners: Vec<_> = config.listeners_enabled().collect();
    assert_eq!(listeners.len(), 2);
    assert!(listeners.iter().all(|(_, listener)| listener.is_loopback()));
    assert!(listeners.iter().all(|(_, listener)| config.allows_anonymous(listener)));
    assert!(listeners.iter().all(|(_, listener)| listener.limits == config.limits));
    assert_eq!(config.storage.durability, Durability::Disk);
}

#[test]
fn layers_win_in_order_file_environment_set() {
    let file = "[log]\nlevel = 'warn'\n[workers]\nthreads = 3\n[storage]\nshards = 4";
    let environment = [
        ("HONGQIAO__WORKERS__THREADS", "5"),
        ("HONGQIAO__STORAGE__SHARDS", "8"),
        ("HONGQIAO_OTHER", "ignored"),
        ("PATH", "ignored"),
    ];
    let config = load(file, &environment, &["storage.shards=2", "storage.shards = 1"]).unwrap();
    assert_eq!(config.log.level, "warn");
    assert_eq!(config.workers.threads, 5);
    assert_eq!(config.storage.shards, 1);
    assert_eq!(config.workers.cluster_threads, 2);
}

#[test]
fn set_takes_text_without_quotes_and_toml_with_them() {
    let config = load(
        "",
        &[("HONGQIAO__STORAGE__CACHE_BYTES", "2 MiB")],
        &[
            "storage.data_dir=/tmp/a b",
            "limits.connect_timeout=3 s",
            "limits.packet_bytes_max=\"64 KiB\"",
            "listeners.http.websocket_paths=[\"/a\", \"/b\"]",
            "apps.\"acme#chat\".drop=newest",
            "log.level=info,hongqiao=debug",
        ],
    )
    .unwrap();
    assert_eq!(config.storage.cache_bytes, 2 << 20);
    assert_eq!(config.storage.data_dir, PathBuf::from("/tmp/a b"));
    assert_eq!(config.limits.connect_timeout, Duration::from_secs(3));
    assert_eq!(config.limits.packet_bytes_max, 65_536);
    assert_eq!(config.listeners["http"].websocket_paths, ["/a", "/b"]);
    assert_eq!(config.quotas_of("acme#chat").drop, Drop::Newest);
    assert_eq!(config.quotas_of("demo#demo").drop, Drop::Oldest);
    assert_eq!(config.log.level, "info,hongqiao=debug");
}

#[test]
fn listener_of_a_file_inherits_limits_and_overrides_some() {
    let file = r#"
        [limits]
        topic_levels_max = 9
        [listeners.small]
        kind = "mqtt"
        address = "127.0.0.1:2883"
        app = "acme#chat"
        anonymous = false
        [listeners.small.limits]
        connections_max = 7
        packet_bytes_max = "1 KiB"
        [listeners.mqtt]
        enabled = false
    "#;
    let config = load(file, &[], &["listeners.small.limits.topic_alias_max=0"]).unwrap();
    let names: Vec<_> = config.listeners_enabled().map(|(name, _)| name).collect();
    assert_eq!(names, ["http", "small"]);
    let small = &config.listeners["small"];
    assert_eq!(small.limits.connections_max, 7);
    assert_eq!(small.limits.packet_bytes_max, 1_024);
    assert_eq!(small.limits.topic_alias_max, 0);
    assert_eq!(small.limits.topic_levels_max, 9);
    assert!(!config.allows_anonymous(small));
    assert_eq!(config.listeners["http"].limits.topic_levels_max, 9);
    assert_eq!(config.listeners["http"].limits.topic_alias_max, 32);
}

#[test]
fn unknown_key_names_the_nearest_and_its_layer() {
    for (set, expected) in [
        ("storage.durabilty=os", "did you mean `storage.durability`?"),
        (
            "storge.durability=os",
            "unknown key `storge` in --set storge.durability=os; did you mean `storage`?",
        ),
        ("listeners.mqtt.adress=127.0.0.1:1", "did you mean `listeners.mqtt.address`?"),
        (
            "listeners.mqtt.limits.connection_max=1",
            "did you mean `listeners.mqtt.limits.connections_max`?",
        ),
        ("limits.recieve_maximum=1", "did you mean `limits.receive_maximum`?"),
        ("apps.\"a#b\".session_mesages_max=1", "did you mean `apps.a#b.session_messages_max`?"),
    ] {
        let refusal = refusal(&[set]);
        assert!(refusal.contains(expected), "{set}: {refusal}");
        assert!(refusal.contains("in --set "), "{set}: {refusal}");
    }
    let refusal = load("[log]\nlevl = 'info'", &[], &[]).unwrap_err().to_string();
    assert!(refusal.contains("unknown key `log.levl` in /"), "{refusal}");
    let refusal = load("", &[("HONGQIAO__LOG__LEVL", "info")], &[]).unwrap_err().to_string();
    assert!(refusal.contains("environment variable HONGQIAO__LOG__LEVL"), "{refusal}");
    let refusal = self::refusal(&["zzzzzz=1"]);
    assert!(!refusal.contains("did you mean"), "{refusal}");
}

#[test]
fn wrong_value_names_key_and_what_is_right() {
    for (set, expected) in [
        ("storage.durability=raid", "\"raid\" is none of disk, os"),
        ("limits.packet_bytes_max=4 parsecs", "a size such as"),
        ("limits.packet_bytes_max=9 GiB", "too large"),
        ("limits.connect_timeout=5", "a time such as"),
        ("limits.receive_maximum=0", "`limits.receive_maximum`"),
        ("listeners.mqtt.address=nowhere", "`listeners.mqtt.address`"),
        ("listeners.mqtt=1", "`listeners.mqtt`"),
        ("limits=1", "`limits`"),
        ("listeners.new.kind=mqtt", "`listeners.new.address`: must be set"),
        ("storage.shards=65", "between 1 and 64"),
        ("workers.threads=256", "at most 64"),
        ("log.level=loud", "`log.level`"),
        ("log.level=info,=debug", "`log.level`"),
        ("log.level=info,hongqiao=loud", "`log.level`"),
        ("listeners.mqtt.app=demo", "expected \"org#app\""),
        ("apps.demo.drop=newest", "expected \"org#app\""),
        ("listeners.http.websocket_paths=[\"mqtt\"]", "does not begin with"),
        ("listeners.mqtt.websocket_paths=[\"/mqtt\"]", "only listeners of kind \"http\""),
        ("listeners.http.address=127.0.0.1:1883", "already used by `http`"),
        ("limits.outbound_bytes_max=1 KiB", "must not be less than packet_bytes_max"),
        ("limits.keep_alive_max=20 h", "65535 s"),
        ("nonsense", "expected section.key=value"),
    ] {
        let refusal = refusal(&[set]);
        assert!(refusal.contains(expected), "{set}: {refusal}");
    }
}

#[test]
fn address_beyond_loopback_needs_password_mode() {
    let public = "listeners.mqtt.address=0.0.0.0:1883";
    let refusal = refusal(&[public]);
    assert!(refusal.contains("set auth.mode = \"password\""), "{refusal}");
    let config = load("", &[], &[public, "auth.mode=password"]).unwrap();
    assert!(config.listeners_enabled().all(|(_, listener)| !config.allows_anonymous(listener)));
    assert!(load("", &[], &["listeners.mqtt.address=[::1]:1883"]).is_ok());
    assert!(load("", &[], &["listeners.mqtt.address=[::ffff:127.0.0.1]:1883"]).is_ok());
    assert!(load("", &[], &["listeners.mqtt.address=[::]:1883"]).is_err());
    assert!(load("", &[], &["auth.mode=password", "listeners.mqtt.anonymous=true"]).is_err());
    assert!(load("", &[], &[public, "listeners.mqtt.enabled=false"]).is_ok());
}

#[test]
fn no_listener_enabled_is_refused() {
    let refusal = refusal(&["listeners.mqtt.enabled=false", "listeners.http.enabled=false"]);
    assert!(refusal.contains("no listener is enabled"), "{refusal}");
}

#[test]
fn file_that_is_missing_or_broken_is_refused() {
    let missing = Sources { file: Some("/nonexistent/h.toml".into()), ..Sources::default() };
    assert!(matches!(Config::load(&missing), Err(ConfigError::Read { .. })));
    let refusal = load("[log", &[], &[]).unwrap_err().to_string();
    assert!(refusal.contains("line 1"), "{refusal}");
}

#[test]
fn set_cannot_smuggle_a_second_key() {
    let config = load("", &[], &["storage.data_dir='a'\n[log]\nlevel='trace'"]).unwrap();
    assert_eq!(config.log.level, load("", &[], &[]).unwrap().log.level);
}

#[test]
fn origin_rules_allow_programs_self_and_listed() {
    let config = Config::load(&Sources::default()).unwrap();
    let mut http = config.listeners["http"].clone();
    let host = Some("chat.example:8080");
    assert!(http.allows_origin(None, host));
    assert!(http.allows_origin(Some("https://chat.example:8080"), host));
    assert!(!http.allows_origin(Some("https://evil.example"), host));
    assert!(!http.allows_origin(Some("null"), host));
    assert!(!http.allows_origin(Some("https://chat.example:8080"), None));
    http.websocket_origins = vec!["https://app.example".to_owned()];
    assert!(http.allows_origin(Some("https://app.example"), host));
    assert!(!http.allows_origin(Some("https://chat.example:8080"), host));
    http.websocket_origins = vec!["*".to_owned()];
    assert!(http.allows_origin(Some("null"), None));
}

/// Settings of a node that listens for peers.
const MEMBER: [&str; 2] = ["cluster.listen=127.0.0.1:7001", "cluster.secret=sixteen bytes ok"];

#[test]
fn node_is_alone_until_it_listens_for_peers() {
    let config = load("", &[], &[]).unwrap();
    assert_eq!((config.cluster.node, config.cluster.advertised()), (0, None));
    let config = load("", &[], &MEMBER).unwrap();
    assert_eq!(config.cluster.advertised().as_deref(), Some("127.0.0.1:7001"));
    let sets = [&MEMBER[..], &["cluster.advertise=n1.chat.svc:7001"]].concat();
    let config = load("", &[], &sets).unwrap();
    assert_eq!(config.cluster.advertised().as_deref(), Some("n1.chat.svc:7001"));
}

#[test]
fn cluster_settings_that_cannot_work_say_what_to_set() {
    for (sets, expected) in [
        (&["cluster.replaces=2"][..], "`cluster.replaces`: needs cluster.join"),
        (&["cluster.founder=n1"][..], "`cluster.founder`: needs cluster.join"),
        (&["cluster.expect=0"][..], "`cluster.expect`: must be at least 1"),
        (
            &["cluster.listen=127.0.0.1:7001"],
            "`cluster.secret`: must be set where cluster.listen is",
        ),
        (&[MEMBER[0], "cluster.secret=too short"], "has 9 bytes, must have at least 16"),
        (&[MEMBER[0], MEMBER[1], "cluster.secret_file=/x"], "either this or cluster.secret"),
        (&[MEMBER[0], "cluster.secret_file=/nonexistent/secret"], "cannot be read"),
        (&[MEMBER[1], "cluster.listen=0.0.0.0:7001"], "`cluster.advertise`: peers cannot dial"),
        (&[MEMBER[1], "cluster.listen=[::]:7001"], "`cluster.advertise`: peers cannot dial"),
        (&[MEMBER[1], "cluster.listen=127.0.0.1:0"], "port 0"),
        (&[MEMBER[1], "cluster.listen=node1:7001"], "is no address to listen on"),
        (&[MEMBER[0], MEMBER[1], "cluster.advertise=node1"], "is no address"),
        (&[MEMBER[0], MEMBER[1], "cluster.join=[\"n1\"]"], "is no address"),
        (&[MEMBER[0], MEMBER[1], "cluster.join=[\"127.0.0.1:7001\"]"], "names only this node"),
        (&["cluster.join=[\"n1:7001\"]"], "needs cluster.listen"),
        (&["cluster.advertise=n1:7001"], "needs cluster.listen"),
        (&["cluster.client_address=mqtt://n1"], "`cluster.client_address`"),
        (&[MEMBER[1], "cluster.listen=127.0.0.1:1883"], "already used by listener `mqtt`"),
        (
            &[
                MEMBER[0],
                MEMBER[1],
                "limits.packet_bytes_max=7 MiB",
                "limits.outbound_bytes_max=8 MiB",
            ],
            "limits.packet_bytes_max`: nodes hand each other at most",
        ),
        (&["cluster.lisen=127.0.0.1:7001"], "did you mean `cluster.listen`?"),
    ] {
        let refusal = refusal(sets);
        assert!(refusal.contains(expected), "{sets:?}: {refusal}");
    }
}

#[test]
fn secret_comes_from_a_file_without_its_last_newline_and_is_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "sixteen bytes ok\n").unwrap();
    let file = format!("cluster.secret_file={}", path.display());
    let config = load("", &[], &[MEMBER[0], &file]).unwrap();
    assert_eq!(config.cluster.secret.bytes(), b"sixteen bytes ok");
    assert!(!format!("{config:?}").contains("sixteen"));
    std::fs::write(&path, "\n").unwrap();
    assert!(refusal(&[MEMBER[0], &file]).contains("is empty"));
}
