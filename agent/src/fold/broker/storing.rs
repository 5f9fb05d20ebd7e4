//! Owns what the broker's books do with facts about sending and storing.

use super::{BrokerBooks, QUEUES_PER_ROW, Stale};
use crate::fold::dead_letters::{DeadLetter, Outcome};
use crate::fold::event::{EVENT_IDS_MAX, Span, What};
use crate::fold::marks::State;
use crate::fold::timers::Timer;
use crate::fold::unflushed::{Unflushed, UnflushedCopy};
use lifecycle::fact::{AnswerClass, Stored, StoredKind, StoredRun};
use lifecycle::identity::{CopyReason, Lineage, LogPosition, MessageIdentity, Name, QueueKey};
use lifecycle::ids::IdColumn;

impl BrokerBooks {
    pub(super) fn stored(&mut self, stored: &Stored) {
        let epoch = self.epoch;
        let mut counted = 0;
        let known = self.store.stored;
        for run in &stored.runs {
            counted += self.stored_run(run, epoch, stored.store_wall_ms);
        }
        if self.store.stored - known > counted {
            self.unheard_to = stored.log_end;
        }
        self.totals.stored += stored.count();
        self.unflushed.push(stored, counted);
        if let [(_, StoredKind::Produced)] = stored.kinds.as_slice() {
            self.totals.produced += stored.count();
            self.totals.received += stored.count();
            for run in &stored.runs {
                self.count_topic(run.queue.topic, |topic| topic.produced += run.count);
            }
            self.look_for_repeats(stored, epoch);
        } else {
            self.stored_kinds(stored, epoch);
        }
    }

    fn stored_run(&mut self, run: &StoredRun, epoch: u64, wall_ms: u64) -> u64 {
        let (from, to) = (run.queue_offset, run.queue_offset.saturating_add(run.count));
        let queue = self.queues.entry(run.queue).or_default();
        let old_max = queue.max;
        let (new, hidden) = queue.extend(from, to, epoch);
        queue.note_time(from, wall_ms);
        if queue.slots.note(wall_ms, from) {
            self.slots_touched.insert((run.queue.topic, Some(run.queue.queue_id)));
        }
        self.store.stored += new + hidden;
        self.store.flushed += hidden;
        let watched = queue.reuse_watch && new > 0;
        if !queue.dirty {
            queue.dirty = true;
            self.stale.insert(Stale::Queues(run.queue.topic, run.queue.queue_id / QUEUES_PER_ROW));
        }
        self.count_topic(run.queue.topic, |topic| topic.stored += run.count);
        if watched || (hidden > 0 && old_max > 0) {
            self.stored_below_positions(run.queue, old_max, from, to);
        }
        new
    }

    /// Offsets appeared below a position some group had already stated.
    fn stored_below_positions(&mut self, key: QueueKey, old_max: u64, from: u64, to: u64) {
        let owners = self.queues.get(&key).map(|queue| queue.owners.clone()).unwrap_or_default();
        let mut still_above = false;
        for owner in &owners {
            self.with_group_queue(owner, key, |books, bounds, out| {
                if books.position > old_max {
                    books.pass_hidden(from, bounds, out);
                    books.reused(from, to, bounds, out);
                }
                still_above |= books.position > to;
            });
        }
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.reuse_watch = still_above;
        }
    }

    fn stored_kinds(&mut self, stored: &Stored, epoch: u64) {
        let mut messages = stored.runs.iter().flat_map(|run| {
            (run.queue_offset..run.queue_offset.saturating_add(run.count)).map(|offset| MessageIdentity {
                queue: run.queue,
                queue_offset: offset,
                epoch_number: epoch,
            })
        });
        let mut index = 0usize;
        let mut pending = Vec::new();
        for (count, kind) in &stored.kinds {
            if !matches!(kind, StoredKind::Copy { .. }) {
                self.totals.produced += count;
                self.totals.received += count;
            }
            for at in messages.by_ref().take(usize::try_from(*count).unwrap_or(usize::MAX)) {
                pending.push((at, kind, index));
                index += 1;
            }
        }
        for (at, kind, index) in pending {
            match kind {
                StoredKind::Produced | StoredKind::ProducedOneWay => {
                    self.count_topic(at.queue.topic, |topic| topic.produced += 1);
                    if let Some(id) = stored.ids.get(index) {
                        self.look_for_repeat(id, at);
                    }
                }
                StoredKind::Delayed { due_wall_ms, destination } => {
                    let topic = self.topic_named(destination).unwrap_or(at.queue.topic);
                    self.count_topic(topic, |topic| topic.produced += 1);
                    let timer = Timer { due_wall_ms: *due_wall_ms, group: "".into() };
                    self.timers.put(at.queue, at.queue_offset, timer);
                }
                StoredKind::Half => self.count_topic(at.queue.topic, |topic| topic.produced += 1),
                StoredKind::Copy { group, lineage, due_wall_ms } => {
                    let id = stored.ids.get(index).unwrap_or_default();
                    self.copied((at, id), group, lineage, *due_wall_ms);
                }
            }
        }
    }

    fn look_for_repeats(&mut self, stored: &Stored, epoch: u64) {
        if stored.ids.is_empty() {
            return;
        }
        let mut index = 0;
        for run in &stored.runs {
            for n in 0..run.count {
                let at = MessageIdentity {
                    queue: run.queue,
                    queue_offset: run.queue_offset + n,
                    epoch_number: epoch,
                };
                if let Some(id) = stored.ids.get(index) {
                    self.look_for_repeat(id, at);
                }
                index += 1;
            }
        }
    }

    fn look_for_repeat(&mut self, id: &[u8], at: MessageIdentity) {
        if let Some(first) = self.repeats.note(id, at) {
            let id = String::from_utf8_lossy(id).as_ref().into();
            self.emit(What::DuplicateCandidate { id, first, second: at });
        }
    }

    fn copied(&mut self, copy: (MessageIdentity, &[u8]), group: &Name, lineage: &Lineage, due_wall_ms: u64) {
        let (at, id) = copy;
        let Lineage { parent, root, reason } = *lineage;
        self.unflushed.note_copy(UnflushedCopy { at, group: group.clone(), parent, reason });
        if !self.missing_copies.is_empty() && self.missing_copies.remove(&(group.clone(), parent, reason)) {
            self.emit(What::CopyRemade { group: group.clone(), parent, reason });
        }
        match reason {
            CopyReason::Retry => {
                self.totals.retried += 1;
                self.take_over(group, parent, State::Moved, reason);
                if due_wall_ms > 0 {
                    let timer = Timer { due_wall_ms, group: group.clone() };
                    self.timers.put(at.queue, at.queue_offset, timer);
                }
            }
            CopyReason::DeadLetter => {
                self.totals.dead_lettered += 1;
                self.take_over(group, parent, State::DeadLettered, reason);
                let arrived_wall_ms = self.now.wall_ms;
                let books = self.group_mut(group);
                books.dead_letters.arrived += 1;
                let outcome = Outcome::Waiting;
                books.dead_letters.put(DeadLetter { copy: at, parent, root, arrived_wall_ms, outcome });
                let id = String::from_utf8_lossy(id).as_ref().into();
                self.emit(What::DeadLettered { group: group.clone(), copy: at, parent, root, id });
            }
            CopyReason::Due => self.timer_done(parent),
            CopyReason::Commit => {}
            CopyReason::ReDrive => {
                for (name, books) in &mut self.groups {
                    if books.dead_letters.end(parent.queue, parent.queue_offset, Outcome::ReDriven) {
                        books.dirty = true;
                        self.stale.insert(Stale::Group(name.clone()));
                    }
                }
                if due_wall_ms > 0 {
                    let timer = Timer { due_wall_ms, group: group.clone() };
                    self.timers.put(at.queue, at.queue_offset, timer);
                }
                self.emit(What::ReDriven { spans: vec![Span::of(parent), Span::of(root)] });
            }
        }
    }

    fn timer_done(&mut self, record: MessageIdentity) {
        if self.timers.take(record.queue, record.queue_offset).is_some() {
            let (from, to) = (record.queue_offset, record.queue_offset + 1);
            self.emit(What::TimerDone {
                span: Span { queue: record.queue, from, to, epoch: record.epoch_number },
            });
        }
    }

    fn take_over(&mut self, group: &Name, parent: MessageIdentity, state: State, reason: CopyReason) {
        let mut had_failed = false;
        self.with_group_queue(group, parent.queue, |books, bounds, _| {
            had_failed = books.failed_copies.contains_key(&parent.queue_offset);
            books.copied(parent.queue_offset, state, bounds);
        });
        if had_failed {
            self.emit(What::CopyMade { group: group.clone(), parent, reason });
        }
    }

    pub(super) fn copy_failed(
        &mut self,
        group: &Name,
        parent: MessageIdentity,
        reason: CopyReason,
        error: &Name,
    ) {
        if reason == CopyReason::DeadLetter {
            self.totals.dlq_write_failures += 1;
        }
        self.with_group_queue(group, parent.queue, |books, _, _| {
            books.copy_failed(parent.queue_offset, reason);
        });
        self.emit(What::CopyFailed { group: group.clone(), parent, reason, error: error.clone() });
    }

    pub(super) fn flushed(&mut self, log_position: LogPosition) {
        while let Some(entry) = self.unflushed.pop_flushed(log_position) {
            self.store.flushed += entry.counted;
            self.totals.flushed += entry.count();
            if !self.at_risk.is_empty() {
                self.risk_over(&entry);
            }
            if let Some(entry) = self.replication.wait(entry) {
                self.recent.push(entry);
            }
        }
        self.replication.flushed = self.replication.flushed.max(log_position);
        self.replication_risks_over();
    }

    fn risk_over(&mut self, entry: &Unflushed) {
        let (from, to) = (entry.first_ordinal, entry.first_ordinal + entry.count());
        let risky = self.at_risk.within(from, to);
        if risky.is_empty() {
            return;
        }
        self.at_risk.remove(from, to);
        let epoch = self.epoch;
        let mut spans = Vec::new();
        for (index, run) in entry.indexed_runs() {
            let start = from + index;
            for (a, b) in risky.within(start, start + run.count).iter() {
                let (from, to) = (run.queue_offset + a - start, run.queue_offset + b - start);
                spans.push(Span { queue: run.queue, from, to, epoch });
            }
        }
        self.emit(What::RiskOver { spans });
    }

    pub(super) fn answered(&mut self, from_ordinal: u64, count: u64, class: AnswerClass) {
        let to = from_ordinal.saturating_add(count);
        self.totals.answered += count;
        self.receipts.note(self.epoch, class, count);
        self.answered_end = self.answered_end.max(to);
        match class {
            AnswerClass::FlushDiskTimeout => {
                let (spans, named) = self.unflushed.by_ordinal(from_ordinal, to, self.epoch);
                if !spans.is_empty() {
                    self.at_risk.insert(from_ordinal, to);
                    self.emit(What::AtRisk { class, spans, named });
                }
            }
            AnswerClass::FlushSlaveTimeout | AnswerClass::SlaveNotAvailable => {
                self.answered_unreplicated(from_ordinal, to, class);
            }
            AnswerClass::Flushed | AnswerClass::Buffered | AnswerClass::Replicated | AnswerClass::OneWay => {}
        }
    }

    pub(super) fn refused(&mut self, topic: &Name, code: i32, reason: &Name, what: (bool, &IdColumn)) {
        let (one_way, ids) = what;
        // a refusal without ids is one send
        let count = (ids.len() as u64).max(1);
        self.totals.received += count;
        self.totals.refused += count;
        if let Some(known) = self.topic_named(topic) {
            self.count_topic(known, |topic| {
                topic.refused += count;
                topic.slots.add_extra(count);
            });
            self.slots_touched.insert((known, None));
        }
        let ids = ids.iter().filter(|id| !id.is_empty()).take(EVENT_IDS_MAX);
        let mut ids: Vec<Name> = ids.map(|id| String::from_utf8_lossy(id).as_ref().into()).collect();
        // refusals of one kind in one frame are told as one: a frame is what the judge cites, and counts once
        if let Some((counted, known)) = self.refused_in_this_frame(topic, (code, one_way)) {
            *counted += count;
            known.append(&mut ids);
            return;
        }
        let (topic, reason) = (topic.clone(), reason.clone());
        self.emit(What::Refused { topic, code, reason, one_way, count, ids });
    }

    fn refused_in_this_frame(
        &mut self,
        wanted: &Name,
        kind: (i32, bool),
    ) -> Option<(&mut u64, &mut Vec<Name>)> {
        let at = self.at;
        let of_frame = self.events.iter_mut().rev().take_while(|event| event.at == at);
        of_frame.into_iter().find_map(|event| match &mut event.what {
            What::Refused { topic, code, one_way, count, ids, .. }
                if topic == wanted && (*code, *one_way) == kind =>
            {
                Some((count, ids))
            }
            _ => None,
        })
    }

    pub(super) fn broken_off(&mut self, ordinal: u64) {
        let (spans, named) = self.unflushed.by_ordinal(ordinal, ordinal.saturating_add(1), self.epoch);
        let span = spans.first().copied();
        let id = named.first().map(|named| named.id.clone());
        self.emit(What::BrokenOff { span, id });
    }
}
