//! Owns what must be there before a conversation is replayed: the topics, groups, positions and messages that the real broker
//! already had. Read off its answers: a route that was found, an offset that was not 0, a record nobody sent meanwhile.

use crate::transcript::Line;
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use wire::code::request;
use wire::command::Command;
use wire::header::send::SendMessage;
use wire::message::{StoredMessage, records};
use wire::name::{AUTO_CREATE_TOPIC, DLQ_PREFIX, RETRY_PREFIX};
use wire::properties::{Properties, UNIQ_KEY};

/// A topic's queue.
pub(crate) type Queue = (String, u32);

#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// Read queues, write queues, permission.
    pub(crate) topics: BTreeMap<String, (u32, u32, u32)>,
    /// Groups whose retry topic exists.
    pub(crate) groups: BTreeSet<String>,
    /// Messages in the order they were stored; offsets not among them are filled with something.
    pub(crate) messages: BTreeMap<u64, Message>,
    /// How many messages each queue holds.
    pub(crate) lengths: BTreeMap<Queue, u64>,
    /// Lowest offset of queues whose first messages had expired.
    pub(crate) minimums: BTreeMap<Queue, u64>,
    /// Groups with their members, as the answer to 203 shows them.
    pub(crate) members: BTreeMap<String, Value>,
    /// Committed offset of a group in a queue.
    pub(crate) positions: BTreeMap<(String, String, u32), u64>,
}

/// A message that was there before.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) queue: Queue,
    pub(crate) queue_offset: u64,
    pub(crate) commitlog_offset: u64,
    pub(crate) store_timestamp_ms: i64,
    pub(crate) flag: i32,
    pub(crate) sys_flag: i32,
    pub(crate) born_timestamp_ms: i64,
    pub(crate) properties: String,
    pub(crate) body: Bytes,
}

impl Given {
    pub(crate) fn before(lines: &[Line]) -> Given {
        let mut given = Given::default();
        let requests: BTreeMap<u64, &Line> =
            lines.iter().filter(|line| line.from_client).map(|line| (line.number, line)).collect();
        let mut seen = Seen::default();
        for line in lines {
            match line.answers.and_then(|number| requests.get(&number)) {
                Some(asked) => given.learn(&asked.command, line, &mut seen),
                None if line.from_client => seen.request(&line.command),
                None => {}
            }
        }
        // the highest end anybody saw, but for queues that were sent to: there the first send told
        given.lengths = seen.lengths;
        given.lengths.extend(seen.first_sent);
        for ((topic, queue_id), _) in given.lengths.iter().filter(|(_, length)| **length > 0) {
            let topic = given.topics.entry(topic.clone()).or_insert((1, 1, 6));
            topic.0 = topic.0.max(queue_id + 1);
            topic.1 = topic.1.max(queue_id + 1);
        }
        given
    }

    fn learn(&mut self, asked: &Command, answer: &Line, seen: &mut Seen) {
        let field = |name: &str| asked.field(name).unwrap_or_default().to_owned();
        let number = |name: &str| answer.command.field(name).and_then(|value| value.parse::<u64>().ok());
        let queue = || (field("topic"), field("queueId").parse::<u32>().unwrap_or_default());
        match asked.code {
            request::GET_ROUTEINFO_BY_TOPIC => self.route(&field("topic"), &answer.command, seen),
            request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => seen.sent(asked, &answer.command),
            request::GET_CONSUMER_CONNECTION_LIST if answer.command.code == 0 => {
                let body = String::from_utf8_lossy(&answer.command.body);
                self.members.insert(field("consumerGroup"), crate::fastjson::parse(&body).unwrap());
            }
            request::PULL_MESSAGE => {
                if let Some(max) = number("maxOffset") {
                    seen.length(queue(), max);
                }
                if let Some(min) = number("minOffset").filter(|min| *min > 0) {
                    self.minimums.insert(queue(), min);
                }
                self.records(answer, seen);
            }
            request::QUERY_MESSAGE | request::VIEW_MESSAGE_BY_ID => self.records(answer, seen),
            request::GET_MAX_OFFSET => seen.length(queue(), number("offset").unwrap_or_default()),
            request::GET_TOPIC_STATS_INFO => seen.stats(&answer.command, "maxOffset"),
            request::QUERY_CONSUMER_OFFSET => {
                let (topic, queue_id) = queue();
                let key = (field("consumerGroup"), topic, queue_id);
                match number("offset") {
                    Some(offset) if offset > 0 && !seen.committed.contains(&key) => {
                        self.positions.insert(key, offset);
                    }
                    _ => {}
                }
            }
            request::GET_CONSUME_STATS => {
                seen.stats(&answer.command, "brokerOffset");
                for (topic, queue_id, stats) in offset_table(&answer.command) {
                    let offset = stats["consumerOffset"].as_u64().unwrap_or_default();
                    self.positions.insert((field("consumerGroup"), topic, queue_id), offset);
                }
            }
            _ => {}
        }
    }

    fn route(&mut self, topic: &str, answer: &Command, seen: &mut Seen) {
        let is_first = seen.routes.insert(topic.to_owned());
        if !is_first || answer.code != 0 || topic == AUTO_CREATE_TOPIC {
            return;
        }
        if let Some(group) = topic.strip_prefix(RETRY_PREFIX) {
            self.groups.insert(group.to_owned());
            return;
        }
        let route: Value = serde_json::from_slice(&answer.body).unwrap();
        let queues = &route["queueDatas"][0];
        let number = |name: &str| queues[name].as_u64().unwrap() as u32;
        let topic = topic.to_owned();
        self.topics.insert(topic, (number("readQueueNums"), number("writeQueueNums"), number("perm")));
    }

    fn records(&mut self, answer: &Line, seen: &mut Seen) {
        let known = &answer.command.body[..answer.body_known_len];
        for record in records(known).map_while(Result::ok) {
            let is_copy = [RETRY_PREFIX, DLQ_PREFIX].iter().any(|prefix| record.topic.starts_with(prefix));
            let key = record.properties.get(UNIQ_KEY).unwrap_or_default();
            if is_copy || seen.sent_keys.contains(key) {
                continue;
            }
            let queue = (record.topic.to_owned(), record.queue_id as u32);
            seen.length(queue.clone(), record.queue_offset + 1);
            self.messages.insert(record.commitlog_offset, message(queue, &record));
        }
    }
}

fn message(queue: Queue, record: &StoredMessage<'_>) -> Message {
    // what the broker added when it stored the message is left out: ours adds its own
    let properties: Vec<String> = record
        .properties
        .iter()
        // and a delay that is over is not waited for again
        .filter(|(name, _)| !["CLUSTER", wire::properties::DELAY].contains(name))
        .map(|(name, value)| format!("{name}\u{1}{value}"))
        .collect();
    Message {
        queue,
        queue_offset: record.queue_offset,
        commitlog_offset: record.commitlog_offset,
        store_timestamp_ms: record.store_timestamp_ms,
        flag: record.flag,
        sys_flag: record.sys_flag.0,
        born_timestamp_ms: record.born_timestamp_ms,
        properties: properties.join("\u{2}"),
        body: Bytes::copy_from_slice(record.body),
    }
}

/// What the conversation has shown so far.
#[derive(Default)]
struct Seen {
    routes: BTreeSet<String>,
    sent_keys: BTreeSet<String>,
    sent_topics: BTreeSet<String>,
    first_sent: BTreeMap<Queue, u64>,
    lengths: BTreeMap<Queue, u64>,
    committed: BTreeSet<(String, String, u32)>,
}

impl Seen {
    fn request(&mut self, asked: &Command) {
        match asked.code {
            request::UPDATE_CONSUMER_OFFSET => {
                let field = |name: &str| asked.field(name).unwrap_or_default().to_owned();
                let queue_id = field("queueId").parse().unwrap_or_default();
                self.committed.insert((field("consumerGroup"), field("topic"), queue_id));
            }
            request::SEND_MESSAGE_V2 => {
                if let Ok(send) = SendMessage::decode(asked) {
                    self.sent_topics.insert(send.topic.to_owned());
                    self.sent_keys.extend(send.properties.get(UNIQ_KEY).map(str::to_owned));
                }
            }
            _ => {}
        }
    }

    fn sent(&mut self, asked: &Command, answer: &Command) {
        let (Ok(send), Some(offset)) = (SendMessage::decode(asked), answer.field("queueOffset")) else {
            return;
        };
        // a delayed message is told the offset of its place in the schedule
        if is_delayed(send.properties) {
            return;
        }
        let queue_id = answer.field("queueId").unwrap_or_default().parse().unwrap();
        let queue = (send.topic.to_owned(), queue_id);
        // the real broker stored pipelined sends in any order
        let offset: u64 = offset.parse().unwrap();
        let first = self.first_sent.entry(queue).or_insert(offset);
        *first = offset.min(*first);
    }

    fn length(&mut self, queue: Queue, length: u64) {
        let is_copy = [RETRY_PREFIX, DLQ_PREFIX].iter().any(|prefix| queue.0.starts_with(prefix));
        if !is_copy && length > 0 && !self.sent_topics.contains(&queue.0) {
            let known = self.lengths.entry(queue).or_default();
            *known = length.max(*known);
        }
    }

    fn stats(&mut self, answer: &Command, name: &str) {
        for (topic, queue_id, stats) in offset_table(answer) {
            self.length((topic, queue_id), stats[name].as_u64().unwrap_or_default());
        }
    }
}

fn is_delayed(properties: Properties<'_>) -> bool {
    properties.get(wire::properties::DELAY).is_some()
}

/// Topic, queue and value of each entry of an `offsetTable`.
fn offset_table(answer: &Command) -> Vec<(String, u32, Value)> {
    let Some(body) = std::str::from_utf8(&answer.body).ok().and_then(crate::fastjson::parse) else {
        return Vec::new();
    };
    let entries = body["offsetTable"].as_object().cloned().unwrap_or_default();
    let entry = |(key, value): (String, Value)| {
        let queue: Value = serde_json::from_str(&key).ok()?;
        Some((queue["topic"].as_str()?.to_owned(), queue["queueId"].as_u64()? as u32, value))
    };
    entries.into_iter().filter_map(entry).collect()
}
