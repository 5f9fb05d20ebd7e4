//! Owns how the debts below a group's floor ended: runs of whatever was not simply settled (filtered, moved, dead-lettered,
//! lost, undecided). Bounded: beyond the limit the oldest runs are forgotten, and [`Ended::how`] says so. Never counts;
//! the counts are the group's. Lies in ledger rows of [`ENDED_WINDOW`] offsets, so that only what is new is written again.

use crate::fold::marks::State;
use std::collections::{BTreeMap, BTreeSet};

/// Runs remembered in one queue for one group, when there are few such pairs.
pub const ENDED_RUNS_MAX: usize = 1_024;
/// The same, however many pairs there are.
pub const ENDED_RUNS_MIN: usize = 16;
/// Runs remembered over all pairs of one source, as long as each keeps [`ENDED_RUNS_MIN`] (about 48 bytes each).
pub const ENDED_RUNS_TOTAL: usize = 131_072;
/// Offsets whose runs share one ledger row.
pub const ENDED_WINDOW: u64 = 4_096;

/// How debts below the floor ended.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    runs: BTreeMap<u64, (u64, State)>,
    /// Below it nothing is remembered any more.
    pub known_from: u64,
    touched: BTreeSet<u64>,
}

impl Ended {
    /// Nothing has ended yet; what ends from `start` on is remembered.
    pub fn starting_at(start: u64) -> Self {
        Ended { known_from: start, ..Default::default() }
    }

    /// Debts `from..to` ended in `state`; runs come in rising order.
    pub fn note(&mut self, from: u64, to: u64, state: State, runs_max: usize) {
        if state == State::Settled || !state.is_terminal() {
            return;
        }
        let last = self.runs.last_entry();
        let from = last.as_ref().map_or(from, |run| from.max(run.get().0));
        if from >= to {
            return;
        }
        match last {
            Some(mut run) if run.get().0 == from && run.get().1 == state => {
                run.get_mut().0 = to;
                let start = *run.key();
                self.touched.insert(start / ENDED_WINDOW);
            }
            _ => self.put(from, to, state),
        }
        while self.runs.len() > runs_max
            && let Some((start, (end, _))) = self.runs.pop_first()
        {
            self.touched.insert(start / ENDED_WINDOW);
            self.known_from = self.known_from.max(end);
        }
    }

    fn put(&mut self, from: u64, to: u64, state: State) {
        self.runs.insert(from, (to, state));
        self.touched.insert(from / ENDED_WINDOW);
    }

    /// How the debt at `offset`, which lies below the floor, ended; `None`: no longer known.
    pub fn how(&self, offset: u64) -> Option<State> {
        if offset < self.known_from {
            return None;
        }
        let run = self.runs.range(..=offset).next_back().filter(|(_, (end, _))| offset < *end);
        Some(run.map_or(State::Settled, |(_, (_, state))| *state))
    }

    /// The pieces of `from..to`, which lies below the floor, in rising order; `None`: no longer known how they ended.
    pub fn pieces(&self, from: u64, to: u64) -> Vec<(u64, u64, Option<State>)> {
        let mut out = Vec::new();
        if from >= to {
            return out;
        }
        let mut at = from.max(self.known_from.min(to));
        if from < at {
            out.push((from, at, None));
        }
        let before = self.runs.range(..at).next_back().filter(|(_, (end, _))| *end > at);
        let behind = self.runs.range(at..).take_while(|(start, _)| **start < to);
        for (start, (end, state)) in before.into_iter().chain(behind) {
            if *start > at {
                out.push((at, *start, Some(State::Settled)));
            }
            out.push(((*start).max(at), (*end).min(to), Some(*state)));
            at = (*end).min(to);
        }
        if at < to {
            out.push((at, to, Some(State::Settled)));
        }
        out
    }

    /// The floor fell to `floor`: what lies above it will end again.
    pub fn cut(&mut self, floor: u64) {
        self.known_from = self.known_from.min(floor);
        let above = self.runs.split_off(&floor);
        self.touched.extend(above.keys().map(|start| start / ENDED_WINDOW));
        if let Some(mut last) = self.runs.last_entry()
            && last.get().0 > floor
        {
            last.get_mut().0 = floor;
            let start = *last.key();
            self.touched.insert(start / ENDED_WINDOW);
        }
    }

    /// What lies below the floor ended in `state` after all.
    pub fn turn(&mut self, from: u64, to: u64, state: State) {
        let from = from.max(self.known_from);
        if from >= to {
            return;
        }
        let before = self.runs.range(..from).next_back().map(|(start, (end, state))| (*start, *end, *state));
        let within = self.runs.range(from..to).map(|(start, (end, state))| (*start, *end, *state));
        let met: Vec<_> = before.filter(|(_, end, _)| *end > from).into_iter().chain(within).collect();
        for (start, end, before) in met {
            self.runs.remove(&start);
            self.touched.insert(start / ENDED_WINDOW);
            if start < from {
                self.put(start, from, before);
            }
            if end > to {
                self.put(to, end, before);
            }
        }
        if state != State::Settled {
            self.put(from, to, state);
        }
    }

    /// How many runs.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// The runs that start in a window.
    pub fn in_window(&self, window: u64) -> impl Iterator<Item = (u64, u64, State)> + '_ {
        let from = window.saturating_mul(ENDED_WINDOW);
        let to = from.saturating_add(ENDED_WINDOW);
        self.runs.range(from..to).map(|(start, (end, state))| (*start, *end, *state))
    }

    /// Windows that hold runs.
    pub fn windows(&self) -> BTreeSet<u64> {
        self.runs.keys().map(|start| start / ENDED_WINDOW).collect()
    }

    /// Windows whose runs changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.touched)
    }

    /// Puts a run that was read back from a row; `false` when no code writes such a run.
    pub fn restore(&mut self, from: u64, to: u64, state: State) -> bool {
        let free = self.runs.last_key_value().is_none_or(|(_, (end, _))| *end <= from);
        let fits = free && from < to && state.is_terminal() && state != State::Settled;
        if fits {
            self.runs.insert(from, (to, state));
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_an_array(ends in prop::collection::vec((1u64..5, 6u8..12), 0..60), cut in 0u64..200, at in 0u64..200,
            turned in (0u64..200, 0u64..20, 6u8..12)) {
            let mut ended = Ended::default();
            let mut model: Vec<State> = Vec::new();
            for (len, state) in ends {
                let state = State::from_u8(state).unwrap();
                let from = model.len() as u64;
                ended.note(from, from + len, state, 20);
                model.extend((0..len).map(|_| state));
            }
            prop_assert!(ended.run_count() <= 20);
            let cut = cut.min(model.len() as u64);
            ended.cut(cut);
            model.truncate(cut as usize);
            let cut = cut.min(model.len() as u64);
            let (from, to) = (turned.0.min(cut), (turned.0 + turned.1).min(cut));
            let state = State::from_u8(turned.2).unwrap();
            ended.turn(from, to, state);
            model[from as usize..to as usize].fill(state);
            for (offset, state) in model.iter().enumerate() {
                let how = ended.how(offset as u64);
                prop_assert!(how == Some(*state) || (how.is_none() && (offset as u64) < ended.known_from), "{offset}");
            }
            let from = at.min(cut);
            let flat: Vec<Option<State>> =
                ended.pieces(from, cut).into_iter().flat_map(|(a, b, how)| (a..b).map(move |_| how)).collect();
            let one_by_one: Vec<Option<State>> = (from..cut).map(|offset| ended.how(offset)).collect();
            prop_assert_eq!(flat, one_by_one);
        }
    }
}
