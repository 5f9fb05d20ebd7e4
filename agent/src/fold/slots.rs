//! Owns which messages of a queue, and which sends of a topic, belong to which minute or hour: where each slot of time began.
//! Minutes of the current and the previous hour, hours before, at most [`SLOTS_MAX`]; slots without traffic cost nothing.
//! Times are the broker's; when its clock is set back, messages count to the slot it had reached.

/// Slots remembered per queue or topic: two hours of minutes, and four days of hours.
pub const SLOTS_MAX: usize = 216;
/// The finest slot.
pub const MINUTE_MS: u64 = 60_000;
/// The slot of what is older.
pub const HOUR_MS: u64 = 3_600_000;

/// The beginning of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Minutes since 1970.
    pub minute: u32,
    /// Of a queue: its first offset. Of a topic: sends stored before it.
    pub first: u64,
    /// Of a queue: its messages that a recovery took. Of a topic: its refused sends.
    pub extra: u64,
}

impl Slot {
    /// When it began, wall ms.
    pub fn start_ms(&self) -> u64 {
        u64::from(self.minute) * MINUTE_MS
    }

    fn hour(&self) -> u32 {
        self.minute / 60
    }
}

/// The slots of one queue or topic, rising.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slots {
    slots: Vec<Slot>,
    /// What is older is not remembered, wall ms.
    pub known_from_ms: u64,
}

impl Slots {
    /// No slots yet; what is older than this is not remembered.
    pub fn known_from(known_from_ms: u64) -> Self {
        Slots { slots: Vec::new(), known_from_ms }
    }

    /// Something of value `first` (and what follows) happened now. Whether a slot began.
    pub fn note(&mut self, wall_ms: u64, first: u64) -> bool {
        let minute = u32::try_from(wall_ms / MINUTE_MS).unwrap_or(u32::MAX);
        let last = self.slots.last().copied();
        if last.is_some_and(|last| last.minute >= minute) {
            return false;
        }
        let first = first.max(last.map_or(0, |last| last.first));
        let slot = Slot { minute, first, extra: 0 };
        if last.is_none() && first > 0 {
            // what came before was not seen
            self.known_from_ms = slot.start_ms();
        }
        if last.is_some_and(|last| last.hour() < slot.hour()) {
            self.coarsen(slot.hour());
        }
        if self.slots.len() >= SLOTS_MAX {
            self.slots.remove(0);
            self.known_from_ms = self.slots.first().map_or(0, Slot::start_ms);
        }
        self.slots.push(slot);
        true
    }

    /// Minutes before the previous hour join the first slot of their hour.
    fn coarsen(&mut self, hour: u32) {
        let mut kept: Vec<Slot> = Vec::with_capacity(self.slots.len());
        for slot in self.slots.drain(..) {
            match kept.last_mut() {
                Some(before) if before.hour() == slot.hour() && slot.hour() + 1 < hour => {
                    before.extra += slot.extra;
                }
                _ => kept.push(slot),
            }
        }
        self.slots = kept;
    }

    /// Adds to the newest slot.
    pub fn add_extra(&mut self, count: u64) {
        if let Some(last) = self.slots.last_mut() {
            last.extra += count;
        }
    }

    /// Recovery took `end..old_max` of a queue.
    pub fn cut(&mut self, end: u64, old_max: u64) {
        let mut next = old_max;
        for slot in self.slots.iter_mut().rev() {
            if next <= end {
                break;
            }
            slot.extra += next - slot.first.max(end).min(next);
            next = slot.first.min(next);
            slot.first = slot.first.min(end);
        }
    }

    /// Values from the first slot in `from_ms..to_ms` to the first after it (`end` when there is none), and the sum of the
    /// extras in between. Both times lie on slots, see [`aligned`].
    pub fn within(&self, from_ms: u64, to_ms: u64, end: u64) -> (u64, u64, u64) {
        let from = self.slots.partition_point(|slot| slot.start_ms() < from_ms);
        let to = self.slots.partition_point(|slot| slot.start_ms() < to_ms);
        let first = |index: usize| self.slots.get(index).map_or(end, |slot| slot.first);
        let extra = self.slots.iter().take(to).skip(from).map(|slot| slot.extra).sum();
        (first(from), first(to), extra)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// Puts a slot that was read back from a row; `false` when it does not rise.
    pub fn restore(&mut self, slot: Slot) -> bool {
        let rises =
            self.slots.last().is_none_or(|last| last.minute < slot.minute && last.first <= slot.first);
        if rises {
            self.slots.push(slot);
        }
        rises && self.slots.len() <= SLOTS_MAX
    }
}

/// The window that is really covered: `from_ms..to_ms` widened to whole minutes near `now_ms`, else to whole hours.
pub fn aligned(from_ms: u64, to_ms: u64, now_ms: u64) -> (u64, u64) {
    let fine_from = (now_ms / HOUR_MS).saturating_sub(1) * HOUR_MS;
    let unit = |edge: u64| if edge >= fine_from { MINUTE_MS } else { HOUR_MS };
    let last = (now_ms / MINUTE_MS + 1) * MINUTE_MS;
    let to_ms = to_ms.min(last);
    (from_ms / unit(from_ms) * unit(from_ms), to_ms.div_ceil(unit(to_ms)) * unit(to_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn minutes_become_hours_and_the_oldest_go() {
        let mut slots = Slots::default();
        let start = 1_000 * HOUR_MS;
        for minute in 0..400 * 60u64 {
            slots.note(start + minute * MINUTE_MS, minute);
        }
        assert!(slots.iter().count() <= SLOTS_MAX);
        let end = 400 * 60;
        let now = start + (end - 1) * MINUTE_MS;
        let (from, to) = aligned(now - 30 * MINUTE_MS, now, now);
        let (a, b, _) = slots.within(from, to, end);
        assert_eq!((a, b), (end - 31, end - 1));
        let (from, to) = aligned(now - 10 * HOUR_MS - 1, now - 9 * HOUR_MS, now);
        assert_eq!((from % HOUR_MS, to % HOUR_MS), (0, 0));
        let (a, b, _) = slots.within(from, to, end);
        assert_eq!(b - a, (to - from) / MINUTE_MS);
        assert!(slots.known_from_ms > start && slots.known_from_ms < now - 90 * HOUR_MS);
    }

    #[test]
    fn what_recovery_took_counts_where_it_was_stored() {
        let mut slots = Slots::default();
        for (minute, first) in [(0, 0), (1, 10), (2, 15)] {
            slots.note(minute * MINUTE_MS, first);
        }
        slots.cut(12, 20);
        assert_eq!(slots.within(MINUTE_MS, 2 * MINUTE_MS, 12), (10, 12, 3));
        assert_eq!(slots.within(2 * MINUTE_MS, 3 * MINUTE_MS, 12), (12, 12, 5));
        slots.note(3 * MINUTE_MS, 12);
        assert_eq!(slots.within(0, 4 * MINUTE_MS, 14), (0, 14, 8));
    }

    proptest! {
        #[test]
        fn whatever_happens_the_slots_rise(ops in prop::collection::vec((0u64..3_000, 0u64..9, 0u64..40), 0..60)) {
            let mut slots = Slots::default();
            let mut max = 0;
            for (minute, count, cut) in ops {
                slots.note(minute * MINUTE_MS, max);
                max += count;
                if cut < 5 && max > cut { let end = max - cut; slots.cut(end, max); max = end; }
            }
            let mut read = Slots::known_from(slots.known_from_ms);
            prop_assert!(slots.iter().all(|slot| read.restore(*slot)));
            prop_assert_eq!(&read, &slots);
            let (a, b, _) = slots.within(0, u64::MAX, max);
            prop_assert!(a <= b && b == max);
        }
    }
}
