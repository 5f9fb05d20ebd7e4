//! Reads what a master sends: pieces of its log and frames of its journal, from their files. Blocks where the operating system has to
//! fetch them from the disk; never reads beyond the head it is told. One per stream.

use super::frame::{JournalFrame, Message};
use super::{Head, StreamError};
use bytes::Bytes;
use lifecycle::identity::LogPosition;
use lifecycle::position::Position;
use std::sync::Arc;
use store::commit_log::copy::{PIECE_LEN_MAX, whole_len};
use store::disk::Disk;
use store::journal::{JournalItem, JournalReader, JournalView};
use store::segment::{SegmentConfig, SegmentReader};

/// About how much one message carries.
const CHUNK_BYTES: usize = 512 * 1024;
/// Files a stream keeps open.
const OPEN_FILES_MAX: usize = 4;

/// The places a stream has come to.
pub struct Source {
    log: SegmentReader,
    segment_bytes: u64,
    log_at: LogPosition,
    journal: JournalReader,
    /// The last frame the replica has.
    after: Position,
    /// A frame that was read and has to wait.
    held: Option<(Position, JournalFrame)>,
}

impl Source {
    /// Starts where the replica is: log bytes from `log_at`, frames after `after` (sequence 0: from the first).
    pub fn open(
        disk: Arc<dyn Disk>,
        segments: &SegmentConfig,
        (view, after): (&JournalView, Position),
        log_at: LogPosition,
    ) -> Result<Source, StreamError> {
        let config = SegmentConfig { open_files_max: OPEN_FILES_MAX, ..segments.clone() };
        let journal = match after.sequence {
            0 => view.read_all()?,
            had => view.read_from(Position { sequence: had + 1, ..after })?,
        };
        let segment_bytes = config.segment_size_bytes;
        let log = SegmentReader::new(disk, config);
        Ok(Source { log, segment_bytes, log_at, journal, after, held: None })
    }

    /// How many log bytes up to `head` are still to be read.
    pub fn behind(&self, head: &Head) -> u64 {
        head.end.0.saturating_sub(self.log_at.0)
    }

    /// The next message up to `head`: log bytes first, then the frames that speak of them. `None`: all is sent.
    pub fn next(&mut self, head: &Head) -> Result<Option<Message>, StreamError> {
        if self.log_at < head.end {
            let bytes = self.piece(head.end)?;
            let position = self.log_at;
            self.log_at.0 += bytes.len() as u64;
            return Ok(Some(Message::Log { position, readable: head.readable, bytes }));
        }
        self.frames(head.journal)
    }

    fn piece(&self, end: LogPosition) -> Result<Bytes, StreamError> {
        for most in [CHUNK_BYTES, PIECE_LEN_MAX] {
            let len = usize::try_from(end.0 - self.log_at.0).unwrap_or(most).min(most);
            let mut bytes = vec![0; len];
            if self.log.read_at(&mut bytes, self.log_at.0)? < len {
                return Err(StreamError::Disagreed(format!("the log no longer has {}", self.log_at.0)));
            }
            let whole = whole_len(&bytes, self.log_at, self.segment_bytes);
            if whole > 0 {
                bytes.truncate(whole);
                return Ok(bytes.into());
            }
        }
        Err(StreamError::Disagreed(format!("the master's log is damaged at {}", self.log_at.0)))
    }

    fn frames(&mut self, head: Position) -> Result<Option<Message>, StreamError> {
        let mut run = None;
        let mut frames = Vec::new();
        let mut len = 0;
        while len < CHUNK_BYTES {
            let Some((position, frame)) = self.next_frame()? else { break };
            let not_yet = position.incarnation == head.incarnation && position.sequence > head.sequence;
            if not_yet || run.is_some_and(|run| run != position.incarnation) {
                self.held = Some((position, frame));
                break;
            }
            run = Some(position.incarnation);
            len += frame.payload.len();
            frames.push(frame);
        }
        Ok(run.map(|run| Message::Frames { run, frames }))
    }

    fn next_frame(&mut self) -> Result<Option<(Position, JournalFrame)>, StreamError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            match self.journal.next()? {
                None => return Ok(None),
                Some(JournalItem::Closed { .. }) => {}
                Some(JournalItem::Hole { incarnation, from, to }) => {
                    let why =
                        format!("the master's journal lacks frames {from} to {to} of run {incarnation}");
                    return Err(StreamError::Disagreed(why));
                }
                Some(JournalItem::Frame { position, is_reset_point, payload }) => {
                    // reading starts at a reset point, before the place that was asked for
                    let had = position.incarnation == self.after.incarnation
                        && position.sequence <= self.after.sequence;
                    if !had {
                        let payload = Bytes::copy_from_slice(payload);
                        let sequence = position.sequence;
                        return Ok(Some((position, JournalFrame { sequence, is_reset_point, payload })));
                    }
                }
            }
        }
    }
}
