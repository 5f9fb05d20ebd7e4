//! Owns the bytes of the pieces of a row: varints and length-prefixed texts, in a fixed order. Reading arbitrary bytes
//! fails, never panics.

use super::RowError;
use crate::fold::broker::{Gap, Run, Totals, UnnamedWindow};
use crate::fold::class::Class;
use crate::fold::dead_letters::{DeadLetter, Outcome};
use crate::fold::group::{GroupBooks, Member};
use crate::fold::group_queue::reread::Passed;
use crate::fold::group_queue::{Counts, GroupQueue};
use crate::fold::marks::{Mark, State};
use crate::fold::queue::{Queue, Truncation};
use crate::fold::slots::{Slot, Slots};
use crate::fold::timers::Timer;
use lifecycle::fact::{ConsumeModel, EpochStarted, TopicConfigured};
use lifecycle::frame::NAME_LEN_MAX;
use lifecycle::identity::{
    CopyReason, Epoch, Incarnation, LogPosition, MessageIdentity, Name, QueueKey, TopicIncarnation,
};
use lifecycle::ranges::Ranges;
use lifecycle::varint::{Reader, put_varint};

/// Most elements of any list in a row.
pub(super) const LIST_MAX: usize = 1 << 22;

/// Something with a place in a row.
pub trait Row: Sized {
    /// Appends itself.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads itself.
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError>;
}

impl Row for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, *self);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        Ok(row.varint()?)
    }
}

impl Row for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(*self));
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        u32::try_from(row.varint()?).map_err(|_| RowError::Malformed("number beyond 32 bits"))
    }
}

impl Row for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        match row.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RowError::Malformed("flag")),
        }
    }
}

impl Row for Name {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let len = row.length(NAME_LEN_MAX)?;
        let text = std::str::from_utf8(row.bytes(len)?).map_err(|_| RowError::Malformed("text"))?;
        Ok(text.into())
    }
}

impl<A: Row, B: Row> Row for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        Ok((A::get(row)?, B::get(row)?))
    }
}

impl<T: Row> Row for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        for item in self {
            item.put(out);
        }
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let len = row.length(LIST_MAX.min(row.remaining()))?;
        (0..len).map(|_| T::get(row)).collect()
    }
}

impl Row for Ranges {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().collect::<Vec<_>>().put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        Ok(Vec::<(u64, u64)>::get(row)?.into_iter().collect())
    }
}

impl Row for Incarnation {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let bytes = row.bytes(16)?;
        Ok(Incarnation(bytes.try_into().map_err(|_| RowError::Malformed("incarnation"))?))
    }
}

impl Row for QueueKey {
    fn put(&self, out: &mut Vec<u8>) {
        (self.topic.0, self.queue_id).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (topic, queue_id) = <(u64, u32)>::get(row)?;
        Ok(QueueKey { topic: TopicIncarnation(topic), queue_id })
    }
}

impl Row for MessageIdentity {
    fn put(&self, out: &mut Vec<u8>) {
        (self.queue, (self.queue_offset, self.epoch_number)).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (queue, (queue_offset, epoch_number)) = Row::get(row)?;
        Ok(MessageIdentity { queue, queue_offset, epoch_number })
    }
}

impl Row for Run {
    fn put(&self, out: &mut Vec<u8>) {
        (self.closed, (self.number, (self.applied, self.flushed))).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (closed, (number, (applied, flushed))) = Row::get(row)?;
        Ok(Run { number, applied, flushed, closed })
    }
}

impl Row for Gap {
    fn put(&self, out: &mut Vec<u8>) {
        (self.incarnation, (self.from, (self.to, self.noted_wall_ms))).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (incarnation, (from, (to, noted_wall_ms))) = Row::get(row)?;
        Ok(Gap { incarnation, from, to, noted_wall_ms })
    }
}

impl Row for Totals {
    fn put(&self, out: &mut Vec<u8>) {
        for field in self.clone().fields_mut() {
            field.put(out);
        }
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let mut totals = Totals::default();
        for field in totals.fields_mut() {
            *field = Row::get(row)?;
        }
        Ok(totals)
    }
}

impl Row for EpochStarted {
    fn put(&self, out: &mut Vec<u8>) {
        (self.epoch.number, self.epoch.incarnation).put(out);
        self.broker_name.put(out);
        self.log_start.0.put(out);
        self.roster.put(out);
        self.settings.put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (number, incarnation) = Row::get(row)?;
        Ok(EpochStarted {
            epoch: Epoch { number, incarnation },
            broker_name: Row::get(row)?,
            log_start: LogPosition(Row::get(row)?),
            roster: Row::get(row)?,
            settings: Row::get(row)?,
        })
    }
}

impl Row for TopicConfigured {
    fn put(&self, out: &mut Vec<u8>) {
        (self.topic.0, self.name.clone()).put(out);
        (self.read_queues, self.write_queues).put(out);
        (self.perm, self.message_type.clone()).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (topic, name) = Row::get(row)?;
        let (read_queues, write_queues) = Row::get(row)?;
        let (perm, message_type) = Row::get(row)?;
        let topic = TopicIncarnation(topic);
        Ok(TopicConfigured { topic, name, read_queues, write_queues, perm, message_type })
    }
}

impl Row for Truncation {
    fn put(&self, out: &mut Vec<u8>) {
        (self.epoch, (self.end, self.old_max)).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (epoch, (end, old_max)) = Row::get(row)?;
        Ok(Truncation { epoch, end, old_max })
    }
}

impl Row for UnnamedWindow {
    fn put(&self, out: &mut Vec<u8>) {
        (self.messages, (self.epoch, self.incarnation)).put(out);
        (self.heard_wall_ms, self.opened_wall_ms).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (messages, (epoch, incarnation)) = Row::get(row)?;
        let (heard_wall_ms, opened_wall_ms) = Row::get(row)?;
        Ok(UnnamedWindow { messages, epoch, incarnation, heard_wall_ms, opened_wall_ms })
    }
}

impl Row for Queue {
    fn put(&self, out: &mut Vec<u8>) {
        for value in [self.min, self.max, self.stored, self.lost, self.expired, self.untrusted_below] {
            value.put(out);
        }
        self.reuse_watch.put(out);
        self.epochs.put(out);
        self.truncations.put(out);
        self.bad.put(out);
        self.times.put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        Ok(Queue {
            min: Row::get(row)?,
            max: Row::get(row)?,
            stored: Row::get(row)?,
            lost: Row::get(row)?,
            expired: Row::get(row)?,
            untrusted_below: Row::get(row)?,
            reuse_watch: Row::get(row)?,
            epochs: Row::get(row)?,
            truncations: Row::get(row)?,
            bad: Row::get(row)?,
            times: Row::get(row)?,
            slots: Slots::default(),
            owners: Vec::new(),
            dirty: false,
        })
    }
}

impl Row for Slots {
    fn put(&self, out: &mut Vec<u8>) {
        self.known_from_ms.put(out);
        let slots = self.iter().map(|slot| (slot.minute, (slot.first, slot.extra)));
        slots.collect::<Vec<_>>().put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let mut slots = Slots::known_from(Row::get(row)?);
        for (minute, (first, extra)) in Vec::<(u32, (u64, u64))>::get(row)? {
            if !slots.restore(Slot { minute, first, extra }) {
                return Err(RowError::Malformed("slots"));
            }
        }
        Ok(slots)
    }
}

/// A run of marks as it lies in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkedRun {
    /// First offset.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// The mark.
    pub mark: Mark,
}

impl Row for MarkedRun {
    fn put(&self, out: &mut Vec<u8>) {
        self.from.put(out);
        (self.to - self.from).put(out);
        let before = match self.mark.before {
            Some(State::Filtered) => 0x10,
            Some(_) => 0x20,
            None => 0,
        };
        out.push(self.mark.state as u8 | before | if self.mark.was_lost { 0x80 } else { 0 });
        (self.mark.attempt, self.mark.lease_until_ms).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let from: u64 = Row::get(row)?;
        let len: u64 = Row::get(row)?;
        let state = row.u8()?;
        let (attempt, lease_until_ms) = Row::get(row)?;
        let was_lost = state & 0x80 != 0;
        let before = match state & 0x70 {
            0 => None,
            0x10 => Some(State::Filtered),
            0x20 => Some(State::Undecided),
            _ => return Err(RowError::Malformed("state before")),
        };
        let state = State::from_u8(state & 0x0F).ok_or(RowError::Malformed("state"))?;
        let to = from.checked_add(len).ok_or(RowError::Malformed("range"))?;
        Ok(MarkedRun { from, to, mark: Mark { state, was_lost, attempt, lease_until_ms, before } })
    }
}

/// A run of ended debts as it lies in a row: from, to, how.
pub struct EndedRun(pub u64, pub u64, pub State);

impl Row for EndedRun {
    fn put(&self, out: &mut Vec<u8>) {
        (self.0, self.1 - self.0).put(out);
        out.push(self.2 as u8);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (from, len): (u64, u64) = Row::get(row)?;
        let state = State::from_u8(row.u8()?).ok_or(RowError::Malformed("state"))?;
        let to = from.checked_add(len).ok_or(RowError::Malformed("range"))?;
        Ok(EndedRun(from, to, state))
    }
}

impl Row for GroupQueue {
    /// Everything but the marks and how debts ended.
    fn put(&self, out: &mut Vec<u8>) {
        let counts = self.counts;
        for value in [self.start, self.position, self.floor, self.owed_extra] {
            value.put(out);
        }
        (self.reused_from, self.passed_before).put(out);
        self.before_membership.put(out);
        for value in [counts.settled, counts.filtered, counts.moved, counts.dead_lettered] {
            value.put(out);
        }
        (counts.lost, counts.undecided).put(out);
        (self.passed.from, self.passed.to).put(out);
        self.passed.wall_ms.put(out);
        (self.ended.known_from, self.read_wall_ms).put(out);
        put_varint(out, self.lost.len() as u64);
        for (from, (to, class)) in &self.lost {
            (*from, *to).put(out);
            out.push(*class as u8);
        }
        put_varint(out, self.failed_copies.len() as u64);
        for (offset, reason) in &self.failed_copies {
            offset.put(out);
            out.push(*reason as u8);
        }
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let mut books = GroupQueue {
            start: Row::get(row)?,
            position: Row::get(row)?,
            floor: Row::get(row)?,
            owed_extra: Row::get(row)?,
            reused_from: Row::get(row)?,
            passed_before: Row::get(row)?,
            before_membership: Row::get(row)?,
            counts: Counts {
                settled: Row::get(row)?,
                filtered: Row::get(row)?,
                moved: Row::get(row)?,
                dead_lettered: Row::get(row)?,
                lost: Row::get(row)?,
                undecided: Row::get(row)?,
            },
            passed: Passed { from: Row::get(row)?, to: Row::get(row)?, wall_ms: Row::get(row)? },
            ..Default::default()
        };
        (books.ended.known_from, books.read_wall_ms) = Row::get(row)?;
        for _ in 0..row.length(LIST_MAX)? {
            let (from, to) = Row::get(row)?;
            let class = Class::from_u8(row.u8()?).ok_or(RowError::Malformed("class"))?;
            books.lost.insert(from, (to, class));
        }
        for _ in 0..row.length(LIST_MAX)? {
            let offset = Row::get(row)?;
            let reason = CopyReason::from_u8(row.u8()?).ok_or(RowError::Malformed("copy reason"))?;
            books.failed_copies.insert(offset, reason);
        }
        Ok(books)
    }
}

impl Row for GroupBooks {
    /// Everything but the queues and the dead letters one by one.
    fn put(&self, out: &mut Vec<u8>) {
        (self.retry_max, self.consume_enabled).put(out);
        out.push(self.model.map_or(0, |model| model as u8));
        (self.active_wall_ms, (self.dead_letters.arrived, self.dead_letters.forgotten)).put(out);
        (self.members_since_wall_ms, self.joined_wall_ms).put(out);
        put_varint(out, self.members.len() as u64);
        for (name, member) in &self.members {
            name.put(out);
            out.push(member.model as u8);
            put_varint(out, member.subscriptions.len() as u64);
            for (topic, subscription) in &member.subscriptions {
                (topic.clone(), subscription.clone()).put(out);
            }
        }
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let mut books = GroupBooks::default();
        (books.retry_max, books.consume_enabled) = Row::get(row)?;
        books.model = match row.u8()? {
            0 => None,
            value => Some(ConsumeModel::from_u8(value).ok_or(RowError::Malformed("model"))?),
        };
        (books.active_wall_ms, (books.dead_letters.arrived, books.dead_letters.forgotten)) = Row::get(row)?;
        (books.members_since_wall_ms, books.joined_wall_ms) = Row::get(row)?;
        for _ in 0..row.length(LIST_MAX)? {
            let name: Name = Row::get(row)?;
            let model = ConsumeModel::from_u8(row.u8()?).ok_or(RowError::Malformed("model"))?;
            let subscriptions: Vec<(Name, (Name, u64))> = Row::get(row)?;
            books.members.insert(name, Member { model, subscriptions: subscriptions.into_iter().collect() });
        }
        books.compare_all();
        Ok(books)
    }
}

impl Row for Timer {
    fn put(&self, out: &mut Vec<u8>) {
        (self.due_wall_ms, self.group.clone()).put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (due_wall_ms, group) = Row::get(row)?;
        Ok(Timer { due_wall_ms, group })
    }
}

impl Row for DeadLetter {
    fn put(&self, out: &mut Vec<u8>) {
        (self.copy, (self.parent, self.root)).put(out);
        self.arrived_wall_ms.put(out);
        out.push(self.outcome as u8);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (copy, (parent, root)) = Row::get(row)?;
        let arrived_wall_ms = Row::get(row)?;
        let outcome = Outcome::from_u8(row.u8()?).ok_or(RowError::Malformed("outcome"))?;
        Ok(DeadLetter { copy, parent, root, arrived_wall_ms, outcome })
    }
}
