//! Owns how values come in: query strings, JSON bodies and times, each with a clear problem when wrong. Unknown keys are
//! errors, because a filter that is silently ignored turns "none of these" into a lie.

use crate::http::problem::Problem;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Longest id, key, name or note taken from outside.
pub const TEXT_BYTES_MAX: usize = 1024;

/// A query string.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(params) = Query::try_from_uri(&parts.uri)
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        Ok(Params(params))
    }
}

/// A JSON body.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // Required, so that a web page elsewhere cannot post a form here without the browser asking first.
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if kind.is_none_or(|kind| kind.split(';').next().unwrap_or("").trim() != "application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must be application/json",
            ));
        }
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection: BytesRejection| Problem::new(rejection.status(), rejection.body_text()))?;
        let Json(body) = Json::from_bytes(&bytes).map_err(|rejection: JsonRejection| match rejection {
            JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_) => {
                Problem::bad_request(rejection.body_text())
            }
            other => Problem::new(other.status(), other.body_text()),
        })?;
        Ok(Body(body))
    }
}

/// Refuses text that is empty or too long.
pub fn text<'a>(key: &str, value: &'a str) -> Result<&'a str, Problem> {
    if value.is_empty() || value.len() > TEXT_BYTES_MAX {
        return Err(Problem::bad_request(format!("{key}: must have 1 to {TEXT_BYTES_MAX} bytes")));
    }
    if value.chars().any(char::is_control) {
        return Err(Problem::bad_request(format!("{key}: must not contain control characters")));
    }
    Ok(value)
}

/// A point in time as wall milliseconds: RFC 3339, or seconds since 1970 with an optional fraction.
pub fn wall_ms(key: &str, value: &str) -> Result<u64, Problem> {
    let wrong = || {
        Problem::bad_request(format!(
            "{key}: `{value}` must be RFC 3339 (2026-01-31T12:00:00Z) or seconds since 1970"
        ))
    };
    if let Ok(seconds) = value.parse::<f64>() {
        let ms = seconds * 1000.0;
        // beyond the year 9999, NaN and what is before 1970
        if !(0.0..=253_402_300_799_999.0).contains(&ms) {
            return Err(wrong());
        }
        return Ok(ms.round() as u64);
    }
    let time = OffsetDateTime::parse(value, &Rfc3339).map_err(|_| wrong())?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_rfc_3339_or_seconds() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000", 1_700_000_000_000),
            ("1700000000.25", 1_700_000_000_250),
            ("1970-01-01T00:00:01Z", 1_000),
            ("2026-11-22T21:53:00.123+01:00", 1_795_380_780_123),
        ] {
            assert_eq!(wall_ms("from", text), Ok(ms), "{text}");
        }
        for text in ["", "yesterday", "-1", "nan", "inf", "1e300", "2026-11-22", "1969-12-31T23:59:59Z"] {
            let problem = wall_ms("from", text).unwrap_err();
            assert_eq!(problem.status, 400, "{text}");
            assert!(problem.detail.starts_with("from: "), "{}", problem.detail);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(value in ".{0,40}") {
            drop(wall_ms("from", &value));
            drop(text("id", &value));
        }
    }
}
