//! Owns what the broker's books do with facts about groups, deliveries, progress and retention.

use super::{BrokerBooks, QUEUES_PER_ROW, RETIRED_MAX, Stale};
use crate::fold::EVIDENCE_SOURCE;
use crate::fold::class::Class;
use crate::fold::dead_letters::Outcome;
use crate::fold::event::{Span, What};
use crate::fold::group::GroupBooks;
use crate::fold::group_queue::{Bounds, Change, GroupQueue};
use crate::fold::marks::State;
use lifecycle::fact::{ConsumeModel, Fact, MoveReason};
use lifecycle::identity::{Name, QueueKey, TopicIncarnation};
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet};

impl BrokerBooks {
    pub(super) fn apply_group_fact(&mut self, fact: &Fact, snapshot: bool) {
        match fact {
            Fact::Delivered { group, queue, ranges, attempt, lease_until_ms, .. } => {
                self.delivered(group, *queue, ranges, (*attempt, *lease_until_ms));
            }
            Fact::Acked { group, queue, ranges, .. } => {
                self.totals.acked += ranges.len();
                self.each_range(group, *queue, ranges, |books, a, b, bounds, out| {
                    books.acked(a, b, bounds, out);
                });
            }
            Fact::OffsetMoved { group, queue, from, to, reason, actor } => {
                self.offset_moved(group, *queue, (*from, *to), (*reason, actor));
            }
            Fact::Filtered { group, queue, ranges, expression } => {
                self.filtered(group, *queue, ranges, expression);
            }
            Fact::Nacked { group, queue, offset, .. } => {
                let ranges = Ranges::of(*offset, offset.saturating_add(1));
                self.given_back(group, *queue, &ranges, State::Nacked);
            }
            Fact::LeaseExpired { group, queue, ranges } => {
                self.given_back(group, *queue, ranges, State::LeaseExpired);
            }
            Fact::GroupStarted { group, queue, offset, .. } => self.group_started(group, *queue, *offset),
            Fact::GroupState { group, queue, position, delivered, settled } => {
                if snapshot {
                    self.group_state(group, *queue, *position, (delivered, settled));
                }
            }
            _ => self.apply_membership_fact(fact),
        }
    }

    fn apply_membership_fact(&mut self, fact: &Fact) {
        match fact {
            Fact::GroupConfigured { group, retry_max, consume_enabled } => {
                let books = self.group_mut(group);
                books.retry_max = *retry_max;
                books.consume_enabled = *consume_enabled;
                books.dirty = true;
            }
            Fact::GroupDeleted { group, .. } => self.group_gone(group),
            Fact::MemberJoined { group, member, model } => {
                let wall_ms = self.now.wall_ms;
                self.group_mut(group).joined(member, *model, wall_ms);
            }
            Fact::MemberLeft { group, member, .. } => self.group_mut(group).left(member),
            Fact::Subscribed { group, member, topic, expression, version } => {
                self.group_mut(group).subscribed(member, topic, expression, *version);
            }
            _ => {}
        }
    }

    /// The books of a group, created when it is new, and noted as alive now.
    pub(super) fn group_mut(&mut self, name: &Name) -> &mut GroupBooks {
        let wall_ms = self.now.wall_ms;
        if !self.groups.contains_key(name) {
            self.groups.insert(name.clone(), GroupBooks { dirty: true, ..Default::default() });
        }
        self.stale.insert(Stale::Group(name.clone()));
        let books = self.groups.entry(name.clone()).or_default();
        books.active_wall_ms = wall_ms;
        books.dirty = true;
        books
    }

    /// Runs `f` on a group's books of a queue, then passes on what it found. Whether the group owes the queue at all.
    pub(super) fn with_group_queue(
        &mut self,
        group: &Name,
        key: QueueKey,
        f: impl FnOnce(&mut GroupQueue, Bounds, &mut Vec<Change>),
    ) -> bool {
        let Some(queue) = self.queues.get(&key) else { return false };
        let bounds = Self::bounds(queue, self.ended_runs_max, self.now.wall_ms);
        let Some(members) = self.groups.get_mut(group) else { return false };
        let Some(books) = members.queues.get_mut(&key) else { return false };
        members.active_wall_ms = self.now.wall_ms;
        if !members.dirty {
            members.dirty = true;
            self.stale.insert(Stale::Group(group.clone()));
        }
        if !books.dirty {
            books.dirty = true;
            self.stale.insert(Stale::GroupQueues(group.clone(), key.topic, key.queue_id / QUEUES_PER_ROW));
        }
        f(books, bounds, &mut self.changes);
        if !self.changes.is_empty() {
            self.pass_on(group, key, &"".into());
        }
        true
    }

    fn each_range(
        &mut self,
        group: &Name,
        key: QueueKey,
        ranges: &Ranges,
        f: impl Fn(&mut GroupQueue, u64, u64, Bounds, &mut Vec<Change>),
    ) {
        let found = self.with_group_queue(group, key, |books, bounds, out| {
            for (a, b) in ranges.iter() {
                f(books, a, b, bounds, out);
            }
        });
        if !found {
            self.totals.unmatched += 1;
        }
    }

    /// Turns changes into events and counts.
    fn pass_on(&mut self, group: &Name, key: QueueKey, actor: &Name) {
        let changes = std::mem::take(&mut self.changes);
        for change in &changes {
            let (from, to) = match *change {
                Change::Redelivered(cause, count) => {
                    if let Some(slot) = self.totals.redelivered.get_mut(cause as usize) {
                        *slot += count;
                    }
                    continue;
                }
                Change::Lost(_, a, b) | Change::Regained(a, b) => (a, b),
                Change::Reopened(a, b) | Change::Unfiltered(a, b) => (a, b),
            };
            for (from, to, epoch) in self.queues.get(&key).map(|q| q.by_epoch(from, to)).unwrap_or_default() {
                let span = Span { queue: key, from, to, epoch };
                let group = group.clone();
                match *change {
                    // the store's own incident names bad records; dead letters are judged in the dead-letter book
                    Change::Lost(Class::StoredNotFlushedLost | Class::DlqExpired, ..) => {}
                    Change::Lost(class, ..) => {
                        if class == Class::SkippedByOffsetReset {
                            self.totals.skipped += to - from;
                        }
                        let ids = self.recent.of(&span);
                        self.emit(What::Lost { class, group, span, actor: actor.clone(), ids });
                    }
                    Change::Regained(..) => self.emit(What::Regained { group, span }),
                    Change::Reopened(..) => self.emit(What::Reopened { group, span }),
                    Change::Unfiltered(..) => self.emit(What::ConflictDelivered { group, span }),
                    Change::Redelivered(..) => {}
                }
            }
        }
        self.changes = changes;
        self.changes.clear();
    }

    fn group_started(&mut self, group: &Name, key: QueueKey, offset: u64) {
        let queue = self.queues.entry(key).or_default();
        let min = queue.min;
        if let Err(place) = queue.owners.binary_search(group) {
            queue.owners.insert(place, group.clone());
        }
        self.queue_changed(key);
        let books = self.group_mut(group);
        if books.model == Some(ConsumeModel::Broadcasting) || books.queues.contains_key(&key) {
            return;
        }
        books.queues.insert(key, GroupQueue { dirty: true, ..GroupQueue::starting_at(offset, min) });
        self.pairs_changed(1, 0);
        let row = key.queue_id / QUEUES_PER_ROW;
        self.stale.insert(Stale::GroupQueues(group.clone(), key.topic, row));
    }

    /// Deleted at its broker; or, in the agent's own evidence, retired by an operator.
    fn group_gone(&mut self, group: &Name) {
        if *self.name.0 != *EVIDENCE_SOURCE {
            self.group_deleted(group);
            return;
        }
        if self.retired.len() >= RETIRED_MAX && !self.retired.contains_key(group) {
            let oldest = self.retired.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
            self.retired.retain(|name, _| Some(name) != oldest.as_ref());
        }
        self.retired.insert(group.clone(), self.now.wall_ms);
    }

    fn group_deleted(&mut self, group: &Name) {
        let Some(books) = self.groups.remove(group) else { return };
        for key in books.queues.keys() {
            if let Some(queue) = self.queues.get_mut(key) {
                queue.owners.retain(|owner| owner != group);
            }
            let row = key.queue_id / QUEUES_PER_ROW;
            self.stale.insert(Stale::GroupQueues(group.clone(), key.topic, row));
        }
        self.pairs_changed(0, books.queues.len());
        self.stale.insert(Stale::GroupGone(group.clone()));
        self.stale.insert(Stale::Group(group.clone()));
    }

    fn delivered(&mut self, group: &Name, key: QueueKey, ranges: &Ranges, lease: (u32, u64)) {
        self.totals.delivered += ranges.len();
        let known = self.queues.get(&key).map_or((0, u64::MAX), |queue| (queue.max, queue.max));
        if ranges.end().is_some_and(|end| end > known.1) {
            self.unexpected(group, key, ranges, known.0);
        }
        let wall_ms = self.now.wall_ms;
        let found = self.with_group_queue(group, key, |books, bounds, out| {
            books.read_wall_ms = wall_ms;
            for (a, b) in ranges.iter() {
                books.delivered(a, b.min(bounds.max), lease, out);
            }
        });
        if !found {
            self.totals.unmatched += 1;
        }
    }

    /// Offsets nobody told us of were handed out. After a gap that is explained; otherwise somebody must hear of it.
    fn unexpected(&mut self, group: &Name, key: QueueKey, ranges: &Ranges, max: u64) {
        let end = ranges.end().unwrap_or(max);
        if self.gap_count > 0 {
            let hidden = end - max;
            if let Some(queue) = self.queues.get_mut(&key) {
                queue.extend(end, end, self.epoch);
            }
            self.store.stored += hidden;
            self.store.flushed += hidden;
            self.queue_changed(key);
            return;
        }
        for (from, to) in ranges.within(max, end).iter() {
            let span = Span { queue: key, from, to, epoch: self.epoch };
            self.emit(What::Unexpected { group: group.clone(), span });
        }
    }

    fn filtered(&mut self, group: &Name, key: QueueKey, ranges: &Ranges, filter: &Name) {
        self.totals.filtered += ranges.len();
        self.each_range(group, key, ranges, |books, a, b, bounds, _| {
            books.filtered(a, b, bounds);
        });
        let Some(topic) = self.topics.get(&key.topic).map(|topic| topic.configured.name.clone()) else {
            return;
        };
        let Some(books) = self.groups.get(group).filter(|books| books.conflicts.contains(&topic)) else {
            return;
        };
        let Some(owed) = books.queues.get(&key) else { return };
        let others: Vec<Name> = books.expressions(&topic).into_iter().filter(|e| e != filter).collect();
        if others.is_empty() {
            return;
        }
        let passed: Vec<(u64, u64)> = ranges.iter().flat_map(|(a, b)| owed.passed_over(a, b)).collect();
        for (from, to) in passed {
            for (from, to, epoch) in self.queues.get(&key).map(|q| q.by_epoch(from, to)).unwrap_or_default() {
                let span = Span { queue: key, from, to, epoch };
                let (group, topic, filter, others) =
                    (group.clone(), topic.clone(), filter.clone(), others.clone());
                self.emit(What::ConflictFiltered { group, topic, span, filter, others });
            }
        }
    }

    fn given_back(&mut self, group: &Name, key: QueueKey, ranges: &Ranges, state: State) {
        self.each_range(group, key, ranges, |books, a, b, bounds, out| {
            books.given_back((a, b), state, bounds, out);
        });
    }

    fn offset_moved(&mut self, group: &Name, key: QueueKey, span: (u64, u64), why: (MoveReason, &Name)) {
        let (from, to) = span;
        let (reason, actor) = why;
        if reason == MoveReason::Commit {
            self.totals.acked += to.saturating_sub(from);
        }
        let Some(queue) = self.queues.get_mut(&key) else {
            self.totals.unmatched += 1;
            return;
        };
        let bounds = Self::bounds(queue, self.ended_runs_max, self.now.wall_ms);
        if to > queue.max && !queue.reuse_watch {
            queue.reuse_watch = true;
            self.queue_changed(key);
        }
        let Some(books) = self.groups.get_mut(group) else { return };
        books.active_wall_ms = self.now.wall_ms;
        if !books.dirty {
            books.dirty = true;
            self.stale.insert(Stale::Group(group.clone()));
        }
        let Some(books) = books.queues.get_mut(&key) else {
            self.totals.unmatched += 1;
            return;
        };
        if !books.dirty {
            books.dirty = true;
            let row = key.queue_id / QUEUES_PER_ROW;
            self.stale.insert(Stale::GroupQueues(group.clone(), key.topic, row));
        }
        books.moved(from, to, reason, bounds, &mut self.changes);
        self.pass_on(group, key, actor);
    }

    fn group_state(&mut self, group: &Name, key: QueueKey, position: u64, ranges: (&Ranges, &Ranges)) {
        let (delivered, settled) = ranges;
        let delivered: Vec<_> = delivered.iter().collect();
        let settled: Vec<_> = settled.iter().collect();
        self.with_group_queue(group, key, |books, bounds, _| {
            books.restated(position, &delivered, &settled, bounds);
        });
    }

    pub(super) fn queue_state(&mut self, key: QueueKey, min: u64, max: u64) {
        let epoch = self.epoch;
        let queue = self.queues.entry(key).or_default();
        if queue.epochs.is_empty() && queue.max == 0 {
            queue.min = min;
            queue.max = min;
        }
        let old_max = queue.max;
        let (_, hidden) = queue.extend(max.max(old_max), max.max(old_max), epoch);
        self.store.stored += hidden;
        self.store.flushed += hidden;
        self.queue_changed(key);
        if hidden > 0 {
            self.hidden_above(key, old_max, max);
        }
        self.expired(key, 0, min);
    }

    fn hidden_above(&mut self, key: QueueKey, old_max: u64, max: u64) {
        let owners = self.queues.get(&key).map(|queue| queue.owners.clone()).unwrap_or_default();
        for owner in owners {
            self.with_group_queue(&owner, key, |books, bounds, out| {
                if books.position > old_max {
                    books.pass_hidden(max, bounds, out);
                }
            });
        }
    }

    pub(super) fn expired(&mut self, key: QueueKey, _from: u64, to: u64) {
        let Some(queue) = self.queues.get_mut(&key) else { return };
        let old_min = queue.min;
        let gone = queue.expire(to);
        if gone == 0 {
            return;
        }
        self.totals.expired += gone;
        let bounds = Self::bounds(queue, self.ended_runs_max, self.now.wall_ms);
        let owners = queue.owners.clone();
        self.queue_changed(key);
        let dead_letters = self.topic_name(key.topic).starts_with("%DLQ%");
        let class = if dead_letters { Class::DlqExpired } else { Class::ExpiredBeforeConsumption };
        if dead_letters {
            self.dead_letters_expired(key, (old_min, bounds.min), &owners);
        }
        for owner in owners {
            let idle =
                self.groups.get(&owner).is_some_and(|g| g.is_idle(self.now.wall_ms, self.idle_after_ms));
            let active = self.groups.get(&owner).map_or(0, |group| group.active_wall_ms);
            self.with_group_queue(&owner, key, |books, bounds, out| {
                books.expired((!idle).then_some(class), bounds, out);
            });
            // what retention does is no sign of life
            if let Some(group) = self.groups.get_mut(&owner) {
                group.active_wall_ms = active;
            }
        }
        self.timers_expired(key, (old_min, bounds.min));
    }

    fn timers_expired(&mut self, key: QueueKey, span: (u64, u64)) {
        let gone: Vec<(u64, Name)> =
            self.timers.within(key, span.0, span.1).map(|(offset, t)| (offset, t.group.clone())).collect();
        for (offset, group) in gone {
            self.timers.take(key, offset);
            let epoch = self.queues.get(&key).map_or(0, |queue| queue.epoch_of(offset));
            let span = Span { queue: key, from: offset, to: offset + 1, epoch };
            let class = Class::ExpiredBeforeConsumption;
            let ids = self.recent.of(&span);
            self.emit(What::Lost { class, group, span, actor: "".into(), ids });
        }
    }

    /// Dead letters below the new minimum: expired, unless a subscriber of the dead-letter topic had settled them.
    fn dead_letters_expired(&mut self, key: QueueKey, span: (u64, u64), owners: &[Name]) {
        let group: Name = self.topic_name(key.topic).trim_start_matches("%DLQ%").into();
        let Some(books) = self.groups.get(&group) else { return };
        let waiting: Vec<u64> = books
            .dead_letters
            .within(key, span.0, span.1)
            .filter(|letter| letter.outcome == Outcome::Waiting)
            .map(|letter| letter.copy.queue_offset)
            .collect();
        let mut lost = Ranges::new();
        for offset in waiting {
            let taken = owners.iter().filter_map(|owner| self.groups.get(owner)?.queues.get(&key));
            if !taken.into_iter().any(|books| books.has_taken(offset)) {
                lost.insert(offset, offset + 1);
            }
        }
        for (from, to) in lost.iter() {
            for offset in from..to {
                if let Some(books) = self.groups.get_mut(&group) {
                    books.dead_letters.end(key, offset, Outcome::Expired);
                    books.dirty = true;
                    self.stale.insert(Stale::Group(group.clone()));
                }
            }
            let epoch = self.queues.get(&key).map_or(0, |queue| queue.epoch_of(from));
            let span = Span { queue: key, from, to, epoch };
            let ids = self.recent.of(&span);
            self.emit(What::DlqExpired { group: group.clone(), span, ids });
        }
    }

    /// Groups that owe queues, per topic.
    pub fn owing(&self) -> BTreeMap<TopicIncarnation, BTreeSet<&Name>> {
        let mut owing: BTreeMap<TopicIncarnation, BTreeSet<&Name>> = BTreeMap::new();
        for (name, group) in &self.groups {
            for key in group.queues.keys() {
                owing.entry(key.topic).or_default().insert(name);
            }
        }
        owing
    }
}
