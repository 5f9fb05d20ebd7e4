//! What a fail-over took, and what is at risk of one.

use super::*;

const SYNC: [(&str, &str); 4] = [
    ("flushDiskType", "SYNC_FLUSH"),
    ("brokerRole", "SYNC_MASTER"),
    ("inSyncReplicas", "2"),
    (EpochStarted::MEMBER, "one"),
];

fn answer(w: &mut World, count: u64, class: AnswerClass) {
    let stored = w.stored(ORDERS, StoredKind::Produced, count);
    let Fact::Stored(Stored { first_ordinal, .. }) = stored else { unreachable!("stored") };
    w.say(vec![stored]);
    w.flush();
    w.say(vec![Fact::Answered { from_ordinal: first_ordinal, count, class }]);
}

#[test]
fn what_the_promoted_member_never_had_is_named_though_it_was_on_the_last_masters_disk() {
    let mut w = World::with(&SYNC);
    answer(&mut w, 2, AnswerClass::Replicated);
    w.replicated("two", 2);
    answer(&mut w, 3, AnswerClass::SlaveNotAvailable);
    w.promote("two", 2, 0);
    let lost = w.verdicts().into_iter().find(|v| v.class == Class::NotReplicatedAtFailover).expect("told");
    assert_eq!((spans(lost), lost.state), (vec![(ORDERS, 2, 5, 1)], Confirmed));
    assert_eq!(lost.ids, ["id-2", "id-3", "id-4"]);
    assert_eq!(
        (lost.cause.hop.as_str(), lost.cause.setting.as_str()),
        ("replicate", "brokerRole=SYNC_MASTER")
    );
    assert!(lost.cause.event.starts_with("two was promoted when epoch 1 ended"), "{}", lost.cause.event);
    let others: Vec<_> =
        w.verdicts().into_iter().filter(|v| v.class != Class::NotReplicatedAtFailover).collect();
    assert_eq!(others.len(), 1, "{others:#?}");
    assert_eq!((others[0].class, others[0].state), (Class::AnsweredNotDurable, VerdictState::Recovered));
}

#[test]
fn what_the_promoted_member_had_it_lost_from_its_own_disk() {
    let mut w = World::with(&SYNC);
    answer(&mut w, 2, AnswerClass::Replicated);
    answer(&mut w, 2, AnswerClass::Replicated);
    w.replicated("two", 4);
    answer(&mut w, 1, AnswerClass::FlushSlaveTimeout);
    w.promote("two", 2, 0);
    let of = |class: Class| w.verdicts().into_iter().find(|v| v.class == class).map(spans);
    assert_eq!(of(Class::StoredNotFlushedLost), Some(vec![(ORDERS, 2, 4, 1)]));
    assert_eq!(of(Class::NotReplicatedAtFailover), Some(vec![(ORDERS, 4, 5, 1)]));
}

#[test]
fn a_master_that_goes_on_was_not_replaced() {
    for next in ["one", ""] {
        let mut w = World::with(&SYNC);
        answer(&mut w, 3, AnswerClass::SlaveNotAvailable);
        w.promote(next, 1, 0);
        let lost = w.verdicts().into_iter().find(|v| v.class.is_loss()).expect("told");
        // without names in a group that has replicas nobody can say whose disk it was
        let class = if next == "one" { Class::FlushLied } else { Class::StoredNotFlushedLost };
        assert_eq!((lost.class, spans(lost)), (class, vec![(ORDERS, 1, 3, 1)]));
    }
}

#[test]
fn an_answer_without_replicas_is_at_risk_until_enough_have_it() {
    for class in [AnswerClass::SlaveNotAvailable, AnswerClass::FlushSlaveTimeout] {
        let mut w = World::with(&SYNC);
        answer(&mut w, 3, class);
        let verdict = w.only(Class::AnsweredNotDurable, Confirmed);
        assert_eq!((spans(verdict), verdict.ids.len()), (vec![(ORDERS, 0, 3, 1)], 3));
        w.flush();
        w.replicated("two", 2);
        w.only(Class::AnsweredNotDurable, Confirmed);
        assert_eq!(w.books.brokers["b"].not_durable(), 3);
        w.replicated("two", 3);
        w.only(Class::AnsweredNotDurable, VerdictState::Recovered);
        assert_eq!(w.books.brokers["b"].not_durable(), 0);
        // said too late to be a risk
        w.say(vec![Fact::Answered { from_ordinal: 0, count: 3, class }]);
        w.only(Class::AnsweredNotDurable, VerdictState::Recovered);
    }
}

#[test]
fn what_survives_a_recovery_is_at_risk_until_the_replicas_have_it() {
    let mut w = World::with(&SYNC);
    answer(&mut w, 2, AnswerClass::SlaveNotAvailable);
    answer(&mut w, 2, AnswerClass::SlaveNotAvailable);
    w.promote("one", 3, 0);
    let at_risk = |w: &World| w.books.brokers["b"].not_durable();
    assert_eq!(at_risk(&w), 3);
    w.replicated("two", 2);
    assert_eq!(at_risk(&w), 1);
    w.replicated("two", 3);
    assert_eq!(at_risk(&w), 0);
}

#[test]
fn an_asynchronous_master_promises_no_replica_and_what_it_alone_had_is_named_all_the_same() {
    let mut w = World::with(&[
        ("flushDiskType", "SYNC_FLUSH"),
        ("brokerRole", "ASYNC_MASTER"),
        (EpochStarted::MEMBER, "one"),
    ]);
    answer(&mut w, 1, AnswerClass::Flushed);
    w.replicated("two", 1);
    answer(&mut w, 2, AnswerClass::Flushed);
    w.promote("two", 1, 0);
    let lost = w.only(Class::NotReplicatedAtFailover, Confirmed);
    assert_eq!(
        (spans(lost), lost.ids.clone()),
        (vec![(ORDERS, 1, 3, 1)], vec!["id-1".to_owned(), "id-2".to_owned()])
    );
}

#[test]
fn a_report_of_what_a_fail_over_took_unheard_names_it() {
    let mut w = World::with(&SYNC);
    answer(&mut w, 2, AnswerClass::Replicated);
    w.promote("two", 2, 7);
    let undecided =
        |w: &World| w.verdicts().into_iter().find(|v| v.class == Class::Undecided).map(|v| v.undecided);
    assert_eq!(undecided(&w), Some(7));
    w.report("unheard", SendOutcome::Ok, Some(3));
    assert_eq!(w.answer(|_| Vec::new()), 1);
    let lost = w.verdicts().into_iter().find(|v| v.class.is_loss()).expect("told");
    assert_eq!((lost.class, lost.ids.clone()), (Class::NotReplicatedAtFailover, vec!["unheard".to_owned()]));
    assert!(
        lost.cause.event.starts_with("another member was promoted when epoch 1 ended"),
        "{}",
        lost.cause.event
    );
    assert_eq!(undecided(&w), Some(6));
}

fn findings(w: &World) -> Vec<String> {
    let report = crate::report::exposure::exposure(&w.books, &w.judge, w.now.wall_ms);
    let of_replication =
        ["single-copy", "unreplicated", "replicas-missing", "async-replication", "not-durable-answers"];
    let found = report.findings.into_iter().filter(|f| of_replication.contains(&f.finding.as_str()));
    found.map(|finding| format!("{} {}", finding.finding, finding.messages)).collect()
}

#[test]
fn exposure_tells_what_a_fail_over_would_take() {
    let mut w = World::with(&SYNC);
    answer(&mut w, 3, AnswerClass::SlaveNotAvailable);
    assert_eq!(
        findings(&w),
        ["single-copy 3", "replicas-missing 0", "unreplicated 3", "not-durable-answers 3"]
    );
    w.replicated("two", 2);
    assert_eq!(findings(&w), ["unreplicated 3", "not-durable-answers 3"], "one turn stored all three");
    w.replicated("two", 3);
    assert_eq!(findings(&w), Vec::<String>::new());
    let mut w = World::with(&[("brokerRole", "ASYNC_MASTER")]);
    answer(&mut w, 1, AnswerClass::Flushed);
    assert_eq!(findings(&w), ["single-copy 1"]);
    w.replicated("two", 1);
    assert_eq!(findings(&w), ["async-replication 0"]);
}

/// The stage `replicated` of a message, and whether its answer was less than the promise.
fn shown(w: &World, offset: u64) -> (Option<String>, bool) {
    use crate::report::timeline::{Asked, message};
    let places = vec![("b".into(), at(ORDERS, offset, 1))];
    let timeline = message(&w.books, &w.judge, &Asked { places, complete: true, ..Asked::default() });
    let stage = |name: &str| timeline.stages.iter().find(|stage| stage.stage == name);
    let lesser = stage("answered").is_some_and(|stage| stage.text.contains("less than the promised"));
    (stage("replicated").map(|stage| stage.reached.clone()), lesser)
}

#[test]
fn a_timeline_tells_whether_enough_replicas_have_it() {
    let mut w = World::with(&SYNC);
    answer(&mut w, 1, AnswerClass::SlaveNotAvailable);
    answer(&mut w, 1, AnswerClass::SlaveNotAvailable);
    w.replicated("two", 1);
    assert_eq!(shown(&w, 0), (Some("yes".into()), false));
    assert_eq!(shown(&w, 1), (Some("not yet".into()), true));
    w.promote("three", 1, 0);
    assert_eq!(shown(&w, 1).0, Some("no".into()));
    assert_eq!(shown(&w, 0).0, Some("unknown".into()), "its replicas have not spoken yet");
    let mut w = World::new();
    w.send(1);
    w.flush();
    assert_eq!(shown(&w, 0), (None, false), "nobody is promised a replica");
}
