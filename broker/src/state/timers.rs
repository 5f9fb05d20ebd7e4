//! Owns which stored messages wait for a time. Never stores or reads a message.

use lifecycle::identity::QueueKey;
use std::collections::{BTreeMap, BTreeSet};

/// Pending messages by due time, and by place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timers {
    due: BTreeSet<(u64, QueueKey, u64)>,
    places: BTreeMap<(QueueKey, u64), u64>,
}

impl Timers {
    pub(crate) fn insert(&mut self, due_wall_ms: u64, queue: QueueKey, queue_offset: u64) {
        if let Some(before) = self.places.insert((queue, queue_offset), due_wall_ms) {
            self.due.remove(&(before, queue, queue_offset));
        }
        self.due.insert((due_wall_ms, queue, queue_offset));
    }

    pub(crate) fn remove(&mut self, queue: QueueKey, queue_offset: u64) {
        if let Some(due) = self.places.remove(&(queue, queue_offset)) {
            self.due.remove(&(due, queue, queue_offset));
        }
    }

    /// Drops what lies at or above `end`: it did not survive.
    pub(crate) fn truncate(&mut self, queue: QueueKey, end: u64) {
        let gone: Vec<u64> =
            self.places.range((queue, end)..=(queue, u64::MAX)).map(|((_, o), _)| *o).collect();
        for offset in gone {
            self.remove(queue, offset);
        }
    }

    /// When the earliest is due, wall ms.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due.first().map(|(due, _, _)| *due)
    }

    /// Those due at `now_wall_ms`, earliest first.
    pub fn due_at(&self, now_wall_ms: u64) -> impl Iterator<Item = (QueueKey, u64)> + '_ {
        self.due
            .iter()
            .take_while(move |(due, _, _)| *due <= now_wall_ms)
            .map(|(_, queue, offset)| (*queue, *offset))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// All of them: due time, queue, offset.
    pub fn iter(&self) -> impl Iterator<Item = (u64, QueueKey, u64)> + '_ {
        self.due.iter().copied()
    }
}
