//! Creating, changing and finding topics and their queues.

use super::Core;
use crate::api::{Answer, ConfigureTopic, Refusal};
use crate::state::{DEAD_LETTER_PREFIX, RETRY_PREFIX, SCHEDULE_TOPIC, Topic};
use lifecycle::fact::{Fact, TopicConfigured};
use lifecycle::identity::{Name, QueueKey};
use store::consume_queue::{ConsumeQueues, QueueIndex};
use store::error::Result as StoreResult;

/// Readable and writable.
pub(crate) const PERM_READ_WRITE: u32 = 6;
/// RocketMQ permission bit: consumers may read.
pub(crate) const PERM_READ: u32 = 4;
/// RocketMQ permission bit: producers may write.
pub(crate) const PERM_WRITE: u32 = 2;
/// Longest topic name (RocketMQ: 127).
pub(crate) const TOPIC_LEN_MAX: usize = 127;
/// Most queues of one topic.
pub(crate) const QUEUES_PER_TOPIC_MAX: u32 = 1024;
/// Most topics; retry and dead-letter topics count.
pub(crate) const TOPICS_MAX: usize = 100_000;
/// The topic whose route unknown topics borrow.
pub(crate) const AUTO_CREATE_TOPIC: &str = "TBW102";

impl Core {
    pub(super) fn configure_topic(&mut self, wanted: ConfigureTopic) -> Answer<()> {
        check_topic_name(&wanted.name)?;
        let range = 1..=QUEUES_PER_TOPIC_MAX;
        if !range.contains(&wanted.read_queues) || !range.contains(&wanted.write_queues) {
            return Err(Refusal::BadParameter(format!("a topic has 1 to {QUEUES_PER_TOPIC_MAX} queues")));
        }
        if is_system_topic(&wanted.name) {
            let what = "being configured";
            return Err(Refusal::NoPermission { topic: wanted.name.to_string(), what });
        }
        if wanted.only_if_absent && self.state.topic(&wanted.name).is_some() {
            return Ok(());
        }
        let message_type: Name = match wanted.message_type.as_ref() {
            "" => self
                .state
                .topic(&wanted.name)
                .map_or("MIXED".into(), |topic| topic.config.message_type.clone()),
            "NORMAL" | "FIFO" | "DELAY" | "TRANSACTION" | "MIXED" => wanted.message_type.clone(),
            other => return Err(Refusal::BadParameter(format!("unknown message type {other}"))),
        };
        let topic = match self.state.topic(&wanted.name) {
            Some(topic) => topic.config.topic,
            None => self.room_for_a_topic()?,
        };
        let config = TopicConfigured {
            topic,
            name: wanted.name,
            read_queues: wanted.read_queues,
            write_queues: wanted.write_queues,
            perm: wanted.perm,
            message_type,
        };
        if self.state.topic_of(topic).is_none_or(|known| known.config != config) {
            let name = config.name.clone();
            self.state(Fact::TopicConfigured(config));
            self.pin_new_queues(&name);
        }
        Ok(())
    }

    fn room_for_a_topic(&self) -> Answer<lifecycle::identity::TopicIncarnation> {
        if self.state.topics().len() >= TOPICS_MAX {
            return Err(Refusal::NotAvailable(format!("{TOPICS_MAX} topics exist")));
        }
        Ok(self.state.next_topic())
    }

    /// The topic of this name, created with `queues` queues when it does not exist. For the broker's own topics.
    pub(super) fn own_topic(&mut self, name: &Name, queues: u32, perm: u32) -> Answer<Topic> {
        if self.state.topic(name).is_none() {
            let config = TopicConfigured {
                topic: self.room_for_a_topic()?,
                name: name.clone(),
                read_queues: queues,
                write_queues: queues,
                perm,
                message_type: "MIXED".into(),
            };
            self.state(Fact::TopicConfigured(config));
        }
        self.state.topic(name).cloned().ok_or_else(|| Refusal::TopicNotFound(name.to_string()))
    }

    /// The topic a producer names: existing, a group's retry topic, or created when both sides allow it.
    pub(super) fn topic_for_send(&mut self, name: &Name, create_with_queues: Option<u32>) -> Answer<Topic> {
        if let Some(topic) = self.state.topic(name) {
            return Ok(topic.clone());
        }
        check_topic_name(name)?;
        if name.starts_with(RETRY_PREFIX) {
            return self.own_topic(name, 1, PERM_READ_WRITE);
        }
        match create_with_queues {
            Some(queues) if self.config.auto_create_topics && !is_system_topic(name) => {
                let queues = queues.clamp(1, self.config.default_queues);
                let topic = self.own_topic(name, queues, PERM_READ_WRITE)?;
                self.pin_new_queues(name);
                Ok(topic)
            }
            _ => Err(Refusal::TopicNotFound(name.to_string())),
        }
    }

    /// A group's dead-letter queue.
    pub(super) fn dead_letter_queue(&mut self, group: &Name) -> Answer<(Name, QueueKey)> {
        let name: Name = format!("{DEAD_LETTER_PREFIX}{group}").into();
        let topic = self.own_topic(&name, 1, PERM_READ_WRITE)?;
        Ok((name, QueueKey { topic: topic.config.topic, queue_id: 0 }))
    }

    /// The consume queue's files. A topic incarnation's folder never changes, so what was found once is remembered.
    pub(super) fn queue_index(&mut self, queue: QueueKey) -> StoreResult<QueueIndex> {
        if let Some(index) = self.queue_indexes.get(&queue) {
            return Ok(*index);
        }
        let name = self.state.topic_of(queue.topic).map(|topic| topic.config.name.clone());
        let index = queue_index(name.as_deref(), &mut self.queues, queue)?;
        self.queue_indexes.insert(queue, index);
        Ok(index)
    }
}

/// The consume queue's files, made when absent; `topic` is its topic's name, when that still exists.
pub(super) fn queue_index(
    topic: Option<&str>,
    queues: &mut ConsumeQueues,
    queue: QueueKey,
) -> StoreResult<QueueIndex> {
    // a recreated topic has other records: its incarnation is part of the folder's name
    let dir = topic_dir(topic.unwrap_or("unknown"), queue);
    match queues.find(&dir, queue.queue_id) {
        Some(index) => Ok(index),
        None => queues.create(&dir, queue.queue_id),
    }
}

pub(super) fn topic_dir(name: &str, queue: QueueKey) -> String {
    format!("{name}-{:x}", queue.topic.0)
}

/// Checks a name as RocketMQ does: 1 to 127 of `[%|a-zA-Z0-9_-]`.
pub(crate) fn check_topic_name(name: &str) -> Answer<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'|' | b'_' | b'-');
    if name.is_empty() || name.len() > TOPIC_LEN_MAX {
        return Err(Refusal::MessageIllegal(format!("topic name must be 1 to {TOPIC_LEN_MAX} characters")));
    }
    if !name.bytes().all(allowed) {
        return Err(Refusal::MessageIllegal(format!(
            "topic name {name:?} has characters outside [%|a-zA-Z0-9_-]"
        )));
    }
    Ok(())
}

/// Topics of the broker's own, which no client may write or configure.
pub(crate) fn is_system_topic(name: &str) -> bool {
    matches!(
        name,
        SCHEDULE_TOPIC | AUTO_CREATE_TOPIC | "RMQ_SYS_TRANS_HALF_TOPIC" | "RMQ_SYS_TRANS_OP_HALF_TOPIC"
    )
}
