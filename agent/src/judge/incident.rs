//! Owns one incident while it lives: its growth, what is still lost of it, its state. Growth is a union: the same evidence
//! told twice changes nothing. Never decides when to speak.

use super::verdict::{
    Cause, EvidencePlace, INCIDENT_EVIDENCE_MAX, INCIDENT_HISTORY_MAX, INCIDENT_IDS_MAX, INCIDENT_SPANS_MAX,
    Turn, Verdict, VerdictSpan, VerdictState,
};
use crate::fold::class::Class;
use crate::fold::event::{Event, Span};
use lifecycle::identity::QueueKey;
use lifecycle::position::Position;
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Topics an incident names.
const TOPICS_MAX: usize = 16;

/// One incident.
#[derive(Clone, Debug)]
pub struct Incident {
    /// As it stands.
    pub verdict: Verdict,
    /// Every offset it ever concerned, per queue.
    spans: BTreeMap<(QueueKey, u64), Ranges>,
    /// Those still lost.
    open: BTreeMap<(QueueKey, u64), Ranges>,
    ids: BTreeSet<String>,
    /// Ids whose fate another incident tells, or nothing is wrong with.
    resolved: BTreeSet<String>,
    /// Sources must have passed these places before it is confirmed.
    pub barrier: Option<Vec<Position>>,
    /// Whether it must be told again.
    pub dirty: bool,
    /// Whether its state changed since it was last told.
    pub turned: bool,
}

impl Incident {
    /// Opens an incident.
    pub fn open(incident: Uuid, class: Class, key: String, event: &Event, cause: Cause) -> Self {
        let verdict = Verdict {
            incident,
            class,
            state: VerdictState::Suspected,
            broker: event.source.to_string(),
            epoch: event.epoch,
            topics: Vec::new(),
            group: String::new(),
            key,
            spans: Vec::new(),
            open_spans: Vec::new(),
            windows: Vec::new(),
            ids: Vec::new(),
            resolved_ids: Vec::new(),
            ids_total: 0,
            messages: 0,
            confirmed_messages: 0,
            undecided: 0,
            cause,
            evidence: Vec::new(),
            event_wall_ms: event.wall_ms,
            first_seen_wall_ms: 0,
            confirmed_wall_ms: 0,
            due_wall_ms: 0,
            history: Vec::new(),
            recoverable_from: Vec::new(),
        };
        Incident {
            verdict,
            spans: BTreeMap::new(),
            open: BTreeMap::new(),
            ids: BTreeSet::new(),
            resolved: BTreeSet::new(),
            barrier: None,
            dirty: true,
            turned: true,
        }
    }

    /// An incident read back from the verdict log.
    pub fn restored(verdict: Verdict) -> Self {
        let ranges = |spans: &[VerdictSpan]| {
            let mut out: BTreeMap<(QueueKey, u64), Ranges> = BTreeMap::new();
            for span in spans {
                out.entry((span.queue(), span.epoch)).or_default().insert(span.from, span.to);
            }
            out
        };
        Incident {
            spans: ranges(&verdict.spans),
            open: ranges(&verdict.open_spans),
            ids: verdict.ids.iter().cloned().collect(),
            resolved: verdict.resolved_ids.iter().cloned().collect(),
            barrier: None,
            dirty: false,
            turned: false,
            verdict,
        }
    }

    /// Whether another cause-mate should open instead of growing this one.
    pub fn is_full(&self) -> bool {
        let only_ids = self.spans.is_empty() && self.ids.len() >= INCIDENT_IDS_MAX;
        only_ids || self.spans.values().map(Ranges::run_count).sum::<usize>() >= INCIDENT_SPANS_MAX
    }

    /// The part of `span` this incident does not know yet.
    pub fn news_of(&self, span: &Span) -> Ranges {
        match self.spans.get(&(span.queue, span.epoch)) {
            Some(known) => known.missing(span.from, span.to),
            None => Ranges::of(span.from, span.to),
        }
    }

    /// Adds offsets.
    pub fn add_span(&mut self, span: &Span, news: &Ranges) {
        if news.is_empty() {
            return;
        }
        self.spans.entry((span.queue, span.epoch)).or_default().union(news);
        self.open.entry((span.queue, span.epoch)).or_default().union(news);
        self.verdict.messages += news.len();
        self.grown();
    }

    /// Adds messages that have no offset.
    pub fn add_count(&mut self, messages: u64) {
        self.verdict.messages += messages;
        self.grown();
    }

    /// Adds a client id; whether it was new.
    pub fn add_id(&mut self, id: &str) -> bool {
        if self.ids.contains(id) {
            return false;
        }
        self.verdict.ids_total += 1;
        self.dirty = true;
        if self.ids.len() < INCIDENT_IDS_MAX {
            self.ids.insert(id.to_owned());
        }
        true
    }

    /// Adds the ids of a span; how many of its messages have none is the difference to `messages`.
    pub fn add_ids(&mut self, ids: &[lifecycle::identity::Name]) {
        for id in ids {
            self.add_id(id);
        }
    }

    /// Whether this id is named.
    pub fn names(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Adds the name of a topic.
    pub fn add_topic(&mut self, topic: &str) {
        let topics = &mut self.verdict.topics;
        if !topic.is_empty() && topics.len() < TOPICS_MAX && !topics.iter().any(|known| known == topic) {
            topics.push(topic.to_owned());
            topics.sort();
        }
    }

    /// Cites a frame; whether it was not cited before.
    pub fn cite(&mut self, event: &Event, text: String) -> bool {
        let place = EvidencePlace {
            source: event.source.to_string(),
            incarnation: Uuid::from_bytes(event.at.incarnation.0),
            sequence: event.at.sequence,
            text,
        };
        if self.verdict.evidence.contains(&place) {
            return false;
        }
        if self.verdict.evidence.len() < INCIDENT_EVIDENCE_MAX {
            self.verdict.evidence.push(place);
        }
        self.dirty = true;
        true
    }

    fn grown(&mut self) {
        self.barrier = None;
        self.dirty = true;
    }

    /// Takes offsets out: they were regained, or another cause took them over. Whether any was still lost.
    pub fn close_span(&mut self, span: &Span) -> bool {
        let mut hit = false;
        for ((queue, epoch), open) in &mut self.open {
            let same_epoch = span.epoch == 0 || *epoch == 0 || *epoch == span.epoch;
            if *queue == span.queue && same_epoch && !open.within(span.from, span.to).is_empty() {
                open.remove(span.from, span.to);
                hit = true;
            }
        }
        self.open.retain(|_, open| !open.is_empty());
        self.dirty |= hit;
        hit
    }

    /// Whether these offsets are still lost here.
    pub fn holds(&self, queue: QueueKey, offset: u64) -> bool {
        self.open.iter().any(|((key, _), open)| *key == queue && open.contains(offset))
    }

    /// The fate of this id is known now: it is no longer open here.
    pub fn resolve(&mut self, id: &str) {
        if self.ids.contains(id) && self.resolved.insert(id.to_owned()) {
            self.dirty = true;
        }
    }

    /// Forgets every offset outside of `span`: only those are told.
    pub fn keep_only(&mut self, span: &Span) {
        for ranges in [&mut self.spans, &mut self.open] {
            ranges.retain(|(queue, _), _| *queue == span.queue);
            for kept in ranges.values_mut() {
                *kept = kept.within(span.from, span.to);
            }
            ranges.retain(|_, kept| !kept.is_empty());
        }
        self.verdict.messages = self.spans.values().map(Ranges::len).sum();
        self.grown();
    }

    /// Whether it had offsets or ids, and none is open any more.
    pub fn is_emptied(&self) -> bool {
        if self.spans.is_empty() {
            return !self.ids.is_empty() && self.resolved.len() >= self.ids.len();
        }
        self.open.is_empty()
    }

    /// What is still lost, per queue.
    pub fn open_ranges(&self) -> impl Iterator<Item = (QueueKey, u64, &Ranges)> {
        self.open.iter().map(|((queue, epoch), ranges)| (*queue, *epoch, ranges))
    }

    /// Notes who has said to have all of it.
    pub fn recoverable_from(&mut self, members: &[lifecycle::identity::Name]) {
        let known: Vec<String> = members.iter().map(|member| member.to_string()).collect();
        if self.verdict.recoverable_from.is_empty() {
            self.verdict.recoverable_from = known;
        } else {
            // of what is added, fewer may have all
            self.verdict.recoverable_from.retain(|member| known.contains(member));
        }
        self.dirty = true;
    }

    /// Changes its state.
    pub fn turn(&mut self, state: VerdictState, at_wall_ms: u64, who: (&str, &str)) {
        self.verdict.state = state;
        let turn = Turn { state, at_wall_ms, actor: who.0.to_owned(), note: who.1.to_owned() };
        if self.verdict.history.len() >= INCIDENT_HISTORY_MAX {
            self.verdict.history.remove(1);
        }
        self.verdict.history.push(turn);
        self.dirty = true;
        self.turned = true;
    }

    /// Brings the plain values up to date, to be told.
    pub fn tell(&mut self) -> Verdict {
        let plain = |ranges: &BTreeMap<(QueueKey, u64), Ranges>| -> Vec<VerdictSpan> {
            let spans = ranges.iter().flat_map(|((queue, epoch), ranges)| {
                let span = move |(from, to)| Span { queue: *queue, from, to, epoch: *epoch }.into();
                ranges.iter().map(span).collect::<Vec<VerdictSpan>>()
            });
            spans.collect()
        };
        self.verdict.spans = plain(&self.spans);
        self.verdict.open_spans = plain(&self.open);
        self.verdict.ids = self.ids.iter().cloned().collect();
        self.verdict.resolved_ids = self.resolved.iter().cloned().collect();
        self.dirty = false;
        self.turned = false;
        self.verdict.clone()
    }
}
