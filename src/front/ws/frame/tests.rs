//! Tables and properties of the frame layer.

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules { frame_bytes_max: 1 << 20, message_bytes_max: 1 << 20, text: true };

/// Writes a frame as a client does.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Head::new(Opcode::Binary, payload.len() as u64).as_slice().to_vec();
    bytes[0] = first;
    bytes[1] |= 0x80;
    let key = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend_from_slice(&key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// What a test sees of a peer's bytes: whole messages and control frames.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

fn decode(bytes: &[u8], step: usize, rules: &Rules) -> (Vec<Seen>, Result<(), Violation>) {
    let (mut decoder, mut seen, mut message) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        let (mut piece, mut at) = (piece.to_vec(), 0);
        loop {
            match decoder.next(&mut piece, &mut at, rules) {
                Ok(None) => break,
                Ok(Some(Event::Data { text, range, last })) => {
                    message.extend_from_slice(&piece[range]);
                    if last {
                        seen.push(Seen::Message(text, std::mem::take(&mut message)));
                    }
                }
                Ok(Some(Event::Ping(payload))) => {
                    seen.push(Seen::Ping(payload.as_slice().to_vec()));
                }
                Ok(Some(Event::Pong(payload))) => {
                    seen.push(Seen::Pong(payload.as_slice().to_vec()));
                }
                Ok(Some(Event::Close(code))) => {
                    seen.push(Seen::Close(code));
                    return (seen, Ok(()));
                }
                Err(violation) => return (seen, Err(violation)),
            }
        }
        assert_eq!(at, piece.len(), "all of a piece is used before more is asked for");
    }
    (seen, Ok(()))
}

fn violation(bytes: &[u8]) -> Option<Violation> {
    let whole = decode(bytes, bytes.len(), &RULES).1.err();
    assert_eq!(decode(bytes, 1, &RULES).1.err(), whole, "a cut changes nothing");
    whole
}

#[test]
fn malformed_frame_when_decoded_then_named_violation() {
    let long = |first: u8, second: u8, length: &[u8]| [&[first, second], length, &[0; 4]].concat();
    let cases: Vec<(&str, Vec<u8>, Violation)> = vec![
        ("rsv1", frame(0xc2, b""), Violation::ReservedBit),
        ("rsv2", frame(0xa2, b""), Violation::ReservedBit),
        ("rsv3", frame(0x92, b""), Violation::ReservedBit),
        ("opcode 3", frame(0x83, b""), Violation::ReservedOpcode(3)),
        ("opcode 11", frame(0x8b, b""), Violation::ReservedOpcode(11)),
        ("unmasked", vec![0x82, 0x01], Violation::Unmasked),
        ("fragmented ping", frame(0x09, b""), Violation::ControlFragmented),
        ("long ping", long(0x89, 0xfe, &[0, 126]), Violation::ControlTooLong),
        ("125 in two bytes", long(0x82, 0xfe, &[0, 125]), Violation::LengthNotMinimal),
        (
            "65535 in eight bytes",
            long(0x82, 0xff, &[0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            Violation::LengthNotMinimal,
        ),
        ("2^63", long(0x82, 0xff, &[0x80, 0, 0, 0, 0, 0, 0, 0]), Violation::LengthReservedBit),
        ("2^62", long(0x82, 0xff, &[0x40, 0, 0, 0, 0, 0, 0, 0]), Violation::FrameTooLong),
        ("lone continuation", frame(0x80, b"x"), Violation::ContinuationUnexpected),
        (
            "message in message",
            [frame(0x02, b"x"), frame(0x82, b"y")].concat(),
            Violation::ContinuationMissing,
        ),
        ("close of one byte", frame(0x88, &[3]), Violation::CloseLength),
        ("close reason", frame(0x88, &[3, 0xe8, 0xff]), Violation::NotUtf8),
        ("text", frame(0x81, &[0xff]), Violation::NotUtf8),
        ("unfinished text", frame(0x81, &[0xe2, 0x82]), Violation::NotUtf8),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(violation(&bytes), Some(expected), "{name}");
    }
}

#[test]
fn close_code_when_not_for_the_wire_then_refused() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        let bytes = frame(0x88, &code.to_be_bytes());
        assert_eq!(violation(&bytes), Some(Violation::CloseCode(code)));
    }
    for code in [1000_u16, 1003, 1007, 1011, 1014, 3000, 4999] {
        let (seen, result) = decode(&frame(0x88, &code.to_be_bytes()), 3, &RULES);
        assert_eq!((seen, result), (vec![Seen::Close(Some(code))], Ok(())));
    }
    assert_eq!(decode(&frame(0x88, b""), 1, &RULES).0, [Seen::Close(None)]);
}

#[test]
fn control_frames_when_inside_a_message_then_seen_before_its_end() {
    let bytes = [
        frame(0x01, b"h"),
        frame(0x89, b"?"),
        frame(0x00, b""),
        frame(0x8a, b"!"),
        frame(0x80, b"i"),
    ]
    .concat();
    for step in [1, 2, 7, bytes.len()] {
        let expected = [
            Seen::Ping(b"?".to_vec()),
            Seen::Pong(b"!".to_vec()),
            Seen::Message(true, b"hi".to_vec()),
        ];
        assert_eq!(decode(&bytes, step, &RULES).0, expected);
    }
}

#[test]
fn limits_when_passed_then_refused_at_the_header() {
    let rules = Rules { frame_bytes_max: 4, message_bytes_max: 6, text: false };
    let outcome = |bytes: &[u8]| decode(bytes, bytes.len(), &rules).1;
    assert_eq!(outcome(&frame(0x82, b"1234")), Ok(()));
    assert_eq!(outcome(&frame(0x82, b"12345")[..6]), Err(Violation::FrameTooLong));
    let fragments = [frame(0x02, b"1234"), frame(0x80, b"56")].concat();
    assert_eq!(outcome(&fragments), Ok(()));
    let fragments = [frame(0x02, b"1234"), frame(0x80, b"567")].concat();
    assert_eq!(outcome(&fragments), Err(Violation::MessageTooLong));
    let separate = [frame(0x82, b"1234"), frame(0x82, b"5678")].concat();
    assert_eq!(outcome(&separate), Ok(()));
    assert_eq!(outcome(&frame(0x81, b"")), Err(Violation::Text));
}

#[test]
fn violation_when_told_then_close_code_of_its_kind() {
    assert_eq!(Violation::Unmasked.close_code(), 1002);
    assert_eq!(Violation::Text.close_code(), 1003);
    assert_eq!(Violation::NotUtf8.close_code(), 1007);
    assert_eq!(Violation::MessageTooLong.close_code(), 1009);
}

#[test]
fn decoder_when_idle_then_small() {
    assert!(size_of::<Decoder>() <= 48, "{}", size_of::<Decoder>());
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let control = || proptest::collection::vec(any::<u8>(), 0..=CONTROL_BYTES_MAX);
    let sizes = prop_oneof![0_usize..10, 120..130_usize, 65_530..65_540_usize];
    prop_oneof![
        ".*".prop_map(|text| Seen::Message(true, text.into_bytes())),
        (sizes, any::<u8>()).prop_map(|(len, seed)| {
            let bytes = (seed..=u8::MAX).chain(0..seed).cycle();
            Seen::Message(false, bytes.take(len).collect())
        }),
        control().prop_map(Seen::Ping),
        control().prop_map(Seen::Pong),
    ]
}

/// Writes a message in `parts` frames, with a ping in front of each but the first.
fn write(seen: &Seen, parts: usize, bytes: &mut Vec<u8>) -> usize {
    match seen {
        Seen::Ping(payload) => bytes.extend(frame(0x89, payload)),
        Seen::Pong(payload) => bytes.extend(frame(0x8a, payload)),
        Seen::Close(_) => bytes.extend(frame(0x88, b"")),
        Seen::Message(text, payload) => {
            let pieces: Vec<&[u8]> = payload.chunks(payload.len() / parts + 1).collect();
            let pieces = if pieces.is_empty() { vec![&b""[..]] } else { pieces };
            let kind = if *text { 1 } else { 2 };
            for (at, piece) in pieces.iter().enumerate() {
                let fin = if at + 1 == pieces.len() { 0x80 } else { 0 };
                let opcode = if at == 0 { kind } else { 0 };
                if at > 0 {
                    bytes.extend(frame(0x89, b"between"));
                }
                bytes.extend(frame(fin | opcode, piece));
            }
            return pieces.len() - 1;
        }
    }
    0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_when_fragmented_and_cut_then_come_back(
        all in proptest::collection::vec((any_seen(), 1_usize..5), 0..6),
        step in prop_oneof![1_usize..20, 1000_usize..100_000],
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (seen, parts) in &all {
            let pings = write(seen, *parts, &mut bytes);
            expected.extend(vec![Seen::Ping(b"between".to_vec()); pings]);
            expected.push(seen.clone());
        }
        let (seen, result) = decode(&bytes, step, &RULES);
        prop_assert_eq!(result, Ok(()));
        prop_assert!(seen == expected);
    }

    #[test]
    fn bytes_when_random_then_same_outcome_for_every_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        step in 1_usize..20,
    ) {
        prop_assert_eq!(decode(&bytes, step, &RULES), decode(&bytes, 300, &RULES));
    }

    #[test]
    fn mask_when_applied_in_pieces_then_as_byte_by_byte(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        key in any::<[u8; 4]>(),
        cut in 0_usize..100,
    ) {
        let expected: Vec<u8> =
            bytes.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let (mut masked, mut turned) = (bytes.clone(), key);
        let (front, back) = masked.split_at_mut(cut.min(bytes.len()));
        unmask(front, &mut turned);
        unmask(back, &mut turned);
        prop_assert_eq!(masked, expected);
    }
}
