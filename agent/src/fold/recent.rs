//! Owns the names of what was flushed last: client ids the agent still has when a message is lost later (expired, skipped).
//! Not part of the books: it is empty after a restart, and bounded; who needs every name asks the source in time.

use crate::fold::event::{EVENT_IDS_MAX, Span};
use crate::fold::unflushed::{Unflushed, name_messages};
use lifecycle::fact::StoredRun;
use lifecycle::identity::{Name, QueueKey};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Ids remembered.
pub const RECENT_IDS_MAX: usize = 65_536;

/// What was flushed last.
#[derive(Clone, Debug, Default)]
pub struct RecentNames {
    /// By the first offset of each run; with the index of its first id.
    runs: BTreeMap<(QueueKey, u64), (Arc<Unflushed>, u64, StoredRun)>,
    oldest_first: VecDeque<Arc<Unflushed>>,
    ids: usize,
}

impl RecentNames {
    /// Remembers a flushed turn.
    pub fn push(&mut self, entry: Unflushed) {
        if entry.ids.is_empty() {
            return;
        }
        let entry = Arc::new(entry);
        for (index, run) in entry.indexed_runs() {
            self.runs.insert((run.queue, run.queue_offset), (entry.clone(), index, run));
        }
        self.ids += entry.ids.len();
        self.oldest_first.push_back(entry);
        while self.ids > RECENT_IDS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids -= oldest.ids.len();
            for run in &oldest.runs {
                self.runs.remove(&(run.queue, run.queue_offset));
            }
        }
    }

    /// A recovery cut queues: their offsets may be used again, so names by offset are no longer right.
    pub fn clear(&mut self) {
        *self = RecentNames::default();
    }

    /// The ids of a span that are remembered, at most [`EVENT_IDS_MAX`].
    pub fn of(&self, span: &Span) -> Vec<Name> {
        let before = self.runs.range(..(span.queue, span.from)).next_back();
        let behind = self.runs.range((span.queue, span.from)..(span.queue, span.to.max(span.from)));
        let mut named = Vec::new();
        for ((queue, _), (entry, index, run)) in before.into_iter().chain(behind) {
            let (from, to) = (run.queue_offset.max(span.from), (run.queue_offset + run.count).min(span.to));
            if *queue == span.queue && from < to && named.len() < EVENT_IDS_MAX {
                let within = (from - run.queue_offset, to - run.queue_offset);
                name_messages(entry, *index, run, within, span.epoch, &mut named);
            }
        }
        named.into_iter().map(|message| message.id).collect()
    }
}
