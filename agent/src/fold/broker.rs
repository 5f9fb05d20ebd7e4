//! Owns the books of one source: the runs it had, its store side, its groups. One frame at a time, strictly by sequence.
//! Never judges; what may be wrong becomes an event. Called by [`crate::fold::Books`].

mod configuring;
mod consuming;
mod recovery;
mod replicating;
mod scrubbing;
mod storing;

use crate::fold::event::{Event, Span, What};
use crate::fold::group::GroupBooks;
use crate::fold::group_queue::ended::{ENDED_RUNS_MAX, ENDED_RUNS_MIN, ENDED_RUNS_TOTAL};
use crate::fold::group_queue::{Bounds, Change};
use crate::fold::queue::Queue;
use crate::fold::receipts::Receipts;
use crate::fold::recent::RecentNames;
use crate::fold::repeats::Repeats;
use crate::fold::replication::Replication;
use crate::fold::slots::Slots;
use crate::fold::timers::Timers;
use crate::fold::unflushed::UnflushedQueue;
use lifecycle::clock::Now;
use lifecycle::fact::{EpochStarted, Fact, TopicConfigured};
use lifecycle::frame::Frame;
use lifecycle::identity::{
    CopyReason, Incarnation, LogPosition, MessageIdentity, Name, QueueKey, TopicIncarnation,
};
use lifecycle::position::Position;
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Epochs whose settings are remembered.
pub const EPOCHS_MAX: usize = 64;
/// Runs remembered, so that their frames are recognised when they come again.
pub const RUNS_MAX: usize = 1_024;
/// Gaps remembered one by one.
pub const GAPS_MAX: usize = 1_024;
/// Frames above the journal's flushed mark whose messages are counted apart.
pub const ABOVE_FLUSH_MAX: usize = 65_536;

/// Retired groups remembered.
pub const RETIRED_MAX: usize = 10_000;
/// Copies taken by recovery that are followed until they are made again.
pub const MISSING_COPIES_MAX: usize = 65_536;

/// One run of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// Which of the source's runs, in order of appearance.
    pub number: u64,
    /// Everything up to this frame was folded.
    pub applied: u64,
    /// Frames up to this one are on the source's disk.
    pub flushed: u64,
    /// A later run has begun: nothing more will come.
    pub closed: bool,
}

/// Frames nobody will send any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Their run.
    pub incarnation: Incarnation,
    /// First and last missing.
    pub from: u64,
    pub to: u64,
    /// When it was noticed, the source's wall ms.
    pub noted_wall_ms: u64,
}

/// A topic as last configured.
#[derive(Clone, PartialEq, Debug)]
pub struct Topic {
    /// Name, queues, permissions.
    pub configured: TopicConfigured,
    /// Stored since the evidence began, copies included.
    pub stored: u64,
    /// Of those, sent by clients; delayed ones count where they are going to.
    pub produced: u64,
    /// Sends refused.
    pub refused: u64,
    /// How many sends each slot of time began with. In a row of their own.
    pub slots: Slots,
    /// Whether its row is out of date.
    pub dirty: bool,
}

/// Cumulative counts per stage, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Sends of clients: stored + refused.
    pub received: u64,
    /// Sends refused.
    pub refused: u64,
    /// Sends stored: what clients sent, without copies.
    pub produced: u64,
    /// Stored messages, copies included.
    pub stored: u64,
    /// Known to be on disk.
    pub flushed: u64,
    /// Answered.
    pub answered: u64,
    /// Handed to members, again included.
    pub delivered: u64,
    /// Passed over.
    pub filtered: u64,
    /// Acknowledged or committed.
    pub acked: u64,
    /// Retry copies.
    pub retried: u64,
    /// Dead-letter copies.
    pub dead_lettered: u64,
    /// Deleted by retention.
    pub expired: u64,
    /// Debts a forward reset skipped.
    pub skipped: u64,
    /// Dead-letter copies that could not be stored.
    pub dlq_write_failures: u64,
    /// Redeliveries by cause, in the order of [`crate::fold::group_queue::Redelivery`].
    pub redelivered: [u64; 4],
    /// Facts that fit nothing known (a group without a start, members beyond the limit): never silently ignored.
    pub unmatched: u64,
}

/// The store book: stored = flushed + unflushed + lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreBook {
    /// Every stored message the evidence knows of.
    pub stored: u64,
    /// On disk (deleted ones included).
    pub flushed: u64,
    /// Gone after a recovery.
    pub lost: u64,
}

/// What must be written to the ledger again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stale {
    /// A group that was deleted (and perhaps created again since): first of all, its old rows go.
    GroupGone(Name),
    /// A queue a group no longer owes: likewise.
    QueueGone(Name, QueueKey),
    /// A topic.
    Topic(TopicIncarnation),
    /// The queues of a topic, 64 together.
    Queues(TopicIncarnation, u32),
    /// A group's members and numbers.
    Group(Name),
    /// A group's books in the queues of a topic, 64 together.
    GroupQueues(Name, TopicIncarnation, u32),
}

/// Queues that share a ledger row.
pub const QUEUES_PER_ROW: u32 = 64;

/// The books of one source.
#[derive(Clone, Default)]
pub struct BrokerBooks {
    /// The source: a replica group's broker name, or the agent's own evidence log.
    pub name: SourceName,
    /// Its runs.
    pub runs: BTreeMap<Incarnation, Run>,
    /// The run that is being read.
    pub current: Incarnation,
    /// The current epoch's number; 0: none yet.
    pub epoch: u64,
    /// Settings per epoch, oldest first.
    pub epochs: Vec<EpochStarted>,
    /// The clocks of the last frame.
    pub now: Now,
    /// Topics by incarnation.
    pub topics: BTreeMap<TopicIncarnation, Topic>,
    /// Queues.
    pub queues: BTreeMap<QueueKey, Queue>,
    /// What a power cut would take.
    pub unflushed: UnflushedQueue,
    /// Below this lie messages whose storing was not told (before a snapshot, in a gap): whether they are on disk is known once a
    /// flush has reached it.
    pub unheard_to: LogPosition,
    /// Ordinals answered before they were on disk, against the promise; until flushed.
    pub at_risk: Ranges,
    /// What replicas have, and what waits for them.
    pub replication: Replication,
    /// Sends with lower ordinals of this run have been answered.
    pub answered_end: u64,
    /// Groups.
    pub groups: BTreeMap<Name, GroupBooks>,
    /// The schedule.
    pub timers: Timers,
    /// Counts for metrics.
    pub totals: Totals,
    /// How sends were answered.
    pub receipts: Receipts,
    /// The store book.
    pub store: StoreBook,
    /// Missing frames.
    pub gaps: VecDeque<Gap>,
    /// Gaps ever noted.
    pub gap_count: u64,
    /// What may be answered before the journal is flushed again.
    pub reserved_messages: u64,
    /// Upper bound of messages taken by power cuts without a name.
    pub unnamed: u64,
    /// Recoveries that left such messages. The newest few.
    pub unnamed_windows: Vec<UnnamedWindow>,
    /// Messages stored per frame above the journal's flushed mark.
    pub above_flush: VecDeque<(u64, u64)>,
    /// Copies that recovery took and the broker has not made again.
    pub missing_copies: BTreeSet<(Name, MessageIdentity, CopyReason)>,
    pub(in crate::fold) repeats: Repeats,
    pub(in crate::fold) stale: BTreeSet<Stale>,
    pub(in crate::fold) events: Vec<Event>,
    pub(in crate::fold) idle_after_ms: u64,
    /// Name → newest incarnation. Derived, never in a row.
    pub(in crate::fold) names: BTreeMap<Name, TopicIncarnation>,
    /// Groups operators retired, and when. Only in the books of the agent's own evidence.
    pub retired: BTreeMap<Name, u64>,
    recent: RecentNames,
    /// Topics and queues whose slots are out of date in their row.
    pub(in crate::fold) slots_touched: BTreeSet<(TopicIncarnation, Option<u32>)>,
    /// Pairs of group and queue. Derived, never in a row.
    pairs: usize,
    ended_runs_max: usize,
    changes: Vec<Change>,
    at: Position,
    /// The broker's wall clock in the frame before the one being applied.
    heard_wall_ms: u64,
}

/// A recovery that left messages without a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnnamedWindow {
    /// At most so many.
    pub messages: u64,
    /// The epoch that ended.
    pub epoch: u64,
    /// The run that found it.
    pub incarnation: Incarnation,
    /// The broker's wall clock when it was last heard of before: what was stored by then is known.
    pub heard_wall_ms: u64,
    /// The broker's wall clock when it recovered: what was stored later is not of this window.
    pub opened_wall_ms: u64,
}

/// The name of a source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SourceName(pub Name);

impl Default for SourceName {
    fn default() -> Self {
        SourceName("".into())
    }
}

/// What [`BrokerBooks::apply`] did with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// It was next, or a snapshot.
    New,
    /// It had been applied before.
    Duplicate,
    /// It belongs to a run that is over; its facts can no longer be placed.
    TooLate,
}

impl BrokerBooks {
    /// Empty books of a source.
    pub fn new(name: &Name, idle_after_ms: u64) -> Self {
        BrokerBooks {
            name: SourceName(name.clone()),
            idle_after_ms,
            ended_runs_max: ENDED_RUNS_MAX,
            ..Default::default()
        }
    }

    /// Applies one frame.
    pub fn apply(&mut self, position: Position, frame: &Frame) -> Applied {
        let known = self.runs.get(&position.incarnation).copied();
        if let Some(run) = known {
            let again = if frame.snapshot {
                position.sequence < run.applied
            } else {
                position.sequence <= run.applied
            };
            if again {
                return Applied::Duplicate;
            }
            if run.closed {
                return Applied::TooLate;
            }
        }
        self.at = position;
        self.heard_wall_ms = self.now.wall_ms;
        self.now = frame.now;
        if known.is_none() {
            self.begin_run(position, frame.snapshot);
        }
        let applied = self.runs.get(&position.incarnation).map_or(0, |run| run.applied);
        if !frame.snapshot && position.sequence > applied + 1 {
            self.note_gap(position.incarnation, applied + 1, position.sequence - 1);
        }
        if frame.snapshot {
            self.unheard_to = frame.facts.iter().filter_map(log_end).max().unwrap_or_default();
        }
        let stored_before = self.store.stored;
        for fact in &frame.facts {
            self.apply_fact(fact, frame);
        }
        let stored = self.store.stored - stored_before;
        if stored > 0 && !frame.snapshot {
            if self.above_flush.len() >= ABOVE_FLUSH_MAX {
                self.above_flush.pop_front();
            }
            self.above_flush.push_back((position.sequence, stored));
        }
        if let Some(run) = self.runs.get_mut(&position.incarnation) {
            run.applied = run.applied.max(position.sequence);
        }
        Applied::New
    }

    fn begin_run(&mut self, position: Position, snapshot: bool) {
        for run in self.runs.values_mut() {
            run.closed = true;
        }
        let number = self.runs.values().map(|run| run.number + 1).max().unwrap_or(0);
        if self.runs.len() >= RUNS_MAX {
            let oldest = self.runs.iter().min_by_key(|(_, run)| run.number).map(|(key, _)| *key);
            self.runs.retain(|key, _| Some(*key) != oldest);
        }
        // a snapshot stands for everything before it
        let applied = if snapshot { position.sequence } else { 0 };
        self.runs.insert(position.incarnation, Run { number, applied, ..Default::default() });
        self.current = position.incarnation;
        self.answered_end = 0;
    }

    fn note_gap(&mut self, incarnation: Incarnation, from: u64, to: u64) {
        if self.gaps.len() >= GAPS_MAX {
            self.gaps.pop_front();
        }
        self.gap_count += 1;
        self.gaps.push_back(Gap { incarnation, from, to, noted_wall_ms: self.now.wall_ms });
        for queue in self.queues.values_mut() {
            queue.untrusted_below = queue.untrusted_below.max(queue.max);
        }
        let all: Vec<QueueKey> = self.queues.keys().copied().collect();
        for key in all {
            self.queue_changed(key);
        }
        self.doubt_passed();
        self.emit(What::Gap { incarnation, from, to });
    }

    fn apply_fact(&mut self, fact: &Fact, frame: &Frame) {
        match fact {
            Fact::Stored(stored) => self.stored(stored),
            Fact::Flushed { log_position } => self.flushed(*log_position),
            Fact::Answered { from_ordinal, count, class } => self.answered(*from_ordinal, *count, *class),
            Fact::Refused { topic, code, reason, one_way, ids } => {
                self.refused(topic, *code, reason, (*one_way, ids));
            }
            Fact::BrokenOff { ordinal } => self.broken_off(*ordinal),
            Fact::CopyFailed { group, parent, reason, error } => {
                self.copy_failed(group, *parent, *reason, error);
            }
            Fact::JournalFlushed { sequence } => self.journal_flushed(*sequence),
            Fact::Reserved { messages, .. } => self.reserved_messages = *messages,
            Fact::EpochStarted(started) => self.epoch_started(started),
            Fact::Recovered(recovered) => self.recovered(recovered, &member_of(frame)),
            Fact::TopicConfigured(configured) => self.topic_configured(configured),
            Fact::TopicDeleted { topic, .. } => self.topic_deleted(*topic),
            Fact::Expired { queue, from, to, .. } => self.expired(*queue, *from, *to),
            Fact::QueueState { queue, min_offset, max_offset } => {
                self.queue_state(*queue, *min_offset, *max_offset);
            }
            Fact::ReDriven { queue, epoch_number: epoch, ranges } => {
                let span = |(from, to)| Span { queue: *queue, from, to, epoch: *epoch };
                self.emit(What::ReDriven { spans: ranges.iter().map(span).collect() });
            }
            Fact::SentReported(report) => self.emit(What::Sent(report.clone())),
            Fact::OperatorActed { incident, action, actor, note, wall_ms } => self.emit(What::Operator {
                incident: *incident,
                action: *action,
                actor: actor.clone(),
                note: note.clone(),
                wall_ms: *wall_ms,
            }),
            Fact::Replicated { replica, log_position, durable } => {
                self.replicated(replica, *log_position, *durable);
            }
            Fact::Scrubbed(scrubbed) => self.scrubbed(scrubbed),
            Fact::Unreadable { group, queue, ranges } => self.unreadable(group, *queue, ranges),
            Fact::ClockStepped { .. } => {}
            _ => self.apply_group_fact(fact, frame.snapshot),
        }
    }

    /// Notes that frames `from..=to` of a run will never be received, for a reason the numbers do not show.
    pub fn lose_frames(&mut self, incarnation: Incarnation, from: u64, to: u64) {
        let applied = self.runs.get(&incarnation).map_or(0, |run| run.applied);
        let noted =
            self.gaps.iter().any(|gap| (gap.incarnation, gap.from, gap.to) == (incarnation, from, to));
        if noted || to <= applied {
            return;
        }
        self.at = Position { incarnation, sequence: from };
        if !self.runs.contains_key(&incarnation) {
            self.begin_run(self.at, false);
        }
        self.note_gap(incarnation, from, to);
        if let Some(run) = self.runs.get_mut(&incarnation)
            && to < u64::MAX
        {
            run.applied = run.applied.max(to);
        }
    }

    fn journal_flushed(&mut self, sequence: u64) {
        if let Some(run) = self.runs.get_mut(&self.at.incarnation) {
            run.flushed = run.flushed.max(sequence);
        }
        while self.above_flush.front().is_some_and(|(at, _)| *at <= sequence) {
            self.above_flush.pop_front();
        }
    }

    /// The queues of a topic.
    pub fn queues_of(&self, topic: TopicIncarnation) -> impl Iterator<Item = (QueueKey, &Queue)> {
        let from = QueueKey { topic, queue_id: 0 };
        let to = QueueKey { topic, queue_id: u32::MAX };
        self.queues.range(from..=to).map(|(key, queue)| (*key, queue))
    }

    /// The name of a topic; empty when it is not known.
    pub fn topic_name(&self, topic: TopicIncarnation) -> &str {
        self.topics.get(&topic).map_or("", |topic| &topic.configured.name)
    }

    /// The newest incarnation of a topic with this name.
    pub fn topic_named(&self, name: &str) -> Option<TopicIncarnation> {
        self.names.get(name).copied()
    }

    /// Changes the counts of a topic.
    fn count_topic(&mut self, topic: TopicIncarnation, change: impl FnOnce(&mut Topic)) {
        if let Some(found) = self.topics.get_mut(&topic) {
            if found.slots.note(self.now.wall_ms, found.produced) {
                self.slots_touched.insert((topic, None));
            }
            change(found);
            if !found.dirty {
                found.dirty = true;
                self.stale.insert(Stale::Topic(topic));
            }
        }
    }

    /// A setting of an epoch, by its RocketMQ name; empty when not stated.
    pub fn setting(&self, epoch: u64, name: &str) -> &str {
        let started = self.epochs.iter().rev().find(|started| started.epoch.number == epoch);
        started.map_or("", |started| started.setting(name))
    }

    /// The member that was promoted when this epoch had ended; `None` when its master went on, or nobody can say.
    pub fn promoted_after(&self, epoch: u64) -> Option<&str> {
        let place = self.epochs.iter().rposition(|started| started.epoch.number == epoch)?;
        let next = self.epochs.get(place + 1)?.member();
        is_another(self.epochs.get(place)?.member(), next).then_some(next)
    }

    /// Whether nothing more can come at or before this place: it was folded, or its run is over.
    pub fn has_passed(&self, position: Position) -> bool {
        let run = self.runs.get(&position.incarnation);
        run.is_some_and(|run| run.closed || run.applied >= position.sequence)
    }

    fn bounds(queue: &Queue, ended_runs_max: usize, wall_ms: u64) -> Bounds {
        let Queue { min, max, untrusted_below, .. } = *queue;
        Bounds { min, max, untrusted_below, ended_runs_max, wall_ms }
    }

    /// Pairs of group and queue share the memory for how debts ended.
    pub(in crate::fold) fn pairs_changed(&mut self, more: usize, fewer: usize) {
        self.pairs = (self.pairs + more).saturating_sub(fewer);
        let share = ENDED_RUNS_TOTAL / self.pairs.max(1);
        self.ended_runs_max = share.clamp(ENDED_RUNS_MIN, ENDED_RUNS_MAX);
    }

    fn queue_changed(&mut self, key: QueueKey) {
        if let Some(queue) = self.queues.get_mut(&key)
            && !queue.dirty
        {
            queue.dirty = true;
            self.stale.insert(Stale::Queues(key.topic, key.queue_id / QUEUES_PER_ROW));
        }
    }

    fn emit(&mut self, what: What) {
        self.events.push(Event {
            source: self.name.0.clone(),
            at: self.at,
            wall_ms: self.now.wall_ms,
            epoch: self.epoch,
            what,
        });
    }
}

/// The member whose epoch begins in this frame; empty: not stated.
fn member_of(frame: &Frame) -> Name {
    let member = |fact: &Fact| match fact {
        Fact::EpochStarted(started) => Some(started.member().into()),
        _ => None,
    };
    frame.facts.iter().rev().find_map(member).unwrap_or_else(|| "".into())
}

fn log_end(fact: &Fact) -> Option<LogPosition> {
    if let Fact::Stored(stored) = fact { Some(stored.log_end) } else { None }
}

fn is_another(member: &str, next: &str) -> bool {
    !member.is_empty() && !next.is_empty() && member != next
}
