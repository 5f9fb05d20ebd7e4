//! Owns what machines ask: metrics and health. Metrics are not served before replay is over: a counter that starts low and
//! catches up would look like an hour of traffic in a second.

use crate::http::Shared;
use crate::http::problem::Problem;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The classic text format, which every Prometheus reads.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/metrics`.
pub async fn metrics(State(door): State<Shared>) -> Result<Response, Problem> {
    door.desk.ready().map_err(Problem::busy)?;
    let observed = door.desk.observed().await?;
    let text = door.metrics.render(&observed).map_err(|error| Problem::busy(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response())
}

/// `/healthz`: the process lives, and the agent in it has not given up. Waiting for replay is no illness.
pub async fn healthz(State(door): State<Shared>) -> Result<&'static str, Problem> {
    door.desk.alive().map_err(Problem::busy)?;
    Ok("ok\n")
}

/// `/readyz`: answers can be believed.
pub async fn readyz(State(door): State<Shared>) -> Result<&'static str, Problem> {
    door.desk.ready().map_err(Problem::busy)?;
    Ok("ready\n")
}
