//! A PUBLISH encoded once; each message is a copy with a few bytes changed.
//!
//! - Owns: the bytes. Takes: packet id, time stamp, number, receiver. Gives: bytes appended.
//! - Shape of a payload: 8 bytes nanoseconds since the run began, 8 bytes number (both big endian), `x`.

use bytes::BytesMut;

use crate::{
    front::mqtt::client::Client,
    model::{message::Qos, wire::Delivery},
};

/// Bytes of a payload that carry stamp and number.
const STAMP_BYTES: usize = 16;

/// Digits that name a receiver at the end of a topic.
const DIGITS: usize = 6;

#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
    /// Where the digits of the topic stand.
    digits_at: usize,
}

/// The topic of receiver `number`; all have the same length.
pub(super) fn topic_of(prefix: &str, number: u32) -> String {
    format!("{prefix}/{number:0DIGITS$}")
}

impl Template {
    /// Encodes a message to [`topic_of`] receiver 0.
    pub(super) fn new(client: Client, prefix: &str, qos: Qos, payload_bytes: u32) -> Self {
        let topic = topic_of(prefix, 0);
        let payload = vec![b'x'; usize::try_from(payload_bytes).unwrap_or(STAMP_BYTES)];
        let delivery = Delivery {
            topic: topic.as_bytes(),
            topic_alias: None,
            qos,
            dup: false,
            retain: false,
            expiry_secs: None,
            properties: &[],
            subscription_ids: &[],
            payload: &payload,
        };
        let mut out = BytesMut::new();
        let head = client.encode_publish(&delivery, &mut out);
        let payload_at = out.len();
        out.extend_from_slice(&payload);
        let topic_at = out.windows(topic.len()).position(|part| part == topic.as_bytes());
        Self {
            packet_id_at: head.packet_id_at,
            payload_at,
            digits_at: topic_at.unwrap_or(0) + topic.len() - DIGITS,
            bytes: out.to_vec(),
        }
    }

    /// Names another receiver in the messages that follow.
    pub(super) fn set_receiver(&mut self, number: u32) {
        let mut left = number;
        for at in (self.digits_at..self.digits_at + DIGITS).rev() {
            self.bytes[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
            left /= 10;
        }
    }

    /// Appends one message.
    pub(super) fn append(&self, out: &mut Vec<u8>, packet_id: u16, stamp_ns: u64, number: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.packet_id_at {
            out[start + at..start + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        let at = start + self.payload_at;
        out[at..at + 8].copy_from_slice(&stamp_ns.to_be_bytes());
        out[at + 8..at + STAMP_BYTES].copy_from_slice(&number.to_be_bytes());
    }
}

/// Reads stamp and number of a payload; `None` if it is not of ours.
pub(super) fn read_stamp(payload: &[u8]) -> Option<(u64, u64)> {
    let (stamp, rest) = payload.split_first_chunk::<8>()?;
    let number = rest.first_chunk::<8>()?;
    Some((u64::from_be_bytes(*stamp), u64::from_be_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use super::{Template, read_stamp};
    use crate::{
        front::mqtt::client::{Client, Skimmed},
        model::message::Qos,
    };

    #[test]
    fn message_when_stamped_then_read_back() {
        for client in [Client::V4, Client::V5] {
            let mut template = Template::new(client, "b/x", Qos::AtLeastOnce, 20);
            template.set_receiver(123_456);
            let mut out = vec![1, 2, 3];
            template.append(&mut out, 7, 99, 1_000);
            assert_eq!(out.len(), 3 + template.bytes.len());
            let Ok(Some((Skimmed::Publish { packet_id, payload, .. }, _))) = client.skim(&out[3..])
            else {
                panic!("no publish")
            };
            assert_eq!((packet_id, payload.len()), (7, 20));
            assert_eq!(read_stamp(payload), Some((99, 1_000)));
            assert!(out.windows(10).any(|part| part == b"b/x/123456"));
        }
    }
}
