use super::harness::*;
use crate::api::*;
use crate::config::Config;
use lifecycle::fact::{ConsumeModel, Fact};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use store::disk::{Disk, OpenMode};
use store::disk_sim::SimFaults;

fn stored_ids(bench: &Bench) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for fact in bench.facts() {
        if let Fact::Stored(stored) = fact {
            out.extend(stored.ids.iter().map(|id| String::from_utf8(id.to_vec()).unwrap()));
        }
    }
    out
}

fn readable(bench: &mut Bench, topic: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    bench.heartbeat("reader", "reader", topic, ConsumeModel::Clustering);
    for queue_id in 0..bench.queue_ends(topic).len() as u32 {
        let mut offset = 0;
        loop {
            let pulled = bench.pull("reader", "reader", topic, queue_id, offset);
            if pulled.records.is_empty() {
                break;
            }
            out.extend(ids(&pulled.records));
            offset = pulled.next_offset as i64;
        }
    }
    out
}

#[test]
fn a_clean_stop_is_told_apart_from_a_kill() {
    let mut bench = Bench::new(small());
    assert!(bench.send("t", "A").is_ok());
    assert!(bench.stop_cleanly().clean);
    assert!(bench.stop_cleanly().clean);
    bench.send("t", "B").unwrap();
    let report = bench.kill();
    assert!(!report.clean);
    assert_eq!((report.lost, report.stated_again), (0, 0));
    assert_eq!(readable(&mut bench, "t"), ["A".to_owned(), "B".to_owned()].into());
}

#[test]
fn only_a_power_cut_leaves_messages_that_cannot_be_named() {
    let unnamed = |bench: &Bench| {
        let facts = bench.facts();
        facts.iter().rev().find_map(|f| match f {
            Fact::Recovered(recovered) => Some(recovered.unnamed_max),
            _ => None,
        })
    };
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.kill();
    assert_eq!(unnamed(&bench), Some(0), "what a killed process had written is all there");
    bench.send("t", "B").unwrap();
    bench.power_cut(7);
    assert!(
        unnamed(&bench) >= Some(256),
        "the reservation bounds what the journal's lost end could have named"
    );
    bench.stop_cleanly();
    assert_eq!(unnamed(&bench), Some(0));
}

#[test]
fn the_state_after_a_restart_is_the_state_before_it() {
    let mut bench = Bench::new(Config { snapshot_interval_ms: 100, ..small() });
    bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    for n in 0..5 {
        bench.send("t", &format!("A{n}")).unwrap();
        bench.pass(200);
    }
    bench.send_with("t", "D", "DELAY\u{1}18\u{2}").unwrap();
    bench.pull("c", "g", "t", 0, 0);
    bench.commit("c", "g", "t", 0, 2).unwrap();
    assert_eq!(bench.receive("l", "leases", "t", 20_000).len(), 5);
    bench.pass(700);
    bench.send("t", "last").unwrap();
    let before = bench.core.as_ref().unwrap().state_view().clone();
    bench.kill();
    let after = bench.core.as_ref().unwrap().state_view();
    let queues = |state: &crate::state::State| state.queues().collect::<Vec<_>>();
    assert_eq!(queues(&before), queues(after));
    assert_eq!(before.timers(), after.timers());
    for group in ["g", "leases"] {
        assert_eq!(before.group(group).unwrap().queues, after.group(group).unwrap().queues, "{group}");
    }
    assert!(after.group("g").unwrap().members.is_empty(), "nobody is connected after a restart");
}

#[test]
fn what_was_answered_from_the_disk_is_readable_when_the_journal_lost_its_topic() {
    for seed in 0..20 {
        let mut bench = Bench::sync();
        bench.send("early", "0").unwrap();
        bench.pass(1_000);
        for id in ["A", "B", "C"] {
            bench.send("fresh", id).unwrap();
        }
        bench.power_cut(seed);
        assert_eq!(readable(&mut bench, "fresh"), ["A", "B", "C"].map(str::to_owned).into(), "seed {seed}");
        assert_eq!(readable(&mut bench, "early"), ["0".to_owned()].into());
        // a topic made now is another one
        bench.send("later", "D").unwrap();
        assert_eq!(readable(&mut bench, "later"), ["D".to_owned()].into());
        assert_eq!(readable(&mut bench, "fresh").len(), 3);
    }
}

#[test]
fn a_spoilt_record_is_stated_wherever_it_stood_in_its_queue() {
    for spoilt in 0..2 {
        let mut bench = Bench::sync();
        let mut sent: Vec<StoredAt> = Vec::new();
        while sent.len() < 3 {
            let answer = bench.send("t", "A").unwrap();
            sent.extend(answer.into_iter().filter(|at| at.queue_id == 0));
        }
        let at = sent.get(spoilt).unwrap();
        bench.core = None;
        let files = bench.disk.files();
        let (path, _) =
            files.iter().find(|(path, _)| path.to_string_lossy().contains("/commitlog/")).unwrap();
        // commit-log offsets count the segment's header; this is within the body or the properties
        assert!(bench.disk.flip_bit(path, at.commitlog_offset + 80, 3));
        let report = bench.open();
        assert_eq!(report.scan.damaged.len(), 1);
        let stated = bench.facts().into_iter().rev().find_map(|fact| match fact {
            Fact::Recovered(recovered) => Some(recovered.bad),
            _ => None,
        });
        let bad = stated.unwrap();
        let places: Vec<_> = bad.iter().map(|(queue, bad)| (queue.queue_id, bad.iter().collect())).collect();
        assert_eq!(places, vec![(0, vec![(at.queue_offset, at.queue_offset + 1)])]);
        assert_eq!(bench.queue_ends("t").first(), Some(&3));
    }
}

#[test]
fn two_brokers_on_one_folder_do_not_start() {
    let bench = Bench::new(small());
    let parts = crate::core::CoreParts {
        disk: std::sync::Arc::new(bench.disk.clone()),
        dir: "/data".into(),
        config: small(),
        incarnation: lifecycle::identity::Incarnation([99; 16]),
        store_host: "127.0.0.1:1".parse().unwrap(),
        boot: None,
        mandate: None,
    };
    let error = crate::core::Core::open(parts, bench.now).map(|_| ()).unwrap_err();
    assert!(matches!(error.kind, store::error::ErrorKind::Locked), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// A power cut under ASYNC_FLUSH: what was flushed is there, what is there was stored, and what the journal named and the log
    /// lost is exactly the difference. Then life goes on, and nothing is found twice.
    #[test]
    fn a_power_cut_loses_only_what_was_not_flushed(
        plan in prop::collection::vec((0u8..8, 1u64..300), 1..40), seed: u64, sync: bool,
    ) {
        let mut bench = if sync { Bench::sync() } else { Bench::new(Config { snapshot_interval_ms: 700, ..small() }) };
        let mut acked = BTreeSet::new();
        let mut sent = BTreeSet::new();
        for (n, (op, ms)) in plan.into_iter().enumerate() {
            let id = format!("M{n}");
            match op {
                0 => bench.pass(ms * 5),
                1 => { bench.flushing = !bench.flushing; }
                _ => {
                    sent.insert(id.clone());
                    let delay = if op == 2 { "DELAY\u{1}18\u{2}" } else { "" };
                    let answer = bench.try_ask(|reply| Request::Send(message("t", &id, delay), reply));
                    if let Some(Ok(stored)) = answer && stored[0].status == SendStatus::Ok && op != 2 {
                        acked.insert(id);
                    }
                    bench.pass(ms);
                }
            }
        }
        let named = stored_ids(&bench);
        prop_assert_eq!(&named, &sent, "every stored message is named before the cut");
        let report = bench.power_cut(seed);
        bench.flushing = true;
        bench.pass(0);
        let there = if bench.queue_ends("t").is_empty() { BTreeSet::new() } else { readable(&mut bench, "t") };
        prop_assert!(there.is_subset(&sent));
        if sync {
            prop_assert!(acked.is_subset(&there), "answered under SYNC_FLUSH and gone: {:?}", acked.difference(&there));
        }
        prop_assert!(stored_ids(&bench).is_superset(&there), "what is there is named by the journal");
        let ends: u64 = bench.queue_ends("t").iter().sum();
        prop_assert_eq!(ends as usize, there.len(), "every offset below the end is readable: {:?}", report);
        bench.send("t", "after").unwrap();
        bench.pass(700);
        let second = bench.kill();
        prop_assert_eq!((second.lost, second.stated_again), (0, 0));
        prop_assert!(readable(&mut bench, "t").contains("after"));
    }
}

/// The agent judges by the broker's clock: it must go on when nothing else does.
#[test]
fn an_idle_broker_says_what_time_it_is() {
    let mut bench = Bench::new(small());
    bench.send("t", "A").unwrap();
    bench.pass(1_000);
    let head = |bench: &Bench| bench.core.as_ref().unwrap().journal_head().0.sequence;
    let before = head(&bench);
    for _ in 0..20 {
        let wake = bench.turn(Vec::new()).wake_at_ms;
        assert!(wake.is_some_and(|at| at <= bench.now.mono_ms + 5_000), "{wake:?}");
        bench.pass(1_000);
    }
    let frames = head(&bench) - before;
    assert!((3..=5).contains(&frames), "{frames} frames in 20 s");
}

#[test]
fn after_a_disk_that_lied_an_answer_waits_for_its_own_flush() {
    let mut ended_early = 0;
    for seed in 0..12 {
        let mut bench = Bench::sync();
        bench.send("t", "A").unwrap();
        bench.disk.set_faults(SimFaults { syncs_lie: true, ..SimFaults::default() });
        for id in ["B", "C", "D"] {
            bench.send("t", id).unwrap();
        }
        // the journal, which says that they were flushed, is on disk
        bench.disk.set_faults(SimFaults::default());
        bench.pass(1_000);
        if bench.power_cut(seed).lost < 3 {
            continue;
        }
        ended_early += 1;
        bench.flushing = false;
        let answer = bench.try_ask(|reply| Request::Send(message("t", "E", ""), reply));
        assert!(answer.is_none(), "answered before any flush: {answer:?}");
        bench.flushing = true;
        bench.send("t", "F").unwrap();
        bench.power_cut(seed);
        let kept = readable(&mut bench, "t");
        assert!(["A", "E", "F"].iter().all(|id| kept.contains(*id)), "{kept:?}");
    }
    assert!(ended_early > 0, "no seed took what the disk had lied about");
}

/// The only file with bytes in a folder, or in the folders in it.
fn file_in(bench: &Bench, folder: &str) -> PathBuf {
    let files = bench.disk.files().into_iter().filter(|(path, len)| path.starts_with(folder) && *len > 0);
    let found: Vec<PathBuf> = files.map(|(path, _)| path).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// A disk that had said it had flushed has kept less than the snapshot speaks of: of a queue, or of the log.
#[test]
fn what_ends_before_the_snapshot_does_is_made_again_from_the_log() {
    const COUNT: u64 = 9;
    const UNIT: u64 = 20;
    for (kept_units, kept_records) in [(4, COUNT), (0, COUNT), (COUNT, 5)] {
        let mut bench = Bench::new(Config { default_queues: 1, ..small() });
        for n in 0..COUNT {
            bench.send("t", &format!("A{n}")).unwrap();
        }
        let key = bench.core.as_ref().unwrap().state_view().queue_key("t", 0).unwrap();
        let end = match kept_records {
            COUNT => bench.core.as_ref().unwrap().log_view().end.0,
            next => {
                let unit = bench.core.as_mut().unwrap().unit_at(key, next).unwrap();
                unit.commitlog_offset - store::commit_log::HEADER_LEN as u64
            }
        };
        bench.core.take().unwrap().close(bench.now).unwrap();
        let cut =
            |path: &Path, len| bench.disk.open(path, OpenMode::Existing).unwrap().truncate(len).unwrap();
        cut(&file_in(&bench, "/data/consumequeue"), kept_units * UNIT);
        cut(&file_in(&bench, "/data/commitlog"), end);
        let report = bench.open();
        assert_eq!(report.lost, COUNT - kept_records);
        let mut held: BTreeSet<String> = (0..kept_records).map(|n| format!("A{n}")).collect();
        assert_eq!(readable(&mut bench, "t"), held);
        // and goes on where it really ends, over later snapshots too
        bench.send("t", "B").unwrap();
        held.insert("B".to_owned());
        assert_eq!(bench.queue_ends("t"), [kept_records + 1]);
        bench.pass(10_000);
        assert_eq!(bench.kill().lost, 0);
        assert_eq!(readable(&mut bench, "t"), held);
    }
}
