use super::harness::*;
use crate::api::*;
use crate::config::Config;
use lifecycle::fact::{AnswerClass, Fact, StoredKind};
use store::disk_sim::SimFaults;

#[test]
fn an_async_send_is_stated_before_it_is_answered_and_can_be_found() {
    let mut bench = Bench::new(small());
    let stored = bench.send("t", "A1").unwrap();
    assert_eq!((stored[0].queue_id, stored[0].queue_offset, stored[0].status), (0, 0, SendStatus::Ok));
    let facts = bench.facts();
    let at = facts.iter().position(|f| matches!(f, Fact::Stored(s) if s.ids.get(0) == Some(b"A1"))).unwrap();
    assert!(matches!(
        facts[at + 1],
        Fact::Answered { from_ordinal: 0, count: 1, class: AnswerClass::Buffered }
    ));
    let found = bench.core.as_mut().unwrap().locate("A1").unwrap().messages;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].commitlog_offset, stored[0].commitlog_offset);
    let offset_id = format!("7F00000100002A9F{:016X}", stored[0].commitlog_offset);
    assert_eq!(bench.core.as_mut().unwrap().locate(&offset_id).unwrap().messages.len(), 1);
    let nothing = bench.core.as_mut().unwrap().locate("A2").unwrap();
    assert!(nothing.messages.is_empty() && nothing.complete, "the answer rests on the whole index");
    let by_key = Query::ByKey {
        topic: Some(name("t")),
        key: "key-A1".into(),
        unique: false,
        max: 8,
        begin_ms: 0,
        end_ms: u64::MAX,
    };
    let QueryAnswer::Messages(found) = bench.ask(|reply| Request::Query(by_key, reply)).unwrap() else {
        panic!()
    };
    assert_eq!(found.len(), 1);
}

#[test]
fn a_sync_send_waits_for_the_disk_and_hides_until_then() {
    let mut bench = Bench::sync();
    bench.heartbeat("c", "g", "t", lifecycle::fact::ConsumeModel::Clustering);
    bench.flushing = false;
    assert!(
        bench.try_ask(|reply| Request::Send(message("t", "A", ""), reply)).is_none(),
        "not flushed, not answered"
    );
    assert_eq!(bench.pull("c", "g", "t", 0, 0).status, PullStatus::OffsetOverflowOne, "and not readable");
    bench.flushing = true;
    bench.pass(1);
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 0).records), ["A"]);
    let answered = |f: &Fact| matches!(f, Fact::Answered { class: AnswerClass::Flushed, .. });
    assert!(bench.facts().iter().any(answered));
    // a flush that takes too long is answered with the lesser status; the message is readable then
    bench.flushing = false;
    let slot = std::sync::Arc::new(std::sync::Mutex::new(None));
    let sender = slot.clone();
    bench.turn(vec![Request::Send(
        message("t", "B", ""),
        Box::new(move |a| *sender.lock().unwrap() = Some(a)),
    )]);
    bench.pass(5_000);
    let answer = slot.lock().unwrap().take().unwrap().unwrap();
    assert_eq!(answer[0].status, SendStatus::FlushDiskTimeout);
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 1).records), ["B"]);
}

#[test]
fn what_is_refused_is_a_fact_and_stores_nothing() {
    let mut bench = Bench::new(Config { auto_create_topics: false, ..small() });
    assert_eq!(bench.send("nowhere", "A"), Err(Refusal::TopicNotFound("nowhere".into())));
    let mut large = message("nowhere", "B", "");
    large.one_way = true;
    assert!(bench.ask(|reply| Request::Send(large, reply)).is_err());
    let refused: Vec<_> = bench
        .facts()
        .into_iter()
        .filter_map(|f| match f {
            Fact::Refused { code, one_way, ids, .. } => Some((code, one_way, ids.get(0).unwrap().to_vec())),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [(17, false, b"A".to_vec()), (17, true, b"B".to_vec())]);
}

#[test]
fn limits_are_checked_before_anything_is_stored() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    let mut big = message("t", "B", "");
    big.messages[0].body = vec![0; 4097].into();
    let mut wide = message("t", "C", &"x\u{1}y\u{2}".repeat(10_000));
    wide.create_with_queues = None;
    let mut far = message("t", "D", "");
    far.queue = QueueChoice::Given(2);
    let mut late = message("t", "E", "");
    late.messages[0].deliver_at_ms = Some(u64::MAX / 2);
    for (send, code) in [(big, 13), (wide, 13), (far, 29), (late, 13)] {
        assert_eq!(bench.ask(|reply| Request::Send(send, reply)).unwrap_err().remoting_code(), code);
    }
    assert_eq!(bench.queue_ends("t"), [1, 0]);
}

#[test]
fn properties_that_cannot_be_read_are_refused_and_stated() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    let mut torn = message("t", "B", "");
    torn.messages[0].properties = vec![b'K', 1, 0xFF, 0xFE, 2].into();
    let refused = bench.ask(|reply| Request::Send(torn, reply)).unwrap_err();
    assert_eq!(
        (refused.remoting_code(), refused.to_string().as_str()),
        (13, "message refused: properties are not UTF-8")
    );
    let stated = |f: &Fact| matches!(f, Fact::Refused { code: 13, .. });
    assert_eq!(bench.facts().iter().filter(|f| stated(f)).count(), 1);
    // a batch goes as a whole or not at all
    let mut batch = message("t", "C", "");
    let bad = message("t", "D", "TRAN_MSG\u{1}true\u{2}").messages.remove(0);
    batch.messages.push(bad);
    assert!(bench.ask(|reply| Request::Send(batch, reply)).is_err());
    assert_eq!(bench.queue_ends("t"), [1, 0]);
    assert_eq!(bench.send("t", "E").unwrap()[0].queue_offset, 1);
}

#[test]
fn a_full_disk_refuses_sends_lets_reads_go_on_and_recovers_by_itself() {
    let mut bench = Bench::new(small());
    bench.heartbeat("c", "g", "t", lifecycle::fact::ConsumeModel::Clustering);
    bench.send("t", "A").unwrap();
    bench.disk.set_faults(SimFaults { no_space_after_bytes: Some(0), ..Default::default() });
    let refused = bench.try_ask(|reply| Request::Send(message("t", "B", ""), reply));
    assert!(refused.is_none(), "the refusal is a fact, and the journal has no room for it yet");
    bench.disk.set_faults(SimFaults::default());
    bench.pass(200);
    assert_eq!(bench.send("t", "C").unwrap()[0].queue_offset, 1, "B left no trace");
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 0).records), ["A", "C"]);
    let report = bench.kill();
    assert_eq!((report.lost, report.stated_again), (0, 0));
    assert_eq!(bench.queue_ends("t"), [2, 0]);
}

#[test]
fn a_delayed_message_waits_comes_due_once_and_survives_a_kill() {
    let mut bench = Bench::new(small());
    bench.send("t", "now").unwrap();
    bench.send_with("t", "later", "DELAY\u{1}2\u{2}").unwrap();
    assert_eq!(bench.queue_ends("t"), [1, 0]);
    bench.pass(1_000);
    bench.kill();
    bench.pass(500);
    assert_eq!(bench.queue_ends("t"), [1, 0]);
    bench.pass(600);
    assert_eq!(bench.queue_ends("t"), [2, 0]);
    bench.kill();
    bench.pass(60_000);
    assert_eq!(bench.queue_ends("t"), [2, 0], "delivered once");
    bench.heartbeat("c", "g", "t", lifecycle::fact::ConsumeModel::Clustering);
    let copy = bench.pull("c", "g", "t", 0, 1).records.remove(0);
    let (copy, _) = wire::message::StoredMessage::decode(&copy).unwrap();
    let mut names: Vec<_> = copy.properties.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["CLUSTER", "DELAY", "KEYS", "REAL_QID", "REAL_TOPIC", "UNIQ_KEY"], "as RocketMQ's");
    let delayed = |f: &Fact| matches!(f, Fact::Stored(s) if s.kinds.iter().any(|(_, k)| matches!(k, StoredKind::Delayed { .. })));
    assert_eq!(bench.facts().iter().filter(|f| delayed(f)).count(), 1);
}
