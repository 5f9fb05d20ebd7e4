//! What was cut off a log because its epoch lost, kept as a file: written before the cut, read when its messages are to be sent
//! again. The same bytes, with fewer records, carry records from one member to another.
//!
//! ```text
//! magic "LTS1", count u32, per epoch: number u64, incarnation 16 bytes, first byte u64   big-endian
//! first byte u64, length u64, the bytes as they were, CRC-32 over all before it (see `kept_file`)
//! ```
//! It holds what is needed to check its records again: their positions and their epochs.
//!
//! Crash story: the file is there, on disk, before the first byte is cut.

use super::{CommitLog, HEADER_LEN, Header, LoggedRecord, ReadAt, Window, check_record, epoch_at};
use crate::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};
use crate::kept_file::{self, KeptFile};
use bytes::Bytes;
use lifecycle::identity::{Epoch, Incarnation, LogPosition};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"LTS1";
const COPY_BYTES: usize = 1 << 20;
const EPOCH_ROW_LEN: usize = 32;
/// Epochs in one file: what a log may have.
const EPOCHS_MAX: usize = 65_536;
/// How the names of whole files end.
pub const SURVIVOR_SUFFIX: &str = ".log";

/// Bytes of a log that is gone, checked as a whole.
#[derive(Debug)]
pub struct Survivor {
    epochs: Vec<(Epoch, LogPosition)>,
    kept: Kept,
}

/// The bytes, addressed by where they stood.
#[derive(Debug)]
struct Kept {
    from: u64,
    len: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// And where in it the bytes begin.
    File(Arc<dyn DiskFile>, u64),
    Memory(Bytes),
}

/// A record that survived.
#[derive(Clone, Debug)]
pub struct SurvivingRecord {
    /// Its first byte in the log that lost, header included.
    pub position: LogPosition,
    /// Header, record and trailer.
    pub bytes: Bytes,
    /// What they say.
    pub record: LoggedRecord,
}

impl ReadAt for Kept {
    fn end(&self) -> u64 {
        self.from + self.len
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> Result<usize> {
        let inside = at.saturating_sub(self.from);
        let len = usize::try_from(self.len.saturating_sub(inside)).unwrap_or(usize::MAX).min(buf.len());
        let Some(buf) = buf.get_mut(..len) else { return Ok(0) };
        match &self.source {
            Source::File(file, first) => file.read_at(buf, first + inside),
            Source::Memory(bytes) => {
                let from = usize::try_from(inside).unwrap_or(usize::MAX).min(bytes.len());
                let rest = bytes.get(from..).unwrap_or_default();
                let len = rest.len().min(buf.len());
                buf.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                Ok(len)
            }
        }
    }
}

impl Survivor {
    /// Opens a file that [`CommitLog::cut_with_survivor`] made, and reads it once to check it.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Survivor> {
        let (file, checked) = kept_file::open(disk, path)?;
        let head_max = 8 + EPOCHS_MAX * EPOCH_ROW_LEN + 16;
        let mut head = vec![0; head_max.min(usize::try_from(checked).unwrap_or(head_max))];
        let got = file.read_at(&mut head, 0)?;
        head.truncate(got);
        let (epochs, from, len, head_len) = decode_head(&head, path)?;
        if head_len as u64 + len != checked {
            return Err(StoreError::corrupt(path, 0, "survivor file length"));
        }
        let kept = Kept { from, len, source: Source::File(file, head_len as u64) };
        Ok(Survivor { epochs, kept })
    }

    /// The same from memory: what another member sent.
    pub fn of_bytes(bytes: &Bytes) -> Result<Survivor> {
        let path = Path::new("survivors in a request");
        let damaged = |what| StoreError::corrupt(path, 0, what);
        let Some((whole, crc)) = bytes.split_last_chunk::<4>() else { return Err(damaged("too short")) };
        if crc32fast::hash(whole).to_be_bytes() != *crc {
            return Err(damaged("checksum"));
        }
        let (epochs, from, len, head_len) = decode_head(whole, path)?;
        let kept = bytes.slice(head_len.min(whole.len())..whole.len());
        if kept.len() as u64 != len {
            return Err(damaged("length"));
        }
        let kept = Kept { from, len, source: Source::Memory(kept) };
        Ok(Survivor { epochs, kept })
    }

    /// These neighbouring records alone, as bytes for [`Self::of_bytes`]. Empty without records.
    pub fn part(&self, records: &[SurvivingRecord]) -> Bytes {
        let Some(first) = records.first() else { return Bytes::new() };
        let len = records.iter().map(|record| record.bytes.len()).sum::<usize>();
        let mut out = encode_head(&self.epochs, first.position.0, len as u64);
        records.iter().for_each(|record| out.extend_from_slice(&record.bytes));
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out.into()
    }

    /// The epochs of the log it was cut from, with the first byte each owned.
    pub fn epochs(&self) -> &[(Epoch, LogPosition)] {
        &self.epochs
    }

    /// Where its first byte stood.
    pub fn from(&self) -> LogPosition {
        LogPosition(self.kept.from)
    }

    /// One past where its last byte stood.
    pub fn end(&self) -> LogPosition {
        LogPosition(self.kept.end())
    }

    /// The bytes as they stood in the log, fillers and all; for checks, where they are few.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.kept.len).unwrap_or(usize::MAX)];
        let got = self.kept.read_at(&mut bytes, self.kept.from)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// Hands every record to `visit`, in the order of the log. Answers how many bytes are neither records nor what fills a segment:
    /// what cannot be read again.
    pub fn records(&self, mut visit: impl FnMut(SurvivingRecord) -> Result<()>) -> Result<u64> {
        let mut window = Window::default();
        let (mut at, mut unreadable) = (self.kept.from, 0);
        while at < self.kept.end() {
            let head = window.get(&self.kept, at, HEADER_LEN)?;
            let header = Header::decode(&head);
            let record = match &header {
                Some(header) => {
                    let bytes = window.get(&self.kept, at, header.total_len())?;
                    let record =
                        check_record(epoch_at(&self.epochs, LogPosition(at)), header, at, bytes.clone());
                    record.map(|record| SurvivingRecord { position: LogPosition(at), bytes, record })
                }
                None => None,
            };
            if let Some(record) = record {
                at += record.bytes.len() as u64;
                visit(record)?;
                continue;
            }
            // the file does not say how long segments were: the next record tells where a filler ends
            let next = window.next_candidate(&self.kept, at + 1)?;
            if !is_filler(&self.kept, &mut window, at, next)? {
                unreadable += next - at;
            }
            at = next;
        }
        Ok(unreadable)
    }
}

/// Whether `from..to` is what [`CommitLog::place`] puts at a segment's end.
fn is_filler(kept: &Kept, window: &mut Window, from: u64, to: u64) -> Result<bool> {
    let head = window.get(kept, from, 4)?;
    if to - from < 4 {
        return Ok(true);
    }
    if head != super::FILLER.to_be_bytes().as_slice() {
        return Ok(false);
    }
    let mut at = from + 4;
    while at < to {
        let len = COPY_BYTES.min(usize::try_from(to - at).unwrap_or(COPY_BYTES));
        let bytes = window.get(kept, at, len)?;
        if bytes.is_empty() || bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += bytes.len() as u64;
    }
    Ok(true)
}

fn encode_head(epochs: &[(Epoch, LogPosition)], from: u64, len: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&(epochs.len() as u32).to_be_bytes());
    for (epoch, start) in epochs {
        head.extend_from_slice(&epoch.number.to_be_bytes());
        head.extend_from_slice(&epoch.incarnation.0);
        head.extend_from_slice(&start.0.to_be_bytes());
    }
    head.extend_from_slice(&from.to_be_bytes());
    head.extend_from_slice(&len.to_be_bytes());
    head
}

type Head = (Vec<(Epoch, LogPosition)>, u64, u64, usize);

fn decode_head(bytes: &[u8], path: &Path) -> Result<Head> {
    let damaged = || StoreError::corrupt(path, 0, "survivor file header");
    let number = |at: usize| {
        bytes
            .get(at..at + 8)
            .and_then(|b| b.first_chunk())
            .map(|b| u64::from_be_bytes(*b))
            .ok_or_else(damaged)
    };
    let count = bytes.get(4..8).and_then(|b| b.first_chunk()).map(|b| u32::from_be_bytes(*b) as usize);
    let count = count.filter(|count| *count <= EPOCHS_MAX).ok_or_else(damaged)?;
    if bytes.get(..4) != Some(MAGIC) {
        return Err(damaged());
    }
    let mut epochs = Vec::with_capacity(count);
    for row in 0..count {
        let at = 8 + row * EPOCH_ROW_LEN;
        let run = bytes.get(at + 8..).and_then(|b| b.first_chunk::<16>()).ok_or_else(damaged)?;
        let epoch = Epoch { number: number(at)?, incarnation: Incarnation(*run) };
        epochs.push((epoch, LogPosition(number(at + 24)?)));
    }
    let at = 8 + count * EPOCH_ROW_LEN;
    let (from, len) = (number(at)?, number(at + 8)?);
    from.checked_add(len).ok_or_else(damaged)?;
    Ok((epochs, from, len, at + 16))
}

impl CommitLog {
    /// Cuts everything from `position` on, after keeping it as a file in `dir` that only its owner can read. Answers the file;
    /// `None` when there is nothing to cut.
    pub fn cut_with_survivor(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        position: LogPosition,
    ) -> Result<Option<PathBuf>> {
        assert!(self.pending.is_empty(), "a copy has nothing pending");
        if position >= self.end() {
            return Ok(None);
        }
        let path = self.keep_survivor(disk, dir, position)?;
        self.chain.truncate_at(position.0)?;
        self.take_sync_batch()?.sync()?;
        Ok(Some(path))
    }

    fn keep_survivor(&self, disk: &dyn Disk, dir: &Path, from: LogPosition) -> Result<PathBuf> {
        let end = self.end();
        let newest = self.owner_of(end.0 - 1).map_or(0, |epoch| epoch.number);
        let name = format!("{:020}-{:020}-epoch{newest}", from.0, end.0);
        let mut file = KeptFile::create(disk, dir, &name, SURVIVOR_SUFFIX)?;
        file.push(&encode_head(&self.epochs, from.0, end.0 - from.0))?;
        let mut bytes = vec![0; COPY_BYTES];
        let mut at = from.0;
        while at < end.0 {
            let len = COPY_BYTES.min(usize::try_from(end.0 - at).unwrap_or(COPY_BYTES));
            let piece = bytes.get_mut(..len).unwrap_or_default();
            if self.chain.read_at(piece, at)? < len {
                return Err(StoreError::corrupt(dir, at, "the log is shorter than it says"));
            }
            file.push(piece)?;
            at += len as u64;
        }
        file.finish()
    }
}

#[cfg(test)]
mod tests;
