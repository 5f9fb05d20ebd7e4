//! Owns what the broker's books do with facts about replicas, and the part of a fail-over in what a recovery took.

use super::{BrokerBooks, is_another};
use crate::fold::class::Class;
use crate::fold::event::{NamedMessage, Span, What};
use crate::fold::unflushed::Unflushed;
use lifecycle::fact::{AnswerClass, Recovered, StoredRun};
use lifecycle::identity::{LogPosition, Name, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;

impl BrokerBooks {
    pub(super) fn replicated(&mut self, replica: &Name, log_position: LogPosition, durable: bool) {
        self.replication.replicated(replica, log_position, durable);
        let confirmed = self.replication.confirmed();
        while let Some(entry) = self.replication.waiting.pop_flushed(confirmed) {
            self.recent.push(entry);
        }
        self.replication_risks_over();
    }

    /// Messages answered with less than the promise, and not as safe as promised by now.
    pub fn not_durable(&self) -> u64 {
        self.at_risk.len() + self.replication.at_risk_count()
    }

    pub(super) fn replication_risks_over(&mut self) {
        let spans = self.replication.take_safe();
        if !spans.is_empty() {
            self.emit(What::RiskOver { spans });
        }
    }

    /// Sends with ordinals `from..to` were answered before enough replicas had them.
    pub(super) fn answered_unreplicated(&mut self, from: u64, to: u64, class: AnswerClass) {
        let epoch = self.epoch;
        let last = to.saturating_sub(1);
        let end = self.unflushed.log_end_of(last).or_else(|| self.replication.waiting.log_end_of(last));
        // not known: what stored them was not received, which is told as a gap; or enough replicas have them by now
        let Some(end) = end else { return };
        let (mut spans, mut named) = self.replication.waiting.by_ordinal(from, to, epoch);
        let (unflushed, more) = self.unflushed.by_ordinal(from, to, epoch);
        spans.extend(unflushed);
        named.extend(more);
        if self.replication.at_risk(end, &spans, epoch) {
            self.emit(What::AtRisk { class, spans, named });
        }
    }

    /// Tells those of the lost messages that the member promoted in the last master's place never had, and leaves the others: what
    /// it was known to have, it lost from its own disk.
    pub(super) fn not_replicated(&mut self, recovered: &Recovered, lost: &mut Gone, before: &Before) {
        let kept_all = recovered.log_end >= self.replication.received_by(&before.promoted);
        let never = match kept_all {
            true => std::mem::take(&mut lost.spans),
            false => lost.take_within(&before.unreceived),
        };
        self.taken(Class::NotReplicatedAtFailover, never, lost, before);
    }

    /// Tells those of the lost messages that the broker had stated to be on disk, and leaves the others.
    pub(super) fn flushed_and_gone(&mut self, class: Class, lost: &mut Gone, before: &Before) {
        if !before.flush_is_known {
            return;
        }
        let unflushed = lost.take_within(&before.unflushed);
        let flushed = std::mem::replace(&mut lost.spans, unflushed);
        self.taken(class, flushed, lost, before);
    }

    /// Tells these spans, and takes their names from the others'.
    fn taken(&mut self, class: Class, spans: Vec<Span>, lost: &mut Gone, before: &Before) {
        if spans.is_empty() {
            return;
        }
        let is_in = |message: &NamedMessage| {
            let at = message.identity;
            spans.iter().any(|s| s.queue == at.queue && (s.from..s.to).contains(&at.queue_offset))
        };
        let (named, others) = std::mem::take(&mut lost.named).into_iter().partition(is_in);
        lost.named = others;
        let (closed_epoch, member) = (self.epoch, before.promoted.clone());
        let replicas = match class {
            Class::NotReplicatedAtFailover => Vec::new(),
            _ => self.replicas_with(&spans, before),
        };
        self.emit(What::Taken { class, closed_epoch, member, replicas, spans, named });
    }

    /// The replicas that said that they have everything that had been flushed.
    fn replicas_with(&self, spans: &[Span], before: &Before) -> Vec<Name> {
        let waits = |span: &Span| {
            let waiting = before.unreplicated.get(&span.queue);
            waiting.is_some_and(|ranges| !ranges.within(span.from, span.to).is_empty())
        };
        if spans.iter().any(waits) {
            return Vec::new();
        }
        self.replication.with_the_rest().cloned().collect()
    }

    /// Whether this is another member than the last master; false where nobody can say.
    pub(super) fn is_replaced_by(&self, promoted: &str) -> bool {
        is_another(self.epochs.last().map_or("", |started| started.member()), promoted)
    }

    /// What can be told apart only before a recovery is applied.
    pub(super) fn before_recovery(&self, recovered: &Recovered, promoted: &Name) -> Before {
        let last = self.epochs.last().map_or("", |started| started.member());
        // a group of replicas without names: nobody can say whether the same disk was recovered
        let same_disk = *last == **promoted && (!last.is_empty() || self.replication.replicas.is_empty());
        let promoted = if self.is_replaced_by(promoted) { promoted.clone() } else { "".into() };
        let places = |entry: &Unflushed| entry.runs.clone();
        Before {
            unreceived: self.unreceived_by(&promoted),
            unflushed: ranges_of(self.unflushed.iter().flat_map(places)),
            unreplicated: ranges_of(self.replication.waiting.iter().flat_map(places)),
            flush_is_known: same_disk && self.replication.flushed >= self.unheard_to,
            lied: recovered.log_end < self.replication.flushed.max(recovered.flushed),
            promoted,
        }
    }

    /// What the last master stored beyond what the `promoted` member was known to have.
    fn unreceived_by(&self, promoted: &Name) -> BTreeMap<QueueKey, Ranges> {
        let had = self.replication.received_by(promoted);
        let kept = self.replication.waiting.iter().chain(self.unflushed.iter());
        ranges_of(kept.filter(|entry| entry.log_end > had).flat_map(|entry| entry.runs.clone()))
    }
}

/// What was known before a recovery of what it may have taken.
pub(super) struct Before {
    /// The member promoted in the last master's place; empty: none was, or nobody can say.
    pub(super) promoted: Name,
    /// Beyond what that member was known to have.
    unreceived: BTreeMap<QueueKey, Ranges>,
    /// Not stated to be on disk.
    unflushed: BTreeMap<QueueKey, Ranges>,
    /// On disk, and not known to be with enough replicas.
    unreplicated: BTreeMap<QueueKey, Ranges>,
    /// The same disk was recovered, and what is not among the unflushed had been stated to be on it.
    flush_is_known: bool,
    /// The log ends before what had been flushed.
    pub(super) lied: bool,
}

/// Messages that are gone, and the names of those that have one.
#[derive(Default)]
pub(super) struct Gone {
    pub(super) spans: Vec<Span>,
    pub(super) named: Vec<NamedMessage>,
}

impl Gone {
    /// Takes the parts of the spans that lie within these ranges.
    fn take_within(&mut self, ranges: &BTreeMap<QueueKey, Ranges>) -> Vec<Span> {
        let (mut within, mut rest) = (Vec::new(), Vec::new());
        for span in self.spans.drain(..) {
            let part = ranges.get(&span.queue).map(|r| r.within(span.from, span.to)).unwrap_or_default();
            within.extend(part.iter().map(|(from, to)| Span { from, to, ..span }));
            rest.extend(part.missing(span.from, span.to).iter().map(|(from, to)| Span { from, to, ..span }));
        }
        self.spans = rest;
        within
    }

    pub(super) fn len(&self) -> u64 {
        self.spans.iter().map(|span| span.to - span.from).sum()
    }
}

fn ranges_of(runs: impl Iterator<Item = StoredRun>) -> BTreeMap<QueueKey, Ranges> {
    let mut ranges: BTreeMap<QueueKey, Ranges> = BTreeMap::new();
    for run in runs {
        ranges.entry(run.queue).or_default().insert(run.queue_offset, run.queue_offset + run.count);
    }
    ranges
}
