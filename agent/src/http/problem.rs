//! Owns how an error looks from outside: `application/problem+json` (RFC 9457), with a detail that says what to change.

use crate::run::AgentError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong. `type` is `about:blank`: the status says the kind, the detail says the rest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Kind of problem, a URI.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What exactly, and what would be right.
    pub detail: String,
}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// The request is wrong.
    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// The same request works later.
    pub fn busy(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(super) fn no_route(path: &str) -> Problem {
        Problem::not_found(format!("nothing is at {path}; see /api/v1/openapi.json"))
    }

    pub(super) fn method_not_allowed() -> Problem {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "this path takes another method; see /api/v1/openapi.json",
        )
    }

    pub(super) fn body_too_large(max: usize) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {max} bytes"))
    }

    pub(super) fn uri_too_long(max: usize) -> Problem {
        Problem::new(StatusCode::URI_TOO_LONG, format!("path and query may have {max} bytes"))
    }
}

impl From<AgentError> for Problem {
    fn from(error: AgentError) -> Problem {
        let status = match &error {
            AgentError::TooMany => StatusCode::PAYLOAD_TOO_LARGE,
            AgentError::UnknownSource(_) => StatusCode::NOT_FOUND,
            AgentError::Busy
            | AgentError::Stopped
            | AgentError::Late
            | AgentError::NotDurable(_)
            | AgentError::Source(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
