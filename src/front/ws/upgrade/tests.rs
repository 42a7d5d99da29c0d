//! Tables of handshakes, good and bad.

use actix_http::{Method, header::HeaderValue};

use super::*;

struct Door {
    needs_subprotocol: bool,
    room: bool,
}

impl Endpoint for Door {
    fn subprotocols(&self) -> &[&'static str] {
        MQTT_SUBPROTOCOLS
    }

    fn needs_subprotocol(&self) -> bool {
        self.needs_subprotocol
    }

    fn allows_origin(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        origin.is_none_or(|origin| origin == "https://app.example") && host == Some("here")
    }

    fn has_room(&self) -> bool {
        self.room
    }

    fn accept(&self, _: Upgraded) {}
}

fn endpoints() -> Endpoints {
    let doors = [("/mqtt", true, true), ("/lax", false, true), ("/full", true, false)];
    let door = |(path, needs_subprotocol, room): (&str, bool, bool)| {
        let door: Rc<dyn Endpoint> = Rc::new(Door { needs_subprotocol, room });
        (path.to_owned(), door)
    };
    doors.into_iter().map(door).collect()
}

type Changes = &'static [(&'static str, &'static str)];

/// A good request for `path`, with some headers set (`""` removes; `+` in front adds a second).
fn request(path: &str, changes: Changes) -> RequestHead {
    let mut head = RequestHead::default();
    head.uri = path.parse().unwrap();
    let good = [
        ("host", "here"),
        ("upgrade", "websocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "mqtt"),
    ];
    for (name, value) in good.iter().chain(changes) {
        let key = HeaderName::from_static(name);
        match value.strip_prefix('+') {
            Some(more) => head.headers.append(key, HeaderValue::from_static(more)),
            None if value.is_empty() => drop(head.headers.remove(key)),
            None => drop(head.headers.insert(key, HeaderValue::from_static(value))),
        }
    }
    let upgrades = head.headers.get("connection").is_some_and(|value| {
        value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("upgrade"))
    });
    if upgrades {
        head.set_connection_type(actix_http::ConnectionType::Upgrade);
    }
    head
}

#[test]
fn handshake_when_good_then_answered_as_in_the_rfc() {
    let agreement = judge(&request("/mqtt?x=1", &[]), &endpoints()).ok().unwrap();
    assert_eq!(
        agreement.answer(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
}

#[test]
fn subprotocols_when_offered_then_first_that_is_spoken_here() {
    type Outcome = Result<Option<&'static str>, Refusal>;
    let cases: [(&str, Changes, Outcome); 8] = [
        ("/mqtt", &[("sec-websocket-protocol", "mqttv3.1")], Ok(Some("mqttv3.1"))),
        ("/mqtt", &[("sec-websocket-protocol", "amqp,mqttv3.1 , mqtt")], Ok(Some("mqttv3.1"))),
        (
            "/mqtt",
            &[("sec-websocket-protocol", "amqp"), ("sec-websocket-protocol", "+mqtt")],
            Ok(Some("mqtt")),
        ),
        ("/mqtt", &[("sec-websocket-protocol", "")], Err(Refusal::Subprotocol)),
        ("/mqtt", &[("sec-websocket-protocol", "MQTT")], Err(Refusal::Subprotocol)),
        ("/lax", &[("sec-websocket-protocol", "")], Ok(None)),
        ("/lax", &[("sec-websocket-protocol", "amqp")], Err(Refusal::Subprotocol)),
        ("/lax", &[], Ok(Some("mqtt"))),
    ];
    for (path, changes, expected) in cases {
        let outcome = judge(&request(path, changes), &endpoints());
        assert_eq!(outcome.map(|agreement| agreement.subprotocol), expected, "{changes:?}");
    }
}

#[test]
fn handshake_when_bad_then_refused_with_its_status() {
    let cases: [(&str, Changes, u16, &str); 15] = [
        ("/", &[], 404, "no WebSocket is served at this path"),
        ("/mqtt/", &[], 404, "no WebSocket is served at this path"),
        ("/mqtt", &[("origin", "https://evil.example")], 403, "origin"),
        ("/mqtt", &[("origin", "https://app.example"), ("origin", "+x")], 400, "repeated"),
        ("/mqtt", &[("sec-websocket-version", "8")], 426, "version 13"),
        ("/mqtt", &[("sec-websocket-version", "")], 426, "version 13"),
        ("/mqtt", &[("sec-websocket-version", "+13")], 400, "repeated"),
        ("/mqtt", &[("sec-websocket-key", "")], 400, "Sec-WebSocket-Key"),
        ("/mqtt", &[("sec-websocket-key", "c2hvcnQ=")], 400, "Sec-WebSocket-Key"),
        ("/mqtt", &[("sec-websocket-key", "+c2hvcnQ=")], 400, "repeated"),
        ("/mqtt", &[("upgrade", "h2c")], 400, "Upgrade"),
        ("/mqtt", &[("connection", "")], 400, "Connection"),
        ("/mqtt", &[("host", "")], 400, "Host"),
        ("/mqtt", &[("sec-websocket-protocol", "")], 400, "mqtt"),
        ("/full", &[], 503, "limit"),
    ];
    for (path, changes, status, words) in cases {
        let refusal = judge(&request(path, changes), &endpoints()).err().unwrap();
        let answer = refusal.answer();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{changes:?}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert!(body.contains(words), "{changes:?}: {body}");
    }
}

#[test]
fn method_and_version_when_other_then_refused() {
    let mut post = request("/mqtt", &[]);
    post.method = Method::POST;
    assert_eq!(judge(&post, &endpoints()).err(), Some(Refusal::Method));
    assert!(Refusal::Method.answer().contains("\r\nAllow: GET\r\n"));
    let mut old = request("/mqtt", &[]);
    old.version = Version::HTTP_10;
    assert!(matches!(judge(&old, &endpoints()).err(), Some(Refusal::Handshake(_))));
    assert!(Refusal::Version.answer().contains("\r\nSec-WebSocket-Version: 13\r\n"));
}
