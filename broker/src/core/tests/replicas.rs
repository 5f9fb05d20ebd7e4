//! A SYNC_MASTER and replicas that are only their words: what is answered, when, and what is stated.

use super::harness::*;
use crate::api::*;
use crate::config::{BrokerRole, Config, FlushDiskType, ReplicaAck};
use lifecycle::fact::{AnswerClass, ConsumeModel, Fact};
use lifecycle::identity::LogPosition;
use std::sync::{Arc, Mutex};

type Slot = Arc<Mutex<Option<Answer<Vec<StoredAt>>>>>;

fn master(flush: FlushDiskType, config: Config) -> Bench {
    Bench::new(Config { broker_role: BrokerRole::SyncMaster, flush_disk_type: flush, ..config })
}

fn send_later(bench: &mut Bench, id: &str) -> Slot {
    let slot = Slot::default();
    let sender = slot.clone();
    let reply = Box::new(move |answer| *sender.lock().unwrap() = Some(answer));
    bench.turn(vec![Request::Send(message("t", id, ""), reply)]);
    slot
}

fn status(slot: &Slot) -> Option<SendStatus> {
    let answer = slot.lock().unwrap().clone()?;
    Some(answer.unwrap()[0].status)
}

fn join(bench: &mut Bench, id: &str) {
    let joined = |reply| Request::Replica(ReplicaEvent::Joined { id: id.into(), at: LogPosition(0), reply });
    bench.ask(joined).unwrap();
}

fn log_end(bench: &Bench) -> LogPosition {
    bench.core.as_ref().unwrap().log.end()
}

fn ack(bench: &mut Bench, id: &str, received: LogPosition, flushed: LogPosition) {
    let sent = log_end(bench);
    bench.turn(vec![Request::Replica(ReplicaEvent::Acked { id: id.into(), sent, received, flushed })]);
}

fn classes(bench: &Bench) -> Vec<AnswerClass> {
    let answered = |fact| match fact {
        Fact::Answered { class, count, .. } => Some(vec![class; count as usize]),
        _ => None,
    };
    bench.facts().into_iter().filter_map(answered).flatten().collect()
}

#[test]
fn without_a_replica_in_reach_the_answer_says_so_at_once() {
    for flush in [FlushDiskType::Async, FlushDiskType::Sync] {
        let mut bench = master(flush, small());
        bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
        let stored = bench.send("t", "A").unwrap();
        assert_eq!(stored[0].status, SendStatus::SlaveNotAvailable);
        assert_eq!(ids(&bench.pull("c", "g", "t", 0, 0).records), ["A"], "answered, so it is readable");
        assert_eq!(classes(&bench), [AnswerClass::SlaveNotAvailable]);
        // one-way and not waited for: hidden behind nothing
        bench.send_with("t", "B", "WAIT\u{1}false\u{2}").unwrap();
        bench.pass(1);
        assert_eq!(ids(&bench.pull("c", "g", "t", 0, 1).records), ["B"]);
    }
}

#[test]
fn an_ok_waits_for_the_replicas_word_and_the_word_is_a_fact_before_it() {
    let mut bench = master(FlushDiskType::Sync, small());
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    join(&mut bench, "r1");
    let slot = send_later(&mut bench, "A");
    bench.pass(100);
    assert_eq!(status(&slot), None, "on the master's disk only");
    assert_eq!(bench.pull("c", "g", "t", 0, 0).status, PullStatus::OffsetOverflowOne, "and not readable");
    let end = log_end(&bench);
    ack(&mut bench, "r1", end, LogPosition(0));
    assert_eq!(status(&slot), None, "received, and the disk's word counts");
    ack(&mut bench, "r1", end, end);
    assert_eq!(status(&slot), Some(SendStatus::Ok));
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 0).records), ["A"]);
    assert_eq!(classes(&bench), [AnswerClass::Replicated]);
    let facts = bench.facts();
    let replicated = |durable| {
        let wanted = Fact::Replicated { replica: "r1".into(), log_position: end, durable };
        facts.iter().position(|fact| *fact == wanted).unwrap()
    };
    let answered = facts.iter().position(|f| matches!(f, Fact::Answered { .. })).unwrap();
    assert!(replicated(false) < replicated(true) && replicated(true) < answered);
}

#[test]
fn under_async_flush_an_ok_claims_no_disk() {
    let config = Config { replica_ack: ReplicaAck::Received, flush_interval_ms: 60_000, ..small() };
    let mut bench = master(FlushDiskType::Async, config);
    join(&mut bench, "r1");
    let slot = send_later(&mut bench, "A");
    assert_eq!(status(&slot), None);
    let end = log_end(&bench);
    ack(&mut bench, "r1", end, LogPosition(0));
    assert_eq!(status(&slot), Some(SendStatus::Ok));
    assert_eq!(
        classes(&bench),
        [AnswerClass::Buffered],
        "the positions of the replica are facts of their own"
    );
}

#[test]
fn a_replica_that_says_nothing_in_time_makes_a_lesser_status() {
    let mut bench = master(FlushDiskType::Sync, small());
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    join(&mut bench, "r1");
    let slot = send_later(&mut bench, "A");
    bench.pass(2_900);
    assert_eq!(status(&slot), None);
    bench.pass(100);
    assert_eq!(status(&slot), Some(SendStatus::FlushSlaveTimeout));
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 0).records), ["A"], "answered, so it is readable");
    // the word of the replicas comes before that of the disk
    bench.flushing = false;
    let both = send_later(&mut bench, "B");
    bench.pass(3_000);
    assert_eq!(status(&both), None, "the disk may still come");
    bench.pass(2_000);
    assert_eq!(status(&both), Some(SendStatus::FlushSlaveTimeout));
    assert_eq!(classes(&bench), [AnswerClass::FlushSlaveTimeout; 2]);
}

#[test]
fn a_replica_that_goes_leaves_what_waits_to_its_time_and_what_comes_to_the_truth() {
    let mut bench = master(FlushDiskType::Sync, small());
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    join(&mut bench, "r1");
    let waiting = send_later(&mut bench, "A");
    bench.pass(1);
    bench.turn(vec![Request::Replica(ReplicaEvent::Left { id: "r1".into() })]);
    let later = bench.send("t", "B").unwrap();
    assert_eq!(later[0].status, SendStatus::SlaveNotAvailable);
    assert_eq!(status(&waiting), None, "it may come back in time");
    assert_eq!(bench.pull("c", "g", "t", 0, 0).status, PullStatus::OffsetOverflowOne, "A has no answer yet");
    join(&mut bench, "r1");
    let end = log_end(&bench);
    ack(&mut bench, "r1", end, end);
    assert_eq!(status(&waiting), Some(SendStatus::Ok));
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 0).records), ["A", "B"]);
}

#[test]
fn below_the_operators_minimum_nothing_is_stored() {
    let mut bench = master(FlushDiskType::Sync, Config { min_in_sync_replicas: 2, ..small() });
    let refused = bench.send("t", "A").unwrap_err();
    assert_eq!((refused.remoting_code(), &refused), (1, &Refusal::TooFewReplicas { in_sync: 1, needed: 2 }));
    assert_eq!(bench.queue_ends("t"), Vec::<u64>::new());
    join(&mut bench, "r1");
    assert_eq!(status(&send_later(&mut bench, "B")), None, "taken, and waits");
}

#[test]
fn k_counts_the_master_and_one_forged_word_is_not_taken() {
    let mut bench = master(FlushDiskType::Sync, Config { in_sync_replicas: 3, ..small() });
    join(&mut bench, "r1");
    assert_eq!(bench.send("t", "A").unwrap()[0].status, SendStatus::SlaveNotAvailable, "two of three");
    join(&mut bench, "r2");
    let slot = send_later(&mut bench, "B");
    bench.pass(1);
    let end = log_end(&bench);
    ack(&mut bench, "r1", end, end);
    assert_eq!(status(&slot), None);
    ack(&mut bench, "r2", LogPosition(end.0 + 1), LogPosition(end.0 + 1));
    assert_eq!(status(&slot), None, "more than it was sent");
    ack(&mut bench, "r2", end, end);
    assert_eq!(status(&slot), Some(SendStatus::Ok));
}
