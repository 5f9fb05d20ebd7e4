//! Owns the books of one group in one queue: what it owes, and what became of each debt. Everything below the floor is
//! settled history and costs nothing. Never knows other queues; what the judge must hear is returned as changes.

pub mod ended;
mod reading;
mod recovery;
pub mod reread;
mod rewind;

use crate::fold::class::Class;
use crate::fold::marks::{Mark, Marks, State};
use ended::Ended;
use lifecycle::fact::MoveReason;
use lifecycle::identity::CopyReason;
use reread::Passed;
use std::collections::BTreeMap;

/// Failed copies remembered per group and queue; beyond it the oldest is forgotten (and counted by the broker's books).
pub const FAILED_COPIES_MAX: usize = 4_096;
/// No offset and no count is larger: what is read back above it is no number that was ever written.
const NUMBER_MAX: u64 = 1 << 56;
/// Runs of lost offsets remembered per group and queue for a later rewind.
pub const LOST_RUNS_MAX: usize = 4_096;

/// What became of the debts, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Done, filtered ones included.
    pub settled: u64,
    /// Of the settled: excluded by the subscription.
    pub filtered: u64,
    /// Taken over by a copy.
    pub moved: u64,
    /// In the dead-letter topic.
    pub dead_lettered: u64,
    /// Lost, of all classes.
    pub lost: u64,
    /// The evidence does not tell.
    pub undecided: u64,
}

impl Counts {
    fn slot(&mut self, state: State) -> Option<&mut u64> {
        match state {
            State::Settled | State::Filtered => Some(&mut self.settled),
            State::Moved => Some(&mut self.moved),
            State::DeadLettered => Some(&mut self.dead_lettered),
            State::Lost => Some(&mut self.lost),
            State::Undecided => Some(&mut self.undecided),
            _ => None,
        }
    }

    fn turn(&mut self, from: Option<State>, to: Option<State>, count: u64) {
        if from == Some(State::Filtered) {
            self.filtered -= count;
        }
        if to == Some(State::Filtered) {
            self.filtered += count;
        }
        if let Some(slot) = from.and_then(|state| self.slot(state)) {
            *slot -= count;
        }
        if let Some(slot) = to.and_then(|state| self.slot(state)) {
            *slot += count;
        }
    }

    /// Everything that is no longer owed.
    pub fn ended(&self) -> u64 {
        self.settled + self.moved + self.dead_lettered + self.lost + self.undecided
    }

    fn each(&self) -> [u64; 6] {
        [self.settled, self.filtered, self.moved, self.dead_lettered, self.lost, self.undecided]
    }
}

/// Why a message was handed out again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Redelivery {
    /// Its lease ran out.
    LeaseExpired = 0,
    /// It was given back.
    Nack = 1,
    /// The position was moved back.
    Rewind = 2,
    /// The queue went to another member before the progress was committed.
    Rebalance = 3,
}

/// What the store side says about the queue while a fact is applied.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Lowest offset that exists.
    pub min: u64,
    /// One past the highest.
    pub max: u64,
    /// Below it deliveries may be hidden in an evidence gap.
    pub untrusted_below: u64,
    /// Runs of [`Ended`] to remember.
    pub ended_runs_max: usize,
    /// The broker's clock.
    pub wall_ms: u64,
}

/// A consequence the broker's books pass on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Lost to this group.
    Lost(Class, u64, u64),
    /// Lost before, settled now, or no longer known to be lost.
    Regained(u64, u64),
    /// Lost before, owed again.
    Reopened(u64, u64),
    /// Handed out again.
    Redelivered(Redelivery, u64),
    /// Delivered after having been passed over.
    Unfiltered(u64, u64),
}

/// One group in one queue.
#[derive(Clone, Debug, Default)]
pub struct GroupQueue {
    /// Owes everything from here on.
    pub start: u64,
    /// Its position, as the broker last stated it.
    pub position: u64,
    /// Below it every debt has ended.
    pub floor: u64,
    /// Debts beside `start..max`: offsets that recovery cut off, and those owed again after a rewind.
    pub owed_extra: u64,
    /// When a member was last handed something, wall ms; 0: never.
    pub read_wall_ms: u64,
    /// From here to `passed_before` messages may have stood that a recovery took, and that the group had passed: new ones have these
    /// offsets now.
    pub reused_from: u64,
    /// See `reused_from`.
    pub passed_before: u64,
    /// What may be read yet.
    pub passed: Passed,
    /// Messages before the membership, when the group started.
    pub before_membership: u64,
    /// What became of the debts.
    pub counts: Counts,
    /// Offsets above the floor.
    pub marks: Marks,
    /// How the debts below the floor ended, as far as that is remembered.
    pub ended: Ended,
    /// Lost offsets that still exist, for a later rewind: start → (end, class).
    pub lost: BTreeMap<u64, (u64, Class)>,
    /// Parents whose copy failed.
    pub failed_copies: BTreeMap<u64, CopyReason>,
    /// Whether its row is out of date.
    pub dirty: bool,
    /// Whether none of its rows was ever written.
    pub fresh: bool,
}

impl GroupQueue {
    /// A group that owes the queue from `start` on.
    pub fn starting_at(start: u64, min: u64) -> Self {
        GroupQueue {
            start,
            position: start,
            floor: start,
            before_membership: start.saturating_sub(min),
            ended: Ended::starting_at(start),
            fresh: true,
            ..Default::default()
        }
    }

    fn rewrite(&mut self, from: u64, to: u64, mut turn: impl FnMut(u64, u64, Option<Mark>) -> Option<Mark>) {
        let counts = &mut self.counts;
        self.marks.rewrite(from, to, |a, b, old| {
            let new = turn(a, b, old);
            counts.turn(old.map(|m| m.state), new.map(|m| m.state), b - a);
            new
        });
    }

    /// As [`Self::rewrite`], with pieces cut where trust or existence changes.
    fn rewrite_cut(
        &mut self,
        span: (u64, u64),
        bounds: Bounds,
        mut turn: impl FnMut(u64, u64, Option<Mark>) -> Option<Mark>,
    ) {
        let mut at = span.0;
        let cuts = [bounds.min.min(bounds.untrusted_below), bounds.min.max(bounds.untrusted_below), span.1];
        for cut in cuts {
            let to = cut.clamp(at, span.1.max(at));
            self.rewrite(at, to, &mut turn);
            at = to;
        }
    }

    fn settle_down(&mut self, bounds: Bounds) {
        let ended = &mut self.ended;
        self.floor = self
            .marks
            .advance(self.floor, |from, to, state| ended.note(from, to, state, bounds.ended_runs_max));
    }

    /// Handed to a member.
    pub fn delivered(&mut self, from: u64, to: u64, lease: (u32, u64), out: &mut Vec<Change>) {
        if from >= to {
            return;
        }
        if from < self.floor {
            self.delivered_below_floor(from, self.floor.min(to), out);
        }
        let (attempt, lease_until_ms) = lease;
        let mut found = Vec::new();
        self.rewrite(from.max(self.floor), to, |a, b, old| {
            let fresh = Mark { attempt, lease_until_ms, ..Mark::of(State::Delivered) };
            let Some(old) = old else { return Some(fresh) };
            let again = Mark { was_lost: old.was_lost, ..fresh };
            let cause = match old.state {
                State::LeaseExpired => Redelivery::LeaseExpired,
                State::Nacked => Redelivery::Nack,
                State::Reopened if old.before == Some(State::Filtered) => {
                    found.push(Change::Unfiltered(a, b));
                    return Some(again);
                }
                State::Reopened => Redelivery::Rewind,
                State::Delivered if attempt > 1 => Redelivery::LeaseExpired,
                State::Missed | State::Undecided => return Some(again),
                State::Filtered => {
                    found.push(Change::Unfiltered(a, b));
                    return Some(again);
                }
                State::Lost => {
                    found.push(Change::Reopened(a, b));
                    return Some(Mark { was_lost: true, ..fresh });
                }
                _ => Redelivery::Rebalance,
            };
            found.push(Change::Redelivered(cause, b - a));
            Some(if old.state.is_terminal() { old } else { again })
        });
        self.note(&mut found, out);
    }

    /// Passed over for the subscription.
    pub fn filtered(&mut self, from: u64, to: u64, bounds: Bounds) {
        self.rewrite(from.max(self.floor), to.min(bounds.max), |_, _, old| match old {
            Some(mark) if mark.state == State::Delivered || mark.state.is_terminal() => old,
            _ => Some(Mark::of(State::Filtered)),
        });
        self.settle_down(bounds);
    }

    /// Acknowledged one by one.
    pub fn acked(&mut self, from: u64, to: u64, bounds: Bounds, out: &mut Vec<Change>) {
        let to = to.min(bounds.max);
        let mut found = Vec::new();
        self.rewrite_cut((from.max(self.floor), to), bounds, |a, b, old| match old {
            None if b <= bounds.untrusted_below => Some(Mark::of(State::Settled)),
            None => {
                found.push(Change::Lost(Class::AckedWithoutDelivery, a, b));
                Some(Mark::of(State::Lost))
            }
            Some(mark) if mark.state == State::Lost => {
                found.push(Change::Regained(a, b));
                Some(Mark::of(State::Settled))
            }
            Some(mark) if mark.state.is_terminal() => old,
            Some(mark) => {
                if mark.was_lost || mark.state == State::Missed {
                    found.push(Change::Regained(a, b));
                }
                Some(Mark::of(State::Settled))
            }
        });
        self.note(&mut found, out);
        self.settle_down(bounds);
    }

    /// Given back, or the lease ran out: to be handed out again, unless retention was faster.
    pub fn given_back(&mut self, span: (u64, u64), state: State, bounds: Bounds, out: &mut Vec<Change>) {
        let mut found = Vec::new();
        self.rewrite_cut((span.0.max(self.floor), span.1.min(bounds.max)), bounds, |a, b, old| match old {
            Some(mark) if mark.state == State::Delivered && a < bounds.min => {
                found.push(Change::Lost(Class::ExpiredBeforeConsumption, a, b));
                Some(Mark::of(State::Lost))
            }
            Some(mark) if matches!(mark.state, State::Delivered | State::Nacked | State::LeaseExpired) => {
                Some(Mark { state, lease_until_ms: 0, ..mark })
            }
            _ => old,
        });
        self.note(&mut found, out);
        self.settle_down(bounds);
    }

    /// A copy took over the debt, or the message is a dead letter now.
    pub fn copied(&mut self, offset: u64, state: State, bounds: Bounds) {
        self.failed_copies.remove(&offset);
        self.rewrite(offset.max(self.floor), (offset + 1).min(bounds.max), |_, _, old| match old {
            Some(mark) if mark.state.is_terminal() => old,
            _ => Some(Mark::of(state)),
        });
        self.settle_down(bounds);
    }

    /// A copy could not be stored.
    pub fn copy_failed(&mut self, offset: u64, reason: CopyReason) {
        if offset < self.floor {
            return;
        }
        if self.failed_copies.len() >= FAILED_COPIES_MAX {
            self.failed_copies.pop_first();
        }
        self.failed_copies.insert(offset, reason);
    }

    /// The broker moved the group's position.
    pub fn moved(&mut self, from: u64, to: u64, reason: MoveReason, bounds: Bounds, out: &mut Vec<Change>) {
        self.position = to;
        if to < from {
            self.reopen(to.max(bounds.min), bounds, out);
            return;
        }
        let class = match reason {
            MoveReason::Commit | MoveReason::AckFloor => Class::AckedWithoutDelivery,
            MoveReason::Retention => Class::ExpiredBeforeConsumption,
            MoveReason::Reset | MoveReason::Correction | MoveReason::Recovery => Class::SkippedByOffsetReset,
        };
        let to = to.min(bounds.max);
        if reason != MoveReason::Retention && self.floor < to.min(self.passed_before) {
            self.pass(to.min(self.reused_from), class, bounds, out);
            // a client that goes on where it was before the recovery, whatever it calls that
            self.pass(to.min(self.passed_before), Class::OffsetReused, bounds, out);
        }
        self.pass(to, class, bounds, out);
    }

    /// Every debt below `to` ends now; those nobody was handed end in `class`.
    fn pass(&mut self, to: u64, class: Class, bounds: Bounds, out: &mut Vec<Change>) {
        let mut found = Vec::new();
        let failed: Vec<(u64, CopyReason)> =
            self.failed_copies.range(..to).map(|(offset, reason)| (*offset, *reason)).collect();
        for (offset, reason) in failed {
            self.failed_copies.remove(&offset);
            let class = if reason == CopyReason::DeadLetter {
                Class::DlqWriteFailed
            } else {
                Class::SendBackFailedThenPassed
            };
            self.end_as_lost(offset, class, &mut found);
        }
        let below_min = |b: u64| b <= bounds.min;
        self.rewrite_cut((self.floor, to), bounds, |a, b, old| {
            let given_back = old.is_some_and(|m| matches!(m.state, State::Nacked | State::LeaseExpired));
            match old {
                Some(mark) if mark.state == State::Delivered => {
                    if mark.was_lost {
                        found.push(Change::Regained(a, b));
                    }
                    Some(Mark::of(State::Settled))
                }
                Some(mark) if mark.state == State::Reopened => Some(mark.ended_again()),
                Some(mark) if !given_back && mark.state != State::Missed => old,
                None if b <= bounds.untrusted_below => Some(Mark::of(State::Undecided)),
                _ => {
                    let class = if below_min(b) { Class::ExpiredBeforeConsumption } else { class };
                    found.push(Change::Lost(class, a, b));
                    Some(Mark::of(State::Lost))
                }
            }
        });
        self.note_passed(&found, bounds);
        self.note(&mut found, out);
        self.settle_down(bounds);
        self.floor = self.floor.max(to);
    }

    fn end_as_lost(&mut self, offset: u64, class: Class, found: &mut Vec<Change>) {
        self.rewrite(offset.max(self.floor), offset + 1, |a, b, old| match old {
            Some(mark) if mark.state.is_terminal() => old,
            _ => {
                found.push(Change::Lost(class, a, b));
                Some(Mark::of(State::Lost))
            }
        });
    }

    /// Retention deleted everything below `bounds.min`. `None`: the group is idle, the debts are forgiven.
    pub fn expired(&mut self, class: Option<Class>, bounds: Bounds, out: &mut Vec<Change>) {
        let to = bounds.min.min(bounds.max);
        if to > self.start && to > self.floor {
            let mut forgiven = 0;
            let mut found = Vec::new();
            self.rewrite_cut((self.floor, to), bounds, |a, b, old| match (old, class) {
                (Some(mark), _) if mark.state == State::Delivered || mark.state.is_terminal() => old,
                (Some(mark), _) if mark.state == State::Reopened => Some(mark.ended_again()),
                (None, _) if b <= bounds.untrusted_below => Some(Mark::of(State::Undecided)),
                (_, Some(class)) => {
                    found.push(Change::Lost(class, a, b));
                    Some(Mark::of(State::Lost))
                }
                (_, None) => {
                    forgiven += b - a;
                    Some(Mark::of(State::Settled))
                }
            });
            self.before_membership += forgiven;
            self.note(&mut found, out);
            self.settle_down(bounds);
        }
        while let Some(first) = self.lost.first_entry()
            && first.get().0 <= bounds.min
        {
            first.remove();
        }
    }

    /// Whether the group was handed this offset, or is done with it.
    pub fn has_taken(&self, offset: u64) -> bool {
        let open = self.marks.get(offset).is_some_and(|mark| {
            !matches!(
                mark.state,
                State::Lost | State::Missed | State::Undecided | State::Nacked | State::LeaseExpired
            )
        });
        (offset >= self.start && offset < self.floor && self.lost_within(offset, offset + 1).is_empty())
            || open
    }

    fn note(&mut self, found: &mut Vec<Change>, out: &mut Vec<Change>) {
        for change in found.drain(..) {
            match change {
                Change::Lost(class, from, to) => self.remember_lost(from, to, class),
                Change::Regained(from, to) | Change::Reopened(from, to) => self.forget_lost(from, to),
                _ => {}
            }
            out.push(change);
        }
    }

    fn remember_lost(&mut self, from: u64, to: u64, class: Class) {
        if let Some((start, (end, last))) = self.lost.range(..from).next_back().map(|(a, b)| (*a, *b))
            && end == from
            && last == class
        {
            self.lost.insert(start, (to, class));
            return;
        }
        if self.lost.len() >= LOST_RUNS_MAX {
            self.lost.pop_first();
        }
        self.lost.insert(from, (to, class));
    }

    fn lost_within(&self, from: u64, to: u64) -> Vec<(u64, u64, Class)> {
        if from >= to {
            return Vec::new();
        }
        // runs do not overlap: the last one that begins before may reach in
        let before = self.lost.range(..from).next_back().filter(|(_, (end, _))| *end > from);
        let within = before.into_iter().chain(self.lost.range(from..to));
        within.map(|(a, (b, class))| ((*a).max(from), (*b).min(to), *class)).collect()
    }

    fn forget_lost(&mut self, from: u64, to: u64) {
        for (a, b, class) in self.lost_within(from, to) {
            let whole = self.lost.range(..=a).next_back().map(|(start, (end, _))| (*start, *end));
            let Some((start, end)) = whole else { continue };
            self.lost.remove(&start);
            if start < a {
                self.lost.insert(start, (a, class));
            }
            if end > b {
                self.lost.insert(b, (end, class));
            }
        }
    }
}
