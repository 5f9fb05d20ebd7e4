//! What settled history still knows: how debts ended, each counted once.

use super::*;
use crate::fold::group_queue::GroupQueue;
use crate::fold::marks::State;

fn owed(w: &World) -> &GroupQueue {
    &w.books.brokers["b"].groups["g"].queues[&q(ORDERS)]
}

fn filtered(from: u64, to: u64) -> Fact {
    Fact::Filtered {
        group: "g".into(),
        queue: q(ORDERS),
        ranges: Ranges::of(from, to),
        expression: "a".into(),
    }
}

fn read(books: &Books) -> Books {
    Books::from_rows(books.all_rows().iter().map(|(key, row)| (&key[..], &row[..]))).unwrap()
}

#[test]
fn a_debt_below_the_floor_still_says_how_it_ended() {
    let mut w = World::new();
    w.send(6);
    w.deliver(ORDERS, 0, 2);
    w.say(vec![filtered(2, 4)]);
    w.deliver(ORDERS, 4, 6);
    w.copy(DLQ, at(ORDERS, 5, 1), CopyReason::DeadLetter, 0);
    w.commit(ORDERS, 0, 6);
    assert_eq!(owed(&w).floor, 6);
    let how: Vec<_> = (0..6).map(|offset| owed(&w).ended.how(offset).unwrap()).collect();
    use State::{DeadLettered, Filtered, Settled};
    assert_eq!(how, [Settled, Settled, Filtered, Filtered, Settled, DeadLettered]);
    let read = read(&w.books);
    assert_eq!(read.brokers["b"].groups["g"].queues[&q(ORDERS)].ended.how(3), Some(Filtered));
}

#[test]
fn a_late_commit_counts_no_debt_twice() {
    let mut w = World::new();
    w.send(6);
    w.deliver(ORDERS, 0, 2);
    w.say(vec![filtered(2, 3)]);
    w.deliver(ORDERS, 3, 6);
    w.copy(SCHEDULE, at(ORDERS, 3, 1), CopyReason::Retry, 900_000_000);
    w.commit(ORDERS, 0, 6);
    let counts = owed(&w).counts;
    assert_eq!((counts.settled, counts.filtered, counts.moved, owed(&w).owed(6)), (5, 1, 1, 6));
    // another member's older progress, then the newer one again: nothing was handed out in between
    w.commit(ORDERS, 6, 1);
    assert_eq!((owed(&w).owed(6), owed(&w).in_flight(6), owed(&w).counts.moved), (6, 4, 1));
    w.commit(ORDERS, 1, 6);
    assert_eq!((owed(&w).counts, owed(&w).owed(6)), (counts, 6));
    assert_eq!(owed(&w).ended.how(2), Some(State::Filtered));
    w.silent();
}

#[test]
fn a_moved_debt_stays_with_its_copy_when_it_is_handed_out_again() {
    let mut w = World::new();
    w.send(2);
    w.deliver(ORDERS, 0, 2);
    w.copy(SCHEDULE, at(ORDERS, 0, 1), CopyReason::Retry, 900_000_000);
    w.commit(ORDERS, 0, 2);
    w.commit(ORDERS, 2, 0);
    w.consume(ORDERS, 0, 2);
    let counts = owed(&w).counts;
    assert_eq!((counts.settled, counts.moved, owed(&w).owed(2)), (1, 1, 2));
}

#[test]
fn what_is_no_longer_remembered_is_not_claimed() {
    let mut w = World::new();
    w.send(10_000);
    for offset in (0..10_000).step_by(2) {
        w.say(vec![filtered(offset, offset + 1), delivered("g", ORDERS, offset + 1, offset + 2, 0)]);
    }
    w.commit(ORDERS, 0, 10_000);
    let ended = &owed(&w).ended;
    assert!(ended.run_count() <= crate::fold::group_queue::ended::ENDED_RUNS_MAX);
    assert_eq!(
        (ended.how(10), ended.how(9_998), ended.how(9_999)),
        (None, Some(State::Filtered), Some(State::Settled))
    );
    // a rewind into it owes again, and the books still balance
    w.commit(ORDERS, 10_000, 10);
    w.consume(ORDERS, 10, 10_000);
    assert_eq!(owed(&w).in_flight(10_000), 0);
}

#[test]
fn dead_letters_name_the_topic_they_were_sent_to_and_their_ids() {
    let mut w = World::new();
    w.send(1);
    w.deliver(ORDERS, 0, 1);
    w.copy(DLQ, at(ORDERS, 0, 1), CopyReason::DeadLetter, 0);
    let verdict = w.only(Class::DeadLettered, Confirmed);
    assert_eq!(verdict.ids, vec!["id-1"], "the copy's own id column");
    assert_eq!(verdict.topics, vec!["%DLQ%g", "orders"]);
    let item = crate::report::losses::item(verdict);
    assert_eq!((item.topic.as_str(), item.group.as_str(), item.messages), ("orders", "g", 1));
}
