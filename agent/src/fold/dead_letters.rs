//! Owns the dead letters of one group: what arrived, where it came from, whether anybody took it. Bounded: beyond the limit
//! the oldest are only counted.

use lifecycle::identity::{MessageIdentity, QueueKey};
use std::collections::{BTreeMap, BTreeSet};

/// Dead letters kept one by one, per group.
pub const DEAD_LETTERS_MAX: usize = 100_000;
/// Dead letters that share one ledger row.
pub const DEAD_LETTER_WINDOW: u64 = 16;

/// What became of a dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// Nobody took it.
    Waiting = 1,
    /// Sent again by an operator.
    ReDriven = 2,
    /// Deleted by retention before anybody took it.
    Expired = 3,
}

impl Outcome {
    /// The outcome with this number in a row.
    pub fn from_u8(value: u8) -> Option<Self> {
        [Outcome::Waiting, Outcome::ReDriven, Outcome::Expired].into_iter().find(|o| *o as u8 == value)
    }
}

/// One dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// Its own identity.
    pub copy: MessageIdentity,
    /// What it was made of.
    pub parent: MessageIdentity,
    /// What the producer sent.
    pub root: MessageIdentity,
    /// When it arrived, wall ms.
    pub arrived_wall_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// The dead letters of one group.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters {
    entries: BTreeMap<(QueueKey, u64), DeadLetter>,
    /// Arrived since the evidence began.
    pub arrived: u64,
    /// Too many to keep.
    pub forgotten: u64,
    /// Windows whose rows are out of date.
    pub touched: BTreeSet<(QueueKey, u64)>,
}

impl DeadLetters {
    /// Adds one.
    pub fn put(&mut self, letter: DeadLetter) {
        let key = (letter.copy.queue, letter.copy.queue_offset);
        self.touched.insert((key.0, key.1 / DEAD_LETTER_WINDOW));
        self.entries.insert(key, letter);
        if self.entries.len() > DEAD_LETTERS_MAX
            && let Some(((queue, offset), _)) = self.entries.pop_first()
        {
            self.touched.insert((queue, offset / DEAD_LETTER_WINDOW));
            self.forgotten += 1;
        }
    }

    /// Notes what became of one; whether it is here.
    pub fn end(&mut self, queue: QueueKey, offset: u64, outcome: Outcome) -> bool {
        let Some(letter) = self.entries.get_mut(&(queue, offset)) else { return false };
        letter.outcome = outcome;
        self.touched.insert((queue, offset / DEAD_LETTER_WINDOW));
        true
    }

    /// Removes those at or above `end`: recovery cut them off.
    pub fn cut(&mut self, queue: QueueKey, end: u64) {
        let gone: Vec<_> =
            self.entries.range((queue, end)..=(queue, u64::MAX)).map(|(key, _)| *key).collect();
        for (queue, offset) in gone {
            self.entries.remove(&(queue, offset));
            self.touched.insert((queue, offset / DEAD_LETTER_WINDOW));
        }
    }

    /// Those of a queue in `from..to`.
    pub fn within(&self, queue: QueueKey, from: u64, to: u64) -> impl Iterator<Item = &DeadLetter> {
        self.entries.range((queue, from)..(queue, to.max(from))).map(|(_, letter)| letter)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &DeadLetter> {
        self.entries.values()
    }

    /// How many wait for somebody.
    pub fn waiting(&self) -> u64 {
        self.entries.values().filter(|letter| letter.outcome == Outcome::Waiting).count() as u64
            + self.forgotten
    }

    /// When the oldest of them arrived.
    pub fn oldest_wall_ms(&self) -> Option<u64> {
        let waiting = self.entries.values().filter(|letter| letter.outcome == Outcome::Waiting);
        waiting.map(|letter| letter.arrived_wall_ms).min()
    }
}
