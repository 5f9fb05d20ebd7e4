//! Owns the desk over the running agent: turns each question into one look at books and judge, and puts around the answer
//! how far the evidence goes.

use crate::fold::Books;
use crate::fold::class::Class;
use crate::http::desk::{Answer, Decision, Desk, FoundMessage, LossFilter, Retired, Scope};
use crate::http::problem::Problem;
use crate::ingest::{LOCATE_LIMIT, LocateBy, LocateQuery, Place};
use crate::metrics::observed::{Observed, ObservedSource};
use crate::report::balances::balance;
use crate::report::coverage::coverage;
use crate::report::exposure::exposure;
use crate::report::losses::{loss, losses};
use crate::report::numbers::{Numbers, numbers};
use crate::report::timeline::{Asked, message};
use crate::report::views::{
    AsOf, BalanceRow, CoverageRow, DlqRow, Envelope, ExposureReport, GapRow, GroupRow, LossDetail, LossItem,
    MessageTimeline, SourceRow, TopicRow,
};
use crate::report::{lists, windows};
use crate::run::{AgentHandle, Clock, OperatorAct, Phase, SourceKind, SourceStatus, Status, View};
use lifecycle::fact::SentReported;
use lifecycle::identity::{Incarnation, MessageIdentity, Name, QueueKey};
use lifecycle::position::Position;
use std::time::Duration;
use uuid::Uuid;

/// Evidence this much behind still counts as complete in the metrics: less would flicker under load.
const LAG_FINE_SECONDS: f64 = 5.0;
/// How long an answer to a decision waits until the decision shows in it; it is durable before.
const FOLD_TRIES: u32 = 100;
const FOLD_WAIT: Duration = Duration::from_millis(20);

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

    /// Asks every source where an id is.
    async fn located(&self, id: String) -> Asked {
        let query = LocateQuery { what: LocateBy::Id(id.clone()), topic: String::new(), limit: LOCATE_LIMIT };
        let mut asked = Asked { asked: id.clone(), id, complete: true, ..Asked::default() };
        for (source, located) in self.agent.locate(query).await {
            match located {
                Ok(located) => {
                    if !located.complete {
                        asked.silent.push(source.to_string());
                    }
                    // an offset message id leads to the client's own
                    if let Some(place) = located.places.iter().find(|place| !place.unique_id.is_empty()) {
                        asked.id.clone_from(&place.unique_id);
                    }
                    asked.places.extend(located.places.iter().map(|place| (source.clone(), place.identity)));
                }
                Err(error) => {
                    tracing::warn!(%source, %error, "a source did not answer where an id is");
                    asked.silent.push(source.to_string());
                }
            }
        }
        asked.complete = asked.silent.is_empty();
        asked
    }

    /// Waits until a decision shows in the incident; gives up silently, as it is durable anyway, and an incident that is
    /// closed already does not change.
    async fn until_shown(&self, incident: Uuid, operator: String, position: Position) -> Result<(), Problem> {
        for _ in 0..FOLD_TRIES {
            let operator = operator.clone();
            let shown = self.agent.query(move |view| {
                let history = loss(view.books, view.judge, &incident).map(|detail| detail.history);
                let last = history.and_then(|history| history.into_iter().next_back());
                view.books.has_passed(position) && last.is_some_and(|turn| turn.actor == operator)
            });
            if shown.await? {
                break;
            }
            tokio::time::sleep(FOLD_WAIT).await;
        }
        Ok(())
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
        undecided_messages: view.books.undecided() + view.judge.questions().given_up,
        data,
    }
}

fn source_row(books: &Books, source: &SourceStatus, now_wall_ms: u64) -> SourceRow {
    SourceRow {
        source: source.name.to_string(),
        kind: match source.kind {
            SourceKind::Broker => "broker",
            SourceKind::EvidenceLog => "evidence-log",
        }
        .to_owned(),
        incarnation: source.position.incarnation.to_string(),
        epoch: books.brokers.get(&source.name).map_or(0, |broker| broker.epoch),
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

/// Books, judge and agent in numbers, of one moment.
fn observe(view: &View<'_>) -> Observed {
    let now_wall_ms = view.now.wall_ms;
    let Numbers {
        messages,
        topics,
        mut lost,
        open_losses,
        incidents_open,
        verdicts,
        undecided_messages,
        in_flight,
        oldest_unsettled_age_seconds,
        dlq_arrivals,
        dlq_write_failures,
        mut dlq_messages,
        skipped,
        duplicates,
        answers,
        retention_margins,
        near_expiry_seconds,
        exposed,
        findings,
    } = numbers(view.books, view.judge, now_wall_ms);
    lost.retain(|(class, _)| Class::from_text(class).is_some_and(Class::is_loss));
    // A group's first dead letter is a rise from 0, not a series out of nowhere.
    let groups = view.books.brokers.values().flat_map(|broker| broker.groups.keys());
    dlq_messages.extend(groups.map(|group| (group.to_string(), 0)));
    let Status { sources, checkpoint, .. } = view.status;
    let unsaved_ms = match checkpoint.unsaved_since_wall_ms {
        0 => 0,
        since => now_wall_ms.saturating_sub(since),
    };
    Observed {
        messages,
        topics,
        lost,
        open_losses,
        incidents_open,
        verdicts,
        undecided_messages,
        sources: sources.iter().map(|source| observed_source(source, now_wall_ms)).collect(),
        in_flight,
        oldest_unsettled_age_seconds,
        dlq_arrivals,
        dlq_write_failures,
        dlq_messages,
        skipped,
        duplicates,
        answers,
        retention_margins,
        near_expiry_seconds,
        checkpoint_age_seconds: unsaved_ms as f64 / 1000.0,
        ledger_rebuilds: checkpoint.rebuilds,
        ledger_rows: checkpoint.rows,
        exposed,
        findings,
    }
}

/// `broker/topic/queue/offset`: topics have no slash, brokers might.
fn place(books: &Books, text: &str) -> Option<(Name, MessageIdentity)> {
    let mut parts = text.rsplitn(4, '/');
    let queue_offset = parts.next()?.parse().ok()?;
    let queue_id = parts.next()?.parse().ok()?;
    let (topic, broker) = (parts.next()?, parts.next()?);
    let (source, broker) = books.brokers.get_key_value(broker)?;
    // of several topics of this name, the one that exists now
    let (topic, _) = broker.topics.iter().rev().find(|(_, found)| *found.configured.name == *topic)?;
    let queue = QueueKey { topic: *topic, queue_id };
    Some((source.clone(), MessageIdentity { queue, queue_offset, epoch_number: 0 }))
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
    fn alive(&self) -> Result<(), String> {
        match self.agent.failure() {
            Some(reason) => Err(format!("the agent has stopped: {reason}")),
            None => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.alive()?;
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
        // counters never step back, not even when the power fails
        Box::pin(async move { Ok(self.agent.query_durable(observe).await?) })
    }

    fn message(&self, id: String) -> Answer<'_, Envelope<MessageTimeline>> {
        Box::pin(async move {
            self.ready().map_err(Problem::busy)?;
            let text = id.clone();
            let by_place = self.agent.query(move |view| place(view.books, &text)).await?;
            let asked = match by_place {
                Some(place) => Asked {
                    asked: id,
                    id: String::new(),
                    places: vec![place],
                    complete: true,
                    silent: vec![],
                },
                None => self.located(id).await,
            };
            self.look(move |view| message(view.books, view.judge, &asked)).await
        })
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

    fn losses(&self, filter: LossFilter) -> Answer<'_, Envelope<Vec<LossItem>>> {
        self.look(move |view| {
            let mut items = losses(view.judge);
            items.retain(|item| filter.matches(item));
            items
        })
    }

    fn loss(&self, incident: Incarnation) -> Answer<'_, Option<Envelope<LossDetail>>> {
        let incident = Uuid::from_bytes(incident.0);
        let look = self.look(move |view| loss(view.books, view.judge, &incident));
        Box::pin(async move {
            let Envelope { as_of, complete, sources_behind, undecided_messages, data } = look.await?;
            Ok(data.map(|data| Envelope { as_of, complete, sources_behind, undecided_messages, data }))
        })
    }

    fn decide(&self, decision: Decision) -> Answer<'_, Option<Envelope<LossDetail>>> {
        Box::pin(async move {
            let Decision { incident, action, operator, note } = decision;
            if self.loss(incident).await?.is_none() {
                return Ok(None);
            }
            let (actor, note) = (operator.as_str().into(), note.as_str().into());
            let act = OperatorAct { incident, action, actor, note, wall_ms: self.wall_ms() };
            let position = self.agent.act(act).await?;
            self.until_shown(Uuid::from_bytes(incident.0), operator, position).await?;
            self.loss(incident).await
        })
    }

    fn balance(&self, scope: Scope) -> Answer<'_, Envelope<Vec<BalanceRow>>> {
        self.look(move |view| {
            let Scope { topic, group, window } = &scope;
            let mut rows = match window {
                Some(window) => windows::balance(view.books, *window),
                None => balance(view.books, view.judge),
            };
            rows.retain(|row| {
                topic.as_ref().is_none_or(|topic| *topic == row.topic)
                    && group.as_ref().is_none_or(|group| *group == row.group)
            });
            rows
        })
    }

    fn gaps(&self) -> Answer<'_, Envelope<Vec<GapRow>>> {
        self.look(|view| lists::gaps(view.books))
    }

    fn dlq(&self, group: Option<String>) -> Answer<'_, Envelope<Vec<DlqRow>>> {
        self.look(move |view| lists::dlq(view.books, group.as_deref()))
    }

    fn topics(&self) -> Answer<'_, Envelope<Vec<TopicRow>>> {
        self.look(|view| lists::topics(view.books, view.judge))
    }

    fn groups(&self) -> Answer<'_, Envelope<Vec<GroupRow>>> {
        self.look(|view| lists::groups(view.books, view.judge, view.now.wall_ms))
    }

    fn retire(&self, group: String, operator: String) -> Answer<'_, Retired> {
        Box::pin(async move {
            let of_group = |wanted: String| {
                self.look(move |view| {
                    let mut rows = lists::groups(view.books, view.judge, view.now.wall_ms);
                    rows.retain(|row| row.group == wanted);
                    rows
                })
            };
            let rows = of_group(group.clone()).await?.data;
            if rows.is_empty() {
                return Ok(Retired::Unknown);
            }
            if rows.iter().any(|row| !row.members.is_empty()) {
                return Ok(Retired::InUse);
            }
            tracing::info!(group, operator, "group retired");
            let position = self.agent.retire(group.as_str().into(), operator.as_str().into()).await?;
            for _ in 0..FOLD_TRIES {
                if self.agent.query(move |view| view.books.has_passed(position)).await? {
                    break;
                }
                tokio::time::sleep(FOLD_WAIT).await;
            }
            Ok(Retired::Done(of_group(group).await?))
        })
    }

    fn exposure(&self) -> Answer<'_, Envelope<ExposureReport>> {
        self.look(|view| exposure(view.books, view.judge, view.now.wall_ms))
    }

    fn coverage(&self) -> Answer<'_, Envelope<Vec<CoverageRow>>> {
        self.look(|view| coverage(view.books))
    }

    /// Answered before the agent is ready too: it says why it is not.
    fn sources(&self) -> Answer<'_, Envelope<Vec<SourceRow>>> {
        Box::pin(async move {
            let rows = |view: &View<'_>| {
                let now = view.now.wall_ms;
                view.status.sources.iter().map(|source| source_row(view.books, source, now)).collect()
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

#[cfg(test)]
mod tests;
