//! Copies of stored messages: a consumer sends one back for a later retry, or it is dead. A copy carries its lineage, is as durable
//! as any message, and the one who asked hears of success only after it is stored.

use super::Core;
use super::append::{NewRecord, lineage_of};
use super::send::set;
use super::topics::PERM_READ_WRITE;
use crate::api::{Answer, Refusal, ReplyFn, SendBack};
use crate::state::{RETRY_PREFIX, Topic};
use lifecycle::clock::Now;
use lifecycle::fact::{Fact, StoredKind};
use lifecycle::identity::{CopyReason, Lineage, LogPosition, MessageIdentity, Name, QueueKey};
use store::commit_log::LoggedRecord;
use wire::message::StoredMessage;
use wire::properties::{self, PropertiesBuf};

/// The delay level of a first retry (RocketMQ: 3, 10 s).
const FIRST_RETRY_LEVEL: i32 = 3;

/// A copy to be stored.
pub(super) struct Copy {
    pub(super) group: Name,
    pub(super) lineage: Lineage,
    pub(super) logged: LoggedRecord,
    pub(super) topic: Topic,
    pub(super) queue_id: u32,
    pub(super) properties: PropertiesBuf,
    pub(super) reconsume_times: i32,
    /// Wait for this wall time first (0: at once), under this delay level.
    pub(super) due: (u64, usize),
}

impl Core {
    pub(super) fn send_back(&mut self, now: Now, back: SendBack, reply: ReplyFn<Answer<()>>) {
        let source = self.source_of(LogPosition(back.commitlog_offset));
        let Some((logged, identity)) = source else {
            // The client now sends the body to its retry topic by itself, or gives up: the agent watches which.
            let refusal = Refusal::MessageNotFound;
            return self.answer(reply, Err(Refusal::StorageFailed(refusal.to_string())));
        };
        let outcome = self.prepare_send_back(now, &back, logged, identity);
        let first = self.pending_count();
        let (group, reason) = match &outcome {
            Ok(copy) => (copy.group.clone(), copy.lineage.reason),
            Err(_) => (back.group.clone(), CopyReason::Retry),
        };
        let laid = outcome.and_then(|copy| self.lay_down_copy(now, copy));
        match laid {
            Ok(()) => self.when_stored(first, move |core, _, outcome| {
                let answer = outcome.map(|_| ()).map_err(Clone::clone);
                core.copy_outcome(&group, identity, reason, &answer);
                let records = outcome.unwrap_or_default();
                core.touch_new(records);
                let log_end = records.last().map_or(LogPosition(0), |record| record.log_end());
                match answer {
                    Ok(()) => core.answer_when_durable(log_end, reply, answer),
                    Err(_) => core.answer(reply, answer),
                }
            }),
            Err(refusal) => {
                self.take_back(first);
                let answer = Err(refusal);
                self.copy_outcome(&group, identity, reason, &answer);
                self.answer(reply, answer);
            }
        }
    }

    /// The record a client names by its commit-log offset, and its identity. Any offset may be named.
    pub(super) fn source_of(
        &mut self,
        commitlog_offset: LogPosition,
    ) -> Option<(LoggedRecord, MessageIdentity)> {
        let logged = self.log.read(commitlog_offset).ok().flatten()?;
        let (message, _) = StoredMessage::decode(&logged.record).ok()?;
        let queue = QueueKey { topic: logged.topic, queue_id: u32::try_from(message.queue_id).ok()? };
        let identity =
            MessageIdentity { queue, queue_offset: message.queue_offset, epoch_number: logged.epoch_number };
        Some((logged, identity))
    }

    fn prepare_send_back(
        &mut self,
        now: Now,
        back: &SendBack,
        logged: LoggedRecord,
        parent: MessageIdentity,
    ) -> Answer<Copy> {
        self.check_writable()?;
        self.ensure_group(&back.group)?;
        let (message, _) = StoredMessage::decode(&logged.record)
            .map_err(|error| Refusal::StorageFailed(error.to_string()))?;
        let retry_max =
            self.state.group(&back.group).map_or(self.config.retry_max, |group| group.retry_max) as i32;
        let maximum = back.max_reconsume_times.filter(|max| *max >= 0).unwrap_or(retry_max);
        let reconsume_times = message.reconsume_times;
        if reconsume_times >= maximum || back.delay_level < 0 {
            return self.prepare_dead_letter(&back.group, logged.clone(), parent);
        }
        let mut properties = PropertiesBuf::new(message.properties.0);
        let original = message.properties.get(properties::RETRY_TOPIC).unwrap_or(message.topic).to_owned();
        set(&mut properties, properties::RETRY_TOPIC, &original)?;
        self.note_origin(&mut properties, &message)?;
        set(&mut properties, properties::WAIT, "false")?;
        let level = match back.delay_level {
            0 => FIRST_RETRY_LEVEL + reconsume_times,
            level => level,
        };
        let level = level.max(1) as usize;
        set(&mut properties, properties::DELAY, &level.to_string())?;
        let retry: Name = format!("{RETRY_PREFIX}{}", back.group).into();
        let topic = self.own_topic(&retry, 1, PERM_READ_WRITE)?;
        let due = (now.wall_ms + self.delay_of(level), level);
        let lineage = lineage_of(parent, logged.lineage, CopyReason::Retry);
        let group = back.group.clone();
        let reconsume_times = reconsume_times + 1;
        Ok(Copy { group, lineage, logged, topic, queue_id: 0, properties, reconsume_times, due })
    }

    /// Keeps the offset id of the very first message through all copies, as RocketMQ does.
    fn note_origin(&self, properties: &mut PropertiesBuf, message: &StoredMessage<'_>) -> Answer<()> {
        if message.properties.get(properties::ORIGIN_MESSAGE_ID).is_none() {
            let id = self.offset_message_id(message.commitlog_offset);
            set(properties, properties::ORIGIN_MESSAGE_ID, &id)?;
        }
        Ok(())
    }

    fn offset_message_id(&self, commitlog_offset: u64) -> String {
        wire::ids::OffsetMessageId { host: self.store_host, commitlog_offset }.to_string()
    }

    fn prepare_dead_letter(
        &mut self,
        group: &Name,
        logged: LoggedRecord,
        parent: MessageIdentity,
    ) -> Answer<Copy> {
        let (message, _) = StoredMessage::decode(&logged.record)
            .map_err(|error| Refusal::StorageFailed(error.to_string()))?;
        let mut properties = PropertiesBuf::new(message.properties.0);
        let original = message.properties.get(properties::RETRY_TOPIC).unwrap_or(message.topic).to_owned();
        self.note_origin(&mut properties, &message)?;
        let origin_id = properties.view().get(properties::ORIGIN_MESSAGE_ID).unwrap_or_default().to_owned();
        set(&mut properties, properties::DLQ_ORIGIN_TOPIC, &original)?;
        set(&mut properties, properties::DLQ_ORIGIN_MESSAGE_ID, &origin_id)?;
        properties.remove(properties::DELAY);
        let reconsume_times = message.reconsume_times + 1;
        let (name, queue) = self.dead_letter_queue(group)?;
        let topic = self.own_topic(&name, 1, PERM_READ_WRITE)?;
        let lineage = lineage_of(parent, logged.lineage, CopyReason::DeadLetter);
        let (group, queue_id) = (group.clone(), queue.queue_id);
        Ok(Copy {
            group,
            lineage,
            logged: logged.clone(),
            topic,
            queue_id,
            properties,
            reconsume_times,
            due: (0, 0),
        })
    }

    /// Lays a copy down; the caller says what happens when it is stored.
    pub(super) fn lay_down_copy(&mut self, now: Now, mut copy: Copy) -> Answer<()> {
        let (message, _) = StoredMessage::decode(&copy.logged.record)
            .map_err(|error| Refusal::StorageFailed(error.to_string()))?;
        let (due_wall_ms, level) = copy.due;
        let (topic, queue, tag_hash) = if due_wall_ms > 0 {
            let (name, queue) = self.wait_in_schedule(
                &mut copy.properties,
                &copy.topic,
                copy.queue_id,
                (level, due_wall_ms),
            )?;
            (name, queue, due_wall_ms as i64)
        } else {
            let queue = QueueKey { topic: copy.topic.config.topic, queue_id: copy.queue_id };
            (copy.topic.config.name.clone(), queue, super::append::tag_hash(copy.properties.view().known()))
        };
        self.lay_down(
            now,
            NewRecord {
                topic,
                queue,
                body: message.body,
                properties: copy.properties.as_str(),
                known: copy.properties.view().known(),
                flag: message.flag,
                sys_flag: message.sys_flag,
                born_timestamp_ms: u64::try_from(message.born_timestamp_ms).unwrap_or_default(),
                born_host: message.born_host,
                reconsume_times: copy.reconsume_times,
                kind: StoredKind::Copy { group: copy.group, lineage: copy.lineage, due_wall_ms },
                told_queue_id: queue.queue_id,
                tag_hash,
            },
        )?;
        Ok(())
    }

    /// Copies the message at a queue offset to the group's dead letters, then tells `then` how it went.
    pub(super) fn copy_to_dead_letters(
        &mut self,
        now: Now,
        group: Name,
        (queue, offset): (QueueKey, u64),
        then: impl FnOnce(&mut Core, Now, Name, Answer<()>) + Send + 'static,
    ) {
        let first = self.pending_count();
        let found = self.record_at(queue, offset).map_err(|error| self.read_failed(error));
        let logged = found.and_then(|record| record.ok_or(Refusal::MessageNotFound));
        let epoch_number = logged.as_ref().map_or(0, |logged| logged.epoch_number);
        let parent = MessageIdentity { queue, queue_offset: offset, epoch_number };
        let laid = self
            .check_writable()
            .and(logged)
            .and_then(|logged| self.prepare_dead_letter(&group, logged, parent))
            .and_then(|copy| self.lay_down_copy(now, copy));
        match laid {
            Ok(()) => self.when_stored(first, move |core, now, outcome| {
                let answer = outcome.map(|_| ()).map_err(Clone::clone);
                core.copy_outcome(&group, parent, CopyReason::DeadLetter, &answer);
                core.touch_new(outcome.unwrap_or_default());
                then(core, now, group, answer);
            }),
            Err(refusal) => {
                self.take_back(first);
                let answer = Err(refusal);
                self.copy_outcome(&group, parent, CopyReason::DeadLetter, &answer);
                then(self, now, group, answer);
            }
        }
    }

    fn copy_outcome(
        &mut self,
        group: &Name,
        parent: MessageIdentity,
        reason: CopyReason,
        outcome: &Answer<()>,
    ) {
        match outcome {
            Ok(()) => self.counters.dead_letters_total += u64::from(reason == CopyReason::DeadLetter),
            Err(refusal) => {
                let error = refusal.to_string().into();
                self.state(Fact::CopyFailed { group: group.clone(), parent, reason, error });
            }
        }
    }

    /// New records are news for whoever waits for their queues.
    pub(super) fn touch_new(&mut self, records: &[super::append::Appended]) {
        for record in records {
            self.hide_until_durable(record.queue, record.queue_offset, record.log_end());
            self.waiting.touch(record.queue);
        }
    }

    /// Copies a power cut took are made again: the group was told they exist.
    pub(super) fn remake_lost_copies(&mut self, now: Now) {
        for (group, lineage, due_wall_ms) in std::mem::take(&mut self.state.lost_copies) {
            let parent = lineage.parent;
            if lineage.reason == CopyReason::DeadLetter {
                self.copy_to_dead_letters(now, group, (parent.queue, parent.queue_offset), |_, _, _, _| {});
                continue;
            }
            let Ok(Some(logged)) = self.record_at(parent.queue, parent.queue_offset) else { continue };
            let delay_level = FIRST_RETRY_LEVEL;
            let back = SendBack {
                group,
                commitlog_offset: logged.commitlog_offset.0,
                delay_level,
                max_reconsume_times: None,
                client: "broker".into(),
            };
            tracing::info!(group = %back.group, due_wall_ms, "a retry copy did not survive: it is made again");
            self.send_back(now, back, Box::new(|_| {}));
        }
    }
}
