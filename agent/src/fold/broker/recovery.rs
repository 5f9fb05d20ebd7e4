//! Owns what the broker's books do when a new run says what recovery kept. What lies at or above a recovered end is gone: by
//! name where we had heard the names, by range where we had heard the offsets, else within the stated bound.

use super::replicating::Gone;
use super::{BrokerBooks, EPOCHS_MAX, MISSING_COPIES_MAX, UnnamedWindow};
use crate::fold::class::Class;
use crate::fold::event::{EVENT_IDS_MAX, NamedMessage, Span, What};
use crate::fold::group_queue::GroupQueue;
use crate::fold::timers::Timer;
use crate::fold::unflushed::{UnflushedCopy, name_messages};
use lifecycle::fact::Recovered;
use lifecycle::identity::{CopyReason, Incarnation, LogPosition, Name, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;

/// Most queues named as places of messages that have no name.
const WINDOWS_MAX: usize = 4_096;

impl BrokerBooks {
    /// `promoted`: the member whose epoch begins after this recovery; empty: not stated.
    pub(super) fn recovered(&mut self, recovered: &Recovered, promoted: &Name) {
        let unnamed = self.close_runs(recovered);
        // frames that tell only of deliveries and commits are taken even where every stored message had been heard of
        let untold = !recovered.clean && recovered.unnamed_max > 0;
        if untold {
            self.doubt_passed();
        }
        let cuts = self.cuts(recovered, unnamed > 0);
        let closed_epoch = self.epoch;
        let copies = self.take_lost_copies(&cuts, promoted);
        let before = self.before_recovery(recovered, promoted);
        if !before.promoted.is_empty() {
            self.other_copy(&recovered.bad);
        }
        let (mut tail, mut bad) = (Gone::default(), Gone::default());
        let mut windows = Vec::new();
        let mut lost: BTreeMap<QueueKey, Ranges> = BTreeMap::new();
        for (key, (min, end)) in &cuts {
            // what was stored without our hearing of it lies behind everything we have heard of
            if unnamed > 0 && windows.len() < WINDOWS_MAX {
                if *end == 0 {
                    // its first messages may have gone unheard
                    self.queues.entry(*key).or_default();
                }
                let from = self.queues.get(key).map_or(0, |queue| queue.max).max(*end);
                windows.push(Span {
                    queue: *key,
                    from,
                    to: from.saturating_add(unnamed),
                    epoch: closed_epoch,
                });
            }
            let Some(queue) = self.queues.get(key) else { continue };
            let gone = queue.by_epoch((*end).max(queue.min), queue.max);
            let remade = copies.get(key).cloned().unwrap_or_default();
            // bad records were lost, and told, at an earlier recovery
            let mut silent = queue.bad.clone();
            for (a, b, epoch) in &gone {
                self.store.lost += silent.missing(*a, *b).len();
                silent.union(&remade);
                for (from, to) in silent.missing(*a, *b).iter() {
                    tail.spans.push(Span { queue: *key, from, to, epoch: *epoch });
                    lost.entry(*key).or_default().insert(from, to);
                }
                silent = queue.bad.clone();
            }
            self.cut_queue((*key, *min, *end), closed_epoch, &remade, unnamed, untold);
        }
        for (key, ranges) in &recovered.bad {
            for span in self.bad_records(*key, ranges) {
                self.store.lost += span.to - span.from;
                bad.spans.push(span);
                lost.entry(*key).or_default().insert(span.from, span.to);
            }
        }
        tail.named = self.take_unflushed(&lost);
        if !lost.is_empty() {
            self.recent.clear();
        }
        if !before.promoted.is_empty() {
            self.not_replicated(recovered, &mut tail, &before);
        }
        let ends_early = if before.lied { Class::FlushLied } else { Class::CorruptedAtRest };
        self.flushed_and_gone(ends_early, &mut tail, &before);
        self.flushed_and_gone(Class::CorruptedAtRest, &mut bad, &before);
        self.replication.cut(recovered.log_end, &lost);
        self.unheard_to = LogPosition::default();
        let lost = tail.len() + bad.len();
        let Gone { mut spans, named } = tail;
        spans.append(&mut bad.spans);
        // what recovery kept is on disk, the rest is lost
        let flushed = self.store.stored.saturating_sub(self.store.lost);
        self.totals.flushed += flushed.saturating_sub(self.store.flushed);
        self.store.flushed = flushed;
        if unnamed > 0 {
            self.unnamed = self.unnamed.saturating_add(unnamed);
            if self.unnamed_windows.len() >= EPOCHS_MAX {
                self.unnamed_windows.remove(0);
            }
            self.unnamed_windows.push(UnnamedWindow {
                messages: unnamed,
                epoch: closed_epoch,
                incarnation: self.at.incarnation,
                heard_wall_ms: self.heard_wall_ms,
                opened_wall_ms: self.now.wall_ms,
            });
        }
        if lost > 0 || unnamed > 0 {
            let clean = recovered.clean;
            self.emit(What::StoreLost { closed_epoch, spans, named, lost, unnamed, windows, clean });
        }
    }

    /// Closes earlier runs; returns how many messages may be gone without a name.
    fn close_runs(&mut self, recovered: &Recovered) -> u64 {
        let had_runs = self.runs.len() > 1;
        let mut known_beyond = 0;
        for (incarnation, last) in &recovered.closed {
            match self.runs.get(incarnation).copied() {
                Some(run) => {
                    if run.applied < *last {
                        self.note_gap(*incarnation, run.applied + 1, *last);
                        self.give_up(*incarnation, *last);
                    }
                    let above = self.above_flush.iter().filter(|(sequence, _)| sequence > last);
                    known_beyond += above.map(|(_, stored)| stored).sum::<u64>();
                }
                None if had_runs && *last > 0 && !self.is_old(*incarnation, recovered) => {
                    self.note_gap(*incarnation, 1, *last);
                    self.give_up(*incarnation, *last);
                }
                None => {}
            }
        }
        self.above_flush.clear();
        if recovered.clean { 0 } else { recovered.unnamed_max.saturating_sub(known_beyond) }
    }

    /// Nothing of a closed run will come any more: its gap is noted once.
    fn give_up(&mut self, incarnation: Incarnation, last: u64) {
        let run = self.runs.entry(incarnation).or_default();
        run.applied = run.applied.max(last);
        run.closed = true;
    }

    /// Whether a closed run came before the first one we know: our evidence simply starts later.
    fn is_old(&self, incarnation: Incarnation, recovered: &Recovered) -> bool {
        let place = |wanted| recovered.closed.iter().position(|(closed, _)| *closed == wanted);
        let first_known = recovered.closed.iter().position(|(closed, _)| self.runs.contains_key(closed));
        place(incarnation) < first_known
    }

    /// Lowest offset and end of every queue after recovery; `all`: of those that never held anything we heard of, too.
    fn cuts(&self, recovered: &Recovered, all: bool) -> BTreeMap<QueueKey, (u64, u64)> {
        let mut cuts: BTreeMap<QueueKey, (u64, u64)> =
            recovered.queues.iter().map(|(key, min, end)| (*key, (*min, *end))).collect();
        if !recovered.clean {
            // a queue recovery does not know lost everything it had
            for (key, queue) in &self.queues {
                cuts.entry(*key).or_insert((queue.min, queue.min));
            }
        }
        for (topic, known) in self.topics.iter().filter(|_| all) {
            let queues = known.configured.read_queues.max(known.configured.write_queues);
            for queue_id in 0..queues {
                if cuts.len() >= WINDOWS_MAX {
                    return cuts;
                }
                cuts.entry(QueueKey { topic: *topic, queue_id }).or_insert((0, 0));
            }
        }
        cuts
    }

    /// Copies among what recovery took: the broker makes them again, so their debts are not over. A due copy's record waits
    /// in the schedule again.
    fn take_lost_copies(
        &mut self,
        cuts: &BTreeMap<QueueKey, (u64, u64)>,
        promoted: &Name,
    ) -> BTreeMap<QueueKey, Ranges> {
        let class = match self.is_replaced_by(promoted) {
            true => Class::NotReplicatedAtFailover,
            false => Class::StoredNotFlushedLost,
        };
        let mut taken: BTreeMap<QueueKey, Ranges> = BTreeMap::new();
        let mut lost = Vec::new();
        let kept = self.replication.waiting.iter().chain(self.unflushed.iter());
        for copy in kept.flat_map(|entry| &entry.copies) {
            let gone = cuts.get(&copy.at.queue).is_some_and(|(_, end)| copy.at.queue_offset >= *end);
            if gone {
                lost.push(copy.clone());
            }
        }
        for UnflushedCopy { at, group, parent, reason } in lost {
            taken.entry(at.queue).or_default().insert(at.queue_offset, at.queue_offset + 1);
            let parent_gone = cuts.get(&parent.queue).is_some_and(|(_, end)| parent.queue_offset >= *end);
            if parent_gone || self.missing_copies.len() >= MISSING_COPIES_MAX {
                continue;
            }
            if reason == CopyReason::Due {
                let timer = Timer { due_wall_ms: self.now.wall_ms, group: group.clone() };
                self.timers.put(parent.queue, parent.queue_offset, timer);
            }
            let (from, to) = (at.queue_offset, at.queue_offset + 1);
            let copy = Span { queue: at.queue, from, to, epoch: at.epoch_number };
            self.missing_copies.insert((group.clone(), parent, reason));
            self.emit(What::CopyLost { class, group, copy, parent, reason });
        }
        taken
    }

    /// What was told of deliveries after the last frame we heard is lost: of what groups had passed over a moment before, nobody
    /// knows whether it was read after all.
    pub(super) fn doubt_passed(&mut self) {
        let heard_wall_ms = self.heard_wall_ms;
        let passed = |books: &GroupQueue| books.may_be_read_yet(heard_wall_ms);
        let doubted: Vec<(Name, QueueKey)> = self
            .groups
            .iter()
            .flat_map(|(group, books)| books.queues.iter().map(move |(key, books)| (group, key, books)))
            .filter(|(_, _, books)| passed(books))
            .map(|(group, key, _)| (group.clone(), *key))
            .collect();
        for (group, key) in doubted {
            self.with_group_queue(&group, key, |books, _, out| books.doubt_passed(out));
        }
    }

    fn cut_queue(
        &mut self,
        kept: (QueueKey, u64, u64),
        closed_epoch: u64,
        remade: &Ranges,
        unnamed: u64,
        untold: bool,
    ) {
        let (key, min, end) = kept;
        let Some(queue) = self.queues.get_mut(&key) else { return };
        let old_max = queue.max;
        queue.recover(min, end, closed_epoch, unnamed);
        let hidden = queue.max.saturating_sub(old_max);
        let owners = queue.owners.clone();
        if untold {
            // what was told last of deliveries and commits did not survive
            queue.untrusted_below = queue.untrusted_below.max(end);
        }
        self.store.stored += hidden;
        self.store.flushed += hidden;
        self.queue_changed(key);
        if untold || end < old_max {
            let reach = old_max.max(end).saturating_add(unnamed);
            for owner in &owners {
                self.with_group_queue(owner, key, |books, _, _| books.may_have_passed(end, reach));
            }
        }
        if end >= old_max {
            return;
        }
        self.slots_touched.insert((key.topic, Some(key.queue_id)));
        let mut above = false;
        for owner in &owners {
            self.with_group_queue(owner, key, |books, bounds, _| {
                books.cut(end, old_max, remade, bounds);
                above |= books.position > end;
            });
        }
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.reuse_watch = above;
        }
        let timers: Vec<u64> = self.timers.within(key, end, old_max).map(|(offset, _)| offset).collect();
        for offset in timers {
            self.timers.take(key, offset);
        }
        let dead_letters = self.topic_name(key.topic).strip_prefix("%DLQ%").map(str::to_owned);
        if let Some(group) = dead_letters {
            self.group_mut(&group.as_str().into()).dead_letters.cut(key, end);
        }
    }

    /// Records below the end that did not survive, as far as that is news.
    pub(super) fn bad_records(&mut self, key: QueueKey, ranges: &Ranges) -> Vec<Span> {
        let Some(queue) = self.queues.get_mut(&key) else { return Vec::new() };
        let mut news = Vec::new();
        for (from, to) in ranges.iter() {
            for (a, b) in queue.bad.missing(from.max(queue.min), to.min(queue.max)).iter() {
                news.push((a, b));
            }
        }
        for (a, b) in &news {
            queue.bad.insert(*a, *b);
            queue.lost += b - a;
        }
        let pieces = news.iter().flat_map(|(a, b)| queue.by_epoch(*a, *b));
        let spans = pieces.map(|(from, to, epoch)| Span { queue: key, from, to, epoch }).collect();
        let owners = queue.owners.clone();
        self.queue_changed(key);
        for owner in &owners {
            self.with_group_queue(owner, key, |books, bounds, out| {
                for (a, b) in &news {
                    books.bad(*a, *b, bounds, out);
                }
            });
        }
        spans
    }

    /// Empties what waits for disk or replicas: its lost messages by name; the survivors are on disk, so that risk is over.
    fn take_unflushed(&mut self, lost: &BTreeMap<QueueKey, Ranges>) -> Vec<NamedMessage> {
        let mut named = Vec::new();
        let mut safe = Vec::new();
        let at_risk = std::mem::take(&mut self.at_risk);
        while let Some(entry) = self.replication.waiting.pop().or_else(|| self.unflushed.pop()) {
            for (index, run) in entry.indexed_runs() {
                let (from, to) = (run.queue_offset, run.queue_offset + run.count);
                let epoch = self.epoch;
                if let Some(gone) = lost.get(&run.queue)
                    && named.len() < EVENT_IDS_MAX
                {
                    for (a, b) in gone.within(from, to).iter() {
                        name_messages(&entry, index, &run, (a - from, b - from), epoch, &mut named);
                    }
                }
                let start = entry.first_ordinal + index;
                for (a, b) in at_risk.within(start, start + run.count).iter() {
                    safe.push(Span { queue: run.queue, from: from + a - start, to: from + b - start, epoch });
                }
            }
        }
        if !safe.is_empty() {
            self.emit(What::RiskOver { spans: safe });
        }
        named
    }
}
