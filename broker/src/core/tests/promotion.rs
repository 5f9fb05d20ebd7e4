//! A replica becomes master, and the old one its replica: each on its own disk, what travels between them carried by the test.

use super::harness::*;
use super::slaves::{Pair, readable, slave_config};
use crate::api::*;
use crate::config::{BrokerRole, Config, FlushDiskType};
use crate::replication::mastership::{Mandate, Part};
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::LogPosition;
use std::path::PathBuf;
use store::commit_log::survivor::{SURVIVOR_SUFFIX, Survivor};
use store::disk::Disk;

/// The replica's folder is opened as a master's; the master's as a replica's.
pub(super) fn change_places(pair: Pair, number: u64) -> Pair {
    let Pair { master: mut old, slave: mut new, .. } = pair;
    new.core = None;
    new.config = small();
    new.mandate = Some(Mandate { part: Part::Master, promised: number, wrote_last: false });
    // its runs need names of their own
    new.runs = 10 * number as u8;
    new.open();
    old.core = None;
    old.config = slave_config();
    old.mandate = Some(Mandate { part: Part::Slave, promised: number, wrote_last: true });
    old.open();
    Pair { master: new, slave: old, source: None }
}

fn epoch(bench: &Bench) -> u64 {
    bench.core.as_ref().unwrap().epoch_number()
}

#[test]
fn a_promoted_replica_goes_on_and_the_old_master_keeps_what_it_alone_held() {
    for carried in [0, 1, 3, 8, 30] {
        let mut pair = Pair::new(small());
        pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
        for n in 0..30 {
            pair.master.send("t", &format!("A{n}")).unwrap();
        }
        pair.master.commit("c", "g", "t", 0, 7).unwrap();
        pair.master.send_with("t", "D", "DELAY\u{1}3\u{2}").unwrap();
        pair.check_same("t");
        for n in 0..30 {
            pair.master.send("t", &format!("B{n}")).unwrap();
            if n < carried {
                pair.carry_one();
            }
        }
        let had = pair.master.core.as_ref().unwrap().log_view().end;
        let fork = pair.slave.core.as_ref().unwrap().log_view().end;
        let mut pair = change_places(pair, 7);
        assert_eq!(epoch(&pair.master), 7);
        assert_eq!(pair.master.position("g", "t", 0), 7, "positions come with it");
        let kept = readable(&mut pair.master, "t");
        assert!(kept.len() >= 30 && (0..30).all(|n| kept.contains(&format!("A{n}"))), "{kept:?}");
        pair.connect().unwrap();
        for n in 0..5 {
            pair.master.send("t", &format!("C{n}")).unwrap();
        }
        pair.check_same("t");
        assert_eq!(readable(&mut pair.master, "t").len(), kept.len() + 5);
        let dir = PathBuf::from("/data/survivors");
        let files = pair.slave.disk.list(&dir).unwrap_or_default();
        let files: Vec<_> = files.iter().filter(|file| file.name.ends_with(SURVIVOR_SUFFIX)).collect();
        assert_eq!(files.len(), usize::from(had > fork), "{carried} carried");
        for file in files {
            let survivor = Survivor::open(&pair.slave.disk, &dir.join(&file.name)).unwrap();
            assert_eq!((survivor.from(), survivor.end()), (fork, had));
        }
        // the delayed message was the old master's to deliver, and is the new one's now
        pair.master.pass(4_000);
        assert!(readable(&mut pair.master, "t").contains(&"D".to_owned()));
        // and back again, after deaths of both
        pair.master.kill();
        pair.slave.kill();
        pair.connect().unwrap();
        pair.check_same("t");
        let mut pair = change_places(pair, 20);
        assert_eq!(epoch(&pair.master), 20);
        pair.connect().unwrap();
        pair.master.send("t", "E").unwrap();
        pair.check_same("t");
        assert!(readable(&mut pair.slave, "t").contains(&"E".to_owned()));
    }
}

#[test]
fn a_reader_of_what_the_old_master_alone_held_reads_what_is_stored_in_its_place() {
    let mut pair = Pair::new(small());
    pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    for n in 0..10 {
        pair.master.send("t", &format!("A{n}")).unwrap();
    }
    assert_eq!(pair.master.pull("c", "g", "t", 0, 0).records.len(), 10);
    pair.check_same("t");
    for n in 0..10 {
        pair.master.send("t", &format!("B{n}")).unwrap();
    }
    assert_eq!(pair.master.pull("c", "g", "t", 0, 10).next_offset, 20);
    let mut new = change_places(pair, 7).master;
    for n in 0..12 {
        new.send("t", &format!("C{n}")).unwrap();
    }
    // the client was not restarted: what it knows is of an epoch that lost
    new.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    assert!(new.commit("c", "g", "t", 0, 20).is_err(), "nobody was given what lies below");
    assert_eq!(new.position("g", "t", 0), 0);
    let corrected = new.pull("c", "g", "t", 0, 20);
    assert_eq!((corrected.status, corrected.next_offset), (PullStatus::OffsetOverflowBadly, 10));
    assert!(new.commit("c", "g", "t", 0, 10).is_ok(), "what is common may be done");
    let read = new.pull("c", "g", "t", 0, 10);
    assert_eq!((read.records.len(), read.next_offset), (12, 22));
    assert!(new.commit("c", "g", "t", 0, 20).is_ok());
    // from here on it may skip what it likes, as anywhere
    new.send("t", "D").unwrap();
    assert_eq!(new.pull("c", "g", "t", 0, 23).status, PullStatus::OffsetOverflowOne);
}

#[test]
fn a_record_whose_frame_never_came_is_served_under_its_topic() {
    let mut pair = Pair::new(small());
    pair.carry_all();
    pair.master.send("fresh", "A").unwrap();
    pair.master.send("fresh", "B").unwrap();
    assert!(pair.carry_one(), "log bytes first");
    let journal = pair.slave.core.as_ref().unwrap().standing().journal;
    let mut pair = change_places(pair, 5);
    assert_ne!(pair.master.core.as_ref().unwrap().standing().journal, journal, "a run of its own");
    assert_eq!(readable(&mut pair.master, "fresh"), ["A", "B"]);
    let found = pair.master.core.as_mut().unwrap().locate("B").unwrap();
    assert!(found.messages.len() == 1 && found.complete);
    pair.master.kill();
    assert_eq!(readable(&mut pair.master, "fresh"), ["A", "B"], "and after a restart");
    pair.connect().unwrap();
    pair.check_same("fresh");
}

#[test]
fn a_topic_whose_making_a_power_cut_took_is_made_again_for_its_flushed_message() {
    let lost_frame = (1..40).any(|seed| {
        let mut bench = Bench::new(Config { journal_flush_interval_ms: 10_000, ..small() });
        bench.pass(20_000);
        bench.flushing = false;
        bench.send("fresh", "A").unwrap();
        // the log reaches the disk, the journal does not
        let log = PathBuf::from("/data/commitlog");
        for entry in bench.disk.list(&log).unwrap() {
            bench.disk.open(&log.join(&entry.name), store::disk::OpenMode::Existing).unwrap().sync().unwrap();
        }
        let report = bench.power_cut(seed);
        assert_eq!(readable(&mut bench, "fresh"), ["A"], "seed {seed}");
        report.stated_again > 0
    });
    assert!(lost_frame, "no power cut took the frame: the test shows nothing");
}

#[test]
fn what_a_master_forgot_its_replica_forgets_too() {
    let mut pair =
        Pair::new(Config { journal_flush_interval_ms: 10_000, flush_interval_ms: 60_000, ..small() });
    pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    for n in 0..20 {
        pair.master.send("t", &format!("A{n}")).unwrap();
    }
    pair.master.pass(70_000);
    pair.check_same("t");
    pair.master.flushing = false;
    pair.master.commit("c", "g", "t", 0, 7).unwrap();
    pair.carry_all();
    assert_eq!(pair.slave.position("g", "t", 0), 7);
    let mut seed = 0;
    while pair.master.position("g", "t", 0) == 7 {
        seed += 1;
        assert!(seed < 50, "no power cut takes the commit");
        pair.master.power_cut(seed);
    }
    pair.master.flushing = true;
    pair.connect().unwrap();
    pair.check_same("t");
    assert_ne!(pair.slave.position("g", "t", 0), 7);
    pair.slave.kill();
    pair.connect().unwrap();
    pair.check_same("t");
}

#[test]
fn a_fenced_master_takes_and_confirms_nothing_more() {
    let mut master = Bench::new(Config {
        broker_role: BrokerRole::SyncMaster,
        flush_disk_type: FlushDiskType::Sync,
        ..small()
    });
    let at = LogPosition(0);
    master.ask(|reply| Request::Replica(ReplicaEvent::Joined { id: "r1".into(), at, reply })).unwrap();
    let answer = std::sync::Arc::new(std::sync::Mutex::new(None));
    let slot = answer.clone();
    let reply = Box::new(move |sent| *slot.lock().unwrap() = Some(sent));
    master.turn(vec![Request::Send(message("t", "A", ""), reply)]);
    let core = master.core.as_mut().unwrap();
    assert!(core.standing().is_master);
    assert!(!core.promise(1), "its own epoch");
    assert!(core.promise(9) && !core.promise(9) && !core.promise(8));
    let end = core.log_view().end;
    assert!(!core.standing().is_master);
    let acked = ReplicaEvent::Acked { id: "r1".into(), sent: end, received: end, flushed: end };
    master.turn(vec![Request::Replica(acked)]);
    master.pass(10);
    assert!(answer.lock().unwrap().is_none(), "its replica may have promised to another master");
    assert_eq!(master.send("t", "B").unwrap_err().remoting_code(), 14);
    assert_eq!(master.core.as_ref().unwrap().log_view().end, end);
    let joined = |reply| Request::Replica(ReplicaEvent::Joined { id: "r2".into(), at, reply });
    assert!(master.ask(joined).is_err());
    master.pass(3_000);
    let statuses: Vec<_> = answer.lock().unwrap().take().unwrap().unwrap().iter().map(|s| s.status).collect();
    assert_eq!(statuses, [SendStatus::FlushSlaveTimeout], "in the end it says so");
}

#[test]
fn a_replica_that_promised_takes_nothing_from_the_older_master() {
    let mut pair = Pair::new(small());
    pair.master.send("t", "A").unwrap();
    pair.carry_all();
    let end = pair.slave.core.as_ref().unwrap().log_view().end;
    assert!(pair.slave.core.as_mut().unwrap().promise(5));
    pair.master.send("t", "B").unwrap();
    let head = pair.master.core.as_ref().unwrap().replication_head().unwrap();
    let Some(crate::replication::frame::Message::Log { position, readable, bytes }) =
        pair.source.as_mut().unwrap().next(&head).unwrap()
    else {
        panic!("log bytes come first")
    };
    let log = FromMaster::Log { position, readable, bytes };
    assert!(pair.slave.ask(|reply| Request::FromMaster(vec![log], reply)).is_err());
    assert_eq!(pair.slave.core.as_ref().unwrap().log_view().end, end);
    assert!(pair.connect().is_err(), "nor does it follow it again");
}
