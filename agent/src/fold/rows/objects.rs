//! Owns which object of a source's books goes into which row, and back. The two directions stand side by side.

use super::codec::{EndedRun, MarkedRun, Row};
use super::{Key, KeyReader, Kind, RowChange, RowError, Saved, encode, list, stale_set};
use crate::fold::broker::{BrokerBooks, MISSING_COPIES_MAX, QUEUES_PER_ROW, Stale, Topic};
use crate::fold::dead_letters::{DEAD_LETTER_WINDOW, DeadLetter};
use crate::fold::group::GroupBooks;
use crate::fold::group_queue::GroupQueue;
use crate::fold::group_queue::ended::Ended;
use crate::fold::marks::{Marks, WINDOW};
use crate::fold::queue::Queue;
use crate::fold::receipts::Receipts;
use crate::fold::slots::Slots;
use crate::fold::timers::{TIMER_WINDOW, Timer};
use crate::fold::unflushed::{Unflushed, UnflushedQueue};
use lifecycle::fact::{EpochStarted, TopicConfigured};
use lifecycle::identity::{CopyReason, Incarnation, LogPosition, Name, QueueKey, TopicIncarnation};
use lifecycle::varint::{Reader, put_varint};
use std::collections::BTreeSet;

/// Runs of marks that lie in their queue's row; more get rows of their own.
const INLINE_RUNS_MAX: usize = 4;

fn block(topic: TopicIncarnation, row: u32) -> std::ops::RangeInclusive<QueueKey> {
    let first = row * QUEUES_PER_ROW;
    let last = first + (QUEUES_PER_ROW - 1);
    QueueKey { topic, queue_id: first }..=QueueKey { topic, queue_id: last }
}

fn runs(marks: impl Iterator<Item = (u64, u64, crate::fold::marks::Mark)>) -> Vec<MarkedRun> {
    marks.map(|(from, to, mark)| MarkedRun { from, to, mark }).collect()
}

impl BrokerBooks {
    pub(super) fn save(&mut self, name: &Name, saved: &mut Saved, out: &mut Vec<RowChange>) {
        saved.save(Key::new(Kind::Head, name).0, Some(&encode(|bytes| self.put_head(bytes))), out);
        for stale in stale_set(self) {
            match stale {
                Stale::GroupGone(group) => forget_group(name, &group, saved, out),
                Stale::QueueGone(group, queue) => {
                    for kind in [Kind::Marks, Kind::Ended] {
                        let prefix = Key::new(kind, name).text(&group).u64(queue.topic.0).u32(queue.queue_id);
                        forget(&prefix.0, saved, out);
                    }
                }
                Stale::Topic(topic) => self.save_topic(name, topic, saved, out),
                Stale::Queues(topic, row) => self.save_queues(name, (topic, row), saved, out),
                Stale::Group(group) => self.save_group(name, &group, saved, out),
                Stale::GroupQueues(group, topic, row) => {
                    self.save_group_queues(name, &group, (topic, row), (saved, out));
                }
            }
        }
        save_queue(&self.unflushed, Key::new(Kind::Unflushed, name), saved, out);
        save_queue(&self.replication.waiting, Key::new(Kind::Unreplicated, name), saved, out);
        self.save_replication(name, saved, out);
        for (topic, queue_id) in std::mem::take(&mut self.slots_touched) {
            let of_queue = queue_id.and_then(|queue_id| self.queues.get(&QueueKey { topic, queue_id }));
            let slots = match queue_id {
                Some(_) => of_queue.map(|queue| &queue.slots),
                None => self.topics.get(&topic).map(|topic| &topic.slots),
            };
            let slots = slots.filter(|slots| **slots != Slots::default());
            let bytes = slots.map(|slots| encode(|bytes| slots.put(bytes)));
            let key = Key::new(Kind::Slots, name).u64(topic.0);
            let key = match queue_id {
                Some(queue_id) => key.u32(queue_id),
                None => key,
            };
            saved.save(key.0, bytes.as_deref(), out);
        }
        for (queue, window) in std::mem::take(&mut self.timers.touched) {
            let key = Key::new(Kind::Timers, name).u64(queue.topic.0).u32(queue.queue_id).u64(window).0;
            let from = window * TIMER_WINDOW;
            let timers = self.timers.within(queue, from, from.saturating_add(TIMER_WINDOW));
            let timers: Vec<(u64, Timer)> = timers.map(|(offset, timer)| (offset, timer.clone())).collect();
            let bytes = (!timers.is_empty()).then(|| list(timers.into_iter()));
            saved.save(key, bytes.as_deref(), out);
        }
    }

    pub(super) fn mark_all_stale(&mut self) {
        let queues = self.queues.keys().map(|key| Stale::Queues(key.topic, key.queue_id / QUEUES_PER_ROW));
        let mut stale: BTreeSet<Stale> = queues.collect();
        stale.extend(self.topics.keys().map(|topic| Stale::Topic(*topic)));
        for (name, group) in &mut self.groups {
            stale.insert(Stale::Group(name.clone()));
            group.dead_letters.touched = group
                .dead_letters
                .iter()
                .map(|l| (l.copy.queue, l.copy.queue_offset / DEAD_LETTER_WINDOW))
                .collect();
            for (key, books) in &mut group.queues {
                books.dirty = true;
                stale.insert(Stale::GroupQueues(name.clone(), key.topic, key.queue_id / QUEUES_PER_ROW));
            }
        }
        let of_queues = self.queues.iter().filter(|(_, queue)| queue.slots != Slots::default());
        let mut slots: BTreeSet<_> = of_queues.map(|(key, _)| (key.topic, Some(key.queue_id))).collect();
        let of_topics = self.topics.iter().filter(|(_, topic)| topic.slots != Slots::default());
        slots.extend(of_topics.map(|(key, _)| (*key, None)));
        self.slots_touched = slots;
        self.timers.touched =
            self.timers.iter().map(|(queue, offset, _)| (queue, offset / TIMER_WINDOW)).collect();
        self.stale = stale;
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        self.current.put(out);
        (self.epoch, (self.now.mono_ms, self.now.wall_ms)).put(out);
        (self.answered_end, (self.gap_count, (self.reserved_messages, self.unnamed))).put(out);
        (self.store.stored, (self.store.flushed, self.store.lost)).put(out);
        (self.unflushed.unnamed, (self.unflushed.first_number, self.unheard_to.0)).put(out);
        self.totals.put(out);
        self.receipts.parts().put(out);
        self.at_risk.put(out);
        self.above_flush.iter().copied().collect::<Vec<_>>().put(out);
        self.epochs.put(out);
        self.gaps.iter().cloned().collect::<Vec<_>>().put(out);
        self.runs.iter().map(|(key, run)| (*key, *run)).collect::<Vec<_>>().put(out);
        self.unnamed_windows.put(out);
        self.retired.iter().map(|(group, at)| (group.clone(), *at)).collect::<Vec<_>>().put(out);
        put_varint(out, self.missing_copies.len() as u64);
        for (group, parent, reason) in &self.missing_copies {
            (group.clone(), *parent).put(out);
            out.push(*reason as u8);
        }
    }

    fn get_head(&mut self, row: &mut Reader<'_>) -> Result<(), RowError> {
        self.current = Row::get(row)?;
        (self.epoch, (self.now.mono_ms, self.now.wall_ms)) = Row::get(row)?;
        (self.answered_end, (self.gap_count, (self.reserved_messages, self.unnamed))) = Row::get(row)?;
        (self.store.stored, (self.store.flushed, self.store.lost)) = Row::get(row)?;
        let unheard_to;
        (self.unflushed.unnamed, (self.unflushed.first_number, unheard_to)) = Row::get(row)?;
        self.unheard_to = LogPosition(unheard_to);
        self.totals = Row::get(row)?;
        self.receipts = Receipts::of_parts(Row::get(row)?).ok_or(RowError::Malformed("receipts"))?;
        self.at_risk = Row::get(row)?;
        self.above_flush = Vec::get(row)?.into();
        self.epochs = Vec::<EpochStarted>::get(row)?;
        if let Some(started) = self.epochs.last() {
            self.replication.take_promises(started);
        }
        self.gaps = Vec::get(row)?.into();
        self.runs = Vec::<(Incarnation, _)>::get(row)?.into_iter().collect();
        self.unnamed_windows = Vec::get(row)?;
        self.retired = Vec::<(Name, u64)>::get(row)?.into_iter().collect();
        for _ in 0..row.length(MISSING_COPIES_MAX)? {
            let (group, parent) = Row::get(row)?;
            let reason = CopyReason::from_u8(row.u8()?).ok_or(RowError::Malformed("copy reason"))?;
            self.missing_copies.insert((group, parent, reason));
        }
        Ok(())
    }

    fn save_topic(
        &mut self,
        name: &Name,
        topic: TopicIncarnation,
        saved: &mut Saved,
        out: &mut Vec<RowChange>,
    ) {
        let bytes = self.topics.get_mut(&topic).map(|topic| {
            topic.dirty = false;
            encode(|bytes| {
                topic.configured.put(bytes);
                (topic.stored, (topic.produced, topic.refused)).put(bytes);
            })
        });
        saved.save(Key::new(Kind::Topic, name).u64(topic.0).0, bytes.as_deref(), out);
    }

    fn save_queues(
        &mut self,
        name: &Name,
        place: (TopicIncarnation, u32),
        saved: &mut Saved,
        out: &mut Vec<RowChange>,
    ) {
        let (topic, row) = place;
        let mut bytes = Vec::new();
        for (key, queue) in self.queues.range_mut(block(topic, row)) {
            queue.dirty = false;
            key.queue_id.put(&mut bytes);
            queue.put(&mut bytes);
        }
        let key = Key::new(Kind::Queues, name).u64(topic.0).u32(row).0;
        saved.save(key, (!bytes.is_empty()).then_some(&bytes), out);
    }

    fn save_group(&mut self, name: &Name, group: &Name, saved: &mut Saved, out: &mut Vec<RowChange>) {
        let key = Key::new(Kind::Group, name).text(group).0;
        let Some(books) = self.groups.get_mut(group) else {
            saved.save(key, None, out);
            return;
        };
        books.dirty = false;
        saved.save(key, Some(&encode(|bytes| books.put(bytes))), out);
        for (queue, window) in std::mem::take(&mut books.dead_letters.touched) {
            let key = Key::new(Kind::DeadLetters, name).text(group);
            let key = key.u64(queue.topic.0).u32(queue.queue_id).u64(window).0;
            let from = window * DEAD_LETTER_WINDOW;
            let letters = books.dead_letters.within(queue, from, from.saturating_add(DEAD_LETTER_WINDOW));
            let letters: Vec<DeadLetter> = letters.copied().collect();
            let bytes = (!letters.is_empty()).then(|| list(letters.into_iter()));
            saved.save(key, bytes.as_deref(), out);
        }
    }

    fn save_group_queues(
        &mut self,
        name: &Name,
        group: &Name,
        place: (TopicIncarnation, u32),
        to: (&mut Saved, &mut Vec<RowChange>),
    ) {
        let (topic, row) = place;
        let (saved, out) = to;
        let mut bytes = Vec::new();
        if let Some(books) = self.groups.get_mut(group) {
            for (key, books) in books.queues.range_mut(block(topic, row)) {
                key.queue_id.put(&mut bytes);
                books.put(&mut bytes);
                let inline = books.marks.run_count() <= INLINE_RUNS_MAX;
                let inlined = if inline { runs(books.marks.iter()) } else { Vec::new() };
                inlined.put(&mut bytes);
                if std::mem::take(&mut books.dirty) {
                    let prefix = Key::new(Kind::Marks, name).text(group).u64(topic.0).u32(key.queue_id).0;
                    let all = std::mem::take(&mut books.fresh);
                    save_marks(&mut books.marks, (inline, all), prefix, (saved, out));
                    let prefix = Key::new(Kind::Ended, name).text(group).u64(topic.0).u32(key.queue_id).0;
                    save_ended(&mut books.ended, all, prefix, (saved, out));
                }
            }
        }
        let key = Key::new(Kind::GroupQueues, name).text(group).u64(topic.0).u32(row).0;
        saved.save(key, (!bytes.is_empty()).then_some(&bytes), out);
    }

    fn save_replication(&mut self, name: &Name, saved: &mut Saved, out: &mut Vec<RowChange>) {
        let bytes = encode(|bytes| self.replication.put(bytes));
        saved.save(Key::new(Kind::Replication, name).0, Some(&bytes), out);
    }

    pub(super) fn restore(
        &mut self,
        kind: u8,
        key: &mut KeyReader<'_>,
        row: &mut Reader<'_>,
    ) -> Result<(), RowError> {
        match kind {
            k if k == Kind::Head as u8 => self.get_head(row),
            k if k == Kind::Topic as u8 => {
                let configured: TopicConfigured = Row::get(row)?;
                let (stored, (produced, refused)) = Row::get(row)?;
                let slots = Slots::default();
                let topic = Topic { configured, stored, produced, refused, slots, dirty: false };
                self.topics.insert(topic.configured.topic, topic);
                Ok(())
            }
            k if k == Kind::Queues as u8 => {
                let topic = TopicIncarnation(key.u64()?);
                while !row.is_empty() {
                    let queue_id = Row::get(row)?;
                    self.queues.insert(QueueKey { topic, queue_id }, Queue::get(row)?);
                }
                Ok(())
            }
            k if k == Kind::Group as u8 => {
                self.groups.insert(key.text()?, GroupBooks::get(row)?);
                Ok(())
            }
            k if k == Kind::Slots as u8 => {
                let topic = TopicIncarnation(key.u64()?);
                let slots = Slots::get(row)?;
                if key.0.is_empty() {
                    self.topics.get_mut(&topic).ok_or(RowError::Missing)?.slots = slots;
                } else {
                    let queue = QueueKey { topic, queue_id: key.u32()? };
                    self.queues.get_mut(&queue).ok_or(RowError::Missing)?.slots = slots;
                }
                Ok(())
            }
            k if k == Kind::Unflushed as u8 => {
                self.unflushed.put(Unflushed::get(row)?);
                Ok(())
            }
            k if k == Kind::Replication as u8 => self.replication.restore(row),
            k if k == Kind::Unreplicated as u8 => {
                self.replication.waiting.put(Unflushed::get(row)?);
                Ok(())
            }
            k if k == Kind::Timers as u8 => {
                let (topic, queue_id) = (TopicIncarnation(key.u64()?), key.u32()?);
                for (offset, timer) in Vec::<(u64, Timer)>::get(row)? {
                    self.timers.put(QueueKey { topic, queue_id }, offset, timer);
                }
                Ok(())
            }
            _ => self.restore_group_part(kind, key, row),
        }
    }

    fn restore_group_part(
        &mut self,
        kind: u8,
        key: &mut KeyReader<'_>,
        row: &mut Reader<'_>,
    ) -> Result<(), RowError> {
        let group = key.text()?;
        let topic = TopicIncarnation(key.u64()?);
        // group heads sort before everything that belongs to them
        let books = self.groups.get_mut(&group).ok_or(RowError::Missing)?;
        match kind {
            k if k == Kind::GroupQueues as u8 => {
                while !row.is_empty() {
                    let queue_id = Row::get(row)?;
                    let mut queue = GroupQueue::get(row)?;
                    restore_marks(&mut queue.marks, Row::get(row)?)?;
                    books.queues.insert(QueueKey { topic, queue_id }, queue);
                }
                Ok(())
            }
            k if k == Kind::Marks as u8 => {
                let queue = QueueKey { topic, queue_id: key.u32()? };
                let queue = books.queues.get_mut(&queue).ok_or(RowError::Missing)?;
                restore_marks(&mut queue.marks, Row::get(row)?)
            }
            k if k == Kind::Ended as u8 => {
                let queue = QueueKey { topic, queue_id: key.u32()? };
                let queue = books.queues.get_mut(&queue).ok_or(RowError::Missing)?;
                let found = Vec::<EndedRun>::get(row)?;
                let fits =
                    found.into_iter().all(|EndedRun(from, to, how)| queue.ended.restore(from, to, how));
                if fits { Ok(()) } else { Err(RowError::Malformed("ended runs")) }
            }
            k if k == Kind::DeadLetters as u8 => {
                let (arrived, forgotten) = (books.dead_letters.arrived, books.dead_letters.forgotten);
                for letter in Vec::<DeadLetter>::get(row)? {
                    books.dead_letters.put(letter);
                }
                books.dead_letters.arrived = arrived;
                books.dead_letters.forgotten = forgotten;
                Ok(())
            }
            _ => Err(RowError::Malformed("kind")),
        }
    }

    /// Derives what is not in rows, after all of them were read.
    pub(super) fn restored(&mut self) -> Result<(), RowError> {
        self.timers.touched.clear();
        let names = self.topics.iter().map(|(key, topic)| (topic.configured.name.clone(), *key));
        self.names = names.collect();
        let pairs = self.groups.values().map(|group| group.queues.len()).sum();
        self.pairs_changed(pairs, 0);
        for (name, group) in &mut self.groups {
            group.dead_letters.touched.clear();
            for key in group.queues.keys() {
                if let Some(queue) = self.queues.get_mut(key) {
                    queue.owners.push(name.clone());
                }
            }
            for (key, books) in &group.queues {
                let max = self.queues.get(key).map_or(0, |queue| queue.max);
                books.contradiction(max).map_or(Ok(()), |what| Err(RowError::Contradiction(what)))?;
            }
        }
        Ok(())
    }
}

fn forget_group(name: &Name, group: &Name, saved: &mut Saved, out: &mut Vec<RowChange>) {
    for kind in [Kind::Group, Kind::GroupQueues, Kind::Marks, Kind::Ended, Kind::DeadLetters] {
        forget(&Key::new(kind, name).text(group).0, saved, out);
    }
}

fn forget(prefix: &[u8], saved: &mut Saved, out: &mut Vec<RowChange>) {
    for key in saved.with_prefix(prefix) {
        saved.save(key, None, out);
    }
}

/// `how`: whether the runs lie inline, and whether every window is to be written, not only what was touched.
fn save_marks(marks: &mut Marks, how: (bool, bool), prefix: Vec<u8>, to: (&mut Saved, &mut Vec<RowChange>)) {
    let (inline, all) = how;
    let (saved, out) = to;
    let touched = marks.take_touched();
    if inline {
        forget(&prefix, saved, out);
        return;
    }
    let windows =
        stale_windows((touched, all), &prefix, saved, || marks.iter().map(|(a, ..)| a / WINDOW).collect());
    for window in windows {
        let mut key = prefix.clone();
        key.extend_from_slice(&window.to_be_bytes());
        let mut bytes = Vec::new();
        let found = runs(marks.in_window(window));
        put_varint(&mut bytes, found.len() as u64);
        for run in &found {
            run.put(&mut bytes);
        }
        saved.save(key, (!found.is_empty()).then_some(&bytes), out);
    }
}

fn save_ended(ended: &mut Ended, all: bool, prefix: Vec<u8>, to: (&mut Saved, &mut Vec<RowChange>)) {
    let (saved, out) = to;
    let touched = ended.take_touched();
    for window in stale_windows((touched, all), &prefix, saved, || ended.windows()) {
        let mut key = prefix.clone();
        key.extend_from_slice(&window.to_be_bytes());
        let found: Vec<_> = ended.in_window(window).map(|(from, to, how)| EndedRun(from, to, how)).collect();
        let bytes = (!found.is_empty()).then(|| encode(|bytes| found.put(bytes)));
        saved.save(key, bytes.as_deref(), out);
    }
}

/// Which windows must be written: those that were touched, or every one that is or was there.
fn stale_windows(
    touched: (BTreeSet<u64>, bool),
    prefix: &[u8],
    saved: &Saved,
    every: impl FnOnce() -> BTreeSet<u64>,
) -> BTreeSet<u64> {
    let (touched, all) = touched;
    if all {
        let existing = saved.with_prefix(prefix);
        let old = existing.iter().filter_map(|key| key.last_chunk::<8>());
        let mut windows: BTreeSet<u64> = old.map(|bytes| u64::from_be_bytes(*bytes)).collect();
        windows.extend(every());
        windows
    } else if !saved.has_prefix(prefix) {
        every()
    } else {
        touched
    }
}

fn restore_marks(marks: &mut Marks, found: Vec<MarkedRun>) -> Result<(), RowError> {
    let fits = found.into_iter().all(|run| marks.restore(run.from, run.to, run.mark));
    if fits { Ok(()) } else { Err(RowError::Malformed("runs overlap")) }
}

/// Each entry by its number.
fn save_queue(queue: &UnflushedQueue, prefix: Key, saved: &mut Saved, out: &mut Vec<RowChange>) {
    let first = queue.first_number;
    let mut next = first;
    for key in saved.with_prefix(&prefix.0) {
        let number = key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        if number < first {
            saved.save(key, None, out);
        } else {
            next = next.max(number);
        }
    }
    // the newest saved one may have been joined by later turns since: it is looked at again
    for (number, entry) in queue.numbered_from(next) {
        let key = prefix.clone().u64(number).0;
        saved.save(key, Some(&encode(|bytes| entry.put(bytes))), out);
    }
}
