//! Owns what a group did with the offsets of one queue above its floor: a map of disjoint runs, each with a mark; an offset
//! without a run was never handed out. Costs one entry per run, whatever its length. Never owns counters: each change is
//! told to the caller piece by piece.

use std::collections::{BTreeMap, BTreeSet};

/// Offsets whose runs share one ledger row when runs are many.
pub const WINDOW: u64 = 256;

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
}

impl Mark {
    /// A mark without a lease.
    pub fn of(state: State) -> Self {
        Mark { state, was_lost: false, attempt: 0, lease_until_ms: 0 }
    }

    /// The same history in another state.
    pub fn turned(self, state: State) -> Self {
        let mark = Mark { state, ..self };
        if state.is_terminal() {
            Mark { attempt: 0, lease_until_ms: 0, was_lost: false, ..mark }
        } else {
            mark
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    end: u64,
    mark: Mark,
}

/// The runs of one queue for one group.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    runs: BTreeMap<u64, Run>,
    scratch: Vec<(u64, Run)>,
    touched: BTreeSet<u64>,
    last_touched: Option<u64>,
}

impl PartialEq for Marks {
    fn eq(&self, other: &Self) -> bool {
        self.runs == other.runs
    }
}

impl Marks {
    /// How many runs.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Runs that end above `floor`, in rising order.
    pub fn iter_from(&self, floor: u64) -> impl Iterator<Item = (u64, u64, Mark)> + '_ {
        let before = self.runs.range(..floor).next_back().filter(|(_, run)| run.end > floor);
        before.into_iter().chain(self.runs.range(floor..)).map(|(from, run)| (*from, run.end, run.mark))
    }

    /// All runs.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, Mark)> + '_ {
        self.runs.iter().map(|(from, run)| (*from, run.end, run.mark))
    }

    /// The mark at `offset`.
    pub fn get(&self, offset: u64) -> Option<Mark> {
        let (_, run) = self.runs.range(..=offset).next_back()?;
        (offset < run.end).then_some(run.mark)
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
        if self.runs.last_key_value().is_none_or(|(_, run)| run.end <= from) {
            if let Some(mark) = turn(from, to, None) {
                self.append(from, to, mark);
            }
            return;
        }
        let mut pieces = std::mem::take(&mut self.scratch);
        pieces.clear();
        self.take_overlapping(from, to, &mut pieces);
        self.put_back(from, to, &mut pieces, &mut turn);
        self.scratch = pieces;
    }

    fn append(&mut self, from: u64, to: u64, mark: Mark) {
        if let Some(mut last) = self.runs.last_entry()
            && last.get().end == from
            && last.get().mark == mark
        {
            last.get_mut().end = to;
            let key = *last.key();
            self.touch(key);
            return;
        }
        self.put(from, Run { end: to, mark });
    }

    /// Removes the runs that overlap `from..to`; what lies outside of it is put back at once.
    fn take_overlapping(&mut self, from: u64, to: u64, pieces: &mut Vec<(u64, Run)>) {
        if let Some((a, run)) = self.runs.range_mut(..from).next_back()
            && run.end > from
        {
            let cut = Run { end: run.end, mark: run.mark };
            run.end = from;
            let a = *a;
            self.touch(a);
            pieces.push((from, cut));
        }
        while let Some((a, run)) = self.runs.range(from..to).next().map(|(a, run)| (*a, *run)) {
            self.runs.remove(&a);
            self.touch(a);
            pieces.push((a, run));
        }
        let last_index = pieces.len().wrapping_sub(1);
        if let Some((_, run)) = pieces.get_mut(last_index)
            && run.end > to
        {
            let rest = Run { end: run.end, mark: run.mark };
            run.end = to;
            self.put(to, rest);
        }
    }

    fn put_back(
        &mut self,
        from: u64,
        to: u64,
        pieces: &mut Vec<(u64, Run)>,
        turn: &mut impl FnMut(u64, u64, Option<Mark>) -> Option<Mark>,
    ) {
        let mut open: Option<(u64, Run)> = self
            .runs
            .range(..from)
            .next_back()
            .filter(|(_, run)| run.end == from)
            .map(|(start, run)| (*start, *run));
        let mut at = from;
        let mut place = |marks: &mut Self, a: u64, b: u64, mark: Option<Mark>| {
            let Some(mark) = mark else { return };
            match &mut open {
                Some((_, run)) if run.end == a && run.mark == mark => run.end = b,
                _ => {
                    if let Some((start, run)) = open.replace((a, Run { end: b, mark })) {
                        marks.put(start, run);
                    }
                }
            }
        };
        for (a, run) in pieces.drain(..) {
            if a > at {
                let mark = turn(at, a, None);
                place(self, at, a, mark);
            }
            let mark = turn(a, run.end, Some(run.mark));
            place(self, a, run.end, mark);
            at = run.end;
        }
        if at < to {
            let mark = turn(at, to, None);
            place(self, at, to, mark);
        }
        if let Some((start, mut run)) = open {
            // the run behind may continue the last piece
            if run.end == to
                && let Some(next) = self.runs.get(&to).copied()
                && next.mark == run.mark
            {
                self.runs.remove(&to);
                self.touch(to);
                run.end = next.end;
            }
            self.put(start, run);
        }
    }

    /// Drops everything below `floor`, then returns the lowest offset at or above it that is not terminal.
    pub fn advance(&mut self, floor: u64) -> u64 {
        let mut floor = floor;
        while let Some(first) = self.runs.first_entry() {
            let (from, run) = (*first.key(), *first.get());
            let ended = run.end <= floor || (from <= floor && run.mark.state.is_terminal());
            if !ended {
                if from < floor {
                    first.remove();
                    self.touch(from);
                    self.put(floor, run);
                }
                break;
            }
            first.remove();
            self.touch(from);
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
        let free = self.runs.last_key_value().is_none_or(|(_, run)| run.end <= from);
        if from >= to || !free {
            return false;
        }
        self.runs.insert(from, Run { end: to, mark });
        true
    }

    /// The runs that start in window number `window`.
    pub fn in_window(&self, window: u64) -> impl Iterator<Item = (u64, u64, Mark)> + '_ {
        let from = window.saturating_mul(WINDOW);
        let to = from.saturating_add(WINDOW);
        self.runs.range(from..to).map(|(a, run)| (*a, run.end, run.mark))
    }

    /// Windows whose runs changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<u64> {
        self.last_touched = None;
        std::mem::take(&mut self.touched)
    }

    fn put(&mut self, from: u64, run: Run) {
        self.runs.insert(from, run);
        self.touch(from);
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
            prop_assert_eq!(marks.advance(floor), expected);
            prop_assert!(marks.iter().all(|(from, _, _)| from >= expected));
            for offset in expected..end { prop_assert_eq!(marks.get(offset), before.get(offset)); }
        }
    }
}
