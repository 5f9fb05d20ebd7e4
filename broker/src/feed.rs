//! Owns the feed: how the journal reaches agents, in this process or over gRPC ([`serve`]), and the questions they may ask.
//! Frames are read back from the journal's files, so a slow or absent reader costs the core nothing; it never writes, and never
//! decides what an answer means. Called by the binary's in-process source, and by agents elsewhere.
//!
//! A reader is a name that stays the same over restarts. Its newest stream is the one that counts. What it has confirmed is kept
//! in memory only, its name on disk: after a restart nothing of the journal is given up before every reader has confirmed again.

mod readers;
mod search;
mod server;
mod snapshot;
mod stream;

pub use search::{Inspected, LocateBy, LocateQuery, Located, Place};
pub use server::{MESSAGE_BYTES_MAX, ServeError, proto, serve};
pub use snapshot::Snapshot;
pub use stream::{Batch, RunEnd};

use crate::api::{Refusal, Request};
use crate::core::Core;
use crate::handle::{CoreHandle, NotTaken};
use lifecycle::clock::Now;
use lifecycle::identity::{Incarnation, MessageIdentity, Name};
use lifecycle::position::Position;
use readers::Readers;
use std::path::Path;
use std::sync::Arc;
use store::disk::Disk;
use store::error::StoreError;
use store::journal::JournalView;
use stream::{Reading, Run};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Most bytes of frames in one batch; a single larger frame is sent alone.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Most frames in one batch.
pub const BATCH_FRAMES_MAX: usize = 4096;
/// Batches that may wait for a slow reader; the rest stays in the journal.
pub const BATCHES_WAITING_MAX: usize = 8;

/// How far the live run has come. Sent by the server after every turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedHead {
    /// The newest frame the operating system has.
    pub position: Position,
    /// The newest frame the disk has.
    pub flushed_sequence: u64,
}

/// Why the feed does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// This journal does not hold the run: the reader starts over from a snapshot.
    #[error("run {0} is not in this journal")]
    UnknownRun(Incarnation),
    /// The journal does not hold all that follows any more: the reader starts over from a snapshot, and misses what lies between.
    #[error("frames after {} of run {} are not kept any more", .0.sequence, .0.incarnation)]
    Trimmed(Position),
    /// The question makes no sense.
    #[error("bad request: {0}")]
    Invalid(&'static str),
    /// Too many different readers.
    #[error("more than {0} readers")]
    TooManyReaders(usize),
    /// The core takes no more questions now.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// The core says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The journal cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Batches as they come; the end of the stream means that a newer one replaced it, or that the broker stops.
pub type BatchStream = ReceiverStream<Result<Batch, FeedError>>;

/// Asks the feed. Cloning costs a few counters; usable from any thread that runs in a tokio runtime.
#[derive(Clone)]
pub struct FeedHandle {
    broker_name: Name,
    journal: JournalView,
    core: CoreHandle,
    heads: watch::Receiver<FeedHead>,
    /// The runs in the journal when this one started, oldest first; the last one is live.
    runs: Arc<[Run]>,
    readers: Arc<Readers>,
}

impl FeedHandle {
    /// A feed over the journal of a core that answers through `core`; `heads` tells of every turn.
    pub fn new(
        broker_name: Name,
        journal: JournalView,
        core: CoreHandle,
        heads: watch::Receiver<FeedHead>,
    ) -> FeedHandle {
        let runs = journal.incarnations().iter().map(Run::from).collect();
        FeedHandle { broker_name, journal, core, heads, runs, readers: Arc::default() }
    }

    /// Keeps the names of the readers in `dir`, and knows those that are there already.
    pub fn with_readers_kept(self, disk: Arc<dyn Disk>, dir: &Path) -> Result<FeedHandle, StoreError> {
        let readers = Arc::new(Readers::kept(disk, dir)?);
        Ok(FeedHandle { readers, ..self })
    }

    /// Frames after `after`, run after run, then live. Replaces the reader's older stream. Must be called within a tokio runtime.
    ///
    /// Starts at the reset point at or before the next frame, or at the first one kept; a position without a run stands for the
    /// oldest frame kept.
    pub fn read(&self, reader: &str, after: Position) -> Result<BatchStream, FeedError> {
        self.read_until(reader, (after, BATCH_BYTES_MAX), CancellationToken::new())
    }

    /// As [`Self::read`], with batches of so many bytes, until `stop`.
    pub(crate) fn read_until(
        &self,
        reader: &str,
        (after, batch_bytes): (Position, usize),
        stop: CancellationToken,
    ) -> Result<BatchStream, FeedError> {
        let after = if after.incarnation == Incarnation::NONE { self.oldest() } else { after };
        let start = self.rank(after.incarnation).ok_or(FeedError::UnknownRun(after.incarnation))?;
        let runs = self.journal.incarnations();
        let trimmed = match runs.iter().find(|run| run.incarnation == after.incarnation) {
            Some(kept) => after.sequence + 1 < kept.first_sequence,
            None => self.runs.get(start).is_some_and(|run| after.sequence < run.last_sequence),
        };
        if trimmed {
            // the journal goes on without it: it starts over
            self.readers.meet(reader)?;
            return Err(FeedError::Trimmed(after));
        }
        self.readers.attach(reader, after, stop.clone())?;
        let (batches, stream) = mpsc::channel(BATCHES_WAITING_MAX);
        let reading = Reading {
            broker_name: self.broker_name.clone(),
            journal: self.journal.clone(),
            runs: self.runs.clone(),
            heads: self.heads.clone(),
            batch_bytes: batch_bytes.min(BATCH_BYTES_MAX),
            batches,
            stop,
        };
        tokio::spawn(reading.run(start, after.sequence));
        Ok(ReceiverStream::new(stream))
    }

    /// Everything up to `position` is durable at the reader.
    pub fn confirm(&self, reader: &str, position: Position) -> Result<(), FeedError> {
        self.rank(position.incarnation).ok_or(FeedError::UnknownRun(position.incarnation))?;
        self.readers.confirm(reader, position)
    }

    /// What every reader that is known has confirmed: the journal behind it is not needed any more. `None` while there is no
    /// reader, or one has confirmed nothing yet.
    pub fn min_confirmed(&self) -> Option<Position> {
        self.readers.min_confirmed(|position| (self.rank(position.incarnation), position.sequence))
    }

    /// The whole state as it stands now.
    pub async fn snapshot(&self, reader: &str) -> Result<Snapshot, FeedError> {
        self.readers.meet(reader)?;
        snapshot::take(self).await
    }

    /// Where messages with an id or key are.
    pub async fn locate(&self, query: LocateQuery) -> Result<Located, FeedError> {
        search::locate(self, query).await
    }

    /// What is stored under an identity; epoch 0 stands for any.
    pub async fn inspect(&self, identity: MessageIdentity) -> Result<Option<Inspected>, FeedError> {
        search::inspect(self, identity).await
    }

    /// The lowest position a read accepts.
    fn oldest(&self) -> Position {
        let runs = self.journal.incarnations();
        runs.first().map_or(self.heads.borrow().position, |run| Position {
            incarnation: run.incarnation,
            sequence: run.first_sequence.saturating_sub(1),
        })
    }

    fn rank(&self, incarnation: Incarnation) -> Option<usize> {
        self.runs.iter().position(|run| run.incarnation == incarnation)
    }

    /// Runs `ask` on the core, between two turns.
    async fn look<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, FeedError> {
        let look = |reply: crate::api::ReplyFn<T>| {
            Request::Look(Box::new(move |core: &mut Core, now| reply(ask(core, now))))
        };
        Ok(self.core.call(look).await?)
    }
}

#[cfg(test)]
mod tests;
