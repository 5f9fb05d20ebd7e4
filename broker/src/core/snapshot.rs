//! Snapshots of the state, so that a restart reads little; and the slow work that runs beside the turns. A snapshot names a log
//! position and a journal position, and is saved only when both, and the consume queues below, are on disk.

use super::Core;
use super::flush::FlushOrders;
use super::scrub::{ScrubDone, ScrubJob};
use lifecycle::clock::Now;
use lifecycle::fact::EpochStarted;
use lifecycle::frame::{FrameDecoder, FrameEncoder};
use lifecycle::identity::{Incarnation, LogPosition};
use lifecycle::position::Position;
use std::collections::VecDeque;
use store::checkpoint::{Checkpoint, Saved};
use store::consume_queue::QueueSync;
use store::error::{Result as StoreResult, StoreError};
use store::index::{IndexJob, NewRun};

/// Version of the payload drawn at [`encode`].
const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + 1 + 16 + 8 + 8;

/// Slow work for another thread.
pub enum Job {
    /// Save a snapshot.
    Snapshot { queues: QueueSync, checkpoint: Checkpoint, payload: Vec<u8> },
    /// Seal or merge runs of the key index.
    Index { job: IndexJob, is_merge: bool },
    /// Read a part of the log back.
    Scrub(ScrubJob),
}

/// Slow work that is over.
pub enum JobDone {
    /// The checkpoint comes back.
    Snapshot(Checkpoint, StoreResult<()>),
    /// A new run.
    Index(StoreResult<NewRun>, bool),
    /// What was read.
    Scrub(ScrubDone),
}

impl Job {
    /// Does it.
    pub fn run(self) -> JobDone {
        match self {
            Job::Snapshot { queues, mut checkpoint, payload } => {
                let saved = queues.sync().and_then(|()| checkpoint.save(&payload).map(|_| ()));
                JobDone::Snapshot(checkpoint, saved)
            }
            Job::Index { job, is_merge } => JobDone::Index(job.run(), is_merge),
            Job::Scrub(job) => JobDone::Scrub(job.run()),
        }
    }
}

struct Prepared {
    payload: Vec<u8>,
    queues: QueueSync,
    log_end: LogPosition,
    position: Position,
}

/// When the next snapshot is due, and the one under way.
pub(super) struct SnapshotState {
    checkpoint: Option<Checkpoint>,
    prepared: Option<Prepared>,
    last_ms: u64,
    last_log_end: LogPosition,
    interval_ms: u64,
    /// Snapshots on disk: their journal position, and the log's end then. Frames before one only matter while its log does.
    pub(super) saved: VecDeque<(Position, LogPosition)>,
    saving: Option<(Position, LogPosition)>,
}

/// Most snapshots whose positions are remembered for trimming the journal.
const SAVED_MAX: usize = 4_096;

impl SnapshotState {
    pub(super) fn new(checkpoint: Checkpoint, now: Now, log_end: LogPosition, interval_ms: u64) -> Self {
        SnapshotState {
            checkpoint: Some(checkpoint),
            prepared: None,
            last_ms: now.mono_ms,
            last_log_end: log_end,
            interval_ms,
            saved: VecDeque::new(),
            saving: None,
        }
    }

    /// Beyond the limit every second one is forgotten: then the journal is only trimmed in larger steps.
    fn note_saved(&mut self, place: Option<(Position, LogPosition)>) {
        if self.saved.len() >= SAVED_MAX {
            let mut keep = false;
            self.saved.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.saved.extend(place);
    }

    pub(super) fn next_due_ms(&self) -> Option<u64> {
        (self.checkpoint.is_some() && self.prepared.is_none()).then_some(self.last_ms + self.interval_ms)
    }
}

impl Core {
    pub(super) fn snapshot_due(&mut self, now: Now) {
        let aged = now.mono_ms >= self.snapshot.last_ms + self.snapshot.interval_ms;
        // the log may be shorter than it was then: a cut, or a flush that was not kept
        let grown = self.log.end().0 >= self.snapshot.last_log_end.0 + self.config.snapshot_log_bytes;
        let idle = self.snapshot.checkpoint.is_some() && self.snapshot.prepared.is_none();
        let off = !self.config.journal || self.following.is_some();
        if !idle || !(aged || grown) || self.stopped.is_some() || off {
            return;
        }
        self.snapshot.last_ms = now.mono_ms;
        match self.prepare_snapshot(now, false) {
            Ok(prepared) => self.snapshot.prepared = Some(prepared),
            Err(error) if error.is_fatal() => self.stop(error),
            Err(error) => tracing::warn!(%error, "no snapshot this time"),
        }
    }

    fn prepare_snapshot(&mut self, now: Now, clean: bool) -> StoreResult<Prepared> {
        self.queues.write_out()?;
        let position = self.trace.position();
        let log_end = self.log.end();
        let payload = encode(self, now, position, clean);
        Ok(Prepared { payload, queues: self.queues.take_sync_batch()?, log_end, position })
    }

    /// Hands out a prepared snapshot whose positions are on disk, and work of the key index.
    pub(super) fn order_jobs(&mut self, orders: &mut FlushOrders) {
        let durable = self.snapshot.prepared.as_ref().is_some_and(|p| {
            self.flush.log_is_flushed(p.log_end) && self.flush.journal_is_flushed(p.position.sequence)
        });
        if durable
            && let Some(prepared) = self.snapshot.prepared.take()
            && let Some(checkpoint) = self.snapshot.checkpoint.take()
        {
            self.snapshot.last_log_end = prepared.log_end;
            self.snapshot.saving = Some((prepared.position, prepared.log_end));
            let Prepared { payload, queues, .. } = prepared;
            orders.jobs.push(Job::Snapshot { queues, checkpoint, payload });
        }
        if let Some(job) = self.index.seal_job(self.flush.log_flushed_to().0, false) {
            orders.jobs.push(Job::Index { job, is_merge: false });
        }
        if let Some(job) = self.index.merge_job() {
            orders.jobs.push(Job::Index { job, is_merge: true });
        }
        orders.jobs.extend(self.scrub_job());
    }

    pub(super) fn job_done(&mut self, now: Now, done: JobDone) {
        let outcome = match done {
            JobDone::Snapshot(checkpoint, saved) => {
                self.snapshot.checkpoint = Some(checkpoint);
                let place = self.snapshot.saving.take();
                if saved.is_ok() {
                    self.snapshot.note_saved(place);
                }
                saved
            }
            JobDone::Index(Ok(run), _) => self.index.install(run),
            JobDone::Scrub(done) => self.scrub_done(now, done),
            JobDone::Index(Err(error), is_merge) => {
                self.index.abandon(is_merge);
                Err(error)
            }
        };
        match outcome {
            Err(error) if error.is_fatal() => self.stop(error),
            Err(error) => tracing::warn!(%error, "work in the background failed; it is tried again later"),
            Ok(()) => {}
        }
    }

    /// The end of a run: everything on disk, and a snapshot that says so.
    pub fn close(mut self, now: Now) -> StoreResult<()> {
        self.trace.end_turn(now)?;
        self.flush_everything()?;
        self.trace.end_turn(now)?;
        self.flush_everything()?;
        self.keep_scrub()?;
        if self.following.is_some() {
            // a replica's state is the fold of what it was sent
            return Ok(());
        }
        let prepared = self.prepare_snapshot(now, true)?;
        prepared.queues.sync()?;
        match &mut self.snapshot.checkpoint {
            Some(checkpoint) => checkpoint.save(&prepared.payload).map(|_| ()),
            // one is being saved beside us: the next start replays a little more
            None => Ok(()),
        }
    }

    /// Deletes journal frames that nobody needs: all they tell of has expired, a later snapshot holds what came of it, and every
    /// agent has them. `confirmed` is what the slowest agent has; `None`: nobody has said. A journal over its share of the disk
    /// ([`Config::journal_disk_percent`](crate::config::Config)) goes down to it in any case, but for what a restart reads.
    pub fn trim_journal(&mut self, confirmed: Option<Position>) -> StoreResult<u64> {
        if self.following.is_some() {
            // of its own facts a replica needs the newest flush only, and nobody reads them yet
            return self.trace.remove_before(self.trace.position());
        }
        let log_start = self.log.start();
        let live = self.trace.position().incarnation;
        let mut before = None;
        while let Some((position, log_end)) = self.snapshot.saved.front().copied() {
            let has = confirmed.is_some_and(|c| match c.incarnation == position.incarnation {
                true => c.sequence >= position.sequence,
                false => c.incarnation == live,
            });
            // the newest snapshot stays the one a restart reads on from
            if log_end > log_start || !has || self.snapshot.saved.len() < 2 {
                break;
            }
            before = Some(position);
            self.snapshot.saved.pop_front();
        }
        let trimmed = before.map_or(Ok(0), |position| self.trace.remove_before(position))?;
        Ok(trimmed + self.trim_oversize()?)
    }

    /// Snapshots are in the order of the journal, so each one given up lets the frames before it go.
    fn trim_oversize(&mut self) -> StoreResult<u64> {
        let most = self.retention.disk_bytes / 100 * u64::from(self.config.journal_disk_percent);
        let size = |core: &Core| core.trace.view().incarnations().iter().map(|run| run.bytes).sum::<u64>();
        let mut dropped = 0;
        while most > 0 && size(self) > most && self.snapshot.saved.len() >= 2 {
            let Some((position, _)) = self.snapshot.saved.pop_front() else { break };
            dropped += self.trace.remove_before(position)?;
        }
        if dropped > 0 {
            tracing::error!(
                dropped,
                most,
                "the journal was over its share of the disk: frames are gone that an agent may still need"
            );
            self.counters.journal_dropped_bytes += dropped;
        }
        Ok(dropped)
    }

    pub(super) fn snapshot_facts(&self) -> Vec<lifecycle::fact::Fact> {
        self.state.dump(&self.epoch_started())
    }

    pub(super) fn epoch_started(&self) -> EpochStarted {
        let log_start = self.state.epochs.last().map_or(LogPosition(0), |(_, start)| *start);
        let started = EpochStarted {
            epoch: self.state.epoch,
            broker_name: self.config.broker_name.as_str().into(),
            log_start,
            roster: vec![self.config.broker_name.as_str().into()],
            settings: self.config.promises().into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        };
        if self.is_slave() { started.of_another_member() } else { started }
    }
}

// payload = version u8, clean u8, incarnation 16 bytes, journal sequence u64, log end u64 (big-endian), one snapshot frame
fn encode(core: &Core, now: Now, position: Position, clean: bool) -> Vec<u8> {
    let mut out = vec![VERSION, u8::from(clean)];
    out.extend_from_slice(&position.incarnation.0);
    out.extend_from_slice(&position.sequence.to_be_bytes());
    out.extend_from_slice(&core.log.end().0.to_be_bytes());
    FrameEncoder::new().encode_snapshot(now, true, &core.snapshot_facts(), &mut out);
    out
}

/// What a folder's checkpoint holds; nothing when it was made void.
pub(super) fn read(saved: Option<&Saved>, dir: &std::path::Path) -> StoreResult<Option<Snapshot>> {
    saved.filter(|saved| !saved.payload.is_empty()).map(|saved| decode(&saved.payload, dir)).transpose()
}

/// A snapshot read back.
pub(super) struct Snapshot {
    pub(super) clean: bool,
    pub(super) position: Position,
    pub(super) log_end: LogPosition,
    pub(super) facts: Vec<lifecycle::fact::Fact>,
}

pub(super) fn decode(payload: &[u8], dir: &std::path::Path) -> StoreResult<Snapshot> {
    let corrupt = |what| StoreError::corrupt(dir, 0, what);
    let (header, frame) =
        payload.split_at_checked(HEADER_LEN).ok_or_else(|| corrupt("snapshot is too short"))?;
    let (flags, rest) = header.split_at(2);
    if flags.first() != Some(&VERSION) {
        return Err(corrupt("snapshot version is not known"));
    }
    let number = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |b| u64::from_be_bytes(*b));
    let incarnation = Incarnation(*rest.first_chunk::<16>().ok_or_else(|| corrupt("snapshot is too short"))?);
    let sequence = number(rest.get(16..24).and_then(|b| b.first_chunk()));
    let log_end = LogPosition(number(rest.get(24..32).and_then(|b| b.first_chunk())));
    let decoded = FrameDecoder::new().decode(frame).map_err(|_| corrupt("snapshot frame"))?;
    Ok(Snapshot {
        clean: flags.get(1) == Some(&1),
        position: Position { incarnation, sequence },
        log_end,
        facts: decoded.facts,
    })
}
