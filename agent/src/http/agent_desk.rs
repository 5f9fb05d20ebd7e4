//! Owns the desk over the running agent: turns each question into one look at books and judge, and puts around the answer
//! how far the evidence goes.

use crate::http::desk::{Answer, Decision, Desk, FoundMessage, LossFilter, Scope};
use crate::http::problem::Problem;
use crate::ingest::{LOCATE_LIMIT, LocateBy, LocateQuery, Place};
use crate::metrics::{Observed, ObservedSource};
use crate::report::views::{
    AsOf, BalanceRow, CoverageRow, DlqRow, Envelope, ExposureReport, GapRow, GroupRow, LossDetail, LossItem,
    MessageTimeline, SourceRow, TopicRow,
};
use crate::run::{AgentHandle, Clock, Phase, SourceKind, SourceStatus, Status, View};
use lifecycle::fact::SentReported;
use lifecycle::identity::Incarnation;

/// Evidence this much behind still counts as complete in the metrics: less would flicker under load.
const LAG_FINE_SECONDS: f64 = 5.0;

/// The running agent, as the routes see it.
pub struct AgentDesk {
    agent: AgentHandle,
    clock: Clock,
}

impl AgentDesk {
    /// Over an agent.
    pub fn new(agent: AgentHandle, clock: Clock) -> AgentDesk {
        AgentDesk { agent, clock }
    }

    /// One look at a consistent state.
    fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Answer<'_, Envelope<T>> {
        Box::pin(async move {
            self.ready().map_err(Problem::busy)?;
            Ok(self.agent.query(|view| around(view, question(view))).await?)
        })
    }
}

/// Puts around an answer what it rests on.
fn around<T>(view: &View<'_>, data: T) -> Envelope<T> {
    let status = view.status;
    let as_of = status.sources.iter().map(|source| AsOf {
        source: source.name.to_string(),
        incarnation: source.position.incarnation.to_string(),
        sequence: source.position.sequence,
    });
    let sources_behind: Vec<String> = status.behind().iter().map(|name| name.to_string()).collect();
    Envelope {
        as_of: as_of.collect(),
        complete: sources_behind.is_empty(),
        sources_behind,
        undecided_messages: 0,
        data,
    }
}

fn not_built<'a, T: Send + 'a>(what: &'static str) -> Answer<'a, T> {
    Box::pin(async move { Err(Problem::busy(format!("{what} is not built yet"))) })
}

fn source_row(source: &SourceStatus, now_wall_ms: u64) -> SourceRow {
    SourceRow {
        source: source.name.to_string(),
        kind: match source.kind {
            SourceKind::Broker => "broker",
            SourceKind::EvidenceLog => "evidence-log",
        }
        .to_owned(),
        incarnation: source.position.incarnation.to_string(),
        epoch: 0,
        sequence: source.position.sequence,
        flushed_sequence: source.flushed_sequence,
        up: source.up,
        lag_frames: source.lag_frames(),
        lag_seconds: source.lag_seconds(now_wall_ms),
        complete: source.complete(),
        gaps: source.gaps,
    }
}

/// Gaps that will never be filled are counted; here is whether anything is missing *now*.
fn observed_source(source: &SourceStatus, now_wall_ms: u64) -> ObservedSource {
    let lag_seconds = source.lag_seconds(now_wall_ms);
    ObservedSource {
        source: source.name.to_string(),
        up: source.up,
        complete: source.up && !source.hole && lag_seconds <= LAG_FINE_SECONDS,
        lag_seconds,
        lag_frames: source.lag_frames(),
        gaps: source.gaps,
    }
}

/// What the agent says about itself.
fn observe_status(status: &Status, now_wall_ms: u64) -> Observed {
    let checkpoint = &status.checkpoint;
    let unsaved_ms = match checkpoint.unsaved_since_wall_ms {
        0 => 0,
        since => now_wall_ms.saturating_sub(since),
    };
    Observed {
        sources: status.sources.iter().map(|source| observed_source(source, now_wall_ms)).collect(),
        checkpoint_age_seconds: unsaved_ms as f64 / 1000.0,
        ledger_rebuilds: checkpoint.rebuilds,
        ledger_rows: checkpoint.rows,
        ..Observed::default()
    }
}

fn found(broker: &str, place: Place) -> FoundMessage {
    FoundMessage {
        id: place.unique_id,
        broker: broker.to_owned(),
        topic: place.topic,
        queue_id: place.identity.queue.queue_id,
        queue_offset: place.identity.queue_offset,
        keys: place.keys,
        tags: place.tags,
        stored_wall_ms: place.store_wall_ms,
    }
}

impl Desk for AgentDesk {
    fn ready(&self) -> Result<(), String> {
        let status = self.agent.status();
        let behind = || {
            let late = status.sources.iter().filter(|source| !source.complete());
            let names = late.map(|source| match source.error.as_str() {
                "" => source.name.to_string(),
                error => format!("{} ({error})", source.name),
            });
            names.collect::<Vec<_>>().join(", ")
        };
        match status.phase {
            Phase::Serving => Ok(()),
            Phase::Loading => Err("loading the ledger".to_owned()),
            Phase::Replaying => Err(format!("catching up with {}", behind())),
            Phase::Stopped => Err(self.agent.failure().unwrap_or_else(|| "stopped".to_owned())),
        }
    }

    fn observed(&self) -> Answer<'_, Observed> {
        Box::pin(
            async move { Ok(self.agent.query(|view| observe_status(view.status, view.now.wall_ms)).await?) },
        )
    }

    fn message(&self, _id: String) -> Answer<'_, Envelope<MessageTimeline>> {
        not_built("messages")
    }

    fn find(&self, key: String, topic: String) -> Answer<'_, Envelope<Vec<FoundMessage>>> {
        Box::pin(async move {
            self.ready().map_err(Problem::busy)?;
            let query = LocateQuery { what: LocateBy::Key(key), topic, limit: LOCATE_LIMIT };
            let mut places = Vec::new();
            let mut silent = Vec::new();
            for (source, located) in self.agent.locate(query).await {
                match located {
                    Ok(located) => {
                        if !located.complete {
                            silent.push(source.to_string());
                        }
                        places.extend(located.places.into_iter().map(|place| found(&source, place)));
                    }
                    Err(error) => {
                        tracing::warn!(%source, %error, "a source did not answer where a key is");
                        silent.push(source.to_string());
                    }
                }
            }
            let mut envelope = self.look(move |_| places).await?;
            // whoever did not answer, or not in full, may hold more
            silent.retain(|source| !envelope.sources_behind.contains(source));
            envelope.complete &= silent.is_empty();
            envelope.sources_behind.extend(silent);
            Ok(envelope)
        })
    }

    fn losses(&self, _filter: LossFilter) -> Answer<'_, Envelope<Vec<LossItem>>> {
        not_built("losses")
    }

    fn loss(&self, _incident: Incarnation) -> Answer<'_, Option<Envelope<LossDetail>>> {
        not_built("losses")
    }

    fn decide(&self, _decision: Decision) -> Answer<'_, Option<Envelope<LossDetail>>> {
        not_built("decisions")
    }

    fn balance(&self, _scope: Scope) -> Answer<'_, Envelope<Vec<BalanceRow>>> {
        not_built("balance")
    }

    fn gaps(&self) -> Answer<'_, Envelope<Vec<GapRow>>> {
        not_built("gaps")
    }

    fn dlq(&self, _group: Option<String>) -> Answer<'_, Envelope<Vec<DlqRow>>> {
        not_built("dlq")
    }

    fn topics(&self) -> Answer<'_, Envelope<Vec<TopicRow>>> {
        not_built("topics")
    }

    fn groups(&self) -> Answer<'_, Envelope<Vec<GroupRow>>> {
        not_built("groups")
    }

    fn exposure(&self) -> Answer<'_, Envelope<ExposureReport>> {
        not_built("exposure")
    }

    fn coverage(&self) -> Answer<'_, Envelope<Vec<CoverageRow>>> {
        not_built("coverage")
    }

    /// Answered before the agent is ready too: it says why it is not.
    fn sources(&self) -> Answer<'_, Envelope<Vec<SourceRow>>> {
        Box::pin(async move {
            let rows = |view: &View<'_>| {
                let now = view.now.wall_ms;
                view.status.sources.iter().map(|source| source_row(source, now)).collect()
            };
            Ok(self.agent.query(move |view| around(view, rows(view))).await?)
        })
    }

    fn sent(&self, reports: Vec<SentReported>) -> Answer<'_, Envelope<()>> {
        Box::pin(async move {
            self.ready().map_err(Problem::busy)?;
            self.agent.report_sent(reports).await?;
            self.look(|_| ()).await
        })
    }

    fn wall_ms(&self) -> u64 {
        (self.clock)().wall_ms
    }
}
