//! A master's core and a replica's, each on its own disk; what travels between them is carried by the test.

use super::harness::*;
use crate::api::*;
use crate::config::{BrokerRole, Config, FlushDiskType};
use crate::core::{Core, CoreParts};
use crate::replication::copy::last_frames;
use crate::replication::epochs::{common_frame, common_position};
use crate::replication::frame::{Message, Welcome};
use crate::replication::source::Source;
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::{Incarnation, LogPosition};
use std::path::PathBuf;
use std::sync::Arc;
use store::commit_log::survivor::{SURVIVOR_SUFFIX, Survivor};
use store::disk::Disk;

pub(super) struct Pair {
    pub(super) master: Bench,
    pub(super) slave: Bench,
    pub(super) source: Option<Source>,
}

pub(super) fn slave_config() -> Config {
    Config {
        broker_role: BrokerRole::Slave,
        master_address: Some("127.0.0.1:10912".parse().unwrap()),
        replica_id: "r1".into(),
        ..small()
    }
}

impl Pair {
    pub(super) fn new(master: Config) -> Pair {
        let mut pair = Pair { master: Bench::new(master), slave: Bench::new(slave_config()), source: None };
        pair.connect().unwrap();
        pair
    }

    pub(super) fn connect(&mut self) -> Answer<()> {
        let master = self.master.core.as_ref().unwrap();
        let hello = self.slave.core.as_ref().unwrap().replica_hello().unwrap();
        let log = master.log_view();
        let start = common_position(&log, &hello.log).unwrap();
        let disk = Arc::new(self.master.disk.clone());
        let view = master.replicated_journal().unwrap();
        let journal = common_frame(&last_frames(&view), &hello.runs);
        self.source = Some(Source::open(disk, master.log_segments(), (&view, journal), start).unwrap());
        let welcome = Welcome { start, waits_for_disk: true, journal, remoting: String::new(), log };
        let welcome = FromMaster::Welcome { welcome, copies: false };
        self.slave.ask(|reply| Request::FromMaster(vec![welcome], reply))
    }

    /// Carries one message over; false when there is none.
    pub(super) fn carry_one(&mut self) -> bool {
        let head = self.master.core.as_ref().unwrap().replication_head().unwrap();
        let Some(message) = self.source.as_mut().unwrap().next(&head).unwrap() else { return false };
        let message = match message {
            Message::Log { position, readable, bytes } => FromMaster::Log { position, readable, bytes },
            Message::Frames { run, frames } => FromMaster::Frames { run, frames },
            other => panic!("{other:?}"),
        };
        self.slave.ask(|reply| Request::FromMaster(vec![message], reply)).unwrap();
        true
    }

    pub(super) fn carry_all(&mut self) {
        while self.carry_one() {}
        let head = self.master.core.as_ref().unwrap().replication_head().unwrap();
        let heartbeat = FromMaster::Heartbeat { start: head.start, readable: head.readable };
        self.slave.ask(|reply| Request::FromMaster(vec![heartbeat], reply)).unwrap();
    }

    pub(super) fn check_same(&mut self, topic: &str) {
        self.master.pass(1);
        self.carry_all();
        let (master, slave) = (self.master.core.as_ref().unwrap(), self.slave.core.as_ref().unwrap());
        assert!(
            master.state_view() == slave.state_view(),
            "the replica's state is the fold of the same facts"
        );
        assert_eq!(master.log_view(), slave.log_view());
        assert_eq!(readable(&mut self.master, topic), readable(&mut self.slave, topic));
    }
}

pub(super) fn readable(bench: &mut Bench, topic: &str) -> Vec<String> {
    let mut out = Vec::new();
    for queue_id in 0..2 {
        let mut offset = 0;
        loop {
            let mut wanted = pull("c", "g", topic, queue_id, offset);
            wanted.subscription = Some(subscription(topic, "*"));
            let pulled = bench.ask(|reply| Request::Pull(wanted, reply)).unwrap();
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
fn a_replica_holds_the_masters_log_state_and_readers() {
    let mut pair = Pair::new(small());
    pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    for n in 0..200 {
        pair.master.send("t", &format!("A{n}")).unwrap();
    }
    pair.master.send_with("t", "D", "DELAY\u{1}3\u{2}").unwrap();
    pair.master.commit("c", "g", "t", 0, 7).unwrap();
    pair.check_same("t");
    assert_eq!(pair.slave.position("g", "t", 0), 7);
    assert_eq!(readable(&mut pair.slave, "t").len(), 200);
    let found = pair.slave.core.as_mut().unwrap().locate("A77").unwrap();
    assert!(found.messages.len() == 1 && found.complete, "found by its id on the replica too");
    // the delayed message comes due: the master copies it, the replica does not
    pair.master.pass(4_000);
    pair.slave.pass(60_000);
    pair.check_same("t");
    assert_eq!(readable(&mut pair.slave, "t").len(), 201);
}

#[test]
fn a_slave_refuses_what_only_a_master_may_do() {
    let mut pair = Pair::new(small());
    pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    pair.master.send("t", "A").unwrap();
    pair.check_same("t");
    assert_eq!(pair.slave.send("t", "B").unwrap_err().remoting_code(), 14);
    assert_eq!(pair.slave.commit("c", "g", "t", 0, 1).unwrap_err().remoting_code(), 14);
    assert_eq!(pair.slave.configure("u", "NORMAL", false).unwrap_err().remoting_code(), 14);
    let receive = |reply| Request::Receive(receive("c", "g", "t", 1_000), reply);
    assert_eq!(pair.slave.ask(receive).unwrap_err().remoting_code(), 14);
    let mut with_commit = pull("c", "g", "t", 0, 0);
    with_commit.commit_offset = Some(1);
    let pulled = pair.slave.ask(|reply| Request::Pull(with_commit, reply)).unwrap();
    assert_eq!(ids(&pulled.records), ["A"]);
    assert_eq!(pair.slave.position("g", "t", 0), 0, "a commit is the master's to take");
    pair.check_same("t");
}

#[test]
fn a_replica_that_dies_anywhere_goes_on_where_it_was() {
    for steps in 0..14 {
        let mut pair = Pair::new(small());
        pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
        for n in 0..40 {
            pair.master.send("t", &format!("A{n}")).unwrap();
            if n % 5 == 0 {
                pair.carry_one();
            }
        }
        for _ in 0..steps {
            pair.carry_one();
        }
        let flushed = pair.slave.core.as_ref().unwrap().replica_progress().flushed;
        match steps % 3 {
            0 => drop(pair.slave.kill()),
            1 => drop(pair.slave.power_cut(steps)),
            _ => drop(pair.slave.stop_cleanly()),
        }
        let progress = pair.slave.core.as_ref().unwrap().replica_progress();
        assert!(progress.flushed >= flushed, "what was said to be on disk is there");
        pair.connect().unwrap();
        pair.master.send("t", "last").unwrap();
        pair.check_same("t");
        // and once more, whole: a restart without a master serves what is there
        pair.slave.pass(200);
        pair.slave.kill();
        assert!(readable(&mut pair.slave, "t").len() <= 41);
        pair.connect().unwrap();
        pair.check_same("t");
        assert_eq!(readable(&mut pair.slave, "t").len(), 41);
    }
}

#[test]
fn a_replica_shows_nothing_that_its_master_hides() {
    let mut pair = Pair::new(Config {
        broker_role: BrokerRole::SyncMaster,
        flush_disk_type: FlushDiskType::Sync,
        ..small()
    });
    let joined =
        |reply| Request::Replica(ReplicaEvent::Joined { id: "r1".into(), at: LogPosition(0), reply });
    pair.master.ask(joined).unwrap();
    pair.master.turn(vec![Request::Send(message("t", "A", ""), Box::new(|_| {}))]);
    pair.master.pass(1);
    pair.carry_all();
    assert_eq!(readable(&mut pair.slave, "t"), Vec::<String>::new(), "the master has not answered yet");
    pair.slave.pass(1);
    let progress = pair.slave.core.as_ref().unwrap().replica_progress();
    let end = pair.master.core.as_ref().unwrap().log_view().end;
    assert_eq!(
        (progress.received, progress.flushed),
        (end, end),
        "the master waits for the disk: flushed at once"
    );
    let (received, flushed) = (end, end);
    let acked = ReplicaEvent::Acked { id: "r1".into(), sent: end, received, flushed };
    pair.master.turn(vec![Request::Replica(acked)]);
    pair.check_same("t");
    assert_eq!(readable(&mut pair.slave, "t"), ["A"]);
}

#[test]
fn a_flush_that_was_under_way_when_the_log_was_cut_says_nothing_of_what_came_after() {
    let mut pair = Pair::new(Config { flush_interval_ms: 60_000, ..small() });
    pair.master.send("t", "A").unwrap();
    pair.master.pass(60_000);
    pair.check_same("t");
    for n in 0..20 {
        pair.master.send("t", &format!("lost{n}")).unwrap();
    }
    pair.slave.flushing = false;
    pair.carry_all();
    pair.slave.pass(60_000);
    let had = pair.slave.core.as_ref().unwrap().log_view().end;
    let mut seed = 0;
    while pair.master.core.as_ref().unwrap().log_view().end >= had {
        seed += 1;
        assert!(seed < 50, "no power cut takes anything");
        pair.master.power_cut(seed);
    }
    let cut = pair.master.core.as_ref().unwrap().log_view().end;
    pair.connect().unwrap();
    for n in 0..30 {
        pair.master.send("t", &format!("new{n}")).unwrap();
    }
    pair.carry_all();
    assert!(pair.slave.core.as_ref().unwrap().log_view().end > had);
    // the flush of the end that was cut comes back only now
    pair.slave.flushing = true;
    pair.slave.turn(Vec::new());
    let flushed = pair.slave.core.as_ref().unwrap().replica_progress().flushed;
    assert!(flushed <= cut, "{flushed:?} is confirmed, {cut:?} is on disk");
    pair.check_same("t");
    let progress = pair.slave.core.as_ref().unwrap().replica_progress();
    assert_eq!(progress.flushed, progress.received, "and a flush of its own follows");
}

#[test]
fn what_the_master_lost_is_cut_and_kept_and_the_replica_goes_on() {
    let mut pair = Pair::new(Config { flush_interval_ms: 60_000, ..small() });
    pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    pair.master.send("t", "A").unwrap();
    pair.master.pass(100);
    let kept = pair.master.core.as_ref().unwrap().log_view().end;
    for n in 0..20 {
        pair.master.send("t", &format!("lost{n}")).unwrap();
    }
    pair.carry_all();
    assert_eq!(readable(&mut pair.slave, "t").len(), 21);
    let had = pair.slave.core.as_ref().unwrap().log_view().end;
    // nothing was flushed: find a cut that takes something
    let mut seed = 0;
    while pair.master.core.as_ref().unwrap().log_view().end >= had {
        seed += 1;
        assert!(seed < 50, "no power cut takes anything");
        pair.master.power_cut(seed);
    }
    let end = pair.master.core.as_ref().unwrap().log_view().end;
    pair.master.send("t", "B").unwrap();
    pair.connect().unwrap();
    let dir = PathBuf::from("/data/survivors");
    let files = pair.slave.disk.list(&dir).unwrap();
    let files: Vec<_> = files.iter().filter(|file| file.name.ends_with(SURVIVOR_SUFFIX)).collect();
    assert_eq!(files.len(), 1);
    let survivor = Survivor::open(&pair.slave.disk, &dir.join(&files[0].name)).unwrap();
    assert_eq!((survivor.from(), survivor.end()), (end, had));
    assert!(kept <= had);
    pair.check_same("t");
    assert!(readable(&mut pair.slave, "t").contains(&"B".to_owned()));
    let found = pair.slave.core.as_mut().unwrap().locate("B").unwrap();
    assert!(found.messages.len() == 1 && found.complete);
    pair.slave.kill();
    pair.connect().unwrap();
    pair.check_same("t");
}

#[test]
fn a_replicas_folder_does_not_become_a_masters_by_a_setting() {
    let mut pair = Pair::new(small());
    pair.master.send("t", "A").unwrap();
    pair.carry_all();
    pair.slave.core = None;
    let open = |bench: &Bench, config: Config| {
        let parts = CoreParts {
            disk: Arc::new(bench.disk.clone()),
            dir: PathBuf::from("/data"),
            config,
            incarnation: Incarnation([200; 16]),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            boot: None,
            mandate: None,
        };
        Core::open(parts, bench.now).map(drop)
    };
    assert!(open(&pair.slave, small()).unwrap_err().to_string().contains("a replica's folder"));
}
