//! Committed offsets, and the bounds of queues.

use super::Core;
use crate::api::{Answer, FindOffset, OffsetAt, QueueOfGroup, Refusal, UpdateOffset};
use lifecycle::fact::{ConsumeModel, Fact, MoveReason, StartReason};
use lifecycle::identity::{Name, QueueKey};
use store::error::StoreError;

impl Core {
    pub(super) fn queue_of(&self, topic: &str, queue_id: u32) -> Answer<QueueKey> {
        if self.state.topic(topic).is_none() {
            return Err(Refusal::TopicNotFound(topic.to_owned()));
        }
        let not_found = || Refusal::QueueNotFound { topic: topic.to_owned(), queue_id: i64::from(queue_id) };
        self.state.queue_key(topic, queue_id).ok_or_else(not_found)
    }

    pub(super) fn query_offset(&mut self, asked: QueueOfGroup) -> Answer<u64> {
        let queue = self.queue_of(&asked.topic, asked.queue_id)?;
        let started = self.state.group(&asked.group).and_then(|group| group.queues.get(&queue));
        // a group that was pinned by its heartbeat is answered with its start, so that client and broker agree on it
        started.map(|at| at.position).ok_or(Refusal::OffsetNotFound)
    }

    pub(super) fn update_offset(&mut self, update: UpdateOffset) -> Answer<()> {
        let queue = self.queue_of(&update.queue.topic, update.queue.queue_id)?;
        self.commit(&update.queue.group, queue, update.offset, &update.client)
    }

    /// A group says that everything below `offset` is done.
    pub(super) fn commit(&mut self, group: &Name, queue: QueueKey, offset: u64, client: &Name) -> Answer<()> {
        self.ensure_group(group)?;
        let bounds = self.state.bounds(queue);
        if offset > bounds.max_offset {
            let what = format!("offset {offset} is beyond the queue's end {}", bounds.max_offset);
            return Err(Refusal::BadParameter(what));
        }
        let Some(known) = self.state.group(group) else {
            return Err(Refusal::GroupNotFound(group.to_string()));
        };
        let topic = self.state.topic_of(queue.topic).map(|topic| &*topic.config.name);
        let model = topic.and_then(|topic| known.model_of(topic));
        if model == Some(ConsumeModel::Lease) {
            return Err(Refusal::WrongConsumeModel(group.to_string(), "leases"));
        }
        if model == Some(ConsumeModel::Broadcasting) {
            return Ok(()); // broadcast progress lives in the client; nothing is owed
        }
        let Some(at) = known.queues.get(&queue) else {
            self.start_group(group, queue, offset, StartReason::FirstPull);
            return Ok(());
        };
        if at.position == offset {
            return Ok(());
        }
        if self.stale_offset(group, queue, offset).is_some() {
            let what = format!(
                "offset {offset} was read at a master whose epoch lost: nothing so high was given here"
            );
            return Err(Refusal::BadParameter(what));
        }
        let from = at.position;
        // Anybody may set an offset. A member says what it has done (an old commit arriving late is not a rewind: it is
        // ignored unless it is an operator's); whoever is no member moves the group.
        let is_member = known.members.contains_key(client);
        let handed_out = offset <= at.next;
        let reason = if is_member || (known.members.is_empty() && handed_out && offset > from) {
            MoveReason::Commit
        } else {
            MoveReason::Reset
        };
        // progress says nothing of what is out under a lease, or given back: it ends there, until that is settled or pulled
        let out = at.leases.range(from..offset.max(from)).next().map(|(out, _)| *out);
        let to = out.filter(|_| reason == MoveReason::Commit).unwrap_or(offset);
        if to == from {
            return Ok(());
        }
        self.leases.look_anew(group, queue);
        self.state(Fact::OffsetMoved {
            group: group.clone(),
            queue,
            from,
            to,
            reason,
            actor: client.clone(),
        });
        Ok(())
    }

    pub(super) fn find_offset(&mut self, find: FindOffset) -> Answer<u64> {
        let queue = self.queue_of(&find.topic, find.queue_id)?;
        let bounds = self.state.bounds(queue);
        let readable = self.flush.readable_end(queue, bounds.max_offset);
        let storage = |error: StoreError| Refusal::StorageFailed(error.to_string());
        match find.what {
            OffsetAt::Min => Ok(bounds.min_offset),
            OffsetAt::Max => Ok(readable),
            OffsetAt::Time(at_ms) => {
                self.search_time(queue, at_ms, bounds.min_offset, readable).map_err(storage)
            }
            OffsetAt::EarliestStoreTime if bounds.min_offset >= readable => Ok(u64::MAX),
            OffsetAt::EarliestStoreTime => {
                Ok(self.store_time(queue, bounds.min_offset).map_err(storage)?.unwrap_or(u64::MAX))
            }
        }
    }

    /// First offset stored at or after a time; when all are older, the last one (as RocketMQ answers).
    fn search_time(&mut self, queue: QueueKey, at_ms: u64, min: u64, end: u64) -> Result<u64, StoreError> {
        let (mut low, mut high) = (min, end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.store_time(queue, middle)? {
                Some(time) if time >= at_ms => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(if low >= end { end.saturating_sub(1).max(min) } else { low })
    }

    /// When the message at an offset was stored, ms.
    pub(super) fn store_time(&mut self, queue: QueueKey, offset: u64) -> Result<Option<u64>, StoreError> {
        let Some(record) = self.record_at(queue, offset)? else { return Ok(None) };
        let time =
            wire::message::StoredMessage::decode(&record.record).ok().map(|(m, _)| m.store_timestamp_ms);
        Ok(time.and_then(|time| u64::try_from(time).ok()))
    }

    /// The record at a queue offset; `None` when it is gone or damaged.
    pub(super) fn record_at(
        &mut self,
        queue: QueueKey,
        offset: u64,
    ) -> Result<Option<store::commit_log::LoggedRecord>, StoreError> {
        if offset < self.state.bounds(queue).min_offset {
            return Ok(None);
        }
        let index = self.queue_index(queue)?;
        if offset < self.queues.min_offset(index) {
            return Ok(None);
        }
        match self.queues.get(index, offset)? {
            Some(unit) => self.read_unit(&unit),
            None => Ok(None),
        }
    }

    /// Where the consume queue says that a message is; `None`: it does not say.
    pub(super) fn unit_at(&mut self, queue: QueueKey, offset: u64) -> Option<store::consume_queue::Unit> {
        let index = self.queue_index(queue).ok()?;
        self.queues.get(index, offset).ok().flatten()
    }
}
