//! What a receive is handed: messages whose lease is over, then those never out, of any queue it may see. The group's retry
//! topic belongs to every topic it consumes: copies made while it consumed by offsets would wait there for ever.
//!
//! After a switch from offsets to leases everything above the committed position that is not settled is handed out, also what
//! an offset consumer had pulled and not committed.

use super::handle::Handle;
use crate::api::{Answer, LeasedMessage, ReceiveMessages, Refusal, StartPolicy};
use crate::core::Core;
use crate::core::pull::{Filter, PULL_BYTES_MAX, PULL_MESSAGES_MAX, Scan, ScanLimits};
use crate::core::topics::PERM_READ;
use crate::state::{GroupQueue, RETRY_PREFIX, WHILE_MEMBER_LIVES};
use bytes::Bytes;
use lifecycle::clock::Now;
use lifecycle::fact::{ConsumeModel, Fact, StartReason};
use lifecycle::identity::{Name, QueueKey, TopicIncarnation};
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;
use wire::message::StoredMessage;
use wire::properties;

/// A message that may be handed out now: offset, attempt, record.
type Free = (u64, u32, Bytes);

/// One queue a receive looks at.
struct Look<'a> {
    receive: &'a ReceiveMessages,
    queue: QueueKey,
    filter: &'a Filter,
    /// The group's retry topic, not the one asked for.
    retry: bool,
}

impl Core {
    pub(in crate::core) fn try_receive(
        &mut self,
        now: Now,
        receive: &ReceiveMessages,
    ) -> Answer<Vec<LeasedMessage>> {
        let filter = Filter::parse(&receive.subscription)?;
        let everything = Filter::everything();
        let queues = self.check_receive(receive)?;
        let wanted = (receive.max_messages as usize).clamp(1, PULL_MESSAGES_MAX);
        let mut taken = Vec::new();
        let mut bytes = 0;
        for (queue, retry) in queues {
            if taken.len() >= wanted || bytes >= PULL_BYTES_MAX {
                break;
            }
            let room = ScanLimits { messages: wanted - taken.len(), bytes: PULL_BYTES_MAX - bytes };
            // a copy passed the filter when its original was delivered
            let filter = if retry { &everything } else { &filter };
            let from_queue = self.take_from(now, &Look { receive, queue, filter, retry }, room)?;
            bytes += from_queue.iter().map(|message| message.record.len()).sum::<usize>();
            taken.extend(from_queue);
        }
        if !taken.is_empty() && self.sessions.is_alive(&receive.client) {
            self.leases.attempts.remember(receive, &taken);
        }
        Ok(taken)
    }

    /// The queues to look at, and whether it is the retry topic's, starting with another one each time so that none starves.
    fn check_receive(&mut self, receive: &ReceiveMessages) -> Answer<Vec<(QueueKey, bool)>> {
        self.ensure_group(&receive.group)?;
        let Some(topic) = self.state.topic(&receive.topic) else {
            return Err(Refusal::TopicNotFound(receive.topic.to_string()));
        };
        if topic.config.perm & PERM_READ == 0 {
            return Err(Refusal::NoPermission { topic: receive.topic.to_string(), what: "reading" });
        }
        let (incarnation, count) = (topic.config.topic, topic.queue_count);
        let group = self.state.group(&receive.group);
        if group.is_some_and(|group| !group.consume_enabled) {
            return Err(Refusal::NoPermission {
                topic: receive.topic.to_string(),
                what: "reading by this group",
            });
        }
        let leases = |topic: &str| {
            group.and_then(|group| group.model_of(topic)).is_none_or(|model| model == ConsumeModel::Lease)
        };
        if !leases(&receive.topic) {
            return Err(Refusal::WrongConsumeModel(receive.group.to_string(), "offsets"));
        }
        let serves_retries = leases(RETRY_PREFIX);
        if receive.queue_id.is_some_and(|id| id >= count) {
            return Err(Refusal::QueueNotFound {
                topic: receive.topic.to_string(),
                queue_id: receive.queue_id.map_or(-1, i64::from),
            });
        }
        self.pin(&receive.group, &receive.topic, StartPolicy::Last, ConsumeModel::Lease);
        let asked = receive.queue_id.map_or(0..count, |id| id..id + 1);
        let mut queues: Vec<(QueueKey, bool)> =
            asked.map(|queue_id| (QueueKey { topic: incarnation, queue_id }, false)).collect();
        if serves_retries {
            queues.extend(self.retry_queues(&receive.group).map(|queue| (queue, true)));
        }
        for (queue, _) in queues.iter().filter(|(_, retry)| *retry) {
            self.start_group(&receive.group, *queue, 0, StartReason::RetryTopic);
        }
        self.next_queue = self.next_queue.wrapping_add(1);
        let first = self.next_queue as usize % queues.len().max(1);
        queues.rotate_left(first);
        Ok(queues)
    }

    /// The group's retry topic, when it has one.
    pub(super) fn retry_topic(&self, group: &Name) -> Option<TopicIncarnation> {
        self.state.topic(&format!("{RETRY_PREFIX}{group}")).map(|topic| topic.config.topic)
    }

    fn retry_queues(&self, group: &Name) -> impl Iterator<Item = QueueKey> + use<> {
        let topic = self.retry_topic(group).and_then(|topic| self.state.topic_of(topic));
        let of = topic.map(|topic| (topic.config.topic, topic.queue_count));
        of.into_iter().flat_map(|(topic, count)| (0..count).map(move |queue_id| QueueKey { topic, queue_id }))
    }

    fn take_from(&mut self, now: Now, look: &Look<'_>, room: ScanLimits) -> Answer<Vec<LeasedMessage>> {
        let (group, queue) = (&look.receive.group, look.queue);
        let fifo = self.is_ordered(queue);
        let attempts_max = self.attempts_max(group);
        let Some(at) = self.group_queue(group, queue) else { return Ok(Vec::new()) };
        if at.leases.len() >= super::LEASES_PER_QUEUE_MAX {
            return Ok(Vec::new());
        }
        let again = visible_again(at, now, attempts_max, room.messages);
        // an ordered queue hands out nothing new, and nothing out of turn, while a message is out
        let out = at.leases.len() > again.len();
        let first = again.first().map(|(offset, _)| offset);
        if fifo && (out || (first.is_some() && at.leases.keys().next() != first)) {
            return Ok(Vec::new());
        }
        let mut found: Vec<Free> = Vec::new();
        let mut gone = Vec::new();
        for (offset, attempt) in &again {
            match self.record_at(queue, *offset).map_err(|error| self.read_failed(error))? {
                Some(logged) => found.push((*offset, *attempt, logged.record)),
                // whoever had it lost it, and nobody will be handed it again
                None => gone.extend(self.unit_at(queue, *offset).map(|unit| (*offset, unit))),
            }
        }
        self.state_unreadable(group, queue, &gone);
        if (!fifo || again.is_empty()) && found.len() < room.messages {
            let left = ScanLimits { messages: room.messages - found.len(), ..room };
            found.extend(self.take_fresh(look, left)?);
        }
        Ok(self.lease_out(now, look, found))
    }

    /// Messages of a queue that were never out, or not under a lease.
    fn take_fresh(&mut self, look: &Look<'_>, limits: ScanLimits) -> Answer<Vec<Free>> {
        let (group, queue) = (&look.receive.group, look.queue);
        let Some(at) = self.group_queue(group, queue) else { return Ok(Vec::new()) };
        let key = (group.clone(), queue);
        let from = self.leases.cursors.get(&key).copied().unwrap_or(at.position);
        let end = self.flush.readable_end(queue, self.state.bounds(queue).max_offset);
        let scan = Scan { filter: look.filter, limits, leases: true };
        let scanned =
            self.scan_for(group, queue, (from, end), &scan).map_err(|error| self.read_failed(error))?;
        self.leases.cursors.insert(key, scanned.next);
        if scanned.records.is_empty() && scanned.next < end {
            // so far all was for others: whoever waits goes on in the next turn
            self.leases.unfinished.insert(queue);
        }
        self.state_unreadable(group, queue, &scanned.unreadable);
        if !scanned.filtered.is_empty() {
            self.state(Fact::Filtered {
                group: group.clone(),
                queue,
                ranges: scanned.filtered,
                expression: look.filter.expression().clone(),
            });
        }
        let attempts_max = self.attempts_max(group);
        let first_attempt = |record: &Bytes| match look.retry {
            // the attempts before the copy count, and the last one is always given
            true => (times_before(record) + 1).min(attempts_max),
            false => 1,
        };
        let records = scanned.records.into_iter();
        Ok(records.map(|(offset, record)| (offset, first_attempt(&record), record)).collect())
    }

    fn lease_out(&mut self, now: Now, look: &Look<'_>, found: Vec<Free>) -> Vec<LeasedMessage> {
        let Look { receive, queue, retry, .. } = *look;
        if found.is_empty() {
            return Vec::new();
        }
        let lease_until_ms = match receive.auto_renew {
            // somebody we do not know as alive could not be seen to die: its lease ends by time
            true if self.sessions.is_alive(&receive.client) => WHILE_MEMBER_LIVES,
            _ => now.wall_ms + receive.invisible_ms.min(super::LEASE_MAX_MS),
        };
        let mut by_attempt: BTreeMap<u32, Ranges> = BTreeMap::new();
        for (offset, attempt, _) in &found {
            by_attempt.entry(*attempt).or_default().insert(*offset, offset + 1);
        }
        for (attempt, ranges) in by_attempt {
            self.counters.get_total += ranges.len();
            self.state(Fact::Delivered {
                group: receive.group.clone(),
                queue,
                ranges,
                member: receive.client.clone(),
                attempt,
                lease_until_ms,
            });
        }
        if lease_until_ms == WHILE_MEMBER_LIVES {
            self.leases.renewals.watch(&receive.group, queue, now);
        }
        self.refresh_ends(&receive.group, queue, now);
        let until_ms = if lease_until_ms == WHILE_MEMBER_LIVES { u64::MAX } else { lease_until_ms };
        let leased = |(offset, attempt, record)| {
            let handle = Handle { queue, offset, attempt, until_ms };
            leased_message(record, handle, receive, retry)
        };
        found.into_iter().map(leased).collect()
    }

    pub(super) fn is_ordered(&self, queue: QueueKey) -> bool {
        self.state.topic_of(queue.topic).is_some_and(|topic| topic.config.message_type.as_ref() == "FIFO")
    }
}

/// Messages whose lease is over, lowest offset first, each with its next attempt.
fn visible_again(at: &GroupQueue, now: Now, attempts_max: u32, most: usize) -> Vec<(u64, u32)> {
    let mut again: Vec<(u64, u32)> = at
        .lease_ends
        .iter()
        .take_while(|(until, _)| *until <= now.wall_ms)
        .filter_map(|(_, offset)| at.leases.get(offset).map(|lease| (*offset, lease.attempt + 1)))
        .filter(|(_, attempt)| *attempt <= attempts_max)
        .take(most)
        .collect();
    again.sort_unstable();
    again
}

/// A message as its receiver is told of it: a retry copy under the topic it was first sent to.
pub(super) fn leased_message(
    record: Bytes,
    handle: Handle,
    receive: &ReceiveMessages,
    retry: bool,
) -> LeasedMessage {
    let topic = match retry {
        true => original_topic(&record).unwrap_or_else(|| receive.topic.clone()),
        false => receive.topic.clone(),
    };
    LeasedMessage { record, topic, attempt: handle.attempt, handle: handle.to_string() }
}

fn original_topic(record: &Bytes) -> Option<Name> {
    let (message, _) = StoredMessage::decode(record).ok()?;
    message.properties.get(properties::RETRY_TOPIC).map(Name::from)
}

/// How often a copy's original was consumed before.
fn times_before(record: &Bytes) -> u32 {
    let times = StoredMessage::decode(record).map_or(0, |(message, _)| message.reconsume_times);
    u32::try_from(times).unwrap_or_default()
}
