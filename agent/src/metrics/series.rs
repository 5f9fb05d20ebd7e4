//! Owns which label values of one metric family get series of their own. The first ones do, in the order in which they come;
//! later ones share [`OTHER`](super::OTHER) for good, so that a counter never moves from one series to another.

use super::OTHER;
use std::collections::{BTreeMap, BTreeSet};

/// A label value, or a pair of them.
type Key = (String, String);

/// The admitted label values of one family.
pub(super) struct Series {
    limit: usize,
    admitted: BTreeSet<Key>,
    /// Values that came too late; counted, and kept up to the same limit so that none is counted twice.
    refused: BTreeSet<Key>,
    dropped: u64,
}

impl Series {
    pub(super) fn new(limit: usize) -> Self {
        Series { limit, admitted: BTreeSet::new(), refused: BTreeSet::new(), dropped: 0 }
    }

    /// Whether these label values have a series of their own, now and from now on.
    pub(super) fn admits(&mut self, first: &str, second: &str) -> bool {
        let key = (first.to_owned(), second.to_owned());
        if self.admitted.contains(&key) {
            return true;
        }
        if self.admitted.len() < self.limit {
            self.admitted.insert(key);
            return true;
        }
        if !self.refused.contains(&key) {
            // Beyond twice the limit a value may be counted again: the counter then says "more than".
            if self.refused.len() < self.limit {
                self.refused.insert(key);
            }
            self.dropped += 1;
        }
        false
    }

    /// Adds up rows by the series they belong to. Every admitted series is in the answer, with 0 when no row names it.
    pub(super) fn sums<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a str, &'a str, u64)>,
    ) -> BTreeMap<Key, u64> {
        let mut other: Option<u64> = None;
        let mut own: BTreeMap<Key, u64> = BTreeMap::new();
        for (first, second, value) in rows {
            if self.admits(first, second) {
                let sum = own.entry((first.to_owned(), second.to_owned())).or_default();
                *sum = sum.saturating_add(value);
            } else {
                other = Some(other.unwrap_or(0).saturating_add(value));
            }
        }
        for key in &self.admitted {
            if !own.contains_key(key) {
                own.insert(key.clone(), 0);
            }
        }
        if let Some(sum) = other {
            own.insert((OTHER.to_owned(), OTHER.to_owned()), sum);
        }
        own
    }

    /// How many label values found no room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
