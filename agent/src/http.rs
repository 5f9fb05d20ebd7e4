//! Owns the agent's HTTP door: routes, their limits, and how questions and errors look from outside. Never computes an
//! answer: it asks a [`Desk`]. Started by the binary; used by people, programs, Prometheus and the command line.
//!
//! Every answer of `/api/v1` is an envelope that says what it rests on; every error is a problem (RFC 9457). There is no
//! authentication, so it listens on loopback unless configured otherwise.

pub mod agent_desk;
pub mod desk;
pub mod paging;
pub mod params;
pub mod plain;
pub mod problem;
pub mod reads;
pub mod topic_metrics;
pub mod writes;

use crate::http::desk::Desk;
use crate::http::problem::Problem;
use crate::metrics::Metrics;
use axum::body::{Body, BodyDataStream};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::BytesMut;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt as _;
use tracing::Instrument;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Largest body of a request.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// So much of a body that is too large is still read, and for so long: a client that writes on while the connection closes sees it
/// break, and not the answer.
const DISCARDED_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
const DISCARDING_MAX: Duration = Duration::from_secs(5);
/// Requests being answered at the same time; more are told to come back.
pub const REQUESTS_MAX: usize = 256;
/// Longest path and query.
pub const URI_BYTES_MAX: usize = 8 << 10;

/// What every route sees.
pub struct Door {
    /// Who answers.
    pub desk: Arc<dyn Desk>,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    room: Semaphore,
}

/// The state of the routes.
pub type Shared = Arc<Door>;

#[derive(OpenApi)]
#[openapi(info(
    title = "Losstrace",
    description = "Was anything lost, which message, at which stage, and why. Every answer says what it rests on.",
    license(name = "Apache-2.0")
))]
struct Described;

/// All routes, and their description.
fn described() -> (Router<Shared>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(reads::message))
        .routes(routes!(reads::find))
        .routes(routes!(reads::losses))
        .routes(routes!(reads::loss))
        .routes(routes!(writes::acknowledge))
        .routes(routes!(writes::accept))
        .routes(routes!(reads::balance))
        .routes(routes!(reads::gaps))
        .routes(routes!(reads::dlq))
        .routes(routes!(reads::topics))
        .routes(routes!(reads::groups))
        .routes(routes!(writes::retire))
        .routes(routes!(reads::exposure))
        .routes(routes!(reads::coverage))
        .routes(routes!(reads::sources))
        .routes(routes!(writes::sent))
        .split_for_parts()
}

/// The description of the API, as `/api/v1/openapi.json` serves it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().1
}

/// The router over a desk.
pub fn router(desk: Arc<dyn Desk>, metrics: Arc<Metrics>) -> Router {
    let (routes, description) = described();
    let door = Arc::new(Door { desk, metrics, room: Semaphore::new(REQUESTS_MAX) });
    let description = Arc::new(description);
    routes
        .route("/api/v1/openapi.json", get(move || async move { Json(description.as_ref().clone()) }))
        .route("/metrics", get(plain::metrics))
        .route("/metrics/topics", get(topic_metrics::metrics))
        .route("/healthz", get(plain::healthz))
        .route("/readyz", get(plain::readyz))
        .route("/-/healthy", get(plain::healthz))
        .route("/-/ready", get(plain::readyz))
        .fallback(|request: Request| async move { Problem::no_route(request.uri().path()) })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        // the only limit is ours: axum's own is lower, and closes on who still writes
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(whole_body))
        .layer(middleware::from_fn_with_state(door.clone(), guard))
        .with_state(door)
}

/// Serves until `stop` completes, then lets running answers finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

/// Limits for every route, and headers for every answer.
async fn guard(State(door): State<Shared>, request: Request, next: Next) -> Response {
    let length = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let mut response = if length > URI_BYTES_MAX {
        Problem::uri_too_long(URI_BYTES_MAX).into_response()
    } else {
        // Health must answer even when everything else is busy.
        let is_health = matches!(request.uri().path(), "/healthz" | "/readyz" | "/-/healthy" | "/-/ready");
        match door.room.try_acquire() {
            Ok(_permit) if request.uri().path().starts_with("/api/") => {
                let span =
                    tracing::info_span!("request", method = %request.method(), path = request.uri().path());
                next.run(request).instrument(span).await
            }
            Ok(_permit) => next.run(request).await,
            Err(_) if is_health => next.run(request).await,
            Err(_) => Problem::busy("too many requests at the same time").into_response(),
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

/// Reads the body before anything looks at it; one that is too large is refused when its client has written it.
async fn whole_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut chunks = body.into_data_stream();
    let mut read = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) if read.len() + chunk.len() > BODY_BYTES_MAX => {
                drop(tokio::time::timeout(DISCARDING_MAX, discard(chunks)).await);
                return Problem::body_too_large(BODY_BYTES_MAX).into_response();
            }
            Ok(chunk) => read.extend_from_slice(&chunk),
            Err(error) => {
                return Problem::bad_request(format!("the body cannot be read: {error}")).into_response();
            }
        }
    }
    let request = Request::from_parts(parts, Body::from(read.freeze()));
    next.run(request).await
}

async fn discard(mut chunks: BodyDataStream) {
    let mut discarded = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        discarded += chunk.len();
        if discarded > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
