//! How the words of a desk are written: a version, then bincode 1.3 with integers of fixed width.
//!
//! - Takes: a value, or bytes of a peer. Gives: bytes, or `None` for what is damaged, longer or of another version.
//! - Bound: the most bytes of a [`Codec`]; nothing longer is written or read.
//! - Source: bincode 1.3, `DefaultOptions`; all bytes must be used.

use bincode::Options as _;
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Integers of fixed width, and at most `bytes_max` bytes.
pub(crate) fn fixed(bytes_max: u64) -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(bytes_max)
}

/// What two members of one desk have agreed on.
pub(crate) struct Codec {
    pub(crate) version: u8,
    /// Of the value; the version comes on top.
    pub(crate) bytes_max: u64,
}

impl Codec {
    /// Encodes a value behind its version.
    pub(crate) fn encode(&self, value: &impl Serialize) -> Bytes {
        self.put(Vec::new(), value)
    }

    /// Encodes a value for the desk that all kinds share, behind its kind and its version.
    pub(crate) fn encode_as(&self, kind: u8, value: &impl Serialize) -> Bytes {
        self.put(vec![kind], value)
    }

    fn put(&self, mut out: Vec<u8>, value: &impl Serialize) -> Bytes {
        out.push(self.version);
        // Ids, texts of a configuration, and lists that fit a directory: what is longer is cut off, and refused by
        // who reads it.
        let _ = fixed(self.bytes_max).serialize_into(&mut out, value);
        out.into()
    }

    /// Decodes what stands behind its version.
    pub(crate) fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Option<T> {
        let (version, fields) = body.split_first()?;
        // bincode heeds its limit in reading from a stream, and not from a slice.
        let is_long = fields.len() as u64 > self.bytes_max;
        if *version != self.version || is_long {
            return None;
        }
        fixed(self.bytes_max).deserialize(fields).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODEC: Codec = Codec { version: 3, bytes_max: 16 };

    #[test]
    fn value_when_encoded_then_its_version_and_fixed_integers() {
        assert_eq!(CODEC.encode(&(7_u16, 1_u8))[..], [3, 7, 0, 1]);
        assert_eq!(CODEC.encode_as(9, &(7_u16, 1_u8))[..], [9, 3, 7, 0, 1]);
        assert_eq!(CODEC.decode(&[3, 7, 0, 1]), Some((7_u16, 1_u8)));
    }

    #[test]
    fn bytes_when_of_another_version_cut_followed_or_too_long_then_nothing() {
        for bytes in [&[2, 7, 0, 1][..], &[3, 7, 0], &[3, 7, 0, 1, 0], &[3], &[]] {
            assert_eq!(CODEC.decode::<(u16, u8)>(bytes), None, "{bytes:?}");
        }
        assert_eq!(CODEC.decode::<Vec<u8>>(&[&[3, 17][..], &[0; 24]].concat()), None);
        assert_eq!(CODEC.decode(&[&[3, 8][..], &[0; 15]].concat()), Some(vec![0_u8; 8]));
        assert_eq!(CODEC.decode::<Vec<u8>>(&CODEC.encode(&[1_u8; 9].to_vec())), None);
    }
}
