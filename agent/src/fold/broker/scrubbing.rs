//! Owns what the broker's books do when a member has read its copy of the log back, and when a consumer was passed over what cannot
//! be read. Loss at rest is judged per copy: while a replica has said that it has a message, its damaged record here is a copy less,
//! and a loss to a group only once that group was passed over it.

use super::BrokerBooks;
use crate::fold::event::{EVENT_IDS_MAX, NamedMessage, Span, What};
use lifecycle::fact::Scrubbed;
use lifecycle::identity::{MessageIdentity, Name, QueueKey};
use lifecycle::ranges::Ranges;

impl BrokerBooks {
    pub(super) fn scrubbed(&mut self, scrubbed: &Scrubbed) {
        if !scrubbed.member.is_empty() {
            // another member's copy: what this one has is as good as before
            return;
        }
        let (mut lost, mut held) = (Vec::new(), Vec::new());
        let replicas: Vec<Name> = self.replication.with_the_rest().cloned().collect();
        for (key, ranges) in &scrubbed.bad {
            let waiting = if replicas.is_empty() { ranges.clone() } else { self.unreplicated(*key, ranges) };
            let mut elsewhere = ranges.clone();
            elsewhere.subtract(&waiting);
            lost.extend(self.bad_records(*key, &waiting));
            held.extend(self.bad_copies(*key, &elsewhere));
        }
        let count: u64 = lost.iter().map(|span: &Span| span.to - span.from).sum();
        self.store.lost += count;
        self.store.flushed = self.store.flushed.saturating_sub(count);
        self.unnamed = self.unnamed.saturating_add(scrubbed.unnamed_max);
        let unnamed = scrubbed.unnamed_max;
        if !lost.is_empty() || unnamed > 0 {
            self.emit_spoilt(lost, Vec::new(), unnamed);
        }
        if !held.is_empty() {
            self.emit_spoilt(held, replicas, 0);
        }
    }

    fn emit_spoilt(&mut self, spans: Vec<Span>, replicas: Vec<Name>, unnamed: u64) {
        let named = self.remembered(&spans);
        self.emit(What::Spoilt { spans, named, replicas, unnamed });
    }

    /// Those that are not known to be with enough replicas.
    fn unreplicated(&self, queue: QueueKey, ranges: &Ranges) -> Ranges {
        let mut waiting = Ranges::new();
        let runs = self.replication.waiting.iter().flat_map(|entry| &entry.runs);
        for run in runs.filter(|run| run.queue == queue) {
            waiting.union(&ranges.within(run.queue_offset, run.queue_offset + run.count));
        }
        waiting
    }

    /// Damaged records that others have: noted, so that nothing speaks of them twice. Nobody has lost anything yet.
    fn bad_copies(&mut self, key: QueueKey, ranges: &Ranges) -> Vec<Span> {
        let Some(queue) = self.queues.get_mut(&key) else { return Vec::new() };
        let mut spans = Vec::new();
        for (from, to) in ranges.iter() {
            for (a, b) in queue.bad.missing(from.max(queue.min), to.min(queue.max)).iter() {
                queue.bad.insert(a, b);
                let pieces = queue.by_epoch(a, b).into_iter();
                spans.extend(pieces.map(|(from, to, epoch)| Span { queue: key, from, to, epoch }));
            }
        }
        self.queue_changed(key);
        spans
    }

    /// The names of these messages, as far as they are still in memory.
    fn remembered(&self, spans: &[Span]) -> Vec<NamedMessage> {
        let mut named = Vec::new();
        for span in spans {
            for queue_offset in span.from..span.to {
                if named.len() >= EVENT_IDS_MAX {
                    return named;
                }
                let one = Span { from: queue_offset, to: queue_offset + 1, ..*span };
                let identity = MessageIdentity { queue: span.queue, queue_offset, epoch_number: span.epoch };
                named.extend(self.recent.of(&one).into_iter().map(|id| NamedMessage { id, identity }));
            }
        }
        named
    }

    /// Another member's log is the one in force: what was damaged in the last master's is readable where this one's is whole.
    pub(super) fn other_copy(&mut self, still_bad: &[(QueueKey, Ranges)]) {
        let mut spans = Vec::new();
        let keys: Vec<QueueKey> =
            self.queues.iter().filter(|(_, queue)| !queue.bad.is_empty()).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            let mut whole = queue.bad.clone();
            for (_, ranges) in still_bad.iter().filter(|(other, _)| *other == key) {
                whole.subtract(ranges);
            }
            queue.bad.subtract(&whole);
            let pieces = whole.iter().flat_map(|(from, to)| queue.by_epoch(from, to));
            spans.extend(pieces.map(|(from, to, epoch)| Span { queue: key, from, to, epoch }));
            self.queue_changed(key);
        }
        if !spans.is_empty() {
            self.emit(What::Whole { spans });
        }
    }

    /// A group was passed over records that cannot be read.
    pub(super) fn unreadable(&mut self, group: &Name, key: QueueKey, ranges: &Ranges) {
        // a reader beside the groups (no debts in this queue) loses nothing that is owed
        let known = self.groups.get(group).is_some_and(|books| books.queues.contains_key(&key));
        if !known {
            return;
        }
        self.with_group_queue(group, key, |books, bounds, out| {
            for (a, b) in ranges.iter() {
                books.unreadable(a, b, bounds, out);
            }
        });
    }
}
