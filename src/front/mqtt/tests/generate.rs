//! Arbitrary legal packets, for the properties that hold for all of them.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};

use super::{V4, V5, property};
use crate::model::{
    message::Qos,
    reason::Reason,
    topic::{TopicFilter, TopicName},
    wire::{
        Ack, AckKind, Auth, Connack, Connect, Dialect, Disconnect, Inbound, Outbound, Publish,
        RetainHandling, SubackCode, Subscribe, SubscribeItem, SubscriptionOptions, Unsubscribe,
        Will,
    },
};

pub(super) fn dialect() -> impl Strategy<Value = Dialect> {
    prop_oneof![Just(V4), Just(V5)]
}

pub(super) fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

fn packet_id() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|id| NonZeroU16::new(id).unwrap())
}

fn word() -> impl Strategy<Value = String> {
    "[a-zß虹\u{feff}0-9]{1,8}"
}

pub(super) fn topic() -> impl Strategy<Value = TopicName> {
    vec(prop_oneof![word(), Just(String::new())], 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter_map("empty", |text| TopicName::parse(text).ok())
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    let level = prop_oneof![word(), Just("+".to_owned())];
    (vec(level, 1..4), any::<bool>()).prop_map(|(mut levels, rest)| {
        if rest {
            levels.push("#".to_owned());
        }
        TopicFilter::parse(levels.join("/")).unwrap()
    })
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

/// Message expiry; 0 is legal.
fn expiry() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(None), Just(Some(0)), any::<u32>().prop_map(Some)]
}

/// Forwarded properties in wire form; the payload format is left to [`publish_v5`].
fn forwarded() -> impl Strategy<Value = Vec<u8>> {
    let content_type = option::of(word().prop_map(|text| property(0x03, &[text.as_bytes()])));
    let response = option::of(word().prop_map(|text| property(0x08, &[text.as_bytes()])));
    let correlation = option::of(bytes(20).prop_map(|data| property(0x09, &[&data])));
    let pair = (word(), word()).prop_map(|(k, v)| property(0x26, &[k.as_bytes(), v.as_bytes()]));
    (content_type, response, correlation, vec(pair, 0..4)).prop_map(|(a, b, c, pairs)| {
        [a, b, c].into_iter().flatten().chain(pairs).collect::<Vec<_>>().concat()
    })
}

fn publish_v4() -> impl Strategy<Value = Publish> {
    (topic(), packet_id(), qos(), any::<bool>(), any::<bool>(), bytes(300)).prop_map(
        |(topic, packet_id, qos, dup, retain, payload)| Publish {
            topic: Some(topic),
            topic_alias: None,
            packet_id: Some(packet_id).filter(|_| qos > Qos::AtMostOnce),
            qos,
            dup: dup && qos > Qos::AtMostOnce,
            retain,
            expiry_secs: None,
            properties: Bytes::new(),
            payload,
        },
    )
}

fn publish_v5() -> impl Strategy<Value = Publish> {
    let alias = option::of(packet_id());
    (publish_v4(), any::<bool>(), alias, expiry(), forwarded(), any::<bool>()).prop_map(
        |(publish, named, topic_alias, expiry_secs, mut properties, text)| {
            if text {
                properties.splice(0..0, [0x01, 0x01]);
            }
            let payload =
                if text { Bytes::from_static("虹桥".as_bytes()) } else { publish.payload };
            let topic = publish.topic.filter(|_| named || topic_alias.is_none());
            let properties = Bytes::from(properties);
            Publish { topic, topic_alias, expiry_secs, properties, payload, ..publish }
        },
    )
}

fn will(v5: bool) -> impl Strategy<Value = Will> {
    (topic(), bytes(40), qos(), any::<bool>(), any::<u32>(), expiry(), forwarded()).prop_map(
        move |(topic, payload, qos, retain, delay_secs, expiry_secs, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_secs: if v5 { delay_secs } else { 0 },
            expiry_secs: expiry_secs.filter(|_| v5),
            properties: if v5 { properties.into() } else { Bytes::new() },
        },
    )
}

fn connect(v5: bool) -> impl Strategy<Value = Connect> {
    let who = (word(), option::of(word()), option::of(bytes(10)), option::of(will(v5)));
    let numbers = (any::<u16>(), any::<u32>(), packet_id(), any::<u16>());
    let size = option::of((1..=u32::MAX).prop_map(|size| NonZeroU32::new(size).unwrap()));
    (who, numbers, size, any::<[bool; 3]>(), option::of(word())).prop_map(
        move |((client_id, user_name, password, will), numbers, size, flags, method)| {
            let (keep_alive_secs, expiry, receive_maximum, topic_alias_maximum) = numbers;
            let clean_start = flags[0];
            let v4_expiry = if clean_start { 0 } else { u32::MAX };
            Connect {
                dialect: if v5 { V5 } else { V4 },
                client_id,
                clean_start,
                keep_alive_secs,
                session_expiry_secs: if v5 { expiry } else { v4_expiry },
                receive_maximum: if v5 { receive_maximum } else { NonZeroU16::MAX },
                packet_bytes_max: size.filter(|_| v5),
                topic_alias_maximum: if v5 { topic_alias_maximum } else { 0 },
                request_response_information: v5 && flags[1],
                request_problem_information: !v5 || flags[2],
                authentication_method: method.filter(|_| v5),
                password: password.filter(|_| v5 || user_name.is_some()),
                user_name,
                will,
            }
        },
    )
}

fn ack(v5: bool) -> impl Strategy<Value = Ack> {
    let sent = prop_oneof![
        Just(Reason::Success),
        Just(Reason::QuotaExceeded),
        Just(Reason::NoMatchingSubscribers)
    ];
    let answered = prop_oneof![Just(Reason::Success), Just(Reason::PacketIdNotFound)];
    let kind = prop_oneof![Just(true), Just(false)];
    (any::<bool>(), kind, packet_id(), sent, answered).prop_map(
        move |(released, first, packet_id, sent, answered)| {
            let (kind, reason) = match (released, first) {
                (false, true) => (AckKind::Puback, sent),
                (false, false) => (AckKind::Pubrec, sent),
                (true, true) => (AckKind::Pubrel, answered),
                (true, false) => (AckKind::Pubcomp, answered),
            };
            Ack { kind, packet_id, reason: if v5 { reason } else { Reason::Success } }
        },
    )
}

fn share() -> impl Strategy<Value = Option<Bytes>> {
    option::of(word().prop_map(|name| Bytes::from(name.into_bytes())))
}

fn subscribe(v5: bool) -> impl Strategy<Value = Subscribe> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    let item = (filter(), share(), qos(), any::<[bool; 2]>(), handling).prop_map(
        move |(filter, share, qos, flags, retain_handling)| {
            let no_local = v5 && flags[0] && share.is_none();
            let options = if v5 {
                let retain_as_published = flags[1];
                SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
            } else {
                SubscriptionOptions { qos, ..SubscriptionOptions::default() }
            };
            SubscribeItem { filter: Ok(filter), share, options }
        },
    );
    let id = option::of((1..=268_435_455u32).prop_map(|id| NonZeroU32::new(id).unwrap()));
    (packet_id(), id, vec(item, 1..8)).prop_map(move |(packet_id, id, items)| Subscribe {
        packet_id,
        subscription_id: id.filter(|_| v5),
        items,
    })
}

fn unsubscribe() -> impl Strategy<Value = Unsubscribe> {
    let item = (share(), filter()).prop_map(Ok);
    (packet_id(), vec(item, 1..8)).prop_map(|(packet_id, items)| Unsubscribe { packet_id, items })
}

fn disconnect(v5: bool) -> impl Strategy<Value = Disconnect> {
    let reason = prop_oneof![
        Just(Reason::Success),
        Just(Reason::DisconnectWithWill),
        Just(Reason::ProtocolError)
    ];
    (reason, option::of(any::<u32>())).prop_map(move |(reason, expiry)| Disconnect {
        reason: if v5 { reason } else { Reason::Success },
        session_expiry_secs: expiry.filter(|_| v5),
    })
}

fn auth() -> impl Strategy<Value = Auth> {
    let reason = prop_oneof![Just(Reason::ContinueAuthentication), Just(Reason::ReAuthenticate)];
    (reason, word()).prop_map(|(reason, method)| Auth { reason, method: Some(method) })
}

/// A packet of a client that its server takes, with the dialect in which it is written.
pub(super) fn inbound() -> impl Strategy<Value = (Dialect, Inbound)> {
    dialect().prop_flat_map(|dialect| {
        let v5 = dialect == V5;
        let publish = if v5 { publish_v5().boxed() } else { publish_v4().boxed() };
        let last = if v5 {
            auth().prop_map(|a| Inbound::Auth(Box::new(a))).boxed()
        } else {
            Just(Inbound::Ping).boxed()
        };
        let packet = prop_oneof![
            connect(v5).prop_map(|packet| Inbound::Connect(Box::new(packet))),
            publish.prop_map(Inbound::Publish),
            ack(v5).prop_map(Inbound::Ack),
            subscribe(v5).prop_map(|packet| Inbound::Subscribe(Box::new(packet))),
            unsubscribe().prop_map(|packet| Inbound::Unsubscribe(Box::new(packet))),
            disconnect(v5).prop_map(|packet| Inbound::Disconnect(Box::new(packet))),
            Just(Inbound::Ping),
            last,
        ];
        packet.prop_map(move |packet| (dialect, packet))
    })
}

fn connack() -> impl Strategy<Value = Connack> {
    let refused = prop_oneof![
        Just(Reason::Success),
        Just(Reason::NotAuthorized),
        Just(Reason::ServerUnavailable)
    ];
    let flag = || option::of(any::<bool>());
    let flags = (any::<bool>(), flag(), flag(), flag(), flag());
    let numbers = (
        option::of(any::<u32>()),
        option::of(packet_id()),
        option::of(1..=u32::MAX),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
    );
    let texts = (option::of(word()), option::of(word()), option::of(word()));
    (refused, flags, numbers, texts, option::of(qos())).prop_map(
        |(reason, flags, numbers, texts, maximum_qos)| Connack {
            session_present: flags.0 && reason == Reason::Success,
            reason,
            session_expiry_secs: numbers.0,
            receive_maximum: numbers.1,
            maximum_qos: maximum_qos.filter(|qos| *qos < Qos::ExactlyOnce),
            retain_available: flags.1,
            packet_bytes_max: numbers.2.and_then(NonZeroU32::new),
            assigned_client_id: texts.0,
            topic_alias_maximum: numbers.3,
            reason_string: None,
            wildcard_available: flags.2,
            subscription_ids_available: flags.3,
            shared_available: flags.4,
            server_keep_alive_secs: numbers.4,
            response_information: texts.1,
            server_reference: texts.2,
        },
    )
}

/// A packet of the server.
pub(super) fn outbound() -> impl Strategy<Value = Outbound> {
    let code = prop_oneof![
        qos().prop_map(SubackCode::Granted),
        Just(SubackCode::Refused(Reason::UnspecifiedError)),
        Just(SubackCode::Refused(Reason::TopicFilterInvalid)),
    ];
    let reason = prop_oneof![Just(Reason::Success), Just(Reason::NoSubscriptionExisted)];
    let ended = prop_oneof![
        Just(Reason::Success),
        Just(Reason::SessionTakenOver),
        Just(Reason::UseAnotherServer)
    ];
    prop_oneof![
        connack().prop_map(|packet| Outbound::Connack(Box::new(packet))),
        ack(true).prop_map(|ack| Outbound::Ack { ack, reason_string: None }),
        (packet_id(), vec(code, 1..10))
            .prop_map(|(packet_id, codes)| Outbound::Suback { packet_id, codes }),
        (packet_id(), vec(reason, 1..10))
            .prop_map(|(packet_id, reasons)| Outbound::Unsuback { packet_id, reasons }),
        Just(Outbound::Pong),
        (ended, option::of(word())).prop_map(|(reason, server_reference)| {
            Outbound::Disconnect { reason, reason_string: None, server_reference }
        }),
    ]
}
