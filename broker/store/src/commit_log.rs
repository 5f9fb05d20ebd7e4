//! Owns the commit log: one append-only log of all topics' records, each behind a header of ours. Never knows queues beyond
//! the topic incarnation in a header, never decides when to flush. Called by the broker's core: records are laid into a
//! buffer during a turn and reach the operating system in one write at its end.
//!
//! ```text
//! header, 32 bytes, big-endian, directly before the RocketMQ record
//!  0 magic "LTR1" u32        8 trailer length u16     12 epoch number u64
//!  4 record length u32      10 flags u16 (0)          20 topic incarnation u64     28 CRC-32 u32
//! record    as RocketMQ stores it; commitlog_offset names its first byte
//! trailer   lineage of a copy (57 bytes), or nothing
//! filler    at a segment's end: magic "LTF1" u32, or fewer than 4 bytes of anything
//! ```
//! The CRC covers header (without itself), record and trailer, and is salted with the position and the epoch's incarnation:
//! bytes left over from an earlier use of the file, or written by a forked master, never pass for a record.
//!
//! Crash story: a record is there whole or not at all. [`CommitLog::scan`] tells a torn tail (above the flushed mark; cut)
//! from damage below it (reported, kept, skipped).

pub mod copy;
pub mod readback;
pub mod survivor;

use crate::disk::Disk;
use crate::error::{ErrorKind, Op, Result, StoreError};
use crate::segment::{SegmentChain, SegmentConfig, SyncBatch};
use bytes::Bytes;
use lifecycle::identity::{Epoch, LINEAGE_LEN, Lineage, LogPosition, TopicIncarnation};
use std::path::Path;
use std::sync::Arc;

/// Bytes of the header before each record.
pub const HEADER_LEN: usize = 32;
/// Longest RocketMQ record: 4 MiB of body and everything around it.
pub const RECORD_LEN_MAX: usize = 5 * 1024 * 1024;

const MAGIC: u32 = u32::from_be_bytes(*b"LTR1");
/// Where in a header its CRC is.
const CRC_AT: usize = HEADER_LEN - 4;
/// Position, incarnation, and the header up to its CRC.
const SALTED_LEN: usize = 8 + 16 + CRC_AT;
const FILLER: u32 = u32::from_be_bytes(*b"LTF1");
/// How much a scan reads at once.
const SCAN_CHUNK: usize = 8 * 1024 * 1024;

/// A record read back, checked.
#[derive(Clone, Debug)]
pub struct LoggedRecord {
    /// First byte of the RocketMQ record.
    pub commitlog_offset: LogPosition,
    /// The epoch that stored it.
    pub epoch_number: u64,
    /// Its topic's incarnation.
    pub topic: TopicIncarnation,
    /// The RocketMQ record.
    pub record: Bytes,
    /// Where it was copied from.
    pub lineage: Option<Lineage>,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// End of the log after cutting a torn tail.
    pub end: LogPosition,
    /// Bytes cut above the flushed mark.
    pub torn_bytes: u64,
    /// Damaged byte ranges below it, kept and skipped.
    pub damaged: Vec<(u64, u64)>,
}

/// The log. One writer.
pub struct CommitLog {
    chain: SegmentChain,
    pending: Vec<u8>,
    epochs: Vec<(Epoch, LogPosition)>,
}

impl CommitLog {
    /// Opens the log in `dir`. `epochs` are all epochs that ever stored into it, with the first byte each owns, rising.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segment_size_bytes: u64,
        epochs: Vec<(Epoch, LogPosition)>,
    ) -> Result<Self> {
        let config =
            SegmentConfig { dir: dir.to_path_buf(), segment_size_bytes, open_files_max: 64, allocate: false };
        Ok(CommitLog { chain: SegmentChain::open(disk, config)?, pending: Vec::new(), epochs })
    }

    /// Everything appended from now on belongs to `epoch`.
    pub fn begin_epoch(&mut self, epoch: Epoch) {
        assert!(self.pending.is_empty(), "an epoch begins between turns");
        assert!(self.epochs.last().is_none_or(|(last, _)| last.number < epoch.number), "epoch numbers rise");
        self.epochs.push((epoch, self.end()));
    }

    /// All epochs, with the first byte each owns.
    pub fn epochs(&self) -> &[(Epoch, LogPosition)] {
        &self.epochs
    }

    /// First byte kept.
    pub fn start(&self) -> LogPosition {
        LogPosition(self.chain.start_offset())
    }

    /// One past the last byte, pending ones included.
    pub fn end(&self) -> LogPosition {
        LogPosition(self.chain.end_offset() + self.pending.len() as u64)
    }

    /// Where the next record of this length will begin (its `commitlog_offset`). May close the current segment, which writes.
    pub fn place(&mut self, record_len: usize, lineage: bool) -> Result<LogPosition> {
        let total = HEADER_LEN + record_len + if lineage { LINEAGE_LEN } else { 0 };
        let size = self.chain.config().segment_size_bytes;
        if record_len > RECORD_LEN_MAX || total as u64 > size {
            let dir = self.chain.config().dir.clone();
            return Err(StoreError::new(Op::Append, &dir, self.end().0, ErrorKind::Limit("record length")));
        }
        let left = size - self.end().0 % size;
        if (total as u64) > left && left < size {
            self.write()?;
            let filler = FILLER.to_be_bytes();
            let head = if left >= 4 { filler.as_slice() } else { &[] };
            self.chain.append_zeros_to_boundary(head)?;
        }
        Ok(LogPosition(self.end().0 + HEADER_LEN as u64))
    }

    /// Lays down the record announced by the last [`Self::place`]: `write` appends exactly the bytes it was announced with.
    pub fn push(
        &mut self,
        topic: TopicIncarnation,
        lineage: Option<&Lineage>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some((epoch, _)) = self.epochs.last().copied() else {
            unreachable!("an epoch is begun before the first append")
        };
        let position = self.end().0;
        let at = self.pending.len();
        self.pending.resize(at + HEADER_LEN, 0);
        write(&mut self.pending);
        let record_len = self.pending.len() - at - HEADER_LEN;
        if let Some(lineage) = lineage {
            self.pending.extend_from_slice(&lineage.encode());
        }
        let header = Header {
            record_len: record_len as u32,
            trailer_len: if lineage.is_some() { LINEAGE_LEN as u16 } else { 0 },
            epoch_number: epoch.number,
            topic,
        };
        let (head, body) = self.pending.split_at_mut(at + HEADER_LEN);
        let head = head.split_at_mut(at).1;
        head.copy_from_slice(&header.encode(position, epoch, body));
    }

    /// Gives up what was laid down since `end` (after a failed write, or a refused request): as if it had never been. Closing
    /// a segment may have written a part of it; that is cut off again.
    pub fn discard_from(&mut self, end: LogPosition) -> Result<()> {
        match end.0.checked_sub(self.chain.end_offset()) {
            Some(keep) => {
                self.pending.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
                Ok(())
            }
            None => {
                self.pending.clear();
                self.chain.truncate_at(end.0)
            }
        }
    }

    /// Hands everything laid down to the operating system, in one write.
    ///
    /// Errors: a full disk leaves everything pending, to be tried again or discarded.
    pub fn write(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.chain.append(&self.pending)?;
            self.pending.clear();
            if self.pending.capacity() > SCAN_CHUNK {
                self.pending.shrink_to(SCAN_CHUNK);
            }
        }
        Ok(())
    }

    /// What a flush must sync; everything up to its `end_offset` is then on disk.
    pub fn take_sync_batch(&mut self) -> Result<SyncBatch> {
        self.chain.take_sync_batch()
    }

    /// Whether bytes were written since the last sync batch.
    pub fn is_dirty(&self) -> bool {
        self.chain.is_dirty()
    }

    /// Puts everything from `position` on into the next sync batch: the last process wrote it, and may not have synced.
    pub fn mark_dirty_from(&mut self, position: LogPosition) {
        self.chain.mark_dirty_from(position.0);
    }

    /// The record whose first byte is at `commitlog_offset`; `None` when there is none (any offset may be asked for).
    pub fn read(&self, commitlog_offset: LogPosition) -> Result<Option<LoggedRecord>> {
        self.read_sized(commitlog_offset, 2048)
    }

    /// As [`Self::read`], knowing (nearly) how long the record is, so that one read suffices.
    pub fn read_sized(
        &self,
        commitlog_offset: LogPosition,
        expected_len: usize,
    ) -> Result<Option<LoggedRecord>> {
        let Some(start) = commitlog_offset.0.checked_sub(HEADER_LEN as u64) else { return Ok(None) };
        if start < self.chain.start_offset() || commitlog_offset.0 >= self.chain.end_offset() {
            return Ok(None);
        }
        let mut buf = vec![0u8; HEADER_LEN + expected_len.min(RECORD_LEN_MAX) + LINEAGE_LEN];
        let got = match self.chain.read_at(&mut buf, start) {
            // the record behind it may be what cannot be read: this one is no worse for that
            Err(error) if error.is_of_medium() => {
                buf.truncate(HEADER_LEN);
                self.chain.read_at(&mut buf, start)?
            }
            read => read?,
        };
        buf.truncate(got);
        let Some(header) = Header::decode(&buf) else { return Ok(None) };
        let total = header.total_len();
        if total > buf.len() {
            let had = buf.len();
            buf.resize(total, 0);
            let Some(rest) = buf.get_mut(had..) else { return Ok(None) };
            if self.chain.read_at(rest, start + had as u64)? < rest.len() {
                return Ok(None);
            }
        }
        buf.truncate(total);
        Ok(self.check(&header, start, Bytes::from(buf)))
    }

    /// Reads forward from `from` (a border between records), handing every good record to `visit`. Cuts a torn tail above
    /// `flushed`; damage below it is reported and skipped over, up to the next good record.
    pub fn scan(
        &mut self,
        from: LogPosition,
        flushed: LogPosition,
        mut visit: impl FnMut(LoggedRecord),
    ) -> Result<ScanReport> {
        let mut report = ScanReport::default();
        let mut window = Window::default();
        let size = self.chain.config().segment_size_bytes;
        let mut end = self.chain.end_offset();
        let mut at = from.0.max(self.chain.start_offset());
        let mut damage: Option<u64> = None;
        while at < end {
            let left = size - at % size;
            let head = window.get(&self.chain, at, HEADER_LEN.min(left as usize))?;
            let found = Header::decode(&head).filter(|header| header.total_len() as u64 <= left);
            let record = match &found {
                Some(header) => {
                    let bytes = window.get(&self.chain, at, header.total_len())?;
                    self.check(header, at, bytes)
                }
                None => None,
            };
            if let (Some(record), Some(header)) = (record, found) {
                if let Some(start) = damage.take() {
                    report.damaged.push((start, at));
                }
                at += header.total_len() as u64;
                visit(record);
            } else if window.stands_filler(&self.chain, at, (left, damage.is_some()))? {
                // its zeros may be missing: an append into them would never be found again
                self.chain.fill_segment(at)?;
                end = self.chain.end_offset();
                at += left;
            } else {
                damage.get_or_insert(at);
                if at >= flushed.0 {
                    // torn: nothing from here on was promised, and what looks whole behind it may miss its predecessors
                    break;
                }
                // damage below the mark: look for the next record, what follows is kept
                at = window.next_candidate(&self.chain, at + 1)?;
            }
        }
        // `at` stands at the torn place, or at the end
        if let Some(start) = damage
            && start < at.min(flushed.0)
        {
            report.damaged.push((start, at.min(end)));
        }
        report.end = LogPosition(at.min(end).max(self.chain.start_offset()));
        report.torn_bytes = end.saturating_sub(report.end.0);
        if report.torn_bytes > 0 {
            self.chain.truncate_at(report.end.0)?;
        }
        Ok(report)
    }

    /// Deletes whole segments below `position`; answers the new first byte.
    pub fn remove_before(&mut self, position: LogPosition) -> Result<LogPosition> {
        self.chain.remove_before(position.0)?;
        Ok(self.start())
    }

    /// Starts and ends of the segment files, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = (LogPosition, LogPosition)> + '_ {
        self.chain.segments().map(|s| (LogPosition(s.start), LogPosition(s.end)))
    }

    fn owner_of(&self, position: u64) -> Option<Epoch> {
        epoch_at(&self.epochs, LogPosition(position))
    }

    fn check(&self, header: &Header, position: u64, bytes: Bytes) -> Option<LoggedRecord> {
        check_record(self.owner_of(position), header, position, bytes)
    }
}

/// The epoch of a table that owns a position.
pub fn epoch_at(epochs: &[(Epoch, LogPosition)], position: LogPosition) -> Option<Epoch> {
    let index = epochs.partition_point(|(_, start)| *start <= position);
    index.checked_sub(1).and_then(|i| epochs.get(i)).map(|(epoch, _)| *epoch)
}

/// The record in `bytes`, if they are one of this epoch at this position.
fn check_record(owner: Option<Epoch>, header: &Header, position: u64, bytes: Bytes) -> Option<LoggedRecord> {
    let epoch = owner?;
    if epoch.number != header.epoch_number || bytes.len() != header.total_len() {
        return None;
    }
    let stored = bytes.get(..HEADER_LEN)?;
    if header.encode(position, epoch, bytes.get(HEADER_LEN..)?) != stored {
        return None;
    }
    let trailer_at = HEADER_LEN + header.record_len as usize;
    Some(LoggedRecord {
        commitlog_offset: LogPosition(position + HEADER_LEN as u64),
        epoch_number: header.epoch_number,
        topic: header.topic,
        record: bytes.slice(HEADER_LEN..trailer_at),
        lineage: Lineage::decode(bytes.get(trailer_at..)?),
    })
}

struct Header {
    record_len: u32,
    trailer_len: u16,
    epoch_number: u64,
    topic: TopicIncarnation,
}

impl Header {
    fn total_len(&self) -> usize {
        HEADER_LEN + self.record_len as usize + usize::from(self.trailer_len)
    }

    fn decode(bytes: &[u8]) -> Option<Header> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (record_len, rest) = rest.split_first_chunk::<4>()?;
        let (trailer_len, rest) = rest.split_first_chunk::<2>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (topic, rest) = rest.split_first_chunk::<8>()?;
        rest.first_chunk::<4>()?;
        let header = Header {
            record_len: u32::from_be_bytes(*record_len),
            trailer_len: u16::from_be_bytes(*trailer_len),
            epoch_number: u64::from_be_bytes(*epoch),
            topic: TopicIncarnation(u64::from_be_bytes(*topic)),
        };
        let plausible = *magic == MAGIC.to_be_bytes()
            && *flags == [0, 0]
            && header.record_len as usize <= RECORD_LEN_MAX
            && (header.trailer_len == 0 || usize::from(header.trailer_len) == LINEAGE_LEN);
        plausible.then_some(header)
    }

    fn encode(&self, position: u64, epoch: Epoch, body: &[u8]) -> [u8; HEADER_LEN] {
        let mut out = [0u8; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        out[4..8].copy_from_slice(&self.record_len.to_be_bytes());
        out[8..10].copy_from_slice(&self.trailer_len.to_be_bytes());
        out[12..20].copy_from_slice(&self.epoch_number.to_be_bytes());
        out[20..28].copy_from_slice(&self.topic.0.to_be_bytes());
        let mut salted = [0u8; SALTED_LEN];
        salted[..8].copy_from_slice(&position.to_be_bytes());
        salted[8..24].copy_from_slice(&epoch.incarnation.0);
        salted[24..].copy_from_slice(&out[..CRC_AT]);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salted);
        hasher.update(body);
        out[CRC_AT..].copy_from_slice(&hasher.finalize().to_be_bytes());
        out
    }
}

/// Bytes of a log, addressed by their positions in it.
trait ReadAt {
    /// One past the last.
    fn end(&self) -> u64;
    /// Fills `buf` from `at` on; answers how many bytes there were.
    fn read_at(&self, buf: &mut [u8], at: u64) -> Result<usize>;
}

impl ReadAt for SegmentChain {
    fn end(&self) -> u64 {
        self.end_offset()
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> Result<usize> {
        self.read_at(buf, at)
    }
}

/// A read-ahead window over a log, so that a scan costs one read per [`SCAN_CHUNK`].
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Bytes,
}

impl Window {
    /// Up to `len` bytes at `at`: fewer only at the end of the log.
    fn get(&mut self, log: &impl ReadAt, at: u64, len: usize) -> Result<Bytes> {
        let inside = at >= self.start && at + len as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            // a replica walks each little piece that comes: it must not pay for a chunk of nothing behind it
            let left = usize::try_from(log.end().saturating_sub(at)).unwrap_or(SCAN_CHUNK);
            let mut buf = vec![0u8; SCAN_CHUNK.min(left).max(len)];
            let got = log.read_at(&mut buf, at)?;
            buf.truncate(got);
            self.start = at;
            self.bytes = Bytes::from(buf);
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = (from + len).min(self.bytes.len());
        Ok(self.bytes.slice(from..to))
    }

    /// Whether what closes a segment stands at `at`, `left` bytes before its end. `searching`: `at` need not be a border between
    /// records, and a spoilt one may hold these four bytes; nothing but zeros follows them in a filler.
    fn stands_filler(&mut self, log: &impl ReadAt, at: u64, (left, searching): (u64, bool)) -> Result<bool> {
        if left < 4 {
            return Ok(!searching);
        }
        let marked = self.get(log, at, 4)? == FILLER.to_be_bytes().as_slice();
        if !marked || !searching {
            return Ok(marked);
        }
        let (mut place, to) = (at + 4, (at + left).min(log.end()));
        while place < to {
            let len = usize::try_from(to - place).unwrap_or(usize::MAX).min(64 * 1024);
            let bytes = self.get(log, place, len)?;
            if bytes.is_empty() || bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            place += bytes.len() as u64;
        }
        Ok(true)
    }

    /// The next place, `from` or behind it, that looks as if a record or a filler began there; the end when there is none.
    fn next_candidate(&mut self, log: &impl ReadAt, from: u64) -> Result<u64> {
        let end = log.end();
        let mut at = from;
        while at < end {
            let chunk = self.get(log, at, 64 * 1024)?;
            if chunk.len() < 4 {
                return Ok(end);
            }
            let hit = chunk.windows(4).position(|w| w == MAGIC.to_be_bytes() || w == FILLER.to_be_bytes());
            match hit {
                Some(index) => return Ok(at + index as u64),
                None => at += chunk.len() as u64 - 3,
            }
        }
        Ok(end)
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
