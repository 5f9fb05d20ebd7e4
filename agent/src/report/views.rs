//! Owns the shapes of every answer: plain rows, serialised as JSON by the HTTP API and read back by the command line.
//! Never computes anything. Fields are only ever added; a number that could be read as certainty carries its bound beside it.

use crate::report::times;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Around every answer: which evidence it rests on, and whether any is missing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Envelope<T> {
    /// How far each source had been folded when this was answered.
    pub as_of: Vec<AsOf>,
    /// Whether every source is up and without gaps: only then is "nothing" the same as "none".
    pub complete: bool,
    /// Names of the sources that are down, behind, or have gaps.
    pub sources_behind: Vec<String>,
    /// Upper bound of messages whose fate the evidence does not decide.
    pub undecided_messages: u64,
    /// The answer.
    pub data: T,
}

/// One component of the position vector.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AsOf {
    pub source: String,
    pub incarnation: String,
    pub sequence: u64,
}

/// A page of a longer list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// How many there are in all.
    pub total: u64,
    /// Pass it back as `cursor` for the next page; absent on the last one.
    pub next: Option<String>,
}

/// Which message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    pub broker: String,
    /// Empty when the topic's name is not known.
    pub topic: String,
    /// The creation of the topic, in hexadecimal.
    pub topic_incarnation: String,
    pub queue_id: u32,
    pub queue_offset: u64,
    /// The epoch that stored it; 0: not known.
    pub epoch: u64,
}

/// Where a statement comes from: the frame of a source's journal that says so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct EvidenceView {
    pub source: String,
    pub incarnation: String,
    pub sequence: u64,
    pub text: String,
}

/// One stage of a message's life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Stage {
    /// `sent`, `stored`, `answered`, `flushed`, `delivered`, `filtered`, `acked`, `nacked`, `lease-expired`, `copied`,
    /// `dead-lettered`, `expired`, `lost`.
    pub stage: String,
    /// `yes`, `no`, `not yet`, `unknown`.
    pub reached: String,
    /// Absent when the evidence does not tell (settled history keeps no times).
    #[serde(rename = "at", with = "times::maybe", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at_wall_ms: Option<u64>,
    pub text: String,
    pub evidence: Vec<EvidenceView>,
}

/// What one group did with a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageInGroup {
    pub group: String,
    /// `settled`, `filtered`, `in-flight`, `undelivered`, `undecided`, `dead-lettered`, `moved`, `lost`,
    /// `before-membership`, `not-owed`.
    pub state: String,
    /// The class, when lost.
    pub class: Option<String>,
    pub attempt: Option<u32>,
    #[serde(rename = "lease_until", with = "times::maybe", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub lease_until_wall_ms: Option<u64>,
    pub stages: Vec<Stage>,
}

/// A copy that took over a message's debt, or the message a copy was made of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CopyView {
    pub identity: Identity,
    /// `parent` or `copy`.
    pub relation: String,
    /// `retry`, `dead-letter`, `due`, `commit`, `re-drive`.
    pub reason: String,
    pub group: String,
}

/// The life of one message, and where it broke: the answer to `why`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageTimeline {
    /// What was asked for.
    pub asked: String,
    /// The client's id, where known.
    pub id: String,
    /// Absent when it never reached this broker.
    pub identity: Option<Identity>,
    pub stages: Vec<Stage>,
    pub groups: Vec<MessageInGroup>,
    pub copies: Vec<CopyView>,
    /// Incidents that name it.
    pub incidents: Vec<String>,
    /// The first stage that broke, e.g. `flushed` or `delivered to group orders`; absent when none did.
    pub first_break: Option<String>,
    /// One paragraph for people.
    pub explanation: String,
    /// What the explanation rests on; what would have to be wrong for it to be wrong.
    pub rests_on: Vec<String>,
}

/// One incident in a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LossItem {
    pub incident: String,
    pub class: String,
    /// Whether the class counts as loss (others inform).
    pub loss: bool,
    /// `suspected`, `confirmed`, `withdrawn`, `recovered`, `acknowledged`, `accepted`.
    pub state: String,
    /// Suspected or confirmed: not recovered, withdrawn, acknowledged or accepted.
    pub open: bool,
    pub hop: String,
    pub broker: String,
    pub epoch: u64,
    /// First of the topics concerned; one that clients know, if there is any.
    pub topic: String,
    pub topics: u64,
    /// Their names, at most 16.
    #[serde(default)]
    pub topic_names: Vec<String>,
    pub group: String,
    /// Messages known to be concerned.
    pub messages: u64,
    /// At most this many more, which the evidence cannot name.
    pub undecided_messages: u64,
    #[serde(rename = "first_seen_at", with = "times")]
    #[schema(value_type = String, format = DateTime)]
    pub first_seen_wall_ms: u64,
    #[serde(rename = "confirmed_at", with = "times::maybe", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub confirmed_wall_ms: Option<u64>,
    /// One line: what happened, where, why.
    pub summary: String,
}

/// Offsets of one queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueRangeView {
    pub topic: String,
    pub topic_incarnation: String,
    pub queue_id: u32,
    pub from: u64,
    pub to: u64,
}

/// Why it happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CauseView {
    pub hop: String,
    pub broker: String,
    pub epoch: u64,
    /// The setting that allowed it, e.g. `flushDiskType=ASYNC_FLUSH`; empty when none did.
    pub setting: String,
    /// The event that did it.
    pub event: String,
    /// Who did it, when somebody did.
    pub actor: String,
}

/// A change of an incident's state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct StateChange {
    pub state: String,
    #[serde(rename = "at", with = "times")]
    #[schema(value_type = String, format = DateTime)]
    pub at_wall_ms: u64,
    pub actor: String,
    pub note: String,
}

/// One incident in full.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LossDetail {
    pub item: LossItem,
    pub ranges: Vec<QueueRangeView>,
    /// Client ids, the first of them.
    pub ids: Vec<String>,
    /// How many ids are known in all.
    pub ids_total: u64,
    pub cause: CauseView,
    pub evidence: Vec<EvidenceView>,
    pub history: Vec<StateChange>,
    /// What an operator can do now.
    pub next_steps: Vec<String>,
}

/// Sends as the broker received them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ProducerBookView {
    pub received: u64,
    pub stored: u64,
    pub refused: u64,
    /// Reports of producers whose outcome is still open.
    pub open_reports: u64,
    /// received = stored + refused.
    pub balanced: bool,
}

/// Stored copies.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct StoreBookView {
    pub stored: u64,
    pub flushed: u64,
    pub unflushed: u64,
    pub lost: u64,
    /// stored = flushed + unflushed + lost.
    pub balanced: bool,
}

/// What a group owes of a topic.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct GroupBookView {
    pub owed: u64,
    pub settled: u64,
    /// Of the settled: passed over because the subscription excludes them.
    pub filtered: u64,
    pub in_flight: u64,
    /// Of those in flight: not yet handed to any member.
    pub undelivered: u64,
    pub undecided: u64,
    pub dead_lettered: u64,
    pub moved: u64,
    pub lost: u64,
    pub before_membership: u64,
    /// Of the settled: ended so long ago that it is no longer known whether delivered, filtered, moved or dead-lettered (in
    /// windows only).
    #[serde(default)]
    pub no_longer_known: u64,
    /// owed = settled + in flight + undecided + dead-lettered + moved + lost.
    pub balanced: bool,
}

/// The books of one topic (and, when `group` is not empty, of one group in it).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BalanceRow {
    pub broker: String,
    pub topic: String,
    pub group: String,
    /// `since start of evidence`, or the window really covered, in words.
    pub window: String,
    /// Its begin; absent without a window.
    #[serde(rename = "window_from", with = "times::maybe", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub window_from_wall_ms: Option<u64>,
    /// Its end, exclusive.
    #[serde(rename = "window_to", with = "times::maybe", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub window_to_wall_ms: Option<u64>,
    pub producer: Option<ProducerBookView>,
    pub store: Option<StoreBookView>,
    pub consumer: Option<GroupBookView>,
    pub balanced: bool,
    /// An operator retired the group: what is in flight is owed no more.
    #[serde(default)]
    pub retired: bool,
}

/// Missing evidence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GapRow {
    pub source: String,
    pub incarnation: String,
    /// First and last missing frame.
    pub from_sequence: u64,
    pub to_sequence: u64,
    /// `missing-frames`, `source-retired`, `recovery-window`.
    pub kind: String,
    /// Upper bound of messages it makes undecided.
    pub undecided_messages: u64,
    #[serde(rename = "noted_at", with = "times")]
    #[schema(value_type = String, format = DateTime)]
    pub noted_wall_ms: u64,
    pub text: String,
}

/// A dead letter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DlqRow {
    pub group: String,
    pub identity: Identity,
    pub parent: Identity,
    pub root: Identity,
    #[serde(rename = "arrived_at", with = "times")]
    #[schema(value_type = String, format = DateTime)]
    pub arrived_wall_ms: u64,
    /// `waiting`, `settled` (a subscriber took it), `re-driven`, `expired`.
    pub state: String,
}

/// One topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TopicRow {
    pub broker: String,
    pub topic: String,
    pub topic_incarnation: String,
    pub message_type: String,
    pub queues: u32,
    /// Stored since the evidence began.
    pub stored: u64,
    /// Still in the store.
    pub retained: u64,
    pub unflushed: u64,
    pub expired: u64,
    pub groups: u64,
    /// Messages of open loss incidents.
    pub open_losses: u64,
    pub deleted: bool,
}

/// One group in one topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupTopicRow {
    pub topic: String,
    pub book: GroupBookView,
    /// Stored and neither settled nor passed.
    pub lag: u64,
    /// How long until retention takes the oldest unread message; absent when nothing is unread or it is not known.
    pub retention_margin_seconds: Option<u64>,
    pub open_losses: u64,
    /// Members' subscriptions for this topic differ now.
    pub filter_conflict: bool,
}

/// One consumer group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupRow {
    pub broker: String,
    pub group: String,
    /// `offsets`, `leases`, `broadcasting`, empty while nobody ever joined.
    pub model: String,
    pub members: Vec<String>,
    pub retry_max: u32,
    pub topics: Vec<GroupTopicRow>,
    pub dead_letters: u64,
    #[serde(rename = "oldest_dead_letter_at", with = "times::maybe", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_dead_letter_wall_ms: Option<u64>,
    pub open_losses: u64,
    /// An operator retired it, and nobody has joined since: it owes nothing.
    #[serde(default)]
    pub retired: bool,
}

/// Something that would lose messages, or promises what it cannot keep.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExposureFinding {
    /// Closed set: `async-flush`, `single-copy`, `not-durable-answers`, `one-way-sends`, `near-expiry`, `no-group`,
    /// `filter-conflict`, `broadcast-group`, `dead-letters-waiting`.
    pub finding: String,
    /// `info`, `warning`, `critical`.
    pub severity: String,
    pub broker: String,
    pub topic: String,
    pub group: String,
    pub messages: u64,
    pub setting: String,
    pub text: String,
    /// What would help.
    pub remedy: String,
}

/// What would be lost if the broker died now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ExposureReport {
    /// In the operating system's memory only.
    pub unflushed_messages: u64,
    /// Of those, answered OK: their producers believe them safe.
    pub answered_unflushed_messages: u64,
    /// Answered with less than the promise, and still not on disk, or not with enough replicas.
    pub not_durable_messages: u64,
    /// On the master's disk, and not known to be with enough replicas: a fail-over could take them.
    pub unreplicated_messages: u64,
    /// Could be taken by a power cut without a name.
    pub unnamed_messages_max: u64,
    pub findings: Vec<ExposureFinding>,
}

/// Whether a class of verdict can be decided here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CoverageRow {
    pub class: String,
    pub source: String,
    /// `exact`, `bounded`, `suspected`, `blind`.
    pub level: String,
    /// What it rests on, or what is missing.
    pub why: String,
}

/// One source of evidence.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SourceRow {
    pub source: String,
    /// `broker` or `evidence-log`.
    pub kind: String,
    pub incarnation: String,
    pub epoch: u64,
    /// The last frame folded.
    pub sequence: u64,
    /// The last frame the source said is on its disk.
    pub flushed_sequence: u64,
    pub up: bool,
    pub lag_frames: u64,
    pub lag_seconds: f64,
    /// No gap, up, and not behind.
    pub complete: bool,
    pub gaps: u64,
}
