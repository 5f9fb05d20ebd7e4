//! Owns a sorted list of disjoint runs in chunks of at most [`CHUNK_RUNS`]: 24 bytes a run and little more, whatever their
//! number, where a tree of single entries needs three times that. Never merges or judges runs; [`super::Marks`] does.

use super::{Mark, State};
use std::collections::VecDeque;

/// Runs of one chunk: moving half of them costs about as much as finding the chunk.
const CHUNK_RUNS: usize = 64;

/// A mark in 8 bytes: from the lowest bit on 4 bits state, 4 bits the state before (0: none), 1 bit "was lost", 13 bits attempt, 42 bits end of the
/// lease. What does not fit (the 8,192nd attempt, a lease beyond the year 2109) becomes the largest value that does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PackedMark(u64);

const ATTEMPT_MAX: u64 = (1 << 13) - 1;
const LEASE_MAX: u64 = (1 << 42) - 1;

impl From<Mark> for PackedMark {
    fn from(mark: Mark) -> Self {
        let attempt = u64::from(mark.attempt).min(ATTEMPT_MAX);
        let lease = mark.lease_until_ms.min(LEASE_MAX);
        let before = mark.before.map_or(0, |state| state as u64);
        PackedMark(
            mark.state as u64 | before << 4 | u64::from(mark.was_lost) << 8 | attempt << 9 | lease << 22,
        )
    }
}

impl From<PackedMark> for Mark {
    fn from(PackedMark(bits): PackedMark) -> Self {
        Mark {
            state: State::from_u8((bits & 0xF) as u8).expect("only states are packed"),
            before: State::from_u8((bits >> 4 & 0xF) as u8),
            was_lost: bits >> 8 & 1 == 1,
            attempt: (bits >> 9 & ATTEMPT_MAX) as u32,
            lease_until_ms: bits >> 22,
        }
    }
}

/// Offsets `from..end` with one mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) from: u64,
    pub(super) end: u64,
    pub(super) mark: PackedMark,
}

/// Where a run is, or would be. Valid until the next change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    chunk: usize,
    index: usize,
}

/// Runs in rising order. No chunk is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    chunks: VecDeque<Vec<Run>>,
    len: usize,
}

impl PartialEq for Runs {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Runs {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.chunks.iter().flatten()
    }

    pub(super) fn first(&self) -> Option<&Run> {
        self.chunks.front().and_then(|chunk| chunk.first())
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut Run> {
        self.chunks.front_mut().and_then(|chunk| chunk.first_mut())
    }

    pub(super) fn last(&self) -> Option<&Run> {
        self.chunks.back().and_then(|chunk| chunk.last())
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Run> {
        self.chunks.back_mut().and_then(|chunk| chunk.last_mut())
    }

    /// The first run for which `is_before` does not hold; it must hold for none behind it.
    pub(super) fn find(&self, is_before: impl Fn(&Run) -> bool) -> Place {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(&is_before));
        let index = self.chunks.get(chunk).map_or(0, |chunk| chunk.partition_point(&is_before));
        Place { chunk, index }
    }

    /// The runs from a place on.
    pub(super) fn iter_at(&self, place: Place) -> impl Iterator<Item = &Run> {
        let rest =
            self.chunks.get(place.chunk).and_then(|chunk| chunk.get(place.index..)).unwrap_or_default();
        let behind = (place.chunk + 1).min(self.chunks.len());
        rest.iter().chain(self.chunks.range(behind..).flatten())
    }

    /// Adds a run behind all others.
    pub(super) fn push(&mut self, run: Run) {
        debug_assert!(self.last().is_none_or(|last| last.end <= run.from), "runs stay in order");
        self.len += 1;
        match self.chunks.back_mut() {
            // a full chunk stays full: what grows at its end is as dense as can be
            Some(chunk) if chunk.len() < CHUNK_RUNS => chunk.push(run),
            _ => self.chunks.push_back(vec![run]),
        }
    }

    pub(super) fn remove_first(&mut self) {
        let Some(chunk) = self.chunks.front_mut() else { return };
        chunk.remove(0);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
    }

    /// Puts `new` in the place of the `count` runs from `place` on.
    pub(super) fn replace(&mut self, place: Place, count: usize, new: &[Run]) {
        self.len = self.len - count + new.len();
        let Some(chunk) = self.chunks.get_mut(place.chunk) else {
            debug_assert_eq!(count, 0, "behind the last run is none");
            self.chunks.extend(new.chunks(CHUNK_RUNS).map(<[Run]>::to_vec));
            return;
        };
        let here = count.min(chunk.len() - place.index);
        chunk.splice(place.index..place.index + here, new.iter().copied());
        let mut left = count - here;
        while left > 0 {
            let next = &mut self.chunks[place.chunk + 1];
            let taken = left.min(next.len());
            next.drain(..taken);
            left -= taken;
            if next.is_empty() {
                self.chunks.remove(place.chunk + 1);
            }
        }
        self.even_out(place.chunk);
    }

    /// A chunk that has become empty goes; one that has become too long is cut.
    fn even_out(&mut self, index: usize) {
        let chunk = &mut self.chunks[index];
        if chunk.is_empty() {
            self.chunks.remove(index);
        } else if chunk.len() > CHUNK_RUNS {
            let pieces = chunk.len().div_ceil(CHUNK_RUNS);
            let piece_len = chunk.len().div_ceil(pieces);
            let mut cut: Vec<Vec<Run>> = chunk.chunks(piece_len).map(<[Run]>::to_vec).collect();
            self.chunks[index] = cut.remove(0);
            for (n, piece) in cut.into_iter().enumerate() {
                self.chunks.insert(index + 1 + n, piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_keeps_what_fits(
            (state, before, was_lost, attempt, lease) in (1u8..12, 0u8..12, any::<bool>(), any::<u32>(), any::<u64>()),
        ) {
            let (state, before) = (State::from_u8(state).unwrap(), State::from_u8(before));
            let mark = Mark { state, was_lost, attempt, lease_until_ms: lease, before };
            let attempt = attempt.min(8_191);
            let lease_until_ms = lease.min((1 << 42) - 1);
            prop_assert_eq!(Mark::from(PackedMark::from(mark)), Mark { attempt, lease_until_ms, ..mark });
        }

        #[test]
        fn replaces_like_a_vector(ops in prop::collection::vec((any::<prop::sample::Index>(), 0usize..90, 0usize..200), 1..30)) {
            let mut runs = Runs::default();
            let mut model: Vec<Run> = Vec::new();
            for (n, (at, count, new)) in ops.into_iter().enumerate() {
                let at = at.index(model.len() + 1);
                let count = count.min(model.len() - at);
                let mark = Mark { attempt: n as u32, ..Mark::of(State::Delivered) }.into();
                let new: Vec<Run> = (0..new).map(|_| Run { from: 0, end: 0, mark }).collect();
                model.splice(at..at + count, new.iter().copied());
                let mut seen = 0;
                let place = place_of(&runs, at);
                runs.replace(place, count, &new);
                for run in runs.iter() {
                    prop_assert_eq!(run.mark, model[seen].mark);
                    seen += 1;
                }
                prop_assert_eq!(seen, model.len());
                prop_assert_eq!(runs.len(), model.len());
                prop_assert!(runs.chunks.iter().all(|chunk| (1..=CHUNK_RUNS).contains(&chunk.len())));
            }
        }
    }

    fn place_of(runs: &Runs, mut at: usize) -> Place {
        for (chunk, held) in runs.chunks.iter().enumerate() {
            if at < held.len() {
                return Place { chunk, index: at };
            }
            at -= held.len();
        }
        Place { chunk: runs.chunks.len(), index: 0 }
    }
}
