//! Reads the log once and makes consume queues and key index agree with it: finds each queue's end, what is missing from it, and what
//! the journal lacks.

use super::Ends;
use crate::core::Core;
use crate::core::append::{index_keys, tag_hash};
use crate::core::topics::queue_index;
use crate::state::{SCHEDULE_TOPIC, State};
use lifecycle::identity::{LogPosition, Name, QueueKey, TopicIncarnation};
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;
use store::commit_log::{LoggedRecord, ScanReport};
use store::consume_queue::{ConsumeQueues, Unit};
use store::error::{Result as StoreResult, StoreError};
use store::index::KeyIndex;
use wire::message::StoredMessage;
use wire::properties;

impl Core {
    /// Reads a replica's log, and dispatches what the journal speaks of.
    pub(in crate::core) fn scan_copied(
        &mut self,
        to: LogPosition,
        flushed: LogPosition,
    ) -> StoreResult<Found> {
        self.scan_log(Ends::new(), (LogPosition(0), to), flushed)
    }

    /// Reads the log once: finds each queue's end, dispatches, and collects what the journal lacks.
    pub(super) fn scan_log(
        &mut self,
        base: Ends,
        (queues_from, to): (LogPosition, LogPosition),
        flushed: LogPosition,
    ) -> StoreResult<Found> {
        let from = queues_from.min(self.index_from).max(self.log.start());
        let all_kept = self.log.start() <= queues_from;
        let mut dispatch = Dispatch {
            state: &self.state,
            queues: &mut self.queues,
            index: &mut self.index,
            index_from: self.index_from,
            queues_from,
            all_kept,
            found: Found { ends: base, ..Default::default() },
        };
        let mut failed: Option<StoreError> = None;
        let report = self.log.scan(from, flushed, |logged| {
            if failed.is_none() && logged.commitlog_offset < to {
                failed = dispatch.record(logged).err();
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut found = dispatch.found;
        self.index.advance(report.end.min(to).0.max(self.index.indexed_to()));
        found.scan = report;
        Ok(found)
    }
}

/// What the log holds.
#[derive(Default)]
pub(in crate::core) struct Found {
    pub(super) ends: Ends,
    pub(in crate::core) bad: BTreeMap<QueueKey, Ranges>,
    /// Topics the journal does not know, and at least how many queues they have.
    pub(super) topics: BTreeMap<TopicIncarnation, (Name, u32)>,
    pub(super) again: Vec<Again>,
    pub(in crate::core) scan: ScanReport,
}

/// The parts of the core that a record of the log is dispatched through while the log is being read.
struct Dispatch<'a> {
    state: &'a State,
    queues: &'a mut ConsumeQueues,
    index: &'a mut KeyIndex,
    index_from: LogPosition,
    queues_from: LogPosition,
    /// Retention took nothing of what the snapshot does not vouch for.
    all_kept: bool,
    found: Found,
}

impl Dispatch<'_> {
    fn record(&mut self, logged: LoggedRecord) -> StoreResult<()> {
        let Ok((message, len)) = StoredMessage::decode(&logged.record) else { return Ok(()) };
        if logged.commitlog_offset >= self.index_from {
            for key in index_keys(message.topic, message.properties.known()) {
                self.index.insert(key, logged.commitlog_offset.0);
            }
            self.index.advance(logged.commitlog_offset.0 + len as u64);
            if let Some(job) = self.index.seal_job(self.state.flushed.0, false) {
                let run = job.run()?;
                self.index.install(run)?;
            }
        }
        if logged.commitlog_offset < self.queues_from {
            return Ok(());
        }
        let queue = QueueKey { topic: logged.topic, queue_id: message.queue_id as u32 };
        let offset = message.queue_offset;
        let first = !self.found.ends.contains_key(&queue);
        // a queue the snapshot does not know began behind it: what is missing before its first good record was spoilt,
        // unless retention can have taken it
        let begin = if self.all_kept { self.state.bounds(queue).min_offset.min(offset) } else { offset };
        let end = self.found.ends.entry(queue).or_insert(begin);
        if offset < *end {
            return Ok(());
        }
        let gap = *end..offset;
        *end = offset + 1;
        let known = self.state.topic_of(queue.topic).map(|topic| topic.config.name.clone());
        // a deleted topic's records lie where the journal knows the log
        if known.is_none() && logged.commitlog_offset >= self.state.log_end {
            let (_, queues) = self.found.topics.entry(queue.topic).or_insert((message.topic.into(), 0));
            *queues = (*queues).max(queue.queue_id + 1);
        }
        let made = self.found.topics.get(&queue.topic).map(|(name, _)| name);
        let index = queue_index(known.as_ref().or(made).map(|name| &**name), self.queues, queue)?;
        if first && self.queues.max_offset(index) == 0 && gap.start > 0 {
            self.queues.reset_to(index, gap.start)?;
        }
        if !gap.is_empty() {
            self.found.bad.entry(queue).or_default().insert(gap.start, gap.end);
        }
        for damaged in gap {
            // keeps its place in the queue, and names no record
            let unit = Unit { commitlog_offset: logged.commitlog_offset.0 - 1, size: 1, tag_hash: 0 };
            self.queues.append(index, damaged, unit)?;
        }
        let waits = known.as_ref().or(made).is_some_and(|name| name.as_ref() == SCHEDULE_TOPIC);
        let tag_hash = if waits { due_of(&message) as i64 } else { tag_hash(message.properties.known()) };
        let unit = Unit { commitlog_offset: logged.commitlog_offset.0, size: len as u32, tag_hash };
        self.queues.append(index, offset, unit)?;
        if offset >= self.state.bounds(queue).max_offset {
            self.found.again.push(Again { queue, logged });
        }
        Ok(())
    }
}

/// A record that the journal does not know.
pub(super) struct Again {
    pub(super) queue: QueueKey,
    pub(super) logged: LoggedRecord,
}

/// When a waiting message of the schedule topic is due; what does not say so is due at once.
pub(in crate::core) fn due_of(message: &StoredMessage<'_>) -> u64 {
    let stated = message.properties.get(properties::TIMER_OUT_MS).and_then(|at| at.parse().ok());
    stated.unwrap_or(message.store_timestamp_ms.max(1) as u64)
}
