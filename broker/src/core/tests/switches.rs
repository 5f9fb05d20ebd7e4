//! A group that changes from offsets to leases, or back: nothing is lost between, and nothing that was settled comes again.

use super::harness::*;
use crate::api::*;
use lifecycle::fact::{ConsumeModel, Fact, MoveReason};

fn four(bench: &mut Bench) {
    for id in ["A", "B", "C", "D"] {
        bench.send("t", id).unwrap();
    }
}

fn send_back(bench: &mut Bench, record: &bytes::Bytes) {
    let commitlog_offset = wire::message::StoredMessage::decode(record).unwrap().0.commitlog_offset;
    let back = SendBack {
        group: "g".into(),
        commitlog_offset,
        delay_level: 1,
        max_reconsume_times: None,
        client: "c".into(),
    };
    bench.ask(|reply| Request::SendBack(back, reply)).unwrap();
}

#[test]
fn what_was_pulled_and_not_committed_is_leased_out_after_the_switch() {
    let mut bench = Bench::new(small());
    four(&mut bench);
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    assert_eq!(bench.pull("c", "g", "t", 0, 0).records.len(), 4);
    bench.commit("c", "g", "t", 0, 1).unwrap();
    bench.leave("c");
    bench.heartbeat("d", "g", "t", ConsumeModel::Lease);
    let first = bench.receive("d", "g", "t", 0);
    assert_eq!(leased(&first), [("B".into(), 1), ("C".into(), 1), ("D".into(), 1)]);
    bench.send("t", "E").unwrap();
    assert_eq!(leased(&bench.receive("d", "g", "t", 0)), [("E".into(), 1)]);
    for message in &first {
        bench.ack("g", "t", &message.handle).unwrap();
    }
    assert_eq!(bench.position("g", "t", 0), 4);
}

#[test]
fn a_message_sent_back_unseen_hides_none_before_it_from_a_lease_consumer() {
    let mut bench = Bench::new(small());
    four(&mut bench);
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    bench.heartbeat("o", "other", "t", ConsumeModel::Clustering);
    let record = bench.pull("o", "other", "t", 0, 2).records.remove(0);
    send_back(&mut bench, &record);
    bench.leave("c");
    assert_eq!(
        leased(&bench.receive("d", "g", "t", 10_000)),
        [("A".into(), 1), ("B".into(), 1), ("D".into(), 1)],
        "C went to the retry topic"
    );
}

#[test]
fn lease_consumers_are_served_the_retry_copies_under_their_topic() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let record = bench.pull("c", "g", "t", 0, 0).records.remove(0);
    send_back(&mut bench, &record);
    bench.commit("c", "g", "t", 0, 1).unwrap();
    bench.leave("c");
    bench.heartbeat("d", "g", "t", ConsumeModel::Lease);
    let slot = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sender = slot.clone();
    let waits = ReceiveMessages { wait_ms: 20_000, ..receive("d", "g", "t", 0) };
    let reply = move |answer: Answer<Vec<LeasedMessage>>| *sender.lock().unwrap() = answer.unwrap();
    bench.turn(vec![Request::Receive(waits, Box::new(reply))]);
    bench.pass(1_000);
    let copy = slot.lock().unwrap().remove(0);
    assert_eq!((id(&copy.record), copy.attempt, copy.topic.as_ref()), ("A".into(), 2, "t"));
    assert_eq!(bench.position("g", "%RETRY%g", 0), 0);
    bench.nack("g", "t", &copy.handle, 0).unwrap();
    let last = bench.receive("d", "g", "t", 0);
    assert_eq!(leased(&last), [("A".into(), 3)], "attempts before the switch count");
    bench.nack("g", "t", &last[0].handle, 0).unwrap();
    assert_eq!(bench.queue_ends("%DLQ%g"), [1]);
    assert_eq!(bench.position("g", "%RETRY%g", 0), 1);
}

#[test]
fn pulls_begin_at_the_floor_and_pass_over_what_was_acknowledged() {
    let mut bench = Bench::new(small());
    four(&mut bench);
    let out = bench.receive("d", "g", "t", 60_000);
    for index in [0, 2] {
        bench.ack("g", "t", &out[index].handle).unwrap();
    }
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let queue = QueueOfGroup { group: "g".into(), topic: "t".into(), queue_id: 0 };
    assert_eq!(bench.ask(|reply| Request::QueryOffset(queue, reply)), Ok(1), "the floor");
    let pulled = bench.pull("c", "g", "t", 0, 1);
    assert_eq!((ids(&pulled.records), pulled.next_offset), (vec!["B".into(), "D".into()], 4));
    assert!(bench.ack("g", "t", &out[1].handle).is_err(), "B is with the one who pulled it");
    bench.commit("c", "g", "t", 0, 4).unwrap();
    assert_eq!(bench.position("g", "t", 0), 4);
    bench.leave("c");
    bench.pass(60_000);
    assert!(bench.receive("e", "g", "t", 60_000).is_empty(), "all is settled");
}

#[test]
fn a_queue_acknowledged_to_its_end_has_nothing_to_pull_and_no_loop() {
    let mut bench = Bench::new(small());
    four(&mut bench);
    let out = bench.receive("d", "g", "t", 60_000);
    for index in [1, 2, 3] {
        bench.ack("g", "t", &out[index].handle).unwrap();
    }
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let pulled = bench.pull("c", "g", "t", 0, 1);
    assert_eq!((pulled.status, pulled.next_offset), (PullStatus::MessageWasRemoving, 4));
    assert_eq!(bench.pull("c", "g", "t", 0, 4).status, PullStatus::OffsetOverflowOne);
}

#[test]
fn a_commit_never_settles_what_is_leased_or_given_back() {
    let mut bench = Bench::new(small());
    four(&mut bench);
    let out = bench.receive("d", "g", "t", 60_000);
    bench.ack("g", "t", &out[0].handle).unwrap();
    bench.nack("g", "t", &out[1].handle, 30_000).unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    bench.commit("c", "g", "t", 0, 4).unwrap();
    assert_eq!(bench.position("g", "t", 0), 1, "B was given back, C and D are out");
    let moved = |f: &Fact| matches!(f, Fact::OffsetMoved { reason: MoveReason::Commit, .. });
    assert!(!bench.facts().iter().any(moved));
    bench.ack("g", "t", &out[2].handle).unwrap();
    bench.commit("admin", "g", "t", 0, 3).unwrap();
    assert_eq!(bench.position("g", "t", 0), 3, "whoever is no member resets the group, and that is stated");
}

#[test]
fn how_a_queue_is_consumed_survives_a_snapshot() {
    let config = crate::config::Config { snapshot_interval_ms: 100, ..small() };
    let mut bench = Bench::new(config);
    four(&mut bench);
    let out = bench.receive("d", "g", "t", 60_000);
    bench.ack("g", "t", &out[1].handle).unwrap();
    for message in [&out[0], &out[2], &out[3]] {
        bench.ack("g", "t", &message.handle).unwrap();
    }
    bench.send("u", "A").unwrap();
    bench.receive("d", "h", "u", 1_000);
    bench.pass(1_000);
    bench.heartbeat("c", "h", "u", ConsumeModel::Clustering);
    bench.pull("c", "h", "u", 0, 0);
    let before = bench.core.as_ref().unwrap().state_view().clone();
    bench.stop_cleanly();
    let after = bench.core.as_ref().unwrap().state_view();
    for group in ["g", "h"] {
        assert_eq!(after.group(group).unwrap().queues, before.group(group).unwrap().queues, "{group}");
    }
}

#[test]
fn what_an_offset_consumer_leaves_between_two_lease_consumers_is_handed_out() {
    let mut bench = Bench::new(small());
    four(&mut bench);
    let out = bench.receive("d", "g", "t", 60_000);
    bench.ack("g", "t", &out[0].handle).unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 1).records), ["B", "C", "D"]);
    bench.commit("c", "g", "t", 0, 2).unwrap();
    bench.leave("c");
    assert_eq!(leased(&bench.receive("e", "g", "t", 60_000)), [("C".into(), 1), ("D".into(), 1)]);
    // and after a move back by an operator
    bench.leave("e");
    bench.commit("admin", "g", "t", 0, 1).unwrap();
    let again = leased(&bench.receive("f", "g", "t", 60_000));
    assert_eq!(again, [("B".into(), 1), ("C".into(), 1), ("D".into(), 1)]);
}
