//! Owns what a power cut would take: messages stored and not yet known to be on disk, with their client ids, oldest first.
//! Memory is bounded: beyond the limit newer messages stay counted and ranged, but lose their names.

use crate::fold::event::{NamedMessage, Span};
use lifecycle::fact::{Stored, StoredRun};
use lifecycle::identity::{CopyReason, LogPosition, MessageIdentity, Name, QueueKey};
use lifecycle::ids::IdColumn;
use std::collections::VecDeque;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of client ids.
    pub id_bytes: usize,
    /// Runs kept apart; beyond it turns join the newest one.
    pub runs: usize,
    /// Copies known as such; one that is lost beyond it is told as any message.
    pub copies: usize,
}

/// Of what is not on disk yet.
pub const UNFLUSHED: Limits = Limits { id_bytes: 48 << 20, runs: 1 << 18, copies: 1 << 16 };

/// The messages of one turn (or more, beyond the limit).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Unflushed {
    /// Number of the first within its run's stored messages.
    pub first_ordinal: u64,
    /// The commit log's end after them.
    pub log_end: LogPosition,
    /// How many of them count as newly stored.
    pub counted: u64,
    /// Where they are.
    pub runs: Vec<StoredRun>,
    /// Their ids; empty when they have none or the limit is reached.
    pub ids: IdColumn,
    /// Those that are copies: a copy that recovery takes is made again, its debt does not end.
    pub copies: Vec<UnflushedCopy>,
}

/// A copy that is not known to be on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnflushedCopy {
    /// Where it is.
    pub at: MessageIdentity,
    /// Its group; empty for all.
    pub group: Name,
    /// What it was made of.
    pub parent: MessageIdentity,
    /// Why.
    pub reason: CopyReason,
}

impl Unflushed {
    /// How many messages.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Each run with the index of its first message.
    pub fn indexed_runs(&self) -> impl Iterator<Item = (u64, StoredRun)> + '_ {
        self.runs.iter().scan(0, |at, run| {
            let index = *at;
            *at += run.count;
            Some((index, *run))
        })
    }
}

/// Messages not yet known to be on disk, of one source.
#[derive(Clone, Debug)]
pub struct UnflushedQueue {
    limits: Limits,
    entries: VecDeque<Unflushed>,
    id_bytes: usize,
    run_count: usize,
    copy_count: usize,
    counted: u64,
    /// Messages whose names did not fit.
    pub unnamed: u64,
    /// Entries ever taken out: the number of the oldest entry.
    pub first_number: u64,
}

impl Default for UnflushedQueue {
    fn default() -> Self {
        UnflushedQueue::new(UNFLUSHED)
    }
}

impl UnflushedQueue {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        let (entries, id_bytes, run_count, copy_count) = Default::default();
        UnflushedQueue {
            limits,
            entries,
            id_bytes,
            run_count,
            copy_count,
            counted: 0,
            unnamed: 0,
            first_number: 0,
        }
    }

    /// Adds what was stored; `counted` of it is new.
    pub fn push(&mut self, stored: &Stored, counted: u64) {
        let entry = Unflushed {
            first_ordinal: stored.first_ordinal,
            log_end: stored.log_end,
            counted,
            runs: stored.runs.clone(),
            ids: stored.ids.clone(),
            copies: Vec::new(),
        };
        self.put(entry);
    }

    /// Adds an entry (also one read back from its row).
    pub fn put(&mut self, mut entry: Unflushed) {
        if self.id_bytes + entry.ids.byte_len() + 4 * entry.ids.len() > self.limits.id_bytes {
            self.unnamed += entry.ids.len() as u64;
            entry.ids = IdColumn::new();
        }
        entry.copies.truncate(self.limits.copies.saturating_sub(self.copy_count));
        self.copy_count += entry.copies.len();
        self.counted += entry.counted;
        if self.run_count >= self.limits.runs
            && let Some(last) = self.entries.back_mut()
        {
            // joined turns no longer align with their ids, so the names go and only the count stays
            self.unnamed += (last.ids.len() + entry.ids.len()) as u64;
            self.id_bytes -= last.ids.byte_len() + 4 * last.ids.len();
            last.ids = IdColumn::new();
            join(last, entry);
            return;
        }
        self.id_bytes += entry.ids.byte_len() + 4 * entry.ids.len();
        self.run_count += entry.runs.len();
        self.entries.push_back(entry);
    }

    /// Notes that a message of the newest entry is a copy.
    pub fn note_copy(&mut self, copy: UnflushedCopy) {
        if self.copy_count < self.limits.copies
            && let Some(last) = self.entries.back_mut()
        {
            last.copies.push(copy);
            self.copy_count += 1;
        }
    }

    /// Takes the oldest entry if it ends at or below `log_position`.
    pub fn pop_flushed(&mut self, log_position: LogPosition) -> Option<Unflushed> {
        if self.entries.front().is_none_or(|entry| entry.log_end > log_position) {
            return None;
        }
        self.pop()
    }

    /// Takes the oldest entry.
    pub fn pop(&mut self) -> Option<Unflushed> {
        let entry = self.entries.pop_front()?;
        self.id_bytes -= entry.ids.byte_len() + 4 * entry.ids.len();
        self.run_count -= entry.runs.len().min(self.run_count);
        self.copy_count -= entry.copies.len();
        self.counted -= entry.counted;
        self.first_number += 1;
        Some(entry)
    }

    /// The entries, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Unflushed> {
        self.entries.iter()
    }

    /// The entries with their numbers, from `number` on. Numbers are never used again.
    pub fn numbered_from(&self, number: u64) -> impl Iterator<Item = (u64, &Unflushed)> {
        let skip = usize::try_from(number.saturating_sub(self.first_number)).unwrap_or(usize::MAX);
        (self.first_number..).zip(&self.entries).skip(skip)
    }

    /// Messages counted as stored and not flushed.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Messages with an ordinal below `end`.
    pub fn below_ordinal(&self, end: u64) -> u64 {
        self.entries.iter().map(|e| end.saturating_sub(e.first_ordinal).min(e.count())).sum()
    }

    /// Sends whose answer was not decided yet: ordinals from `answered_end` on, without copies (nobody waits for those).
    pub fn unanswered(&self, answered_end: u64) -> u64 {
        let later = self.entries.iter().filter(|e| e.first_ordinal >= answered_end);
        later.map(|e| e.count() - (e.copies.len() as u64).min(e.count())).sum()
    }

    /// Whether this offset is still waiting for the disk.
    pub fn contains(&self, queue: QueueKey, offset: u64) -> bool {
        self.entries.iter().flat_map(|e| &e.runs).any(|run| {
            run.queue == queue && run.queue_offset <= offset && offset < run.queue_offset + run.count
        })
    }

    /// The ordinal of a message that is still waiting for the disk.
    pub fn ordinal_of(&self, queue: QueueKey, offset: u64) -> Option<u64> {
        self.entries.iter().find_map(|entry| {
            let mut runs = entry.indexed_runs();
            let held = |run: &StoredRun| (run.queue_offset..run.queue_offset + run.count).contains(&offset);
            let (index, run) = runs.find(|(_, run)| run.queue == queue && held(run))?;
            Some(entry.first_ordinal + index + (offset - run.queue_offset))
        })
    }

    /// Where the log ended after the turn of this message.
    pub fn log_end_of(&self, ordinal: u64) -> Option<LogPosition> {
        let index = self.entries.partition_point(|e| e.first_ordinal + e.count() <= ordinal);
        self.entries.get(index).filter(|e| e.first_ordinal <= ordinal).map(|e| e.log_end)
    }

    /// Where the messages with ordinals `from..to` are, and their ids.
    pub fn by_ordinal(&self, from: u64, to: u64, epoch: u64) -> (Vec<Span>, Vec<NamedMessage>) {
        let mut spans = Vec::new();
        let mut named = Vec::new();
        let first = self.entries.partition_point(|e| e.first_ordinal + e.count() <= from);
        for entry in self.entries.iter().skip(first).take_while(|e| e.first_ordinal < to) {
            for (index, run) in entry.indexed_runs() {
                let start = entry.first_ordinal + index;
                let a = from.max(start) - start;
                let b = to.min(start + run.count).saturating_sub(start);
                if a >= b {
                    continue;
                }
                spans.push(Span {
                    queue: run.queue,
                    from: run.queue_offset + a,
                    to: run.queue_offset + b,
                    epoch,
                });
                name_messages(entry, index, &run, (a, b), epoch, &mut named);
            }
        }
        (spans, named)
    }
}

/// Appends the names of messages `range` of a run that starts at `index` in its entry.
pub fn name_messages(
    entry: &Unflushed,
    index: u64,
    run: &StoredRun,
    range: (u64, u64),
    epoch: u64,
    out: &mut Vec<NamedMessage>,
) {
    for n in range.0..range.1 {
        if out.len() >= crate::fold::event::EVENT_IDS_MAX {
            return;
        }
        let Some(id) = entry.ids.get((index + n) as usize).filter(|id| !id.is_empty()) else { continue };
        out.push(NamedMessage {
            id: String::from_utf8_lossy(id).as_ref().into(),
            identity: MessageIdentity {
                queue: run.queue,
                queue_offset: run.queue_offset + n,
                epoch_number: epoch,
            },
        });
    }
}

fn join(last: &mut Unflushed, entry: Unflushed) {
    last.log_end = last.log_end.max(entry.log_end);
    last.counted += entry.counted;
    last.copies.extend(entry.copies);
    for run in entry.runs {
        let neighbour = last
            .runs
            .iter_mut()
            .find(|r| r.queue == run.queue && r.queue_offset + r.count == run.queue_offset);
        match neighbour {
            Some(before) => before.count += run.count,
            None => last.runs.push(run),
        }
    }
}
