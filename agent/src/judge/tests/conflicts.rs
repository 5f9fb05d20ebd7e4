//! Members of one group that subscribe differently: only what another member wants is lost by it.

use super::world::*;
use super::*;

fn subscribed(member: &str, expression: &str) -> Fact {
    Fact::Subscribed {
        group: "g".into(),
        member: member.into(),
        topic: "orders".into(),
        expression: expression.into(),
        version: 1,
    }
}

fn filtered(from: u64, to: u64) -> Fact {
    Fact::Filtered {
        group: "g".into(),
        queue: q(ORDERS),
        ranges: Ranges::of(from, to),
        expression: "A".into(),
    }
}

/// Member m1 takes A, and m2 something else.
fn conflict(other: &str) -> World {
    let mut w = World::new();
    w.say(vec![subscribed("m1", "A")]);
    w.send(6);
    w.say(vec![filtered(0, 2)]);
    w.say(vec![
        Fact::MemberJoined { group: "g".into(), member: "m2".into(), model: ConsumeModel::Clustering },
        subscribed("m2", other),
    ]);
    w
}

#[test]
fn what_a_member_that_takes_everything_did_not_get_is_a_filter_conflict() {
    let mut w = conflict("*");
    w.say(vec![filtered(2, 4)]);
    assert_eq!(spans(w.only(Class::FilterConflict, Confirmed)), vec![(ORDERS, 2, 4, 1)]);
    w.say(vec![subscribed("m2", "A"), filtered(4, 6)]);
    assert_eq!(w.only(Class::FilterConflict, Confirmed).messages, 2, "they agree again");
}

#[test]
fn what_no_member_wants_is_not_lost_by_a_conflict() {
    let mut w = conflict("B || C");
    w.say(vec![filtered(2, 6)]);
    w.silent();
    // 3 is wanted by m2; 2, 4 and 5 by nobody
    let asked = w.answer_tags(|at| Some(if at.queue_offset == 3 { "C" } else { "D" }.to_owned()));
    assert_eq!(asked, 4);
    assert_eq!(spans(w.only(Class::FilterConflict, Confirmed)), vec![(ORDERS, 3, 4, 1)]);
    assert_eq!(w.answer_tags(|_| None), 0, "each is asked once");
}

#[test]
fn what_was_delivered_all_the_same_is_not_named() {
    let mut w = conflict("*");
    w.deliver(ORDERS, 2, 3);
    w.say(vec![filtered(2, 4)]);
    assert_eq!(spans(w.only(Class::FilterConflict, Confirmed)), vec![(ORDERS, 3, 4, 1)]);
}

#[test]
fn a_rewind_after_the_repair_recovers_what_the_conflict_took() {
    let mut w = conflict("*");
    w.say(vec![filtered(2, 4)]);
    w.deliver(ORDERS, 4, 6);
    w.commit(ORDERS, 0, 6);
    w.say(vec![subscribed("m1", "*"), moved("g", ORDERS, 6, 2, MoveReason::Reset)]);
    w.consume(ORDERS, 2, 6);
    w.only(Class::FilterConflict, VerdictState::Recovered);
}

#[test]
fn a_tag_that_nobody_knows_any_more_is_undecided_and_sql_stays_suspected() {
    let mut w = conflict("B");
    w.say(vec![filtered(2, 3)]);
    assert_eq!(w.answer_tags(|_| None), 1);
    w.silent();
    assert_eq!(w.judge.questions().given_up, 1);

    let mut w = conflict("price > 3");
    w.say(vec![filtered(2, 3)]);
    w.wait(100_000);
    w.only(Class::FilterConflict, Suspected);
}

#[test]
fn open_tags_survive_in_rows() {
    let mut w = conflict("B");
    w.say(vec![filtered(2, 4)]);
    let rows: Vec<_> =
        w.judge.rows_changed_since_last().into_iter().filter_map(|(key, row)| Some((key, row?))).collect();
    let mut again = Judge::new(deadlines::Deadlines::default(), new_ids());
    again.restore_rows(rows.iter().map(|(key, row): &(Vec<u8>, Vec<u8>)| (&key[..], &row[..]))).unwrap();
    std::mem::swap(&mut w.judge, &mut again);
    w.say(Vec::new());
    assert_eq!(w.answer_tags(|_| Some("B".to_owned())), 2);
    assert_eq!(spans(w.only(Class::FilterConflict, Confirmed)), vec![(ORDERS, 2, 4, 1)]);
}
