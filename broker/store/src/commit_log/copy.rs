//! A log that is a copy of another one, byte for byte: which bytes may be sent together, and what is checked before they are
//! appended.

use super::{CommitLog, FILLER, HEADER_LEN, Header, LoggedRecord, RECORD_LEN_MAX, Window};
use crate::error::{Result, StoreError};
use bytes::Bytes;
use lifecycle::identity::{Epoch, LINEAGE_LEN, LogPosition};

/// Longest piece of a log that cannot be divided: a record with its header and trailer, or a filler in its place.
pub const PIECE_LEN_MAX: usize = HEADER_LEN + RECORD_LEN_MAX + LINEAGE_LEN;

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
        let mut searching = false;
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
                searching = false;
                visit(record)?;
            } else if window.stands_filler(&self.chain, at, (left, searching))? {
                at += left;
                searching = false;
            } else {
                searching = true;
                at = window.next_candidate(&self.chain, at + 1)?;
            }
        }
        Ok(LogPosition(at))
    }

    /// Where the log's files are, and how long each is: what a reader on another thread needs.
    pub fn segment_config(&self) -> &crate::segment::SegmentConfig {
        self.chain.config()
    }
}

#[cfg(test)]
mod tests;
