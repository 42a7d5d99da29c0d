//! What the fuzz targets demand of the WebSocket layer; also run by `tests/fuzz_corpus.rs`.
//!
//! - Takes: arbitrary bytes. For frames, the first says how they are cut; for the upgrade they are an
//!   HTTP request. Gives: nothing; panics where a promise is broken.
//! - Promises: no panic; the same outcome for every cut; all of a piece is used before more is asked for;
//!   no more payload than bytes, and no more than the limits. Each request gets one whole answer, in
//!   which nothing of the client's stands.

use std::{collections::HashMap, rc::Rc};

use actix_codec::Decoder as _;
use actix_http::{ServiceConfig, h1};
use bytes::BytesMut;
use hongqiao::front::ws::{
    frame::{Decoder, Event, Rules, Violation},
    upgrade::{Endpoint, Endpoints, MQTT_SUBPROTOCOLS, Upgraded, judge},
};

const RULES: Rules = Rules { frame_bytes_max: 1_000, message_bytes_max: 2_000, text: true };

/// What came out: kind and bytes of whole messages (0 binary, 1 text) and control frames (opcode).
type Outcome = (Vec<(u8, Vec<u8>)>, Option<Violation>);

/// Feeds `data` to the decoder.
pub(crate) fn frames(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    let pieces = decode(bytes, usize::from(cut).max(1));
    assert_eq!(pieces, whole);
    let payload: usize = whole.0.iter().map(|(_, payload)| payload.len()).sum();
    assert!(payload <= bytes.len());
}

fn decode(bytes: &[u8], step: usize) -> Outcome {
    let (mut decoder, mut seen, mut message) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(step) {
        let (mut piece, mut at) = (piece.to_vec(), 0);
        loop {
            match decoder.next(&mut piece, &mut at, &RULES) {
                Ok(None) => break,
                Ok(Some(Event::Data { text, range, last })) => {
                    message.extend_from_slice(&piece[range]);
                    assert!(message.len() <= 2_000);
                    if last {
                        if text {
                            assert!(std::str::from_utf8(&message).is_ok());
                        }
                        seen.push((u8::from(text), std::mem::take(&mut message)));
                    }
                }
                Ok(Some(Event::Ping(payload))) => seen.push((9, payload.as_slice().to_vec())),
                Ok(Some(Event::Pong(payload))) => seen.push((10, payload.as_slice().to_vec())),
                Ok(Some(Event::Close(code))) => {
                    seen.push((8, code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec())));
                    return (seen, None);
                }
                Err(violation) => return (seen, Some(violation)),
            }
        }
        assert_eq!(at, piece.len());
    }
    (seen, None)
}

thread_local! {
    /// The parser's settings want a runtime to make them, and none later.
    static CONFIG: ServiceConfig =
        actix_rt::System::new().block_on(async { ServiceConfig::default() });
}

/// Feeds `data` to the parser of requests and judges what comes out.
pub(crate) fn upgrade(data: &[u8]) {
    let mut codec = CONFIG.with(|config| h1::Codec::new(config.clone()));
    let mut bytes = BytesMut::from(data);
    let Ok(Some(h1::Message::Item(request))) = codec.decode(&mut bytes) else { return };
    let path = "/mqtt".to_owned();
    let endpoints: Endpoints = HashMap::from([(path, Rc::new(Anybody) as Rc<dyn Endpoint>)]);
    let answer = match judge(request.head(), &endpoints) {
        Ok(agreement) => {
            assert!(agreement.subprotocol.is_some_and(|name| MQTT_SUBPROTOCOLS.contains(&name)));
            assert_eq!(request.path(), "/mqtt");
            agreement.answer()
        }
        Err(refusal) => refusal.answer(),
    };
    assert!(answer.starts_with("HTTP/1.1 ") && answer.is_ascii());
    assert!(answer.matches("\r\n\r\n").count() == 1 && answer.len() < 1_000);
}

struct Anybody;

impl Endpoint for Anybody {
    fn subprotocols(&self) -> &[&'static str] {
        MQTT_SUBPROTOCOLS
    }

    fn allows_origin(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        origin.is_none_or(|origin| host.is_some_and(|host| origin.ends_with(host)))
    }

    fn has_room(&self) -> bool {
        true
    }

    fn accept(&self, _upgraded: Upgraded) {}
}
