//! Owns topics, groups, dead letters and gaps as they are shown.

use super::balances::{group_book, unflushed_by_topic};
use super::views::{DlqRow, GapRow, GroupRow, GroupTopicRow, TopicRow};
use super::{exposure, identity};
use crate::fold::Books;
use crate::fold::broker::BrokerBooks;
use crate::fold::dead_letters::Outcome;
use crate::fold::group::GroupBooks;
use crate::judge::Judge;
use crate::judge::verdict::VerdictState;
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::{Name, TopicIncarnation};
use std::collections::{BTreeMap, BTreeSet};

/// Messages of confirmed open losses, per broker, topic and group (empty: no group in particular).
pub fn open_losses(judge: &Judge) -> BTreeMap<(String, TopicIncarnation, String), u64> {
    let mut open = BTreeMap::new();
    for incident in judge.incidents() {
        let verdict = &incident.verdict;
        if verdict.state != VerdictState::Confirmed || !verdict.is_loss() {
            continue;
        }
        for (queue, _, ranges) in incident.open_ranges() {
            let key = (verdict.broker.clone(), queue.topic, verdict.group.clone());
            *open.entry(key).or_insert(0) += ranges.len();
        }
    }
    open
}

/// Every topic.
pub fn topics(books: &Books, judge: &Judge) -> Vec<TopicRow> {
    let open = open_losses(judge);
    let mut rows = Vec::new();
    for broker in books.brokers.values() {
        let name = broker.name.0.to_string();
        let unflushed = unflushed_by_topic(broker);
        let owing = broker.owing();
        for (key, topic) in &broker.topics {
            let from = (name.clone(), *key, String::new());
            let losses = open
                .range(from..)
                .take_while(|((b, t, _), _)| *b == name && t == key)
                .map(|(_, count)| count);
            rows.push(TopicRow {
                broker: name.clone(),
                topic: topic.configured.name.to_string(),
                topic_incarnation: format!("{:x}", key.0),
                message_type: topic.configured.message_type.to_string(),
                queues: topic.configured.read_queues.max(topic.configured.write_queues),
                stored: broker.queues_of(*key).map(|(_, q)| q.stored).sum(),
                retained: broker.queues_of(*key).map(|(_, q)| q.max - q.min).sum(),
                unflushed: unflushed.get(key).copied().unwrap_or(0),
                expired: broker.queues_of(*key).map(|(_, q)| q.expired).sum(),
                groups: owing.get(key).map_or(0, |groups| groups.len() as u64),
                open_losses: losses.sum(),
                deleted: false,
            });
        }
    }
    rows
}

/// Every consumer group.
pub fn groups(books: &Books, judge: &Judge, now_wall_ms: u64) -> Vec<GroupRow> {
    let open = open_losses(judge);
    let mut rows = Vec::new();
    for broker in books.brokers.values() {
        let broker_name = broker.name.0.to_string();
        for (name, group) in &broker.groups {
            let losses = |topic: TopicIncarnation| -> u64 {
                open.get(&(broker_name.clone(), topic, name.to_string())).copied().unwrap_or(0)
            };
            let topics: BTreeSet<TopicIncarnation> = group.queues.keys().map(|key| key.topic).collect();
            let open_losses = topics.iter().map(|topic| losses(*topic)).sum();
            let topics = topics.into_iter().map(|topic| {
                let book = group_book(broker, group, topic);
                let conflict = broker.topics.get(&topic);
                GroupTopicRow {
                    topic: broker.topic_name(topic).to_owned(),
                    lag: book.in_flight,
                    retention_margin_seconds: exposure::margin_ms(broker, group, topic, now_wall_ms)
                        .map(|ms| ms / 1_000),
                    open_losses: losses(topic),
                    filter_conflict: conflict.is_some_and(|t| group.conflicts.contains(&t.configured.name)),
                    book,
                }
            });
            rows.push(GroupRow {
                broker: broker_name.clone(),
                group: name.to_string(),
                model: model(group).to_owned(),
                members: group.members.keys().map(|member| member.to_string()).collect(),
                retry_max: group.retry_max,
                topics: topics.collect(),
                dead_letters: group.dead_letters.waiting(),
                oldest_dead_letter_wall_ms: group.dead_letters.oldest_wall_ms(),
                open_losses,
                retired: books.is_retired(group, name),
            });
        }
    }
    rows
}

fn model(group: &GroupBooks) -> &'static str {
    match group.model {
        None => "",
        Some(ConsumeModel::Clustering) => "offsets",
        Some(ConsumeModel::Broadcasting) => "broadcasting",
        Some(ConsumeModel::Lease) => "leases",
    }
}

/// Dead letters, of one group or all.
pub fn dlq(books: &Books, group: Option<&str>) -> Vec<DlqRow> {
    let mut rows = Vec::new();
    for broker in books.brokers.values() {
        for (name, books) in &broker.groups {
            if group.is_some_and(|wanted| wanted != &**name) {
                continue;
            }
            for letter in books.dead_letters.iter() {
                rows.push(DlqRow {
                    group: name.to_string(),
                    identity: identity(broker, letter.copy),
                    parent: identity(broker, letter.parent),
                    root: identity(broker, letter.root),
                    arrived_wall_ms: letter.arrived_wall_ms,
                    state: dlq_state(broker, name, letter.copy, letter.outcome).to_owned(),
                });
            }
        }
    }
    rows
}

fn dlq_state(
    broker: &BrokerBooks,
    group: &Name,
    copy: lifecycle::identity::MessageIdentity,
    outcome: Outcome,
) -> &'static str {
    let taken = || {
        let others = broker.groups.iter().filter(|(name, _)| *name != group);
        others.filter_map(|(_, g)| g.queues.get(&copy.queue)).any(|books| books.has_taken(copy.queue_offset))
    };
    match outcome {
        Outcome::ReDriven => "re-driven",
        Outcome::Expired => "expired",
        Outcome::Waiting if taken() => "settled",
        Outcome::Waiting => "waiting",
    }
}

/// Missing evidence.
pub fn gaps(books: &Books) -> Vec<GapRow> {
    let mut rows = Vec::new();
    for broker in books.brokers.values() {
        let source = broker.name.0.to_string();
        for gap in &broker.gaps {
            rows.push(GapRow {
                source: source.clone(),
                incarnation: gap.incarnation.to_string(),
                from_sequence: gap.from,
                to_sequence: gap.to,
                kind: "missing-frames".to_owned(),
                undecided_messages: 0,
                noted_wall_ms: gap.noted_wall_ms,
                text: "frames were never received; what they said about deliveries is undecided".to_owned(),
            });
        }
        for window in &broker.unnamed_windows {
            rows.push(GapRow {
                source: source.clone(),
                incarnation: window.incarnation.to_string(),
                from_sequence: 0,
                to_sequence: 0,
                kind: "recovery-window".to_owned(),
                undecided_messages: window.messages,
                noted_wall_ms: window.opened_wall_ms,
                text: format!(
                    "the end of epoch {} left up to {} messages without a readable trace",
                    window.epoch, window.messages
                ),
            });
        }
    }
    rows
}
