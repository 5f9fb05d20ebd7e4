//! Owns what only the agent was told (producers' reports, operators' acts): frames of one more source, numbered by the agent's
//! own runs. Never answers anybody: the caller does, after [`EvidenceLog::append`] returned. Written on its own thread.
//!
//! Crash story: a frame is on disk before its sender is told so. What was written and not synced when the process died may
//! survive; then it was told to nobody and counts anyway. The oldest segments go at the size limit: then a rebuilt ledger
//! lacks those reports, which is told as a gap.

use super::log_files::prepare;
use crate::ingest::intake::{Gap, Step, UNKNOWN_END};
use lifecycle::clock::Now;
use lifecycle::fact::Fact;
use lifecycle::frame::{Frame, FrameDecoder, FrameEncoder};
use lifecycle::identity::Incarnation;
use lifecycle::position::Position;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use store::disk::Disk;
use store::error::{ErrorKind, Op, StoreError};
use store::journal::{Journal, JournalConfig, JournalItem, JournalView};

/// Name of this source.
pub const SOURCE_NAME: &str = crate::fold::EVIDENCE_SOURCE;
/// Distance of the marks at which the log can be cut.
const MARK_BYTES: u64 = 1 << 20;

/// The log's one writer.
pub struct EvidenceLog {
    journal: Journal,
    encoder: FrameEncoder,
    /// Positions with the bytes before them, oldest first: where the log can be cut.
    marks: VecDeque<(Position, u64)>,
    bytes: u64,
    bytes_max: u64,
    poisoned: bool,
}

impl EvidenceLog {
    /// Opens the log for a new run of the agent.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        incarnation: Incarnation,
        bytes_max: u64,
    ) -> Result<Self, StoreError> {
        prepare(disk.as_ref(), &dir)?;
        let (journal, report) = Journal::open(disk, JournalConfig::new(dir), incarnation, 0)?;
        if !report.cut.is_empty() || !report.unreadable.is_empty() {
            tracing::warn!(?report, "evidence log was cut short by the last stop");
        }
        let mut marks = VecDeque::new();
        let mut bytes = 0;
        for info in journal.view().incarnations() {
            let sequence = info.first_sequence;
            marks.push_back((Position { incarnation: info.incarnation, sequence }, bytes));
            bytes += info.bytes;
        }
        Ok(EvidenceLog { journal, encoder: FrameEncoder::new(), marks, bytes, bytes_max, poisoned: false })
    }

    /// For the replay at start.
    pub fn view(&self) -> JournalView {
        self.journal.view()
    }

    /// Writes one frame; it is durable at return. After an error nobody may be told that it was taken, and only a new open
    /// helps.
    pub fn append(&mut self, now: Now, facts: Vec<Fact>) -> Result<(Position, Frame), StoreError> {
        if self.poisoned {
            return Err(StoreError::new(Op::Append, std::path::Path::new("evidence"), 0, ErrorKind::Io(0)));
        }
        self.poisoned = true;
        let reset = self.journal.needs_reset() || self.encoder.wants_reset();
        let mut payload = Vec::new();
        self.encoder.encode(now, reset, &facts, &mut payload);
        self.journal.set_wall_ms(now.wall_ms);
        let position = self.journal.append(&payload, reset)?;
        self.journal.write()?;
        self.journal.take_sync_batch().sync()?;
        self.bytes += payload.len() as u64;
        if self.marks.back().is_none_or(|(_, at)| self.bytes - at >= MARK_BYTES) {
            self.marks.push_back((position, self.bytes));
        }
        self.cut()?;
        self.poisoned = false;
        Ok((position, Frame { reset, snapshot: false, now, facts }))
    }

    fn cut(&mut self) -> Result<(), StoreError> {
        let mut keep_from = None;
        while let [_, (next, before), ..] = *self.marks.make_contiguous()
            && self.bytes - self.marks.front().map_or(0, |(_, at)| *at) > self.bytes_max
        {
            keep_from = Some((next, before));
            self.marks.pop_front();
        }
        if let Some((position, _)) = keep_from {
            self.journal.remove_before(position)?;
        }
        Ok(())
    }
}

/// Reads everything after `after` (all there is, when that is gone or `None`), in order.
pub fn replay(
    view: &JournalView,
    after: Option<Position>,
    mut take: impl FnMut(Step),
) -> Result<(), StoreError> {
    let from = after.map(|position| view.read_from(position));
    let (mut reader, mut at) = match from {
        Some(Ok(reader)) => (reader, after.unwrap_or_default()),
        Some(Err(error)) if error.is_not_found() => {
            let Position { incarnation, sequence } = after.unwrap_or_default();
            let text = "the agent's own evidence log was cut";
            take(Step::Gap(Gap { incarnation, from: sequence + 1, to: UNKNOWN_END, text }));
            (view.read_all()?, Position::default())
        }
        Some(Err(error)) => return Err(error),
        None => (view.read_all()?, Position::default()),
    };
    let mut decoder = FrameDecoder::new();
    while let Some(item) = reader.next()? {
        match item {
            JournalItem::Frame { position, payload, .. } => {
                if position.incarnation != at.incarnation {
                    at = Position { incarnation: position.incarnation, sequence: 0 };
                }
                let decoded = decoder.decode(payload);
                if position.sequence <= at.sequence {
                    continue;
                }
                match decoded {
                    Ok(frame) => take(Step::Frame { position, frame }),
                    Err(error) => {
                        tracing::error!(?position, %error, "evidence log frame cannot be decoded");
                        take(Step::Gap(hole(position.incarnation, position.sequence, position.sequence)));
                    }
                }
                at = position;
            }
            JournalItem::Hole { incarnation, from, to } => {
                let from = if incarnation == at.incarnation { from.max(at.sequence + 1) } else { from };
                if from <= to {
                    take(Step::Gap(hole(incarnation, from, to)));
                    at = Position { incarnation, sequence: to };
                }
            }
            JournalItem::Closed { .. } => decoder = FrameDecoder::new(),
        }
    }
    Ok(())
}

fn hole(incarnation: Incarnation, from: u64, to: u64) -> Gap {
    Gap { incarnation, from, to, text: "the agent's own evidence log is damaged" }
}

#[cfg(test)]
mod tests;
