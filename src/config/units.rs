//! Sizes and times as people write them: `"64 KiB"`, `"5 s"`, `"never"`.
//!
//! - Owns: nothing; parsers. Takes: text or a whole number. Gives: bytes and `Duration`.
//! - Bound: values that do not fit their type are an error, never cut.
//! - Source: IEC 80000-13 for `KiB`; a number without unit is bytes. Times need a unit.

use std::{fmt, marker::PhantomData, time::Duration};

use serde::{Deserializer, de};

/// What "never" means: more seconds than any protocol field can carry (MQTT 5.0 section 3.1.2.11.2).
pub const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

const SIZE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
];

const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a size.
///
/// # Errors
/// Says what was expected.
///
/// ```
/// # use hongqiao::config::units::parse_bytes;
/// assert_eq!(parse_bytes("64 KiB"), Ok(65_536));
/// assert!(parse_bytes("64 parsecs").is_err());
/// ```
pub fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "a size such as 512, \"64 KiB\" or \"1 MiB\"";
    parse(text, &SIZE_UNITS).ok_or(EXPECTED)
}

/// Parses a time.
///
/// # Errors
/// Says what was expected.
///
/// ```
/// # use hongqiao::config::units::parse_duration;
/// # use std::time::Duration;
/// assert_eq!(parse_duration("2 min"), Ok(Duration::from_secs(120)));
/// assert!(parse_duration("5").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "a time such as \"500 ms\", \"5 s\", \"1 h\", \"30 d\" or \"never\"";
    if text.trim().eq_ignore_ascii_case("never") {
        return Ok(NEVER);
    }
    parse(text, &TIME_UNITS).map(Duration::from_millis).ok_or(EXPECTED)
}

/// Writes a time as [`parse_duration`] reads it.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    if duration == NEVER {
        return "never".to_owned();
    }
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = TIME_UNITS
        .iter()
        .rev()
        .find(|(_, scale)| millis >= *scale && millis.is_multiple_of(*scale));
    let (name, scale) = unit.copied().unwrap_or(("ms", 1));
    format!("{} {name}", millis / scale)
}

/// Writes a size as [`parse_bytes`] reads it.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let binary = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1_u64 << 10)];
    match binary.iter().find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale)) {
        Some((name, scale)) => format!("{} {name}", bytes / scale),
        None => format!("{bytes} B"),
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits.replace('_', "").parse().ok()?;
    let unit = unit.trim().to_ascii_lowercase();
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*scale)
}

/// For `#[serde(deserialize_with)]`: a size into any unsigned type.
pub(super) fn bytes<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    deserializer.deserialize_any(BytesVisitor(PhantomData))
}

/// For `#[serde(deserialize_with)]`: a size that may be absent.
pub(super) fn bytes_option<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    bytes(deserializer).map(Some)
}

/// For `#[serde(deserialize_with)]`: a time.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(DurationVisitor)
}

struct BytesVisitor<T>(PhantomData<T>);

impl<T: TryFrom<u64>> de::Visitor<'_> for BytesVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a size such as 512, \"64 KiB\" or \"1 MiB\"")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::custom(format_args!("{number} is too large")))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        match parse_bytes(text) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

struct DurationVisitor;

impl de::Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a time such as \"500 ms\", \"5 s\", \"1 h\", \"30 d\" or \"never\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_bytes_with_and_without_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4_096", 4_096),
            ("64 KiB", 65_536),
            ("64kib", 65_536),
            ("1 MB", 1_000_000),
            (" 2 GiB ", 2 << 30),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text:?}");
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes), "{text:?}");
        }
        for text in ["", "KiB", "-1", "1.5 MiB", "1 XiB", "99999999999 TiB", "1 Ki B"] {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn parse_duration_needs_a_unit() {
        for (text, millis) in [
            ("0 s", 0),
            ("500 ms", 500),
            ("5s", 5_000),
            ("2 min", 120_000),
            ("30 d", 2_592_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text:?}");
            let formatted = format_duration(Duration::from_millis(millis));
            assert_eq!(parse_duration(&formatted), Ok(Duration::from_millis(millis)), "{text:?}");
        }
        for text in ["", "5", "s", "5 m", "5 years", "-1 s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_duration("never"), Ok(NEVER));
        assert_eq!(format_duration(NEVER), "never");
    }
}
