//! Writes what a client sends.
//!
//! - Owns: nothing. Takes: values of `model::wire`. Gives: bytes appended to a buffer.
//! - Bound: strings longer than 65,535 bytes cannot be said; callers do not pass them.
//! - Source: MQTT 5.0 and 3.1.1 sections 3.1, 3.4 to 3.8, 3.10, 3.12, 3.14, 3.15.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    super::{
        ack_first,
        field::{put_binary, put_varint, varint_bytes},
        first,
        property::{id, put_flag, put_text, put_u16, put_u32},
        publish,
        reason::{self, Carrier},
    },
    Client,
};
use crate::{
    error,
    model::{
        reason::Reason,
        topic::TopicFilter,
        wire::{
            Ack, Auth, Connect, Delivery, DeliveryHead, Disconnect, Inbound, Publish,
            RetainHandling, Subscribe, SubscriptionOptions, Will,
        },
    },
};

impl Client {
    /// Appends a CONNECT. 3.1.1 leaves the properties out; `connect.dialect` is not looked at.
    pub fn encode_connect(self, connect: &Connect, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        put_binary(&mut body, b"MQTT");
        body.put_u8(if self == Self::V5 { 5 } else { 4 });
        body.put_u8(connect_flags(connect));
        body.put_u16(connect.keep_alive_secs);
        if self == Self::V5 {
            put_block(&mut body, &connect_properties(connect));
        }
        put_binary(&mut body, connect.client_id.as_bytes());
        if let Some(will) = &connect.will {
            if self == Self::V5 {
                put_block(&mut body, &will_properties(will));
            }
            put_binary(&mut body, will.topic.as_bytes());
            put_binary(&mut body, &will.payload);
        }
        if let Some(name) = &connect.user_name {
            put_binary(&mut body, name.as_bytes());
        }
        if let Some(password) = &connect.password {
            put_binary(&mut body, password);
        }
        put_packet(out, first::CONNECT, &body);
    }

    /// Appends everything of a PUBLISH but its payload, which follows on the wire.
    pub fn encode_publish(self, publish: &Delivery<'_>, out: &mut BytesMut) -> DeliveryHead {
        match self {
            Self::V4 => publish::head_v4(publish, out),
            Self::V5 => publish::head_v5(publish, out),
        }
    }

    /// Appends a SUBSCRIBE. 3.1.1 sends the QoS of each filter only.
    pub fn encode_subscribe<'a>(
        self,
        packet_id: NonZeroU16,
        subscription_id: Option<NonZeroU32>,
        items: impl IntoIterator<Item = (&'a str, SubscriptionOptions)>,
        out: &mut BytesMut,
    ) {
        let mut body = BytesMut::new();
        body.put_u16(packet_id.get());
        if self == Self::V5 {
            let mut properties = BytesMut::new();
            if let Some(number) = subscription_id {
                properties.put_u8(id::SUBSCRIPTION_ID);
                put_varint(&mut properties, usize::try_from(number.get()).unwrap_or(usize::MAX));
            }
            put_block(&mut body, &properties);
        }
        for (filter, options) in items {
            put_binary(&mut body, filter.as_bytes());
            body.put_u8(if self == Self::V5 { option_bits(options) } else { options.qos as u8 });
        }
        put_packet(out, first::SUBSCRIBE, &body);
    }

    /// Appends an UNSUBSCRIBE.
    pub fn encode_unsubscribe<'a>(
        self,
        packet_id: NonZeroU16,
        filters: impl IntoIterator<Item = &'a str>,
        out: &mut BytesMut,
    ) {
        let mut body = BytesMut::new();
        body.put_u16(packet_id.get());
        if self == Self::V5 {
            put_block(&mut body, &[]);
        }
        for filter in filters {
            put_binary(&mut body, filter.as_bytes());
        }
        put_packet(out, first::UNSUBSCRIBE, &body);
    }

    /// Appends an acknowledgement. 3.1.1 leaves the reason out.
    pub fn encode_ack(self, ack: Ack, out: &mut BytesMut) {
        let first = ack_first(ack.kind);
        let [high, low] = ack.packet_id.get().to_be_bytes();
        let number = error::code(ack.reason).mqtt5;
        if self == Self::V4 || ack.reason == Reason::Success {
            out.put_slice(&[first, 2, high, low]);
        } else {
            out.put_slice(&[first, 3, high, low, number]);
        }
    }

    /// Appends a PINGREQ.
    pub fn encode_ping(self, out: &mut BytesMut) {
        out.put_slice(&[first::PINGREQ, 0]);
    }

    /// Appends a DISCONNECT. 3.1.1 leaves reason and session expiry out.
    pub fn encode_disconnect(self, disconnect: &Disconnect, out: &mut BytesMut) {
        let number = reason::write(disconnect.reason, Carrier::DisconnectByClient);
        match (self, disconnect.session_expiry_secs) {
            (Self::V4, _) => out.put_slice(&[first::DISCONNECT, 0]),
            (Self::V5, None) if number == 0 => out.put_slice(&[first::DISCONNECT, 0]),
            (Self::V5, None) => out.put_slice(&[first::DISCONNECT, 1, number]),
            (Self::V5, secs) => {
                out.put_slice(&[first::DISCONNECT, 7, number, 5]);
                put_u32(out, id::SESSION_EXPIRY, secs);
            }
        }
    }

    /// Appends whatever a client may say; the inverse of the server's decoder.
    ///
    /// Tells whether it could: a filter that was refused is carried without its text.
    pub fn encode_inbound(self, inbound: &Inbound, out: &mut BytesMut) -> bool {
        match inbound {
            Inbound::Connect(connect) => self.encode_connect(connect, out),
            Inbound::Publish(publish) => self.encode_whole_publish(publish, out),
            Inbound::Ack(ack) => self.encode_ack(*ack, out),
            Inbound::Subscribe(subscribe) => return self.encode_items(subscribe, out),
            Inbound::Unsubscribe(unsubscribe) => {
                let texts: Option<Vec<String>> = unsubscribe
                    .items
                    .iter()
                    .map(|item| item.as_ref().ok().map(|(share, filter)| full(share, filter)))
                    .collect();
                let Some(texts) = texts else { return false };
                let filters = texts.iter().map(String::as_str);
                self.encode_unsubscribe(unsubscribe.packet_id, filters, out);
            }
            Inbound::Ping => self.encode_ping(out),
            Inbound::Disconnect(disconnect) => self.encode_disconnect(disconnect, out),
            Inbound::Auth(auth) => self.encode_auth(auth, out),
        }
        true
    }

    fn encode_whole_publish(self, publish: &Publish, out: &mut BytesMut) {
        let start = out.len();
        let head = self.encode_publish(
            &Delivery {
                topic: publish.topic.as_ref().map_or(&[], |topic| topic.as_bytes()),
                topic_alias: publish.topic_alias,
                qos: publish.qos,
                dup: publish.dup,
                retain: publish.retain,
                expiry_secs: publish.expiry_secs,
                properties: &publish.properties,
                subscription_ids: &[],
                payload: &publish.payload,
            },
            out,
        );
        if let (Some(at), Some(packet_id)) = (head.packet_id_at, publish.packet_id) {
            let at = start + at;
            out[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        }
        out.put_slice(&publish.payload);
    }

    fn encode_items(self, subscribe: &Subscribe, out: &mut BytesMut) -> bool {
        let items: Option<Vec<(String, SubscriptionOptions)>> = subscribe
            .items
            .iter()
            .map(|item| Some((full(&item.share, item.filter.as_ref().ok()?), item.options)))
            .collect();
        let Some(items) = items else { return false };
        let items = items.iter().map(|(filter, options)| (filter.as_str(), *options));
        self.encode_subscribe(subscribe.packet_id, subscribe.subscription_id, items, out);
        true
    }

    /// Appends an AUTH; 3.1.1 has none, nothing is written.
    pub fn encode_auth(self, auth: &Auth, out: &mut BytesMut) {
        if self == Self::V4 {
            return;
        }
        let mut properties = BytesMut::new();
        put_text(&mut properties, id::AUTH_METHOD, auth.method.as_deref());
        let mut body = BytesMut::new();
        body.put_u8(error::code(auth.reason).mqtt5);
        put_block(&mut body, &properties);
        put_packet(out, first::AUTH, &body);
    }
}

/// The filter as a client writes it.
fn full(share: &Option<Bytes>, filter: &TopicFilter) -> String {
    match share {
        Some(share) => format!("$share/{}/{filter}", String::from_utf8_lossy(share)),
        None => filter.to_string(),
    }
}

fn put_packet(out: &mut BytesMut, first: u8, body: &[u8]) {
    out.reserve(1 + varint_bytes(body.len()) + body.len());
    out.put_u8(first);
    put_varint(out, body.len());
    out.put_slice(body);
}

fn put_block(out: &mut BytesMut, properties: &[u8]) {
    put_varint(out, properties.len());
    out.put_slice(properties);
}

fn connect_flags(connect: &Connect) -> u8 {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    let will = connect
        .will
        .as_ref()
        .map_or(0, |will| 0x04 | (will.qos as u8) << 3 | bit(will.retain, 0x20));
    bit(connect.clean_start, 0x02)
        | will
        | bit(connect.password.is_some(), 0x40)
        | bit(connect.user_name.is_some(), 0x80)
}

fn connect_properties(connect: &Connect) -> BytesMut {
    let mut out = BytesMut::new();
    let receive_maximum = Some(connect.receive_maximum).filter(|count| *count != NonZeroU16::MAX);
    let unless_default = |value: bool, default: bool| (value != default).then_some(value);
    let problem = unless_default(connect.request_problem_information, true);
    let response = unless_default(connect.request_response_information, false);
    let alias_maximum = Some(connect.topic_alias_maximum).filter(|count| *count > 0);
    let expiry = Some(connect.session_expiry_secs).filter(|secs| *secs > 0);
    put_u32(&mut out, id::SESSION_EXPIRY, expiry);
    put_u16(&mut out, id::RECEIVE_MAXIMUM, receive_maximum.map(NonZeroU16::get));
    put_u32(&mut out, id::PACKET_BYTES_MAX, connect.packet_bytes_max.map(NonZeroU32::get));
    put_u16(&mut out, id::TOPIC_ALIAS_MAXIMUM, alias_maximum);
    put_flag(&mut out, id::REQUEST_RESPONSE, response);
    put_flag(&mut out, id::REQUEST_PROBLEM, problem);
    put_text(&mut out, id::AUTH_METHOD, connect.authentication_method.as_deref());
    out
}

fn will_properties(will: &Will) -> BytesMut {
    let mut out = BytesMut::new();
    put_u32(&mut out, id::WILL_DELAY, Some(will.delay_secs).filter(|secs| *secs > 0));
    put_u32(&mut out, id::MESSAGE_EXPIRY, will.expiry_secs);
    out.put_slice(&will.properties);
    out
}

fn option_bits(options: SubscriptionOptions) -> u8 {
    let retain_handling = match options.retain_handling {
        RetainHandling::Send => 0,
        RetainHandling::SendIfNew => 0x10,
        RetainHandling::DoNotSend => 0x20,
    };
    options.qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | retain_handling
}
