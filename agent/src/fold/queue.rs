//! Owns the store side of one queue: which offsets exist, which epoch owns which, what was truncated, and roughly when each
//! offset was stored. Never knows groups, except the names of those that owe the queue.

use crate::fold::slots::Slots;
use lifecycle::identity::Name;
use lifecycle::ranges::Ranges;

/// Epochs remembered per queue; older ones merge into the oldest.
pub const EPOCHS_PER_QUEUE_MAX: usize = 16;
/// Truncations remembered per queue, newest first to stay.
pub const TRUNCATIONS_PER_QUEUE_MAX: usize = 16;
/// Times of storage remembered per queue; the older the coarser.
pub const TIME_MARKS_MAX: usize = 8;
/// Least distance of two time marks, in milliseconds.
const TIME_MARK_STEP_MS: u64 = 1_000;

/// An end of the queue that recovery pulled back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncation {
    /// The epoch whose messages were taken.
    pub epoch: u64,
    /// The recovered end.
    pub end: u64,
    /// The end before, at most: messages without a name may have had offsets up to here.
    pub old_max: u64,
}

/// One queue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Lowest offset that exists.
    pub min: u64,
    /// One past the highest.
    pub max: u64,
    /// Stored since the evidence began.
    pub stored: u64,
    /// Gone after recoveries.
    pub lost: u64,
    /// Deleted by retention.
    pub expired: u64,
    /// Below this offset deliveries may have happened that no frame told us of.
    pub untrusted_below: u64,
    /// A group's position was left above the end: what is stored below it now will never be delivered to that group.
    pub reuse_watch: bool,
    /// (first offset, epoch), rising.
    pub epochs: Vec<(u64, u64)>,
    /// What recoveries cut.
    pub truncations: Vec<Truncation>,
    /// Records in the middle that did not survive.
    pub bad: Ranges,
    /// (offset, wall ms of its storage), rising.
    pub times: Vec<(u64, u64)>,
    /// Which offset each slot of time began with. In a row of their own.
    pub slots: Slots,
    /// Groups that owe it. Derived, never in a row.
    pub owners: Vec<Name>,
    /// Whether its row is out of date.
    pub dirty: bool,
}

impl Queue {
    /// Appends `from..to`; returns how many of them are new, and how many before them were stored without our hearing of it.
    pub fn extend(&mut self, from: u64, to: u64, epoch: u64) -> (u64, u64) {
        if self.epochs.is_empty() && self.max == 0 {
            self.min = from;
            self.max = from;
        }
        let hidden = from.saturating_sub(self.max);
        if hidden > 0 {
            self.untrusted_below = self.untrusted_below.max(from);
        }
        if self.epochs.last().is_none_or(|(_, last)| *last != epoch) {
            self.epochs.push((self.max.min(from), epoch));
            if self.epochs.len() > EPOCHS_PER_QUEUE_MAX {
                self.epochs.remove(1);
            }
        }
        let new = to.saturating_sub(from.max(self.max));
        self.max = self.max.max(to);
        self.stored += hidden + new;
        (new, hidden)
    }

    /// Notes when `offset` was stored.
    pub fn note_time(&mut self, offset: u64, wall_ms: u64) {
        if let Some((_, last)) = self.times.last()
            && wall_ms < last.saturating_add(TIME_MARK_STEP_MS)
        {
            return;
        }
        if self.times.len() >= TIME_MARKS_MAX {
            // the second oldest goes: the oldest stays a lower bound, young marks stay fine
            let coarsest = self.coarsest_mark();
            self.times.remove(coarsest);
        }
        self.times.push((offset, wall_ms));
    }

    /// The mark whose removal opens the smallest hole relative to its age.
    fn coarsest_mark(&self) -> usize {
        let newest = self.times.last().map_or(0, |(_, wall)| *wall);
        let cost = |w: &[(u64, u64)]| match w {
            [before, middle, after] => {
                let hole = after.1.saturating_sub(before.1);
                let age = newest.saturating_sub(middle.1).max(1);
                hole.saturating_mul(1_000) / age
            }
            _ => u64::MAX,
        };
        let best = self.times.windows(3).enumerate().min_by_key(|(index, w)| (cost(w), *index));
        best.map_or(1, |(index, _)| index + 1)
    }

    /// When `offset` was stored, at the earliest.
    pub fn stored_wall_ms(&self, offset: u64) -> Option<u64> {
        let index = self.times.partition_point(|(at, _)| *at <= offset);
        self.times.get(index.checked_sub(1)?).map(|(_, wall)| *wall)
    }

    /// The offset below which everything was surely stored before `wall_ms`.
    pub fn stored_before_wall_ms(&self, wall_ms: u64) -> u64 {
        let index = self.times.partition_point(|(_, wall)| *wall < wall_ms);
        let Some((offset, wall)) = index.checked_sub(1).and_then(|last| self.times.get(last)) else {
            return 0;
        };
        // no younger mark: what came a step later than the last one would have made one
        let all = index == self.times.len() && wall.saturating_add(TIME_MARK_STEP_MS) <= wall_ms;
        if all { self.max } else { offset.saturating_add(1) }
    }

    /// The epoch that stored `offset`; 0: before the evidence began.
    pub fn epoch_of(&self, offset: u64) -> u64 {
        let index = self.epochs.partition_point(|(from, _)| *from <= offset);
        index.checked_sub(1).and_then(|i| self.epochs.get(i)).map_or(0, |(_, epoch)| *epoch)
    }

    /// `from..to` cut at the borders of epochs.
    pub fn by_epoch(&self, from: u64, to: u64) -> Vec<(u64, u64, u64)> {
        let mut out = Vec::new();
        let mut at = from;
        while at < to {
            let next =
                self.epochs.iter().map(|(start, _)| *start).find(|start| *start > at).unwrap_or(u64::MAX);
            out.push((at, next.min(to), self.epoch_of(at)));
            at = next.min(to);
        }
        out
    }

    /// Recovery found the queue to be `min..end`, and up to `unnamed` more may be gone without a name; returns the offsets
    /// that are gone.
    pub fn recover(&mut self, min: u64, end: u64, closed_epoch: u64, unnamed: u64) -> (u64, u64) {
        let old_max = self.max;
        if end < old_max || unnamed > 0 {
            let reach = old_max.max(end).saturating_add(unnamed);
            self.truncations.push(Truncation { epoch: closed_epoch, end, old_max: reach });
            if self.truncations.len() > TRUNCATIONS_PER_QUEUE_MAX {
                // what the oldest may have taken is not forgotten, only by which epoch
                let oldest = self.truncations.remove(0);
                if let Some(next) = self.truncations.first_mut() {
                    (next.end, next.old_max) = (next.end.min(oldest.end), next.old_max.max(oldest.old_max));
                }
            }
        }
        if end > old_max {
            // the log kept messages whose frames nobody will ever read
            self.stored += end - old_max;
            self.untrusted_below = self.untrusted_below.max(end);
            self.max = end;
            return (end, end);
        }
        if end < old_max {
            self.max = end;
            self.lost += self.bad.missing(end.max(self.min), old_max).len();
            self.min = self.min.min(end);
            self.untrusted_below = self.untrusted_below.min(end);
            self.times.retain(|(offset, _)| *offset < end);
            self.slots.cut(end, old_max);
            self.epochs.retain(|(offset, _)| *offset < end || *offset == 0);
            self.bad.remove(end, u64::MAX);
        }
        self.min = self.min.max(min.min(end));
        (end, old_max)
    }

    /// Retention deleted everything below `to`; returns how many that were.
    pub fn expire(&mut self, to: u64) -> u64 {
        let to = to.min(self.max);
        let gone = to.saturating_sub(self.min);
        if gone == 0 {
            return 0;
        }
        self.min = self.min.max(to);
        self.expired += gone;
        let keep_from = self.times.partition_point(|(offset, _)| *offset <= self.min).saturating_sub(1);
        self.times.drain(..keep_from);
        let keep_from = self.epochs.partition_point(|(offset, _)| *offset <= self.min).saturating_sub(1);
        self.epochs.drain(..keep_from);
        gone
    }

    /// Whether an answer naming `offset` proves storage: not when an earlier epoch may have used it.
    pub fn proves(&self, offset: u64) -> bool {
        offset < self.max && self.taken_at(offset).is_none()
    }

    /// The newest recovery that can have taken a message at `offset`.
    pub fn taken_at(&self, offset: u64) -> Option<&Truncation> {
        self.truncations.iter().rev().find(|cut| (cut.end..cut.old_max).contains(&offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_belongs_to_the_epoch_that_stored_it_last() {
        let mut queue = Queue::default();
        assert_eq!(queue.extend(0, 10, 1), (10, 0));
        assert_eq!(queue.recover(0, 6, 1, 0), (6, 10));
        assert_eq!(queue.extend(6, 8, 2), (2, 0));
        assert_eq!((queue.epoch_of(5), queue.epoch_of(6), queue.epoch_of(7)), (1, 2, 2));
        assert_eq!(queue.by_epoch(4, 8), vec![(4, 6, 1), (6, 8, 2)]);
        assert!(queue.proves(5) && !queue.proves(6), "6 was used twice");
        assert_eq!((queue.stored, queue.lost, queue.max), (12, 4, 8));
    }

    #[test]
    fn no_power_cut_is_forgotten_however_many_there_were() {
        let mut queue = Queue::default();
        for cut in 0..3 * TRUNCATIONS_PER_QUEUE_MAX as u64 {
            queue.extend(cut * 100, cut * 100 + 50, cut + 1);
            // the agent had heard all of it, and five more may have been stored unheard
            queue.recover(0, cut * 100 + 50, cut + 1, 5);
        }
        assert!(queue.truncations.len() <= TRUNCATIONS_PER_QUEUE_MAX);
        queue.extend(queue.max, 100_000, 1_000);
        for cut in 0..3 * TRUNCATIONS_PER_QUEUE_MAX as u64 {
            assert!(!queue.proves(cut * 100 + 52), "cut {cut}");
        }
        assert!(queue.proves(99_999));
    }

    #[test]
    fn times_are_lower_bounds_however_many_there_were() {
        let mut queue = Queue::default();
        queue.extend(0, 10_000, 1);
        for n in 0..10_000u64 {
            queue.note_time(n, 5_000 + n * 700);
        }
        assert!(queue.times.len() <= TIME_MARKS_MAX);
        for n in [0u64, 17, 4_000, 9_999] {
            let at = queue.stored_wall_ms(n).unwrap();
            assert!(at <= 5_000 + n * 700);
        }
        assert!(
            queue.stored_wall_ms(9_999).unwrap() + 1_400 * 2 >= 5_000 + 9_999 * 700,
            "the newest is fine"
        );
        queue.expire(9_000);
        assert!(queue.times.first().unwrap().0 <= 9_000);
    }

    #[test]
    fn offsets_that_appear_unannounced_are_not_trusted() {
        let mut queue = Queue::default();
        queue.extend(0, 10, 1);
        assert_eq!(queue.extend(15, 16, 1), (1, 5));
        assert_eq!((queue.stored, queue.untrusted_below), (16, 15));
        assert_eq!(queue.extend(14, 16, 1), (0, 0), "told twice, counted once");
    }
}
