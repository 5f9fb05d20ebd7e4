//! Owns the conversion of times: milliseconds here, seconds and nanoseconds on the wire.

use prost_types::{Duration, Timestamp};

const NANOS_PER_MS: i32 = 1_000_000;

/// `None` when it is negative.
pub(super) fn duration_ms(duration: &Duration) -> Option<u64> {
    non_negative_ms(duration.seconds, duration.nanos)
}

/// `None` when it is before 1970.
pub(super) fn timestamp_ms(timestamp: &Timestamp) -> Option<u64> {
    non_negative_ms(timestamp.seconds, timestamp.nanos)
}

fn non_negative_ms(seconds: i64, nanos: i32) -> Option<u64> {
    let ms = seconds.checked_mul(1_000)?.checked_add(i64::from(nanos / NANOS_PER_MS))?;
    u64::try_from(ms).ok()
}

pub(super) fn duration(ms: u64) -> Duration {
    let (seconds, nanos) = split(ms);
    Duration { seconds, nanos }
}

pub(super) fn timestamp(ms: u64) -> Timestamp {
    let (seconds, nanos) = split(ms);
    Timestamp { seconds, nanos }
}

fn split(ms: u64) -> (i64, i32) {
    // both fit: u64::MAX / 1000 is below i64::MAX, and 999 ms are below i32::MAX ns
    ((ms / 1_000) as i64, (ms % 1_000) as i32 * NANOS_PER_MS)
}

/// The `grpc-timeout` header: at most eight digits and a unit.
pub(super) fn grpc_timeout_ms(text: &str) -> Option<u64> {
    let unit_at = text.len().checked_sub(1)?;
    let (digits, unit) = (text.get(..unit_at)?, text.get(unit_at..)?);
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => amount * 3_600_000,
        "M" => amount * 60_000,
        "S" => amount * 1_000,
        "m" => amount,
        "u" => amount / 1_000,
        "n" => amount / 1_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timeouts() {
        assert_eq!(grpc_timeout_ms("40S"), Some(40_000));
        assert_eq!(grpc_timeout_ms("2999828u"), Some(2_999));
        assert_eq!(grpc_timeout_ms("99999999H"), Some(99_999_999 * 3_600_000));
        for bad in ["", "S", "1", "123456789S", "1x", "-1S", "1é"] {
            assert_eq!(grpc_timeout_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn before_zero_is_no_time() {
        assert_eq!(duration_ms(&Duration { seconds: -1, nanos: 0 }), None);
        assert_eq!(duration_ms(&Duration { seconds: 0, nanos: -1_000_000 }), None);
        assert_eq!(timestamp_ms(&Timestamp { seconds: i64::MAX, nanos: 0 }), None);
    }

    proptest! {
        #[test]
        fn milliseconds_survive(ms in 0..i64::MAX as u64) {
            prop_assert_eq!(duration_ms(&duration(ms)), Some(ms));
            prop_assert_eq!(timestamp_ms(&timestamp(ms)), Some(ms));
        }

        #[test]
        fn any_header_never_panics(text in "\\PC{0,12}") {
            let _ = grpc_timeout_ms(&text);
        }
    }
}
