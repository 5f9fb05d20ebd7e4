//! Each class fires exactly, with the right offsets and ids, and what is not a loss stays silent.

mod conflicts;
mod debts;
mod failover;
mod power_cuts;
mod producers;
mod scrubs;
mod streams;
mod waiting;
mod world;

use super::*;
use crate::fold::class::Class;
use lifecycle::fact::*;
use lifecycle::identity::*;
use lifecycle::ids::IdColumn;
use lifecycle::ranges::Ranges;
use verdict::VerdictState::{self, Accepted, Acknowledged, Confirmed, Suspected, Withdrawn};
use world::*;

/// Answered OK, no offset told, and stored nowhere, after a recovery that left messages without a name.
#[test]
fn retention_takes_what_was_never_delivered() {
    let mut w = World::new();
    w.send(10);
    w.flush();
    w.consume(ORDERS, 0, 4);
    w.deliver(ORDERS, 4, 6);
    w.say(vec![expired(ORDERS, 0, 8)]);
    let verdict = w.only(Class::ExpiredBeforeConsumption, Confirmed);
    assert_eq!(spans(verdict), vec![(ORDERS, 6, 8, 1)], "4 and 5 are with a member");
    assert_eq!(verdict.group, "g");
    assert_eq!(verdict.cause.setting, "fileReservedTimeMs=259200000");
    // the broker corrects the position; later retention is the same cause
    w.say(vec![moved("g", ORDERS, 4, 8, MoveReason::Retention)]);
    w.say(vec![expired(ORDERS, 8, 9)]);
    let verdict = w.only(Class::ExpiredBeforeConsumption, Confirmed);
    assert_eq!(verdict.messages, 3);
    assert_eq!(w.judge.counts().confirmed_messages[&Class::ExpiredBeforeConsumption], 3);
}

#[test]
fn a_leased_message_given_back_after_retention_is_lost_then() {
    let mut w = World::new();
    w.send(2);
    w.say(vec![delivered("g", ORDERS, 0, 2, 1)]);
    w.say(vec![expired(ORDERS, 0, 2)]);
    w.silent();
    let acked =
        Fact::Acked { group: "g".into(), queue: q(ORDERS), ranges: Ranges::of(0, 1), member: "m1".into() };
    w.say(vec![acked]);
    w.silent();
    w.say(vec![Fact::LeaseExpired { group: "g".into(), queue: q(ORDERS), ranges: Ranges::of(1, 2) }]);
    assert_eq!(spans(w.only(Class::ExpiredBeforeConsumption, Confirmed)), vec![(ORDERS, 1, 2, 1)]);
}

#[test]
fn retention_that_only_takes_read_messages_is_silent() {
    let mut w = World::new();
    w.send(10);
    w.consume(ORDERS, 0, 8);
    w.say(vec![expired(ORDERS, 0, 8)]);
    w.consume(ORDERS, 8, 10);
    w.say(vec![expired(ORDERS, 8, 10)]);
    w.silent();
}

#[test]
fn a_new_group_owes_nothing_before_its_start() {
    let mut w = World::new();
    w.send(10);
    w.say(vec![World::started("late", ORDERS, 10)]);
    w.consume(ORDERS, 0, 10);
    w.say(vec![expired(ORDERS, 0, 10)]);
    w.send(1);
    w.say(vec![delivered("late", ORDERS, 10, 11, 0), moved("late", ORDERS, 10, 11, MoveReason::Commit)]);
    w.consume(ORDERS, 10, 11);
    w.silent();
    let late = &w.books.brokers["b"].groups["late"].queues[&q(ORDERS)];
    assert_eq!((late.before_membership, late.owed(11), late.counts.settled), (10, 1, 1));
}

#[test]
fn an_idle_group_loses_nothing_to_retention() {
    let mut w = World::new();
    w.send(4);
    w.say(vec![Fact::MemberLeft {
        group: "g".into(),
        member: "m1".into(),
        reason: LeaveReason::Unregistered,
    }]);
    w.wait(crate::fold::IDLE_AFTER_MS + 1_000);
    w.say(vec![expired(ORDERS, 0, 4)]);
    w.silent();
}

#[test]
fn a_forward_reset_skips_and_names_who_did_it_a_rewind_recovers() {
    let mut w = World::new();
    w.send(10);
    w.consume(ORDERS, 0, 2);
    w.deliver(ORDERS, 2, 4);
    w.say(vec![moved("g", ORDERS, 2, 7, MoveReason::Reset)]);
    let verdict = w.only(Class::SkippedByOffsetReset, Confirmed);
    assert_eq!(spans(verdict), vec![(ORDERS, 4, 7, 1)]);
    assert_eq!(verdict.cause.actor, "ann");
    assert_eq!(w.books.totals().skipped, 3);
    w.say(vec![moved("g", ORDERS, 7, 4, MoveReason::Reset)]);
    w.only(Class::SkippedByOffsetReset, Confirmed);
    w.consume(ORDERS, 4, 6);
    let verdict = w.only(Class::SkippedByOffsetReset, Confirmed);
    assert_eq!(verdict.open_messages(), 1);
    w.consume(ORDERS, 6, 10);
    assert_eq!(w.only(Class::SkippedByOffsetReset, VerdictState::Recovered).open_messages(), 0);
    assert_eq!(
        w.judge.counts().confirmed_messages[&Class::SkippedByOffsetReset],
        3,
        "counters never step back"
    );
}

#[test]
fn a_skip_undone_before_the_barrier_is_withdrawn() {
    let mut w = World::new();
    w.send(4);
    // the agent lags: it knows that the broker is three frames ahead
    w.say(Vec::new());
    let head = w.books.position_of("b").map(|p| Position { sequence: p.sequence + 3, ..p });
    w.heads.insert("b".into(), head);
    let position = w.books.position_of("b").unwrap();
    let skip = lifecycle::frame::Frame {
        reset: false,
        snapshot: false,
        now: w.now,
        facts: vec![moved("g", ORDERS, 0, 4, MoveReason::Reset)],
    };
    w.books.apply(&"b".into(), Position { sequence: position.sequence + 1, ..position }, &skip);
    w.step(Vec::new());
    w.only(Class::SkippedByOffsetReset, Suspected);
    for (n, facts) in [
        vec![moved("g", ORDERS, 4, 0, MoveReason::Reset)],
        vec![delivered("g", ORDERS, 0, 4, 0), moved("g", ORDERS, 0, 4, MoveReason::Commit)],
    ]
    .into_iter()
    .enumerate()
    {
        let frame = lifecycle::frame::Frame { reset: false, snapshot: false, now: w.now, facts };
        w.books.apply(
            &"b".into(),
            Position { sequence: position.sequence + 2 + n as u64, ..position },
            &frame,
        );
        w.step(Vec::new());
    }
    w.only(Class::SkippedByOffsetReset, Withdrawn);
    assert_eq!(
        w.judge.counts().confirmed_messages.get(&Class::SkippedByOffsetReset).copied().unwrap_or(0),
        0
    );
}

#[test]
fn progress_past_what_nobody_was_handed_is_acked_without_delivery() {
    let mut w = World::new();
    w.send(6);
    w.deliver(ORDERS, 0, 2);
    w.deliver(ORDERS, 4, 6);
    w.commit(ORDERS, 0, 6);
    assert_eq!(spans(w.only(Class::AckedWithoutDelivery, Confirmed)), vec![(ORDERS, 2, 4, 1)]);
}

#[test]
fn progress_past_filtered_messages_is_silent() {
    let mut w = World::new();
    w.send(6);
    let filtered = Fact::Filtered {
        group: "g".into(),
        queue: q(ORDERS),
        ranges: Ranges::of(2, 4),
        expression: "A".into(),
    };
    w.say(vec![delivered("g", ORDERS, 0, 2, 0), filtered, delivered("g", ORDERS, 4, 6, 0)]);
    w.commit(ORDERS, 0, 6);
    w.silent();
    assert_eq!(w.books.brokers["b"].groups["g"].queues[&q(ORDERS)].counts.filtered, 2);
}

#[test]
fn a_rebalance_delivers_again_and_says_nothing() {
    let mut w = World::new();
    w.send(6);
    w.deliver(ORDERS, 0, 6);
    w.say(vec![Fact::MemberLeft {
        group: "g".into(),
        member: "m1".into(),
        reason: LeaveReason::Disconnected,
    }]);
    w.say(vec![Fact::MemberJoined {
        group: "g".into(),
        member: "m2".into(),
        model: ConsumeModel::Clustering,
    }]);
    w.deliver(ORDERS, 0, 6);
    w.commit(ORDERS, 0, 6);
    w.silent();
    assert_eq!(w.books.totals().redelivered, [0, 0, 0, 6]);
}

#[test]
fn redeliveries_are_counted_by_cause() {
    let mut w = World::new();
    w.send(3);
    w.say(vec![delivered("g", ORDERS, 0, 3, 1)]);
    w.say(vec![Fact::LeaseExpired { group: "g".into(), queue: q(ORDERS), ranges: Ranges::of(0, 1) }]);
    w.say(vec![Fact::Nacked {
        group: "g".into(),
        queue: q(ORDERS),
        offset: 1,
        attempt: 1,
        visible_at_ms: 0,
    }]);
    w.say(vec![delivered("g", ORDERS, 0, 2, 2)]);
    let acked =
        Fact::Acked { group: "g".into(), queue: q(ORDERS), ranges: Ranges::of(0, 3), member: "m1".into() };
    w.say(vec![acked, moved("g", ORDERS, 0, 3, MoveReason::AckFloor)]);
    w.say(vec![moved("g", ORDERS, 3, 1, MoveReason::Reset)]);
    w.say(vec![delivered("g", ORDERS, 1, 3, 1)]);
    assert_eq!(w.books.totals().redelivered, [1, 1, 2, 0]);
    w.silent();
}

#[test]
fn a_retry_goes_through_the_schedule_to_the_group_again() {
    let mut w = World::new();
    w.send(1);
    w.deliver(ORDERS, 0, 1);
    w.copy(SCHEDULE, at(ORDERS, 0, 1), CopyReason::Retry, w.now.wall_ms + 10_000);
    w.commit(ORDERS, 0, 1);
    w.wait(10_500);
    w.copy(RETRY, at(SCHEDULE, 0, 1), CopyReason::Due, 0);
    w.consume(RETRY, 0, 1);
    w.wait(100_000);
    w.silent();
    let group = &w.books.brokers["b"].groups["g"];
    assert_eq!((group.queues[&q(ORDERS)].counts.moved, group.queues[&q(RETRY)].counts.settled), (1, 1));
    assert!(w.books.brokers["b"].timers.is_empty());
}

#[test]
fn a_retry_that_stays_in_the_schedule_is_stuck_until_it_leaves() {
    let mut w = World::new();
    w.send(1);
    w.deliver(ORDERS, 0, 1);
    w.copy(SCHEDULE, at(ORDERS, 0, 1), CopyReason::Retry, w.now.wall_ms + 10_000);
    w.wait(39_000);
    w.silent();
    w.wait(2_000);
    assert_eq!(spans(w.only(Class::StuckInRetry, Confirmed)), vec![(SCHEDULE, 0, 1, 1)]);
    w.wait(2_000);
    assert_eq!(w.only(Class::StuckInRetry, Confirmed).messages, 1, "told once");
    w.copy(RETRY, at(SCHEDULE, 0, 1), CopyReason::Due, 0);
    w.only(Class::StuckInRetry, VerdictState::Recovered);
}

#[test]
fn a_failed_send_back_is_lost_only_when_it_is_passed() {
    let failed = Fact::CopyFailed {
        group: "g".into(),
        parent: at(ORDERS, 1, 1),
        reason: CopyReason::Retry,
        error: "disk full".into(),
    };
    let mut w = World::new();
    w.send(3);
    w.deliver(ORDERS, 0, 3);
    w.say(vec![failed.clone()]);
    w.silent();
    w.commit(ORDERS, 0, 3);
    assert_eq!(spans(w.only(Class::SendBackFailedThenPassed, Confirmed)), vec![(ORDERS, 1, 2, 1)]);

    let mut w = World::new();
    w.send(3);
    w.deliver(ORDERS, 0, 3);
    w.say(vec![failed]);
    w.copy(SCHEDULE, at(ORDERS, 1, 1), CopyReason::Retry, w.now.wall_ms + 1_000);
    w.commit(ORDERS, 0, 3);
    w.silent();
}

#[test]
fn dead_letters_are_their_own_book_and_expire_into_a_loss() {
    let mut w = World::new();
    w.send(2);
    w.deliver(ORDERS, 0, 2);
    w.copy(DLQ, at(ORDERS, 0, 1), CopyReason::DeadLetter, 0);
    w.copy(DLQ, at(ORDERS, 1, 1), CopyReason::DeadLetter, 0);
    w.commit(ORDERS, 0, 2);
    let verdict = w.only(Class::DeadLettered, Confirmed);
    assert_eq!((spans(verdict), verdict.class.is_loss()), (vec![(DLQ, 0, 2, 1)], false));
    let group = &w.books.brokers["b"].groups["g"];
    assert_eq!((group.queues[&q(ORDERS)].counts.dead_lettered, group.dead_letters.waiting()), (2, 2));
    // somebody reads the first; retention takes both
    w.say(vec![
        World::started("human", DLQ, 0),
        delivered("human", DLQ, 0, 1, 0),
        moved("human", DLQ, 0, 1, MoveReason::Commit),
    ]);
    w.say(vec![expired(DLQ, 0, 2)]);
    let lost: Vec<_> = w.verdicts().into_iter().filter(|v| v.class.is_loss()).collect();
    assert_eq!(lost.len(), 1, "{lost:#?}");
    assert_eq!(
        (lost[0].class, lost[0].state, spans(lost[0])),
        (Class::DlqExpired, Confirmed, vec![(DLQ, 1, 2, 1)])
    );
}

#[test]
fn a_dead_letter_that_cannot_be_written_is_suspected_then_lost_or_taken_back() {
    let failed = Fact::CopyFailed {
        group: "g".into(),
        parent: at(ORDERS, 0, 1),
        reason: CopyReason::DeadLetter,
        error: "disk full".into(),
    };
    let mut w = World::new();
    w.send(1);
    w.deliver(ORDERS, 0, 1);
    w.say(vec![failed.clone()]);
    w.only(Class::DlqWriteFailed, Suspected);
    w.commit(ORDERS, 0, 1);
    assert_eq!(spans(w.only(Class::DlqWriteFailed, Confirmed)), vec![(ORDERS, 0, 1, 1)]);
    assert_eq!(w.books.totals().dlq_write_failures, 1);

    let mut w = World::new();
    w.send(1);
    w.deliver(ORDERS, 0, 1);
    w.say(vec![failed]);
    w.copy(DLQ, at(ORDERS, 0, 1), CopyReason::DeadLetter, 0);
    let failed: Vec<_> = w.verdicts().into_iter().filter(|v| v.class == Class::DlqWriteFailed).collect();
    assert_eq!(failed[0].state, Withdrawn);
}

#[test]
fn dead_letters_that_fail_for_one_cause_are_one_incident_of_those_that_were_passed() {
    let failed = |offset| Fact::CopyFailed {
        group: "g".into(),
        parent: at(ORDERS, offset, 1),
        reason: CopyReason::DeadLetter,
        error: "disk full".into(),
    };
    let mut w = World::new();
    w.send(4);
    w.deliver(ORDERS, 0, 4);
    w.say(vec![failed(0), failed(1), failed(2)]);
    assert_eq!(w.only(Class::DlqWriteFailed, Suspected).messages, 3);
    w.commit(ORDERS, 0, 1);
    assert_eq!(w.only(Class::DlqWriteFailed, Confirmed).messages, 1, "the others may still be written");
    w.say(vec![failed(3)]);
    w.copy(DLQ, at(ORDERS, 1, 1), CopyReason::DeadLetter, 0);
    w.commit(ORDERS, 1, 3);
    let lost: Vec<_> = w.verdicts().into_iter().filter(|v| v.class == Class::DlqWriteFailed).collect();
    assert_eq!(lost.len(), 1, "{lost:#?}");
    assert_eq!((spans(lost[0]), lost[0].confirmed_messages), (vec![(ORDERS, 0, 1, 1), (ORDERS, 2, 3, 1)], 2));
    assert_eq!(w.judge.counts().confirmed_messages[&Class::DlqWriteFailed], 2);
}

#[test]
fn weak_answers_are_at_risk_until_flushed_or_lost() {
    for lost in [false, true] {
        let mut w = World::new();
        let stored = w.stored(ORDERS, StoredKind::Produced, 3);
        w.say(vec![stored]);
        w.say(vec![Fact::Answered { from_ordinal: 1, count: 2, class: AnswerClass::FlushDiskTimeout }]);
        let verdict = w.only(Class::AnsweredNotDurable, Confirmed);
        assert_eq!((spans(verdict), verdict.ids.len()), (vec![(ORDERS, 1, 3, 1)], 2));
        if lost {
            w.restart(false, &[(ORDERS, 1)], 0);
            assert!(
                w.verdicts()
                    .iter()
                    .any(|v| v.class == Class::StoredNotFlushedLost && v.ids == ["id-1", "id-2"])
            );
        } else {
            w.flush();
            w.only(Class::AnsweredNotDurable, VerdictState::Recovered);
        }
        assert!(
            w.verdicts()
                .iter()
                .all(|v| v.class != Class::AnsweredNotDurable || v.state == VerdictState::Recovered)
        );
    }
}

#[test]
fn a_risk_that_is_over_before_it_is_confirmed_was_one() {
    let mut w = World::new();
    let stored = w.stored(ORDERS, StoredKind::Produced, 3);
    w.say(vec![stored]);
    let answered = Fact::Answered { from_ordinal: 1, count: 2, class: AnswerClass::FlushDiskTimeout };
    let flushed = w.flushed();
    w.say(vec![answered, flushed]);
    let verdict = w.only(Class::AnsweredNotDurable, VerdictState::Recovered);
    assert!(verdict.confirmed_wall_ms > 0);
    assert_eq!(w.judge.counts().confirmed_messages.get(&Class::AnsweredNotDurable), Some(&2));
}

#[test]
fn a_position_left_in_a_lost_epoch_meets_reused_offsets() {
    let mut w = World::new();
    w.send(4);
    w.consume(ORDERS, 0, 4);
    w.restart(false, &[(ORDERS, 2)], 0);
    w.send(3);
    let reused: Vec<_> = w.verdicts().into_iter().filter(|v| v.class == Class::OffsetReused).collect();
    assert_eq!(reused.len(), 1);
    assert_eq!(spans(reused[0]), vec![(ORDERS, 2, 4, 2)]);
    // the same, with the position clamped as it must be: silent
    let mut w = World::new();
    w.send(4);
    w.consume(ORDERS, 0, 4);
    w.restart(false, &[(ORDERS, 2)], 0);
    w.say(vec![moved("g", ORDERS, 4, 2, MoveReason::Recovery)]);
    w.send(3);
    w.consume(ORDERS, 2, 5);
    assert!(w.verdicts().iter().all(|v| v.class == Class::StoredNotFlushedLost), "{:#?}", w.verdicts());
}

#[test]
fn a_client_that_goes_on_where_it_was_before_a_recovery_skips_reused_offsets() {
    for reason in [MoveReason::Commit, MoveReason::Reset] {
        let mut w = World::new();
        w.send(4);
        w.consume(ORDERS, 0, 4);
        w.restart(false, &[(ORDERS, 2)], 0);
        w.say(vec![moved("g", ORDERS, 4, 2, MoveReason::Recovery)]);
        w.send(5);
        w.say(vec![moved("g", ORDERS, 2, 5, reason)]);
        let lost: Vec<_> =
            w.verdicts().into_iter().filter(|v| v.class.is_loss() && !v.group.is_empty()).collect();
        let said: Vec<_> = lost.iter().map(|v| (v.class, spans(v))).collect();
        // no message can have stood at 4 before: passing over that one has another cause
        let other = if reason == MoveReason::Commit {
            Class::AckedWithoutDelivery
        } else {
            Class::SkippedByOffsetReset
        };
        let expected = [(Class::OffsetReused, vec![(ORDERS, 2, 4, 2)]), (other, vec![(ORDERS, 4, 5, 2)])];
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(expected.iter().all(|one| said.contains(one)), "{said:?}");
    }
}

#[test]
fn a_client_that_commits_first_and_reads_later_has_lost_nothing() {
    for (waited, told) in [(0, Withdrawn), (31_000, VerdictState::Recovered)] {
        let mut w = World::new();
        w.send(4);
        w.consume(ORDERS, 0, 4);
        w.restart(false, &[(ORDERS, 2)], 0);
        w.say(vec![moved("g", ORDERS, 4, 2, MoveReason::Recovery)]);
        // what it had consumed before the recovery is committed again, and it waits for what comes next
        w.say(vec![moved("g", ORDERS, 2, 4, MoveReason::Commit)]);
        w.send(3);
        let reused = |w: &World| {
            let found: Vec<_> =
                w.verdicts().iter().filter(|v| v.class == Class::OffsetReused).map(|v| v.state).collect();
            found
        };
        assert_eq!(reused(&w), [Suspected]);
        w.wait(waited);
        w.deliver(ORDERS, 2, 5);
        assert_eq!(reused(&w), [told]);
        w.say(vec![moved("g", ORDERS, 4, 5, MoveReason::Commit)]);
        let lost = w.verdicts().into_iter().filter(|v| !v.group.is_empty() && v.state == Confirmed).count();
        assert_eq!(lost, 0);
        let books = &w.books.brokers["b"].groups["g"].queues[&q(ORDERS)];
        assert_eq!(
            (books.counts.lost, books.counts.settled),
            (0, 7),
            "2 of the 5 it was handed twice were taken by recovery"
        );
    }
}

#[test]
fn what_was_passed_over_is_undecided_when_nobody_can_tell_that_it_was_read() {
    let passed_over = || {
        let mut w = World::new();
        w.send(4);
        w.consume(ORDERS, 0, 4);
        w.restart(false, &[(ORDERS, 2)], 0);
        w.say(vec![moved("g", ORDERS, 4, 2, MoveReason::Recovery)]);
        w.say(vec![moved("g", ORDERS, 2, 4, MoveReason::Commit)]);
        w.send(3);
        w
    };
    let outcome = |w: &World| {
        let of = |v: &&Verdict| v.class == Class::OffsetReused;
        let state = w.verdicts().into_iter().find(of).map(|v| v.state);
        let counts = w.books.brokers["b"].groups["g"].queues[&q(ORDERS)].counts;
        (state, counts.lost, counts.undecided)
    };
    // frames that were to come will never be received, or a power cut took them
    let lose = |w: &mut World| w.lose_next_frame();
    let cut = |w: &mut World| w.restart(false, &[(ORDERS, 5)], 1);
    for destroy in [&lose as &dyn Fn(&mut World), &cut] {
        let mut w = passed_over();
        destroy(&mut w);
        w.wait(31_000);
        assert_eq!(outcome(&w), (Some(Withdrawn), 0, 2));
        // too late to have hidden anything
        let mut w = passed_over();
        w.wait(31_000);
        w.say(Vec::new());
        destroy(&mut w);
        w.wait(10);
        assert_eq!(outcome(&w), (Some(Confirmed), 2, 0));
    }
}

#[test]
fn deliveries_may_be_untold_although_every_stored_message_was_heard_of() {
    let mut w = World::new();
    w.send(4);
    // the journal on the disk ends before the frame that told of the four: all that can be gone is known
    w.restart_after(false, &[(ORDERS, 4)], 4, 1);
    w.say(vec![moved("g", ORDERS, 0, 4, MoveReason::Commit)]);
    assert!(w.verdicts().is_empty(), "{:#?}", w.verdicts());
    assert_eq!(w.books.brokers["b"].groups["g"].queues[&q(ORDERS)].counts.undecided, 4);
}

#[test]
fn what_a_client_passes_whose_delivery_no_frame_tells_any_more_is_undecided() {
    for reason in [MoveReason::Commit, MoveReason::Reset] {
        let mut w = World::new();
        w.send(4);
        w.flush();
        w.restart(false, &[(ORDERS, 4)], 300);
        w.say(vec![moved("g", ORDERS, 0, 4, reason)]);
        assert!(w.verdicts().iter().all(|v| !v.class.is_loss()), "{:#?}", w.verdicts());
    }
}

#[test]
fn a_copy_that_recovery_took_is_lost_only_if_it_is_not_made_again() {
    for remade in [true, false] {
        let mut w = World::new();
        w.send(1);
        w.deliver(ORDERS, 0, 1);
        w.flush();
        w.copy(SCHEDULE, at(ORDERS, 0, 1), CopyReason::Retry, w.now.wall_ms + 500_000);
        w.commit(ORDERS, 0, 1);
        w.restart(false, &[(SCHEDULE, 0)], 0);
        w.only(Class::StoredNotFlushedLost, Suspected);
        if remade {
            w.copy(SCHEDULE, at(ORDERS, 0, 1), CopyReason::Retry, w.now.wall_ms + 500_000);
            w.wait(40_000);
            w.only(Class::StoredNotFlushedLost, Withdrawn);
        } else {
            w.wait(40_000);
            assert_eq!(w.only(Class::StoredNotFlushedLost, Confirmed).group, "g");
        }
    }
}
