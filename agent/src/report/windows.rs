//! Owns the three books of a window of time: what was sent, stored and consumed of the messages stored in it. A window is a
//! range of offsets per queue, from the slots the books keep; each row says the window it really covers.
//!
//! Differences to the books since the start of evidence: a delayed message is sent in one window and stored in its topic in
//! a later one; debts that a recovery cut off are in the store book only; how old debts ended may no longer be known.

use super::times;
use super::views::{BalanceRow, GroupBookView, ProducerBookView, StoreBookView};
use crate::fold::Books;
use crate::fold::broker::{BrokerBooks, Topic};
use crate::fold::group_queue::GroupQueue;
use crate::fold::marks::State;
use crate::fold::slots::aligned;
use lifecycle::identity::{QueueKey, TopicIncarnation};
use std::collections::BTreeMap;

/// One row per topic that had something stored or refused in the window, one per topic and group that owes some of it.
pub fn balance(books: &Books, window: (u64, u64)) -> Vec<BalanceRow> {
    let mut rows = Vec::new();
    for broker in books.brokers.values().filter(|broker| broker.epoch > 0) {
        let window = aligned(window.0, window.1, broker.now.wall_ms);
        let owing = broker.owing();
        for (topic, known) in &broker.topics {
            let (from, to) = (window.0.max(known_from(broker, *topic, known)), window.1);
            if from >= to {
                continue;
            }
            let ranges = ranges(broker, *topic, (from, to));
            let producer = producer_book(known, (from, to));
            let store = store_book(broker, &ranges);
            if producer.received == 0 && store.stored == 0 {
                continue;
            }
            let of_topic = row(broker, *topic, "", (from, to));
            let balanced = store.balanced;
            rows.push(BalanceRow { producer: Some(producer), store: Some(store), balanced, ..of_topic });
            for name in owing.get(topic).into_iter().flatten() {
                let Some(group) = broker.groups.get(*name) else { continue };
                let mut book = GroupBookView::default();
                for (key, (a, b, _)) in &ranges {
                    if let Some(owed) = group.queues.get(key) {
                        add_debts(&mut book, owed, (*a, *b));
                    }
                }
                let ended = book.settled + book.undecided + book.dead_lettered + book.moved + book.lost;
                book.balanced = book.owed == ended + book.in_flight;
                let retired = books.is_retired(group, name);
                let of_group = row(broker, *topic, name, (from, to));
                rows.push(BalanceRow { balanced: book.balanced, consumer: Some(book), retired, ..of_group });
            }
        }
    }
    rows
}

fn row(broker: &BrokerBooks, topic: TopicIncarnation, group: &str, window: (u64, u64)) -> BalanceRow {
    BalanceRow {
        broker: broker.name.0.to_string(),
        topic: broker.topic_name(topic).to_owned(),
        group: group.to_owned(),
        window: format!("{} to {}", times::text(window.0), times::text(window.1)),
        window_from_wall_ms: Some(window.0),
        window_to_wall_ms: Some(window.1),
        producer: None,
        store: None,
        consumer: None,
        balanced: true,
        retired: false,
    }
}

/// Before this, slots are not known for every queue of the topic.
fn known_from(broker: &BrokerBooks, topic: TopicIncarnation, known: &Topic) -> u64 {
    let queues = broker.queues_of(topic).map(|(_, queue)| queue.slots.known_from_ms);
    queues.chain([known.slots.known_from_ms]).max().unwrap_or(0)
}

/// Per queue: the offsets stored in the window, and how many of its messages a recovery took.
fn ranges(
    broker: &BrokerBooks,
    topic: TopicIncarnation,
    window: (u64, u64),
) -> BTreeMap<QueueKey, (u64, u64, u64)> {
    let of = |queue: &crate::fold::queue::Queue| {
        let (from, to, taken) = queue.slots.within(window.0, window.1, queue.max);
        (from, to.max(from), taken)
    };
    broker.queues_of(topic).map(|(key, queue)| (key, of(queue))).collect()
}

fn producer_book(topic: &Topic, window: (u64, u64)) -> ProducerBookView {
    let (before, after, refused) = topic.slots.within(window.0, window.1, topic.produced);
    let stored = after.saturating_sub(before);
    ProducerBookView { received: stored + refused, stored, refused, open_reports: 0, balanced: true }
}

fn store_book(broker: &BrokerBooks, ranges: &BTreeMap<QueueKey, (u64, u64, u64)>) -> StoreBookView {
    let (mut stored, mut lost) = (0, 0);
    for (key, (a, b, taken)) in ranges {
        let bad = broker.queues.get(key).map_or(0, |queue| queue.bad.within(*a, *b).len());
        stored += b - a + taken;
        lost += taken + bad;
    }
    let waiting = broker.unflushed.iter().flat_map(|entry| &entry.runs).map(|run| {
        let (a, b, _) = ranges.get(&run.queue).copied().unwrap_or_default();
        (run.queue_offset + run.count).min(b).saturating_sub(run.queue_offset.max(a))
    });
    let unflushed: u64 = waiting.sum();
    let flushed = stored.saturating_sub(lost + unflushed);
    StoreBookView { stored, flushed, unflushed, lost, balanced: stored == flushed + unflushed + lost }
}

/// Adds the debts of one queue with offsets `span`.
fn add_debts(book: &mut GroupBookView, owed: &GroupQueue, span: (u64, u64)) {
    let (from, to) = span;
    book.before_membership += to.min(owed.start).saturating_sub(from);
    let from = from.max(owed.start);
    if from >= to {
        return;
    }
    book.owed += to - from;
    let floor = owed.floor.clamp(from, to);
    for (a, b, how) in owed.ended.pieces(from, floor) {
        if how.is_none() {
            book.no_longer_known += b - a;
        }
        add_state(book, how.unwrap_or(State::Settled), b - a);
    }
    for (a, b, mark) in owed.marks.pieces(floor, to) {
        let state = mark.map_or(State::Missed, |mark| mark.state);
        add_state(book, state, b - a);
    }
}

fn add_state(book: &mut GroupBookView, state: State, count: u64) {
    match state {
        State::Delivered | State::Nacked | State::LeaseExpired => book.in_flight += count,
        State::Reopened | State::Missed => {
            book.in_flight += count;
            book.undelivered += count;
        }
        State::Settled => book.settled += count,
        State::Filtered => {
            book.settled += count;
            book.filtered += count;
        }
        State::Moved => book.moved += count,
        State::DeadLettered => book.dead_lettered += count,
        State::Lost => book.lost += count,
        State::Undecided => book.undecided += count,
    }
}
