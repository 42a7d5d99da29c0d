//! A running node as its operator meets it: what it prints and writes down, users, backups, metrics,
//! and starts that must fail.

mod metrics;
mod format;
mod refusals;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{
    http_client::{get, metric},
    node::Node,
    packet::BOTH,
    wait::wait_until,
};

const BAD_USER_NAME_OR_PASSWORD: [u8; 2] = [0x86, 4];
const NOT_AUTHORIZED: [u8; 2] = [0x87, 5];

fn hongqiao(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hongqiao"));
    command.args(arguments);
    command
}

fn on_data(node: &Node, arguments: &[&str]) -> Output {
    let mut command = hongqiao(arguments);
    command.arg("--data").arg(node.data()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The word after `label` in what the node printed.
fn printed(node: &Node, label: &str) -> Option<String> {
    let log = node.log();
    let line = log.lines().find(|line| line.trim_start().starts_with(label))?;
    line.trim_start()[label.len()..].split_whitespace().next().map(str::to_owned)
}

#[test]
fn first_start_prints_lines_to_copy_and_demo_credentials_that_work() {
    let mut node = Node::start();
    let port = node.broker().mqtt().port();
    for part in [
        format!("mosquitto_sub -h 127.0.0.1 -p {port}"),
        format!("mosquitto_pub -h 127.0.0.1 -p {port}"),
        format!("curl http://{}/readyz", node.broker().http()),
        format!("http://{}/api/v1", node.broker().http()),
    ] {
        assert!(node.log().contains(&part), "{part}\n{}", node.log());
    }
    let password = printed(&node, "Demo password").unwrap();
    for version in BOTH {
        let dial = |password: &str| node.broker().dial(version, "d").user("demo", password);
        dial(&password).connect().disconnect();
        dial("wrong").expect_refused(&BAD_USER_NAME_OR_PASSWORD);
    }
    // The password is in no file, and is not shown again.
    assert!(node.terminate().success());
    let held = Command::new("grep").args(["-rlF", &password]).arg(node.data()).output().unwrap();
    assert_eq!(text(&held.stdout), "");
    node.launch();
    assert_eq!(node.log().matches("Demo password").count(), 1);
    node.broker().v5("d").user("demo", &password).connect().disconnect();
}

#[test]
fn data_folder_is_closed_to_others_and_tidied_at_the_end() {
    let mut node = Node::start();
    assert_eq!(mode(&node.data()), 0o700);
    for file in ["admin.token", "listeners.json"] {
        assert_eq!(mode(&node.data().join(file)), 0o600, "{file}");
    }
    let token = fs::read_to_string(node.data().join("admin.token")).unwrap();
    assert!(!node.log().contains(&token));
    assert!(node.terminate().success());
    assert!(!node.data().join("admin.token").exists());
    assert!(!node.data().join("listeners.json").exists());
}

#[test]
fn password_mode_lets_in_whom_user_put_created_and_nobody_else() {
    let mut node = Node::start_with(&[("auth.mode", "password")]);
    let output = on_data(&node, &["user", "put", "acme#chat/ann"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let line = text(&output.stdout);
    let made = line.trim().rsplit(' ').next().unwrap();
    let mut put = hongqiao(&["user", "put", "demo#demo/bob", "--password-stdin", "--data"]);
    put.arg(node.data()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = put.spawn().unwrap();
    child.stdin.take().unwrap().write_all("corréct horse\n".as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    for restart in [false, true] {
        if restart {
            node.crash();
        }
        for version in BOTH {
            let dial = || node.broker().dial(version, "c");
            dial().expect_refused(&NOT_AUTHORIZED);
            dial().user("acme#chat/ann", made).connect().disconnect();
            dial().user("bob", "corréct horse").connect().disconnect();
            dial().user("demo#demo/bob", "corréct horse").connect().disconnect();
            for (name, password) in
                [("ann", made), ("acme#chat/bob", "corréct horse"), ("bob", ""), ("nobody", "x")]
            {
                dial().user(name, password).expect_refused(&BAD_USER_NAME_OR_PASSWORD);
            }
        }
    }
    let output = on_data(&node, &["user", "put", "demo#demo/bob"]);
    let new = text(&output.stdout);
    let new = new.trim().rsplit(' ').next().unwrap();
    node.broker().v5("c").user("bob", new).connect().disconnect();
    node.broker().v5("c").user("bob", "corréct horse").expect_refused(&BAD_USER_NAME_OR_PASSWORD);
    assert!(!node.log().contains(new) && !node.log().contains("horse"));
}

#[test]
fn tenants_do_not_see_each_other() {
    let node = Node::start();
    let output = on_data(&node, &["user", "put", "acme#chat/ann"]);
    let password = text(&output.stdout).trim().rsplit(' ').next().unwrap().to_owned();
    let acme = || node.broker().v5("same").user("acme#chat/ann", &password).durable();
    let mut theirs = node.broker().v5("same").durable().connect();
    theirs.retain("t/r", "demo", 1);
    theirs.subscribe("t/#", 1);
    assert_eq!(theirs.expect_publish().text(), "demo");
    let mut ours = acme().connect();
    assert!(!ours.connack.present);
    ours.subscribe("t/#", 1);
    ours.publish("t/x", "acme", 1);
    assert_eq!(ours.expect_publish().text(), "acme");
    ours.expect_silence();
    theirs.ping();
    theirs.expect_silence();
}

#[test]
fn backup_of_a_running_node_restores_sessions_queues_and_users() {
    let mut node = Node::start();
    let password = printed(&node, "Demo password").unwrap();
    for version in BOTH {
        let mut absent = node.broker().dial(version, &format!("{version:?}")).durable().connect();
        absent.subscribe("queue/#", 2);
        absent.disconnect();
    }
    let mut from = node.broker().v5("from").connect();
    for n in 0..500 {
        from.publish(&format!("queue/{}", n % 7), &n.to_string(), if n % 2 == 0 { 1 } else { 2 });
    }
    from.retain("kept", "retained", 1);
    let target = node.folder().join("backup");
    let target = target.to_str().unwrap();
    let output = on_data(&node, &["backup", target]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    from.publish("queue/0", "after the backup", 1);
    let again = on_data(&node, &["backup", target]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("not an empty folder"), "{}", text(&again.stderr));

    node.kill();
    fs::rename(node.data(), node.folder().join("lost")).unwrap();
    let output = on_data(&node, &["restore", target]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    node.launch();
    for version in BOTH {
        let dial = node.broker().dial(version, &format!("{version:?}")).durable();
        let mut absent = dial.user("demo", &password).connect();
        assert!(absent.connack.present);
        let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
        assert_eq!(absent.expect_texts(500), expected);
        absent.expect_silence();
    }
    let mut to = node.broker().v5("to").connect();
    to.subscribe("kept", 1);
    assert_eq!(to.expect_publish().text(), "retained");
}

#[test]
fn metrics_count_what_clients_do() {
    let node = Node::start();
    let http = node.broker().http();
    assert_eq!(get(http, "/healthz").0, 200);
    assert_eq!(get(http, "/readyz").0, 200);
    let mut to = node.broker().v5("to").durable().connect();
    to.subscribe("m/#", 2);
    let mut from = node.broker().v4("from").connect();
    for qos in 0..3 {
        for _ in 0..4 {
            from.publish("m/x", "payload", qos);
        }
    }
    to.expect_texts(12);
    from.retain("other", "x", 1);
    for (start, expected) in [
        ("hongqiao_connections ", 2.0),
        ("hongqiao_connections_opened_total ", 2.0),
        ("hongqiao_subscriptions ", 1.0),
        ("hongqiao_sessions ", 1.0),
        ("hongqiao_retained_messages ", 1.0),
        ("hongqiao_messages_total{direction=\"in\",qos=\"0\"}", 4.0),
        ("hongqiao_messages_total{direction=\"in\",qos=\"1\"}", 5.0),
        ("hongqiao_messages_total{direction=\"in\",qos=\"2\"}", 4.0),
        ("hongqiao_messages_total{direction=\"out\",qos=\"0\"}", 4.0),
        ("hongqiao_messages_total{direction=\"out\",qos=\"1\"}", 4.0),
        ("hongqiao_messages_total{direction=\"out\",qos=\"2\"}", 4.0),
        ("hongqiao_disk_writable ", 1.0),
        ("hongqiao_handler_panics_total ", 0.0),
    ] {
        wait_until(start, || metric(http, start) == Some(expected));
    }
    for start in [
        "hongqiao_network_bytes_total{direction=\"in\"}",
        "hongqiao_network_bytes_total{direction=\"out\"}",
        "hongqiao_flush_duration_seconds_count",
        "hongqiao_log_bytes ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ] {
        assert!(metric(http, start).unwrap() > 0.0, "{start}");
    }
    from.disconnect();
    wait_until("the connection is counted off", || {
        metric(http, "hongqiao_connections ") == Some(1.0)
    });
}

#[test]
fn second_process_on_one_folder_and_taken_addresses_exit_with_1() {
    let mut node = Node::start();
    let serve = |data: &Path, mqtt: &str| {
        let mut command = hongqiao(&["serve", "--http", "127.0.0.1:0", "--listen", mqtt, "--data"]);
        command.arg(data).output().unwrap()
    };
    let output = serve(&node.data(), "127.0.0.1:0");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let other = node.folder().join("other");
    let taken = node.broker().mqtt().to_string();
    let output = serve(&other, &taken);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&taken), "{}", text(&output.stderr));
    // The one that runs did not notice.
    assert!(node.is_alive());
    assert_eq!(on_data(&node, &["user", "put", "demo#demo/x"]).status.code(), Some(0));
    node.broker().v5("c").connect().disconnect();
}

#[test]
fn sigterm_tells_clients_and_exits_with_0() {
    let mut node = Node::start();
    let mut v5 = node.broker().v5("five").connect();
    let mut web = node.broker().v5("web").websocket().connect();
    let mut v4 = node.broker().v4("four").connect();
    // Something that the last checkpoint has to write.
    let _durable = node.broker().v5("durable").durable().connect();
    assert_eq!(node.terminate().code(), Some(0));
    v5.expect_disconnect(&[0x8B]);
    web.expect_disconnect(&[0x8B]);
    v4.expect_closed();
    let log = node.log();
    assert!(!log.contains("ERROR"), "an ordinary stop is no error:\n{log}");
}
