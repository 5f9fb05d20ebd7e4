//! A segmented, append-only log of opaque frames, numbered by (incarnation, sequence).
//!
//! Owns the files of one folder. Never looks into a payload, never syncs by itself except when it is opened, never
//! waits. Called by the broker for its lifecycle journal and by the agent for its evidence and verdict logs; one writer,
//! any number of readers on any threads.
//!
//! ```text
//! file name: 20 digits, rising by one per segment, over all incarnations
//! segment:   | header 44 B | frame | frame | ...            belongs to exactly one incarnation
//! header:    | "LTJ1" 4 | version u16 | 0 u16 | incarnation 16 | first sequence u64 | created wall ms u64 | crc32 of these 40 B |
//! frame:     | varint (payload bytes << 1 | reset point) 1-4 | crc32 4 | payload |      integers little endian
//! crc32:     over incarnation, sequence (8 B), the varint, the payload; neither of the first two is stored per frame
//! ```
//!
//! The sequence is implied by the order and starts at 1 in each incarnation. Payloads may lean on what earlier payloads said
//! (dictionaries); at a *reset point* they start afresh. The first frame of every segment is one, and so is at least one
//! in every 2 MiB: [`Journal::needs_reset`] says so before the payload is encoded. A frame never spans two segments;
//! a segment may be longer than its nominal size by one frame.
//!
//! Crash story: [`Journal::write`] puts frames out of reach of kill -9, the sync of a [`JournalSync`] out of reach of
//! a power cut. Opening starts a new incarnation in a new, durable segment and never changes an older file. An old incarnation is
//! readable up to its last good frame; what follows is the torn tail: reported, not delivered. Damage
//! before a good frame is a hole with exact bounds; reading continues at the next reset point, or the next segment. A
//! length that is itself damaged hides the rest of its segment.

mod copy;
mod frame;
pub mod kept;
mod reader;

pub use reader::{JournalItem, JournalReader};

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use crate::segment::{parse_segment_name, segment_name};
use frame::{HEADER_BYTES, Scanned, SegmentHeader, SegmentScan, encode_frame};
use lifecycle::identity::Incarnation;
use lifecycle::position::Position;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Version of the format drawn above.
pub const FORMAT_VERSION: u16 = 1;
/// Largest payload of one frame.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes that may wait for [`Journal::write`].
pub const BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Default size of a segment.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Default distance of reset points.
pub const RESET_INTERVAL_BYTES: u64 = 2 * 1024 * 1024;

/// Room that [`Journal::reserve`] keeps for a full disk.
pub const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

/// Where a journal lives and how it is cut.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    pub dir: PathBuf,
    pub segment_size_bytes: u64,
    pub reset_interval_bytes: u64,
}

impl JournalConfig {
    pub fn new(dir: PathBuf) -> JournalConfig {
        JournalConfig { dir, segment_size_bytes: SEGMENT_BYTES, reset_interval_bytes: RESET_INTERVAL_BYTES }
    }
}

/// One file, as the readers know it.
#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    incarnation: Incarnation,
    first_sequence: u64,
    /// One more than the sequence of the last frame; for a file that is followed by another of its incarnation,
    /// what that one's header says.
    next_sequence: u64,
    /// Bytes that are written.
    len: u64,
    /// Bytes were found that are not frames, here or behind it.
    is_damaged: bool,
}

/// One incarnation in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncarnationInfo {
    pub incarnation: Incarnation,
    /// The first sequence still there (retention removes from the front).
    pub first_sequence: u64,
    /// The last one, 0 for none; "closed at" once the incarnation is over.
    pub last_sequence: u64,
    /// No byte was found behind `last_sequence` that could not be read. A power cut can also take frames
    /// without leaving such a byte.
    pub is_complete: bool,
    pub is_live: bool,
    pub bytes: u64,
}

/// A torn tail found when opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutTail {
    /// The last good frame before it (sequence 0: none).
    pub after: Position,
    pub bytes: u64,
}

/// What opening found. Holes further back are reported by the reader that meets them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalReport {
    pub cut: Vec<CutTail>,
    /// Segments whose header cannot be read; they stay, unread.
    pub unreadable: Vec<PathBuf>,
}

/// Files to sync; then every frame up to `position` is durable. Goes to a flusher thread.
#[derive(Debug, Clone)]
pub struct JournalSync {
    pub files: Vec<Arc<dyn DiskFile>>,
    pub position: Position,
}

impl JournalSync {
    /// Any error is fatal for the process.
    pub fn sync(&self) -> Result<Position> {
        for file in &self.files {
            file.sync()?;
        }
        Ok(self.position)
    }
}

/// The readers' side of a journal: cheap to clone, usable on any thread.
#[derive(Debug, Clone)]
pub struct JournalView {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segments: Arc<Mutex<Vec<Segment>>>,
}

impl JournalView {
    fn segments(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.segments.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(segment_name(number))
    }

    /// All incarnations, oldest first.
    pub fn incarnations(&self) -> Vec<IncarnationInfo> {
        let segments = self.segments();
        let mut infos: Vec<IncarnationInfo> = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let is_live = index + 1 == segments.len();
            let last_sequence = segment.next_sequence - 1;
            match infos.last_mut().filter(|info| info.incarnation == segment.incarnation) {
                Some(info) => {
                    info.last_sequence = last_sequence;
                    info.is_complete &= !segment.is_damaged;
                    info.is_live = is_live;
                    info.bytes += segment.len;
                }
                None => infos.push(IncarnationInfo {
                    incarnation: segment.incarnation,
                    first_sequence: segment.first_sequence,
                    last_sequence,
                    is_complete: !segment.is_damaged,
                    is_live,
                    bytes: segment.len,
                }),
            }
        }
        infos
    }

    /// Reads from the latest reset point at or before `position`, so that payloads can be decoded; the caller ignores what
    /// comes before the position. Fails with `NotFound` for an incarnation that is not here.
    pub fn read_from(&self, position: Position) -> Result<JournalReader> {
        JournalReader::open(self.clone(), position)
    }

    /// Reads everything there is.
    pub fn read_all(&self) -> Result<JournalReader> {
        let first = self.segments().first().map(|segment| segment.incarnation).unwrap_or_default();
        self.read_from(Position { incarnation: first, sequence: 0 })
    }
}

/// The journal and its one writer.
#[derive(Debug)]
pub struct Journal {
    view: JournalView,
    config: JournalConfig,
    incarnation: Incarnation,
    file: Arc<dyn DiskFile>,
    /// Bytes of the open segment the operating system has.
    written_len: u64,
    /// What it does not have yet: whole frames, and a new segment's header.
    buffer: Vec<u8>,
    next_sequence: u64,
    written_sequence: u64,
    /// Bytes since the last reset point; `None` before the first frame of a segment.
    since_reset: Option<u64>,
    dirty: Vec<Arc<dyn DiskFile>>,
    wall_ms: u64,
    /// Up to here the live file has its blocks already.
    reserved_to: u64,
}

impl Journal {
    /// Opens the journal of a folder and starts `incarnation`, which must be new. Its segment is durable on return.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: JournalConfig,
        incarnation: Incarnation,
        wall_ms: u64,
    ) -> Result<(Journal, JournalReport)> {
        disk.create_dir_all(&config.dir)?;
        let mut report = JournalReport::default();
        let mut segments = Vec::new();
        let number = load_segments(disk.as_ref(), &config.dir, &mut segments, &mut report)?;
        close_incarnations(disk.as_ref(), &config.dir, &mut segments, &mut report)?;
        if segments.iter().any(|segment| segment.incarnation == incarnation) {
            return Err(StoreError::new(Op::Open, &config.dir, 0, ErrorKind::AlreadyExists));
        }
        let header = SegmentHeader { incarnation, first_sequence: 1, created_wall_ms: wall_ms };
        let path = config.dir.join(segment_name(number));
        let file = disk.open(&path, OpenMode::CreateNew)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync()?;
        disk.sync_dir(&config.dir)?;
        let len = HEADER_BYTES as u64;
        segments.push(Segment {
            number,
            incarnation,
            first_sequence: 1,
            next_sequence: 1,
            len,
            is_damaged: false,
        });
        let view = JournalView { disk, dir: config.dir.clone(), segments: Arc::new(Mutex::new(segments)) };
        let journal = Journal {
            view,
            config,
            incarnation,
            file,
            written_len: len,
            buffer: Vec::new(),
            next_sequence: 1,
            written_sequence: 0,
            since_reset: None,
            dirty: Vec::new(),
            wall_ms,
            reserved_to: 0,
        };
        Ok((journal, report))
    }

    /// For readers on this or any other thread.
    pub fn view(&self) -> JournalView {
        self.view.clone()
    }

    /// The wall time the next segment's header will show; for people only.
    pub fn set_wall_ms(&mut self, wall_ms: u64) {
        self.wall_ms = wall_ms;
    }

    /// The position of the last appended frame (sequence 0: none).
    pub fn last_position(&self) -> Position {
        Position { incarnation: self.incarnation, sequence: self.next_sequence - 1 }
    }

    /// Whether the next frame must be a reset point: it starts a segment, or the last one is too far back.
    pub fn needs_reset(&self) -> bool {
        self.since_reset.is_none_or(|bytes| bytes > self.config.reset_interval_bytes) || self.must_roll()
    }

    /// Buffers one frame and returns its position. Payloads are 1 byte to 8 MiB. After an error nothing was appended.
    pub fn append(&mut self, payload: &[u8], is_reset_point: bool) -> Result<Position> {
        assert!(is_reset_point || !self.needs_reset(), "the caller must ask needs_reset before encoding");
        let limit = |what| StoreError::new(Op::Append, &self.config.dir, 0, ErrorKind::Limit(what));
        if payload.is_empty() || payload.len() > FRAME_PAYLOAD_BYTES_MAX {
            return Err(limit("journal frame size"));
        }
        if self.buffer.len() + payload.len() > BUFFER_BYTES_MAX {
            return Err(limit("journal buffer"));
        }
        if self.must_roll() {
            self.roll()?;
        }
        let before = self.buffer.len();
        encode_frame(&mut self.buffer, (self.incarnation, self.next_sequence), payload, is_reset_point);
        let added = (self.buffer.len() - before) as u64;
        self.since_reset = Some(if is_reset_point { added } else { self.since_reset.unwrap_or(0) + added });
        self.next_sequence += 1;
        Ok(self.last_position())
    }

    /// Hands everything buffered to the operating system in one write and returns the last position it has. After
    /// "disk full" the buffer is kept and the call may be repeated.
    pub fn write(&mut self) -> Result<Position> {
        if !self.buffer.is_empty() {
            if self.dirty.last().is_none_or(|last| !Arc::ptr_eq(last, &self.file)) {
                self.dirty.push(self.file.clone());
            }
            self.file.write_all_at(&self.buffer, self.written_len)?;
            self.written_len += self.buffer.len() as u64;
            self.buffer.clear();
            self.buffer.shrink_to(FRAME_PAYLOAD_BYTES_MAX);
            self.written_sequence = self.next_sequence - 1;
            let mut segments = self.view.segments();
            let live = segments.last_mut().expect("the live segment is always listed");
            (live.len, live.next_sequence) = (self.written_len, self.next_sequence);
        }
        Ok(Position { incarnation: self.incarnation, sequence: self.written_sequence })
    }

    /// Keeps room on the disk for what is written next, between half of [`RESERVE_BYTES`] and all of it. False when the disk is
    /// full: then what is left is for what must be stated in any case, and the caller states as little as it can.
    pub fn reserve(&mut self) -> Result<bool> {
        let len = self.written_len + self.buffer.len() as u64;
        if self.reserved_to >= len + RESERVE_BYTES / 2 {
            return Ok(true);
        }
        match self.file.allocate(len + RESERVE_BYTES) {
            Ok(()) => {
                self.reserved_to = len + RESERVE_BYTES;
                Ok(true)
            }
            Err(error) if matches!(error.kind, ErrorKind::NoSpace) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What was written since the last call, to be synced on any thread. A failed sync is fatal, nothing is put back.
    pub fn take_sync_batch(&mut self) -> JournalSync {
        let position = Position { incarnation: self.incarnation, sequence: self.written_sequence };
        JournalSync { files: std::mem::take(&mut self.dirty), position }
    }

    /// Removes the segments whose frames all lie before `position` (older incarnations are before newer ones), oldest first,
    /// never the live one. Returns the bytes freed.
    pub fn remove_before(&mut self, position: Position) -> Result<u64> {
        let keep = {
            let segments = self.view.segments();
            let holds = |segment: &Segment| {
                segment.incarnation == position.incarnation
                    && segment.first_sequence <= position.sequence.max(1)
            };
            let oldest = segments.iter().position(|segment| segment.incarnation == position.incarnation);
            let Some(oldest) = oldest else {
                return Err(StoreError::new(Op::Remove, &self.config.dir, 0, ErrorKind::NotFound));
            };
            segments.iter().rposition(holds).unwrap_or(oldest)
        };
        let mut freed = 0;
        for _ in 0..keep {
            // Unlisted first, so that no reader finds a name without a file.
            let first = self.view.segments().remove(0);
            self.view.disk.remove(&self.view.path(first.number))?;
            // One by one: a power cut must not bring back an older segment without a newer one.
            self.view.disk.sync_dir(&self.config.dir)?;
            freed += first.len;
        }
        Ok(freed)
    }

    fn must_roll(&self) -> bool {
        let len = self.written_len + self.buffer.len() as u64;
        self.since_reset.is_some() && len >= self.config.segment_size_bytes
    }

    fn roll(&mut self) -> Result<()> {
        self.write()?;
        let number = self.view.segments().last().map_or(0, |live| live.number) + 1;
        let path = self.view.path(number);
        let file = self.view.disk.open(&path, OpenMode::Create)?;
        self.view.disk.sync_dir(&self.config.dir)?;
        let (incarnation, first_sequence) = (self.incarnation, self.next_sequence);
        let header = SegmentHeader { incarnation, first_sequence, created_wall_ms: self.wall_ms };
        self.buffer.extend_from_slice(&header.encode());
        // what was kept for the old segment is given back
        self.file.truncate(self.written_len)?;
        (self.file, self.written_len, self.since_reset, self.reserved_to) = (file, 0, None, 0);
        let next_sequence = first_sequence;
        let segment =
            Segment { number, incarnation, first_sequence, next_sequence, len: 0, is_damaged: false };
        self.view.segments().push(segment);
        Ok(())
    }
}

/// Reads the headers of all segments, in order; returns the number the next one gets.
fn load_segments(
    disk: &dyn Disk,
    dir: &Path,
    segments: &mut Vec<Segment>,
    report: &mut JournalReport,
) -> Result<u64> {
    let mut next_number = 0;
    for entry in disk.list(dir)? {
        let Some(number) = parse_segment_name(&entry.name).filter(|_| !entry.is_dir) else { continue };
        next_number = number.saturating_add(1);
        let path = dir.join(&entry.name);
        if entry.len == 0 {
            // Created, and killed before the first write.
            disk.remove(&path)?;
            continue;
        }
        let mut bytes = [0; HEADER_BYTES];
        let count = disk.open(&path, OpenMode::Existing)?.read_at(&mut bytes, 0)?;
        match SegmentHeader::decode(&bytes[..count], &path) {
            Ok(header) => segments.push(Segment {
                number,
                incarnation: header.incarnation,
                first_sequence: header.first_sequence,
                next_sequence: header.first_sequence,
                len: entry.len,
                is_damaged: false,
            }),
            Err(error) if matches!(error.kind, ErrorKind::Corrupt(_)) => {
                if let Some(last) = segments.last_mut() {
                    last.is_damaged = true;
                }
                report.unreadable.push(path);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(next_number)
}

/// Finds out where each incarnation ends, by reading its last segment.
fn close_incarnations(
    disk: &dyn Disk,
    dir: &Path,
    segments: &mut [Segment],
    report: &mut JournalReport,
) -> Result<()> {
    let last_run = segments.last().map(|segment| segment.incarnation);
    for index in 0..segments.len() {
        let following = segments.get(index + 1).copied();
        let segment = &mut segments[index];
        if Some(segment.incarnation) == last_run {
            // the last run may have been killed before it synced; whoever reads it is told that it is on disk
            let file = disk.open(&dir.join(segment_name(segment.number)), OpenMode::Existing)?;
            // what it kept for itself is given back
            file.truncate(segment.len)?;
            file.sync()?;
        }
        if let Some(next) = following.filter(|next| next.incarnation == segment.incarnation) {
            segment.next_sequence = next.first_sequence.max(segment.first_sequence);
            continue;
        }
        let file = disk.open(&dir.join(segment_name(segment.number)), OpenMode::Existing)?;
        let mut scan = SegmentScan::new(file, (segment.incarnation, segment.first_sequence), segment.len);
        while scan.step()? != Scanned::End {}
        segment.next_sequence = scan.sequence;
        if scan.cut_bytes > 0 {
            segment.is_damaged = true;
            let after = Position { incarnation: segment.incarnation, sequence: scan.sequence - 1 };
            report.cut.push(CutTail { after, bytes: scan.cut_bytes });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
