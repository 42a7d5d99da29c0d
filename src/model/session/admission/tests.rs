//! Tables for CONNECT, CONNACK and DISCONNECT.

use bytes::Bytes;

use super::*;
use crate::model::{topic::TopicName, wire::Will};

fn offer() -> Offer {
    Offer {
        receive_maximum: NonZeroU16::new(64).unwrap(),
        packet_bytes_max: NonZeroU32::new(1 << 20).unwrap(),
        topic_alias_maximum: 16,
        keep_alive_secs_max: 600,
        session_expiry_secs_max: 1_000,
        maximum_qos: Qos::ExactlyOnce,
        retain_available: true,
        client_id_bytes_max: 23,
    }
}

fn connect(dialect: Dialect) -> Connect {
    Connect { keep_alive_secs: 60, ..Connect::new(dialect, "c") }
}

fn will(qos: Qos, retain: bool) -> Option<Will> {
    Some(Will {
        topic: TopicName::parse("w").unwrap(),
        payload: Bytes::new(),
        qos,
        retain,
        delay_secs: 0,
        expiry_secs: None,
        properties: Bytes::new(),
    })
}

fn terms(connect: &Connect, offer: &Offer) -> Result<Terms, Reason> {
    admit(connect, offer, || "made".into())
}

#[test]
fn admit_refused_connects_then_the_reason_of_the_rule() {
    let v5 = connect(Dialect::MqttV5);
    let v4 = connect(Dialect::MqttV4);
    let low = Offer { maximum_qos: Qos::AtLeastOnce, retain_available: false, ..offer() };
    let cases = [
        (
            Connect { authentication_method: Some("SCRAM".into()), ..v5.clone() },
            offer(),
            Reason::BadAuthenticationMethod,
        ),
        (
            Connect { client_id: String::new(), clean_start: false, ..v4 },
            offer(),
            Reason::ClientIdNotValid,
        ),
        (Connect { client_id: "x".repeat(24), ..v5.clone() }, offer(), Reason::ClientIdNotValid),
        (
            Connect { will: will(Qos::ExactlyOnce, false), ..v5.clone() },
            low,
            Reason::QosNotSupported,
        ),
        (Connect { will: will(Qos::AtMostOnce, true), ..v5 }, low, Reason::RetainNotSupported),
    ];
    for (connect, offer, reason) in cases {
        assert_eq!(terms(&connect, &offer).unwrap_err(), reason, "{connect:?}");
    }
}

#[test]
fn admit_empty_client_id_then_assigned_and_only_v5_told() {
    for (dialect, clean_start) in
        [(Dialect::MqttV4, true), (Dialect::MqttV5, true), (Dialect::MqttV5, false)]
    {
        let connect = Connect { client_id: String::new(), clean_start, ..connect(dialect) };
        let terms = terms(&connect, &offer()).unwrap();
        assert!(terms.assigned);
        assert_eq!(terms.client_id, "made");
        let connack = terms.connack(&connect, &offer(), false);
        assert_eq!(connack.assigned_client_id.as_deref(), Some("made"));
    }
}

#[test]
fn admit_expiry_and_keep_alive_then_clamped_and_echoed_where_changed() {
    // (dialect, asked expiry, asked keep alive) → (granted, echoed), (granted, echoed)
    let cases = [
        (Dialect::MqttV5, 500, 60, (500, None), (60, None)),
        (Dialect::MqttV5, 0, 600, (0, None), (600, None)),
        (Dialect::MqttV5, u32::MAX, 601, (1_000, Some(1_000)), (600, Some(600))),
        (Dialect::MqttV5, 1_001, 0, (1_000, Some(1_000)), (600, Some(600))),
        (Dialect::MqttV4, u32::MAX, 0, (1_000, Some(1_000)), (0, None)),
    ];
    for (dialect, expiry, keep_alive, expect_expiry, expect_keep_alive) in cases {
        let connect = Connect {
            session_expiry_secs: expiry,
            keep_alive_secs: keep_alive,
            ..connect(dialect)
        };
        let terms = terms(&connect, &offer()).unwrap();
        let connack = terms.connack(&connect, &offer(), true);
        assert_eq!((terms.expiry_secs, connack.session_expiry_secs), expect_expiry);
        assert_eq!((terms.keep_alive_secs, connack.server_keep_alive_secs), expect_keep_alive);
    }
}

#[test]
fn connack_when_limits_are_the_defaults_then_no_property() {
    let wide = Offer {
        receive_maximum: NonZeroU16::MAX,
        topic_alias_maximum: 0,
        keep_alive_secs_max: 0,
        session_expiry_secs_max: u32::MAX,
        ..offer()
    };
    let connect = connect(Dialect::MqttV5);
    let connack = terms(&connect, &wide).unwrap().connack(&connect, &wide, true);
    let plain = Connack {
        packet_bytes_max: Some(wide.packet_bytes_max),
        session_present: true,
        ..Connack::new(Reason::Success)
    };
    assert_eq!(connack, plain);
}

#[test]
fn refusal_always_then_session_present_is_zero() {
    assert!(!refusal(Reason::ServerBusy, None).session_present);
}

#[test]
fn ending_table_then_will_and_expiry_as_the_specification_says() {
    // reason, asked expiry, expiry in CONNECT was not 0 → outcome
    let cases = [
        (Reason::Success, None, false, Ok((true, None))),
        (Reason::Success, Some(0), false, Ok((true, Some(0)))),
        (Reason::Success, Some(5), false, Err(Reason::ProtocolError)),
        (Reason::Success, Some(5), true, Ok((true, Some(5)))),
        (Reason::Success, Some(u32::MAX), true, Ok((true, Some(1_000)))),
        (Reason::DisconnectWithWill, None, true, Ok((false, None))),
        (Reason::UnspecifiedError, Some(0), true, Ok((false, Some(0)))),
    ];
    for (reason, asked, expiry_asked, expected) in cases {
        let expected =
            expected.map(|(will_dropped, expiry_secs)| Ending { will_dropped, expiry_secs });
        assert_eq!(ending(reason, asked, expiry_asked, &offer()), expected, "{reason:?} {asked:?}");
    }
}
