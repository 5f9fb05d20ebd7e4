//! Owns what waits in the schedule topic: delayed messages and retries, until their due copy is stored. Never decides what
//! is overdue; it only finds it quickly.

use lifecycle::identity::{Name, QueueKey};
use std::collections::{BTreeMap, BTreeSet};

/// Timers that share one ledger row.
pub const TIMER_WINDOW: u64 = 64;

/// One waiting record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timer {
    /// When it is due, wall ms.
    pub due_wall_ms: u64,
    /// The group a retry belongs to; empty for delayed messages.
    pub group: Name,
}

/// The waiting records of one source.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    waiting: BTreeMap<(QueueKey, u64), Timer>,
    // how many are due in each second: the oldest due time is found without a second index of them all
    due_seconds: BTreeMap<u64, u64>,
    /// Windows whose rows are out of date.
    pub touched: BTreeSet<(QueueKey, u64)>,
}

impl Timers {
    /// Adds a record.
    pub fn put(&mut self, queue: QueueKey, offset: u64, timer: Timer) {
        let second = timer.due_wall_ms / 1_000;
        if let Some(old) = self.waiting.insert((queue, offset), timer) {
            self.forget_due(old.due_wall_ms);
        }
        *self.due_seconds.entry(second).or_insert(0) += 1;
        self.touched.insert((queue, offset / TIMER_WINDOW));
    }

    /// Takes a record: its copy is stored, or it is gone.
    pub fn take(&mut self, queue: QueueKey, offset: u64) -> Option<Timer> {
        let timer = self.waiting.remove(&(queue, offset))?;
        self.forget_due(timer.due_wall_ms);
        self.touched.insert((queue, offset / TIMER_WINDOW));
        Some(timer)
    }

    /// The record at an offset.
    pub fn get(&self, queue: QueueKey, offset: u64) -> Option<&Timer> {
        self.waiting.get(&(queue, offset))
    }

    /// Records of a queue in `from..to`.
    pub fn within(&self, queue: QueueKey, from: u64, to: u64) -> impl Iterator<Item = (u64, &Timer)> {
        let range = if from < to { (queue, from)..(queue, to) } else { (queue, from)..(queue, from) };
        self.waiting.range(range).map(|((_, offset), timer)| (*offset, timer))
    }

    /// Records due at or before `wall_ms`; costs nothing when there are none.
    pub fn overdue(&self, wall_ms: u64) -> Vec<(QueueKey, u64, &Timer)> {
        if self.due_seconds.first_key_value().is_none_or(|(second, _)| second * 1_000 > wall_ms) {
            return Vec::new();
        }
        let due = self.waiting.iter().filter(|(_, timer)| timer.due_wall_ms <= wall_ms);
        due.map(|((queue, offset), timer)| (*queue, *offset, timer)).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (QueueKey, u64, &Timer)> {
        self.waiting.iter().map(|((queue, offset), timer)| (*queue, *offset, timer))
    }

    fn forget_due(&mut self, due_wall_ms: u64) {
        let second = due_wall_ms / 1_000;
        if let Some(count) = self.due_seconds.get_mut(&second) {
            *count -= 1;
            if *count == 0 {
                self.due_seconds.remove(&second);
            }
        }
    }
}
