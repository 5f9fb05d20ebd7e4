//! Reads this member's copy of the log back, in rounds from the oldest byte to what was on disk when the round began, and says what
//! it found. Reading happens on another thread, a bounded piece at a time and not faster than configured; what stood at a damaged
//! place is then looked up in the consume queues, a bounded number of queues in each turn. Never repairs and never guesses: bytes
//! that no queue names are stated as such, with the most records they can have held. A start that comes upon damage below the last
//! snapshot names it in the same way: recovery itself only names what it dispatches.
//!
//! Nothing above the flushed mark is judged, nor below the log's first byte when the answer comes: what retention or a cut took
//! meanwhile is no finding. Each damaged byte is stated once.
//!
//! Crash story: how far a round is, and which bytes were stated as damaged, is kept in a checkpoint of this folder (`scrub.0`,
//! `scrub.1`): it is about this copy, whatever part its member plays, so it is in neither the state nor its snapshots, which replicas
//! share. It is saved after the frame that states it is on disk. After a crash in between some of it is read, or stated, again; an
//! agent knows what it knows. A round goes on where its last statement ended.

mod kept;
mod naming;

use super::Core;
use super::snapshot::Job;
use kept::Kept;
use lifecycle::clock::Now;
use lifecycle::fact::{Fact, Scrubbed};
use lifecycle::identity::{LogPosition, Name, QueueKey};
use lifecycle::ranges::Ranges;
use naming::Naming;
use store::checkpoint::Checkpoint;
use store::commit_log::HEADER_LEN;
use store::commit_log::readback::{Place, ReadBack, Readback};
use store::consume_queue::Unit;
use store::error::Result as StoreResult;

/// Most bytes one order reads, but for its last record: bounds what is in memory, and how long a thread is busy.
const ORDER_BYTES_MAX: u64 = 1 << 20;
/// Fewest: smaller pieces would cost more than they read.
const ORDER_BYTES_MIN: u64 = 64 * 1024;
/// Pieces in which a second's worth of bytes is read.
const ORDERS_PER_SECOND: u64 = 4;
/// A start has enough to read: no round begins, or goes on, sooner after it.
const FIRST_ORDER_MS: u64 = 60_000;
/// Pause after reading failed for a reason that is not the disk's.
const RETRY_MS: u64 = 10_000;

/// Where reading back stands.
pub(super) struct ScrubState {
    /// Out while a job is under way.
    checkpoint: Option<Checkpoint>,
    kept: Kept,
    /// An open damaged place; else reading goes on at `kept.at`.
    place: Place,
    /// Read and not stated from here on.
    stated_to: LogPosition,
    naming: Option<Naming>,
    prepared: Option<Readback>,
    /// What is being read was cut meanwhile.
    is_void: bool,
    next_ms: u64,
    /// To be saved once this frame is on disk.
    unsaved: Option<u64>,
}

/// Reads a piece, saves what was kept, or both.
pub struct ScrubJob {
    read: Option<Readback>,
    checkpoint: Checkpoint,
    save: Option<Vec<u8>>,
}

/// What came of it.
pub struct ScrubDone {
    found: Option<ReadBack>,
    checkpoint: Checkpoint,
    saved: StoreResult<()>,
}

impl ScrubJob {
    /// Does it, on whatever thread.
    pub(super) fn run(self) -> ScrubDone {
        let ScrubJob { read, mut checkpoint, save } = self;
        let saved = save.map_or(Ok(()), |payload| checkpoint.save(&payload).map(drop));
        ScrubDone { found: read.map(|order| order.run()), checkpoint, saved }
    }
}

impl ScrubState {
    /// Opens what the folder keeps of earlier runs.
    pub(super) fn open(
        disk: &dyn store::disk::Disk,
        dir: &std::path::Path,
        (interval_ms, now): (u64, Now),
    ) -> StoreResult<ScrubState> {
        let (checkpoint, saved, _) = Checkpoint::open(disk, dir, "scrub")?;
        let kept = saved.and_then(|saved| {
            let kept = Kept::decode(&saved.payload);
            if kept.is_none() {
                tracing::warn!("what was kept of reading the log back cannot be read: it begins anew");
            }
            kept
        });
        let kept = kept.unwrap_or_default();
        let first = now.mono_ms + interval_ms.min(FIRST_ORDER_MS);
        let left =
            kept.round_wall_ms.saturating_add(interval_ms).saturating_sub(now.wall_ms).min(interval_ms);
        let next_ms = if kept.is_over { first.max(now.mono_ms + left) } else { first };
        let place = Place { at: LogPosition(kept.at), damaged_from: None };
        Ok(ScrubState {
            checkpoint: Some(checkpoint),
            stated_to: place.at,
            place,
            kept,
            naming: None,
            prepared: None,
            is_void: false,
            next_ms,
            unsaved: None,
        })
    }

    /// Recovery found these bytes damaged, and has said which messages they were.
    pub(super) fn knows(&mut self, damaged: &[(u64, u64)]) {
        for (from, to) in damaged {
            self.kept.damaged.insert(*from, *to);
            self.unsaved.get_or_insert(0);
        }
    }

    /// The log was cut: nothing is known of what will stand above.
    pub(super) fn cut(&mut self, end: LogPosition) {
        self.kept.damaged.remove(end.0, u64::MAX);
        self.kept.end = self.kept.end.min(end.0);
        if let Some(first) = self.naming.take().and_then(|naming| naming.first()) {
            self.place = Place { at: first, damaged_from: None };
        }
        if let Some(from) = self.place.damaged_from.take() {
            self.place.at = from;
        }
        self.place.at = self.place.at.min(end);
        self.stated_to = self.stated_to.min(end);
        self.prepared = None;
        self.is_void = self.checkpoint.is_none();
    }

    /// What the checkpoint is to hold now.
    fn payload(&self) -> Vec<u8> {
        Kept { at: self.stated_to.0, ..self.kept.clone() }.encode()
    }
}

impl Core {
    /// Names what was found, and prepares the next piece when it is time.
    pub(super) fn scrub_due(&mut self, now: Now) {
        if let Some(naming) = self.scrub.naming.take() {
            self.name_damaged(now, naming);
        }
        let interval_ms = self.config.scrub_interval_ms;
        let scrub = &self.scrub;
        let busy = scrub.naming.is_some() || scrub.prepared.is_some() || scrub.checkpoint.is_none();
        if interval_ms == 0 || busy || now.mono_ms < scrub.next_ms {
            return;
        }
        let start = self.log.start();
        if self.scrub.kept.is_over {
            self.begin_round(now);
        }
        if self.scrub.place.at < start {
            self.scrub.place = Place { at: start, damaged_from: None };
            self.scrub.stated_to = self.scrub.stated_to.max(start);
        }
        let to = self.scrubbable_to().min(LogPosition(self.scrub.kept.end));
        if self.scrub.place.at >= to {
            return self.end_round(now);
        }
        let bytes =
            (self.config.scrub_bytes_per_second / ORDERS_PER_SECOND).clamp(ORDER_BYTES_MIN, ORDER_BYTES_MAX);
        self.scrub.prepared = Some(self.log.read_back(&self.disk, self.scrub.place, (to, bytes)));
    }

    /// Below, everything is on this disk, and in the consume queues.
    fn scrubbable_to(&self) -> LogPosition {
        let flushed = self.flush.log_flushed_to().min(self.log.end());
        self.dispatched_to().map_or(flushed, |dispatched| flushed.min(dispatched))
    }

    fn begin_round(&mut self, now: Now) {
        let (start, end) = (self.log.start(), self.scrubbable_to());
        let scrub = &mut self.scrub;
        scrub.kept.damaged.remove(0, start.0);
        (scrub.kept.round_wall_ms, scrub.kept.is_over, scrub.kept.end) = (now.wall_ms, false, end.0);
        scrub.place = Place { at: start, damaged_from: None };
        scrub.stated_to = start;
    }

    fn end_round(&mut self, now: Now) {
        let scrub = &mut self.scrub;
        (scrub.kept.is_over, scrub.kept.ended_wall_ms) = (true, now.wall_ms);
        let began = scrub.kept.round_wall_ms;
        let left = began.saturating_add(self.config.scrub_interval_ms).saturating_sub(now.wall_ms);
        scrub.next_ms = now.mono_ms + left.clamp(1, self.config.scrub_interval_ms.max(1));
        self.counters.scrub_rounds_total += 1;
        self.state_scrubbed(Scrubbed::default());
    }

    /// Hears what came of a job.
    pub(super) fn scrub_done(&mut self, now: Now, done: ScrubDone) -> StoreResult<()> {
        self.scrub.checkpoint = Some(done.checkpoint);
        if done.saved.is_err() {
            self.scrub.unsaved.get_or_insert(0);
        }
        let is_void = std::mem::take(&mut self.scrub.is_void);
        if let Some(found) = done.found {
            self.counters.scrubbed_bytes_total += found.bytes;
            let rate = self.config.scrub_bytes_per_second.max(1);
            self.scrub.next_ms = now.mono_ms + (found.bytes.saturating_mul(1000) / rate).max(1);
            match found.failed {
                Some(error) => {
                    self.scrub.next_ms = now.mono_ms + RETRY_MS;
                    tracing::warn!(%error, "the log could not be read back; it is tried again");
                }
                None if is_void => {}
                None => self.read_back(now, found),
            }
        }
        done.saved
    }

    fn read_back(&mut self, now: Now, found: ReadBack) {
        let start = self.log.start();
        self.scrub.place = found.place;
        let mut naming = Naming::default();
        for damage in found.damaged {
            let from = damage.from.max(start);
            let new = self.scrub.kept.damaged.missing(from.0, damage.to.0);
            if from < damage.to && !new.is_empty() {
                naming.add(damage, new);
            }
        }
        if found.unreadable_bytes > 0 {
            tracing::error!(bytes = found.unreadable_bytes, "the disk cannot read a part of the log");
        }
        if !naming.is_empty() {
            naming.queues = self.state.queues().map(|(queue, _)| queue).collect();
            self.name_damaged(now, naming);
            return;
        }
        self.state_progress(now);
    }

    fn name_damaged(&mut self, now: Now, mut naming: Naming) {
        if !naming.go_on(self) {
            self.scrub.naming = Some(naming);
            return;
        }
        let found = naming.found(self.log.segment_config().segment_size_bytes);
        self.state_scrubbed(found);
        self.state_progress(now);
    }

    /// Says so when a segment, or the round, is done.
    fn state_progress(&mut self, now: Now) {
        let scrub = &self.scrub;
        let size = self.log.segment_config().segment_size_bytes;
        let done = scrub.place.damaged_from.unwrap_or(scrub.place.at);
        if scrub.place.damaged_from.is_none() && done.0 >= scrub.kept.end {
            self.end_round(now);
        } else if done.0 / size > scrub.stated_to.0 / size {
            self.state_scrubbed(Scrubbed::default());
        }
    }

    /// States what was read since the last statement, and what was found there.
    fn state_scrubbed(&mut self, found: Scrubbed) {
        let scrub = &mut self.scrub;
        let from = scrub.stated_to;
        let to = scrub.place.damaged_from.unwrap_or(scrub.place.at).max(from);
        scrub.stated_to = to;
        let (round_wall_ms, ends_round) = (scrub.kept.round_wall_ms, scrub.kept.is_over);
        self.state_damaged(Scrubbed { from, to, round_wall_ms, ends_round, ..found });
    }

    fn state_damaged(&mut self, scrubbed: Scrubbed) {
        let bad: u64 = scrubbed.bad.iter().map(|(_, ranges)| ranges.len()).sum();
        if !scrubbed.damaged.is_empty() {
            let (bytes, unnamed_max) = (scrubbed.damaged.len(), scrubbed.unnamed_max);
            tracing::error!(
                bytes,
                bad,
                unnamed_max,
                first = scrubbed.damaged.first(),
                "records on disk cannot be read"
            );
        }
        self.counters.scrub_bad_records_total += bad;
        self.scrub.kept.add_damaged(&scrubbed.damaged);
        self.scrub.unsaved = Some(self.trace.position().sequence + 1);
        self.state(Fact::Scrubbed(scrubbed));
    }

    /// A start found these bytes damaged where the consume queues are whole. What cannot be read back now is left to the next round.
    pub(super) fn name_rotten(&mut self, rotten: &[(u64, u64)]) -> StoreResult<()> {
        let mut naming = Naming::default();
        for (from, to) in rotten {
            let at = Place { at: LogPosition(*from), damaged_from: None };
            // one byte more, to see what ends it
            let order = self.log.read_back(&self.disk, at, (self.log.end(), to - from + 1));
            for damage in order.run().damaged {
                let new = self.scrub.kept.damaged.missing(damage.from.0, damage.to.0);
                if !new.is_empty() {
                    naming.add(damage, new);
                }
            }
        }
        let Some((from, to)) = naming.reach() else { return Ok(()) };
        naming.queues = self.state.queues().map(|(queue, _)| queue).collect();
        while !naming.go_on(self) {}
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let found = naming.found(self.log.segment_config().segment_size_bytes);
        self.state_damaged(Scrubbed { from, to, ..found });
        Ok(())
    }

    /// A replica's start found these bytes damaged, which its consume queues, made again, have no entries for: what is missing from
    /// them stood there. (A master's start says so in its own fact.)
    pub(super) fn damaged_at_start(&mut self, damaged: &[(u64, u64)], bad: Vec<(QueueKey, Ranges)>) {
        let mut new: Ranges = damaged.iter().copied().collect();
        new.subtract(&self.scrub.kept.damaged);
        if let (Some(from), Some(to)) = (new.first(), new.end()) {
            let (from, to) = (LogPosition(from), LogPosition(to));
            self.state_damaged(Scrubbed { from, to, damaged: new, bad, ..Scrubbed::default() });
        }
    }

    /// A consumer's read came upon records that cannot be read: they are stated as any other finding, and the group passes them over,
    /// as it would for ever come upon them again.
    pub(super) fn state_unreadable(&mut self, group: &Name, queue: QueueKey, units: &[(u64, Unit)]) {
        if units.is_empty() {
            return;
        }
        let mut ranges = Ranges::new();
        for (offset, unit) in units {
            ranges.insert(*offset, offset + 1);
            self.found_unreadable(queue, *offset, unit);
        }
        self.state(Fact::Unreadable { group: group.clone(), queue, ranges });
    }

    fn found_unreadable(&mut self, queue: QueueKey, offset: u64, unit: &Unit) {
        let (from, to) = (unit.commitlog_offset.saturating_sub(HEADER_LEN as u64), unit.commitlog_offset);
        let to = to.saturating_add(u64::from(unit.size));
        // a place that recovery has named stands for no bytes of its own
        if unit.size <= 1 || to > self.scrubbable_to().0 || from < self.log.start().0 {
            return;
        }
        let damaged = self.scrub.kept.damaged.missing(from, to);
        if !damaged.contains(from) {
            return;
        }
        let (from, to) = (LogPosition(from), LogPosition(to));
        let bad = vec![(queue, Ranges::of(offset, offset + 1))];
        self.state_damaged(Scrubbed { from, to, damaged, bad, ..Scrubbed::default() });
    }

    /// Work for the thread that reads back.
    pub(super) fn scrub_job(&mut self) -> Option<Job> {
        let stated = |sequence| !self.config.journal || self.flush.journal_is_flushed(sequence);
        let saves = self.scrub.unsaved.is_some_and(stated);
        if self.scrub.checkpoint.is_none() || !(saves || self.scrub.prepared.is_some()) {
            return None;
        }
        let save = saves.then(|| self.scrub.payload());
        if saves {
            self.scrub.unsaved = None;
        }
        let (read, checkpoint) = (self.scrub.prepared.take(), self.scrub.checkpoint.take()?);
        Some(Job::Scrub(ScrubJob { read, checkpoint, save }))
    }

    /// At the end of a run: everything that was stated is on disk.
    pub(super) fn keep_scrub(&mut self) -> StoreResult<()> {
        let payload = self.scrub.payload();
        match &mut self.scrub.checkpoint {
            Some(checkpoint) if self.scrub.unsaved.is_some() => checkpoint.save(&payload).map(drop),
            _ => Ok(()),
        }
    }

    pub(super) fn next_scrub_ms(&self) -> Option<u64> {
        let scrub = &self.scrub;
        let waits =
            scrub.checkpoint.is_some() && scrub.prepared.is_none() && self.config.scrub_interval_ms > 0;
        scrub.naming.is_some().then_some(0).or(waits.then_some(scrub.next_ms))
    }

    /// When the last whole round ended, wall ms; 0: none has.
    pub fn scrubbed_wall_ms(&self) -> u64 {
        self.scrub.kept.ended_wall_ms
    }
}
