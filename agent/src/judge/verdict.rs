//! Owns what a verdict looks like: plain values, the lines of the verdict log and the source of every report. Only ever
//! grows fields. Never decides anything.

use crate::fold::class::Class;
use crate::fold::event::Span;
use lifecycle::identity::{QueueKey, TopicIncarnation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Spans one incident names; when it is full, the next one of the same cause opens.
pub const INCIDENT_SPANS_MAX: usize = 1_024;
/// Client ids one incident names; the rest is counted.
pub const INCIDENT_IDS_MAX: usize = 65_536;
/// Places one incident cites.
pub const INCIDENT_EVIDENCE_MAX: usize = 32;
/// Changes of state one incident remembers; the first and the newest stay.
pub const INCIDENT_HISTORY_MAX: usize = 64;

/// Where a verdict stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictState {
    /// The evidence so far says so; a source has yet to pass its barrier, or a deadline.
    Suspected,
    /// Every source that could change it has passed.
    Confirmed,
    /// Late evidence took it back.
    Withdrawn,
    /// The messages were found, delivered or flushed after all.
    Recovered,
    /// An operator has seen it.
    Acknowledged,
    /// An operator accepted the loss.
    Accepted,
}

impl VerdictState {
    /// Every state.
    pub const ALL: [VerdictState; 6] = [
        VerdictState::Suspected,
        VerdictState::Confirmed,
        VerdictState::Withdrawn,
        VerdictState::Recovered,
        VerdictState::Acknowledged,
        VerdictState::Accepted,
    ];

    /// Its name in metrics and answers.
    pub fn text(self) -> &'static str {
        match self {
            VerdictState::Suspected => "suspected",
            VerdictState::Confirmed => "confirmed",
            VerdictState::Withdrawn => "withdrawn",
            VerdictState::Recovered => "recovered",
            VerdictState::Acknowledged => "acknowledged",
            VerdictState::Accepted => "accepted",
        }
    }

    /// Whether somebody should still look at it.
    pub fn is_open(self) -> bool {
        matches!(self, VerdictState::Suspected | VerdictState::Confirmed)
    }
}

/// Consecutive offsets of one queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct VerdictSpan {
    /// The topic's incarnation.
    pub topic_incarnation: u64,
    /// The queue.
    pub queue_id: u32,
    /// First offset.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// The epoch that stored them; 0: not known.
    pub epoch: u64,
}

impl VerdictSpan {
    /// The queue's key.
    pub fn queue(&self) -> QueueKey {
        QueueKey { topic: TopicIncarnation(self.topic_incarnation), queue_id: self.queue_id }
    }
}

impl From<Span> for VerdictSpan {
    fn from(span: Span) -> Self {
        VerdictSpan {
            topic_incarnation: span.queue.topic.0,
            queue_id: span.queue.queue_id,
            from: span.from,
            to: span.to,
            epoch: span.epoch,
        }
    }
}

/// A place in a source's journal, and what it says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidencePlace {
    /// The source.
    pub source: String,
    /// The run.
    pub incarnation: Uuid,
    /// The frame.
    pub sequence: u64,
    /// What it says.
    pub text: String,
}

/// Why it happened.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cause {
    /// Where on the way: `send`, `store`, `schedule`, `consume`, `retry`, `dead-letter`, `evidence`.
    pub hop: String,
    /// The setting that allowed it, as `name=value`; empty when none did.
    pub setting: String,
    /// The event that did it.
    pub event: String,
    /// Who did it, when somebody did.
    pub actor: String,
}

/// A change of state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// The new state.
    pub state: VerdictState,
    /// When, wall ms.
    pub at_wall_ms: u64,
    /// Who, when somebody did.
    pub actor: String,
    /// Why.
    pub note: String,
}

/// One incident as it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// Its name for ever.
    pub incident: Uuid,
    /// What happened.
    pub class: Class,
    /// Where it stands.
    pub state: VerdictState,
    /// The source whose books it happened in.
    pub broker: String,
    /// The epoch concerned.
    pub epoch: u64,
    /// Topics concerned, by name; the first few.
    pub topics: Vec<String>,
    /// The group concerned; empty: none in particular.
    pub group: String,
    /// What makes it one incident: equal keys are one cause.
    pub key: String,
    /// Offsets concerned.
    pub spans: Vec<VerdictSpan>,
    /// Those that are still lost.
    pub open_spans: Vec<VerdictSpan>,
    /// Where messages without a name may have been; together at most `undecided` of them.
    #[serde(default)]
    pub windows: Vec<VerdictSpan>,
    /// Client ids; the first of them.
    pub ids: Vec<String>,
    /// Those of them whose fate is known now (sends with an unknown outcome).
    #[serde(default)]
    pub resolved_ids: Vec<String>,
    /// How many ids are known.
    pub ids_total: u64,
    /// How many messages.
    pub messages: u64,
    /// How many of them were confirmed and counted.
    pub confirmed_messages: u64,
    /// At most this many more, without a name.
    pub undecided: u64,
    /// Why.
    pub cause: Cause,
    /// Where the evidence is.
    pub evidence: Vec<EvidencePlace>,
    /// When the event happened, by the source's clock.
    pub event_wall_ms: u64,
    /// When it was first suspected.
    pub first_seen_wall_ms: u64,
    /// When it was confirmed; 0: not yet.
    pub confirmed_wall_ms: u64,
    /// Not to be confirmed before the source's clock shows this; 0: at once.
    pub due_wall_ms: u64,
    /// What happened to it.
    pub history: Vec<Turn>,
    /// Members that said, before their copy was needed, that they have all of it: then one copy is gone, and nothing is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recoverable_from: Vec<String>,
}

impl Verdict {
    /// Whether its messages are lost: of a loss at rest, only when no copy is known to survive.
    pub fn is_loss(&self) -> bool {
        self.class.is_loss() && self.recoverable_from.is_empty()
    }

    /// Messages that are still lost.
    pub fn open_messages(&self) -> u64 {
        if !self.state.is_open() {
            return 0;
        }
        if self.spans.is_empty() {
            self.messages.saturating_sub(self.resolved_ids.len() as u64)
        } else {
            self.open_spans.iter().map(|s| s.to - s.from).sum()
        }
    }
}

/// What a step of the judge says: the incident as it stands now. To be persisted before anybody is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerdictEvent {
    /// The incident.
    pub verdict: Verdict,
    /// Whether its state changed (else it grew, shrank, or learned more).
    pub turned: bool,
    /// Messages this step confirmed: what the loss counters go up by.
    pub newly_confirmed: u64,
    /// From the event to the confirmation, when this step confirmed it.
    pub detection_delay_ms: Option<u64>,
}
