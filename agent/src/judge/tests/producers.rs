//! What producers are told and tell: refusals, broken answers, reports; and what operators decide.

use super::world::*;
use super::*;
use crate::fold::rows::StoredRow;

#[test]
fn refusals_are_counted_by_topic_and_code() {
    let ids: IdColumn = [b"x1".as_slice(), b"x2"].into_iter().collect();
    let refused = |one_way| Fact::Refused {
        topic: "orders".into(),
        code: 2,
        reason: "busy".into(),
        one_way,
        ids: ids.clone(),
    };
    let mut w = World::new();
    w.say(vec![refused(false)]);
    w.say(vec![refused(false)]);
    let verdict = w.only(Class::SendRefused, Confirmed).clone();
    assert_eq!((verdict.messages, verdict.ids.len(), verdict.class.is_loss()), (4, 2, false));
    w.say(vec![refused(true), refused(true)]);
    let one_way = w.verdicts().into_iter().find(|v| v.incident != verdict.incident).unwrap();
    assert_eq!(one_way.messages, 4, "two refusals in one frame");
    assert_eq!(w.verdicts().len(), 2);
    assert_eq!(w.books.totals().refused, 8);
}

#[test]
fn an_answer_that_could_not_be_written_leaves_the_producer_in_the_dark() {
    let mut w = World::new();
    let stored = w.stored(ORDERS, StoredKind::Produced, 2);
    w.say(vec![stored]);
    w.say(vec![Fact::BrokenOff { ordinal: 1 }]);
    let verdict = w.only(Class::StoredThoughUnacked, Confirmed);
    assert_eq!((spans(verdict), verdict.ids.clone()), (vec![(ORDERS, 1, 2, 1)], vec!["id-1".to_owned()]));
}

#[test]
fn a_reported_send_that_no_source_has_was_never_stored() {
    let mut w = World::new();
    w.send(1);
    w.report("id-0", SendOutcome::Ok, Some(0));
    w.report("ghost", SendOutcome::Ok, Some(5));
    assert_eq!(w.answer(|_| Vec::new()), 1, "an offset that exists proves itself");
    let verdict = w.only(Class::NeverStored, Confirmed);
    assert_eq!((verdict.ids.clone(), verdict.messages), (vec!["ghost".to_owned()], 1));
    assert_eq!(w.judge.questions().open_reports().count(), 0);
}

#[test]
fn nothing_is_asked_before_every_source_has_passed_the_barrier() {
    let mut w = World::new();
    let mut ahead = w.heads["b"].unwrap();
    ahead.sequence += 2;
    w.heads.insert("b".into(), Some(ahead));
    w.report("ghost", SendOutcome::Ok, None);
    assert_eq!(w.answer(|_| Vec::new()), 0);
    w.say(Vec::new());
    assert_eq!(w.answer(|_| Vec::new()), 0);
    w.say(Vec::new());
    assert_eq!(w.answer(|_| Vec::new()), 1);
    w.only(Class::NeverStored, Confirmed);

    let mut w = World::new();
    w.heads.insert("never-reached".into(), None);
    w.report("ghost", SendOutcome::Ok, None);
    w.wait(100_000);
    assert_eq!(w.answer(|_| Vec::new()), 0, "a source nobody ever reached may hold it");
}

#[test]
fn an_unknown_outcome_is_an_incident_until_it_is_known() {
    let of = |w: &World, class: Class| -> Verdict {
        w.verdicts().into_iter().find(|verdict| verdict.class == class).unwrap().clone()
    };
    let mut w = World::new();
    w.send(1);
    w.report("id-0", SendOutcome::Unknown, None);
    w.report("gone", SendOutcome::Unknown, None);
    assert_eq!(w.answer(|_| Vec::new()), 0, "they may still be on their way");
    let unknown = w.only(Class::SendUnknown, Confirmed);
    assert_eq!((unknown.ids.clone(), unknown.messages), (vec!["gone".to_owned(), "id-0".to_owned()], 2));
    assert!(!unknown.class.is_loss());
    w.wait(11_000);
    assert_eq!(w.answer(|id| if id == "id-0" { vec![at(ORDERS, 0, 1)] } else { Vec::new() }), 2);
    assert_eq!(of(&w, Class::StoredThoughUnacked).ids, vec!["id-0"]);
    assert_eq!(
        (of(&w, Class::NeverStored).ids, of(&w, Class::NeverStored).state),
        (vec!["gone".to_owned()], Confirmed)
    );
    let unknown = of(&w, Class::SendUnknown);
    assert_eq!((unknown.state, unknown.open_messages()), (VerdictState::Recovered, 0));
    assert_eq!(unknown.resolved_ids, vec!["gone", "id-0"]);
    assert_eq!(w.verdicts().len(), 3);
}

#[test]
fn an_incomplete_answer_decides_nothing_and_is_asked_again() {
    let mut w = World::new();
    w.report("ghost", SendOutcome::Ok, None);
    let question = w.judge.take_questions(10).remove(0);
    w.step(vec![Answer { number: question.number, places: Vec::new(), tag: None, complete: false }]);
    w.silent();
    w.wait(3_000);
    assert_eq!(w.answer(|_| Vec::new()), 1);
    w.only(Class::NeverStored, Confirmed);
}

#[test]
fn an_id_stored_twice_is_a_producers_retry_only_if_both_copies_exist() {
    let twice = |w: &mut World| {
        w.send(1);
        let Fact::Stored(mut stored) = w.stored(ORDERS, StoredKind::Produced, 1) else { unreachable!() };
        stored.ids = [b"id-0".as_slice()].into_iter().collect();
        w.say(vec![Fact::Stored(stored)]);
    };
    let mut w = World::new();
    twice(&mut w);
    w.silent();
    assert_eq!(w.answer(|_| vec![at(ORDERS, 0, 1), at(ORDERS, 1, 1)]), 1);
    let verdict = w.only(Class::Duplicate, Confirmed);
    assert_eq!((spans(verdict), verdict.ids.clone()), (vec![(ORDERS, 1, 2, 1)], vec!["id-0".to_owned()]));

    let mut w = World::new();
    twice(&mut w);
    w.answer(|_| vec![at(ORDERS, 1, 1)]);
    w.silent();
}

#[test]
fn a_missing_frame_is_a_gap_and_what_it_hid_is_undecided() {
    let mut w = World::new();
    w.send(4);
    w.deliver(ORDERS, 0, 2);
    // a frame with the delivery of 2 and 3 goes missing
    let mut position = w.books.position_of("b").unwrap();
    position.sequence += 2;
    let facts = vec![moved("g", ORDERS, 0, 4, MoveReason::Commit)];
    let frame = lifecycle::frame::Frame { reset: false, snapshot: false, now: w.now, facts };
    w.books.apply(&"b".into(), position, &frame);
    w.heads.insert("b".into(), Some(position));
    w.step(Vec::new());
    w.only(Class::EvidenceGap, Confirmed);
    assert_eq!(w.books.undecided(), 2);
    assert_eq!(w.books.imbalance(), None);
}

#[test]
fn a_delivery_of_what_was_never_stored_is_unexpected() {
    let mut w = World::new();
    w.send(2);
    w.deliver(ORDERS, 1, 4);
    assert_eq!(spans(w.only(Class::UnexpectedMessage, Confirmed)), vec![(ORDERS, 2, 4, 1)]);
}

#[test]
fn operators_close_incidents_and_later_losses_open_new_ones() {
    let mut w = World::new();
    w.send(4);
    w.say(vec![expired(ORDERS, 0, 1)]);
    let incident = w.only(Class::ExpiredBeforeConsumption, Confirmed).incident;
    w.operator(incident, OperatorAction::Acknowledge);
    let verdict = w.only(Class::ExpiredBeforeConsumption, Acknowledged);
    assert_eq!(verdict.history.last().unwrap().actor, "ann");
    w.say(vec![expired(ORDERS, 1, 2)]);
    let states: Vec<_> = w.verdicts().iter().map(|v| (v.state, spans(v))).collect();
    assert_eq!(states, vec![(Acknowledged, vec![(ORDERS, 0, 1, 1)]), (Confirmed, vec![(ORDERS, 1, 2, 1)])]);
    w.operator(incident, OperatorAction::Accept);
    assert_eq!(w.judge.incident(&incident).unwrap().verdict.state, Accepted);
}

#[test]
fn told_again_after_a_crash_the_same_evidence_changes_nothing() {
    let mut w = World::new();
    w.send(6);
    w.consume(ORDERS, 0, 1);
    w.say(vec![moved("g", ORDERS, 1, 3, MoveReason::Reset)]);
    w.say(vec![Fact::Refused {
        topic: "orders".into(),
        code: 2,
        reason: "busy".into(),
        one_way: false,
        ids: IdColumn::new(),
    }]);
    w.say(vec![expired(ORDERS, 0, 5)]);
    w.restart(false, &[(ORDERS, 5)], 3);
    let hash = w.judge.verdict_hash();
    // the verdict log survived, the ledger did not: everything is folded again
    let mut judge = Judge::new(Deadlines::default(), new_ids());
    for event in &w.told {
        let text = serde_json::to_string(event).unwrap();
        judge.restore(serde_json::from_str(&text).unwrap());
    }
    assert_eq!(judge.verdict_hash(), hash);
    assert_eq!(judge.counts(), w.judge.counts());
    let mut books = Books::default();
    for (source, position, frame) in &w.frames {
        books.apply(source, *position, frame);
        let events = books.take_events();
        let told = judge.step(&books, StepInput { events, now: w.now, heads: &w.heads, answers: Vec::new() });
        assert!(told.iter().all(|event| event.newly_confirmed == 0 && !event.turned), "{told:#?}");
    }
    assert_eq!(judge.verdict_hash(), hash);
    assert_eq!(judge.counts(), w.judge.counts());
}

#[test]
fn open_reports_survive_in_rows() {
    let mut w = World::new();
    w.heads.insert("other".into(), None);
    w.report("a", SendOutcome::Ok, None);
    w.report("b", SendOutcome::Unknown, Some(7));
    let rows: BTreeMap<_, _> =
        w.judge.rows_changed_since_last().into_iter().map(|(k, v)| (k, v.unwrap())).collect();
    assert!(w.judge.rows_changed_since_last().is_empty());
    let mut judge = Judge::new(Deadlines::default(), new_ids());
    judge.restore_rows(slices(&rows)).unwrap();
    let open: Vec<_> = judge.questions().open_reports().map(|open| open.report.clone()).collect();
    let before: Vec<_> = w.judge.questions().open_reports().map(|open| open.report.clone()).collect();
    assert_eq!(open, before);
    let mut all = rows;
    all.extend(w.books.all_rows());
    assert!(Books::from_rows(slices(&all)).is_ok(), "the books skip the judge's rows");
}

#[test]
fn every_topic_has_its_producer_book() {
    let mut w = World::new();
    w.send(3);
    let delayed = StoredKind::Delayed { due_wall_ms: w.now.wall_ms + 1_000, destination: "orders".into() };
    let stored = w.stored(SCHEDULE, delayed, 1);
    w.say(vec![stored]);
    w.wait(1_500);
    w.copy(ORDERS, at(SCHEDULE, 0, 1), CopyReason::Due, 0);
    let ids: IdColumn = [b"x".as_slice(), b"y"].into_iter().collect();
    w.say(vec![Fact::Refused {
        topic: "orders".into(),
        code: 2,
        reason: "busy".into(),
        one_way: false,
        ids,
    }]);
    w.heads.insert("other".into(), None);
    w.report("id-9", SendOutcome::Unknown, None);
    let read = |w: &World, books: &Books| {
        let rows = crate::report::balances::balance(books, &w.judge);
        assert!(rows.iter().all(|row| row.balanced), "{rows:#?}");
        let row = rows.into_iter().find(|row| row.topic == "orders" && row.group.is_empty()).unwrap();
        let producer = row.producer.unwrap();
        assert_eq!(
            (producer.received, producer.stored, producer.refused, producer.open_reports),
            (6, 4, 2, 1)
        );
        assert_eq!(row.store.unwrap().stored, 4);
    };
    read(&w, &w.books);
    read(&w, &Books::from_rows(slices(&w.books.all_rows())).unwrap());
}

fn slices(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> impl Iterator<Item = StoredRow<'_>> {
    rows.iter().map(|(key, value)| (&key[..], &value[..]))
}
