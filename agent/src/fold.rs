//! Owns the books: what happened to every message, as a pure function of how far each source was read. Facts of one source
//! apply in sequence, sources interleave freely: equal position vectors give equal books. No IO, no clock, no threads.
//! Never judges: what may be wrong is handed to [`crate::judge`] as events. Called by the agent's main loop.
//!
//! Settled history costs nothing: a group's debts below its floor are numbers, what lies above are runs with marks.

pub mod balance;
pub mod broker;
pub mod class;
pub mod dead_letters;
pub mod event;
pub mod group;
pub mod group_queue;
pub mod marks;
pub mod queue;
pub mod receipts;
pub mod recent;
pub mod repeats;
pub mod replication;
pub mod rows;
pub mod slots;
pub mod timers;
pub mod unflushed;

use broker::{Applied, BrokerBooks, Totals};
use event::Event;
use group::GroupBooks;
use lifecycle::frame::Frame;
use lifecycle::identity::{Incarnation, Name};
use lifecycle::position::{Position, PositionVector};
use std::collections::BTreeMap;

/// The source of what only the agent is told: its own evidence log.
pub const EVIDENCE_SOURCE: &str = "evidence-log";
/// Sources one agent folds.
pub const SOURCES_MAX: usize = 256;
/// A group without members and moves for this long is idle: what expires then is nobody's loss. Must exceed retention.
pub const IDLE_AFTER_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// The books of all sources.
#[derive(Clone)]
pub struct Books {
    /// Per source name.
    pub brokers: BTreeMap<Name, BrokerBooks>,
    idle_after_ms: u64,
    saved: rows::Saved,
}

impl Default for Books {
    fn default() -> Self {
        Books::new(IDLE_AFTER_MS)
    }
}

impl Books {
    /// Empty books.
    pub fn new(idle_after_ms: u64) -> Self {
        Books { brokers: BTreeMap::new(), idle_after_ms, saved: rows::Saved::default() }
    }

    /// Applies one frame of a source. Frames of one run come by sequence; one that is missing becomes a gap, one that came
    /// before is dropped. A snapshot frame stands for everything up to its position.
    pub fn apply(&mut self, source: &Name, position: Position, frame: &Frame) -> Applied {
        if !self.brokers.contains_key(source) {
            assert!(self.brokers.len() < SOURCES_MAX, "more sources than configuration allows");
            self.brokers.insert(source.clone(), BrokerBooks::new(source, self.idle_after_ms));
        }
        match self.brokers.get_mut(source) {
            Some(books) => books.apply(position, frame),
            None => Applied::TooLate,
        }
    }

    /// Notes that frames `from..=to` (`u64::MAX`: up to an unknown end) of a run will never come. Frames missing between two
    /// applied ones are noted without this.
    pub fn note_gap(&mut self, source: &Name, incarnation: Incarnation, from: u64, to: u64) {
        let idle_after_ms = self.idle_after_ms;
        let entry = self.brokers.entry(source.clone());
        entry.or_insert_with(|| BrokerBooks::new(source, idle_after_ms)).lose_frames(incarnation, from, to);
    }

    /// What happened since the last call, per source in order. To be judged before the rows are saved.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.brokers.values_mut().flat_map(|books| std::mem::take(&mut books.events)).collect()
    }

    /// Whether there are events to judge.
    pub fn has_events(&self) -> bool {
        self.brokers.values().any(|books| !books.events.is_empty())
    }

    /// How far each run of each source was folded.
    pub fn positions(&self) -> PositionVector {
        let runs = self.brokers.values().flat_map(|books| &books.runs);
        PositionVector(runs.map(|(incarnation, run)| (*incarnation, run.applied)).collect())
    }

    /// Where reading a source goes on: the run being read, and its last frame folded.
    pub fn position_of(&self, source: &str) -> Option<Position> {
        let books = self.brokers.get(source)?;
        let run = books.runs.get(&books.current)?;
        Some(Position { incarnation: books.current, sequence: run.applied })
    }

    /// Whether everything that could come at or before this place has been folded.
    pub fn has_passed(&self, position: Position) -> bool {
        position.sequence == 0 || self.brokers.values().any(|books| books.has_passed(position))
    }

    /// Counts per stage over all sources.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for books in self.brokers.values() {
            sum.add(&books.totals);
        }
        sum
    }

    /// Since when a group owes nothing, wall ms: an operator retired it, and nobody has joined it since.
    pub fn retired_since(&self, group: &GroupBooks, name: &str) -> Option<u64> {
        let at = *self.brokers.get(EVIDENCE_SOURCE)?.retired.get(name)?;
        (group.members.is_empty() && at > group.joined_wall_ms).then_some(at)
    }

    /// Whether a group owes nothing, see [`Self::retired_since`].
    pub fn is_retired(&self, group: &GroupBooks, name: &str) -> bool {
        self.retired_since(group, name).is_some()
    }

    /// Upper bound of messages whose fate is open: taken by power cuts without a name, or touched by gaps.
    pub fn undecided(&self) -> u64 {
        let marked = |books: &BrokerBooks| -> u64 {
            books.groups.values().flat_map(|g| g.queues.values()).map(|q| q.counts.undecided).sum()
        };
        self.brokers.values().map(|books| books.unnamed + marked(books)).sum()
    }
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        for (to, from) in self.fields_mut().into_iter().zip(other.clone().fields_mut()) {
            *to += *from;
        }
    }

    /// Every count, in a fixed order.
    pub(in crate::fold) fn fields_mut(&mut self) -> [&mut u64; 19] {
        let [lease, nack, rewind, rebalance] = &mut self.redelivered;
        [
            &mut self.received,
            &mut self.refused,
            &mut self.produced,
            &mut self.stored,
            &mut self.flushed,
            &mut self.answered,
            &mut self.delivered,
            &mut self.filtered,
            &mut self.acked,
            &mut self.retried,
            &mut self.dead_lettered,
            &mut self.expired,
            &mut self.skipped,
            &mut self.dlq_write_failures,
            lease,
            nack,
            rewind,
            rebalance,
            &mut self.unmatched,
        ]
    }
}

#[cfg(test)]
pub(crate) mod tests;
