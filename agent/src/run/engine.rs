//! Owns the loop: one place where events, evidence, questions and time meet books and judge. Never blocks; what blocks runs on
//! the threads of [`super::threads`].
//!
//! The judge speaks only right before a checkpoint, and while what it said is on its way to disk no question is answered: what
//! anybody is told is durable. Those who ask for counters wait for a checkpoint, too: counters never step back. At most [`FACTS_BACKLOG_MAX`] facts are folded while a checkpoint is under way.

use super::asking::Asking;
use super::core::{Core, Hearing};
use super::feeder::Feeder;
use super::handle::{DurableQuery, LetGo, Observation, Query};
use super::status::{Phase, SourceStatus, Status};
use super::threads::{Outcome, Told};
use super::{Clock, View};
use crate::config::CheckpointConfig;
use crate::ingest::pump::Event;
use crate::judge::Heads;
use crate::ledger::Change;
use crate::ledger::checkpoint::Job;
use crate::ledger::raw_frames::{RawSource, encode_body};
use crate::ledger::verdict_log::Record;
use lifecycle::clock::Now;
use lifecycle::position::Position;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};

/// Facts folded while one checkpoint is under way; then sources wait.
pub const FACTS_BACKLOG_MAX: u64 = 2_000_000;
/// How long a source that cannot be reached holds the first answers back.
pub const REPLAY_PATIENCE_MS: u64 = 10_000;
const TICK: Duration = Duration::from_millis(20);
const STATUS_EVERY_MS: u64 = 100;

/// The loop's queues.
pub struct Wires {
    /// From the pumps.
    pub events: mpsc::Receiver<Event>,
    /// From the evidence thread.
    pub told: mpsc::Receiver<Told>,
    /// From the handles.
    pub queries: mpsc::Receiver<Query>,
    /// To the checkpoint thread.
    pub jobs: mpsc::Sender<Job>,
    /// From the checkpoint thread.
    pub done: mpsc::Receiver<Outcome>,
    /// Set when the agent shall stop.
    pub stop: watch::Receiver<bool>,
    /// To the handles.
    pub status: watch::Sender<Arc<Status>>,
}

/// A checkpoint under way.
struct Flight {
    positions: Vec<Position>,
    holds_verdicts: bool,
    delays: Vec<u64>,
    started_ms: u64,
    started_wall_ms: u64,
    /// Answers that rest on what is being made durable.
    answers: Vec<LetGo>,
}

/// The loop's state.
pub struct Engine {
    core: Core,
    feeders: Vec<Feeder>,
    evidence: SourceStatus,
    status: Status,
    checkpoint: CheckpointConfig,
    clock: Clock,
    asking: Asking,
    observations: broadcast::Sender<Observation>,
    stale: Vec<Change>,
    records: Vec<Record>,
    /// From event to confirmation, of the verdicts in `records`.
    delays: Vec<u64>,
    flight: Option<Flight>,
    /// Wait for a checkpoint of their own.
    durable_queries: Vec<DurableQuery>,
    last_start_ms: u64,
    last_judged_ms: u64,
    facts_unsaved: u64,
    status_sent_ms: u64,
    started_ms: u64,
}

impl Engine {
    /// Takes over what was loaded (without its stores, which are the threads').
    pub fn new(loaded: LoadedCore, feeders: Vec<Feeder>, checkpoint: CheckpointConfig, clock: Clock) -> Self {
        let LoadedCore { core, evidence_status, facts, stale, records, status, asking, observations } =
            loaded;
        let now = clock();
        let unsaved = facts + u64::from(!records.is_empty() || !stale.is_empty());
        let mut engine = Engine {
            core,
            feeders,
            evidence: evidence_status,
            status,
            checkpoint,
            clock,
            asking,
            observations,
            stale,
            records,
            delays: Vec::new(),
            flight: None,
            durable_queries: Vec::new(),
            last_start_ms: now.mono_ms,
            last_judged_ms: 0,
            facts_unsaved: 0,
            status_sent_ms: 0,
            started_ms: now.mono_ms,
        };
        engine.folded(unsaved);
        engine
    }

    /// Runs until stopped; an error means that the agent must not go on.
    pub async fn run(mut self, mut wires: Wires) -> Result<(), String> {
        self.status.phase = Phase::Replaying;
        for feeder in &mut self.feeders {
            feeder.start();
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let room = self.facts_unsaved < FACTS_BACKLOG_MAX || self.flight.is_none();
            let may_answer = !self.holds_verdicts();
            tokio::select! {
                Some(outcome) = wires.done.recv() => self.finish(outcome)?,
                Some(told) = wires.told.recv(), if room => self.hear(told)?,
                Some(query) = wires.queries.recv(), if may_answer => self.answer(query),
                _ = wires.stop.changed() => break,
                _ = tick.tick() => self.tick(&wires)?,
                Some(event) = wires.events.recv(), if room => self.take(event),
            }
            if self.facts_unsaved >= self.checkpoint.facts || !self.durable_queries.is_empty() {
                self.maybe_checkpoint(&wires)?;
            }
        }
        self.shut_down(wires).await
    }

    fn holds_verdicts(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.holds_verdicts)
    }

    fn take(&mut self, event: Event) {
        let now = (self.clock)();
        if let Some(feeder) = self.feeders.get_mut(event.source) {
            let facts = feeder.take(event.kind, &mut self.core, now);
            self.folded(facts);
        }
    }

    fn hear(&mut self, told: Told) -> Result<(), String> {
        let (position, frame) = told.map_err(|error| format!("evidence log: {error}"))?;
        let facts = frame.facts.len() as u64;
        self.core.apply(&self.evidence.name, position, &frame);
        self.evidence.position = position;
        self.evidence.head_sequence = position.sequence;
        self.evidence.flushed_sequence = position.sequence;
        self.evidence.last_frame_wall_ms = frame.now.wall_ms;
        self.folded(facts);
        Ok(())
    }

    fn folded(&mut self, facts: u64) {
        if facts > 0 && self.status.checkpoint.unsaved_since_wall_ms == 0 {
            self.status.checkpoint.unsaved_since_wall_ms = (self.clock)().wall_ms;
        }
        self.facts_unsaved += facts;
        self.status.facts += facts;
    }

    fn answer(&mut self, query: Query) {
        match query {
            Query::Now(query) => query(&self.view()),
            Query::Durable(query) => self.durable_queries.push(query),
        }
    }

    fn view(&mut self) -> View<'_> {
        self.gather_status();
        let now = (self.clock)();
        View { books: &self.core.books, judge: &self.core.judge, status: &self.status, now }
    }

    /// What those see who wait for a durable state; handed over once it is.
    fn take_durable_answers(&mut self) -> Vec<LetGo> {
        let queries = std::mem::take(&mut self.durable_queries);
        if queries.is_empty() {
            return Vec::new();
        }
        let view = self.view();
        queries.into_iter().map(|query| query(&view)).collect()
    }

    fn tick(&mut self, wires: &Wires) -> Result<(), String> {
        let now = (self.clock)();
        let mut facts = 0;
        for feeder in &mut self.feeders {
            facts += feeder.tick(&mut self.core, now);
        }
        self.folded(facts);
        self.evidence.caught_up_wall_ms = now.wall_ms;
        self.maybe_checkpoint(wires)?;
        self.settle_phase(now.mono_ms);
        if now.mono_ms.saturating_sub(self.status_sent_ms) >= STATUS_EVERY_MS {
            self.status_sent_ms = now.mono_ms;
            self.publish(wires);
        }
        Ok(())
    }

    /// Answers are held back until every source has been heard to its end once: counters would step back.
    fn settle_phase(&mut self, mono_ms: u64) {
        let patience_over = mono_ms.saturating_sub(self.started_ms) >= REPLAY_PATIENCE_MS;
        let settled = |feeder: &Feeder| feeder.intake.replayed() || (patience_over && !feeder.status.up);
        if self.status.phase == Phase::Replaying && self.feeders.iter().all(settled) {
            self.status.phase = Phase::Serving;
        }
    }

    fn gather_status(&mut self) {
        let sources = self.feeders.iter().map(|feeder| feeder.status.clone());
        self.status.sources = sources.chain([self.evidence.clone()]).collect();
        self.status.raw_frames_dropped = self.feeders.iter().map(|feeder| feeder.intake.held.dropped).sum();
    }

    fn publish(&mut self, wires: &Wires) {
        self.gather_status();
        wires.status.send_replace(Arc::new(self.status.clone()));
    }

    /// Lets the judge speak, and starts a checkpoint when it did or when one is due.
    fn maybe_checkpoint(&mut self, wires: &Wires) -> Result<(), String> {
        let now = (self.clock)();
        let judged = now.mono_ms.saturating_sub(self.last_judged_ms);
        if self.flight.is_some() || judged < self.checkpoint.verdict_interval_ms {
            return Ok(());
        }
        self.last_judged_ms = now.mono_ms;
        self.judge(now);
        let since = now.mono_ms.saturating_sub(self.last_start_ms);
        let due = since >= self.checkpoint.interval_ms
            || self.facts_unsaved >= self.checkpoint.facts
            || !self.durable_queries.is_empty();
        let answers = self.take_durable_answers();
        if self.records.is_empty() && !(due && self.facts_unsaved > 0) {
            // nothing is unsaved, or nobody asked: this is what is on disk
            answers.into_iter().for_each(|let_go| let_go());
            return Ok(());
        }
        let job = self.job();
        self.last_start_ms = now.mono_ms;
        let positions = self.feeders.iter().map(|feeder| feeder.status.position).collect();
        let holds_verdicts = !job.records.is_empty();
        self.flight = Some(Flight {
            positions,
            holds_verdicts,
            delays: std::mem::take(&mut self.delays),
            started_ms: now.mono_ms,
            started_wall_ms: now.wall_ms,
            answers,
        });
        wires.jobs.try_send(job).map_err(|_| "checkpoint thread is gone".to_owned())
    }

    fn judge(&mut self, now: Now) {
        let heads = self.feeders.iter().map(|feeder| (feeder.status.name.clone(), feeder.intake.head()));
        let heads: Heads =
            heads.chain([(self.evidence.name.clone(), Some(self.evidence.position))]).collect();
        let answers = self.asking.take();
        // what an answer settles is no fact, but a change to be saved
        self.folded(answers.len() as u64);
        let (records, delays) = self.core.judge(Hearing { now, heads: &heads, answers });
        self.records.extend(records);
        self.delays.extend(delays);
        for question in self.core.questions(self.asking.room()) {
            self.asking.ask(question);
        }
    }

    fn job(&mut self) -> Job {
        let kept = |feeder: &Feeder| RawSource {
            name: feeder.status.name.clone(),
            frames: feeder.intake.held.to_keep(),
        };
        let sources: Vec<RawSource> =
            self.feeders.iter().map(kept).filter(|source| !source.frames.is_empty()).collect();
        let mut changes = std::mem::take(&mut self.stale);
        changes.extend(self.core.export());
        self.facts_unsaved = 0;
        Job { raw_body: encode_body(&sources), records: std::mem::take(&mut self.records), changes }
    }

    fn finish(&mut self, outcome: Outcome) -> Result<(), String> {
        let durable = outcome.map_err(|error| format!("checkpoint: {error}"))?;
        let Some(flight) = self.flight.take() else { return Ok(()) };
        let now = (self.clock)();
        let checkpoint = &mut self.status.checkpoint;
        checkpoint.count += 1;
        checkpoint.at_wall_ms = now.wall_ms;
        checkpoint.took_ms = now.mono_ms.saturating_sub(flight.started_ms);
        checkpoint.unsaved_since_wall_ms = if self.facts_unsaved > 0 { flight.started_wall_ms } else { 0 };
        checkpoint.rows = durable.rows;
        checkpoint.verdict_records = durable.verdict_records;
        let took = Observation::CheckpointMs(checkpoint.took_ms);
        flight.answers.into_iter().for_each(|let_go| let_go());
        for observation in flight.delays.into_iter().map(Observation::DetectionMs).chain([took]) {
            // nobody may be listening
            self.observations.send(observation).ok();
        }
        for (feeder, position) in self.feeders.iter().zip(flight.positions) {
            feeder.confirm(position);
        }
        Ok(())
    }

    /// Takes a last checkpoint.
    async fn shut_down(mut self, mut wires: Wires) -> Result<(), String> {
        for _ in 0..2 {
            while self.flight.is_some() {
                let outcome = wires.done.recv().await.ok_or("checkpoint thread is gone")?;
                self.finish(outcome)?;
            }
            if self.facts_unsaved > 0 {
                self.checkpoint = CheckpointConfig { facts: 1, interval_ms: 0, verdict_interval_ms: 0 };
                self.maybe_checkpoint(&wires)?;
            }
        }
        self.status.phase = Phase::Stopped;
        self.publish(&wires);
        Ok(())
    }
}

/// What the loop takes over from the start.
pub struct LoadedCore {
    /// Books and judge.
    pub core: Core,
    /// The evidence log as a source.
    pub evidence_status: SourceStatus,
    /// Facts folded from it at the start.
    pub facts: u64,
    /// Rows to remove.
    pub stale: Vec<Change>,
    /// Records to write.
    pub records: Vec<Record>,
    /// What is known about the agent itself.
    pub status: Status,
    /// The way to the sources.
    pub asking: Asking,
    /// To whoever keeps histograms.
    pub observations: broadcast::Sender<Observation>,
}
