//! Owns what is said of records that were on disk and cannot be read any more: once for the copy they were on, and for a group only
//! where that copy was not the last one.

use super::Judge;
use super::classes::lost_key;
use crate::fold::Books;
use crate::fold::class::Class;
use crate::fold::event::{Event, Span, What};
use lifecycle::ranges::Ranges;

impl Judge {
    /// Reading back found records spoilt. What replicas have is an incident of its own: of this copy, and no loss.
    pub(super) fn spoilt(&mut self, books: &Books, event: &Event) {
        let What::Spoilt { spans, named, replicas, unnamed } = &event.what else { return };
        let (class, epoch) = (Class::CorruptedAtRest, event.epoch);
        let mut key = lost_key(class, event, epoch);
        let mut text = "these records were on disk, and cannot be read any more".to_owned();
        if !replicas.is_empty() {
            key.push_str("/held-elsewhere");
            text = format!("{text}; recoverable from {}", replicas.join(", "));
        }
        if !spans.is_empty() {
            self.taken_from_store(books, event, (class, epoch, key.clone()), (spans, named, text));
            if let Some(incident) = self.growing(&key) {
                incident.recoverable_from(replicas);
            }
        }
        let key = format!("undecided/{}/{epoch}/{}/spoilt", event.source, event.at.incarnation);
        if *unnamed > 0 && !self.has_cited(&key, event.at) {
            let incident = self.incident_for(books, Class::Undecided, key, event);
            incident.verdict.undecided += unnamed;
            incident.cite(
                event,
                format!("bytes that held up to {unnamed} records cannot be read: nothing names them"),
            );
        }
    }

    /// The part of a span that no incident of the store's own says to be spoilt and lost.
    pub(super) fn not_lost_by_store(&self, event: &Event, span: &Span) -> Ranges {
        let mut rest = Ranges::of(span.from, span.to);
        let of_store = self.incidents.values().filter(|incident| {
            let verdict = &incident.verdict;
            verdict.class == Class::CorruptedAtRest
                && verdict.state.is_open()
                && verdict.broker == *event.source
                && verdict.group.is_empty()
                && verdict.is_loss()
        });
        for (queue, epoch, ranges) in of_store.flat_map(|incident| incident.open_ranges()) {
            if queue == span.queue && (epoch == span.epoch || epoch == 0 || span.epoch == 0) {
                rest.subtract(ranges);
            }
        }
        rest
    }
}
