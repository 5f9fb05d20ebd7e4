//! What reading a copy of the log back found, judged per copy.

use super::*;
use lifecycle::fact::Scrubbed;

const REPLICATED: [(&str, &str); 4] = [
    ("flushDiskType", "ASYNC_FLUSH"),
    ("brokerRole", "ASYNC_MASTER"),
    ("scrubIntervalMs", "86400000"),
    (EpochStarted::MEMBER, "one"),
];

fn found(from: u64, to: u64) -> Scrubbed {
    let bad = vec![(q(ORDERS), Ranges::of(from, to))];
    let damaged = Ranges::of(100 * from, 100 * to);
    Scrubbed { to: LogPosition(100 * to), damaged, bad, ..Scrubbed::default() }
}

fn unreadable(group: &str, from: u64, to: u64) -> Fact {
    Fact::Unreadable { group: group.into(), queue: q(ORDERS), ranges: Ranges::of(from, to) }
}

fn lost_count(w: &World) -> u64 {
    w.judge.counts().confirmed_messages.get(&Class::CorruptedAtRest).copied().unwrap_or(0)
}

fn open_losses(w: &World) -> u64 {
    crate::report::lists::open_losses(&w.judge).values().sum()
}

fn lost_to_g(w: &World) -> u64 {
    w.books.brokers["b"].groups["g"].queues[&q(ORDERS)].counts.lost
}

#[test]
fn the_only_copy_is_lost_to_all_at_once_and_later_findings_are_no_news() {
    let mut w = World::new();
    w.send(5);
    w.flush();
    w.consume(ORDERS, 0, 2);
    w.say(vec![Fact::Scrubbed(found(1, 4))]);
    let verdict = w.only(Class::CorruptedAtRest, Confirmed);
    assert_eq!((spans(verdict), verdict.is_loss()), (vec![(ORDERS, 1, 4, 1)], true));
    assert_eq!(verdict.ids, ["id-1", "id-2", "id-3"]);
    assert!(verdict.cause.event.contains("read back"), "{}", verdict.cause.event);
    // 1 was consumed before; nobody will get it again, but the group lost only the two others
    assert_eq!((lost_count(&w), open_losses(&w), lost_to_g(&w)), (3, 3, 2));
    let store = w.books.brokers["b"].store;
    assert_eq!((store.stored, store.flushed, store.lost), (5, 2, 3));
    // the same again, a reader that comes upon it, and a start that finds it too
    w.say(vec![Fact::Scrubbed(found(1, 4)), unreadable("g", 2, 4)]);
    w.commit(ORDERS, 2, 5);
    let ends = vec![(q(ORDERS), 0, 5)];
    let bad = vec![(q(ORDERS), Ranges::of(1, 4))];
    let (log_end, flushed) = (LogPosition(500), LogPosition(500));
    w.begin_run(Recovered { clean: true, queues: ends, bad, log_end, flushed, ..Default::default() });
    let of_store: Vec<_> = w.verdicts().into_iter().filter(|v| v.class == Class::CorruptedAtRest).collect();
    assert_eq!(of_store.len(), 1, "{of_store:#?}");
    assert_eq!((lost_count(&w), lost_to_g(&w)), (3, 3), "the fifth was passed without a delivery");
}

#[test]
fn a_group_that_comes_later_has_not_lost_what_the_store_had_lost() {
    let mut w = World::new();
    w.send(5);
    w.flush();
    w.say(vec![Fact::Scrubbed(found(1, 3))]);
    w.say(vec![World::started("h", ORDERS, 0), unreadable("h", 1, 4)]);
    w.wait(60_000);
    let of_group: Vec<_> = w.verdicts().into_iter().filter(|v| v.group == "h").collect();
    // the third was never found by the store's own reading
    assert_eq!(of_group.len(), 1, "{of_group:#?}");
    assert_eq!((of_group[0].class, spans(of_group[0])), (Class::CorruptedAtRest, vec![(ORDERS, 3, 4, 1)]));
    let innocent: Vec<_> = of_group[0].ids.iter().filter(|id| *id != "id-3").collect();
    assert!(innocent.is_empty(), "{innocent:?}");
}

#[test]
fn what_a_replica_has_is_a_copy_less_until_a_group_was_passed_over_it() {
    let mut w = World::with(&REPLICATED);
    w.send(5);
    w.flush();
    w.replicated("two", 5);
    w.say(vec![Fact::Scrubbed(found(2, 4))]);
    let verdict = w.only(Class::CorruptedAtRest, Confirmed);
    assert_eq!((verdict.is_loss(), verdict.recoverable_from.clone()), (false, vec!["two".to_owned()]));
    assert!(crate::report::losses::item(verdict).summary.ends_with("recoverable from two"));
    assert_eq!((lost_count(&w), open_losses(&w), lost_to_g(&w)), (0, 0, 0));
    let store = w.books.brokers["b"].store;
    assert_eq!((store.flushed, store.lost), (5, 0));
    // a consumer comes upon it here
    w.deliver(ORDERS, 0, 2);
    w.say(vec![unreadable("g", 2, 3), unreadable("nobody", 2, 3)]);
    assert_eq!((lost_count(&w), open_losses(&w), lost_to_g(&w)), (1, 1, 1));
    let of_group: Vec<_> = w.verdicts().into_iter().filter(|v| !v.group.is_empty()).collect();
    assert_eq!(of_group.len(), 1, "{of_group:#?}");
    assert_eq!((of_group[0].class, spans(of_group[0])), (Class::CorruptedAtRest, vec![(ORDERS, 2, 3, 1)]));
    // the replica is promoted: its copy is whole
    w.promote("two", 5, 0);
    let state = |w: &World, group: &str| w.verdicts().into_iter().find(|v| v.group == group).unwrap().state;
    assert_eq!(state(&w, ""), VerdictState::Recovered);
    assert_eq!(state(&w, "g"), Confirmed);
    // the group is set back, and gets it
    w.say(vec![moved("g", ORDERS, 3, 2, MoveReason::Reset), delivered("g", ORDERS, 2, 5, 0)]);
    w.commit(ORDERS, 2, 5);
    assert_eq!(state(&w, "g"), VerdictState::Recovered);
}

#[test]
fn what_the_replica_does_not_have_yet_is_lost_beside_what_it_has() {
    let mut w = World::with(&REPLICATED);
    w.send(2);
    w.flush();
    w.replicated("two", 2);
    w.send(3);
    w.flush();
    w.say(vec![Fact::Scrubbed(found(1, 4))]);
    let mut told: Vec<_> = w.verdicts().into_iter().map(|v| (v.is_loss(), spans(v))).collect();
    told.sort();
    assert_eq!(told, [(false, vec![(ORDERS, 1, 2, 1)]), (true, vec![(ORDERS, 2, 4, 1)])]);
    assert_eq!((lost_count(&w), lost_to_g(&w)), (2, 2));
}

#[test]
fn what_nothing_names_is_undecided_with_its_bound() {
    let mut w = World::new();
    w.send(3);
    w.flush();
    w.say(vec![Fact::Scrubbed(Scrubbed {
        unnamed_max: 3,
        damaged: Ranges::of(0, 300),
        ..Scrubbed::default()
    })]);
    let verdict = w.only(Class::Undecided, Confirmed);
    assert_eq!((verdict.undecided, verdict.messages), (3, 0));
    assert_eq!(w.books.undecided(), 3);
}

#[test]
fn another_members_copy_and_rounds_that_find_nothing_are_silent() {
    let mut w = World::new();
    w.send(3);
    w.flush();
    let round = Scrubbed { ends_round: true, round_wall_ms: 7, to: LogPosition(300), ..Scrubbed::default() };
    w.say(vec![Fact::Scrubbed(round), Fact::Scrubbed(Scrubbed { member: "two".into(), ..found(0, 2) })]);
    w.silent();
}

#[test]
fn exposure_and_coverage_say_when_nothing_is_read_back() {
    for (interval, is_off) in [("0", true), ("86400000", false)] {
        let w = World::with(&[("flushDiskType", "SYNC_FLUSH"), ("scrubIntervalMs", interval)]);
        let report = crate::report::exposure::exposure(&w.books, &w.judge, w.now.wall_ms);
        assert_eq!(report.findings.iter().any(|f| f.finding == "scrub-off"), is_off);
        let rows = crate::report::coverage::coverage(&w.books);
        let row = rows.iter().find(|row| row.class == "corrupted-at-rest").unwrap();
        assert_eq!(row.why.contains("scrubber is off"), is_off);
    }
}
