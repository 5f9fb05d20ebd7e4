//! Owns sets of queue offsets as sorted, disjoint, non-touching half-open ranges: the shape in which things happen to
//! messages. Never owns what the offsets mean.

/// Sorted, disjoint half-open ranges; one range costs no allocation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges {
    runs: Runs,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Runs {
    #[default]
    None,
    One(u64, u64),
    Many(Vec<(u64, u64)>),
}

impl Ranges {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The offsets `from..to`; empty when `from >= to`.
    pub fn of(from: u64, to: u64) -> Self {
        Ranges { runs: if from < to { Runs::One(from, to) } else { Runs::None } }
    }

    /// The ranges in rising order.
    pub fn as_slice(&self) -> RangeSlice<'_> {
        match &self.runs {
            Runs::None => RangeSlice { one: None, many: &[] },
            Runs::One(from, to) => RangeSlice { one: Some((*from, *to)), many: &[] },
            Runs::Many(runs) => RangeSlice { one: None, many: runs },
        }
    }

    /// The ranges in rising order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let slice = self.as_slice();
        slice.one.into_iter().chain(slice.many.iter().copied())
    }

    /// How many ranges.
    pub fn run_count(&self) -> usize {
        match &self.runs {
            Runs::None => 0,
            Runs::One(..) => 1,
            Runs::Many(runs) => runs.len(),
        }
    }

    /// How many offsets.
    pub fn len(&self) -> u64 {
        self.iter().map(|(from, to)| to - from).sum()
    }

    /// Whether no offset is in it.
    pub fn is_empty(&self) -> bool {
        self.run_count() == 0
    }

    /// The lowest offset.
    pub fn first(&self) -> Option<u64> {
        self.iter().next().map(|(from, _)| from)
    }

    /// One past the highest offset.
    pub fn end(&self) -> Option<u64> {
        match &self.runs {
            Runs::None => None,
            Runs::One(_, to) => Some(*to),
            Runs::Many(runs) => runs.last().map(|(_, to)| *to),
        }
    }

    /// Whether `offset` is in the set.
    pub fn contains(&self, offset: u64) -> bool {
        match &self.runs {
            Runs::None => false,
            Runs::One(from, to) => (*from..*to).contains(&offset),
            Runs::Many(runs) => {
                let index = runs.partition_point(|(from, _)| *from <= offset);
                index.checked_sub(1).and_then(|i| runs.get(i)).is_some_and(|(_, to)| offset < *to)
            }
        }
    }

    /// Adds `from..to`. Appending at or after the end costs O(1); elsewhere O(number of ranges).
    pub fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        match &mut self.runs {
            Runs::None => self.runs = Runs::One(from, to),
            Runs::One(a, b) if from <= *b && to >= *a => {
                *a = (*a).min(from);
                *b = (*b).max(to);
            }
            Runs::One(a, b) => {
                let old = (*a, *b);
                let new = (from, to);
                self.runs = Runs::Many(if old < new { vec![old, new] } else { vec![new, old] });
            }
            Runs::Many(runs) => insert_into(runs, from, to),
        }
        self.simplify();
    }

    /// Adds every offset of `other`.
    pub fn union(&mut self, other: &Ranges) {
        for (from, to) in other.iter() {
            self.insert(from, to);
        }
    }

    /// Takes `from..to` away.
    pub fn remove(&mut self, from: u64, to: u64) {
        if from >= to || self.is_empty() {
            return;
        }
        let kept: Vec<(u64, u64)> = match &self.runs {
            Runs::None => return,
            Runs::One(a, b) if to <= *a || from >= *b => return,
            Runs::One(a, b) => {
                [(*a, from.min(*b)), (to.max(*a), *b)].into_iter().filter(|(x, y)| x < y).collect()
            }
            Runs::Many(runs) => {
                let lo = runs.partition_point(|(_, end)| *end <= from);
                let hi = runs.partition_point(|(start, _)| *start < to);
                if lo >= hi {
                    return;
                }
                let mut kept: Vec<(u64, u64)> = runs.iter().take(lo).copied().collect();
                for (a, b) in runs.iter().skip(lo).take(hi - lo) {
                    kept.extend([(*a, from.min(*b)), (to.max(*a), *b)].into_iter().filter(|(x, y)| x < y));
                }
                kept.extend(runs.iter().skip(hi).copied());
                kept
            }
        };
        self.runs = Runs::Many(kept);
        self.simplify();
    }

    /// Takes every offset of `other` away.
    pub fn subtract(&mut self, other: &Ranges) {
        for (from, to) in other.iter() {
            self.remove(from, to);
        }
    }

    /// Keeps only offsets at or above `floor`.
    pub fn keep_from(&mut self, floor: u64) {
        self.remove(0, floor);
    }

    /// The offsets of `from..to` that are in the set.
    pub fn within(&self, from: u64, to: u64) -> Ranges {
        let mut out = Ranges::new();
        for (a, b) in self.overlapping(from, to) {
            out.insert(a.max(from), b.min(to));
        }
        out
    }

    /// The offsets of `from..to` that are *not* in the set.
    pub fn missing(&self, from: u64, to: u64) -> Ranges {
        let mut out = Ranges::new();
        let mut at = from;
        for (a, b) in self.overlapping(from, to) {
            out.insert(at, a.max(from));
            at = at.max(b);
        }
        out.insert(at, to.max(at));
        out
    }

    /// The first run of `from..to` that is *not* in the set; the beginning of [`Self::missing`], without building it.
    pub fn first_missing(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let mut at = from;
        for (a, b) in self.overlapping(from, to) {
            if a > at {
                return Some((at, a));
            }
            at = b;
        }
        (at < to).then_some((at, to))
    }

    /// Whether every offset of `from..to` is in the set.
    pub fn covers(&self, from: u64, to: u64) -> bool {
        from >= to || self.overlapping(from, to).next().is_some_and(|(a, b)| a <= from && b >= to)
    }

    fn overlapping(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let slice = self.as_slice();
        let start = slice.many.partition_point(|(_, end)| *end <= from);
        slice
            .one
            .into_iter()
            .filter(move |(_, b)| *b > from)
            .chain(slice.many.iter().skip(start).copied())
            .take_while(move |(a, _)| *a < to)
    }

    fn simplify(&mut self) {
        if let Runs::Many(runs) = &self.runs {
            match runs.as_slice() {
                [] => self.runs = Runs::None,
                [(from, to)] => self.runs = Runs::One(*from, *to),
                _ => {}
            }
        }
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(iter: I) -> Self {
        let mut out = Ranges::new();
        for (from, to) in iter {
            out.insert(from, to);
        }
        out
    }
}

/// A borrowed look at the ranges, without allocation for the single one.
#[derive(Clone, Copy, Debug)]
pub struct RangeSlice<'a> {
    one: Option<(u64, u64)>,
    many: &'a [(u64, u64)],
}

fn insert_into(runs: &mut Vec<(u64, u64)>, from: u64, to: u64) {
    if let Some((a, b)) = runs.last_mut() {
        if from > *b {
            runs.push((from, to));
            return;
        }
        if from >= *a {
            *b = (*b).max(to);
            return;
        }
    }
    // ranges that touch or overlap [from, to) are replaced by their union
    let lo = runs.partition_point(|(_, end)| *end < from);
    let hi = runs.partition_point(|(start, _)| *start <= to);
    let merged =
        runs.get(lo..hi).unwrap_or(&[]).iter().fold((from, to), |(x, y), (a, b)| (x.min(*a), y.max(*b)));
    runs.splice(lo..hi.max(lo), [merged]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn members(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flat_map(|(a, b)| a..b).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(ops in prop::collection::vec((0u8..3, 0u64..60, 0u64..12), 0..60), from in 0u64..60, len in 0u64..30) {
            let mut ranges = Ranges::new();
            let mut model = BTreeSet::new();
            for (op, start, count) in ops {
                if op == 0 {
                    ranges.remove(start, start + count);
                    for x in start..start + count { model.remove(&x); }
                } else {
                    ranges.insert(start, start + count);
                    model.extend(start..start + count);
                }
                let runs: Vec<_> = ranges.iter().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].1 < w[1].0), "sorted and never touching: {runs:?}");
                prop_assert!(runs.iter().all(|(a, b)| a < b));
            }
            prop_assert_eq!(members(&ranges), model.clone());
            prop_assert_eq!(ranges.len(), model.len() as u64);
            let to = from + len;
            let inside: BTreeSet<u64> = model.range(from..to).copied().collect();
            prop_assert_eq!(members(&ranges.within(from, to)), inside.clone());
            let outside: BTreeSet<u64> = (from..to).filter(|x| !inside.contains(x)).collect();
            prop_assert_eq!(ranges.covers(from, to), outside.is_empty());
            prop_assert_eq!(members(&ranges.missing(from, to)), outside);
            for x in 0..80 { prop_assert_eq!(ranges.contains(x), model.contains(&x)); }
        }
    }
}
