//! Owns what the agent is told over HTTP: producers' reports and operators' decisions. Answers 2xx only after the evidence
//! log has it on disk.

use crate::http::Shared;
use crate::http::desk::{Decision, Retired};
use crate::http::params::{Body, text, wall_ms};
use crate::http::problem::Problem;
use crate::http::reads::{incident, no_incident};
use crate::report::views::{Envelope, GroupRow, LossDetail};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use lifecycle::fact::{OperatorAction, SendOutcome, SentReported};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most reports in one request.
pub const REPORTS_MAX: usize = 1_000;

/// Who decides, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionBody {
    /// Name of the person; a decision without a name is refused.
    operator: String,
    #[serde(default)]
    note: String,
}

async fn decide(
    door: Shared,
    id: String,
    action: OperatorAction,
    body: DecisionBody,
) -> Result<Json<Envelope<LossDetail>>, Problem> {
    let incident = incident(&id)?;
    let operator = text("operator", body.operator.trim())?.to_owned();
    if !body.note.is_empty() {
        text("note", &body.note)?;
    }
    let decision = Decision { incident, action, operator, note: body.note };
    door.desk.decide(decision).await?.map(Json).ok_or_else(|| no_incident(&id))
}

/// Somebody has taken the incident in hand: it pages no more, and stays in the books.
#[utoipa::path(post, path = "/api/v1/losses/{id}/acknowledge", tag = "losses", request_body = DecisionBody,
    params(("id" = String, Path, description = "incident")),
    responses((status = 200, body = Envelope<LossDetail>), (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn acknowledge(
    State(door): State<Shared>,
    Path(id): Path<String>,
    Body(body): Body<DecisionBody>,
) -> Result<Json<Envelope<LossDetail>>, Problem> {
    decide(door, id, OperatorAction::Acknowledge, body).await
}

/// The loss is accepted for good.
#[utoipa::path(post, path = "/api/v1/losses/{id}/accept", tag = "losses", request_body = DecisionBody,
    params(("id" = String, Path, description = "incident")),
    responses((status = 200, body = Envelope<LossDetail>), (status = 400, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn accept(
    State(door): State<Shared>,
    Path(id): Path<String>,
    Body(body): Body<DecisionBody>,
) -> Result<Json<Envelope<LossDetail>>, Problem> {
    decide(door, id, OperatorAction::Accept, body).await
}

/// Who retires a group.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetireBody {
    /// Name of the person; without a name it is refused.
    operator: String,
}

/// The group owes nothing any more, from now until a member joins it again. Its earlier incidents stay.
#[utoipa::path(post, path = "/api/v1/groups/{group}/retire", tag = "books", request_body = RetireBody,
    params(("group" = String, Path, description = "consumer group without members")),
    responses((status = 200, body = Envelope<Vec<GroupRow>>), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn retire(
    State(door): State<Shared>,
    Path(group): Path<String>,
    Body(body): Body<RetireBody>,
) -> Result<Json<Envelope<Vec<GroupRow>>>, Problem> {
    let group = text("group", &group)?.to_owned();
    let operator = text("operator", body.operator.trim())?.to_owned();
    match door.desk.retire(group.clone(), operator).await? {
        Retired::Done(rows) => Ok(Json(rows)),
        Retired::Unknown => Err(Problem::not_found(format!("no group is named {group}"))),
        Retired::InUse => {
            Err(Problem::new(StatusCode::CONFLICT, format!("group {group} has members: it is in use")))
        }
    }
}

/// What a producer knows of its sends.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SentBody {
    /// At most 1,000, one per attempt.
    sent: Vec<SentItem>,
}

/// What a producer knows of one attempt to send.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SentItem {
    /// The message's client id.
    id: String,
    topic: String,
    /// `ok`, `refused`, `unknown` (no answer), or `not-durable` (stored, but flush or replica late).
    outcome: String,
    /// Name of the broker that answered.
    #[serde(default)]
    broker: String,
    /// Queue of the answer.
    queue_id: Option<u32>,
    /// Offset of the answer.
    queue_offset: Option<u64>,
    /// When it was sent: RFC 3339, or seconds since 1970. Without an offset only this tells whether a power cut can have taken
    /// the message, or it was never stored.
    sent_at: Option<String>,
}

/// Reports that were taken.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct SentTaken {
    pub accepted: u64,
}

impl SentBody {
    /// All reports, or what is wrong with the first that is.
    fn reports(&self, reported_wall_ms: u64) -> Result<Vec<SentReported>, Problem> {
        if self.sent.is_empty() {
            return Err(Problem::bad_request("sent: must have at least one report"));
        }
        if self.sent.len() > REPORTS_MAX {
            let detail = format!("sent: at most {REPORTS_MAX} reports in one request");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        let items = self.sent.iter().enumerate();
        items.map(|(index, item)| item.report(index, reported_wall_ms)).collect()
    }
}

/// The reports in a body, as the door reads it: for whoever checks that no bytes panic.
#[doc(hidden)]
pub fn read_reports(body: &[u8], reported_wall_ms: u64) -> Option<Vec<SentReported>> {
    serde_json::from_slice::<SentBody>(body).ok()?.reports(reported_wall_ms).ok()
}

impl SentItem {
    fn report(&self, index: usize, reported_wall_ms: u64) -> Result<SentReported, Problem> {
        let key = |field: &str| format!("sent[{index}].{field}");
        let outcome = match self.outcome.as_str() {
            "ok" => SendOutcome::Ok,
            "refused" => SendOutcome::Refused,
            "unknown" => SendOutcome::Unknown,
            "not-durable" => SendOutcome::NotDurable,
            _ => {
                let expected = "must be ok, refused, unknown or not-durable";
                return Err(Problem::bad_request(format!("{}: {expected}", key("outcome"))));
            }
        };
        if !self.broker.is_empty() {
            text(&key("broker"), &self.broker)?;
        }
        if self.queue_offset.is_some() && self.queue_id.is_none() {
            return Err(Problem::bad_request(format!("{}: an offset needs its queue", key("queue_id"))));
        }
        let sent = self.sent_at.as_deref().map(|value| wall_ms(&key("sent_at"), value)).transpose()?;
        Ok(SentReported {
            id: text(&key("id"), &self.id)?.into(),
            topic: text(&key("topic"), &self.topic)?.into(),
            outcome,
            broker: self.broker.as_str().into(),
            queue_id: self.queue_id,
            queue_offset: self.queue_offset,
            sent_wall_ms: sent.unwrap_or(0),
            reported_wall_ms,
        })
    }
}

/// A producer says what it knows of its sends. All reports are taken, or none; sending the same ones again does no harm.
#[utoipa::path(post, path = "/api/v1/sent", tag = "evidence", request_body = SentBody,
    responses((status = 200, body = Envelope<SentTaken>), (status = 400, body = Problem), (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn sent(
    State(door): State<Shared>,
    Body(body): Body<SentBody>,
) -> Result<Json<Envelope<SentTaken>>, Problem> {
    let reports = body.reports(door.desk.wall_ms())?;
    let accepted = reports.len() as u64;
    let Envelope { as_of, complete, sources_behind, undecided_messages, data: () } =
        door.desk.sent(reports).await?;
    let data = SentTaken { accepted };
    Ok(Json(Envelope { as_of, complete, sources_behind, undecided_messages, data }))
}
