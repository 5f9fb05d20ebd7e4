//! Sending: checks, the choice of a queue, delayed messages. What is refused is a fact too.

use super::Core;
use super::append::{Appended, NewRecord, PROPERTIES_LEN_MAX, tag_hash};
use super::topics::{PERM_READ_WRITE, PERM_WRITE, is_system_topic};
use crate::api::{
    Answer, MessageType, NewMessage, QueueChoice, Refusal, ReplyFn, SendMessages, SendStatus, StoredAt,
};
use crate::state::{DEAD_LETTER_PREFIX, RETRY_PREFIX, SCHEDULE_TOPIC, Topic};
use lifecycle::clock::Now;
use lifecycle::fact::{AnswerClass, Fact, StoredKind};
use lifecycle::identity::{Name, QueueKey};
use lifecycle::ids::{ID_LEN_MAX, IdColumn};
use wire::properties::{self, Known, Properties, PropertiesBuf, PropertyError};
use wire::sys_flag::{SysFlag, TransactionType};

/// Most messages in one request.
pub(crate) const BATCH_MAX: usize = 1024;

type SendReply = ReplyFn<Answer<Vec<StoredAt>>>;

/// Where a message goes, and how it is told.
struct Placed {
    topic: Name,
    queue: QueueKey,
    kind: StoredKind,
    tag_hash: i64,
    properties: PropertiesBuf,
    /// The queue the client hears of.
    told_queue_id: u32,
}

/// Properties as the client gave them.
#[derive(Clone, Copy)]
struct Given<'a> {
    text: &'a str,
    known: Known<'a>,
}

impl Core {
    pub(super) fn send(&mut self, now: Now, send: SendMessages, reply: SendReply) {
        let first = self.pending_count();
        match self.lay_down_all(now, &send) {
            Ok(waits) => {
                let one_way = send.one_way;
                self.counters.put_bytes += send.messages.iter().map(|m| m.body.len() as u64).sum::<u64>();
                self.when_stored(first, move |core, now, outcome| match outcome {
                    Ok(records) => core.sent(now, records, (waits, one_way), reply),
                    Err(refusal) => core.refuse(&send, refusal.clone(), reply),
                });
            }
            Err(refusal) => {
                self.take_back(first);
                self.refuse(&send, refusal, reply);
            }
        }
    }

    fn sent(&mut self, now: Now, records: &[Appended], (waits, one_way): (bool, bool), reply: SendReply) {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        self.counters.put_total += records.len() as u64;
        let stored: Vec<StoredAt> = records
            .iter()
            .map(|record| StoredAt {
                queue_id: record.told_queue_id,
                queue_offset: record.queue_offset,
                commitlog_offset: record.commitlog_offset.0,
                status: SendStatus::Ok,
            })
            .collect();
        for record in records {
            self.hide_until_durable(record.queue, record.queue_offset, record.log_end());
            self.waiting.touch(record.queue);
        }
        if one_way {
            self.trace.answered(&mut self.state, first.ordinal, records.len() as u64, AnswerClass::OneWay);
            self.answer(reply, Ok(stored));
        } else {
            self.answer_send(now, stored, first.ordinal, last.log_end(), waits, reply);
        }
    }

    fn refuse(&mut self, send: &SendMessages, refusal: Refusal, reply: SendReply) {
        let ids: IdColumn = send
            .messages
            .iter()
            .map(|m| property(&m.properties, properties::UNIQ_KEY).unwrap_or_default().as_bytes())
            .collect();
        self.counters.refused_total += send.messages.len() as u64;
        self.state(Fact::Refused {
            topic: send.topic.clone(),
            code: refusal.remoting_code(),
            reason: refusal.to_string().into(),
            one_way: send.one_way,
            ids,
        });
        self.answer(reply, Err(refusal));
    }

    /// Lays all messages down; answers whether the client waits for the promised durability.
    fn lay_down_all(&mut self, now: Now, send: &SendMessages) -> Answer<bool> {
        self.check_writable()?;
        if send.messages.is_empty() || send.messages.len() > BATCH_MAX {
            return Err(Refusal::MessageIllegal(format!("a request carries 1 to {BATCH_MAX} messages")));
        }
        if is_system_topic(&send.topic) || send.topic.starts_with(DEAD_LETTER_PREFIX) {
            return Err(Refusal::NoPermission {
                topic: send.topic.to_string(),
                what: "being written by clients",
            });
        }
        let topic = self.topic_for_send(&send.topic, send.create_with_queues)?;
        if topic.config.perm & PERM_WRITE == 0 {
            return Err(Refusal::NoPermission { topic: send.topic.to_string(), what: "writing" });
        }
        let queue_id = self.choose_queue(&topic, send.queue)?;
        let batch = send.messages.len() > 1;
        let mut waits = true;
        for message in &send.messages {
            let given = self.check_message(message, &topic)?;
            let placed = self.place_message(now, (message, given), &topic, queue_id, batch)?;
            waits &= given.known.wait != Some("false");
            self.lay_down(
                now,
                NewRecord {
                    topic: placed.topic,
                    queue: placed.queue,
                    body: &message.body,
                    properties: placed.properties.as_str(),
                    known: given.known,
                    flag: message.flag,
                    sys_flag: SysFlag(message.sys_flag),
                    born_timestamp_ms: message.born_timestamp_ms,
                    born_host: message.born_host,
                    reconsume_times: message.reconsume_times,
                    kind: match placed.kind {
                        StoredKind::Produced if send.one_way => StoredKind::ProducedOneWay,
                        kind => kind,
                    },
                    told_queue_id: placed.told_queue_id,
                    tag_hash: placed.tag_hash,
                },
            )?;
        }
        Ok(waits)
    }

    pub(super) fn check_writable(&self) -> Answer<()> {
        if self.is_passive() {
            return Err(Refusal::NotAvailable("this broker is a SLAVE: it takes no messages".into()));
        }
        if self.flush.journal_blocked {
            return Err(Refusal::NotAvailable("disk full: the journal cannot grow".into()));
        }
        if self.trace.is_tight() {
            return Err(Refusal::NotAvailable("disk full".into()));
        }
        if self.retention.refuses_sends {
            return Err(Refusal::NotAvailable("disk nearly full".into()));
        }
        self.check_replicas()
    }

    fn choose_queue(&mut self, topic: &Topic, choice: QueueChoice) -> Answer<u32> {
        let writable = topic.config.write_queues.max(1);
        match choice {
            // RocketMQ takes any queue below the larger of the two counts
            QueueChoice::Given(id) if id < topic.config.write_queues.max(topic.config.read_queues) => Ok(id),
            QueueChoice::Given(id) => {
                Err(Refusal::QueueNotFound { topic: topic.config.name.to_string(), queue_id: i64::from(id) })
            }
            QueueChoice::Any => {
                self.next_queue = self.next_queue.wrapping_add(1);
                Ok(self.next_queue % writable)
            }
            QueueChoice::ByKey(key) => Ok((key % u64::from(writable)) as u32),
        }
    }

    fn check_message<'a>(&self, message: &'a NewMessage, topic: &Topic) -> Answer<Given<'a>> {
        if message.body.len() > self.config.max_body_bytes {
            return Err(Refusal::BodyTooLarge {
                size: message.body.len(),
                limit: self.config.max_body_bytes,
            });
        }
        if message.properties.len() > PROPERTIES_LEN_MAX {
            let len = message.properties.len();
            return Err(Refusal::MessageIllegal(format!(
                "properties of {len} bytes are over the limit of {PROPERTIES_LEN_MAX}"
            )));
        }
        let Ok(text) = std::str::from_utf8(&message.properties) else {
            return Err(Refusal::MessageIllegal("properties are not UTF-8".into()));
        };
        let known = Properties(text).known();
        if known.unique_key.is_some_and(|id| id.len() > ID_LEN_MAX) {
            return Err(Refusal::MessageIllegal(format!("message id is longer than {ID_LEN_MAX} bytes")));
        }
        let half = SysFlag(message.sys_flag).transaction() == TransactionType::Prepared
            || known.transaction == Some("true");
        if half {
            return Err(Refusal::NoPermission { topic: topic.config.name.to_string(), what: "transactions" });
        }
        let accepts = topic.config.message_type.as_ref();
        let given = match message.message_type {
            None => return Ok(Given { text, known }),
            Some(MessageType::Normal) => "NORMAL",
            Some(MessageType::Fifo) => "FIFO",
            Some(MessageType::Delay) => "DELAY",
            Some(MessageType::Transaction) => "TRANSACTION",
        };
        if accepts != "MIXED" && accepts != given {
            let topic = topic.config.name.to_string();
            return Err(Refusal::TypeMismatch { topic, accepts: accepts.to_owned(), given });
        }
        Ok(Given { text, known })
    }

    /// Where the message is stored.
    fn place_message(
        &mut self,
        now: Now,
        (message, given): (&NewMessage, Given<'_>),
        topic: &Topic,
        queue_id: u32,
        batch: bool,
    ) -> Answer<Placed> {
        let level = given.known.delay.and_then(|level| level.parse::<usize>().ok()).unwrap_or(0);
        let delayed = level > 0 || message.deliver_at_ms.is_some_and(|at| at > now.wall_ms);
        // as RocketMQ does: dropped for a plain message, kept where others read it again
        let dropped = [properties::CLUSTER, properties::WAIT];
        let dropped = if batch || delayed { &dropped[..1] } else { &dropped };
        let mut properties = PropertiesBuf::without(given.text, dropped);
        properties.add(properties::CLUSTER, &self.config.cluster).map_err(illegal)?;
        let (topic, queue_id, mut properties) =
            self.dead_after_retries(message, topic, queue_id, properties)?;
        let queue = QueueKey { topic: topic.config.topic, queue_id };
        if !delayed {
            let tag_hash = tag_hash(given.known);
            let name = topic.config.name.clone();
            let kind = StoredKind::Produced;
            return Ok(Placed { topic: name, queue, kind, tag_hash, properties, told_queue_id: queue_id });
        }
        let due = self.due_time(now, message.deliver_at_ms, level)?;
        let (name, queue) = self.wait_in_schedule(&mut properties, &topic, queue_id, (level, due))?;
        let kind = StoredKind::Delayed { due_wall_ms: due, destination: topic.config.name.clone() };
        Ok(Placed { topic: name, queue, kind, tag_hash: due as i64, properties, told_queue_id: queue_id })
    }

    /// A consumer that could not send back sends the message to its retry topic itself: exhausted ones go to the dead letters.
    fn dead_after_retries(
        &mut self,
        message: &NewMessage,
        topic: &Topic,
        queue_id: u32,
        properties: PropertiesBuf,
    ) -> Answer<(Topic, u32, PropertiesBuf)> {
        let Some(group) = topic.config.name.strip_prefix(RETRY_PREFIX) else {
            return Ok((topic.clone(), queue_id, properties));
        };
        let of_group = self.state.group(group).map_or(self.config.retry_max, |group| group.retry_max);
        let maximum = message.max_reconsume_times.unwrap_or(of_group as i32);
        if message.reconsume_times < maximum {
            return Ok((topic.clone(), queue_id, properties));
        }
        let (name, _) = self.dead_letter_queue(&group.into())?;
        let mut properties = properties;
        properties.remove(properties::DELAY);
        let dead = self.own_topic(&name, 1, PERM_READ_WRITE)?;
        self.counters.dead_letters_total += 1;
        Ok((dead, 0, properties))
    }

    fn due_time(&self, now: Now, deliver_at_ms: Option<u64>, level: usize) -> Answer<u64> {
        let due = match deliver_at_ms {
            Some(at) => at,
            None => now.wall_ms + self.delay_of(level),
        };
        if due > now.wall_ms.saturating_add(self.config.delay_max_ms) {
            let limit = self.config.delay_max_ms;
            return Err(Refusal::MessageIllegal(format!("delay is over the limit of {limit} ms")));
        }
        Ok(due)
    }

    /// Delay of a level, ms; levels beyond the last count as the last.
    pub(super) fn delay_of(&self, level: usize) -> u64 {
        let last = self.config.delay_levels_ms.len();
        self.config.delay_levels_ms.get(level.clamp(1, last) - 1).copied().unwrap_or_default()
    }

    /// Notes in the properties where a message really belongs, and answers the queue it waits in.
    pub(super) fn wait_in_schedule(
        &mut self,
        properties: &mut PropertiesBuf,
        topic: &Topic,
        queue_id: u32,
        (level, due): (usize, u64),
    ) -> Answer<(Name, QueueKey)> {
        // the record itself says when it is due: recovery can state it again without the journal
        set(properties, properties::TIMER_OUT_MS, &due.to_string())?;
        set(properties, properties::REAL_TOPIC, &topic.config.name)?;
        set(properties, properties::REAL_QID, &queue_id.to_string())?;
        let levels = self.config.delay_levels_ms.len();
        let name: Name = SCHEDULE_TOPIC.into();
        let schedule = self.own_topic(&name, levels as u32 + 1, PERM_READ_WRITE)?;
        // messages with a time of their own wait in the queue after the last level's
        let queue_id = if level == 0 { levels } else { level.min(levels) - 1 };
        Ok((name, QueueKey { topic: schedule.config.topic, queue_id: queue_id as u32 }))
    }
}

/// Sets a property of a message being stored.
pub(super) fn set(properties: &mut PropertiesBuf, name: &str, value: &str) -> Answer<()> {
    properties.set(name, value).map_err(illegal)
}

fn illegal(error: PropertyError) -> Refusal {
    Refusal::MessageIllegal(error.to_string())
}

fn property<'a>(text: &'a [u8], name: &str) -> Option<&'a str> {
    Properties(std::str::from_utf8(text).ok()?).get(name)
}
