//! A master and two replicas on simulated disks, with the production code of both sides and everything between them in the
//! hands of the test: each step can be cut, delayed, doubled, or followed by a death of any of them.

use super::*;
use crate::replication::epochs::common_frame;
use crate::replication::followers::{AckKind, Followers};
use crate::replication::source::Source;
use crate::replication::{Head, frame::Message};
use bytes::Bytes;
use lifecycle::identity::{Name, TopicIncarnation};
use proptest::prelude::*;
use store::commit_log::survivor::Survivor;
use store::disk_sim::SimDisk;
use store::segment::SegmentConfig;

const SEGMENT: u64 = 64 * 1024;

fn folder() -> PathBuf {
    PathBuf::from("/b")
}

fn no_snapshot(forget: &mut dyn FnMut() -> StoreResult<()>) -> SnapshotPlace<'_> {
    SnapshotPlace { at: None, forget }
}

struct TestMaster {
    disk: SimDisk,
    log: CommitLog,
    journal: Journal,
    runs: u8,
    followers: Followers,
}

fn open_log(disk: &SimDisk, epochs: Vec<EpochRow>) -> CommitLog {
    CommitLog::open(Arc::new(disk.clone()), &folder().join("commitlog"), SEGMENT, epochs).unwrap()
}

fn open_journal(disk: &SimDisk, run: u8) -> Journal {
    let config = JournalConfig::new(folder().join("journal"));
    Journal::open(Arc::new(disk.clone()), config, Incarnation([run; 16]), 0).unwrap().0
}

impl TestMaster {
    fn new() -> TestMaster {
        let disk = SimDisk::new();
        let (log, journal) = (open_log(&disk, vec![]), open_journal(&disk, 1));
        let mut master =
            TestMaster { disk, log, journal, runs: 1, followers: Followers::new(AckKind::Flushed, 2) };
        master.begin_epoch();
        master
    }

    fn begin_epoch(&mut self) {
        self.log
            .begin_epoch(Epoch { number: u64::from(self.runs), incarnation: Incarnation([self.runs; 16]) });
        self.append(1);
        self.flush();
    }

    fn append(&mut self, records: usize) {
        for n in 0..records {
            let len = 40 + (self.log.end().0 as usize * 7 + n) % 3000;
            self.log.place(len, false).unwrap();
            self.log.push(TopicIncarnation(1), None, |out| out.resize(out.len() + len, n as u8 + 1));
        }
        self.log.write().unwrap();
        let frame = self.log.end().0.to_be_bytes();
        let reset = self.journal.needs_reset();
        self.journal.append(&frame, reset).unwrap();
        self.journal.write().unwrap();
    }

    fn flush(&mut self) {
        self.log.take_sync_batch().unwrap().sync().unwrap();
        self.journal.take_sync_batch().sync().unwrap();
    }

    fn restart(&mut self, power_cut: Option<u64>) {
        if let Some(seed) = power_cut {
            self.disk.power_cut(seed);
        }
        self.runs += 1;
        let epochs = self.log.epochs().to_vec();
        self.log = open_log(&self.disk, epochs);
        self.log.scan(LogPosition(0), LogPosition(0), |_| {}).unwrap();
        self.log.mark_dirty_from(LogPosition(0));
        self.journal = open_journal(&self.disk, self.runs);
        self.followers = Followers::new(AckKind::Flushed, 2);
        self.begin_epoch();
    }

    fn head(&self) -> Head {
        let end = self.log.end();
        Head { start: self.log.start(), end, readable: end, journal: self.journal.last_position() }
    }

    fn view(&self) -> LogView {
        LogView { epochs: self.log.epochs().to_vec(), end: self.log.end() }
    }

    fn bytes(&self, to: LogPosition) -> Vec<u8> {
        log_bytes(&self.disk, to)
    }
}

fn log_bytes(disk: &SimDisk, to: LogPosition) -> Vec<u8> {
    let dir = folder().join("commitlog");
    let config = SegmentConfig { dir, segment_size_bytes: SEGMENT, open_files_max: 4, allocate: false };
    let mut bytes = vec![0; to.0 as usize];
    let reader = store::segment::SegmentReader::new(Arc::new(disk.clone()), config);
    let got = reader.read_at(&mut bytes, 0).unwrap();
    assert_eq!(got, bytes.len());
    bytes
}

struct TestReplica {
    name: Name,
    disk: SimDisk,
    log: CommitLog,
    copy: ReplicaCopy,
    flushed: LogPosition,
    source: Option<Source>,
    last: Option<Message>,
    sent: LogPosition,
    /// What its words have confirmed, ever.
    acked: LogPosition,
}

impl TestReplica {
    fn new(name: &str) -> TestReplica {
        let disk = SimDisk::new();
        let (log, copy) = Self::open(&disk);
        TestReplica {
            name: name.into(),
            disk,
            log,
            copy,
            flushed: LogPosition(0),
            source: None,
            last: None,
            sent: LogPosition(0),
            acked: LogPosition(0),
        }
    }

    fn open(disk: &SimDisk) -> (CommitLog, ReplicaCopy) {
        disk.create_dir_all(&folder()).unwrap();
        let (copy, epochs) = ReplicaCopy::open(Arc::new(disk.clone()), &folder()).unwrap();
        let mut log = open_log(disk, epochs);
        log.scan(LogPosition(0), LogPosition(0), |_| {}).unwrap();
        log.mark_dirty_from(LogPosition(0));
        log.take_sync_batch().unwrap().sync().unwrap();
        (log, copy)
    }

    fn connect(&mut self, master: &mut TestMaster) {
        self.cut(master);
        let mine = LogView { epochs: self.log.epochs().to_vec(), end: self.log.end() };
        let start = common_position(&master.view(), &mine).unwrap();
        let welcome = Welcome {
            start,
            waits_for_disk: true,
            journal: common_frame(&last_frames(&master.journal.view()), &self.copy.runs()),
            remoting: String::new(),
            log: master.view(),
        };
        let before = (self.log.end(), log_bytes(&self.disk, self.log.end()));
        let kept = self.copy.welcome(&mut self.log, &welcome, no_snapshot(&mut || Ok(()))).unwrap().survivor;
        assert_eq!(kept.is_some(), start < before.0, "what is cut is kept");
        if let Some(path) = kept {
            let survivor = Survivor::open(&self.disk, &path).unwrap();
            assert_eq!(
                (survivor.from(), &survivor.bytes().unwrap()[..]),
                (start, &before.1[start.0 as usize..])
            );
            self.acked = self.acked.min(start);
        }
        self.flushed = self.flushed.min(start);
        self.sent = start;
        let segments = SegmentConfig {
            dir: folder().join("commitlog"),
            segment_size_bytes: SEGMENT,
            open_files_max: 4,
            allocate: false,
        };
        let disk = Arc::new(master.disk.clone());
        let after = self.copy.journal_position();
        let source = Source::open(disk, &segments, (&master.journal.view(), after), start);
        self.source = Some(source.unwrap());
        master.followers.joined(&self.name, start).unwrap();
    }

    fn cut(&mut self, master: &mut TestMaster) {
        (self.source, self.last) = (None, None);
        master.followers.left(&self.name);
    }

    fn deliver(&mut self, master: &TestMaster) {
        let Some(source) = &mut self.source else { return };
        let Some(message) = source.next(&master.head()).unwrap() else { return };
        if let Message::Log { position, bytes, .. } = &message {
            self.sent = LogPosition(position.0 + bytes.len() as u64);
        }
        self.take(&message).unwrap();
        self.last = Some(message);
    }

    fn take(&mut self, message: &Message) -> Result<(), String> {
        match message {
            Message::Log { position, bytes, .. } => {
                self.log.append_copied(*position, bytes).map_err(|error| error.to_string())
            }
            Message::Frames { run, frames } => {
                self.copy.append_frames(*run, frames).map_err(|error| error.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    /// A frame that comes twice, or changed, changes nothing.
    fn deliver_again(&mut self, flip: Option<usize>) {
        let Some(last) = self.last.clone() else { return };
        let before = (self.log.end(), self.copy.journal_position());
        let again = match (last, flip) {
            (Message::Log { position, readable, bytes }, Some(at)) => {
                let mut changed = bytes.to_vec();
                let len = changed.len();
                changed[at % len] ^= 0x10;
                let _ = position;
                Message::Log { position: self.log.end(), readable, bytes: Bytes::from(changed) }
            }
            (last, _) => last,
        };
        assert!(self.take(&again).is_err());
        assert_eq!((self.log.end(), self.copy.journal_position()), before);
    }

    fn flush(&mut self) {
        let end = self.log.take_sync_batch().unwrap().sync().unwrap();
        if let Some(batch) = self.copy.take_sync_batch() {
            batch.sync().unwrap();
        }
        self.flushed = LogPosition(end);
    }

    fn ack(&mut self, master: &mut TestMaster) {
        if self.source.is_some() {
            let word = (self.log.end(), self.flushed);
            master.followers.acked(&self.name, self.sent, word).unwrap();
            self.acked = self.acked.max(self.flushed);
        }
    }

    fn restart(&mut self, master: &mut TestMaster, power_cut: Option<u64>) {
        self.cut(master);
        if let Some(seed) = power_cut {
            self.disk.power_cut(seed);
        }
        (self.log, self.copy) = Self::open(&self.disk);
        self.flushed = self.log.end();
        assert!(
            self.log.end() >= self.acked,
            "what was confirmed survives: {:?} {:?}",
            self.log.end(),
            self.acked
        );
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    MasterFlush,
    Connect(usize),
    Cut(usize),
    Deliver(usize),
    Again(usize, Option<usize>),
    Flush(usize),
    Ack(usize),
    Kill(usize),
    PowerCut(usize, u64),
    MasterKill,
    MasterPowerCut(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0usize..2;
    prop_oneof![
        4 => (1usize..30).prop_map(Step::Append),
        2 => Just(Step::MasterFlush),
        4 => who().prop_map(Step::Connect),
        1 => who().prop_map(Step::Cut),
        8 => who().prop_map(Step::Deliver),
        1 => (who(), prop::option::of(0usize..100_000)).prop_map(|(who, flip)| Step::Again(who, flip)),
        4 => who().prop_map(Step::Flush),
        4 => who().prop_map(Step::Ack),
        1 => who().prop_map(Step::Kill),
        2 => (who(), any::<u64>()).prop_map(|(who, seed)| Step::PowerCut(who, seed)),
        1 => Just(Step::MasterKill),
        1 => any::<u64>().prop_map(Step::MasterPowerCut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Confirmed by k = 2 means: on the master and on the disk of one replica, and no cut, delay, double or death of a replica
    /// takes it from there; and in the end every copy is the master's bytes.
    #[test]
    fn what_was_confirmed_is_on_k_disks(steps in prop::collection::vec(step(), 1..120)) {
        let mut master = TestMaster::new();
        let mut replicas = [TestReplica::new("r0"), TestReplica::new("r1")];
        for step in steps {
            match step {
                Step::Append(records) => master.append(records),
                Step::MasterFlush => master.flush(),
                Step::Connect(who) => replicas[who].connect(&mut master),
                Step::Cut(who) => replicas[who].cut(&mut master),
                Step::Deliver(who) => replicas[who].deliver(&master),
                Step::Again(who, flip) => replicas[who].deliver_again(flip),
                Step::Flush(who) => replicas[who].flush(),
                Step::Ack(who) => replicas[who].ack(&mut master),
                Step::Kill(who) => replicas[who].restart(&mut master, None),
                Step::PowerCut(who, seed) => replicas[who].restart(&mut master, Some(seed)),
                Step::MasterKill | Step::MasterPowerCut(_) => {
                    let confirmed = master.followers.confirmed();
                    let cut = if let Step::MasterPowerCut(seed) = step { Some(seed) } else { None };
                    let before = master.bytes(confirmed);
                    master.restart(cut);
                    replicas.iter_mut().for_each(|replica| replica.cut(&mut master));
                    // whatever became of the master, somebody has it
                    let has = |r: &TestReplica| {
                        r.log.end() >= confirmed && log_bytes(&r.disk, confirmed) == before
                    };
                    prop_assert!(confirmed.0 == 0 || replicas.iter().any(has));
                }
            }
            let confirmed = master.followers.confirmed();
            prop_assert!(confirmed <= master.log.end());
            let bytes = master.bytes(confirmed);
            let has = |r: &&TestReplica| r.log.end() >= confirmed && log_bytes(&r.disk, confirmed) == bytes;
            prop_assert!(confirmed.0 == 0 || replicas.iter().filter(has).count() >= 1);
        }
        for replica in &mut replicas {
            replica.connect(&mut master);
            let head = master.head();
            while replica.log.end() < head.end || replica.copy.journal_position() != head.journal {
                let before = (replica.log.end(), replica.copy.journal_position());
                replica.deliver(&master);
                prop_assert!(before != (replica.log.end(), replica.copy.journal_position()), "stands still");
            }
            prop_assert_eq!(log_bytes(&replica.disk, head.end), master.bytes(head.end));
        }
    }
}

#[test]
fn a_master_of_an_older_epoch_and_one_of_another_history_are_refused() {
    let mut master = TestMaster::new();
    let mut replica = TestReplica::new("r");
    let old = master.view();
    master.restart(None);
    replica.connect(&mut master);
    for _ in 0..3 {
        replica.deliver(&master);
    }
    let end = replica.log.end();
    let journal = replica.copy.journal_position();
    let remoting = String::new();
    let welcome = |log: LogView, start| Welcome {
        start,
        waits_for_disk: false,
        journal,
        remoting: remoting.clone(),
        log,
    };
    let mut nothing = || Ok(());
    let refused =
        replica.copy.welcome(&mut replica.log, &welcome(old, end), no_snapshot(&mut nothing)).unwrap_err();
    assert!(matches!(refused, WelcomeError::NoAgreement(NoAgreement::OlderEpoch { master: 1, accepted: 2 })));
    let elsewhere = welcome(master.view(), LogPosition(1));
    let other = replica.copy.welcome(&mut replica.log, &elsewhere, no_snapshot(&mut nothing)).unwrap_err();
    assert!(matches!(other, WelcomeError::OtherStart { master: 1, .. }));
    assert_eq!(replica.log.end(), end, "nothing was cut");
    // it still knows after a restart
    replica.restart(&mut master, Some(3));
    assert_eq!(replica.log.epochs().len(), 2);
    assert!(ReplicaCopy::is_in(&replica.disk, &folder()).unwrap());
    assert!(!ReplicaCopy::is_in(&master.disk, &folder()).unwrap());
}
