//! Owns one simulated world: the production broker core on a simulated disk, the clocks, the agent, and what the clients saw. One
//! thread; time passes only in [`World::turn`]. Never judges anything: checkers read it afterwards. Called by every act.

use crate::cluster::{Group, GroupStart};
use crate::oracle::{Fate, Oracle};
use crate::watcher::{Manner, Watcher};
use agent::fold::class::Class;
use broker::api::{ReplyFn, Request};
use broker::config::{Config, FlushDiskType};
use broker::core::{Core, CoreParts, FlushDone, FlushOrders};
use lifecycle::clock::Now;
use lifecycle::identity::Incarnation;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use store::disk::{Disk, DiskSpace};
use store::disk_sim::{SimDisk, SimFaults, SimRng};

/// The broker's name, and that of its source.
pub(crate) const BROKER: &str = "b";
/// The broker's folder.
pub(crate) const DATA: &str = "/data";
/// One turn of the world, ms.
const TURN_MS: u64 = 10;
/// Turns a client waits for an answer.
const PATIENCE_TURNS: u32 = 40;
/// Time between two rounds of the scrubber: every run has many.
pub(crate) const SCRUB_INTERVAL_MS: u64 = 20_000;
/// Size of the simulated disk: larger than anything an act writes.
pub(crate) const DISK_BYTES: u64 = 1 << 40;

/// How a world begins.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    pub(crate) seed: u64,
    pub(crate) flush: FlushDiskType,
    pub(crate) manner: Manner,
    /// Puts something between the broker and its disk; mutants do.
    pub(crate) around_disk: fn(SimDisk) -> Arc<dyn Disk>,
}

/// See the module text.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) core: Option<Core>,
    /// The members of a replica group; of the acting master, core and disk are the ones above.
    pub(crate) group: Option<Group>,
    pub(crate) config: Config,
    pub(crate) rng: SimRng,
    pub(crate) agent: Watcher,
    pub(crate) oracle: Oracle,
    /// The number of the running epoch: each start opens one.
    pub(crate) run: u64,
    /// Ordered flushes are carried out.
    pub(crate) flushing: bool,
    /// Everything that happened, in order.
    pub(crate) trace: String,
    /// What is wrong, found on the way.
    pub(crate) broken: Vec<String>,
    /// Destroyed before the agent had heard of it: there it may be undecided.
    pub(crate) unseen: BTreeSet<String>,
    /// True, and the agent may have been kept from knowing: it need not say so.
    pub(crate) may_be_said: BTreeSet<Fate>,
    /// Fates that no evidence tells from those of this class; the matrix shows them as told otherwise.
    pub(crate) looks_like: BTreeMap<Fate, Class>,
    /// A record in the log is spoilt.
    is_spoilt: bool,
    /// When evidence of deliveries was destroyed, elapsed ms.
    pub(crate) untold: Vec<u64>,
    /// What a group passed over, and until when it may have been read yet: evidence that is destroyed meanwhile leaves it undecided.
    pub(crate) may_be_read: BTreeMap<String, Range<u64>>,
    around_disk: fn(SimDisk) -> Arc<dyn Disk>,
    boots: u64,
    elapsed_ms: u64,
    booted_ms: u64,
    wall_step_ms: i64,
    orders: Vec<FlushOrders>,
    /// When the broker went down, the agent had read everything.
    pub(crate) heard_all: bool,
}

fn config(flush_disk_type: FlushDiskType) -> Config {
    Config {
        broker_name: BROKER.into(),
        flush_disk_type,
        max_body_bytes: 4096,
        segment_bytes: 160 * 1024,
        delay_levels_ms: (1..=18).map(|level| level * 1000).collect(),
        default_queues: 2,
        retry_max: 2,
        retention_ms: 3_600_000,
        retention_interval_ms: 1_000,
        disk_clean_percent: 80,
        disk_refuse_percent: 95,
        scrub_interval_ms: SCRUB_INTERVAL_MS,
        ..Config::default()
    }
}

impl World {
    pub(crate) fn new(start: Start) -> World {
        let mut world = World::empty(start);
        world.open();
        world
    }

    /// A world in which a replica group is the broker.
    pub(crate) fn with_members(start: Start, group: GroupStart) -> World {
        let mut world = World::empty(start);
        world.group = Some(Group::new(start.seed, group, &world.config));
        world.open_group();
        world
    }

    fn empty(start: Start) -> World {
        World {
            disk: SimDisk::new(),
            core: None,
            group: None,
            config: config(start.flush),
            rng: SimRng(start.seed),
            agent: Watcher::new(start.seed, start.manner),
            oracle: Oracle::default(),
            run: 0,
            flushing: true,
            trace: String::new(),
            broken: Vec::new(),
            unseen: BTreeSet::new(),
            may_be_said: BTreeSet::new(),
            looks_like: BTreeMap::new(),
            is_spoilt: false,
            untold: Vec::new(),
            may_be_read: BTreeMap::new(),
            around_disk: start.around_disk,
            boots: 0,
            elapsed_ms: 0,
            booted_ms: 0,
            wall_step_ms: 0,
            orders: Vec::new(),
            heard_all: true,
        }
    }

    /// The broker's clocks.
    pub(crate) fn now(&self) -> Now {
        let wall = 1_700_000_000_000 + self.elapsed_ms;
        Now {
            mono_ms: self.elapsed_ms - self.booted_ms,
            wall_ms: wall.saturating_add_signed(self.wall_step_ms),
        }
    }

    /// Since the beginning, ms; no clock that steps.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.elapsed_ms
    }

    pub(crate) fn note(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.trace, "{} {line}", self.elapsed_ms).expect("text grows");
    }

    /// Whether an answer OK outlives what its settings say it outlives.
    pub(crate) fn promises(&self) -> bool {
        self.is_sync() || self.group.as_ref().is_some_and(Group::waits)
    }

    pub(crate) fn is_sync(&self) -> bool {
        self.config.flush_disk_type == FlushDiskType::Sync
    }

    fn open(&mut self) {
        self.run += 1;
        self.orders.clear();
        let mut incarnation = [0; 16];
        incarnation[15] = self.run as u8;
        let parts = CoreParts {
            disk: (self.around_disk)(self.disk.clone()),
            dir: PathBuf::from(DATA),
            config: self.config.clone(),
            incarnation: Incarnation(incarnation),
            store_host: "127.0.0.1:10911".parse().expect("an address"),
            boot: Some(format!("boot {}", self.boots)),
            mandate: None,
        };
        let (core, report) = Core::open(parts, self.now()).expect("the folder opens");
        self.core = Some(core);
        let (lost, again) = (report.lost, report.stated_again);
        let (clean, torn) = (report.clean, report.scan.torn_bytes);
        let (run, damaged) = (self.run, report.scan.damaged.len());
        self.note(format_args!(
            "run {run} clean {clean} lost {lost} again {again} torn {torn} damaged {damaged}"
        ));
    }

    /// Everybody's connection breaks, the process is gone; `how` is done to the machine; then the broker starts again.
    fn restart(&mut self, how: impl FnOnce(&mut World)) {
        if self.core.is_some() {
            self.oracle.scan(&self.disk, self.run);
        }
        let head = self.core.as_ref().map(|core| core.journal_head().0);
        self.heard_all = head.is_none_or(|head| self.agent.has_read(head));
        self.core = None;
        how(self);
        self.agent.broker_gone(&mut self.rng);
        self.open();
        self.flushing = true;
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.note(format_args!("kill"));
        if self.is_spoilt {
            // recovery meets the spoilt record again, and cannot say what else is
            self.untold.push(self.elapsed_ms);
        }
        self.restart(|world| world.disk.kill());
        self.after_crash(false);
    }

    /// The machine loses power.
    pub(crate) fn power_cut(&mut self) {
        let seed = self.rng.next_u64();
        self.note(format_args!("power cut {seed:x}"));
        self.untold.push(self.elapsed_ms);
        self.restart(|world| {
            world.disk.power_cut(seed);
            world.boots += 1;
            world.booted_ms = world.elapsed_ms;
        });
        self.after_crash(true);
    }

    /// The power fails after a disk had lied about its flushes; from then on it keeps what it syncs.
    pub(crate) fn power_cut_of_a_liar(&mut self) {
        let seed = self.rng.next_u64();
        self.note(format_args!("power cut {seed:x} of a disk that lied"));
        self.untold.push(self.elapsed_ms);
        self.restart(|world| {
            world.disk.power_cut(seed);
            world.disk.set_faults(SimFaults::default());
            world.boots += 1;
            world.booted_ms = world.elapsed_ms;
        });
        let destroyed = self.oracle.destroyed_by_lies(&self.disk, self.run);
        let count = destroyed.len();
        self.note(format_args!("destroyed {count}"));
    }

    /// One bit of a flushed record flips while the broker is down.
    pub(crate) fn flip_while_down(&mut self, path: &Path, at: u64, bit: u8) {
        self.note(format_args!("flip a bit of {} at {at}", path.display()));
        self.is_spoilt = true;
        self.untold.push(self.elapsed_ms);
        self.restart(|world| {
            world.disk.kill();
            assert!(world.disk.flip_bit(path, at, bit), "the file has that byte");
        });
        let destroyed = self.oracle.destroyed_by(Class::CorruptedAtRest, &self.disk, self.run);
        let count = destroyed.len();
        self.note(format_args!("destroyed {count}"));
    }

    /// Bits of flushed records flip under the running broker.
    pub(crate) fn flip_while_running(&mut self, flips: &[(PathBuf, u64, u8)]) {
        self.is_spoilt = true;
        for (path, at, bit) in flips {
            self.note(format_args!("flip bit {bit} of {} at {at}, running", path.display()));
            assert!(self.disk.flip_bit(path, *at, *bit), "the file has that byte");
        }
        let destroyed = self.oracle.destroyed_by(Class::CorruptedAtRest, &self.disk, self.run);
        let count = destroyed.len();
        self.note(format_args!("destroyed {count}"));
        assert!(count > 0, "a flipped bit spoils a record");
    }

    /// Files vanish while the broker is down.
    pub(crate) fn lose_files(&mut self, which: impl Fn(&Path) -> bool) -> usize {
        let paths: Vec<PathBuf> =
            self.disk.files().into_iter().map(|(path, _)| path).filter(|p| which(p)).collect();
        self.note(format_args!("lose {} files", paths.len()));
        self.untold.push(self.elapsed_ms);
        let count = paths.len();
        self.restart(|world| {
            world.disk.kill();
            for path in paths {
                world.disk.remove(&path).expect("it was listed");
                world.disk.sync_dir(path.parent().expect("a file is in a folder")).expect("the disk lives");
            }
        });
        self.after_crash(false);
        count
    }

    pub(crate) fn stop_cleanly(&mut self) {
        self.note(format_args!("clean stop"));
        self.oracle.scan(&self.disk, self.run);
        let now = self.now();
        self.core.take().expect("it runs").close(now).expect("the disk works");
        self.restart(|world| world.disk.kill());
        self.after_crash(false);
    }

    fn after_crash(&mut self, power: bool) {
        let destroyed = self.oracle.destroyed_by(Class::StoredNotFlushedLost, &self.disk, self.run);
        let count = destroyed.len();
        self.note(format_args!("destroyed {count}"));
        if !self.heard_all {
            self.unseen.extend(destroyed.iter().map(ToString::to_string));
        }
        let survives = |durable: bool| !power || durable;
        let wrong = self.oracle.lost_writes(&destroyed, survives);
        self.broken.extend(wrong);
    }

    /// The wall clock steps.
    pub(crate) fn step_clock(&mut self, ms: i64) {
        self.note(format_args!("clock step {ms}"));
        self.wall_step_ms += ms;
    }

    /// Used share of the disk as the broker sees it, percent; 0: as it is.
    pub(crate) fn fill_disk(&mut self, percent: u64) {
        let space: DiskSpace = self.disk.space(Path::new(DATA)).expect("the disk works");
        let used = space.total_bytes - space.free_bytes;
        let total = (used * 100).checked_div(percent).unwrap_or(DISK_BYTES);
        self.note(format_args!("disk {percent} percent full"));
        self.disk.set_total_bytes(total);
    }

    /// One turn of everything.
    pub(crate) fn turn(&mut self, requests: Vec<Request>) {
        self.step(TURN_MS, requests);
    }

    fn step(&mut self, ms: u64, mut requests: Vec<Request>) {
        self.elapsed_ms += ms;
        if self.group.is_some() {
            self.group_step(requests);
            return self.agent_step();
        }
        let now = self.now();
        let mut done = Vec::new();
        if self.flushing {
            for orders in self.orders.drain(..) {
                done.extend(orders.log.map(|batch| FlushDone::Log(batch.sync())));
                done.extend(orders.journal.map(|batch| FlushDone::Journal(batch.sync())));
                done.extend(orders.jobs.into_iter().map(|job| FlushDone::Job(job.run())));
            }
        }
        let core = self.core.as_mut().expect("it runs");
        let mut effects = core.turn(now, &mut requests, &mut done);
        assert_eq!(effects.fatal, None, "the disk works");
        self.orders.push(std::mem::take(&mut effects.flush));
        self.agent_step();
    }

    fn agent_step(&mut self) {
        let now = Now { mono_ms: self.elapsed_ms, wall_ms: self.now().wall_ms };
        // a member that follows has no feed
        let said = self.agent.step(now, self.core.as_mut().filter(|core| !core.is_slave()));
        for line in said {
            self.note(format_args!("agent: {line}"));
        }
    }

    /// Time passes, in turns of at most a second.
    pub(crate) fn pass(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let step = left.min(if ms > 10_000 { 500 } else { 50 });
            self.step(step, Vec::new());
            left -= step;
        }
    }

    /// Asks, and waits; `None`: no answer in time.
    pub(crate) fn ask<T: Send + 'static>(
        &mut self,
        request: impl FnOnce(ReplyFn<T>) -> Request,
    ) -> Option<T> {
        let slot = self.begin(request);
        for _ in 0..PATIENCE_TURNS {
            if let Some(answer) = slot.lock().expect("one thread").take() {
                return Some(answer);
            }
            self.turn(Vec::new());
        }
        slot.lock().expect("one thread").take()
    }

    /// Asks in one turn, and does not wait.
    pub(crate) fn begin<T: Send + 'static>(
        &mut self,
        request: impl FnOnce(ReplyFn<T>) -> Request,
    ) -> Arc<Mutex<Option<T>>> {
        let slot = Arc::new(Mutex::new(None));
        let answer = slot.clone();
        self.turn(vec![request(Box::new(move |value| *answer.lock().expect("one thread") = Some(value)))]);
        slot
    }

    /// Until the agent has read everything the broker has stated, and has had time to think.
    pub(crate) fn catch_up(&mut self) {
        for _ in 0..400 {
            self.pass(100);
            let head = self.core.as_ref().expect("it runs").journal_head().0;
            if self.agent.has_read(head) {
                return;
            }
        }
        let (head, at) = (self.core.as_ref().expect("it runs").journal_head().0, self.agent.reads_at());
        self.broken.push(format!(
            "the agent did not catch up in 40 s of virtual time: the head is {head:?}, it is at {at}"
        ));
    }
}
