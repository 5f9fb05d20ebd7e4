//! Owns the agent's thread: its loop takes facts in, folds them, asks the judge, and makes the outcome durable. Never
//! interprets a fact itself. Started by the binary through [`Agent::start`]; everybody else holds an [`AgentHandle`].

pub mod handle;
pub mod status;

pub use handle::{AgentError, AgentHandle, OperatorAct};
pub use status::{CheckpointStatus, Phase, SourceKind, SourceStatus, Status};

use crate::config::AgentConfig;
use crate::ingest::Source;
use lifecycle::clock::Now;
use lifecycle::identity::Incarnation;
use std::sync::Arc;
use store::disk::Disk;

/// Stand-in until the fold is in place.
#[derive(Default)]
pub struct Books;
/// Stand-in until the judge is in place.
#[derive(Default)]
pub struct Judge;

/// What a question sees: one consistent state.
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
    /// Where its logs live (the ledger has its own door).
    pub disk: Arc<dyn Disk>,
    /// A new uuid v7: this run.
    pub incarnation: Incarnation,
    /// The brokers.
    pub sources: Vec<Arc<dyn Source>>,
}

/// The agent.
pub struct Agent;

impl Agent {
    /// Starts the agent on a thread of its own. Returns at once: loading and replay happen there, see [`Status::phase`].
    pub fn start(config: AgentConfig, environment: Environment) -> AgentHandle {
        let _ = (config, environment);
        todo!()
    }
}
