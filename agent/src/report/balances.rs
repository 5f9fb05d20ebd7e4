//! Owns the three books as they are shown, and the check that they balance.

use super::views::{BalanceRow, GroupBookView, ProducerBookView, StoreBookView};
use crate::fold::Books;
use crate::fold::broker::BrokerBooks;
use crate::fold::group::GroupBooks;
use crate::judge::Judge;
use lifecycle::identity::{QueueKey, TopicIncarnation};
use std::collections::BTreeMap;

const WINDOW: &str = "since start of evidence";

/// One row per broker with the producer and store books, one per topic with its store book, one per topic and group that
/// owes it.
pub fn balance(books: &Books, judge: &Judge) -> Vec<BalanceRow> {
    let mut rows = Vec::new();
    let open_reports = judge.questions().open_reports().count() as u64;
    for broker in books.brokers.values().filter(|broker| broker.epoch > 0) {
        rows.push(broker_row(broker, open_reports));
        let unflushed = unflushed_by_topic(broker);
        let owing = broker.owing();
        let reports = open_reports_by_topic(judge, &broker.name.0);
        for (topic, known) in &broker.topics {
            let store = store_book(broker, *topic, unflushed.get(topic).copied().unwrap_or(0));
            let open_reports = reports.get(&*known.configured.name).copied().unwrap_or(0);
            let producer = producer_book(known.produced, known.refused, open_reports);
            rows.push(BalanceRow {
                producer: Some(producer),
                ..row(broker, *topic, "", (Some(store), None))
            });
            for name in owing.get(topic).into_iter().flatten() {
                let Some(group) = broker.groups.get(*name) else { continue };
                let book = group_book(broker, group, *topic);
                let retired = books.is_retired(group, name);
                rows.push(BalanceRow { retired, ..row(broker, *topic, name, (None, Some(book))) });
            }
        }
    }
    rows
}

fn row(
    broker: &BrokerBooks,
    topic: TopicIncarnation,
    group: &str,
    books: (Option<StoreBookView>, Option<GroupBookView>),
) -> BalanceRow {
    let (store, consumer) = books;
    let balanced = store.as_ref().is_none_or(|b| b.balanced) && consumer.as_ref().is_none_or(|b| b.balanced);
    BalanceRow {
        broker: broker.name.0.to_string(),
        topic: broker.topic_name(topic).to_owned(),
        group: group.to_owned(),
        window: WINDOW.to_owned(),
        window_from_wall_ms: None,
        window_to_wall_ms: None,
        producer: None,
        store,
        consumer,
        balanced,
        retired: false,
    }
}

fn producer_book(stored: u64, refused: u64, open_reports: u64) -> ProducerBookView {
    ProducerBookView { received: stored + refused, stored, refused, open_reports, balanced: true }
}

/// Reports nothing has decided yet, per topic; those that name no broker count for each.
fn open_reports_by_topic<'a>(judge: &'a Judge, broker: &str) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    for open in judge.questions().open_reports() {
        if open.report.broker.is_empty() || &*open.report.broker == broker {
            *counts.entry(&*open.report.topic).or_insert(0) += 1;
        }
    }
    counts
}

fn broker_row(broker: &BrokerBooks, open_reports: u64) -> BalanceRow {
    let totals = broker.totals;
    let balanced = totals.received == totals.produced + totals.refused;
    let producer =
        ProducerBookView { balanced, ..producer_book(totals.produced, totals.refused, open_reports) };
    let unflushed = broker.unflushed.counted();
    let store = StoreBookView {
        stored: broker.store.stored,
        flushed: broker.store.flushed,
        unflushed,
        lost: broker.store.lost,
        balanced: broker.store.stored == broker.store.flushed + unflushed + broker.store.lost,
    };
    let balanced = producer.balanced && store.balanced;
    BalanceRow {
        broker: broker.name.0.to_string(),
        topic: String::new(),
        group: String::new(),
        window: WINDOW.to_owned(),
        window_from_wall_ms: None,
        window_to_wall_ms: None,
        producer: Some(producer),
        store: Some(store),
        consumer: None,
        balanced,
        retired: false,
    }
}

/// Messages of each topic that are not known to be on disk.
pub fn unflushed_by_topic(broker: &BrokerBooks) -> BTreeMap<TopicIncarnation, u64> {
    let mut counts = BTreeMap::new();
    for run in broker.unflushed.iter().flat_map(|entry| &entry.runs) {
        *counts.entry(run.queue.topic).or_insert(0) += run.count;
    }
    counts
}

/// The store book of a topic.
pub fn store_book(broker: &BrokerBooks, topic: TopicIncarnation, unflushed: u64) -> StoreBookView {
    let sum = |field: fn(&crate::fold::queue::Queue) -> u64| -> u64 {
        broker.queues_of(topic).map(|(_, queue)| field(queue)).sum()
    };
    let (stored, lost) = (sum(|q| q.stored), sum(|q| q.lost));
    StoreBookView {
        stored,
        flushed: stored.saturating_sub(lost + unflushed),
        unflushed,
        lost,
        balanced: stored >= lost + unflushed,
    }
}

/// What a group owes of a topic.
pub fn group_book(broker: &BrokerBooks, group: &GroupBooks, topic: TopicIncarnation) -> GroupBookView {
    let mut view = GroupBookView::default();
    let keys = QueueKey { topic, queue_id: 0 }..=QueueKey { topic, queue_id: u32::MAX };
    let mut by_marks = 0;
    for (key, books) in group.queues.range(keys) {
        let max = broker.queues.get(key).map_or(0, |queue| queue.max);
        view.owed += books.owed(max);
        view.settled += books.counts.settled;
        view.filtered += books.counts.filtered;
        view.in_flight += books.in_flight(max);
        view.undelivered += books.undelivered(max);
        view.undecided += books.counts.undecided;
        view.dead_lettered += books.counts.dead_lettered;
        view.moved += books.counts.moved;
        view.lost += books.counts.lost;
        view.before_membership += books.before_membership;
        by_marks += books.in_flight_by_marks(max);
    }
    let ended = view.settled + view.undecided + view.dead_lettered + view.moved + view.lost;
    view.balanced = view.owed == ended + by_marks;
    view
}
