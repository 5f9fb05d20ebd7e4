//! Owns what the broker's books do with facts about replicas, and the part of a fail-over in what a recovery took.

use super::{BrokerBooks, is_another};
use crate::fold::event::{NamedMessage, Span, What};
use lifecycle::fact::{AnswerClass, Recovered};
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

    /// Tells those of the lost `spans` that the member `promoted` in the last master's place never had, and leaves the others: what
    /// it was known to have, it lost from its own disk.
    pub(super) fn not_replicated(
        &mut self,
        promoted: &Name,
        recovered: &Recovered,
        (spans, named): (&mut Vec<Span>, &mut Vec<NamedMessage>),
        unreceived: &BTreeMap<QueueKey, Ranges>,
    ) {
        let before = self.epochs.last().map_or("", |started| started.member());
        if !is_another(before, promoted) || spans.is_empty() {
            return;
        }
        let kept_all = recovered.log_end >= self.replication.received_by(promoted);
        let (mut never, mut had) = (Vec::new(), Vec::new());
        for span in spans.drain(..) {
            let whole = Ranges::of(span.from, span.to);
            let known = unreceived.get(&span.queue).map(|ranges| ranges.within(span.from, span.to));
            let missing = if kept_all { whole.clone() } else { known.unwrap_or_default() };
            let mut rest = whole;
            rest.subtract(&missing);
            never.extend(missing.iter().map(|(from, to)| Span { from, to, ..span }));
            had.extend(rest.iter().map(|(from, to)| Span { from, to, ..span }));
        }
        *spans = had;
        if never.is_empty() {
            return;
        }
        let is_never = |message: &NamedMessage| {
            let at = message.identity;
            never.iter().any(|s| s.queue == at.queue && (s.from..s.to).contains(&at.queue_offset))
        };
        let (names, others) = std::mem::take(named).into_iter().partition(is_never);
        *named = others;
        let (closed_epoch, member) = (self.epoch, promoted.clone());
        self.emit(What::NotReplicated { closed_epoch, member, spans: never, named: names });
    }

    /// What the last master stored beyond what the `promoted` member was known to have.
    pub(super) fn unreceived_by(&self, promoted: &Name) -> BTreeMap<QueueKey, Ranges> {
        let had = self.replication.received_by(promoted);
        let mut missing: BTreeMap<QueueKey, Ranges> = BTreeMap::new();
        let beyond = self.replication.waiting.iter().chain(self.unflushed.iter());
        for run in beyond.filter(|entry| entry.log_end > had).flat_map(|entry| &entry.runs) {
            missing.entry(run.queue).or_default().insert(run.queue_offset, run.queue_offset + run.count);
        }
        missing
    }
}
