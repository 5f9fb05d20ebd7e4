//! Owns which stores hold copies of one log, and from where on two such copies went different ways: by comparing records at the
//! same positions, byte for byte the same on a master, its replicas and every snapshot.

use crate::scan::{MarkAt, mark_at};
use crate::store::Store;
use crate::window::Window;
use std::collections::BTreeMap;

/// By (store, store): the first position at which both hold a record and not the same; `None` for copies that agree.
#[derive(Debug, Default)]
pub struct Lineages {
    apart: BTreeMap<(u8, u8), Option<u64>>,
}

impl Lineages {
    /// Compares all stores with each other, and numbers their lineages.
    pub fn find(stores: &mut [Store]) -> Lineages {
        let mut lineages = Lineages::default();
        for left in 0..stores.len() {
            for right in left + 1..stores.len() {
                let (Some(a), Some(b)) = (stores.get(left), stores.get(right)) else { continue };
                let Some(apart) = compare(a, b) else { continue };
                lineages.apart.insert((a.index, b.index), apart);
                lineages.apart.insert((b.index, a.index), apart);
                let (from, to) = (b.lineage.max(a.lineage), b.lineage.min(a.lineage));
                stores.iter_mut().filter(|store| store.lineage == from).for_each(|store| store.lineage = to);
            }
        }
        lineages
    }

    /// Whether two stores were seen to hold the same records.
    pub fn are_copies(&self, a: u8, b: u8) -> bool {
        self.apart.contains_key(&(a, b))
    }

    /// Where two copies went different ways, if they did.
    pub fn apart_at(&self, a: u8, b: u8) -> Option<u64> {
        self.apart.get(&(a, b)).copied().flatten()
    }
}

/// `None` unless some record is the same in both.
fn compare(a: &Store, b: &Store) -> Option<Option<u64>> {
    let common = a.summary.min.max(b.summary.min)..a.summary.end.min(b.summary.end);
    let mut window = Window::small();
    let mut last_same = None;
    // the marks of both, so that a log that was cut short is asked as often as a whole one
    let mut marks: Vec<(u64, u64, bool)> =
        a.summary.marks.iter().map(|(at, mark)| (*at, *mark, true)).collect();
    marks.extend(b.summary.marks.iter().map(|(at, mark)| (*at, *mark, false)));
    marks.sort_unstable();
    for (at, mark, is_a) in marks.into_iter().filter(|(at, ..)| common.contains(at)) {
        let other = if is_a { &b.log } else { &a.log };
        match mark_at(other, &mut window, at) {
            Ok(MarkAt::Record { mark: found, .. }) if found == mark => {
                last_same = Some(at);
            }
            _ => {}
        }
    }
    let last_same = last_same?;
    Some(walk_apart(a, b, last_same, common.end))
}

/// Walks both logs from a record they share to the first one they do not.
fn walk_apart(a: &Store, b: &Store, from: u64, end: u64) -> Option<u64> {
    let (mut left, mut right) = (Window::small(), Window::small());
    let mut at = from;
    while at < end {
        let pair = (mark_at(&a.log, &mut left, at).ok()?, mark_at(&b.log, &mut right, at).ok()?);
        match pair {
            (MarkAt::Record { mark, next }, MarkAt::Record { mark: other, next: other_next }) => {
                if mark != other {
                    return Some(at);
                }
                at = next.min(other_next);
            }
            (MarkAt::NextFile(next), MarkAt::NextFile(other)) if next == other && next > at => at = next,
            // one of them filled up its file where the other wrote on
            (MarkAt::NextFile(_), MarkAt::Record { .. }) | (MarkAt::Record { .. }, MarkAt::NextFile(_)) => {
                return Some(at);
            }
            _ => return None,
        }
    }
    None
}
