//! Which messages stood at damaged places: the consume queues still say where each one begins. Looks at a bounded number of queues
//! in a turn; a queue whose entries are damaged themselves names nothing.

use crate::core::Core;
use lifecycle::fact::Scrubbed;
use lifecycle::identity::{LINEAGE_LEN, LogPosition, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;
use store::commit_log::HEADER_LEN;
use store::commit_log::readback::Damage;
use store::consume_queue::Unit;
use store::error::StoreError;

/// Queues looked at in one turn: each costs a binary search over its entries.
const QUEUES_PER_TURN: usize = 512;
/// Entries read at once.
const UNITS_AT_ONCE: u64 = 256;
/// No record is shorter: our header, and a RocketMQ record without topic, body and properties.
const RECORD_BYTES_MIN: u64 = HEADER_LEN as u64 + 80;

/// See the module text.
#[derive(Default)]
pub(super) struct Naming {
    /// In the order of the log, each with the bytes of it that are news.
    damages: Vec<(Damage, Ranges)>,
    pub(super) queues: Vec<QueueKey>,
    bad: BTreeMap<QueueKey, Ranges>,
    /// First byte and end of the records that have a name.
    records: BTreeMap<u64, u64>,
}

impl Naming {
    pub(super) fn add(&mut self, damage: Damage, new: Ranges) {
        self.damages.push((damage, new));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.damages.is_empty()
    }

    /// Where the first damaged place begins.
    pub(super) fn first(&self) -> Option<LogPosition> {
        self.damages.first().map(|(damage, _)| damage.from)
    }

    /// From the first damaged place to the end of the last one.
    pub(super) fn reach(&self) -> Option<(LogPosition, LogPosition)> {
        let (first, last) = (self.damages.first()?, self.damages.last()?);
        Some((first.0.from, last.0.to))
    }

    /// Looks at some more queues; whether that were the last.
    pub(super) fn go_on(&mut self, core: &mut Core) -> bool {
        let left = self.queues.len().saturating_sub(QUEUES_PER_TURN);
        for queue in self.queues.split_off(left) {
            if let Err(error) = self.look_into(core, queue) {
                tracing::warn!(%error, "a consume queue cannot say what stood at damaged places of the log");
                if error.is_fatal() {
                    core.stop(error);
                }
            }
        }
        self.queues.is_empty()
    }

    fn look_into(&mut self, core: &mut Core, queue: QueueKey) -> Result<(), StoreError> {
        let Some((LogPosition(from), LogPosition(to))) = self.reach() else { return Ok(()) };
        let index = core.queue_index(queue)?;
        let end = core.queues.max_offset(index);
        let mut offset = core.queues.first_at_or_above(index, from)?;
        let mut units = Vec::new();
        while offset < end {
            units.clear();
            core.queues.read(index, offset, UNITS_AT_ONCE, &mut units)?;
            if units.is_empty() {
                return Ok(());
            }
            for unit in &units {
                if unit.commitlog_offset >= to {
                    return Ok(());
                }
                self.look_at(queue, offset, unit);
                offset += 1;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, queue: QueueKey, offset: u64, unit: &Unit) {
        let header = HEADER_LEN as u64;
        let (from, to) = (unit.commitlog_offset.saturating_sub(header), unit.commitlog_offset);
        let to = to.saturating_add(u64::from(unit.size));
        let at = self.damages.partition_point(|(damage, _)| damage.to.0 <= from);
        let Some((damage, new)) = self.damages.get(at) else { return };
        // a place of a record that recovery has named already stands for no bytes
        let is_whole = unit.size > 1 && damage.from.0 <= from && to <= damage.to.0;
        if is_whole && new.contains(from) {
            self.bad.entry(queue).or_default().insert(offset, offset + 1);
        }
        if is_whole {
            self.records.insert(from, to.saturating_add(LINEAGE_LEN as u64).min(damage.to.0));
        }
    }

    /// What there is to say.
    pub(super) fn found(self, segment_bytes: u64) -> Scrubbed {
        let mut named = Ranges::new();
        self.records.iter().for_each(|(from, to)| named.insert(*from, *to));
        let (mut damaged, mut unnamed_max) = (Ranges::new(), 0);
        for (damage, new) in &self.damages {
            damaged.union(new);
            let mut rest = new.clone();
            rest.subtract(&named);
            let may_hold = |(from, to): &(u64, u64)| {
                // a segment's end where the next record, which is known, had no room
                let next = self.records.get(to).map_or(0, |end| end - to);
                let is_padding = damage.is_padding || (to.is_multiple_of(segment_bytes) && next > to - from);
                !is_padding
            };
            let pieces = rest.iter().filter(may_hold);
            unnamed_max += pieces.map(|(from, to)| (to - from) / RECORD_BYTES_MIN).sum::<u64>();
        }
        Scrubbed { damaged, bad: self.bad.into_iter().collect(), unnamed_max, ..Scrubbed::default() }
    }
}
