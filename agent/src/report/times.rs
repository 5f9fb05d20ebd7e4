//! Owns times in answers: wall milliseconds inside, RFC 3339 in UTC with milliseconds outside.

use serde::{Deserialize, Deserializer, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `1763848435123` as `2025-11-22T21:53:55.123Z`.
pub fn text(wall_ms: u64) -> String {
    let nanos = i128::from(wall_ms) * 1_000_000;
    let Ok(at) = OffsetDateTime::from_unix_timestamp_nanos(nanos) else { return format!("{wall_ms} ms") };
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond()
    )
}

/// The wall milliseconds of an RFC 3339 text.
pub fn parse(text: &str) -> Option<u64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

/// For `#[serde(with = "times")]`.
pub fn serialize<S: Serializer>(wall_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*wall_ms))
}

/// For `#[serde(with = "times")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
}

/// For `#[serde(with = "times::maybe")]`: `null` where there is no time.
pub mod maybe {
    use serde::{Deserialize, Deserializer, Serializer};

    /// The time, or `null`.
    pub fn serialize<S: Serializer>(wall_ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match wall_ms {
            Some(wall_ms) => serializer.serialize_str(&super::text(*wall_ms)),
            None => serializer.serialize_none(),
        }
    }

    /// The time, or `null`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let wall_ms = text
            .map(|text| super::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time")));
        wall_ms.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_their_text() {
        assert_eq!(text(1_763_848_435_123), "2025-11-22T21:53:55.123Z");
        for wall_ms in [0, 1, 999, 1_763_848_435_123, 4_000_000_000_000] {
            assert_eq!(parse(&text(wall_ms)), Some(wall_ms));
        }
        assert_eq!(parse("yesterday"), None);
    }
}
