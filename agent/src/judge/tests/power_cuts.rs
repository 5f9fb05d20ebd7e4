//! What a power cut took: by name, by offset, or as a bound; and who may have been taken and cannot be told.

use super::world::*;
use crate::fold::class::Class;
use crate::judge::verdict::VerdictState::Confirmed;
use lifecycle::fact::*;
use lifecycle::identity::*;
use lifecycle::position::Position;

#[test]
fn a_power_cut_is_one_incident_with_every_lost_id() {
    let mut w = World::new();
    w.send(3);
    w.flush();
    w.send(2);
    w.consume(ORDERS, 0, 3);
    w.restart(false, &[(ORDERS, 3)], 0);
    let verdict = w.only(Class::StoredNotFlushedLost, Confirmed);
    assert_eq!(spans(verdict), vec![(ORDERS, 3, 5, 1)]);
    assert_eq!(verdict.ids, vec!["id-3", "id-4"]);
    assert_eq!((verdict.messages, verdict.epoch), (2, 1));
    assert_eq!(verdict.cause.setting, "flushDiskType=ASYNC_FLUSH");
    assert_eq!(verdict.topics, vec!["orders"]);
    assert_eq!(w.judge.counts().confirmed_messages[&Class::StoredNotFlushedLost], 2);
    // the offsets live on in the next epoch, and nothing of the old incident touches them
    w.send(2);
    w.consume(ORDERS, 3, 5);
    w.only(Class::StoredNotFlushedLost, Confirmed);
}

#[test]
fn what_a_power_cut_took_without_a_trace_is_undecided_until_a_report_names_it() {
    let mut w = World::new();
    w.send(3);
    w.flush();
    w.restart(false, &[(ORDERS, 3)], 7);
    let verdict = w.only(Class::Undecided, Confirmed);
    assert_eq!((verdict.undecided, verdict.messages), (7, 0));
    assert_eq!(w.books.undecided(), 7);
    w.report("id-77", SendOutcome::Ok, Some(4));
    assert_eq!(w.answer(|_| Vec::new()), 1);
    let lost: Vec<_> = w.verdicts().into_iter().filter(|v| v.class == Class::StoredNotFlushedLost).collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(
        (lost[0].ids.clone(), lost[0].messages, lost[0].state),
        (vec!["id-77".to_owned()], 1, Confirmed)
    );
    assert_eq!(w.verdicts().iter().find(|v| v.class == Class::Undecided).unwrap().undecided, 6);
}

fn reported_after_a_window(sent: impl Fn(u64) -> u64) -> Vec<(Class, u64, u64, Vec<String>)> {
    let mut w = World::new();
    w.send(3);
    w.flush();
    w.wait(5_000);
    w.restart(false, &[(ORDERS, 3)], 7);
    let recovered = w.now.wall_ms;
    w.wait(60_000);
    w.report_of("id-77", SendOutcome::Ok, None, sent(recovered));
    assert_eq!(w.answer(|_| Vec::new()), 1);
    let verdicts = w.verdicts().into_iter();
    let mut said: Vec<_> = verdicts.map(|v| (v.class, v.messages, v.undecided, v.ids.clone())).collect();
    said.sort_by_key(|said| said.0 as u8);
    said
}

#[test]
fn a_message_without_an_offset_was_taken_by_the_power_cut_it_was_sent_before() {
    let said = reported_after_a_window(|recovered| recovered - 3_000);
    let id = vec!["id-77".to_owned()];
    assert_eq!(said, vec![(Class::StoredNotFlushedLost, 1, 0, id), (Class::Undecided, 0, 6, vec![])]);
}

#[test]
fn a_message_sent_long_after_a_power_cut_was_never_stored() {
    let said = reported_after_a_window(|recovered| recovered + 30_000);
    let id = vec!["id-77".to_owned()];
    assert_eq!(said, vec![(Class::NeverStored, 1, 0, id), (Class::Undecided, 0, 7, vec![])]);
}

#[test]
fn a_message_sent_nobody_knows_when_may_have_been_taken_or_never_stored() {
    let said = reported_after_a_window(|_| 0);
    let id = vec!["id-77".to_owned()];
    assert_eq!(said, vec![(Class::Undecided, 0, 7, vec![]), (Class::Undecided, 0, 1, id)]);
}

#[test]
fn an_offset_that_an_unheard_message_may_have_had_proves_nothing() {
    let mut w = World::new();
    w.send(3);
    w.flush();
    // 3 was stored and answered unheard, and is gone; then its offset is used again
    w.restart(false, &[(ORDERS, 3)], 7);
    w.send(1);
    w.report("id-77", SendOutcome::Ok, Some(3));
    assert_eq!(w.answer(|_| Vec::new()), 1);
    let lost: Vec<_> = w.verdicts().into_iter().filter(|v| v.class == Class::StoredNotFlushedLost).collect();
    assert_eq!(lost.first().map(|v| (v.messages, v.ids.clone())), Some((1, vec!["id-77".to_owned()])));
    // no message of the epoch that ended can have had this one
    w.report("id-78", SendOutcome::Ok, Some(11));
    assert_eq!(w.answer(|_| Vec::new()), 1);
    assert_eq!(w.verdicts().iter().filter(|v| v.class == Class::NeverStored).count(), 1);
}

#[test]
fn a_queue_whose_first_messages_went_unheard_is_a_place_of_the_undecided() {
    let mut w = World::new();
    w.restart(false, &[], 7);
    let verdict = w.only(Class::Undecided, Confirmed);
    let windows: Vec<_> = verdict.windows.iter().map(|span| (span.queue(), span.from, span.to)).collect();
    assert!(windows.contains(&(q(ORDERS), 0, 7)), "{windows:?}");
    // its first offset may have been used by a message that is gone
    w.send(1);
    w.report("id-77", SendOutcome::Ok, Some(0));
    assert_eq!(w.answer(|_| Vec::new()), 1);
    let lost: Vec<_> = w.verdicts().into_iter().filter(|v| v.class == Class::StoredNotFlushedLost).collect();
    assert_eq!(lost.first().map(|v| (v.messages, v.ids.clone())), Some((1, vec!["id-77".to_owned()])));
}

#[test]
fn restarts_that_take_nothing_say_nothing() {
    for clean in [true, false] {
        let mut w = World::new();
        w.send(5);
        w.deliver(ORDERS, 0, 2);
        w.restart(clean, &[], 0);
        w.consume(ORDERS, 0, 5);
        w.send(2);
        w.consume(ORDERS, 5, 7);
        w.restart(clean, &[], 0);
        w.wait(100_000);
        w.silent();
    }
}

#[test]
fn frames_above_the_readable_journal_are_counted_against_the_unnamed() {
    let mut w = World::new();
    w.say(vec![Fact::JournalFlushed { sequence: 1 }, Fact::Reserved { messages: 256, bytes: 1 << 20 }]);
    w.send(4);
    // the journal's tail (the frame with the four) did not survive, but we have it
    let books = w.books.brokers.get("b").unwrap();
    let run = books.current;
    let recovered = Recovered {
        clean: false,
        queues: vec![(q(ORDERS), 0, 0)],
        closed: vec![(run, 2)],
        unnamed_max: 10,
        ..Default::default()
    };
    w.restart(true, &[], 0);
    w.silent();
    let mut w2 = World::new();
    w2.say(vec![Fact::JournalFlushed { sequence: 1 }]);
    w2.send(4);
    let position = Position { incarnation: Incarnation([50; 16]), sequence: 1 };
    let frame = lifecycle::frame::Frame {
        reset: true,
        snapshot: false,
        now: w2.now,
        facts: vec![Fact::Recovered(recovered)],
    };
    w2.books.apply(&"b".into(), position, &frame);
    w2.heads.insert("b".into(), Some(position));
    w2.step(Vec::new());
    let undecided = w2.verdicts().into_iter().find(|v| v.class == Class::Undecided).unwrap();
    assert_eq!(undecided.undecided, 6);
    let lost = w2.verdicts().into_iter().find(|v| v.class == Class::StoredNotFlushedLost).unwrap();
    assert_eq!(lost.ids.len(), 4);
}

/// Topic, first offset, end, epoch.
type Places = Vec<(u64, u64, u64, u64)>;

/// Three messages on disk, two more that are not; then the queue ends at `end` and the log at `log_end`, and these are unreadable.
fn recovered_otherwise(end: u64, log_end: u64, bad: &[(u64, u64)]) -> Vec<(Class, Places)> {
    let mut w = World::new();
    w.send(3);
    w.flush();
    w.send(2);
    let mut unreadable = lifecycle::ranges::Ranges::new();
    bad.iter().for_each(|(from, to)| unreadable.insert(*from, *to));
    let recovered = Recovered {
        log_end: LogPosition(log_end),
        queues: vec![(q(ORDERS), 0, end)],
        bad: vec![(q(ORDERS), unreadable)],
        ..Default::default()
    };
    w.begin_run(recovered);
    w.verdicts().into_iter().filter(|v| v.class.is_loss()).map(|v| (v.class, spans(v))).collect()
}

#[test]
fn what_a_disk_did_not_keep_is_told_by_what_it_had_said() {
    use Class::{CorruptedAtRest, FlushLied, StoredNotFlushedLost};
    // an honest disk
    assert_eq!(recovered_otherwise(3, 300, &[]), [(StoredNotFlushedLost, vec![(ORDERS, 3, 5, 1)])]);
    // one that had reported a flush it did not keep
    let lied = recovered_otherwise(1, 100, &[]);
    assert_eq!(lied, [(FlushLied, vec![(ORDERS, 1, 3, 1)]), (StoredNotFlushedLost, vec![(ORDERS, 3, 5, 1)])]);
    // the log is there, its last record on disk is not readable
    let spoilt = recovered_otherwise(2, 300, &[]);
    assert_eq!(
        spoilt,
        [(CorruptedAtRest, vec![(ORDERS, 2, 3, 1)]), (StoredNotFlushedLost, vec![(ORDERS, 3, 5, 1)])]
    );
    // one in the middle, and one that the power cut wrote out of order
    let torn = recovered_otherwise(5, 500, &[(1, 2), (3, 4)]);
    assert_eq!(
        torn,
        [(CorruptedAtRest, vec![(ORDERS, 1, 2, 1)]), (StoredNotFlushedLost, vec![(ORDERS, 3, 4, 1)])]
    );
}

#[test]
fn whether_it_was_flushed_is_no_guess_where_its_storing_was_not_told() {
    let mut w = World::new();
    w.send(1);
    w.flush();
    // a frame that told of two more was lost; the next one shows that they are there
    w.stored(ORDERS, StoredKind::Produced, 2);
    w.lose_next_frame();
    w.send(1);
    w.restart(false, &[(ORDERS, 1)], 0);
    let lost: Vec<_> = w.verdicts().into_iter().filter(|v| v.class.is_loss()).collect();
    let told: Vec<_> = lost.iter().map(|v| (v.class, spans(v))).collect();
    assert_eq!(told, [(Class::StoredNotFlushedLost, vec![(ORDERS, 1, 4, 1)])]);
}
