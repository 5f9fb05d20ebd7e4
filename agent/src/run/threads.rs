//! Owns the agent's two blocking threads: one makes checkpoints durable, one makes evidence durable before its sender is
//! answered. Never decides anything. Started by the loop, and over when their queues are.

use super::Clock;
use super::handle::{AgentError, Evidence};
use crate::ledger::checkpoint::{CheckpointError, Durable, Job, Stores};
use crate::ledger::evidence_log::EvidenceLog;
use lifecycle::frame::Frame;
use lifecycle::position::Position;
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Facts written to the evidence log with one sync.
pub const GROUP_FACTS_MAX: usize = 20_000;

/// A checkpoint's outcome.
pub type Outcome = Result<Durable, CheckpointError>;

/// Makes checkpoints durable, one after the other.
pub fn checkpoints(
    mut stores: Stores,
    mut jobs: mpsc::Receiver<Job>,
    done: mpsc::Sender<Outcome>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("checkpoint".into()).spawn(move || {
        while let Some(job) = jobs.blocking_recv() {
            let outcome = stores.commit(job);
            let failed = outcome.is_err();
            if done.blocking_send(outcome).is_err() || failed {
                return;
            }
        }
    })
}

/// A frame of the evidence log, on disk, or why there are no more.
pub type Told = Result<(Position, Frame), String>;

/// Takes evidence: many senders share one sync, and each is answered after it.
pub fn evidence(
    mut log: EvidenceLog,
    mut arrivals: mpsc::Receiver<Evidence>,
    told: mpsc::Sender<Told>,
    clock: Clock,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("evidence".into()).spawn(move || {
        while let Some(first) = arrivals.blocking_recv() {
            let mut facts = first.facts;
            let mut waiting = vec![first.reply];
            while facts.len() < GROUP_FACTS_MAX
                && let Ok(next) = arrivals.try_recv()
            {
                facts.extend(next.facts);
                waiting.push(next.reply);
            }
            let (answer, message) = match log.append(clock(), facts) {
                Ok((position, frame)) => (Ok(position), Ok((position, frame))),
                Err(error) => (Err(AgentError::NotDurable(error.to_string())), Err(error.to_string())),
            };
            let failed = message.is_err();
            // the loop folds it whether or not the senders still wait
            let gone = told.blocking_send(message).is_err();
            for reply in waiting {
                drop(reply.send(answer.clone()));
            }
            if failed || gone {
                return;
            }
        }
    })
}
