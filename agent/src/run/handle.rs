//! Owns the way from the HTTP layer to the agent's loop: bounded queues in, answers out. Never touches the books itself: a
//! question is a closure the loop runs between two frames.

use super::View;
use super::status::Status;
use crate::ingest::{Inspected, LocateQuery, Located, Source, SourceError};
use lifecycle::fact::{Fact, OperatorAction, SentReported};
use lifecycle::identity::{Incarnation, MessageIdentity, Name};
use lifecycle::position::Position;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Questions waiting for the loop; beyond it callers are told `Busy`.
pub const QUERIES_MAX: usize = 256;
/// Reports and acts waiting for the evidence log.
pub const EVIDENCE_MAX: usize = 1024;
/// Most reports in one call.
pub const REPORTS_MAX: usize = 10_000;
/// Longest wait of a caller.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Why the agent does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AgentError {
    /// Too much is waiting; trying again later helps.
    #[error("too many requests are waiting")]
    Busy,
    /// The agent is stopping, or has failed.
    #[error("the agent has stopped")]
    Stopped,
    /// No answer in time.
    #[error("no answer in time")]
    Late,
    /// More than [`REPORTS_MAX`] in one call.
    #[error("more than {REPORTS_MAX} reports in one request")]
    TooMany,
    /// It could not be made durable: it is *not* accepted.
    #[error("evidence log: {0}")]
    NotDurable(String),
    /// No such source.
    #[error("source {0} is not known")]
    UnknownSource(String),
    /// A source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// A question the loop runs.
pub enum Query {
    /// Between two frames.
    Now(Box<dyn FnOnce(&View<'_>) + Send>),
    /// Of the state that a checkpoint makes durable; the answer is let go when it is.
    Durable(DurableQuery),
}

/// Looks, and returns what hands the answer over.
pub type DurableQuery = Box<dyn FnOnce(&View<'_>) -> LetGo + Send>;
/// Hands an answer over.
pub type LetGo = Box<dyn FnOnce() + Send>;

/// Facts for the evidence log, and who waits for them to be durable.
pub struct Evidence {
    /// What was told.
    pub facts: Vec<Fact>,
    /// Answered with the position once it is on disk.
    pub reply: oneshot::Sender<Result<Position, AgentError>>,
}

/// Observations that wait for a slow listener; beyond it the oldest are dropped (they feed histograms only).
pub const OBSERVATIONS_MAX: usize = 1024;

/// How long something took, told once it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A checkpoint, from the snapshot of the books to durable.
    CheckpointMs(u64),
    /// From an event to its confirmed verdict.
    DetectionMs(u64),
}

/// The agent, as others see it. Cloning is cheap.
#[derive(Clone)]
pub struct AgentHandle {
    pub(super) queries: mpsc::Sender<Query>,
    pub(super) evidence: mpsc::Sender<Evidence>,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) sources: Arc<Vec<Arc<dyn Source>>>,
    pub(super) stop: Arc<watch::Sender<bool>>,
    pub(super) failure: watch::Receiver<Option<String>>,
    pub(super) observations: broadcast::Sender<Observation>,
}

impl AgentHandle {
    /// Runs a read-only closure over books, judge and status, between two frames: keep it short (a few ms).
    pub async fn query<R: Send + 'static>(
        &self,
        question: impl FnOnce(&View<'_>) -> R + Send + 'static,
    ) -> Result<R, AgentError> {
        let (sender, receiver) = oneshot::channel();
        let query = Query::Now(Box::new(move |view| {
            // the caller may have gone: then nobody misses the answer
            drop(sender.send(question(view)));
        }));
        self.queries.try_send(query).map_err(refused)?;
        answer(receiver).await
    }

    /// As [`Self::query`], of a state that no power cut takes back: what must never step back is asked this way. Costs a
    /// checkpoint when something is unsaved, at most one per `checkpoint.verdict_interval_ms` for all who ask.
    pub async fn query_durable<R: Send + 'static>(
        &self,
        question: impl FnOnce(&View<'_>) -> R + Send + 'static,
    ) -> Result<R, AgentError> {
        let (sender, receiver) = oneshot::channel();
        let query: DurableQuery = Box::new(move |view| {
            let found = question(view);
            Box::new(move || drop(sender.send(found)))
        });
        self.queries.try_send(Query::Durable(query)).map_err(refused)?;
        answer(receiver).await
    }

    /// Takes producers' reports: on disk in the evidence log at return (group commit).
    pub async fn report_sent(&self, reports: Vec<SentReported>) -> Result<Position, AgentError> {
        if reports.len() > REPORTS_MAX {
            return Err(AgentError::TooMany);
        }
        self.add_evidence(reports.into_iter().map(Fact::SentReported).collect()).await
    }

    /// Takes an operator's decision about an incident: on disk at return.
    pub async fn act(&self, act: OperatorAct) -> Result<Position, AgentError> {
        let OperatorAct { incident, action, actor, note, wall_ms } = act;
        self.add_evidence(vec![Fact::OperatorActed { incident, action, actor, note, wall_ms }]).await
    }

    /// Takes an operator's word that a group owes nothing any more: on disk at return.
    pub async fn retire(&self, group: Name, actor: Name) -> Result<Position, AgentError> {
        self.add_evidence(vec![Fact::GroupDeleted { group, actor }]).await
    }

    async fn add_evidence(&self, facts: Vec<Fact>) -> Result<Position, AgentError> {
        let (reply, receiver) = oneshot::channel();
        self.evidence.try_send(Evidence { facts, reply }).map_err(refused)?;
        answer(receiver).await?
    }

    /// Asks every broker source at once; one answer per source, in order of name.
    pub async fn locate(&self, query: LocateQuery) -> Vec<(Name, Result<Located, SourceError>)> {
        let mut calls = tokio::task::JoinSet::new();
        for source in self.sources.iter() {
            let source = source.clone();
            let query = query.clone();
            calls.spawn(async move {
                let late = SourceError::Unavailable("no answer in time".into());
                let answer = tokio::time::timeout(ANSWER_MAX, source.locate(query)).await;
                (source.name(), answer.unwrap_or(Err(late)))
            });
        }
        let mut answers = calls.join_all().await;
        answers.sort_by(|a, b| a.0.cmp(&b.0));
        answers
    }

    /// Asks one source what it has stored under an identity.
    pub async fn inspect(
        &self,
        source: &str,
        identity: MessageIdentity,
    ) -> Result<Option<Inspected>, AgentError> {
        let found = self.sources.iter().find(|candidate| *candidate.name() == *source);
        let source = found.ok_or_else(|| AgentError::UnknownSource(source.to_owned()))?;
        let answer = tokio::time::timeout(ANSWER_MAX, source.inspect(identity)).await;
        Ok(answer.map_err(|_| AgentError::Late)??)
    }

    /// What the agent said about itself last (at most 200 ms old).
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Waits for the next change of the status.
    pub async fn status_changed(&mut self) -> Result<Arc<Status>, AgentError> {
        self.status.changed().await.map_err(|_| AgentError::Stopped)?;
        Ok(self.status.borrow_and_update().clone())
    }

    /// What is observed from now on, for histograms.
    pub fn observations(&self) -> broadcast::Receiver<Observation> {
        self.observations.subscribe()
    }

    /// Why the agent stopped by itself; `None` while it runs, and after an ordered stop.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Completes when the agent has stopped, for whatever reason, with everything durable that can be.
    pub async fn stopped(&self) {
        let mut failure = self.failure.clone();
        // the sender is dropped when the thread ends
        while failure.changed().await.is_ok() {}
    }

    /// Asks the agent to take a last checkpoint and stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// An operator's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorAct {
    /// The incident's id.
    pub incident: Incarnation,
    /// What was decided.
    pub action: OperatorAction,
    /// Who decided.
    pub actor: Name,
    /// Why.
    pub note: Name,
    /// When, wall ms.
    pub wall_ms: u64,
}

fn refused<T>(error: mpsc::error::TrySendError<T>) -> AgentError {
    match error {
        mpsc::error::TrySendError::Full(_) => AgentError::Busy,
        mpsc::error::TrySendError::Closed(_) => AgentError::Stopped,
    }
}

async fn answer<T>(receiver: oneshot::Receiver<T>) -> Result<T, AgentError> {
    match tokio::time::timeout(ANSWER_MAX, receiver).await {
        Err(_) => Err(AgentError::Late),
        Ok(answer) => answer.map_err(|_| AgentError::Stopped),
    }
}
