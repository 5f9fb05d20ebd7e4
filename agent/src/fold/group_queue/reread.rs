//! Owns what is read late: a client reads where it likes, whatever position it has committed, so what its group has passed over
//! may be handed out yet, and what would have told of that may be lost. Never claims; takes claims back.

use super::{Bounds, Change, GroupQueue, Redelivery};
use crate::fold::class::Class;
use crate::fold::marks::State;

/// A client that committed what it had read before a recovery may yet read from where the broker puts it: this long after offsets
/// were used again below its position. Clients look for their queues every 20 s, and wait up to 3 s after an error.
pub const REREAD_MS: u64 = 30_000;

/// Offsets passed over a moment ago: used again after a recovery, below the group's position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// The first of them.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// When the last of them were passed, wall ms.
    pub wall_ms: u64,
}

impl GroupQueue {
    /// What was passed over, and is handed out now, is not lost. Its commit came before its delivery, so no later one will tell
    /// that it was processed.
    pub(super) fn delivered_below_floor(&mut self, from: u64, to: u64, out: &mut Vec<Change>) {
        let lost = self.lost_within(from, to);
        let regained: u64 = lost.iter().map(|(a, b, _)| b - a).sum();
        if regained < to - from {
            out.push(Change::Redelivered(Redelivery::Rebalance, to - from - regained));
        }
        for (a, b, _) in lost {
            self.turn_lost(a, b, State::Settled, out);
        }
    }

    /// Remembers that offsets used again were passed over just now.
    pub(super) fn note_passed(&mut self, found: &[Change], bounds: Bounds) {
        let wall_ms = bounds.wall_ms;
        for change in found {
            let Change::Lost(Class::OffsetReused, from, to) = *change else { continue };
            let young = self.may_be_read_yet(wall_ms).then_some((self.passed.from, self.passed.to));
            let (first, last) = young.unwrap_or((from, to));
            self.passed = Passed { from: first.min(from), to: last.max(to), wall_ms };
        }
    }

    /// Whether something was passed over so short before that it may be read yet.
    pub fn may_be_read_yet(&self, wall_ms: u64) -> bool {
        wall_ms < self.passed.wall_ms.saturating_add(REREAD_MS)
    }

    /// Nobody will tell any more whether what was passed over was read after all.
    pub fn doubt_passed(&mut self, out: &mut Vec<Change>) {
        for (a, b, class) in self.lost_within(self.passed.from, self.passed.to.min(self.floor)) {
            if class == Class::OffsetReused {
                self.turn_lost(a, b, State::Undecided, out);
            }
        }
    }

    /// What was lost, and lies below the floor, ended otherwise.
    fn turn_lost(&mut self, from: u64, to: u64, state: State, out: &mut Vec<Change>) {
        self.ended.turn(from, to, state);
        self.counts.turn(Some(State::Lost), Some(state), to - from);
        self.forget_lost(from, to);
        out.push(Change::Regained(from, to));
    }
}
