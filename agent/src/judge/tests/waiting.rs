//! Retries nobody fetches, groups nobody needs any more, names of what retention took.

use super::world::*;
use super::*;

fn read(books: &Books) -> Books {
    Books::from_rows(books.all_rows().iter().map(|(key, row)| (&key[..], &row[..]))).unwrap()
}

/// A retry is stored in the retry topic at once.
fn retried(w: &mut World) {
    w.send(1);
    w.deliver(ORDERS, 0, 1);
    w.copy(SCHEDULE, at(ORDERS, 0, 1), CopyReason::Retry, w.now.wall_ms + 1_000);
    w.commit(ORDERS, 0, 1);
    w.wait(1_000);
    w.copy(RETRY, at(SCHEDULE, 0, 1), CopyReason::Due, 0);
}

#[test]
fn a_retry_that_no_member_fetches_is_stuck_until_one_does() {
    let mut w = World::new();
    retried(&mut w);
    w.wait(119_000);
    w.silent();
    w.wait(4_000);
    let verdict = w.only(Class::StuckInRetry, Confirmed);
    assert_eq!((spans(verdict), verdict.group.as_str()), (vec![(RETRY, 0, 1, 1)], "g"));
    assert_eq!(verdict.cause.hop, "retry");
    w.wait(4_000);
    assert_eq!(w.only(Class::StuckInRetry, Confirmed).messages, 1, "told once");
    w.consume(RETRY, 0, 1);
    w.wait(1_000);
    w.only(Class::StuckInRetry, VerdictState::Recovered);
}

#[test]
fn without_members_or_while_the_queue_is_read_nothing_is_stuck() {
    let left = Fact::MemberLeft { group: "g".into(), member: "m1".into(), reason: LeaveReason::Unregistered };
    let joined =
        Fact::MemberJoined { group: "g".into(), member: "m1".into(), model: ConsumeModel::Clustering };
    let mut w = World::new();
    retried(&mut w);
    w.say(vec![left]);
    w.wait(500_000);
    // a member that has just come is given its time
    w.say(vec![joined]);
    w.wait(60_000);
    w.silent();
    // a queue that is read slowly is not stuck
    for n in 0..10 {
        let kind = StoredKind::Produced;
        let stored = w.stored(RETRY, kind, 1);
        w.say(vec![stored]);
        w.consume(RETRY, n, n + 1);
        w.wait(60_000);
    }
    w.silent();
}

#[test]
fn a_retired_group_owes_nothing_until_somebody_joins_it_again() {
    let left = Fact::MemberLeft { group: "g".into(), member: "m1".into(), reason: LeaveReason::Unregistered };
    let joined =
        Fact::MemberJoined { group: "g".into(), member: "m1".into(), model: ConsumeModel::Clustering };
    let retired = |w: &World| w.books.is_retired(&w.books.brokers["b"].groups["g"], "g");
    let mut w = World::new();
    w.send(6);
    w.say(vec![left]);
    w.retire("g");
    assert!(retired(&w));
    w.say(vec![expired(ORDERS, 0, 2)]);
    w.silent();
    // it survives a checkpoint
    w.books.take_events();
    let read = read(&w.books);
    assert!(read.is_retired(&read.brokers["b"].groups["g"], "g"));
    let rows = crate::report::lists::groups(&w.books, &w.judge, w.now.wall_ms);
    assert!(rows.iter().any(|row| row.group == "g" && row.retired));
    w.wait(10);
    w.say(vec![joined]);
    assert!(!retired(&w));
    w.say(vec![expired(ORDERS, 2, 3)]);
    assert_eq!(spans(w.only(Class::ExpiredBeforeConsumption, Confirmed)), vec![(ORDERS, 2, 3, 1)]);
}

#[test]
fn what_retention_took_is_named_as_far_as_the_agent_still_knows_the_ids() {
    let mut w = World::new();
    w.send(3);
    w.flush();
    w.say(vec![expired(ORDERS, 0, 2)]);
    let verdict = w.only(Class::ExpiredBeforeConsumption, Confirmed);
    assert_eq!(
        (verdict.ids.clone(), verdict.ids_total, verdict.messages),
        (vec!["id-0".into(), "id-1".into()], 2, 2)
    );
}

#[test]
fn a_window_of_the_books_holds_what_was_stored_in_it() {
    const MINUTE: u64 = 60_000;
    let mut w = World::new();
    // whole minutes, so that the window's edges are known
    w.wait(MINUTE * 100 - w.now.wall_ms);
    let start = w.now.wall_ms / MINUTE * MINUTE;
    w.send(4);
    w.flush();
    w.consume(ORDERS, 0, 3);
    w.wait(MINUTE);
    w.send(3);
    w.wait(MINUTE);
    w.send(2);
    w.consume(ORDERS, 3, 8);
    let book = |w: &World, from: u64, to: u64| {
        let rows = crate::report::windows::balance(&w.books, (from, to));
        assert!(rows.iter().all(|row| row.balanced), "{rows:#?}");
        let of_topic = rows.iter().find(|row| row.topic == "orders" && row.group.is_empty()).unwrap();
        let of_group = rows.iter().find(|row| row.topic == "orders" && row.group == "g").unwrap();
        let (store, group) = (of_topic.store.clone().unwrap(), of_group.consumer.clone().unwrap());
        let producer = of_topic.producer.clone().unwrap();
        assert_eq!((producer.stored, store.stored, group.owed), (store.stored, store.stored, store.stored));
        (
            store.stored,
            group.settled,
            group.in_flight,
            of_topic.window_from_wall_ms,
            of_topic.window_to_wall_ms,
        )
    };
    let minute = |n: u64| start + n * MINUTE;
    assert_eq!(book(&w, minute(0), minute(1)), (4, 4, 0, Some(minute(0)), Some(minute(1))));
    assert_eq!(book(&w, minute(1) + 5, minute(2)), (3, 3, 0, Some(minute(1)), Some(minute(2))));
    assert_eq!(book(&w, minute(2), u64::MAX).0, 2);
    assert_eq!(book(&w, minute(2), u64::MAX).2, 1, "the last one was not handed out");
    assert_eq!(book(&w, 0, u64::MAX).0, 9);
    let read = read(&w.books);
    assert_eq!(
        crate::report::windows::balance(&read, (minute(1), minute(2))),
        crate::report::windows::balance(&w.books, (minute(1), minute(2)))
    );
    // hours later only hours are known, and the answer says so
    w.wait(5 * 60 * MINUTE);
    w.send(1);
    let hour = minute(1) / (60 * MINUTE) * 60 * MINUTE;
    let (stored, _, _, from, to) = book(&w, minute(1), minute(2));
    assert_eq!((stored, from, to), (9, Some(hour), Some(hour + 60 * MINUTE)));
}
