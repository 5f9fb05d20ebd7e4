//! Owns what must be asked: sends that producers reported and no offset proves, and ids that came twice. The books keep no
//! ids of settled messages, so the sources are asked (`locate`); nothing is concluded before all of them have answered.

use super::classes::{lost_class, lost_key};
use super::conflicts::{OPEN_CONFLICTS_MAX, PassedOver};
use super::{Answer, Heads, Judge};
use crate::fold::Books;
use crate::fold::broker::{EPOCHS_MAX, UnnamedWindow};
use crate::fold::class::Class;
use crate::fold::event::{Event, What};
use crate::fold::queue::Truncation;
use lifecycle::fact::{SendOutcome, SentReported};
use lifecycle::identity::{Incarnation, MessageIdentity, Name};
use lifecycle::position::Position;
use std::collections::BTreeMap;

/// Reports kept open; beyond it the oldest is given up (and counted).
pub const OPEN_REPORTS_MAX: usize = 100_000;
/// Suspected repeats kept open; beyond it new ones are dropped (and counted).
pub const OPEN_REPEATS_MAX: usize = 10_000;

/// The answer of a send comes this long after it at most: the longest time a client waits by default is 3 s.
const ANSWER_MS_MAX: u64 = 10_000;

/// Something to ask every source: where is this id stored?
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// To be given back with the answer.
    pub number: u64,
    /// The client's id.
    pub id: Name,
    /// Its topic, when known; empty otherwise.
    pub topic: Name,
    /// Not an id, but this place at this source: which tag does the message have?
    pub place: Option<(Name, MessageIdentity)>,
}

/// A producer's word that no offset proves yet.
#[derive(Clone, PartialEq, Debug)]
pub struct OpenReport {
    /// The frame of the evidence log.
    pub at: Position,
    /// What the producer said.
    pub report: SentReported,
    /// When the judge first saw it, agent's wall ms.
    pub seen_wall_ms: u64,
    /// What each source must have passed.
    pub barrier: Option<Vec<Position>>,
    /// When it was last asked; 0: never.
    pub asked_wall_ms: u64,
}

#[derive(Clone, Debug)]
struct Repeat {
    event: Event,
    id: Name,
    first: MessageIdentity,
    second: MessageIdentity,
    asked_wall_ms: u64,
}

/// What is open.
#[derive(Default)]
pub struct Questions {
    pub(super) reports: BTreeMap<u64, OpenReport>,
    repeats: BTreeMap<u64, Repeat>,
    pub(super) passed: BTreeMap<u64, PassedOver>,
    pub(super) next_number: u64,
    /// Reports and passed-over messages given up at the limit: undecided for good.
    pub given_up: u64,
    /// Numbers whose rows are out of date.
    pub(super) touched: std::collections::BTreeSet<u64>,
    due: BTreeMap<u64, Question>,
}

impl Questions {
    pub(super) fn reported(&mut self, at: Position, report: SentReported, seen_wall_ms: u64) {
        if self.reports.len() >= OPEN_REPORTS_MAX
            && let Some((number, _)) = self.reports.pop_first()
        {
            self.given_up += 1;
            self.touched.insert(number);
        }
        let number = self.number();
        self.reports.insert(number, OpenReport { at, report, seen_wall_ms, barrier: None, asked_wall_ms: 0 });
    }

    pub(super) fn suspect_duplicate(
        &mut self,
        event: Event,
        id: Name,
        at: (MessageIdentity, MessageIdentity),
    ) {
        if self.repeats.len() < OPEN_REPEATS_MAX {
            let number = self.number();
            let (first, second) = at;
            self.repeats.insert(number, Repeat { event, id, first, second, asked_wall_ms: 0 });
        }
    }

    pub(super) fn passed_over(&mut self, passed: PassedOver) {
        if self.passed.len() >= OPEN_CONFLICTS_MAX
            && let Some((number, _)) = self.passed.pop_first()
        {
            self.given_up += 1;
            self.touched.insert(number);
        }
        let number = self.number();
        self.passed.insert(number, passed);
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.touched.insert(self.next_number);
        self.next_number
    }

    /// Open reports.
    pub fn open_reports(&self) -> impl Iterator<Item = &OpenReport> {
        self.reports.values()
    }
}

impl Judge {
    /// What to ask now, at most `limit`. Each is asked again when no answer comes.
    pub fn take_questions(&mut self, limit: usize) -> Vec<Question> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((_, question)) = self.questions.due.pop_first()
        {
            taken.push(question);
        }
        taken
    }

    /// What is open.
    pub fn questions(&self) -> &Questions {
        &self.questions
    }

    /// Reports whose offset proves them are closed; the others are asked for once every source has passed their barrier.
    pub(super) fn look_at_reports(&mut self, books: &Books, heads: &Heads) {
        let now = self.now.wall_ms;
        let again = self.deadlines.ask_again_ms;
        let mut questions = std::mem::take(&mut self.questions);
        let mut closed = Vec::new();
        for (number, open) in &mut questions.reports {
            if open.report.outcome == SendOutcome::Refused {
                closed.push((*number, Some(Class::SendRefused)));
                continue;
            }
            if open.report.outcome != SendOutcome::Unknown && is_proved(books, &open.report) {
                closed.push((*number, None));
                continue;
            }
            if open.barrier.is_none() {
                open.barrier = heads.values().copied().collect();
            }
            let passed =
                open.barrier.as_ref().is_some_and(|b| b.iter().all(|place| books.has_passed(*place)));
            let wait = match open.report.outcome {
                SendOutcome::Unknown => self.deadlines.send_unknown_ms,
                _ => self.deadlines.send_known_ms,
            };
            let rested = now >= open.seen_wall_ms.saturating_add(wait);
            if passed && rested && (open.asked_wall_ms == 0 || now >= open.asked_wall_ms + again) {
                open.asked_wall_ms = now.max(1);
                let (id, topic) = (open.report.id.clone(), open.report.topic.clone());
                questions.due.insert(*number, Question { number: *number, id, topic, place: None });
            }
        }
        for (number, repeat) in &mut questions.repeats {
            if repeat.asked_wall_ms == 0 || now >= repeat.asked_wall_ms + again {
                repeat.asked_wall_ms = now.max(1);
                let id = repeat.id.clone();
                let question = Question { number: *number, id, topic: "".into(), place: None };
                questions.due.insert(*number, question);
            }
        }
        for (number, passed) in &mut questions.passed {
            if passed.asked_wall_ms == 0 || now >= passed.asked_wall_ms + again {
                passed.asked_wall_ms = now.max(1);
                let place = Some((passed.source.clone(), passed.message));
                let topic = passed.topic.clone();
                questions.due.insert(*number, Question { number: *number, id: "".into(), topic, place });
            }
        }
        self.questions = questions;
        for (number, class) in closed {
            let open = self.questions.reports.remove(&number);
            self.questions.due.remove(&number);
            self.questions.touched.insert(number);
            if let (Some(open), Some(class)) = (open, class) {
                self.reported_verdict(books, &open, class);
            }
        }
    }

    /// A producer does not know what became of its send: nobody does, until a source was asked.
    pub(super) fn send_unknown(&mut self, books: &Books, at: Position, report: &SentReported) {
        let (report, seen_wall_ms) = (report.clone(), self.now.wall_ms);
        let open = OpenReport { at, report, seen_wall_ms, barrier: None, asked_wall_ms: 0 };
        self.reported_verdict(books, &open, Class::SendUnknown);
    }

    /// The outcome is known now.
    fn send_known(&mut self, open: &OpenReport) {
        let ids = self.by_key.get(&reported_key(Class::SendUnknown, &open.report)).cloned();
        for id in ids.unwrap_or_default() {
            if let Some(incident) = self.incident_mut(&id) {
                incident.resolve(&open.report.id);
            }
        }
    }

    pub(super) fn answered(&mut self, books: &Books, answer: Answer) {
        if !answer.complete && answer.places.is_empty() {
            return;
        }
        if let Some(passed) = self.questions.passed.remove(&answer.number) {
            self.questions.touched.insert(answer.number);
            self.tag_answered(books, passed, &answer);
            return;
        }
        if let Some(repeat) = self.questions.repeats.remove(&answer.number) {
            self.duplicate(books, &repeat, &answer.places);
            return;
        }
        let Some(open) = self.questions.reports.remove(&answer.number) else { return };
        self.questions.touched.insert(answer.number);
        let found = !answer.places.is_empty();
        if open.report.outcome == SendOutcome::Unknown {
            self.send_known(&open);
        }
        match (open.report.outcome, found) {
            (SendOutcome::Unknown, true) => self.reported_verdict(books, &open, Class::StoredThoughUnacked),
            (_, true) => {}
            (_, false) if self.is_named_lost(&open.report.id) => {}
            (SendOutcome::Unknown, false) => self.reported_verdict(books, &open, Class::NeverStored),
            (_, false) => match taken_by(books, &open.report, self.deadlines.clock_slack_ms) {
                Taken::By(source, epoch, incarnation) => {
                    self.taken(books, &open, (source, epoch, incarnation));
                }
                Taken::Unclear => self.reported_verdict(books, &open, Class::Undecided),
                Taken::No => self.reported_verdict(books, &open, Class::NeverStored),
            },
        }
    }

    /// Whether a recovery is known to have taken the message.
    fn is_named_lost(&self, id: &str) -> bool {
        self.incidents().any(|i| i.verdict.class.is_of_store() && i.names(id))
    }

    /// The report names one of the messages that a recovery took unnamed.
    fn taken(&mut self, books: &Books, open: &OpenReport, by: (Name, u64, Incarnation)) {
        let ((source, epoch, incarnation), report) = (by, &open.report);
        let event = Event {
            source: source.clone(),
            at: Position { incarnation, sequence: 1 },
            wall_ms: report.reported_wall_ms,
            epoch,
            what: What::Sent(report.clone()),
        };
        let class = lost_class(books, &source, epoch);
        let key = lost_key(class, &event, epoch);
        let text = format!("{} was answered OK, and no source has it after the recovery", report.id);
        let incident = self.incident_for(books, class, key, &event);
        incident.add_topic(&report.topic);
        if incident.add_id(&report.id) {
            incident.add_count(1);
            incident.cite(&Event { source: "evidence-log".into(), at: open.at, ..event.clone() }, text);
        }
        // one of the unnamed has a name now
        let key = format!("undecided/{source}/{epoch}/{incarnation}");
        for incident in self.all_mut().filter(|i| i.verdict.key == key && i.verdict.undecided > 0) {
            incident.verdict.undecided -= 1;
            incident.dirty = true;
        }
    }

    fn reported_verdict(&mut self, books: &Books, open: &OpenReport, class: Class) {
        let report = &open.report;
        let source = reported_source(report);
        let event = Event {
            source,
            at: open.at,
            wall_ms: report.reported_wall_ms,
            epoch: 0,
            what: What::Sent(report.clone()),
        };
        let key = reported_key(class, report);
        let text = format!("the producer of {} reported: {}", report.id, report.outcome.text());
        let known = self.by_key.get(&key).into_iter().flatten();
        if known.filter_map(|id| self.incidents.get(id)).any(|incident| incident.names(&report.id)) {
            return;
        }
        let incident = self.incident_for(books, class, key, &event);
        incident.add_topic(&report.topic);
        incident.add_id(&report.id);
        match class {
            Class::Undecided => incident.verdict.undecided += 1,
            _ => incident.add_count(1),
        }
        incident.cite(&event, text);
    }

    /// The same id stored twice, and both copies exist: a producer's retry.
    fn duplicate(&mut self, books: &Books, repeat: &Repeat, places: &[(Name, MessageIdentity)]) {
        let exists = |wanted: MessageIdentity| {
            places.iter().any(|(source, place)| {
                *source == repeat.event.source
                    && place.queue == wanted.queue
                    && place.queue_offset == wanted.queue_offset
            })
        };
        if !exists(repeat.first) || !exists(repeat.second) {
            return;
        }
        let at = repeat.second;
        let span = crate::fold::event::Span {
            queue: at.queue,
            from: at.queue_offset,
            to: at.queue_offset + 1,
            epoch: at.epoch_number,
        };
        let key = format!("duplicate/{}/{}/{:x}", repeat.event.source, repeat.event.epoch, at.queue.topic.0);
        let news = self.news_of(&key, &span);
        let text = format!(
            "{} was stored at offsets {} and {}",
            repeat.id, repeat.first.queue_offset, at.queue_offset
        );
        let incident = self.incident_for(books, Class::Duplicate, key, &repeat.event);
        incident.add_span(&span, &news);
        incident.add_id(&repeat.id);
        incident.cite(&repeat.event, text);
    }
}

fn reported_source(report: &SentReported) -> Name {
    if report.broker.is_empty() { "reports".into() } else { report.broker.clone() }
}

fn reported_key(class: Class, report: &SentReported) -> String {
    format!("reported/{}/{}/{}", class.text(), reported_source(report), report.topic)
}

/// Whether the reported offset proves that the message was stored: it exists, and was never used twice.
fn is_proved(books: &Books, report: &SentReported) -> bool {
    let (Some(queue_id), Some(offset)) = (report.queue_id, report.queue_offset) else { return false };
    let Some(broker) = books.brokers.get(&report.broker) else { return false };
    let Some(topic) = broker.topic_named(&report.topic) else { return false };
    let key = lifecycle::identity::QueueKey { topic, queue_id };
    broker.queues.get(&key).is_some_and(|queue| queue.proves(offset))
}

/// What became of a message that was answered OK and that no source has.
enum Taken {
    /// This source's recovery after this epoch, made by this run, took it.
    By(Name, u64, Incarnation),
    /// It may have been taken, or never have been stored: no evidence tells.
    Unclear,
    /// No recovery can have taken it.
    No,
}

/// The recovery that took the message: by the offset of its answer; without one, by when it was sent.
fn taken_by(books: &Books, report: &SentReported, clock_slack_ms: u64) -> Taken {
    let mut taken = Taken::No;
    for (source, broker) in &books.brokers {
        if !report.broker.is_empty() && *source != report.broker {
            continue;
        }
        if let (Some(queue_id), Some(offset), Some(topic)) =
            (report.queue_id, report.queue_offset, broker.topic_named(&report.topic))
            && let Some(queue) = broker.queues.get(&lifecycle::identity::QueueKey { topic, queue_id })
        {
            let next = |cut: &Truncation| broker.epochs.iter().find(|next| next.epoch.number > cut.epoch);
            match queue.taken_at(offset).map(|cut| (cut, next(cut))) {
                Some((cut, Some(next))) => {
                    return Taken::By(source.clone(), cut.epoch, next.epoch.incarnation);
                }
                Some((_, None)) => taken = Taken::Unclear,
                None => {}
            }
            continue;
        }
        for window in broker.unnamed_windows.iter().rev() {
            match window.holds(report, clock_slack_ms) {
                Some(true) => return Taken::By(source.clone(), window.epoch, window.incarnation),
                Some(false) => {}
                None => taken = Taken::Unclear,
            }
        }
        // only the newest windows are kept
        let oldest = broker.unnamed_windows.first().filter(|_| broker.unnamed_windows.len() >= EPOCHS_MAX);
        if oldest.is_some_and(|oldest| report.sent_wall_ms < oldest.heard_wall_ms) {
            taken = Taken::Unclear;
        }
    }
    taken
}

impl UnnamedWindow {
    /// Whether a message that its producer says was stored, and that nothing else tells of, was sent in this window; `None`:
    /// nobody says when it was sent. What was answered OK later than the recovery would be there.
    fn holds(&self, report: &SentReported, clock_slack_ms: u64) -> Option<bool> {
        let ends = self.opened_wall_ms.saturating_add(clock_slack_ms);
        if report.sent_wall_ms == 0 {
            return (report.reported_wall_ms <= ends).then_some(true);
        }
        let answered = report.sent_wall_ms.saturating_add(ANSWER_MS_MAX);
        let begins = self.heard_wall_ms.saturating_sub(clock_slack_ms);
        Some((begins..=ends.saturating_add(ANSWER_MS_MAX)).contains(&answered))
    }
}
