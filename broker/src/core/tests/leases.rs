use super::harness::*;
use crate::api::*;
use lifecycle::fact::{ConsumeModel, Fact};

#[test]
fn a_lease_that_runs_out_is_handed_out_again_in_place() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    let first = bench.receive("c", "g", "t", 10_000);
    assert_eq!((id(&first[0].record), first[0].attempt), ("A".into(), 1));
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    bench.pass(10_000);
    let second = bench.receive("c", "g", "t", 10_000);
    assert_eq!((id(&second[0].record), second[0].attempt), ("A".into(), 2));
    assert!(matches!(bench.ack("g", "t", &first[0].handle), Err(Refusal::InvalidHandle(_))));
    assert!(bench.facts().iter().any(|f| matches!(f, Fact::LateAck { offset: 0, .. })));
    bench.ack("g", "t", &second[0].handle).unwrap();
    bench.pass(60_000);
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    assert_eq!(bench.position("g", "t", 0), 1);
}

#[test]
fn handles_survive_a_kill_of_the_broker() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    let leased = bench.receive("c", "g", "t", 10_000);
    bench.kill();
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    bench.ack("g", "t", &leased[0].handle).unwrap();
}

#[test]
fn the_last_attempt_ends_in_the_dead_letters_and_settles_the_parent() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    for attempt in 1..=3 {
        let leased = bench.receive("c", "g", "t", 10_000);
        assert_eq!(leased[0].attempt, attempt);
        let change = ChangeInvisible {
            group: "g".into(),
            topic: "t".into(),
            client: "c".into(),
            handle: leased[0].handle.clone(),
            invisible_ms: 100,
        };
        bench.ask(|reply| Request::ChangeInvisible(change, reply)).unwrap();
        bench.pass(101);
    }
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    assert_eq!(bench.queue_ends("%DLQ%g"), [1]);
    assert_eq!(bench.position("g", "t", 0), 1);
}

#[test]
fn a_nack_without_delay_is_visible_at_once_and_dead_at_once_after_the_last_attempt() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    for attempt in 1..=3 {
        let leased = bench.receive("c", "g", "t", 10_000);
        assert_eq!(leased[0].attempt, attempt);
        let change = ChangeInvisible {
            group: "g".into(),
            topic: "t".into(),
            client: "c".into(),
            handle: leased[0].handle.clone(),
            invisible_ms: 0,
        };
        bench.ask(|reply| Request::ChangeInvisible(change, reply)).unwrap();
    }
    assert!(bench.receive("c", "g", "t", 10_000).is_empty());
    assert_eq!(bench.queue_ends("%DLQ%g"), [1]);
}

#[test]
fn a_lease_bound_to_its_member_ends_with_it() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
    assert_eq!(bench.receive("c", "g", "t", 0).len(), 1);
    bench.pass(30_000);
    bench.heartbeat("d", "g", "t", ConsumeModel::Lease);
    assert!(bench.receive("d", "g", "t", 0).is_empty(), "its member lives");
    bench.turn(vec![Request::Disconnected(connection("c"))]);
    bench.pass(1);
    let again = bench.receive("d", "g", "t", 0);
    assert_eq!(again[0].attempt, 2);
    bench.kill();
    bench.pass(1);
    assert_eq!(bench.receive("e", "g", "t", 0)[0].attempt, 3, "nobody is a member after a restart");
}

#[test]
fn a_lease_of_somebody_unknown_ends_by_time_and_none_outlives_a_restart() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    assert_eq!(bench.receive("stranger", "g", "t", 0).len(), 1, "auto-renew, but no heartbeat yet");
    bench.pass(1);
    assert_eq!(bench.receive("stranger", "g", "t", 0).len(), 1, "nobody would notice that it died");
    bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
    bench.pass(1);
    assert_eq!(bench.receive("c", "g", "t", 0)[0].attempt, 3);
    bench.kill();
    bench.pass(1);
    assert_eq!(bench.queue_ends("%DLQ%g"), [1], "the last attempt's lease is over after the restart");
}

#[test]
fn leases_and_offsets_exclude_each_other_while_a_member_lives() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Lease);
    let refused = bench.heartbeat_for("d", "g", "t", "*", ConsumeModel::Clustering);
    assert!(matches!(refused, Err(Refusal::WrongConsumeModel(..))));
    let pulled = bench.ask(|reply| Request::Pull(pull("d", "g", "t", 0, 0), reply));
    assert!(matches!(pulled, Err(Refusal::WrongConsumeModel(..))));
}
