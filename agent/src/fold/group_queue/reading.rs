//! Owns what can be read from a group's books in one queue: how much it owes, what is under way, and whether books that were
//! read back can be true. Never changes them.

use super::{Counts, GroupQueue, NUMBER_MAX};
use crate::fold::marks::State;
use lifecycle::ranges::Ranges;

impl GroupQueue {
    /// Everything it ever owed.
    pub fn owed(&self, max: u64) -> u64 {
        self.owed_extra + max.saturating_sub(self.start)
    }

    /// Debts without an outcome yet.
    pub fn in_flight(&self, max: u64) -> u64 {
        self.owed(max).saturating_sub(self.counts.ended())
    }

    /// The same, counted from the marks: the two must agree.
    pub fn in_flight_by_marks(&self, max: u64) -> u64 {
        let ended: u64 =
            self.marks.iter().filter(|(_, _, mark)| mark.state.is_terminal()).map(|(a, b, _)| b - a).sum();
        max.saturating_sub(self.floor) - ended
    }

    /// Debts no member has been handed.
    pub fn undelivered(&self, max: u64) -> u64 {
        let touched: u64 = self
            .marks
            .iter()
            .filter(|(_, _, mark)| !matches!(mark.state, State::Reopened | State::Missed))
            .map(|(a, b, _)| b - a)
            .sum();
        max.saturating_sub(self.floor) - touched
    }

    /// What cannot be in books that were read back: rows may all be whole and yet not belong together. Books without it can be
    /// reckoned with: no sum overflows, and nothing is taken from a count that it does not hold.
    pub fn contradiction(&self, max: u64) -> Option<&'static str> {
        let (mut above_floor, mut marked) = (Counts::default(), 0);
        for (from, to, mark) in self.marks.iter() {
            if from < self.floor {
                return Some("marks below the floor");
            }
            above_floor.turn(None, Some(mark.state), to - from);
            marked += to - from;
        }
        let numbers = [self.start, self.position, self.floor, self.owed_extra, self.before_membership, max];
        let numbers = numbers.into_iter().chain([
            self.reused_from,
            self.passed_before,
            self.passed.from,
            self.passed.to,
        ]);
        if numbers.chain(self.counts.each()).any(|number| number > NUMBER_MAX) {
            return Some("a number too large to be true");
        }
        if above_floor.each().into_iter().zip(self.counts.each()).any(|(marked, counted)| marked > counted) {
            return Some("marks that are not counted");
        }
        let remembered =
            self.lost.iter().fold(0u64, |sum, (from, (to, _))| sum.saturating_add(to.saturating_sub(*from)));
        if remembered > self.counts.lost {
            return Some("losses that are not counted");
        }
        if marked > max.saturating_sub(self.floor) {
            return Some("marks beyond the queue's end");
        }
        None
    }

    /// What of `from..to` is owed and no member was handed.
    pub fn unhanded(&self, from: u64, to: u64) -> Ranges {
        let mut out = Ranges::new();
        let from = from.max(self.floor);
        if from < to {
            for (a, b, mark) in self.marks.pieces(from, to) {
                if mark.is_none_or(|mark| matches!(mark.state, State::Reopened | State::Missed)) {
                    out.insert(a, b);
                }
            }
        }
        out
    }

    /// What of `from..to` was passed over for the subscription, as far as that is still known.
    pub fn passed_over(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let below = self.ended.pieces(from.min(self.floor).max(self.start), to.min(self.floor));
        let below = below.into_iter().filter(|(_, _, how)| *how == Some(State::Filtered));
        let above = self.marks.pieces(from.max(self.floor), to.max(self.floor));
        let above = above.into_iter().filter(|(_, _, mark)| mark.is_some_and(|m| m.state == State::Filtered));
        below.map(|(a, b, _)| (a, b)).chain(above.map(|(a, b, _)| (a, b))).collect()
    }

    /// Lowest offset that is owed and not done.
    pub fn oldest_open(&self, max: u64) -> Option<u64> {
        (self.floor < max).then_some(self.floor)
    }
}
