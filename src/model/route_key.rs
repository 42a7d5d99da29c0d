//! The name of a route in the directory of the cluster: (app, filter), or a shared group, as bytes.
//!
//! - Owns: the encoding; to the directory a key is opaque.
//! - Takes: app and filter. Gives: bytes, and app and filter back.
//! - Bound: `ROUTE_KEY_BYTES_MAX`.
//! - Source: own design.
//!
//! ```text
//! filter: 1 | app u32, big endian | text of the filter
//! group:  2 | app u32, big endian | share name | '/' | text of the filter
//! QoS 0:  3 | app u32, big endian | text of the filter: nodes whose live subscribers take QoS 0 alone
//! all:    0                         a shard all of whose filters have routes stands at this key
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    id::AppId,
    topic::{TOPIC_BYTES_MAX, TopicFilter},
};

const FILTER: u8 = 1;
const GROUP: u8 = 2;
const FILTER_QOS_0: u8 = 3;
const HEAD_BYTES: usize = 5;

/// Longest key in bytes.
pub const ROUTE_KEY_BYTES_MAX: usize = HEAD_BYTES + TOPIC_BYTES_MAX;

/// The key at which the shards stand whose routes are all in the directory.
pub const ALL_ROUTED: Bytes = Bytes::from_static(&[0]);

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKey {
    /// A filter of an app.
    Filter(AppId, TopicFilter),
    /// A filter of an app, for nodes whose live subscribers take messages of QoS 0 alone: sessions that
    /// have QoS 1 and 2 from their log.
    FilterQos0(AppId, TopicFilter),
    /// A shared group of an app: share name and filter.
    Group(AppId, Bytes, TopicFilter),
    /// Shards all of whose filters and groups have routes.
    AllRouted,
}

/// Why bytes are no key of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteKeyError {
    /// Written by a newer version.
    #[error("route key is of a kind that is not known: {kind}")]
    Kind {
        /// Its first byte.
        kind: u8,
    },
    /// Not an app and a filter.
    #[error("route key is malformed")]
    Malformed,
}

/// Encodes the key of a filter.
///
/// ```
/// # use hongqiao::model::{id::AppId, route_key::{self, RouteKey}, topic::TopicFilter};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let filter = TopicFilter::parse("room/+")?;
/// let key = route_key::of_filter(AppId(7), filter.as_bytes());
/// assert_eq!(route_key::parse(&key)?, RouteKey::Filter(AppId(7), filter));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn of_filter(app: AppId, filter: &[u8]) -> Bytes {
    with_filter(FILTER, app, filter)
}

/// Encodes the key of a filter whose live subscribers take messages of QoS 0 alone.
///
/// ```
/// # use hongqiao::model::{id::AppId, route_key::{self, RouteKey}, topic::TopicFilter};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let filter = TopicFilter::parse("room/+")?;
/// let key = route_key::of_filter_qos_0(AppId(7), filter.as_bytes());
/// assert_eq!(route_key::parse(&key)?, RouteKey::FilterQos0(AppId(7), filter));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn of_filter_qos_0(app: AppId, filter: &[u8]) -> Bytes {
    with_filter(FILTER_QOS_0, app, filter)
}

fn with_filter(kind: u8, app: AppId, filter: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(HEAD_BYTES + filter.len());
    key.put_u8(kind);
    key.put_u32(app.0);
    key.put_slice(filter);
    key.freeze()
}

/// Encodes the key of a shared group. A share name has no slash.
///
/// ```
/// # use hongqiao::model::{id::AppId, route_key::{self, RouteKey}, topic::TopicFilter};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let filter = TopicFilter::parse("room/+")?;
/// let key = route_key::of_group(AppId(7), b"g", filter.as_bytes());
/// assert_eq!(route_key::parse(&key)?, RouteKey::Group(AppId(7), "g".into(), filter));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn of_group(app: AppId, share: &[u8], filter: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(HEAD_BYTES + share.len() + 1 + filter.len());
    key.put_u8(GROUP);
    key.put_u32(app.0);
    key.put_slice(share);
    key.put_u8(b'/');
    key.put_slice(filter);
    key.freeze()
}

/// Decodes a key; names are slices of it.
///
/// # Errors
/// [`RouteKeyError`]; a route that cannot be understood is none.
pub fn parse(key: &Bytes) -> Result<RouteKey, RouteKeyError> {
    let (kind, rest) = key.split_first().ok_or(RouteKeyError::Malformed)?;
    match *kind {
        0 if rest.is_empty() => Ok(RouteKey::AllRouted),
        FILTER | FILTER_QOS_0 | GROUP => {
            let app = *rest.first_chunk().ok_or(RouteKeyError::Malformed)?;
            let (app, text) = (AppId(u32::from_be_bytes(app)), key.slice(HEAD_BYTES..));
            std::str::from_utf8(&text).map_err(|_| RouteKeyError::Malformed)?;
            let filter =
                |text| TopicFilter::from_utf8_bytes(text).map_err(|_| RouteKeyError::Malformed);
            match *kind {
                FILTER => return Ok(RouteKey::Filter(app, filter(text)?)),
                FILTER_QOS_0 => return Ok(RouteKey::FilterQos0(app, filter(text)?)),
                _ => {}
            }
            let slash = text.iter().position(|byte| *byte == b'/');
            let slash = slash.filter(|at| *at > 0).ok_or(RouteKeyError::Malformed)?;
            Ok(RouteKey::Group(app, text.slice(..slash), filter(text.slice(slash + 1..))?))
        }
        0 => Err(RouteKeyError::Malformed),
        kind => Err(RouteKeyError::Kind { kind }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_keys_are_errors_and_nothing_panics() {
        let malformed: [&[u8]; 12] = [
            b"",
            b"\0\0",
            b"\x01",
            b"\x01\0\0\0",
            b"\x01\0\0\0\x01",
            b"\x01\0\0\0\x01a#",
            b"\x01\0\0\0\x01\xff",
            b"\x02\0\0\0\x01g",
            b"\x02\0\0\0\x01/a",
            b"\x02\0\0\0\x01g/",
            b"\x02\0\0\0\x01g/a#",
            b"\x03\0\0\0\x01a#",
        ];
        for key in malformed {
            assert_eq!(parse(&Bytes::from_static(key)), Err(RouteKeyError::Malformed), "{key:?}");
        }
        let newer = parse(&Bytes::from_static(b"\x04abc"));
        assert_eq!(newer, Err(RouteKeyError::Kind { kind: 4 }));
        assert_eq!(parse(&ALL_ROUTED), Ok(RouteKey::AllRouted));
    }

    #[test]
    fn keys_of_different_apps_or_filters_differ() {
        let keys =
            [of_filter(AppId(1), b"a"), of_filter(AppId(2), b"a"), of_filter(AppId(1), b"b")];
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
        let groups = [of_group(AppId(1), b"a", b"b/c"), of_filter(AppId(1), b"a/b/c")];
        assert_ne!(groups[0], groups[1]);
        assert_ne!(of_filter(AppId(1), b"a"), of_filter_qos_0(AppId(1), b"a"));
    }
}
