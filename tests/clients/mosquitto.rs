//! `mosquitto_pub` and `mosquitto_sub`: what people type first.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Output, Stdio},
};

use crate::support::broker::{Names, broker};

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    let addr = broker().mqtt();
    command.args(["-h", "127.0.0.1", "-p", &addr.port().to_string()]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn spawn(program: &str, arguments: &[&str]) -> Child {
    command(program, arguments)
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; get it with: make tools"))
}

fn publish(arguments: &[&str]) {
    let output = spawn("mosquitto_pub", arguments).wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// The payload lines of a subscriber that got what it wanted.
fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

/// Makes a durable session with this id and filter, and leaves.
fn leave_session(version: &str, id: &str, filter: &str, qos: &str) {
    let mut arguments = vec!["-V", version, "-c", "-i", id, "-q", qos, "-t", filter, "-E"];
    if version == "mqttv5" {
        arguments.extend(["-x", "300"]);
    }
    let output = spawn("mosquitto_sub", &arguments).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn messages_for_an_absent_session_are_replayed() {
    for version in VERSIONS {
        for qos in ["1", "2"] {
            let names = Names::new();
            let (id, topic) = (names.id("away"), names.topic("a"));
            leave_session(version, &id, &topic, qos);
            for text in ["one", "two", "three"] {
                publish(&["-V", version, "-q", qos, "-t", &topic, "-m", text]);
            }
            let mut arguments = vec![
                "-V", version, "-c", "-i", &id, "-q", qos, "-t", &topic, "-C", "3", "-W", "15",
            ];
            if version == "mqttv5" {
                arguments.extend(["-x", "300"]);
            }
            let output = spawn("mosquitto_sub", &arguments).wait_with_output().unwrap();
            assert_eq!(lines(&output), ["one", "two", "three"]);
        }
    }
}

#[test]
fn ten_thousand_lines_through_one_publisher_arrive_in_order() {
    for (version, qos) in [("mqttv311", "1"), ("mqttv5", "2")] {
        let names = Names::new();
        let (id, topic) = (names.id("reader"), names.topic("a"));
        leave_session(version, &id, &topic, qos);
        let mut writer = command("mosquitto_pub", &["-V", version, "-q", qos, "-t", &topic, "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text: String = (0..10_000).map(|n| format!("{n}\n")).collect();
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        let mut arguments = vec![
            "-V", version, "-c", "-i", &id, "-q", qos, "-t", &topic, "-C", "10000", "-W", "60",
        ];
        if version == "mqttv5" {
            arguments.extend(["-x", "300"]);
        }
        let output = spawn("mosquitto_sub", &arguments).wait_with_output().unwrap();
        let wanted: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        assert!(lines(&output) == wanted, "{version} qos {qos}: out of order or lost");
    }
}

#[test]
fn retained_message_is_shown_and_cleared() {
    for version in VERSIONS {
        let names = Names::new();
        let topic = names.topic("a");
        publish(&["-V", version, "-t", &topic, "-q", "1", "-r", "-m", "kept"]);
        let show = ["-V", version, "-t", topic.as_str(), "-C", "1", "-W", "15"];
        let output = spawn("mosquitto_sub", &show).wait_with_output().unwrap();
        assert_eq!(lines(&output), ["kept"]);
        publish(&["-V", version, "-t", &topic, "-q", "1", "-r", "-n"]);
        let ask = ["-V", version, "-t", topic.as_str(), "-C", "1", "-W", "1"];
        let output = spawn("mosquitto_sub", &ask).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(27), "time-out expected: {output:?}");
    }
}

#[test]
fn will_of_a_killed_client_is_published() {
    for version in VERSIONS {
        let names = Names::new();
        let (will, topic) = (names.topic("will"), names.topic("a"));
        let mut watcher = broker().v5(&names.id("watcher")).connect();
        watcher.subscribe(&names.topic("#"), 1);
        publish(&["-t", &topic, "-r", "-m", "probe"]);
        assert_eq!(watcher.expect_publish().text(), "probe");
        let mut mortal = spawn(
            "mosquitto_sub",
            &[
                "-V",
                version,
                "-t",
                &topic,
                "--will-topic",
                &will,
                "--will-payload",
                "gone",
                "--will-qos",
                "1",
            ],
        );
        // It is connected and subscribed once it prints the retained probe.
        let mut line = String::new();
        BufReader::new(mortal.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "probe");
        mortal.kill().unwrap();
        mortal.wait().unwrap();
        assert_eq!(watcher.expect_publish().text(), "gone");
    }
}

#[test]
fn shared_subscribers_split_the_messages() {
    let names = Names::new();
    let topic = names.topic("a");
    let (probe, filter) = (names.topic("probe"), format!("$share/g/{topic}"));
    publish(&["-t", &probe, "-r", "-m", "probe"]);
    let mut members: Vec<Child> = (0..3)
        .map(|_| {
            let arguments = ["-V", "mqttv5", "-q", "1", "-t", &filter, "-t", &probe, "-W", "4"];
            spawn("mosquitto_sub", &arguments)
        })
        .collect();
    let mut outputs: Vec<_> =
        members.iter_mut().map(|member| BufReader::new(member.stdout.take().unwrap())).collect();
    for output in &mut outputs {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "probe");
    }
    let mut from = broker().v5(&names.id("from")).connect();
    for n in 0..60 {
        from.publish(&topic, &n.to_string(), 1);
    }
    let mut all: Vec<u32> = Vec::new();
    for (mut member, output) in members.into_iter().zip(outputs) {
        // More than one probe may have been on its way.
        let lines = output.lines().map(Result::unwrap).filter(|line| line.trim() != "probe");
        let part: Vec<u32> = lines.map(|line| line.parse().unwrap()).collect();
        member.wait().unwrap();
        assert!(!part.is_empty(), "one member starves");
        all.extend(part);
    }
    all.sort_unstable();
    assert_eq!(all, (0..60).collect::<Vec<u32>>());
}

#[test]
fn properties_are_shown_by_the_subscriber() {
    let names = Names::new();
    let topic = names.topic("a");
    publish(&[
        "-V",
        "mqttv5",
        "-t",
        &topic,
        "-q",
        "1",
        "-r",
        "-m",
        "body",
        "-D",
        "publish",
        "content-type",
        "text/plain",
        "-D",
        "publish",
        "user-property",
        "key",
        "value",
        "-D",
        "publish",
        "response-topic",
        "answer/here",
    ]);
    let format = "%t|%C|%P|%R|%q|%r|%p";
    let arguments =
        ["-V", "mqttv5", "-q", "1", "-t", topic.as_str(), "-C", "1", "-W", "15", "-F", format];
    let output = spawn("mosquitto_sub", &arguments).wait_with_output().unwrap();
    let wanted = format!("{topic}|text/plain|key:value|answer/here|1|1|body");
    assert_eq!(lines(&output), [wanted]);
    publish(&["-t", &topic, "-r", "-n"]);
}

#[test]
fn file_of_one_mebibyte_arrives_unchanged() {
    let names = Names::new();
    let topic = names.topic("a");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("payload");
    let payload: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    std::fs::write(&file, &payload).unwrap();
    for version in VERSIONS {
        publish(&["-V", version, "-t", &topic, "-q", "2", "-r", "-f", file.to_str().unwrap()]);
        let arguments =
            ["-V", version, "-q", "2", "-t", topic.as_str(), "-C", "1", "-W", "20", "-N"];
        let output = spawn("mosquitto_sub", &arguments).wait_with_output().unwrap();
        assert!(output.stdout == payload, "{} bytes came", output.stdout.len());
    }
    publish(&["-t", &topic, "-r", "-n"]);
}

#[test]
fn request_and_response_tool_gets_its_answer() {
    let names = Names::new();
    let (ask, answer) = (names.topic("ask"), names.topic("answer"));
    let mut server = broker().v5(&names.id("server")).connect();
    server.subscribe(&ask, 1);
    let arguments =
        ["-V", "mqttv5", "-q", "1", "-t", &ask, "-e", &answer, "-m", "question", "-W", "15"];
    let client = spawn("mosquitto_rr", &arguments);
    let asked = server.expect_publish();
    let topic = asked.props.get_text(crate::support::property::RESPONSE_TOPIC).unwrap().to_owned();
    assert_eq!((asked.text().as_str(), topic.as_str()), ("question", answer.as_str()));
    server.publish(&topic, "answer", 1);
    let output = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "answer");
}
