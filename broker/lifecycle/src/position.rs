//! Owns positions in streams of facts. Positions of one incarnation are ordered by sequence; positions of different
//! incarnations are not comparable. Across sources only barriers (a position each source must have passed) count.

use crate::identity::Incarnation;
use std::collections::BTreeMap;

/// A place in one run's journal: the frame with this sequence number (from 1). `sequence` 0 is "before the first".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Position {
    /// The run.
    pub incarnation: Incarnation,
    /// The frame's number within the run.
    pub sequence: u64,
}

/// How far each source has been folded: equal vectors give equal books.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PositionVector(pub BTreeMap<Incarnation, u64>);

impl PositionVector {
    /// Records that everything of `position`'s run up to it has been folded. Never steps back.
    pub fn advance(&mut self, position: Position) {
        let at = self.0.entry(position.incarnation).or_insert(0);
        *at = (*at).max(position.sequence);
    }

    /// Whether everything at or before `position` has been folded.
    pub fn covers(&self, position: Position) -> bool {
        position.sequence == 0 || self.0.get(&position.incarnation).is_some_and(|at| *at >= position.sequence)
    }
}
