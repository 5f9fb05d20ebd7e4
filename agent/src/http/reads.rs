//! Owns the questions of `/api/v1`: checks the parameters, asks the desk, cuts the page.

use crate::http::Shared;
use crate::http::desk::{FoundMessage, LossFilter, Scope};
use crate::http::paging::{Keyed, PageRequest};
use crate::http::params::{Params, text, wall_ms};
use crate::http::problem::Problem;
use crate::report::views::{
    BalanceRow, CoverageRow, DlqRow, Envelope, ExposureReport, GapRow, GroupRow, LossDetail, LossItem,
    MessageTimeline, Page, SourceRow, TopicRow,
};
use axum::Json;
use axum::extract::{Path, State};
use lifecycle::identity::Incarnation;
use serde::Deserialize;
use utoipa::IntoParams;

type Asked<T> = Result<Json<Envelope<T>>, Problem>;

/// Cuts the page and keeps the envelope.
fn page<T: Keyed>(request: &PageRequest, envelope: Envelope<Vec<T>>) -> Json<Envelope<Page<T>>> {
    let Envelope { as_of, complete, sources_behind, undecided_messages, data } = envelope;
    Json(Envelope { as_of, complete, sources_behind, undecided_messages, data: request.cut(data) })
}

/// Refuses a filter that is present but unusable.
fn optional(key: &str, value: Option<String>) -> Result<Option<String>, Problem> {
    value.map(|value| text(key, &value).map(str::to_owned)).transpose()
}

/// One message: which stages it reached, in the store and in each group, with evidence, and where it broke. An id nobody
/// has seen is answered too: the answer says what "it never reached this broker" rests on.
#[utoipa::path(get, path = "/api/v1/messages/{id}", tag = "messages",
    params(("id" = String, Path, description = "client id, offset message id, or broker/topic/queue/offset (encoded)")),
    responses((status = 200, body = Envelope<MessageTimeline>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn message(State(door): State<Shared>, Path(id): Path<String>) -> Asked<MessageTimeline> {
    let id = text("id", &id)?.to_owned();
    Ok(Json(door.desk.message(id).await?))
}

/// What to look for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FindParams {
    /// One of the message's keys.
    key: String,
    /// The topic it was sent to.
    topic: String,
    limit: Option<usize>,
    cursor: Option<String>,
}

impl Keyed for FoundMessage {
    fn key(&self) -> String {
        format!(
            "{:020}/{}/{}/{:010}/{:020}",
            self.stored_wall_ms, self.broker, self.topic, self.queue_id, self.queue_offset
        )
    }
}

/// Messages of a topic that carry a key.
#[utoipa::path(get, path = "/api/v1/messages", tag = "messages", params(FindParams),
    responses((status = 200, body = Envelope<Page<FoundMessage>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn find(
    State(door): State<Shared>,
    Params(params): Params<FindParams>,
) -> Asked<Page<FoundMessage>> {
    let request = PageRequest::new(params.limit, params.cursor.as_deref())?;
    let (key, topic) = (text("key", &params.key)?.to_owned(), text("topic", &params.topic)?.to_owned());
    Ok(page(&request, door.desk.find(key, topic).await?))
}

/// Which losses.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LossParams {
    topic: Option<String>,
    group: Option<String>,
    /// The class, e.g. `never-stored`.
    verdict: Option<String>,
    /// `suspected`, `confirmed`, `withdrawn`, `recovered`, `acknowledged` or `accepted`.
    state: Option<String>,
    /// Only open, or only closed incidents.
    open: Option<bool>,
    /// First seen at or after: RFC 3339, or seconds since 1970.
    from: Option<String>,
    /// First seen before.
    to: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// A filter by a word that does not exist would answer "none", and be believed.
fn one_of(key: &str, value: Option<String>, closed: &[&str]) -> Result<Option<String>, Problem> {
    match value {
        Some(value) if !closed.contains(&value.as_str()) => {
            Err(Problem::bad_request(format!("{key}: must be one of {}", closed.join(", "))))
        }
        other => Ok(other),
    }
}

impl LossParams {
    fn filter(self) -> Result<LossFilter, Problem> {
        let time = |key: &str, value: Option<String>| value.map(|value| wall_ms(key, &value)).transpose();
        let filter = LossFilter {
            topic: optional("topic", self.topic)?,
            group: optional("group", self.group)?,
            verdict: one_of("verdict", self.verdict, &crate::metrics::VERDICTS)?,
            state: one_of("state", self.state, &crate::metrics::STATES)?,
            open: self.open,
            from_wall_ms: time("from", self.from)?,
            to_wall_ms: time("to", self.to)?,
        };
        match (filter.from_wall_ms, filter.to_wall_ms) {
            (Some(from), Some(to)) if from >= to => Err(Problem::bad_request("from: must be before `to`")),
            _ => Ok(filter),
        }
    }
}

/// Incidents, oldest first: losses, and verdicts that only inform.
#[utoipa::path(get, path = "/api/v1/losses", tag = "losses", params(LossParams),
    responses((status = 200, body = Envelope<Page<LossItem>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn losses(State(door): State<Shared>, Params(params): Params<LossParams>) -> Asked<Page<LossItem>> {
    let request = PageRequest::new(params.limit, params.cursor.as_deref())?;
    Ok(page(&request, door.desk.losses(params.filter()?).await?))
}

pub(super) fn incident(text: &str) -> Result<Incarnation, Problem> {
    text.parse().map_err(|_| Problem::bad_request("id: must be the uuid of an incident"))
}

pub(super) fn no_incident(id: &str) -> Problem {
    Problem::not_found(format!("no incident has the id {id}"))
}

/// One incident in full: ranges, ids, cause, evidence, history, and what can be done.
#[utoipa::path(get, path = "/api/v1/losses/{id}", tag = "losses", params(("id" = String, Path, description = "incident")),
    responses((status = 200, body = Envelope<LossDetail>), (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn loss(State(door): State<Shared>, Path(id): Path<String>) -> Asked<LossDetail> {
    let found = door.desk.loss(incident(&id)?).await?;
    found.map(Json).ok_or_else(|| no_incident(&id))
}

/// Which books.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BalanceParams {
    topic: Option<String>,
    group: Option<String>,
    /// Stored at or after: RFC 3339, or seconds since 1970. Widened to whole minutes within the last hour or two, else to
    /// whole hours; four days of hours are kept. Each row says the window it covers.
    from: Option<String>,
    /// Stored before; without it: until now.
    to: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

impl BalanceParams {
    fn scope(self) -> Result<Scope, Problem> {
        let time = |key: &str, value: Option<String>| value.map(|value| wall_ms(key, &value)).transpose();
        let (from, to) = (time("from", self.from)?, time("to", self.to)?);
        let window = match (from, to) {
            (None, None) => None,
            (from, to) => Some((from.unwrap_or(0), to.unwrap_or(u64::MAX))),
        };
        if window.is_some_and(|(from, to)| from >= to) {
            return Err(Problem::bad_request("from: must be before `to`"));
        }
        Ok(Scope { topic: optional("topic", self.topic)?, group: optional("group", self.group)?, window })
    }
}

/// The three books (producers, store, groups), per topic and per group in it, and whether they balance; all of it, or what
/// was stored in a window.
#[utoipa::path(get, path = "/api/v1/balance", tag = "books", params(BalanceParams),
    responses((status = 200, body = Envelope<Page<BalanceRow>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn balance(
    State(door): State<Shared>,
    Params(params): Params<BalanceParams>,
) -> Asked<Page<BalanceRow>> {
    let request = PageRequest::new(params.limit, params.cursor.as_deref())?;
    Ok(page(&request, door.desk.balance(params.scope()?).await?))
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Missing evidence, with the bound of what it makes undecided.
#[utoipa::path(get, path = "/api/v1/gaps", tag = "evidence", params(ListParams),
    responses((status = 200, body = Envelope<Page<GapRow>>), (status = 503, body = Problem)))]
pub async fn gaps(State(door): State<Shared>, Params(params): Params<ListParams>) -> Asked<Page<GapRow>> {
    let request = PageRequest::new(params.limit, params.cursor.as_deref())?;
    Ok(page(&request, door.desk.gaps().await?))
}

/// Which dead letters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DlqParams {
    group: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Dead letters, with the message each one was.
#[utoipa::path(get, path = "/api/v1/dlq", tag = "losses", params(DlqParams),
    responses((status = 200, body = Envelope<Page<DlqRow>>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn dlq(State(door): State<Shared>, Params(params): Params<DlqParams>) -> Asked<Page<DlqRow>> {
    let request = PageRequest::new(params.limit, params.cursor.as_deref())?;
    Ok(page(&request, door.desk.dlq(optional("group", params.group)?).await?))
}

/// Topics.
#[utoipa::path(get, path = "/api/v1/topics", tag = "books", params(ListParams),
    responses((status = 200, body = Envelope<Page<TopicRow>>), (status = 503, body = Problem)))]
pub async fn topics(State(door): State<Shared>, Params(params): Params<ListParams>) -> Asked<Page<TopicRow>> {
    let request = PageRequest::new(params.limit, params.cursor.as_deref())?;
    Ok(page(&request, door.desk.topics().await?))
}

/// Consumer groups, with their books per topic.
#[utoipa::path(get, path = "/api/v1/groups", tag = "books", params(ListParams),
    responses((status = 200, body = Envelope<Page<GroupRow>>), (status = 503, body = Problem)))]
pub async fn groups(State(door): State<Shared>, Params(params): Params<ListParams>) -> Asked<Page<GroupRow>> {
    let request = PageRequest::new(params.limit, params.cursor.as_deref())?;
    Ok(page(&request, door.desk.groups().await?))
}

/// What would be lost if the broker died now, and what promises more than it can keep.
#[utoipa::path(get, path = "/api/v1/exposure", tag = "losses",
    responses((status = 200, body = Envelope<ExposureReport>), (status = 503, body = Problem)))]
pub async fn exposure(State(door): State<Shared>) -> Asked<ExposureReport> {
    Ok(Json(door.desk.exposure().await?))
}

/// Which classes of verdict can be decided here: exact, bounded, suspected, blind.
#[utoipa::path(get, path = "/api/v1/coverage", tag = "evidence",
    responses((status = 200, body = Envelope<Vec<CoverageRow>>), (status = 503, body = Problem)))]
pub async fn coverage(State(door): State<Shared>) -> Asked<Vec<CoverageRow>> {
    Ok(Json(door.desk.coverage().await?))
}

/// Sources of facts: position, lag, completeness.
#[utoipa::path(get, path = "/api/v1/sources", tag = "evidence",
    responses((status = 200, body = Envelope<Vec<SourceRow>>), (status = 503, body = Problem)))]
pub async fn sources(State(door): State<Shared>) -> Asked<Vec<SourceRow>> {
    Ok(Json(door.desk.sources().await?))
}
