//! Owns what recoveries, hidden messages and snapshots do to the books of one group in one queue.

use super::{Bounds, Change, GroupQueue};
use crate::fold::class::Class;
use crate::fold::marks::{Mark, State};
use lifecycle::ranges::Ranges;

impl GroupQueue {
    /// Messages up to `reach` may have stood in the queue before recovery cut it, at `end`.
    pub fn may_have_passed(&mut self, end: u64, reach: u64) {
        let reach = reach.max(self.position);
        if reach <= end {
            return;
        }
        let is_open = self.floor < self.passed_before;
        self.reused_from = if is_open { self.reused_from.min(end) } else { end };
        self.passed_before = if is_open { self.passed_before.max(reach) } else { reach };
    }

    /// Recovery cut the queue at `end`, from `old_max`: what was open there is lost with the store's copy, what a member
    /// holds is undecided, and the debts of copies that will be made again move on. Offsets from `end` on will be used again.
    pub fn cut(&mut self, end: u64, old_max: u64, remade: &Ranges, bounds: Bounds) {
        let from = end.max(self.start);
        if old_max > from {
            self.owed_extra += old_max - from;
            let turned = |remade: bool| {
                move |_: u64, _: u64, old: Option<Mark>| match old {
                    Some(mark) if mark.state.is_terminal() => old,
                    Some(mark) if mark.state == State::Reopened => Some(mark.ended_again()),
                    _ if remade => Some(Mark::of(State::Moved)),
                    Some(mark) if mark.state == State::Delivered => Some(Mark::of(State::Undecided)),
                    _ => Some(Mark::of(State::Lost)),
                }
            };
            let from = from.max(self.floor);
            for (a, b) in remade.within(from, old_max.max(from)).iter() {
                self.rewrite(a, b, turned(true));
            }
            self.rewrite(from, old_max, turned(false));
        }
        // the counts keep what was cut; its marks go
        self.marks.truncate(end);
        self.start = self.start.min(end);
        self.floor = self.floor.min(end).max(self.start);
        self.ended.cut(self.floor);
        self.forget_lost(end, u64::MAX);
        drop(self.failed_copies.split_off(&end));
        self.settle_down(bounds);
    }

    /// Records that did not survive in the middle of the queue.
    pub fn bad(&mut self, from: u64, to: u64, bounds: Bounds, out: &mut Vec<Change>) {
        let mut found = Vec::new();
        self.rewrite(from.max(self.floor), to.min(bounds.max), |a, b, old| match old {
            Some(mark) if mark.state == State::Delivered || mark.state.is_terminal() => old,
            Some(mark) if mark.state == State::Reopened => Some(mark.ended_again()),
            _ => {
                found.push(Change::Lost(Class::StoredNotFlushedLost, a, b));
                Some(Mark::of(State::Lost))
            }
        });
        self.note(&mut found, out);
        self.settle_down(bounds);
    }

    /// Passed over, because the records cannot be read here.
    pub fn unreadable(&mut self, from: u64, to: u64, bounds: Bounds, out: &mut Vec<Change>) {
        let mut found = Vec::new();
        self.rewrite(from.max(self.floor), to.min(bounds.max), |a, b, old| match old {
            Some(mark) if mark.state == State::Delivered || mark.state.is_terminal() => old,
            Some(mark) if mark.state == State::Reopened => Some(mark.ended_again()),
            _ => {
                found.push(Change::Lost(Class::CorruptedAtRest, a, b));
                Some(Mark::of(State::Lost))
            }
        });
        self.note(&mut found, out);
        self.settle_down(bounds);
    }

    /// Offsets `from..to` were stored below the position the group reached in a lost epoch.
    pub fn reused(&mut self, from: u64, to: u64, bounds: Bounds, out: &mut Vec<Change>) {
        let to = to.min(self.position);
        let mut found = Vec::new();
        self.rewrite(from.max(self.floor), to, |a, b, old| match old {
            None => {
                found.push(Change::Lost(Class::OffsetReused, a, b));
                Some(Mark::of(State::Lost))
            }
            _ => old,
        });
        self.note_passed(&found, bounds);
        self.note(&mut found, out);
        self.settle_down(bounds);
    }

    /// Offsets below `from` were stored without our hearing of it, and the position is above them already.
    pub fn pass_hidden(&mut self, from: u64, bounds: Bounds, out: &mut Vec<Change>) {
        self.pass(self.position.min(from), Class::AckedWithoutDelivery, bounds, out);
    }

    /// A whole state, restated by a snapshot.
    pub fn restated(
        &mut self,
        position: u64,
        delivered: &[(u64, u64)],
        settled: &[(u64, u64)],
        bounds: Bounds,
    ) {
        self.position = position;
        let to = position.min(bounds.max);
        // what a snapshot says is settled is so; how it came to be is not told
        self.rewrite(self.floor, to, |_, _, old| match old {
            Some(mark) if mark.state.is_terminal() => old,
            _ => Some(Mark::of(State::Settled)),
        });
        for (from, end) in settled {
            self.rewrite((*from).max(self.floor), (*end).min(bounds.max), |_, _, old| match old {
                Some(mark) if mark.state.is_terminal() => old,
                _ => Some(Mark::of(State::Settled)),
            });
        }
        for (from, end) in delivered {
            self.rewrite((*from).max(self.floor).max(to), (*end).min(bounds.max), |_, _, old| {
                old.or(Some(Mark::of(State::Delivered)))
            });
        }
        self.settle_down(bounds);
        self.floor = self.floor.max(to);
        // how they ended was before the snapshot
        self.ended.known_from = self.ended.known_from.max(self.floor);
    }
}
