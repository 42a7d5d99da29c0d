//! What the fuzz target demands of the WebSocket decoder; also run by `tests/fuzz_corpus.rs`.
//!
//! - Takes: arbitrary bytes; the first says how they are cut. Gives: nothing; panics where a promise is
//!   broken.
//! - Promises: no panic; the same outcome for every cut; all of a piece is used before more is asked for;
//!   no more payload than bytes, and no more than the limits.

use hongqiao::front::ws::frame::{Decoder, Event, Rules, Violation};

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
