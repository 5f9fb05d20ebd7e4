//! Owns the agent's thread: its loop takes facts in, folds them, asks the judge, and makes the outcome durable. Never
//! interprets a fact itself. Started by the binary through [`Agent::start`]; everybody else holds an [`AgentHandle`].

pub mod asking;
pub mod core;
pub mod engine;
pub mod feeder;
pub mod handle;
pub mod load;
pub mod status;
pub mod threads;

pub use self::core::Core;
pub use engine::{FACTS_BACKLOG_MAX, REPLAY_PATIENCE_MS};
pub use handle::{AgentError, AgentHandle, Observation, OperatorAct};
pub use load::{LoadError, OpenLedger};
pub use status::{CheckpointStatus, Phase, SourceKind, SourceStatus, Status};

use crate::config::AgentConfig;
use crate::fold::Books;
use crate::ingest::feed::FeedSource;
use crate::ingest::pump::{EVENTS_MAX, ORDERS_MAX, Pump};
use crate::ingest::{Source, SourceError};
use crate::judge::Judge;
use crate::ledger;
use asking::Asking;
use engine::{Engine, LoadedCore, Wires};
use feeder::Feeder;
use handle::{EVIDENCE_MAX, Evidence, OBSERVATIONS_MAX, QUERIES_MAX, Query};
use lifecycle::clock::Now;
use lifecycle::identity::{Incarnation, Name};
use load::{Loaded, Place};
use std::sync::Arc;
use store::disk::Disk;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, mpsc, watch};

/// What a question sees: one consistent state, all verdicts in it durable.
pub struct View<'a> {
    /// The books.
    pub books: &'a Books,
    /// Verdicts and incidents.
    pub judge: &'a Judge,
    /// The agent itself.
    pub status: &'a Status,
    /// Now, by the agent's clocks.
    pub now: Now,
}

/// The clocks, handed in by the binary.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// What an agent needs from outside.
pub struct Environment {
    /// Both clocks.
    pub clock: Clock,
    /// Where its logs live.
    pub disk: Arc<dyn Disk>,
    /// A new uuid v7: this run.
    pub incarnation: Incarnation,
    /// Brokers in this process; those of the configuration come beside them.
    pub sources: Vec<Arc<dyn Source>>,
    /// Opens the ledger; `None`: sled in the data folder.
    pub ledger: Option<OpenLedger>,
}

/// Why an agent does not even begin.
#[derive(Debug, Error)]
pub enum StartError {
    /// A feed's address.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Two sources of one name.
    #[error("two sources are named {0}")]
    TwoOfOneName(String),
    /// No thread, no runtime.
    #[error("starting the agent's threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// The agent.
pub struct Agent;

impl Agent {
    /// Starts the agent on a thread of its own. Returns at once: loading and replay happen there, see [`Status::phase`]. It
    /// stops when told, when every handle is dropped, or by itself when it must ([`AgentHandle::failure`]).
    pub fn start(config: AgentConfig, environment: Environment) -> Result<AgentHandle, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sources = match all_sources(&config, &environment, &runtime) {
            Ok(sources) => sources,
            Err(error) => {
                // the caller may be on a runtime of its own, where another must not be waited for
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let (query_sender, queries) = mpsc::channel(QUERIES_MAX);
        let (evidence_sender, evidence) = mpsc::channel(EVIDENCE_MAX);
        let (status_sender, status) = watch::channel(Arc::new(Status::default()));
        let (stop_sender, stop) = watch::channel(false);
        let (failure_sender, failure) = watch::channel(None);
        let (observations, _) = broadcast::channel(OBSERVATIONS_MAX);
        let handle = AgentHandle {
            queries: query_sender,
            evidence: evidence_sender,
            status,
            sources: sources.clone(),
            stop: Arc::new(stop_sender),
            failure,
            observations: observations.clone(),
        };
        let inner = Inner {
            config,
            environment,
            sources,
            queries,
            evidence,
            stop,
            status: status_sender,
            observations,
        };
        std::thread::Builder::new().name("agent".into()).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| inner.run(&runtime));
            let outcome =
                std::panic::catch_unwind(run).unwrap_or_else(|_| Err("the agent panicked".to_owned()));
            if let Err(error) = outcome {
                tracing::error!(%error, "agent failed");
                failure_sender.send_replace(Some(error));
            }
        })?;
        Ok(handle)
    }
}

fn all_sources(
    config: &AgentConfig,
    environment: &Environment,
    runtime: &Runtime,
) -> Result<Arc<Vec<Arc<dyn Source>>>, StartError> {
    // connections belong to the runtime of the loop
    let _entered = runtime.enter();
    let mut sources = environment.sources.clone();
    for feed in &config.feeds {
        let name = Name::from(feed.name.as_str());
        sources.push(Arc::new(FeedSource::new(name, &feed.urls, &config.reader)?));
    }
    let mut names: Vec<Name> = sources.iter().map(|source| source.name()).collect();
    names.push(ledger::evidence_log::SOURCE_NAME.into());
    names.sort();
    match names.windows(2).find(|pair| pair.first() == pair.last()) {
        Some(pair) => {
            Err(StartError::TwoOfOneName(pair.iter().take(1).map(|name| name.to_string()).collect()))
        }
        None => Ok(Arc::new(sources)),
    }
}

/// What goes to the agent's thread.
struct Inner {
    config: AgentConfig,
    environment: Environment,
    sources: Arc<Vec<Arc<dyn Source>>>,
    queries: mpsc::Receiver<Query>,
    evidence: mpsc::Receiver<Evidence>,
    stop: watch::Receiver<bool>,
    status: watch::Sender<Arc<Status>>,
    observations: broadcast::Sender<Observation>,
}

impl Inner {
    fn run(self, runtime: &Runtime) -> Result<(), String> {
        let Inner { config, environment, sources, queries, evidence, stop, status, observations } = self;
        let Environment { clock, disk, incarnation, ledger, .. } = environment;
        let names: Vec<Name> = sources.iter().map(|source| source.name()).collect();
        let open = ledger.unwrap_or_else(|| {
            let (disk, dir, wall_ms) = (disk.clone(), config.data_dir.join("ledger"), clock().wall_ms);
            Box::new(move || ledger::sled::open(disk.as_ref(), &dir, wall_ms))
        });
        let place = Place { config: &config, disk, incarnation };
        let loaded = load::load(&place, open, &names).map_err(|error| error.to_string())?;
        let Loaded { core, stores, evidence: log, intakes, evidence_status, facts, stale, records, .. } =
            loaded;
        let first = Status {
            checkpoint: CheckpointStatus {
                rows: stores.ledger.row_count(),
                rebuilds: loaded.rebuilds,
                verdict_records: stores.verdicts.end().count,
                log_damage: loaded.damage,
                ..Default::default()
            },
            ..Default::default()
        };
        let (job_sender, jobs) = mpsc::channel(1);
        let (done_sender, done) = mpsc::channel(1);
        let (told_sender, told) = mpsc::channel(1);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let started = [
            threads::checkpoints(stores, jobs, done_sender),
            threads::evidence(log, evidence, told_sender, clock.clone()),
        ];
        let mut threads = Vec::new();
        for thread in started {
            threads.push(thread.map_err(|error| error.to_string())?);
        }
        let mut feeders = Vec::new();
        for (index, (source, intake)) in sources.iter().zip(intakes).enumerate() {
            let (orders, received) = mpsc::channel(ORDERS_MAX);
            runtime.spawn(Pump::new(index, source.clone(), received, event_sender.clone()).run());
            let status = SourceStatus::new(source.name(), SourceKind::Broker);
            feeders.push(Feeder::new(status, intake, orders));
        }
        let asking = Asking::new(sources.clone());
        let start =
            LoadedCore { core, evidence_status, facts, stale, records, status: first, asking, observations };
        let engine = Engine::new(start, feeders, config.checkpoint, clock);
        let wires = Wires { events, told, queries, jobs: job_sender, done, stop, status };
        let outcome = runtime.block_on(engine.run(wires));
        // the checkpoint thread ends with its queue; the evidence thread may wait for a handle that is still held
        if let Some(checkpoints) = threads.into_iter().next() {
            drop(checkpoints.join());
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
