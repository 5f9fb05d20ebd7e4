//! Owns the questions the routes ask: what there is to know about messages, as one trait, so that the routes can be tested
//! without an agent. Implemented by [`agent_desk`](super::agent_desk) over the running agent.

use crate::http::problem::Problem;
use crate::metrics::observed::Observed;
use crate::report::times;
use crate::report::views::{
    BalanceRow, CoverageRow, DlqRow, Envelope, ExposureReport, GapRow, GroupRow, LossDetail, LossItem,
    MessageTimeline, SourceRow, TopicRow,
};
use lifecycle::fact::{OperatorAction, SentReported};
use lifecycle::identity::Incarnation;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::pin::Pin;
use utoipa::ToSchema;

/// An answer that comes later, or why there is none.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Problem>> + Send + 'a>>;

/// Which losses; an empty field matches everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LossFilter {
    pub topic: Option<String>,
    pub group: Option<String>,
    /// The class.
    pub verdict: Option<String>,
    pub state: Option<String>,
    /// Only open ones, or only closed ones.
    pub open: Option<bool>,
    /// First seen at or after, wall ms.
    pub from_wall_ms: Option<u64>,
    /// First seen before, wall ms.
    pub to_wall_ms: Option<u64>,
}

impl LossFilter {
    /// Whether an incident is wanted.
    pub fn matches(&self, item: &LossItem) -> bool {
        let same =
            |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        let topic = |wanted: &String| *wanted == item.topic || item.topic_names.contains(wanted);
        self.topic.as_ref().is_none_or(topic)
            && same(&self.group, &item.group)
            && same(&self.verdict, &item.class)
            && same(&self.state, &item.state)
            && self.open.is_none_or(|open| open == item.open)
            && self.from_wall_ms.is_none_or(|from| item.first_seen_wall_ms >= from)
            && self.to_wall_ms.is_none_or(|to| item.first_seen_wall_ms < to)
    }
}

/// Which topics and groups, and which time; an empty field matches everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    pub topic: Option<String>,
    pub group: Option<String>,
    /// Stored from..to, wall ms; `None`: since the start of evidence.
    pub window: Option<(u64, u64)>,
}

/// What became of a wish to retire a group.
#[derive(Clone, PartialEq, Debug)]
pub enum Retired {
    /// Done, and durable; the group at every broker.
    Done(Envelope<Vec<GroupRow>>),
    /// No broker has a group of this name.
    Unknown,
    /// It has members: it is in use.
    InUse,
}

/// A message found by one of its keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FoundMessage {
    /// The client's id; empty when it has none.
    pub id: String,
    pub broker: String,
    pub topic: String,
    pub queue_id: u32,
    pub queue_offset: u64,
    pub keys: String,
    pub tags: String,
    #[serde(rename = "stored_at", with = "times")]
    #[schema(value_type = String, format = DateTime)]
    pub stored_wall_ms: u64,
}

/// What an operator decided, and who.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub incident: Incarnation,
    pub action: OperatorAction,
    pub operator: String,
    pub note: String,
}

/// Who answers the routes.
pub trait Desk: Send + Sync + 'static {
    /// `Err` says why the agent has stopped by itself.
    fn alive(&self) -> Result<(), String>;
    /// `Err` says what is still waited for.
    fn ready(&self) -> Result<(), String>;
    /// Everything the metrics show, now.
    fn observed(&self) -> Answer<'_, Observed>;
    /// The life of one message, by client id, offset id, or `broker/topic/queue/offset`.
    fn message(&self, id: String) -> Answer<'_, Envelope<MessageTimeline>>;
    /// Messages of a topic that carry a key.
    fn find(&self, key: String, topic: String) -> Answer<'_, Envelope<Vec<FoundMessage>>>;
    /// Incidents.
    fn losses(&self, filter: LossFilter) -> Answer<'_, Envelope<Vec<LossItem>>>;
    /// One incident; `None`: there is none with this id.
    fn loss(&self, incident: Incarnation) -> Answer<'_, Option<Envelope<LossDetail>>>;
    /// Takes a decision: durable at return. Answers with the incident after it.
    fn decide(&self, decision: Decision) -> Answer<'_, Option<Envelope<LossDetail>>>;
    /// The books.
    fn balance(&self, scope: Scope) -> Answer<'_, Envelope<Vec<BalanceRow>>>;
    /// Missing evidence.
    fn gaps(&self) -> Answer<'_, Envelope<Vec<GapRow>>>;
    /// Dead letters, of one group or all.
    fn dlq(&self, group: Option<String>) -> Answer<'_, Envelope<Vec<DlqRow>>>;
    /// Topics.
    fn topics(&self) -> Answer<'_, Envelope<Vec<TopicRow>>>;
    /// Consumer groups.
    fn groups(&self) -> Answer<'_, Envelope<Vec<GroupRow>>>;
    /// An operator declares that a group owes nothing any more: durable at return.
    fn retire(&self, group: String, operator: String) -> Answer<'_, Retired>;
    /// What would be lost now.
    fn exposure(&self) -> Answer<'_, Envelope<ExposureReport>>;
    /// What can be decided at all.
    fn coverage(&self) -> Answer<'_, Envelope<Vec<CoverageRow>>>;
    /// Where the facts come from.
    fn sources(&self) -> Answer<'_, Envelope<Vec<SourceRow>>>;
    /// Takes producers' reports: durable at return.
    fn sent(&self, reports: Vec<SentReported>) -> Answer<'_, Envelope<()>>;
    /// The wall clock, ms.
    fn wall_ms(&self) -> u64;
}
