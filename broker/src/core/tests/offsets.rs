use super::harness::*;
use crate::api::*;
use lifecycle::fact::{ConsumeModel, Fact, MoveReason, StoredKind};
use lifecycle::identity::CopyReason;

fn send_back(bench: &mut Bench, group: &str, record: &bytes::Bytes, delay_level: i32) -> Answer<()> {
    let commitlog_offset = wire::message::StoredMessage::decode(record).unwrap().0.commitlog_offset;
    let back = SendBack {
        group: group.into(),
        commitlog_offset,
        delay_level,
        max_reconsume_times: None,
        client: "c".into(),
    };
    bench.ask(|reply| Request::SendBack(back, reply))
}

#[test]
fn a_group_owes_from_its_first_heartbeat_and_commits_what_it_pulled() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let pinned = |f: &Fact| matches!(f, Fact::GroupStarted { group, offset: 0, .. } if group.as_ref() == "g");
    assert_eq!(bench.facts().iter().filter(|f| pinned(f)).count(), 3, "two queues and the retry topic");
    let pulled = bench.pull("c", "g", "t", 0, 0);
    assert_eq!(
        (pulled.status, pulled.next_offset, ids(&pulled.records)),
        (PullStatus::Found, 1, vec!["A".into()])
    );
    bench.commit("c", "g", "t", 0, 1).unwrap();
    bench.kill();
    assert_eq!(bench.position("g", "t", 0), 1);
    assert!(bench.commit("c", "g", "t", 0, 99).is_err(), "beyond the end");
}

#[test]
fn a_stranger_who_moves_a_group_resets_it() {
    let mut bench = Bench::new(small());
    (0..3).for_each(|n| drop(bench.send("t", &format!("A{n}")).unwrap()));
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    bench.commit("admin", "g", "t", 0, 3).unwrap();
    let reset = |f: &&Fact| matches!(f, Fact::OffsetMoved { reason: MoveReason::Reset, from: 0, to: 3, actor, .. } if actor.as_ref() == "admin");
    assert_eq!(bench.facts().iter().filter(reset).count(), 1);
}

#[test]
fn pulls_wait_for_messages_and_end_with_their_time() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let answers = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let ask = |suspend_ms| {
        let answers = answers.clone();
        let pull = PullMessages { suspend_ms, ..pull("c", "g", "t", 0, 1) };
        Request::Pull(
            pull,
            Box::new(move |answer: Answer<Pulled>| answers.lock().unwrap().push(answer.unwrap())),
        )
    };
    bench.turn(vec![ask(15_000)]);
    assert!(answers.lock().unwrap().is_empty());
    bench.send("t", "B").unwrap();
    bench.pass(0);
    assert_eq!(ids(&answers.lock().unwrap().pop().unwrap().records), ["B"]);
    bench.commit("c", "g", "t", 0, 2).unwrap();
    let answers2 = answers.clone();
    let held = PullMessages { suspend_ms: 15_000, ..pull("c", "g", "t", 0, 2) };
    bench.turn(vec![Request::Pull(
        held,
        Box::new(move |a: Answer<Pulled>| answers2.lock().unwrap().push(a.unwrap())),
    )]);
    bench.pass(14_999);
    assert!(answers.lock().unwrap().is_empty());
    bench.pass(1);
    assert_eq!(answers.lock().unwrap().pop().unwrap().status, PullStatus::OffsetOverflowOne);
}

#[test]
fn filtered_messages_are_stated_as_passed_over() {
    let mut bench = Bench::new(small());
    bench.send_with("t", "A", "TAGS\u{1}red\u{2}").unwrap();
    bench.send_with("t", "B", "TAGS\u{1}blue\u{2}").unwrap();
    bench.send("t", "C").unwrap();
    bench.heartbeat_for("c", "g", "t", "blue || green", ConsumeModel::Clustering).unwrap();
    let pulled = bench.pull("c", "g", "t", 0, 0);
    assert_eq!((ids(&pulled.records), pulled.next_offset), (vec!["B".into()], 3));
    let filtered: Vec<_> = bench
        .facts()
        .into_iter()
        .filter_map(|f| match f {
            Fact::Filtered { ranges, .. } => Some(ranges.iter().collect::<Vec<_>>()),
            _ => None,
        })
        .collect();
    assert_eq!(filtered, [vec![(0, 1), (2, 3)]]);
    assert_eq!(bench.pull("c", "g", "t", 0, 2).status, PullStatus::NoMatchedMessage);
}

#[test]
fn a_message_sent_back_returns_with_its_lineage_and_dies_after_its_attempts() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let record = bench.pull("c", "g", "t", 0, 0).records.remove(0);
    send_back(&mut bench, "g", &record, 0).unwrap();
    bench.commit("c", "g", "t", 0, 1).unwrap();
    assert_eq!(bench.queue_ends("%RETRY%g"), [0]);
    bench.pass(3_000);
    let first = bench.pull("c", "g", "%RETRY%g", 0, 0).records.remove(0);
    let (message, _) = wire::message::StoredMessage::decode(&first).unwrap();
    assert_eq!((message.reconsume_times, message.topic), (1, "%RETRY%g"));
    assert_eq!(message.properties.get("RETRY_TOPIC"), Some("t"));
    send_back(&mut bench, "g", &first, 0).unwrap();
    bench.pass(4_000);
    let second = bench.pull("c", "g", "%RETRY%g", 0, 1).records.remove(0);
    send_back(&mut bench, "g", &second, 0).unwrap();
    assert_eq!(bench.queue_ends("%DLQ%g"), [1], "retry_max 2 is exhausted");
    let dead: Vec<_> = bench
        .facts()
        .into_iter()
        .filter_map(|f| match f {
            Fact::Stored(s) => s.kinds.into_iter().find_map(|(_, kind)| match kind {
                StoredKind::Copy { group, lineage, .. } if lineage.reason == CopyReason::DeadLetter => {
                    Some((group, lineage.root.queue_offset, lineage.parent.queue_offset))
                }
                _ => None,
            }),
            _ => None,
        })
        .collect();
    assert_eq!(dead, [(name("g"), 0, 1)], "root: offset 0 of t; parent: offset 1 of the retry topic");
}

#[test]
fn a_send_back_to_a_place_without_a_record_is_refused() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    let back = SendBack {
        group: "g".into(),
        commitlog_offset: 7,
        delay_level: 0,
        max_reconsume_times: None,
        client: "c".into(),
    };
    assert_eq!(bench.ask(|reply| Request::SendBack(back, reply)).unwrap_err().remoting_code(), 1);
}

#[test]
fn the_journal_goes_with_the_messages_once_every_agent_has_it() {
    let config = crate::config::Config {
        segment_bytes: 140 * 1024,
        retention_ms: 60_000,
        snapshot_interval_ms: 1_000,
        ..small()
    };
    let mut bench = Bench::new(config);
    for n in 0..120 {
        let mut send = message("t", &format!("A{n}"), "");
        send.messages[0].body = vec![7; 4000].into();
        bench.ask(|reply| Request::Send(send, reply)).unwrap();
        bench.pass(1_000);
    }
    bench.pass(120_000);
    bench.pass(20_000);
    let core = bench.core.as_mut().unwrap();
    let (head, _) = core.journal_head();
    let saved = core.snapshot.saved.len();
    assert_eq!(core.trim_journal(None).unwrap(), 0);
    assert_eq!(core.snapshot.saved.len(), saved, "nobody has the frames yet");
    core.trim_journal(Some(head)).unwrap();
    assert!(core.snapshot.saved.len() < saved, "snapshots whose messages are gone let their frames go");
    assert!(
        core.snapshot.saved.iter().skip(1).all(|(_, log_end)| *log_end > core.log.start())
            || core.snapshot.saved.len() == 1
    );
    let lost = bench.kill();
    assert_eq!((lost.lost, lost.stated_again), (0, 0));
}

#[test]
fn a_journal_nobody_confirms_stays_below_its_share_of_the_disk_and_the_broker_starts_from_it() {
    let config = crate::config::Config {
        segment_bytes: 64 * 1024 * 1024,
        snapshot_interval_ms: 1_000,
        journal_disk_percent: 1,
        ..small()
    };
    let mut bench = Bench::new(config);
    // one percent of it is less than a segment of the journal and a half
    bench.disk.set_total_bytes(2_400 * 1024 * 1024);
    let mut seed = 1u64;
    let mut turn = |bench: &mut Bench| {
        let sends = (0..200).map(|_| {
            // ids of which no two have anything in common
            let words = (0..12).map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                format!("{seed:016x}")
            });
            let send = message("t", &words.collect::<String>(), "");
            Request::Send(send, Box::new(|answer: Answer<Vec<StoredAt>>| assert!(answer.is_ok())))
        });
        bench.turn(sends.collect());
        bench.pass(400);
    };
    let bytes = |bench: &Bench| {
        let runs = bench.core.as_ref().unwrap().journal_view().incarnations();
        (runs.iter().map(|run| run.bytes).sum::<u64>(), runs.first().map_or(0, |run| run.first_sequence))
    };
    while bytes(&bench).0 < 33 * 1024 * 1024 {
        turn(&mut bench);
    }
    let core = bench.core.as_mut().unwrap();
    assert!(core.trim_journal(None).unwrap() > 0, "nobody has confirmed anything");
    assert!(core.counters().journal_dropped_bytes > 0);
    let (left, first) = bytes(&bench);
    assert!(left <= 24 * 1024 * 1024 && first > 1, "{left} bytes from frame {first} on");
    assert_eq!(bench.core.as_mut().unwrap().trim_journal(None).unwrap(), 0, "it is small enough");
    let before = bench.queue_ends("t");
    let report = bench.kill();
    assert_eq!((report.lost, report.stated_again), (0, 0));
    assert_eq!(bench.queue_ends("t"), before);
}

#[test]
fn retention_says_what_it_deleted() {
    let mut bench =
        Bench::new(crate::config::Config { segment_bytes: 140 * 1024, retention_ms: 60_000, ..small() });
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    for n in 0..100 {
        let mut send = message("t", &format!("A{n}"), "");
        send.messages[0].body = vec![7; 4000].into();
        bench.ask(|reply| Request::Send(send, reply)).unwrap();
    }
    bench.pass(700);
    bench.pass(120_000);
    bench.pass(20_000);
    let expired: Vec<_> = bench.facts().into_iter().filter(|f| matches!(f, Fact::Expired { .. })).collect();
    assert!(!expired.is_empty());
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let pulled = bench.pull("c", "g", "t", 0, 0);
    assert_eq!(pulled.status, PullStatus::OffsetTooSmall);
    assert!(pulled.min_offset > 30 && pulled.next_offset == pulled.min_offset);
    let again = bench.pull("c", "g", "t", 0, pulled.min_offset as i64);
    assert_eq!(again.status, PullStatus::Found);
    let min = pulled.min_offset;
    bench.kill();
    bench.heartbeat("c2", "g2", "t", ConsumeModel::Clustering);
    assert_eq!(bench.pull("c2", "g2", "t", 0, 0).min_offset, min);
}

#[test]
fn the_maximum_of_attempts_is_the_clients_or_the_groups_and_a_negative_level_ends_them() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let record = bench.pull("c", "g", "t", 0, 0).records.remove(0);
    let commitlog_offset = wire::message::StoredMessage::decode(&record).unwrap().0.commitlog_offset;
    let back = |bench: &mut Bench, delay_level, max_reconsume_times| {
        let client = "c".into();
        let back = SendBack { group: "g".into(), commitlog_offset, delay_level, max_reconsume_times, client };
        bench.ask(|reply| Request::SendBack(back, reply)).unwrap();
        (bench.queue_ends("%DLQ%g").first().copied().unwrap_or(0), bench.queue_ends("SCHEDULE_TOPIC_XXXX"))
    };
    let (dead, waiting) = back(&mut bench, 0, None);
    assert_eq!((dead, waiting[2]), (0, 1), "level 0 is the third at first");
    let (dead, waiting) = back(&mut bench, 99, Some(5));
    assert_eq!((dead, waiting[17]), (0, 1), "a level beyond the last is the last");
    assert_eq!(back(&mut bench, 0, Some(0)).0, 1, "the client allows none");
    assert_eq!(back(&mut bench, -1, Some(5)).0, 2, "straight to the dead letters");
}

#[test]
fn a_message_the_client_itself_sends_for_a_retry_is_dead_after_as_many_as_it_says() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let retry = |bench: &mut Bench, reconsume_times, max_reconsume_times| {
        let mut send = message("%RETRY%g", "A", "");
        send.messages[0].reconsume_times = reconsume_times;
        send.messages[0].max_reconsume_times = max_reconsume_times;
        bench.ask(|reply| Request::Send(send, reply)).unwrap();
        (bench.queue_ends("%RETRY%g"), bench.queue_ends("%DLQ%g"))
    };
    assert_eq!(retry(&mut bench, 2, Some(9)), (vec![1], vec![]), "more than the group's 2");
    assert_eq!(retry(&mut bench, 2, None), (vec![1], vec![1]));
    assert_eq!(retry(&mut bench, 1, Some(1)), (vec![1], vec![2]));
}

#[test]
fn negative_and_future_offsets_are_answered_and_lose_nothing() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let low = bench.pull("c", "g", "t", 0, -7);
    assert_eq!((low.status, low.next_offset), (PullStatus::OffsetTooSmall, 0));
    let high = bench.pull("c", "g", "t", 0, i64::MAX);
    assert_eq!((high.status, high.next_offset), (PullStatus::OffsetOverflowBadly, 1));
    let refused = bench.commit("c", "g", "t", 0, u64::MAX).unwrap_err();
    assert_eq!(refused.remoting_code(), 29);
    assert_eq!(bench.position("g", "t", 0), 0, "the group owes what it owed");
    let far = bench.ask(|reply| Request::Pull(pull("c", "g", "t", 9, 0), reply)).unwrap_err();
    assert_eq!(far.to_string(), "queue 9 of topic t does not exist");
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 0).records), ["A"]);
}

#[test]
fn two_clients_of_one_id_are_one_member_and_the_group_still_gets_everything() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    let twin = Heartbeat {
        client: "c".into(),
        connection: ConnectionId(5),
        language: "JAVA".into(),
        version: 409,
        producer_groups: vec![],
        consumers: vec![ConsumerDeclaration {
            group: "g".into(),
            model: ConsumeModel::Clustering,
            push: true,
            start: StartPolicy::Last,
            subscriptions: vec![subscription("t", "*")],
        }],
        notify: None,
    };
    bench.ask(|reply| Request::Heartbeat(twin, reply)).unwrap();
    let joined = |f: &Fact| matches!(f, Fact::MemberJoined { .. });
    assert_eq!(bench.facts().iter().filter(|f| joined(f)).count(), 1);
    // the older connection's end is not the newer one's
    bench.turn(vec![Request::Disconnected(connection("c"))]);
    let left = |f: &Fact| matches!(f, Fact::MemberLeft { .. });
    assert!(!bench.facts().iter().any(left));
    assert_eq!(ids(&bench.pull("c", "g", "t", 0, 0).records), ["A"]);
    bench.turn(vec![Request::Disconnected(ConnectionId(5))]);
    assert!(bench.facts().iter().any(left));
}

#[test]
fn a_position_beyond_what_a_power_cut_left_is_moved_back_and_that_is_said() {
    let mut cut = 0;
    for seed in 0..20 {
        let mut bench = Bench::new(small());
        bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
        for id in ["A", "B", "C"] {
            bench.send("t", id).unwrap();
        }
        assert_eq!(bench.pull("c", "g", "t", 0, 0).records.len(), 3);
        bench.commit("c", "g", "t", 0, 3).unwrap();
        // the journal is on disk, the log is not
        bench.pass(150);
        bench.power_cut(seed);
        let end = bench.queue_ends("t")[0];
        let said: Vec<(u64, u64)> = bench
            .facts()
            .into_iter()
            .filter_map(|fact| match fact {
                Fact::OffsetMoved { from, to, reason: MoveReason::Recovery, .. } => Some((from, to)),
                _ => None,
            })
            .collect();
        assert_eq!(said, if end < 3 { vec![(3, end)] } else { vec![] }, "seed {seed}");
        assert_eq!(bench.position("g", "t", 0), end.min(3));
        cut += u64::from(end < 3);
    }
    assert!(cut > 0, "some cut takes something");
}
