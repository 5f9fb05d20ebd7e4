//! Answers to read-only questions.

use super::Core;
use super::append::{id_key, topic_key};
use super::topics::is_system_topic;
use crate::api::{
    Answer, ConsumeStats, FoundMessage, GroupInfo, MemberInfo, Query, QueryAnswer, QueueStats, Refusal,
    RuntimeInfo, Subscription, TopicInfo,
};
use crate::state::{DEAD_LETTER_PREFIX, Member, RETRY_PREFIX, Topic};
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::{LogPosition, MessageIdentity, Name, QueueKey};
use store::error::StoreError;
use wire::message::StoredMessage;
use wire::properties;

/// Most messages one query answers.
pub(crate) const QUERY_MAX: u32 = 256;

/// What a search found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Messages, newest first.
    pub messages: Vec<FoundMessage>,
    /// Whether these are all: only then does "none" mean that there is none.
    pub complete: bool,
}

impl Core {
    pub(super) fn query(&mut self, query: Query) -> Answer<QueryAnswer> {
        match query {
            Query::Topic(name) => self
                .state
                .topic(&name)
                .map(|topic| QueryAnswer::Topic(info(topic)))
                .ok_or_else(|| Refusal::TopicNotFound(name.to_string())),
            Query::Topics => {
                let mut topics: Vec<TopicInfo> = self.state.topics().map(info).collect();
                topics.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(QueryAnswer::Topics(topics))
            }
            Query::Members(group) => self.members(&group).map(QueryAnswer::Members),
            Query::TopicStats(topic) => self.topic_stats(&topic).map(QueryAnswer::TopicStats),
            Query::ConsumeStats { group, topic } => {
                self.consume_stats(&group, topic.as_ref()).map(QueryAnswer::ConsumeStats)
            }
            Query::ByKey { topic, key, unique, max, begin_ms, end_ms } => {
                let found = self.find(topic.as_deref(), &key, unique, max)?.messages;
                let in_time = |m: &FoundMessage| {
                    let at = StoredMessage::decode(&m.record).map_or(0, |(m, _)| m.store_timestamp_ms as u64);
                    (begin_ms..=end_ms).contains(&at)
                };
                Ok(QueryAnswer::Messages(found.into_iter().filter(in_time).collect()))
            }
            Query::ByOffset(offset) => {
                let found = self.log.read(LogPosition(offset)).map_err(|error| self.read_failed(error))?;
                found.map(|logged| QueryAnswer::Record(logged.record)).ok_or(Refusal::MessageNotFound)
            }
            Query::Runtime => Ok(QueryAnswer::Runtime(RuntimeInfo {
                started_ms: self.started_ms,
                put_total: self.counters.put_total,
                get_total: self.counters.get_total,
                disk_ratio: f64::from(self.retention.used_percent) / 100.0,
                commitlog_min: self.log.start().0,
                commitlog_max: self.log.end().0,
            })),
        }
    }

    fn members(&self, name: &Name) -> Answer<GroupInfo> {
        let Some(group) = self.state.group(name) else { return self.members_of_no_group(name) };
        let known = |(client, member): (&Name, &Member)| {
            let leases = member.model == ConsumeModel::Lease;
            self.sessions.member(client).map(|info| MemberInfo { leases, ..info })
        };
        let members: Vec<_> = group.members.iter().filter_map(known).collect();
        if members.is_empty() {
            return Err(Refusal::GroupNotOnline(name.to_string()));
        }
        let mut subscriptions = Vec::new();
        let topics: std::collections::BTreeSet<&Name> =
            group.members.values().flat_map(|member| member.subscriptions.keys()).collect();
        for topic in topics {
            if let Some((expression, version)) = group.expression(topic) {
                subscriptions.push(Subscription {
                    topic: topic.clone(),
                    expression: expression.clone(),
                    version,
                    expression_type: "TAG".into(),
                });
            }
        }
        Ok(GroupInfo { members, subscriptions, declaration: self.sessions.declaration(name).cloned() })
    }

    /// Clients that declared a group which does not exist and may not be created: they see each other, and nothing else.
    fn members_of_no_group(&self, name: &Name) -> Answer<GroupInfo> {
        let clients = self.sessions.consumers_of(name);
        let members: Vec<_> = clients.filter_map(|client| self.sessions.member(client)).collect();
        let Some(declaration) = self.sessions.declaration(name).cloned().filter(|_| !members.is_empty())
        else {
            return Err(Refusal::GroupNotOnline(name.to_string()));
        };
        let subscriptions = declaration.subscriptions.clone();
        Ok(GroupInfo { members, subscriptions, declaration: Some(declaration) })
    }

    fn topic_stats(&mut self, name: &Name) -> Answer<Vec<QueueStats>> {
        let topic = self.state.topic(name).ok_or_else(|| Refusal::TopicNotFound(name.to_string()))?;
        let (incarnation, count) = (topic.config.topic, topic.queue_count);
        let mut stats = Vec::new();
        for queue_id in 0..count {
            let queue = QueueKey { topic: incarnation, queue_id };
            let bounds = self.state.bounds(queue);
            let last_store_ms = match bounds.max_offset.checked_sub(1) {
                Some(last) => {
                    self.store_time(queue, last).map_err(|error| self.read_failed(error))?.unwrap_or(0)
                }
                None => 0,
            };
            let (min_offset, max_offset) = (bounds.min_offset, bounds.max_offset);
            stats.push(QueueStats { queue_id, min_offset, max_offset, last_store_ms });
        }
        Ok(stats)
    }

    fn consume_stats(&mut self, group: &Name, only: Option<&Name>) -> Answer<Vec<ConsumeStats>> {
        let known = self.state.group(group).ok_or_else(|| Refusal::GroupNotFound(group.to_string()))?;
        let queues: Vec<(QueueKey, u64)> =
            known.queues.iter().map(|(queue, at)| (*queue, at.position)).collect();
        let mut stats = Vec::new();
        for (queue, position) in queues {
            let Some(topic) = self.state.topic_of(queue.topic).map(|topic| topic.config.name.clone()) else {
                continue;
            };
            if only.is_some_and(|only| *only != topic) {
                continue;
            }
            let last_ms = match position.checked_sub(1) {
                Some(last) => {
                    self.store_time(queue, last).map_err(|error| self.read_failed(error))?.unwrap_or(0)
                }
                None => 0,
            };
            stats.push(ConsumeStats {
                topic,
                queue_id: queue.queue_id,
                broker_offset: self.state.bounds(queue).max_offset,
                consumer_offset: position,
                last_ms,
            });
        }
        Ok(stats)
    }

    /// Messages by client id (`unique`), or by key within a topic. Candidates of the index are read and compared.
    pub(super) fn find(&mut self, topic: Option<&str>, key: &str, unique: bool, max: u32) -> Answer<Found> {
        let hash = match (unique, topic) {
            (true, _) => id_key(key),
            (false, Some(topic)) => topic_key(topic, key),
            (false, None) => return Err(Refusal::BadParameter("a key is looked up within a topic".into())),
        };
        let limit = max.clamp(1, QUERY_MAX) as usize;
        let candidates_max = limit * 2;
        let storage = |error: StoreError| Refusal::StorageFailed(error.to_string());
        let lookup = self.index.lookup(hash, candidates_max).map_err(storage)?;
        let log_start = self.log.start();
        let mut found = Found {
            complete: lookup.unreadable.is_empty() && lookup.offsets.len() < candidates_max,
            ..Default::default()
        };
        for offset in lookup.offsets {
            let Some(message) = self.found_at(LogPosition(offset))? else {
                // below the log's start it has expired; above, a record that cannot be read could be the one asked for
                found.complete &= LogPosition(offset) < log_start || self.is_expired(LogPosition(offset))?;
                continue;
            };
            let Ok((stored, _)) = StoredMessage::decode(&message.record) else { continue };
            let same_topic = topic.is_none_or(|topic| stored.topic == topic);
            let same_key = match unique {
                true => stored.properties.get(properties::UNIQ_KEY) == Some(key),
                false => stored.properties.keys().any(|one| one == key),
            };
            if same_topic && same_key {
                match found.messages.len() < limit {
                    true => found.messages.push(message),
                    false => found.complete = false,
                }
            }
        }
        Ok(found)
    }

    fn is_expired(&mut self, offset: LogPosition) -> Answer<bool> {
        let logged = self.log.read(offset).map_err(|error| self.read_failed(error))?;
        Ok(logged.is_some())
    }

    fn found_at(&mut self, offset: LogPosition) -> Answer<Option<FoundMessage>> {
        let Some(logged) = self.log.read(offset).map_err(|error| self.read_failed(error))? else {
            return Ok(None);
        };
        let Ok((message, _)) = StoredMessage::decode(&logged.record) else { return Ok(None) };
        let queue = QueueKey { topic: logged.topic, queue_id: message.queue_id as u32 };
        let identity =
            MessageIdentity { queue, queue_offset: message.queue_offset, epoch_number: logged.epoch_number };
        if message.queue_offset < self.state.bounds(queue).min_offset {
            return Ok(None);
        }
        Ok(Some(FoundMessage {
            topic: message.topic.into(),
            identity,
            commitlog_offset: offset.0,
            record: logged.record.clone(),
            lineage: logged.lineage,
        }))
    }

    /// Finds messages by client id, or by offset message id.
    pub fn locate(&mut self, id: &str) -> Answer<Found> {
        let mut found = self.find(None, id, true, QUERY_MAX)?;
        if let Ok(offset_id) = wire::ids::OffsetMessageId::parse(id) {
            found.messages.extend(self.found_at(LogPosition(offset_id.commitlog_offset))?);
        }
        Ok(found)
    }

    /// Finds messages of a topic by one of their keys.
    pub fn locate_key(&mut self, topic: &str, key: &str) -> Answer<Found> {
        self.find(Some(topic), key, false, QUERY_MAX)
    }

    /// The message of an identity; `None` when it is gone or of another epoch.
    pub fn inspect(&mut self, identity: MessageIdentity) -> Answer<Option<FoundMessage>> {
        let found =
            self.record_at(identity.queue, identity.queue_offset).map_err(|error| self.read_failed(error))?;
        match found {
            Some(logged) if identity.epoch_number == 0 || logged.epoch_number == identity.epoch_number => {
                self.found_at(logged.commitlog_offset)
            }
            _ => Ok(None),
        }
    }
}

fn info(topic: &Topic) -> TopicInfo {
    let name = &topic.config.name;
    let own = name.starts_with(RETRY_PREFIX) || name.starts_with(DEAD_LETTER_PREFIX);
    TopicInfo {
        name: name.clone(),
        read_queues: topic.config.read_queues,
        write_queues: topic.config.write_queues,
        perm: topic.config.perm,
        message_type: topic.config.message_type.clone(),
        system: own || is_system_topic(name),
    }
}
