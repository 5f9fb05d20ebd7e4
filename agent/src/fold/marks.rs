//! Owns what a group did with the offsets of one queue above its floor: a map of disjoint runs, each with a mark; an offset
//! without a run was never handed out. Costs one entry per run, whatever its length. Never owns counters: each change is
//! told to the caller piece by piece.

mod runs;

use runs::{PackedMark, Place, Run, Runs};
use std::collections::BTreeSet;

/// Offsets whose runs share one ledger row when runs are many.
pub const WINDOW: u64 = 256;
/// Runs for which room is kept between two changes.
const SCRATCH_RUNS_MAX: usize = 256;

/// The state of a run of offsets for one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Handed to a member, no outcome yet.
    Delivered = 1,
    /// Given back; will be handed out again.
    Nacked = 2,
    /// The lease ran out; will be handed out again.
    LeaseExpired = 3,
    /// Was settled, and is owed again since the position was moved back.
    Reopened = 4,
    /// Was lost, and is owed again since the position was moved back.
    Missed = 5,
    /// Done.
    Settled = 6,
    /// Done: the subscription excludes it.
    Filtered = 7,
    /// A copy took over the debt.
    Moved = 8,
    /// In the dead-letter topic.
    DeadLettered = 9,
    /// Lost; the class is kept beside the runs.
    Lost = 10,
    /// The evidence does not tell.
    Undecided = 11,
}

impl State {
    /// The state with this number in a row.
    pub fn from_u8(value: u8) -> Option<Self> {
        use State::*;
        [
            Delivered,
            Nacked,
            LeaseExpired,
            Reopened,
            Missed,
            Settled,
            Filtered,
            Moved,
            DeadLettered,
            Lost,
            Undecided,
        ]
        .into_iter()
        .find(|state| *state as u8 == value)
    }

    /// Whether nothing more is owed.
    pub fn is_terminal(self) -> bool {
        self >= State::Settled
    }
}

/// A state with what belongs to an open delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The state.
    pub state: State,
    /// Once lost to this group: settling it now recovers a loss.
    pub was_lost: bool,
    /// Delivery attempt; 0 for pulls.
    pub attempt: u32,
    /// End of the lease, wall ms; 0: none.
    pub lease_until_ms: u64,
    /// Of a reopened debt: how it had ended, when not by being settled.
    pub before: Option<State>,
}

impl Mark {
    /// A mark without a lease.
    pub fn of(state: State) -> Self {
        Mark { state, was_lost: false, attempt: 0, lease_until_ms: 0, before: None }
    }

    /// A debt that had ended in `before`, and is owed again since the position was moved back.
    pub fn reopened(before: State) -> Self {
        let before = (before != State::Settled).then_some(before);
        Mark { before, ..Mark::of(State::Reopened) }
    }

    /// As it was before it was reopened: passed again, and not handed out in between.
    pub fn ended_again(self) -> Self {
        Mark::of(self.before.unwrap_or(State::Settled))
    }
}

/// The runs of one queue for one group.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    runs: Runs,
    old: Vec<Run>,
    new: Vec<Run>,
    touched: BTreeSet<u64>,
    last_touched: Option<u64>,
}

impl PartialEq for Marks {
    fn eq(&self, other: &Self) -> bool {
        self.runs == other.runs
    }
}

fn parts(run: &Run) -> (u64, u64, Mark) {
    (run.from, run.end, run.mark.into())
}

/// Adds a run, or lengthens the last one when they are neighbours with equal marks.
fn join(runs: &mut Vec<Run>, from: u64, end: u64, mark: PackedMark) {
    match runs.last_mut() {
        Some(last) if last.end == from && last.mark == mark => last.end = end,
        _ => runs.push(Run { from, end, mark }),
    }
}

impl Marks {
    /// How many runs.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Runs that end above `floor`, in rising order.
    pub fn iter_from(&self, floor: u64) -> impl Iterator<Item = (u64, u64, Mark)> + '_ {
        self.runs.iter_at(self.runs.find(|run| run.end <= floor)).map(parts)
    }

    /// All runs.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, Mark)> + '_ {
        self.runs.iter().map(parts)
    }

    /// The mark at `offset`.
    pub fn get(&self, offset: u64) -> Option<Mark> {
        let (from, _, mark) = self.iter_from(offset).next()?;
        (from <= offset).then_some(mark)
    }

    /// The pieces of `from..to`, runs and gaps alike, in rising order.
    pub fn pieces(&self, from: u64, to: u64) -> Vec<(u64, u64, Option<Mark>)> {
        let mut out = Vec::new();
        let mut at = from;
        for (a, b, mark) in self.iter_from(from).take_while(|(a, _, _)| *a < to) {
            if a > at {
                out.push((at, a, None));
            }
            at = b.min(to);
            out.push((a.max(from), at, Some(mark)));
        }
        if at < to {
            out.push((at, to, None));
        }
        out
    }

    /// Gives every piece of `from..to` the mark `turn` returns for it; neighbours with equal marks become one run.
    pub fn rewrite(
        &mut self,
        from: u64,
        to: u64,
        mut turn: impl FnMut(u64, u64, Option<Mark>) -> Option<Mark>,
    ) {
        if from >= to {
            return;
        }
        if self.runs.last().is_none_or(|last| last.end <= from) {
            if let Some(mark) = turn(from, to, None) {
                self.append(from, to, mark);
            }
            return;
        }
        // the neighbours on both sides may join with what comes between them
        let place = self.runs.find(|run| run.end < from);
        let (mut old, mut new) = (std::mem::take(&mut self.old), std::mem::take(&mut self.new));
        old.clear();
        new.clear();
        old.extend(self.runs.iter_at(place).take_while(|run| run.from <= to));
        let mut at = from;
        let mut turn = |new: &mut Vec<Run>, a: u64, b: u64, mark: Option<PackedMark>| {
            if let Some(mark) = turn(a, b, mark.map(Mark::from)) {
                join(new, a, b, mark.into());
            }
        };
        for run in &old {
            if run.from < from {
                new.push(Run { end: run.end.min(from), ..*run });
            }
            let (a, b) = (run.from.max(from), run.end.min(to));
            if a < b {
                if at < a {
                    turn(&mut new, at, a, None);
                }
                turn(&mut new, a, b, Some(run.mark));
                at = b;
            }
            if run.end > to {
                if at < to {
                    turn(&mut new, at, to, None);
                    at = to;
                }
                join(&mut new, run.from.max(to), run.end, run.mark);
            }
        }
        if at < to {
            turn(&mut new, at, to, None);
        }
        self.put(place, &old, &new);
        if old.capacity().max(new.capacity()) <= SCRATCH_RUNS_MAX {
            (self.old, self.new) = (old, new);
        }
    }

    fn append(&mut self, from: u64, end: u64, mark: Mark) {
        let mark = mark.into();
        match self.runs.last_mut() {
            Some(last) if last.end == from && last.mark == mark => {
                last.end = end;
                let from = last.from;
                self.touch(from);
            }
            _ => {
                self.runs.push(Run { from, end, mark });
                self.touch(from);
            }
        }
    }

    /// Puts `new` in the place of `old`, and notes the windows that differ.
    fn put(&mut self, place: Place, old: &[Run], new: &[Run]) {
        if old == new {
            return;
        }
        for run in old.iter().chain(new) {
            self.touch(run.from);
        }
        self.runs.replace(place, old.len(), new);
    }

    /// Drops everything below `floor`, then returns the lowest offset at or above it that is not terminal. What ended on
    /// the way is told to `ended`, in rising order.
    pub fn advance(&mut self, floor: u64, mut ended: impl FnMut(u64, u64, State)) -> u64 {
        let mut floor = floor;
        while let Some(run) = self.runs.first().copied() {
            let state = Mark::from(run.mark).state;
            let is_over = run.end <= floor || (run.from <= floor && state.is_terminal());
            if !is_over {
                if run.from < floor {
                    self.runs.first_mut().expect("it was looked at").from = floor;
                    self.touch(run.from);
                    self.touch(floor);
                }
                break;
            }
            self.runs.remove_first();
            self.touch(run.from);
            ended(run.from, run.end, state);
            floor = floor.max(run.end);
        }
        floor
    }

    /// Drops everything at or above `end`.
    pub fn truncate(&mut self, end: u64) {
        self.rewrite(end, u64::MAX, |_, _, _| None);
    }

    /// Puts a run that was read back from a row; `false` when it is empty or overlaps.
    pub fn restore(&mut self, from: u64, to: u64, mark: Mark) -> bool {
        let free = self.runs.last().is_none_or(|last| last.end <= from);
        if from >= to || !free {
            return false;
        }
        self.runs.push(Run { from, end: to, mark: mark.into() });
        true
    }

    /// The runs that start in window number `window`.
    pub fn in_window(&self, window: u64) -> impl Iterator<Item = (u64, u64, Mark)> + '_ {
        let from = window.saturating_mul(WINDOW);
        let to = from.saturating_add(WINDOW);
        let place = self.runs.find(|run| run.from < from);
        self.runs.iter_at(place).take_while(move |run| run.from < to).map(parts)
    }

    /// Windows whose runs changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<u64> {
        self.last_touched = None;
        std::mem::take(&mut self.touched)
    }

    fn touch(&mut self, from: u64) {
        let window = from / WINDOW;
        if self.last_touched != Some(window) {
            self.last_touched = Some(window);
            self.touched.insert(window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(n: u8) -> Option<Mark> {
        (n > 0).then(|| Mark::of(State::from_u8(n).unwrap()))
    }

    proptest! {
        #[test]
        fn behaves_like_an_array(ops in prop::collection::vec((0u64..80, 1u64..25, 0u8..5, 0u8..5), 0..80)) {
            let mut marks = Marks::default();
            let mut model: Vec<Option<Mark>> = vec![None; 120];
            for (from, len, when, then) in ops {
                let to = from + len;
                let mut told = Vec::new();
                marks.rewrite(from, to, |a, b, old| {
                    told.extend((a..b).map(|_| old));
                    if old == mark(when) || when == 0 { mark(then) } else { old }
                });
                let range = from as usize..to as usize;
                prop_assert_eq!(&told[..], &model[range.clone()], "told every offset once, in order");
                for slot in &mut model[range] {
                    if *slot == mark(when) || when == 0 { *slot = mark(then) }
                }
                for (offset, expected) in model.iter().enumerate() {
                    prop_assert_eq!(marks.get(offset as u64), *expected, "offset {}", offset);
                }
                let runs: Vec<_> = marks.iter().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].1 < w[1].0 || (w[0].1 == w[1].0 && w[0].2 != w[1].2)), "{runs:?}");
                let flat: Vec<_> = marks.pieces(3, 90).into_iter().flat_map(|(a, b, m)| (a..b).map(move |_| m)).collect();
                prop_assert_eq!(&flat[..], &model[3..90]);
            }
        }

        #[test]
        fn advancing_stops_at_the_first_open_offset(states in prop::collection::vec(0u8..12, 1..60), floor in 0u64..70) {
            let mut marks = Marks::default();
            for (offset, state) in states.iter().enumerate() {
                marks.rewrite(offset as u64, offset as u64 + 1, |_, _, _| mark(*state));
            }
            let end = states.len() as u64;
            let floor = floor.min(end);
            let terminal = |offset: u64| states.get(offset as usize).is_some_and(|s| *s >= State::Settled as u8);
            let expected = (floor..end).find(|offset| !terminal(*offset)).unwrap_or(end);
            let before = marks.clone();
            prop_assert_eq!(marks.advance(floor, |_, _, _| {}), expected);
            prop_assert!(marks.iter().all(|(from, _, _)| from >= expected));
            for offset in expected..end { prop_assert_eq!(marks.get(offset), before.get(offset)); }
        }
    }
}
