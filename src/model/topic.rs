//! Topic names and topic filters, parsed once at the edge.
//!
//! - Owns: nothing; text is a shared slice.
//! - Takes: UTF-8 from a client. Gives: names without wildcards, filters with legal ones.
//! - Bound: `TOPIC_BYTES_MAX` by the two-byte length of the wire; levels by the caller's limit.
//! - Source: MQTT 5.0 sections 4.7 and 4.8.2.

use std::{fmt, str};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest topic or filter that the wire can carry, in bytes.
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Why a text is no topic name or no topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Topic names and filters have at least one character.
    #[error("topic is empty")]
    Empty,
    /// Longer than the wire or the limit allows.
    #[error("topic is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit that was passed.
        bytes_max: usize,
    },
    /// More levels than the limit allows.
    #[error("topic has more than {levels_max} levels")]
    TooDeep {
        /// The limit that was passed.
        levels_max: usize,
    },
    /// Not UTF-8 at all.
    #[error("topic is not UTF-8")]
    NotUtf8,
    /// U+0000 is not allowed anywhere.
    #[error("topic contains the null character")]
    Null,
    /// `+` or `#` in a name, or in a filter not alone in its level, or `#` not last.
    #[error("wildcard is not allowed there")]
    Wildcard,
    /// The share name of `$share/name/filter` is empty or has `+`, `#`; or the filter is missing.
    #[error("shared subscription has no valid share name or filter")]
    Share,
}

/// UTF-8 text in a shared slice.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Text(Bytes);

impl Text {
    fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A topic name: no wildcards, not empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Text);

/// A topic filter: wildcards only where the specification allows them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Text);

impl TopicName {
    /// Parses a topic name that is known to be UTF-8.
    ///
    /// # Errors
    /// [`TopicError`] says which rule of MQTT 5.0 section 4.7 is broken.
    ///
    /// ```
    /// # use hongqiao::model::topic::TopicName;
    /// assert!(TopicName::parse("room/7".to_owned()).is_ok());
    /// assert!(TopicName::parse("room/+".to_owned()).is_err());
    /// ```
    pub fn parse(text: impl Into<String>) -> Result<Self, TopicError> {
        Self::from_utf8_bytes(Bytes::from(text.into().into_bytes()))
    }

    /// Parses a shared slice whose UTF-8 was checked by the codec; keeps the slice.
    ///
    /// # Errors
    /// As [`TopicName::parse`].
    pub fn from_utf8_bytes(bytes: Bytes) -> Result<Self, TopicError> {
        check_text(&bytes)?;
        if bytes.iter().any(|byte| matches!(byte, b'+' | b'#')) {
            return Err(TopicError::Wildcard);
        }
        Ok(Self(Text(bytes)))
    }

    /// Parses untrusted bytes, and keeps the slice; all rules and limits in one pass.
    ///
    /// # Errors
    /// As [`TopicName::parse`] and [`check_limits`]; `NotUtf8`.
    pub fn from_bytes(
        bytes: Bytes,
        bytes_max: usize,
        levels_max: usize,
    ) -> Result<Self, TopicError> {
        let (mut slashes, mut all, mut null, mut wildcard) = (0_usize, 0_u8, false, false);
        for byte in &bytes {
            slashes += usize::from(*byte == b'/');
            wildcard |= matches!(byte, b'+' | b'#');
            null |= *byte == 0;
            all |= *byte;
        }
        match () {
            () if bytes.is_empty() => Err(TopicError::Empty),
            () if !all.is_ascii() && str::from_utf8(&bytes).is_err() => Err(TopicError::NotUtf8),
            () if null => Err(TopicError::Null),
            () if bytes.len() > bytes_max => Err(TopicError::TooLong { bytes_max }),
            () if slashes >= levels_max => Err(TopicError::TooDeep { levels_max }),
            () if wildcard => Err(TopicError::Wildcard),
            () => Ok(Self(Text(bytes))),
        }
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the name as the shared slice it came in.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0.0
    }

    /// Returns a copy that no longer holds the buffer which the name was read from.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Text(Bytes::copy_from_slice(&self.0.0)))
    }
}

impl TopicFilter {
    /// Parses a filter without a `$share` prefix (see [`Subscription target`](parse_share)).
    ///
    /// # Errors
    /// [`TopicError`] says which rule of MQTT 5.0 section 4.7 is broken.
    ///
    /// ```
    /// # use hongqiao::model::topic::TopicFilter;
    /// assert!(TopicFilter::parse("a/+/c/#".to_owned()).is_ok());
    /// assert!(TopicFilter::parse("a#".to_owned()).is_err());
    /// ```
    pub fn parse(text: impl Into<String>) -> Result<Self, TopicError> {
        Self::from_utf8_bytes(Bytes::from(text.into().into_bytes()))
    }

    /// Parses a shared slice whose UTF-8 was checked by the codec; keeps the slice.
    ///
    /// # Errors
    /// As [`TopicFilter::parse`].
    pub fn from_utf8_bytes(bytes: Bytes) -> Result<Self, TopicError> {
        check_text(&bytes)?;
        let mut levels = bytes.split(|byte| *byte == b'/').peekable();
        while let Some(level) = levels.next() {
            let wild = level.iter().any(|byte| matches!(byte, b'+' | b'#'));
            if wild && (level.len() > 1 || (level == b"#" && levels.peek().is_some())) {
                return Err(TopicError::Wildcard);
            }
        }
        Ok(Self(Text(bytes)))
    }

    /// Returns the filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the filter as the shared slice it came in.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0.0
    }

    /// Tells whether the filter has a wildcard; one without matches exactly one topic.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.0.0.iter().any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// Tells whether the filter matches `topic`, MQTT 5.0 section 4.7.
    ///
    /// ```
    /// # use hongqiao::model::topic::{TopicFilter, TopicName};
    /// # fn main() -> Result<(), hongqiao::model::topic::TopicError> {
    /// let filter = TopicFilter::parse("sport/#".to_owned())?;
    /// assert!(filter.matches(&TopicName::parse("sport".to_owned())?));
    /// assert!(!filter.matches(&TopicName::parse("$sport".to_owned())?));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        let (filter, topic) = (&self.0.0[..], &topic.0.0[..]);
        if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
            return false;
        }
        let mut filters = filter.split(|byte| *byte == b'/');
        let mut topics = topic.split(|byte| *byte == b'/');
        loop {
            match (filters.next(), topics.next()) {
                (Some(b"#"), _) | (None, None) => return true,
                (Some(b"+"), Some(_)) => {}
                (Some(want), Some(have)) if want == have => {}
                _ => return false,
            }
        }
    }
}

/// Checks a topic's or filter's size against the limits of a listener.
///
/// # Errors
/// `TooLong` or `TooDeep`.
pub fn check_limits(text: &[u8], bytes_max: usize, levels_max: usize) -> Result<(), TopicError> {
    if text.len() > bytes_max {
        return Err(TopicError::TooLong { bytes_max });
    }
    let slashes = text.iter().filter(|byte| **byte == b'/').count();
    if slashes >= levels_max {
        return Err(TopicError::TooDeep { levels_max });
    }
    Ok(())
}

/// Splits `$share/name/filter`; `Ok(None)` when the text is no shared subscription.
///
/// # Errors
/// `TopicError::Share` for an illegal share name or a missing filter.
pub fn parse_share(bytes: &Bytes) -> Result<Option<(Bytes, Bytes)>, TopicError> {
    const PREFIX: &[u8] = b"$share";
    let Some(rest) = bytes.strip_prefix(PREFIX) else { return Ok(None) };
    match rest.first() {
        Some(b'/') => {}
        Some(_) | None => return Ok(None),
    }
    let name_start = PREFIX.len() + 1;
    let Some(name_len) = rest[1..].iter().position(|byte| *byte == b'/') else {
        return Err(TopicError::Share);
    };
    let name = bytes.slice(name_start..name_start + name_len);
    let filter = bytes.slice(name_start + name_len + 1..);
    let bad_name = name.is_empty() || name.iter().any(|byte| matches!(byte, b'+' | b'#'));
    if bad_name || filter.is_empty() {
        return Err(TopicError::Share);
    }
    Ok(Some((name, filter)))
}

fn check_text(bytes: &[u8]) -> Result<(), TopicError> {
    if bytes.is_empty() {
        return Err(TopicError::Empty);
    }
    if bytes.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong { bytes_max: TOPIC_BYTES_MAX });
    }
    if bytes.contains(&0) {
        return Err(TopicError::Null);
    }
    Ok(())
}

impl fmt::Debug for TopicName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Serialize for TopicName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TopicName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        str::from_utf8(&bytes).map_err(D::Error::custom)?;
        Self::from_utf8_bytes(bytes).map_err(D::Error::custom)
    }
}

impl Serialize for TopicFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TopicFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        str::from_utf8(&bytes).map_err(D::Error::custom)?;
        Self::from_utf8_bytes(bytes).map_err(D::Error::custom)
    }
}
