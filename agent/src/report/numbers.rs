//! Owns the numbers behind the metrics, taken at one moment. Labels are closed sets, topics, groups and sources; never ids.

use super::exposure::{exposure, margin_ms, near_ms};
use super::lists::open_losses;
use super::views::ExposureReport;
use crate::fold::Books;
use crate::fold::class::Class;
use crate::fold::group_queue::Redelivery;
use crate::fold::receipts;
use crate::judge::Judge;
use crate::judge::verdict::VerdictState;
use lifecycle::identity::TopicIncarnation;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers by a label.
pub type ByLabel = Vec<(&'static str, u64)>;

/// Everything the books and the judge know in numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Numbers {
    /// By stage.
    pub messages: ByLabel,
    /// Stored per topic name, in the order in which the topics were created.
    pub topics: Vec<(String, u64)>,
    /// Confirmed messages by class, loss classes and others.
    pub lost: ByLabel,
    /// Topic, group (empty: none), messages of confirmed open losses; every pair that is owed, and every topic without group.
    pub open_losses: Vec<(String, String, u64)>,
    /// Open incidents by class.
    pub incidents_open: ByLabel,
    /// Turns of verdicts by class and state.
    pub verdicts: Vec<(&'static str, &'static str, u64)>,
    /// Upper bound.
    pub undecided_messages: u64,
    /// `unflushed`, `unanswered`, `undelivered`, `unacked`.
    pub in_flight: ByLabel,
    /// 0 when everything is settled.
    pub oldest_unsettled_age_seconds: f64,
    /// Dead letters ever stored.
    pub dlq_arrivals: u64,
    /// Dead letters that could not be stored.
    pub dlq_write_failures: u64,
    /// Dead letters nobody has taken, by group.
    pub dlq_messages: Vec<(String, u64)>,
    /// Messages passed by an offset reset.
    pub skipped: u64,
    /// By cause.
    pub duplicates: ByLabel,
    /// Sends by how they were answered: `flushed`, `buffered`, `flush_disk_timeout`, `flush_slave_timeout`, `slave_not_available`,
    /// `replicated`, `one_way`.
    pub answers: ByLabel,
    /// Topic, group, seconds until retention takes the oldest unread message; least first.
    pub retention_margins: Vec<(String, String, f64)>,
    /// A margin below this is near the end.
    pub near_expiry_seconds: f64,
    /// `unflushed`, `unanswered_durability`, `unreplicated`.
    pub exposed: ByLabel,
    /// Messages (or 1) by finding.
    pub findings: ByLabel,
}

/// Findings, a closed set.
pub const FINDINGS: [&str; 14] = [
    "async-flush",
    "single-copy",
    "not-durable-answers",
    "one-way-sends",
    "near-expiry",
    "no-group",
    "filter-conflict",
    "broadcast-group",
    "dead-letters-waiting",
    "unreplicated",
    "sync-without-replicas",
    "replicas-missing",
    "async-replication",
    "scrub-off",
];

/// Takes the numbers.
pub fn numbers(books: &Books, judge: &Judge, now_wall_ms: u64) -> Numbers {
    let totals = books.totals();
    let exposed = exposure(books, judge, now_wall_ms);
    let confirmed = |class: Class| judge.counts().confirmed_messages.get(&class).copied().unwrap_or(0);
    let redelivered = |cause: Redelivery| totals.redelivered.get(cause as usize).copied().unwrap_or(0);
    Numbers {
        messages: vec![
            ("received", totals.received),
            ("refused", totals.refused),
            ("stored", totals.stored),
            ("flushed", totals.flushed),
            ("answered", totals.answered),
            ("delivered", totals.delivered),
            ("filtered", totals.filtered),
            ("acked", totals.acked),
            ("retried", totals.retried),
            ("dead_lettered", totals.dead_lettered),
            ("expired", totals.expired),
        ],
        topics: topics(books),
        lost: Class::ALL.iter().map(|class| (class.text(), confirmed(*class))).collect(),
        open_losses: pairs(books, judge),
        incidents_open: incidents_open(judge),
        verdicts: turns(judge),
        undecided_messages: books.undecided() + judge.questions().given_up,
        in_flight: in_flight(books),
        oldest_unsettled_age_seconds: oldest_age_seconds(books, now_wall_ms),
        dlq_arrivals: totals.dead_lettered,
        dlq_write_failures: totals.dlq_write_failures,
        dlq_messages: dead_letters(books),
        skipped: totals.skipped,
        answers: answers(books),
        duplicates: vec![
            ("producer_retry", confirmed(Class::Duplicate)),
            ("lease_expired", redelivered(Redelivery::LeaseExpired)),
            ("nack", redelivered(Redelivery::Nack)),
            ("rewind", redelivered(Redelivery::Rewind)),
            ("rebalance", redelivered(Redelivery::Rebalance)),
        ],
        retention_margins: margins(books, now_wall_ms),
        near_expiry_seconds: near_expiry_seconds(books, judge),
        exposed: vec![
            ("unflushed", exposed.unflushed_messages),
            ("unanswered_durability", exposed.not_durable_messages),
            ("unreplicated", exposed.unreplicated_messages),
        ],
        findings: findings(&exposed),
    }
}

fn answers(books: &Books) -> ByLabel {
    let mut all = receipts::CLASSES.map(|class| (receipts::label(class), 0));
    for broker in books.brokers.values() {
        for ((_, sum), count) in all.iter_mut().zip(broker.receipts.total()) {
            *sum += count;
        }
    }
    all.to_vec()
}

fn topics(books: &Books) -> Vec<(String, u64)> {
    let mut order: Vec<(String, u64)> = Vec::new();
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    for (_, topic) in books.brokers.values().flat_map(|broker| &broker.topics) {
        let name = topic.configured.name.to_string();
        match place.get(&name).and_then(|index| order.get_mut(*index)) {
            Some((_, stored)) => *stored += topic.stored,
            None => {
                place.insert(name.clone(), order.len());
                order.push((name, topic.stored));
            }
        }
    }
    order
}

fn pairs(books: &Books, judge: &Judge) -> Vec<(String, String, u64)> {
    let open = open_losses(judge);
    let mut sums: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut order = Vec::new();
    let mut add = |topic: &str, group: &str, count: u64| {
        let key = (topic.to_owned(), group.to_owned());
        let sum = sums.entry(key.clone()).or_insert_with(|| {
            order.push(key);
            0
        });
        *sum += count;
    };
    for broker in books.brokers.values() {
        for (topic, groups) in broker.owing() {
            for group in groups {
                add(broker.topic_name(topic), group, 0);
            }
        }
    }
    for ((broker, topic, group), count) in open {
        let name = books.brokers.get(broker.as_str()).map_or("", |b| b.topic_name(topic));
        add(name, &group, count);
    }
    for incident in judge.incidents() {
        let verdict = &incident.verdict;
        if verdict.state == VerdictState::Confirmed && verdict.is_loss() {
            // messages that never got an offset: sends nobody stored
            let placed: u64 = verdict.spans.iter().map(|span| span.to - span.from).sum();
            let topic = verdict.topics.first().map_or("", String::as_str);
            let unplaced = verdict.messages.saturating_sub(placed);
            if unplaced > 0 {
                add(topic, "", unplaced);
            }
        }
    }
    order
        .into_iter()
        .map(|key| (key.0.clone(), key.1.clone(), sums.get(&key).copied().unwrap_or(0)))
        .collect()
}

fn incidents_open(judge: &Judge) -> ByLabel {
    let mut counts: BTreeMap<Class, u64> = BTreeMap::new();
    for incident in judge.incidents().filter(|incident| incident.verdict.state.is_open()) {
        *counts.entry(incident.verdict.class).or_insert(0) += 1;
    }
    Class::ALL.iter().map(|class| (class.text(), counts.get(class).copied().unwrap_or(0))).collect()
}

fn turns(judge: &Judge) -> Vec<(&'static str, &'static str, u64)> {
    let mut out = Vec::new();
    for class in Class::ALL {
        for state in VerdictState::ALL {
            let count = judge.counts().turns.get(&(class, state)).copied().unwrap_or(0);
            out.push((class.text(), state.text(), count));
        }
    }
    out
}

fn in_flight(books: &Books) -> ByLabel {
    let (mut unflushed, mut unanswered, mut undelivered, mut unacked) = (0, 0, 0, 0);
    for broker in books.brokers.values() {
        unflushed += broker.unflushed.counted();
        unanswered += broker.unflushed.unanswered(broker.answered_end);
        for (_, group) in broker.groups.iter().filter(|(name, group)| !books.is_retired(group, name)) {
            for (key, owed) in &group.queues {
                let max = broker.queues.get(key).map_or(0, |queue| queue.max);
                let waiting = owed.undelivered(max);
                undelivered += waiting;
                unacked += owed.in_flight(max).saturating_sub(waiting);
            }
        }
    }
    vec![
        ("unflushed", unflushed),
        ("unanswered", unanswered),
        ("undelivered", undelivered),
        ("unacked", unacked),
    ]
}

fn oldest_age_seconds(books: &Books, now_wall_ms: u64) -> f64 {
    let mut oldest: Option<u64> = None;
    for broker in books.brokers.values() {
        let owing = broker.groups.iter().filter(|(name, group)| !books.is_retired(group, name));
        for (key, owed) in owing.flat_map(|(_, group)| &group.queues) {
            let Some(queue) = broker.queues.get(key) else { continue };
            let Some(at) = owed.oldest_open(queue.max).and_then(|offset| queue.stored_wall_ms(offset)) else {
                continue;
            };
            oldest = Some(oldest.map_or(at, |known| known.min(at)));
        }
    }
    oldest.map_or(0.0, |at| now_wall_ms.saturating_sub(at) as f64 / 1_000.0)
}

fn dead_letters(books: &Books) -> Vec<(String, u64)> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (name, group) in books.brokers.values().flat_map(|broker| &broker.groups) {
        if group.dead_letters.arrived > 0 {
            *sums.entry(name.to_string()).or_insert(0) += group.dead_letters.waiting();
        }
    }
    sums.into_iter().collect()
}

fn margins(books: &Books, now_wall_ms: u64) -> Vec<(String, String, f64)> {
    let mut out = Vec::new();
    for broker in books.brokers.values() {
        for (name, group) in broker.groups.iter().filter(|(name, group)| !books.is_retired(group, name)) {
            let topics: BTreeSet<TopicIncarnation> = group.queues.keys().map(|key| key.topic).collect();
            for topic in topics {
                if let Some(ms) = margin_ms(broker, group, topic, now_wall_ms) {
                    out.push((broker.topic_name(topic).to_owned(), name.to_string(), ms as f64 / 1_000.0));
                }
            }
        }
    }
    out.sort_by(|a, b| a.2.total_cmp(&b.2).then_with(|| (&a.0, &a.1).cmp(&(&b.0, &b.1))));
    out
}

/// Of several sources the least: an alert speaks for all of them.
fn near_expiry_seconds(books: &Books, judge: &Judge) -> f64 {
    let configured = judge.deadlines().near_expiry_ms;
    let near = books.brokers.values().filter_map(|broker| near_ms(broker, configured)).min();
    near.unwrap_or(configured) as f64 / 1_000.0
}

fn findings(report: &ExposureReport) -> ByLabel {
    let count = |name: &str| {
        let found = report.findings.iter().filter(|finding| finding.finding == name);
        found.map(|finding| finding.messages.max(1)).sum()
    };
    FINDINGS.iter().map(|name| (*name, count(name))).collect()
}
