//! Owns everything the broker knows beside the records themselves: topics, queues, groups with their positions and leases,
//! timers. It is a fold of the journal: [`State::apply`] is the only way it changes, so a restart that replays the facts ends
//! where the last run stopped. Never does IO, never reads a clock.

mod dump;
mod groups;
mod recovered;
mod timers;

pub use groups::{Group, GroupQueue, Lease, Member, RETRY_MAX_DEFAULT, WHILE_MEMBER_LIVES};
pub use timers::Timers;

use lifecycle::fact::{EpochStarted, Fact, Stored, StoredKind, StoredRun, TopicConfigured};
use lifecycle::identity::{
    CopyReason, Epoch, Lineage, LogPosition, MessageIdentity, Name, QueueKey, TopicIncarnation,
};
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// RocketMQ's topic of delayed messages: one queue per delay level, and one more for messages with a time of their own.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of a group's dead-letter topic.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";

/// A topic, as configured now.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Its configuration.
    pub config: TopicConfigured,
    /// Queues that were ever used or configured: they stay readable when a topic shrinks.
    pub queue_count: u32,
}

/// A queue's bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueBounds {
    /// Lowest offset kept.
    pub min_offset: u64,
    /// One past the highest offset stored.
    pub max_offset: u64,
}

/// A copy that a power cut could still take: then its parent is due again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UnflushedCopy {
    pub(crate) log_end: LogPosition,
    pub(crate) copy: MessageIdentity,
    pub(crate) group: Name,
    pub(crate) lineage: Lineage,
    pub(crate) due_wall_ms: u64,
}

/// The fold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The epoch in force (number 0 before the first).
    pub epoch: Epoch,
    /// Every epoch, with the first commit-log byte it owns.
    pub epochs: Vec<(Epoch, LogPosition)>,
    /// End of the commit log as the journal knows it.
    pub log_end: LogPosition,
    /// Flushed up to here, as the journal knows it.
    pub flushed: LogPosition,
    /// The last reservation, and what was stored since: bounds what a lost journal tail can hide.
    pub reserved_messages: u64,
    last_topic: TopicIncarnation,
    topics: BTreeMap<TopicIncarnation, Topic>,
    topic_names: HashMap<Name, TopicIncarnation>,
    queues: BTreeMap<QueueKey, QueueBounds>,
    groups: BTreeMap<Name, Group>,
    timers: Timers,
    unflushed_copies: VecDeque<UnflushedCopy>,
    /// What was lost and is stored again: by where it stood, and the epoch that stored it there. Kept as long as the folder, since
    /// the files they came from are.
    re_driven: BTreeMap<(QueueKey, u64), Ranges>,
    /// Retry and dead-letter copies a power cut took: to be made again (group, lineage, due time).
    pub lost_copies: Vec<(Name, Lineage, u64)>,
}

impl State {
    /// Folds one fact. `wall_ms` is its frame's wall time.
    pub fn apply(&mut self, fact: &Fact) {
        match fact {
            Fact::EpochStarted(started) => self.epoch_started(started),
            Fact::Recovered(recovered) => self.recovered(recovered),
            Fact::TopicConfigured(config) => self.topic_configured(config),
            Fact::TopicDeleted { topic, .. } => self.topic_deleted(*topic),
            Fact::Stored(stored) => self.stored(stored),
            Fact::Flushed { log_position } => {
                self.flushed = self.flushed.max(*log_position);
                while self.unflushed_copies.front().is_some_and(|copy| copy.log_end <= *log_position) {
                    self.unflushed_copies.pop_front();
                }
            }
            Fact::Reserved { messages, .. } => self.reserved_messages = *messages,
            Fact::CopyFailed { parent, reason: CopyReason::Due, .. } => {
                self.timers.remove(parent.queue, parent.queue_offset);
            }
            Fact::Expired { queue, from: _, to, .. } => {
                let bounds = self.queues.entry(*queue).or_default();
                bounds.min_offset = bounds.min_offset.max(*to);
                bounds.max_offset = bounds.max_offset.max(*to);
                self.groups.values_mut().for_each(|group| group.expired(*queue, *to));
            }
            Fact::QueueState { queue, min_offset, max_offset } => {
                self.queues.insert(*queue, QueueBounds { min_offset: *min_offset, max_offset: *max_offset });
                self.widen(*queue);
            }
            Fact::GroupDeleted { group, .. } => {
                self.groups.remove(group);
            }
            Fact::ReDriven { queue, epoch_number, ranges } => {
                self.re_driven.entry((*queue, *epoch_number)).or_default().union(ranges);
            }
            _ => self.apply_to_group(fact),
        }
    }

    fn epoch_started(&mut self, started: &EpochStarted) {
        self.epoch = started.epoch;
        if self.epochs.last().is_none_or(|(last, _)| *last != started.epoch) {
            self.epochs.push((started.epoch, started.log_start));
        }
    }

    fn topic_configured(&mut self, config: &TopicConfigured) {
        let queue_count = config.read_queues.max(config.write_queues);
        let known = self.topics.get(&config.topic).map_or(0, |topic| topic.queue_count);
        self.last_topic = self.last_topic.max(config.topic);
        self.topic_names.insert(config.name.clone(), config.topic);
        self.topics
            .insert(config.topic, Topic { config: config.clone(), queue_count: queue_count.max(known) });
    }

    fn topic_deleted(&mut self, topic: TopicIncarnation) {
        if let Some(gone) = self.topics.remove(&topic) {
            self.topic_names.remove(&gone.config.name);
        }
        self.queues.retain(|queue, _| queue.topic != topic);
        self.groups.values_mut().for_each(|group| group.topic_deleted(topic));
    }

    fn stored(&mut self, stored: &Stored) {
        let mut kinds = stored.kinds.iter().flat_map(|(n, kind)| std::iter::repeat_n(kind, *n as usize));
        let only_produced =
            stored.kinds.len() == 1 && matches!(stored.kinds.first(), Some((_, StoredKind::Produced)));
        for run in &stored.runs {
            if only_produced {
                self.message_stored(*run, &StoredKind::Produced, stored.log_end);
                continue;
            }
            for index in 0..run.count {
                let one = StoredRun { queue_offset: run.queue_offset + index, count: 1, queue: run.queue };
                if let Some(kind) = kinds.next() {
                    self.message_stored(one, kind, stored.log_end);
                }
            }
        }
        self.log_end = self.log_end.max(stored.log_end);
    }

    /// Folds messages of one kind in one queue.
    pub(crate) fn message_stored(&mut self, run: StoredRun, kind: &StoredKind, log_end: LogPosition) {
        self.log_end = self.log_end.max(log_end);
        let bounds = self.queues.entry(run.queue).or_default();
        bounds.max_offset = bounds.max_offset.max(run.queue_offset + run.count);
        self.widen(run.queue);
        if !matches!(kind, StoredKind::Produced) {
            self.stored_kind(run, kind, log_end);
        }
    }

    fn stored_kind(&mut self, run: StoredRun, kind: &StoredKind, log_end: LogPosition) {
        match kind {
            StoredKind::Delayed { due_wall_ms, .. } => {
                self.timers.insert(*due_wall_ms, run.queue, run.queue_offset)
            }
            StoredKind::Copy { group, lineage, due_wall_ms } => {
                if *due_wall_ms > 0 {
                    self.timers.insert(*due_wall_ms, run.queue, run.queue_offset);
                }
                self.copy_settles_parent(group, lineage);
                let copy = MessageIdentity {
                    queue: run.queue,
                    queue_offset: run.queue_offset,
                    epoch_number: self.epoch.number,
                };
                self.unflushed_copies.push_back(UnflushedCopy {
                    log_end,
                    copy,
                    group: group.clone(),
                    lineage: *lineage,
                    due_wall_ms: *due_wall_ms,
                });
            }
            StoredKind::Produced | StoredKind::ProducedOneWay | StoredKind::Half => {}
        }
    }

    fn copy_settles_parent(&mut self, group: &Name, lineage: &Lineage) {
        let parent = lineage.parent;
        match lineage.reason {
            CopyReason::Due => self.timers.remove(parent.queue, parent.queue_offset),
            CopyReason::Retry | CopyReason::DeadLetter => {
                let Some(group) = self.groups.get_mut(group) else { return };
                if let Some(queue) = group.queues.get_mut(&parent.queue) {
                    queue.settle_one(parent.queue_offset);
                    if queue.by_leases {
                        queue.raise_floor();
                    }
                }
            }
            CopyReason::Commit => {}
            CopyReason::ReDrive => {
                let ranges = self.re_driven.entry((parent.queue, parent.epoch_number)).or_default();
                ranges.insert(parent.queue_offset, parent.queue_offset + 1);
            }
        }
    }

    /// Whether a message that was lost is stored again.
    pub fn is_re_driven(&self, lost: MessageIdentity) -> bool {
        let ranges = self.re_driven.get(&(lost.queue, lost.epoch_number));
        ranges.is_some_and(|ranges| ranges.contains(lost.queue_offset))
    }

    /// In how many pieces [`Self::is_re_driven`] is kept.
    pub fn re_driven_runs(&self) -> usize {
        self.re_driven.values().map(Ranges::run_count).sum()
    }

    /// A queue number at or above the topic's count makes the topic that wide: it stays readable.
    fn widen(&mut self, queue: QueueKey) {
        if let Some(topic) = self.topics.get_mut(&queue.topic) {
            topic.queue_count = topic.queue_count.max(queue.queue_id + 1);
        }
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.topic_names.get(name)?)
    }

    /// The topic of this incarnation.
    pub fn topic_of(&self, incarnation: TopicIncarnation) -> Option<&Topic> {
        self.topics.get(&incarnation)
    }

    /// All topics, oldest first.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.topics.values()
    }

    /// The queue of a topic by name; `None` when the topic is unknown or not that wide.
    pub fn queue_key(&self, topic: &str, queue_id: u32) -> Option<QueueKey> {
        let topic = self.topic(topic)?;
        (queue_id < topic.queue_count).then_some(QueueKey { topic: topic.config.topic, queue_id })
    }

    /// Bounds of a queue (0, 0 while nothing was stored).
    pub fn bounds(&self, queue: QueueKey) -> QueueBounds {
        self.queues.get(&queue).copied().unwrap_or_default()
    }

    /// All queues that ever held something.
    pub fn queues(&self) -> impl Iterator<Item = (QueueKey, QueueBounds)> + '_ {
        self.queues.iter().map(|(key, bounds)| (*key, *bounds))
    }

    /// A group.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// All groups by name.
    pub fn groups(&self) -> impl Iterator<Item = (&Name, &Group)> {
        self.groups.iter()
    }

    /// Messages waiting for their time.
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// The incarnation of the next topic created in this epoch. Numbers only rise within an epoch, and every start opens a
    /// new one, so none is ever used twice.
    pub fn next_topic(&self) -> TopicIncarnation {
        TopicIncarnation(self.last_topic.max(TopicIncarnation::new(self.epoch.number, 0)).0 + 1)
    }
}

#[cfg(test)]
mod tests;
