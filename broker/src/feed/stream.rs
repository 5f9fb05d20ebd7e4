//! Owns one reader's stream: reads the journal run after run, cuts it into batches, and waits at the live end. Frames always come
//! from the journal's files, read on a blocking thread; a reader that does not take its batches only stops this task.

use super::{BATCH_FRAMES_MAX, FeedError, FeedHead};
use bytes::Bytes;
use lifecycle::identity::{Incarnation, Name};
use lifecycle::position::Position;
use std::sync::Arc;
use std::time::Duration;
use store::error::StoreError;
use store::journal::{IncarnationInfo, JournalItem, JournalReader, JournalView};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A batch comes at least this often, empty if need be.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long frames of a live run are gathered.
const GATHER: Duration = Duration::from_millis(5);
/// Opening is tried so often while retention removes files under it.
const OPEN_TRIES: usize = 3;

/// Frames of one run in order, and how far that run has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Replica group.
    pub broker_name: Name,
    /// The run.
    pub incarnation: Incarnation,
    /// Number of `frames[0]`; the others follow without a hole.
    pub first_sequence: u64,
    /// Payloads, as the journal holds them.
    pub frames: Vec<Bytes>,
    /// The run's journal is on the disk up to here.
    pub flushed_sequence: u64,
    /// The newest frame of the run.
    pub head_sequence: u64,
    /// The run is over.
    pub run_end: Option<RunEnd>,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd {
    /// The last frame that is readable; what a reader holds above it stays valid.
    pub last_sequence: u64,
    /// The run that follows.
    pub next: Incarnation,
}

/// A run in the journal, as it was when this process started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) incarnation: Incarnation,
    /// The last frame that is readable; of the live run: unused.
    pub(super) last_sequence: u64,
}

impl From<&IncarnationInfo> for Run {
    fn from(info: &IncarnationInfo) -> Run {
        Run { incarnation: info.incarnation, last_sequence: info.last_sequence }
    }
}

/// Why a stream ends.
enum Ended {
    /// Nobody listens, a newer stream took over, or the broker stops.
    Quietly,
    Failed(StoreError),
}

/// What one stream is made of.
pub(super) struct Reading {
    pub(super) broker_name: Name,
    pub(super) journal: JournalView,
    pub(super) runs: Arc<[Run]>,
    pub(super) heads: watch::Receiver<FeedHead>,
    pub(super) batch_bytes: usize,
    pub(super) batches: mpsc::Sender<Result<Batch, FeedError>>,
    pub(super) stop: CancellationToken,
}

impl Reading {
    /// Sends everything after frame `after` of the run at `start`, until the stream ends.
    pub(super) async fn run(mut self, start: usize, after: u64) {
        let runs = self.runs.clone();
        let mut after = after;
        for (index, run) in runs.iter().enumerate().skip(start) {
            let ended = match runs.get(index + 1) {
                Some(next) => self.closed_run(*run, next.incarnation, after).await,
                None => self.live_run(run.incarnation, after).await,
            };
            after = 0;
            match ended {
                Ok(()) => {}
                Err(Ended::Quietly) => return,
                Err(Ended::Failed(error)) => {
                    tracing::warn!(%error, run = %run.incarnation, "feed cannot read the journal");
                    // a reader that has gone does not want to know
                    drop(self.batches.send(Err(error.into())).await);
                    return;
                }
            }
        }
    }

    async fn closed_run(&mut self, run: Run, next: Incarnation, after: u64) -> Result<(), Ended> {
        let last = run.last_sequence;
        let head = FeedHead {
            position: Position { incarnation: run.incarnation, sequence: last },
            flushed_sequence: last,
        };
        if after < last {
            let mut frames =
                self.open(Position { incarnation: run.incarnation, sequence: after + 1 }).await?;
            while let Some(open) = frames.take() {
                let (open, chunk) = self.next_chunk(open).await?;
                let more = !chunk.at_end;
                if !chunk.frames.is_empty() {
                    self.send(self.batch(head, chunk)).await?;
                }
                frames = more.then_some(open);
            }
        }
        let end = Chunk { first_sequence: last + 1, ..Chunk::default() };
        let run_end = Some(RunEnd { last_sequence: last, next });
        self.send(Batch { run_end, ..self.batch(head, end) }).await
    }

    async fn live_run(&mut self, incarnation: Incarnation, after: u64) -> Result<(), Ended> {
        let Some(mut frames) = self.open(Position { incarnation, sequence: after + 1 }).await? else {
            return Err(Ended::Quietly);
        };
        let mut next_sequence = 1;
        let mut beat_at = Instant::now();
        loop {
            // both asked before reading: what is written from now on is met by the next round
            let over = self.heads.has_changed().is_err();
            let seen = *self.heads.borrow_and_update();
            let chunk;
            (frames, chunk) = self.next_chunk(frames).await?;
            let at_end = chunk.at_end;
            if !chunk.frames.is_empty() {
                next_sequence = chunk.first_sequence + chunk.frames.len() as u64;
                self.send(self.batch(seen, chunk)).await?;
                beat_at = Instant::now() + HEARTBEAT;
            }
            if at_end && over {
                return Ok(());
            }
            if at_end {
                beat_at = self.wait(seen.position, next_sequence, beat_at).await?;
            }
        }
    }

    /// Waits at the live end until the head is another than `seen`, and sends a sign of life meanwhile. Answers when the next
    /// one is due.
    async fn wait(&mut self, seen: Position, next_sequence: u64, due: Instant) -> Result<Instant, Ended> {
        let mut beat_at = due;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Ended::Quietly),
                () = self.batches.closed() => return Err(Ended::Quietly),
                () = tokio::time::sleep_until(beat_at) => {
                    let empty = Chunk { first_sequence: next_sequence, ..Chunk::default() };
                    let head = *self.heads.borrow();
                    self.send(self.batch(head, empty)).await?;
                    beat_at = Instant::now() + HEARTBEAT;
                }
                changed = self.heads.changed() => {
                    if changed.is_err() {
                        return Ok(beat_at);
                    }
                    if self.heads.borrow_and_update().position != seen {
                        tokio::time::sleep(GATHER).await;
                        return Ok(beat_at);
                    }
                }
            }
        }
    }

    fn batch(&self, head: FeedHead, chunk: Chunk) -> Batch {
        // the journal may be ahead of what the server has told
        let last = chunk.first_sequence.saturating_sub(1) + chunk.frames.len() as u64;
        Batch {
            broker_name: self.broker_name.clone(),
            incarnation: head.position.incarnation,
            first_sequence: chunk.first_sequence,
            flushed_sequence: head.flushed_sequence,
            head_sequence: head.position.sequence.max(last),
            frames: chunk.frames,
            run_end: None,
        }
    }

    async fn send(&self, batch: Batch) -> Result<(), Ended> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Ended::Quietly),
            sent = self.batches.send(Ok(batch)) => sent.map_err(|_| Ended::Quietly),
        }
    }

    /// `None`: nothing of this run is left.
    async fn open(&self, from: Position) -> Result<Option<RunReader>, Ended> {
        let (journal, limit_bytes) = (self.journal.clone(), self.batch_bytes);
        blocking(move || RunReader::open(&journal, from, limit_bytes)).await
    }

    async fn next_chunk(&self, mut frames: RunReader) -> Result<(RunReader, Chunk), Ended> {
        blocking(move || frames.next_chunk().map(|chunk| (frames, chunk))).await
    }
}

/// Files are read where waiting for a disk delays nobody.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Ended> {
    match tokio::task::spawn_blocking(read).await {
        Ok(outcome) => outcome.map_err(Ended::Failed),
        // the runtime is going down
        Err(_) => Err(Ended::Quietly),
    }
}

/// Frames without a hole between them.
#[derive(Default)]
struct Chunk {
    first_sequence: u64,
    frames: Vec<Bytes>,
    /// Nothing follows: at the end of the run, or (live) for now.
    at_end: bool,
}

/// Reads one run, and stops at its end.
struct RunReader {
    reader: JournalReader,
    incarnation: Incarnation,
    limit_bytes: usize,
    /// Read, but of the next chunk.
    carried: Option<(u64, Bytes)>,
}

impl RunReader {
    fn open(
        journal: &JournalView,
        from: Position,
        limit_bytes: usize,
    ) -> Result<Option<RunReader>, StoreError> {
        for _ in 0..OPEN_TRIES {
            match journal.read_from(from) {
                Ok(reader) => {
                    let incarnation = from.incarnation;
                    return Ok(Some(RunReader { reader, incarnation, limit_bytes, carried: None }));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn next_chunk(&mut self) -> Result<Chunk, StoreError> {
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        if let Some((sequence, frame)) = self.carried.take() {
            bytes = frame.len();
            chunk.first_sequence = sequence;
            chunk.frames.push(frame);
        }
        while chunk.frames.len() < BATCH_FRAMES_MAX {
            let (sequence, frame) = match self.reader.next()? {
                Some(JournalItem::Frame { position, payload, .. })
                    if position.incarnation == self.incarnation =>
                {
                    (position.sequence, Bytes::copy_from_slice(payload))
                }
                // its reader sees it by the number of the frame behind it
                Some(JournalItem::Hole { incarnation, .. }) if incarnation == self.incarnation => continue,
                _ => {
                    chunk.at_end = true;
                    break;
                }
            };
            if chunk.frames.is_empty() {
                chunk.first_sequence = sequence;
            }
            let expected = chunk.first_sequence + chunk.frames.len() as u64;
            let fits = chunk.frames.is_empty() || bytes + frame.len() <= self.limit_bytes;
            if sequence != expected || !fits {
                self.carried = Some((sequence, frame));
                break;
            }
            bytes += frame.len();
            chunk.frames.push(frame);
        }
        Ok(chunk)
    }
}
