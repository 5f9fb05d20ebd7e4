//! Owns the verdicts: what was lost, which messages, at which stage, why. Hears the fold's events, waits for barriers and
//! deadlines, speaks once per cause and epoch, and takes back what late evidence refutes. No IO, no clock, no threads.
//! Called by the agent's main loop after each batch of frames, and at least ten times a second.
//!
//! A verdict is never a guess: it is confirmed only when every source that could still change it has passed the place it had
//! reached when the question arose, and its deadline is over. What is said must be persisted (verdict log) before the books
//! that no longer hold the event are (ledger); told twice after a crash, the same evidence changes nothing.

pub mod cause;
pub mod classes;
pub mod conflicts;
pub mod deadlines;
pub mod incident;
pub mod questions;
pub mod rows;
mod spoilt;
pub mod verdict;
mod waiting;

use crate::fold::Books;
use crate::fold::class::Class;
use crate::fold::event::{Event, Span};
use crate::fold::rows::Saved;
use deadlines::Deadlines;
use incident::Incident;
use lifecycle::clock::Now;
use lifecycle::identity::{MessageIdentity, Name};
use lifecycle::position::Position;
use questions::Questions;
use std::collections::BTreeMap;
use uuid::Uuid;
use verdict::{Verdict, VerdictEvent, VerdictState};

/// Incidents kept in memory; beyond it the oldest closed one is forgotten (the verdict log keeps it).
pub const INCIDENTS_MAX: usize = 10_000;

/// Makes the ids of incidents: uuid v7 in production, counted in tests.
pub type NewIncident = Box<dyn FnMut() -> Uuid + Send>;

/// Where the newest known frame of each source is; `None`: nothing is known yet, so nothing about that source is decided.
pub type Heads = BTreeMap<Name, Option<Position>>;

/// What a source (or all of them) answered to a question.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The question's number.
    pub number: u64,
    /// Where messages with this id are stored now.
    pub places: Vec<(Name, MessageIdentity)>,
    /// The tag of the message that was asked about by its place; `None`: it was not found.
    pub tag: Option<String>,
    /// Whether every source answered, searched everything it has, and had seen all it had stored before the question.
    pub complete: bool,
}

/// What a step of the judge works on.
pub struct StepInput<'a> {
    /// What happened since the last step: [`Books::take_events`].
    pub events: Vec<Event>,
    /// The agent's clocks.
    pub now: Now,
    /// Where each source's newest frame is.
    pub heads: &'a Heads,
    /// Answers to questions.
    pub answers: Vec<Answer>,
}

/// Cumulative counts for metrics; rebuilt from the verdict log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerdictCounts {
    /// Messages confirmed, per class.
    pub confirmed_messages: BTreeMap<Class, u64>,
    /// Turns of verdicts, per class and state.
    pub turns: BTreeMap<(Class, VerdictState), u64>,
}

/// The judge.
pub struct Judge {
    incidents: BTreeMap<Uuid, Incident>,
    by_key: BTreeMap<String, Vec<Uuid>>,
    order: BTreeMap<u64, Uuid>,
    next_order: u64,
    pub(in crate::judge) questions: Questions,
    pub(in crate::judge) deadlines: Deadlines,
    counts: VerdictCounts,
    new_incident: NewIncident,
    now: Now,
    /// When each source's retry topics were last looked at, its wall ms.
    pub(in crate::judge) retries_looked_ms: BTreeMap<Name, u64>,
    pub(in crate::judge) saved: Saved,
}

impl Judge {
    /// A judge without history.
    pub fn new(deadlines: Deadlines, new_incident: NewIncident) -> Self {
        Judge {
            incidents: BTreeMap::new(),
            by_key: BTreeMap::new(),
            order: BTreeMap::new(),
            next_order: 0,
            questions: Questions::default(),
            deadlines,
            counts: VerdictCounts::default(),
            new_incident,
            now: Now::default(),
            retries_looked_ms: BTreeMap::new(),
            saved: Saved::default(),
        }
    }

    /// Puts back what was said before, in the order of the verdict log.
    pub fn restore(&mut self, event: VerdictEvent) {
        self.count(&event);
        let incident = event.verdict.incident;
        if !self.incidents.contains_key(&incident) {
            self.enrol(incident, event.verdict.key.clone());
        }
        self.incidents.insert(incident, Incident::restored(event.verdict));
    }

    /// Hears what happened, and says what follows.
    pub fn step(&mut self, books: &Books, input: StepInput<'_>) -> Vec<VerdictEvent> {
        self.now = input.now;
        for event in input.events {
            self.hear(books, event);
        }
        for answer in input.answers {
            self.answered(books, answer);
        }
        self.look_at_schedules(books);
        self.look_at_retries(books);
        self.look_at_reports(books, input.heads);
        let told = self.speak(books, input.heads);
        self.forget_oldest();
        told
    }

    /// Every incident in memory, in the order of their ids.
    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values()
    }

    /// One incident.
    pub fn incident(&self, incident: &Uuid) -> Option<&Incident> {
        self.incidents.get(incident)
    }

    /// The times it works with.
    pub fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Counts for metrics.
    pub fn counts(&self) -> &VerdictCounts {
        &self.counts
    }

    /// A hash of what was decided: equal for equal evidence, whatever the order and grouping it came in. Ids of incidents,
    /// times of the agent, the wording of evidence and suspicions that came to nothing are left out.
    pub fn verdict_hash(&self) -> [u8; 32] {
        use sha2::{Digest, Sha256};
        let lines = self.decided();
        let mut hash = Sha256::new();
        for text in lines {
            hash.update(text.as_bytes());
            hash.update(b"\n");
        }
        hash.finalize().into()
    }

    fn decided(&self) -> Vec<String> {
        let verdicts = self.incidents.values().map(|incident| &incident.verdict);
        let mut lines: Vec<String> =
            verdicts.filter(|v| v.state != VerdictState::Withdrawn && !is_resolved(v)).map(line).collect();
        lines.sort();
        lines
    }

    /// The incident with this key that may still grow, opened when there is none. `span` that one of the same cause knows
    /// already comes back empty.
    pub(in crate::judge) fn incident_for(
        &mut self,
        books: &Books,
        class: Class,
        key: String,
        event: &Event,
    ) -> &mut Incident {
        let growing = self.growing(&key).map(|incident| incident.verdict.incident);
        let id = match growing {
            Some(id) => id,
            None => {
                let id = (self.new_incident)();
                let cause = cause::cause(books.brokers.get(&event.source), class, event.epoch, &event.what);
                let mut incident = Incident::open(id, class, key.clone(), event, cause);
                incident.verdict.first_seen_wall_ms = self.now.wall_ms;
                incident.turn(VerdictState::Suspected, self.now.wall_ms, ("", ""));
                self.enrol(id, key);
                self.incidents.insert(id, incident);
                id
            }
        };
        self.incidents.get_mut(&id).expect("just found or inserted")
    }

    /// The incident with this key that may still grow.
    pub(in crate::judge) fn growing(&mut self, key: &str) -> Option<&mut Incident> {
        let id = self.by_key.get(key)?.last()?;
        let incident = self.incidents.get_mut(id)?;
        let grows = incident.verdict.state.is_open() && !incident.is_emptied() && !incident.is_full();
        grows.then_some(incident)
    }

    fn enrol(&mut self, id: Uuid, key: String) {
        self.by_key.entry(key).or_default().push(id);
        self.order.insert(self.next_order, id);
        self.next_order += 1;
    }

    /// The part of `span` no incident of this key knows yet.
    pub(in crate::judge) fn news_of(&self, key: &str, span: &Span) -> lifecycle::ranges::Ranges {
        let mut news = lifecycle::ranges::Ranges::of(span.from, span.to);
        for id in self.by_key.get(key).into_iter().flatten() {
            if let Some(incident) = self.incidents.get(id) {
                let unknown = incident.news_of(span);
                let mut known = news.clone();
                known.subtract(&unknown);
                news.subtract(&known);
            }
        }
        news
    }

    /// Whether an incident of this key already cites this frame: counts without offsets are added once per frame.
    pub(in crate::judge) fn has_cited(&self, key: &str, at: Position) -> bool {
        let mut incidents =
            self.by_key.get(key).into_iter().flatten().filter_map(|id| self.incidents.get(id));
        let run = Uuid::from_bytes(at.incarnation.0);
        incidents
            .any(|i| i.verdict.evidence.iter().any(|e| e.incarnation == run && e.sequence == at.sequence))
    }

    /// Takes a span out of every open incident `wanted` picks.
    pub(in crate::judge) fn close_span(&mut self, span: &Span, wanted: impl Fn(&Verdict) -> bool) {
        for incident in self.incidents.values_mut() {
            if incident.verdict.state.is_open() && wanted(&incident.verdict) && incident.close_span(span) {}
        }
    }

    pub(in crate::judge) fn incident_mut(&mut self, id: &Uuid) -> Option<&mut Incident> {
        self.incidents.get_mut(id)
    }

    pub(in crate::judge) fn all_mut(&mut self) -> impl Iterator<Item = &mut Incident> {
        self.incidents.values_mut()
    }

    fn speak(&mut self, books: &Books, heads: &Heads) -> Vec<VerdictEvent> {
        let mut told = Vec::new();
        let now = self.now;
        for incident in self.incidents.values_mut() {
            let verdict = &incident.verdict;
            let waits = verdict.state == VerdictState::Suspected
                || (verdict.state == VerdictState::Confirmed
                    && verdict.confirmed_messages < verdict.messages);
            if !waits && !incident.dirty {
                continue;
            }
            let mut newly_confirmed = 0;
            let mut detection_delay_ms = None;
            let is_over = incident.verdict.state.is_open() && incident.is_emptied();
            let is_due = match is_over {
                // the broker itself said what it answered: no later evidence makes that untrue
                true => incident.verdict.class == Class::AnsweredNotDurable,
                false => is_ripe(incident, books, heads, now),
            };
            if waits && is_due {
                newly_confirmed = incident.verdict.messages - incident.verdict.confirmed_messages;
                incident.verdict.confirmed_messages = incident.verdict.messages;
                incident.dirty = true;
                if incident.verdict.state == VerdictState::Suspected {
                    incident.verdict.confirmed_wall_ms = now.wall_ms;
                    detection_delay_ms = Some(now.wall_ms.saturating_sub(incident.verdict.event_wall_ms));
                    incident.turn(VerdictState::Confirmed, now.wall_ms, ("", ""));
                }
            }
            if is_over {
                let (state, note) = match incident.verdict.state {
                    VerdictState::Suspected => (VerdictState::Withdrawn, "later evidence decided otherwise"),
                    _ if incident.verdict.class == Class::SendUnknown => {
                        (VerdictState::Recovered, "every outcome is known now")
                    }
                    _ => (VerdictState::Recovered, "nothing of it is lost any more"),
                };
                incident.turn(state, now.wall_ms, ("", note));
            }
            if incident.dirty {
                let turned = incident.turned;
                let verdict = incident.tell();
                told.push(VerdictEvent { verdict, turned, newly_confirmed, detection_delay_ms });
            }
        }
        for event in &told {
            self.count(event);
        }
        told
    }

    fn count(&mut self, event: &VerdictEvent) {
        let class = event.verdict.class;
        let survives = class.is_loss() && !event.verdict.is_loss();
        *self.counts.confirmed_messages.entry(class).or_insert(0) +=
            if survives { 0 } else { event.newly_confirmed };
        if event.turned {
            *self.counts.turns.entry((class, event.verdict.state)).or_insert(0) += 1;
        }
    }

    fn forget_oldest(&mut self) {
        while self.incidents.len() > INCIDENTS_MAX {
            let closed = self.order.iter().find(|(_, id)| {
                self.incidents.get(id).is_none_or(|incident| !incident.verdict.state.is_open())
            });
            let Some((order, id)) = closed.or_else(|| self.order.iter().next()).map(|(o, id)| (*o, *id))
            else {
                return;
            };
            self.order.remove(&order);
            if let Some(gone) = self.incidents.remove(&id)
                && let Some(all) = self.by_key.get_mut(&gone.verdict.key)
            {
                all.retain(|other| *other != id);
                if all.is_empty() {
                    self.by_key.remove(&gone.verdict.key);
                }
            }
        }
    }
}

/// Whether nothing can change it any more: its barrier was passed and its deadline is over.
fn is_ripe(incident: &mut Incident, books: &Books, heads: &Heads, now: Now) -> bool {
    if incident.barrier.is_none() {
        let source = incident.verdict.broker.as_str();
        let every_source = matches!(incident.verdict.class, Class::NeverStored | Class::SendUnknown);
        let wanted = heads.iter().filter(|(name, _)| every_source || &***name == source);
        let places: Option<Vec<Position>> = wanted.map(|(_, head)| *head).collect();
        incident.barrier = places;
    }
    let Some(barrier) = &incident.barrier else { return false };
    if !barrier.iter().all(|place| books.has_passed(*place)) {
        return false;
    }
    let due = incident.verdict.due_wall_ms;
    let clock = books.brokers.get(incident.verdict.broker.as_str()).map_or(now.wall_ms, |b| b.now.wall_ms);
    due == 0 || clock >= due
}

/// Whether another verdict says it now: whether the question was confirmed before its answer came is a matter of timing.
fn is_resolved(verdict: &Verdict) -> bool {
    verdict.class == Class::SendUnknown && !verdict.state.is_open()
}

/// What a verdict says, without names and times of the agent's own.
fn line(verdict: &Verdict) -> String {
    let mut verdict = verdict.clone();
    verdict.incident = Uuid::nil();
    verdict.first_seen_wall_ms = 0;
    verdict.confirmed_wall_ms = 0;
    verdict.history.clear();
    verdict.evidence.clear();
    // the spans name the topics' incarnations already
    verdict.topics.clear();
    verdict.ids.sort();
    // names that depend on how long the agent has been running are not what was decided
    if matches!(
        verdict.class,
        Class::ExpiredBeforeConsumption
            | Class::DlqExpired
            | Class::SkippedByOffsetReset
            | Class::AckedWithoutDelivery
            | Class::SendBackFailedThenPassed
            | Class::DlqWriteFailed
            | Class::OffsetReused
    ) {
        verdict.ids.clear();
        verdict.ids_total = 0;
    }
    serde_json::to_string(&verdict).unwrap_or_default()
}

#[cfg(test)]
mod tests;
