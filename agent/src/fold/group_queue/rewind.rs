//! Owns what a position moved back does to the books of one group in one queue: debts that had ended are owed again, each
//! counted once, however often it ends.

use super::{Bounds, Change, GroupQueue};
use crate::fold::marks::{Mark, State};

impl GroupQueue {
    /// Everything from `to` on is owed again, as far as it was done here. What a copy took over stays with the copy.
    pub(super) fn reopen(&mut self, to: u64, bounds: Bounds, out: &mut Vec<Change>) {
        let old_floor = self.floor.min(bounds.max);
        if to >= old_floor {
            return;
        }
        let from_start = self.start.max(to);
        self.start = self.start.min(to);
        self.floor = to;
        let lost = self.lost_within(from_start, old_floor);
        let mut at = from_start;
        for (a, b, _) in lost {
            self.reopen_ended(at, a);
            self.counts.lost -= b - a;
            self.marks.rewrite(a, b, |_, _, _| Some(Mark { was_lost: true, ..Mark::of(State::Missed) }));
            self.forget_lost(a, b);
            out.push(Change::Reopened(a, b));
            at = b;
        }
        self.reopen_ended(at, old_floor);
        self.ended.cut(to);
    }

    fn reopen_ended(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        for (a, b, how) in self.ended.pieces(from, to) {
            let mark = match how {
                Some(copied @ (State::Moved | State::DeadLettered)) => Mark::of(copied),
                Some(state @ (State::Settled | State::Filtered | State::Undecided)) => {
                    self.counts.turn(Some(state), None, b - a);
                    Mark::reopened(state)
                }
                // how it was counted is no longer known: it counts as one more debt
                _ => {
                    self.owed_extra += b - a;
                    Mark::of(State::Reopened)
                }
            };
            self.marks.rewrite(a, b, |_, _, _| Some(mark));
        }
    }
}
