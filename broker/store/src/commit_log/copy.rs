//! A log that is a copy of another one, byte for byte: which bytes may be sent together, what is checked before they are
//! appended, and how a part that lost is kept when it is cut off.
//!
//! ```text
//! survivor file: magic "LTS1", count u32, per epoch: number u64, incarnation 16 bytes, first byte u64   big-endian
//!                first byte u64, length u64, the bytes as they were, CRC-32 over all before it
//! ```
//! It holds what is needed to check its records again: their positions and their epochs.
//!
//! Crash story: a survivor file is written beside its place, synced and renamed before the first byte is cut. A crash in between
//! means that the same file is made again.

use super::{CommitLog, FILLER, HEADER_LEN, Header, LoggedRecord, RECORD_LEN_MAX, Window};
use crate::disk::{Disk, OpenMode};
use crate::error::{Op, Result, StoreError};
use bytes::Bytes;
use lifecycle::identity::{Epoch, LINEAGE_LEN, LogPosition};
use std::path::{Path, PathBuf};

/// Longest piece of a log that cannot be divided: a record with its header and trailer, or a filler in its place.
pub const PIECE_LEN_MAX: usize = HEADER_LEN + RECORD_LEN_MAX + LINEAGE_LEN;

const SURVIVOR_MAGIC: &[u8; 4] = b"LTS1";
const COPY_BYTES: usize = 1 << 20;

/// Why bytes are not appended to a copy. Nothing of them was.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// They belong elsewhere.
    #[error("bytes for position {given} came, the copy ends at {end}")]
    Misplaced {
        /// Where they say they belong.
        given: u64,
        /// Where the copy ends.
        end: u64,
    },
    /// No record of an epoch that owns the place.
    #[error("no valid record at {0}: wrong checksum, epoch or length")]
    Damaged(u64),
    /// The other side is not one to copy from.
    #[error("{0}")]
    Refused(String),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What stands at a place, by its length alone.
enum Piece {
    Record(Header),
    Filler(usize),
    /// Not all of it is here.
    Short,
    Unknown,
}

fn piece(bytes: &[u8], position: u64, segment_size: u64) -> Piece {
    let left = usize::try_from(segment_size - position % segment_size).unwrap_or(usize::MAX);
    if left < 4 || bytes.get(..4) == Some(&FILLER.to_be_bytes()) {
        return if bytes.len() < left { Piece::Short } else { Piece::Filler(left) };
    }
    if bytes.len() < HEADER_LEN.min(left) {
        return Piece::Short;
    }
    match Header::decode(bytes) {
        Some(header) if header.total_len() > left => Piece::Unknown,
        Some(header) if header.total_len() > bytes.len() => Piece::Short,
        Some(header) => Piece::Record(header),
        None => Piece::Unknown,
    }
}

/// How many of `bytes`, which stand at `position` of a log, are whole records and fillers. Lengths are all that is looked at.
pub fn whole_len(bytes: &[u8], position: LogPosition, segment_size: u64) -> usize {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match piece(rest, position.0 + at as u64, segment_size) {
            Piece::Record(header) => at += header.total_len(),
            Piece::Filler(len) => at += len,
            Piece::Short | Piece::Unknown => break,
        }
    }
    at
}

impl CommitLog {
    /// Takes over the epoch table of the log this one is a copy of. What is here already must keep its owners.
    pub fn accept_epochs(&mut self, epochs: Vec<(Epoch, LogPosition)>) {
        let end = self.end();
        let below = |table: &[(Epoch, LogPosition)]| {
            table.iter().copied().filter(|(_, start)| *start < end).collect::<Vec<_>>()
        };
        assert_eq!(below(&self.epochs), below(&epochs), "records keep the epoch that stored them");
        self.epochs = epochs;
    }

    /// Appends what stands at `position` of the copied log: whole records and fillers, each record checked against its checksum,
    /// its position and the epoch that owns it. All of it, or nothing.
    pub fn append_copied(
        &mut self,
        position: LogPosition,
        bytes: &Bytes,
    ) -> std::result::Result<(), CopyError> {
        if position != self.end() {
            return Err(CopyError::Misplaced { given: position.0, end: self.end().0 });
        }
        let size = self.chain.config().segment_size_bytes;
        let mut at = 0;
        while at < bytes.len() {
            let here = position.0 + at as u64;
            let rest = bytes.slice(at..);
            let len = match piece(&rest, here, size) {
                Piece::Record(header) => {
                    let whole = rest.slice(..header.total_len());
                    self.check(&header, here, whole).map(|_| header.total_len())
                }
                Piece::Filler(len) => {
                    rest.get(4.min(len)..len).filter(|zeros| zeros.iter().all(|byte| *byte == 0)).map(|_| len)
                }
                Piece::Short | Piece::Unknown => None,
            };
            at += len.ok_or(CopyError::Damaged(here))?;
        }
        self.chain.append(bytes)?;
        Ok(())
    }

    /// Hands every good record from `from` (a border between records) up to `to` to `visit`; damaged places are passed over.
    /// Answers the border it has come to: a record that begins below `to` is handed over whole.
    pub fn walk(
        &self,
        from: LogPosition,
        to: LogPosition,
        mut visit: impl FnMut(LoggedRecord) -> Result<()>,
    ) -> Result<LogPosition> {
        let mut window = Window::default();
        let size = self.chain.config().segment_size_bytes;
        let end = self.chain.end_offset().min(to.0);
        let mut at = from.0.max(self.chain.start_offset());
        while at < end {
            let left = size - at % size;
            let head = window.get(&self.chain, at, HEADER_LEN.min(left as usize))?;
            let header = Header::decode(&head).filter(|header| header.total_len() as u64 <= left);
            let record = match &header {
                Some(header) => {
                    let bytes = window.get(&self.chain, at, header.total_len())?;
                    self.check(header, at, bytes)
                }
                None => None,
            };
            if let (Some(record), Some(header)) = (record, header) {
                at += header.total_len() as u64;
                visit(record)?;
            } else if left < 4 || head.get(..4) == Some(&FILLER.to_be_bytes()) {
                at += left;
            } else {
                at = self.next_candidate(&mut window, at + 1)?;
            }
        }
        Ok(LogPosition(at))
    }

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
        let (path, part) = (dir.join(format!("{name}.log")), dir.join(format!("{name}.part")));
        disk.create_dir_all(dir)?;
        match disk.remove(&part) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let file = disk.open(&part, OpenMode::CreatePrivate)?;
        let mut head = SURVIVOR_MAGIC.to_vec();
        head.extend_from_slice(&(self.epochs.len() as u32).to_be_bytes());
        for (epoch, start) in &self.epochs {
            head.extend_from_slice(&epoch.number.to_be_bytes());
            head.extend_from_slice(&epoch.incarnation.0);
            head.extend_from_slice(&start.0.to_be_bytes());
        }
        head.extend_from_slice(&from.0.to_be_bytes());
        head.extend_from_slice(&(end.0 - from.0).to_be_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        file.write_all_at(&head, 0)?;
        let mut written = head.len() as u64;
        let mut at = from.0;
        while at < end.0 {
            let len = COPY_BYTES.min(usize::try_from(end.0 - at).unwrap_or(COPY_BYTES));
            let mut bytes = vec![0; len];
            let got = self.chain.read_at(&mut bytes, at)?;
            if got < len {
                return Err(StoreError::corrupt(&part, at, "the log is shorter than it says"));
            }
            crc.update(&bytes);
            file.write_all_at(&bytes, written)?;
            written += len as u64;
            at += len as u64;
        }
        file.write_all_at(&crc.finalize().to_be_bytes(), written)?;
        file.sync()?;
        disk.rename(&part, &path)?;
        disk.sync_dir(dir)?;
        Ok(path)
    }

    /// Where the log's files are, and how long each is: what a reader on another thread needs.
    pub fn segment_config(&self) -> &crate::segment::SegmentConfig {
        self.chain.config()
    }
}

/// The bytes a survivor file kept, and where they stood.
pub fn read_survivor(disk: &dyn Disk, path: &Path) -> Result<(LogPosition, Bytes)> {
    let damaged = |what| StoreError::corrupt(path, 0, what);
    let file = disk.open(path, OpenMode::Existing)?;
    let len = usize::try_from(file.len()?).map_err(|_| StoreError::corrupt(path, 0, "survivor file size"))?;
    let mut bytes = vec![0; len];
    if file.read_at(&mut bytes, 0)? < len {
        return Err(StoreError::new(Op::Read, path, 0, crate::error::ErrorKind::Corrupt("cut short")));
    }
    let (whole, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("survivor file is too short"))?;
    if crc32fast::hash(whole).to_be_bytes() != *crc || whole.get(..4) != Some(SURVIVOR_MAGIC) {
        return Err(damaged("survivor file checksum"));
    }
    let count = whole.get(4..8).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b)) as usize;
    let at = 8 + count * 32;
    let number =
        |at: usize| whole.get(at..at + 8).and_then(|b| b.first_chunk()).map(|b| u64::from_be_bytes(*b));
    let (Some(from), Some(length)) = (number(at), number(at + 8)) else {
        return Err(damaged("survivor file header"));
    };
    let kept = whole.get(at + 16..).unwrap_or_default();
    if kept.len() as u64 != length {
        return Err(damaged("survivor file length"));
    }
    Ok((LogPosition(from), Bytes::copy_from_slice(kept)))
}

#[cfg(test)]
mod tests;
