//! Owns the agent under test: production loading, intake, fold, judge, evidence log, verdict log and checkpoints, over a simulated
//! disk and a ledger in memory. Written here is only what tokio does in production: when which part runs. Never sees an oracle.

use crate::feed::Feed;
use agent::config::AgentConfig;
use agent::ingest::pump::ORDERS_MAX;
use agent::judge::verdict::{Verdict, VerdictEvent};
use agent::judge::{Answer, Heads};
use agent::ledger::checkpoint::{Job, Stores};
use agent::ledger::evidence_log::{EvidenceLog, SOURCE_NAME};
use agent::ledger::memory::MemoryLedger;
use agent::ledger::raw_frames::{RawSource, encode_body};
use agent::ledger::verdict_log::{Record, RecordKind};
use agent::run::core::Hearing;
use agent::run::feeder::Feeder;
use agent::run::load::{Loaded, Place, load};
use agent::run::{Core, SourceKind, SourceStatus};
use lifecycle::clock::Now;
use lifecycle::fact::{Fact, SentReported};
use lifecycle::identity::{Incarnation, Name};
use lifecycle::position::Position;
use std::sync::Arc;
use store::disk_sim::{SimDisk, SimRng};
use tokio::sync::mpsc;

const JUDGE_EVERY_MS: u64 = 100;
const CHECKPOINT_EVERY_MS: u64 = 1_000;
const QUESTIONS_MAX: usize = 64;
/// Twice the retention of the simulated broker.
pub(crate) const IDLE_AFTER_MS: u64 = 7_200_000;

/// How the way from the broker to the agent behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Longest delay of a batch, ms.
    pub(crate) delay_max_ms: u64,
    /// Batches lost with the connection they were on, of 1000; the agent reads again from its position.
    pub(crate) break_permille: u64,
    /// Batches that come twice, of 1000.
    pub(crate) twice_permille: u64,
    /// Most frames of a batch.
    pub(crate) chunk_max: u64,
    /// Changes the facts of each frame on its way; mutants do.
    pub(crate) tamper: Option<Tamper>,
}

/// What a mutant does to the facts of one frame.
pub(crate) type Tamper = fn(&mut Vec<Fact>);

/// A running agent.
struct Running {
    core: Core,
    stores: Stores,
    evidence: EvidenceLog,
    evidence_at: Position,
    feeder: Feeder,
    records: Vec<Record>,
    stale: Vec<agent::ledger::Change>,
    facts: u64,
    judged_ms: u64,
    saved_ms: u64,
    answers: Vec<Answer>,
}

/// See the module text.
pub(crate) struct Watcher {
    disk: SimDisk,
    ledger: MemoryLedger,
    config: AgentConfig,
    feed: Feed,
    running: Option<Running>,
    runs: u8,
    /// Confirmed messages per class never fall.
    confirmed: Vec<(agent::fold::class::Class, u64)>,
    /// What broke a rule on the way.
    pub(crate) broken: Vec<String>,
    /// Verdicts ever taken back.
    pub(crate) withdrawn: u64,
}

impl Watcher {
    pub(crate) fn new(seed: u64, manner: Manner) -> Watcher {
        let mut config = AgentConfig { data_dir: "/agent".into(), ..AgentConfig::default() };
        config.judge.idle_after_ms = IDLE_AFTER_MS;
        let mut watcher = Watcher {
            disk: SimDisk::new(),
            ledger: MemoryLedger::new(),
            config,
            feed: Feed::new(seed, manner),
            running: None,
            runs: 0,
            confirmed: Vec::new(),
            broken: Vec::new(),
            withdrawn: 0,
        };
        watcher.start();
        watcher
    }

    /// Starts the agent on what its disk holds.
    pub(crate) fn start(&mut self) {
        self.runs += 1;
        let place = Place {
            config: &self.config,
            disk: Arc::new(self.disk.clone()),
            incarnation: Incarnation([100 + self.runs; 16]),
        };
        let ledger = self.ledger.clone();
        let open = Box::new(move || Ok(ledger.open()));
        let loaded = load(&place, open, &[Name::from(crate::world::BROKER)]).expect("the agent's disk works");
        let Loaded {
            core, stores, evidence, intakes, evidence_status, facts, stale, records, damage, ..
        } = loaded;
        assert_eq!(damage, Vec::<String>::new(), "nothing damages the agent's disk");
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        self.feed.connect(orders);
        let status = SourceStatus::new(crate::world::BROKER.into(), SourceKind::Broker);
        let intake = intakes.into_iter().next().expect("one source, one intake");
        let mut feeder = Feeder::new(status, intake, sender);
        feeder.start();
        self.running = Some(Running {
            core,
            stores,
            evidence,
            evidence_at: evidence_status.position,
            feeder,
            records,
            stale,
            facts,
            judged_ms: 0,
            saved_ms: 0,
            answers: Vec::new(),
        });
    }

    /// `kill -9` of the agent.
    pub(crate) fn kill(&mut self) {
        self.running = None;
        self.disk.kill();
    }

    /// The agent's machine loses power. (Its ledger is durable at commit: sled has its own crash tests.)
    pub(crate) fn power_cut(&mut self, seed: u64) {
        self.running = None;
        self.disk.power_cut(seed);
    }

    /// The connection to the broker broke.
    pub(crate) fn broker_gone(&mut self, rng: &mut SimRng) {
        self.feed.broke(rng.below(2) == 0);
    }

    /// Nothing passes between broker and agent while this is so.
    pub(crate) fn cut_off(&mut self, is_cut: bool) {
        self.feed.is_cut = is_cut;
    }

    /// A producer reports; answers after it is durable.
    pub(crate) fn report(&mut self, now: Now, report: SentReported) {
        let running = self.running.as_mut().expect("producers report while the agent runs");
        let facts = vec![Fact::SentReported(report)];
        let (position, frame) = running.evidence.append(now, facts).expect("the agent's disk works");
        running.core.apply(&SOURCE_NAME.into(), position, &frame);
        running.evidence_at = position;
        running.facts += 1;
    }

    pub(crate) fn has_read(&self, head: Position) -> bool {
        self.running.as_ref().is_some_and(|running| running.feeder.status.position == head)
    }

    /// Where it is, and what its connection does, in words.
    pub(crate) fn reads_at(&self) -> String {
        let running = self.running.as_ref();
        running.map_or("not running".into(), |running| {
            format!("{:?}, {}", running.feeder.status.position, self.feed.describe())
        })
    }

    pub(crate) fn core(&self) -> &Core {
        &self.running.as_ref().expect("the agent runs").core
    }

    /// Every incident as it stands, oldest first.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        self.core().judge.incidents().map(|incident| incident.verdict.clone()).collect()
    }

    /// Lets time pass. Returns what was said and made durable, in words.
    pub(crate) fn step(&mut self, now: Now, broker: Option<&mut broker::core::Core>) -> Vec<String> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let mut folded = 0;
        self.feed.step(now.mono_ms, broker.as_deref());
        while let Some(kind) = self.feed.next(now.mono_ms) {
            folded += running.feeder.take(kind, &mut running.core, now);
        }
        folded += running.feeder.tick(&mut running.core, now);
        running.facts += folded;
        if folded > 0
            && let Some(imbalance) = running.core.books.imbalance()
        {
            self.broken.push(format!("books do not balance: {imbalance}"));
        }
        if now.mono_ms < running.judged_ms + JUDGE_EVERY_MS {
            return Vec::new();
        }
        running.judged_ms = now.mono_ms;
        let mut said = Vec::new();
        running.judge(now, broker, &mut said);
        let due = now.mono_ms >= running.saved_ms + CHECKPOINT_EVERY_MS && running.facts > 0;
        if due || !running.records.is_empty() {
            running.saved_ms = now.mono_ms;
            running.checkpoint();
        }
        self.withdrawn += said.iter().filter(|line| line.contains(" withdrawn ")).count() as u64;
        self.check_counters();
        said
    }

    fn check_counters(&mut self) {
        let now = self.core().judge.counts().confirmed_messages.clone();
        for (class, before) in &self.confirmed {
            let after = now.get(class).copied().unwrap_or(0);
            if after < *before {
                self.broken.push(format!("counter of {} fell from {before} to {after}", class.text()));
            }
        }
        self.confirmed = now.into_iter().collect();
    }
}

impl Running {
    fn judge(&mut self, now: Now, broker: Option<&mut broker::core::Core>, said: &mut Vec<String>) {
        let heads = [
            (self.feeder.status.name.clone(), self.feeder.intake.head()),
            (SOURCE_NAME.into(), Some(self.evidence_at)),
        ];
        let heads: Heads = heads.into_iter().collect();
        let answers = std::mem::take(&mut self.answers);
        self.facts += answers.len() as u64;
        let (records, _) = self.core.judge(Hearing { now, heads: &heads, answers });
        said.extend(records.iter().filter_map(told));
        self.records.extend(records);
        let questions = self.core.questions(QUESTIONS_MAX);
        if let Some(broker) = broker {
            self.answers =
                questions.into_iter().map(|question| crate::feed::answer(broker, question)).collect();
        }
    }

    fn checkpoint(&mut self) {
        let frames = self.feeder.intake.held.to_keep();
        let kept = RawSource { name: self.feeder.status.name.clone(), frames };
        let sources: Vec<RawSource> = [kept].into_iter().filter(|kept| !kept.frames.is_empty()).collect();
        let mut changes = std::mem::take(&mut self.stale);
        changes.extend(self.core.export());
        let records = std::mem::take(&mut self.records);
        let job = Job { raw_body: encode_body(&sources), records, changes };
        self.stores.commit(job).expect("the agent's disk works");
        self.facts = 0;
        self.feeder.confirm(self.feeder.status.position);
    }
}

/// A verdict in words, without the incident's random name.
fn told(record: &Record) -> Option<String> {
    if record.kind != RecordKind::Verdict {
        return None;
    }
    let event: VerdictEvent = serde_json::from_slice(&record.body).expect("the agent wrote it");
    let verdict = event.verdict;
    let spans: Vec<String> = verdict
        .open_spans
        .iter()
        .map(|s| format!("{:x}/{}/{}..{}@{}", s.topic_incarnation, s.queue_id, s.from, s.to, s.epoch))
        .collect();
    Some(format!(
        "{} {} group {:?} {} messages, {} undecided, spans {spans:?} ids {:?}",
        verdict.class.text(),
        verdict.state.text(),
        verdict.group,
        verdict.messages,
        verdict.undecided,
        verdict.ids
    ))
}
