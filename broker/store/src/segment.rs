//! A chain of fixed-size files that together are one long byte string.
//!
//! Owns the files of one folder: their names, the append position, the open handles, and which of them wait for
//! a sync. Never looks into the bytes: framing, checksums and recovery belong to the caller. Called by the commit
//! log; [`FileCache`] and [`SyncBatch`] are shared with the other logs.
//!
//! File names are the position of the first byte, 20 digits, as in Apache RocketMQ. Every file but the last is
//! exactly `segment_size_bytes` long:
//!
//! ```text
//! 00000000000000000000   00000000001073741824   00000000002147483648
//! [ full ............. ] [ full ............. ] [ ......... end_offset
//! ```
//!
//! Crash story: a file's name is durable before its first byte is written. Written bytes survive the process,
//! synced ones a power cut. After a cut the last files may be short or full of stale pages, and a file in the middle may
//! be short when nothing above it was synced: [`SegmentChain::open`] reports such places as gaps and changes nothing; the
//! caller decides, by reading, where to truncate. A write that failed half-way leaves bytes after
//! `end_offset`; the next append overwrites them.

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Digits of a position in a file name.
pub const NAME_DIGITS: usize = 20;

/// The file name of a start position.
pub fn segment_name(start: u64) -> String {
    format!("{start:020}")
}

/// The start position in a file name; `None` for any other name.
pub fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.len() == NAME_DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| name.parse().ok()).flatten()
}

/// Open handles, at most `limit`; the one unused for longest is closed first.
#[derive(Debug)]
pub struct FileCache {
    disk: Arc<dyn Disk>,
    limit: usize,
    tick: u64,
    open: BTreeMap<PathBuf, (u64, Arc<dyn DiskFile>)>,
    /// The same files by last use.
    by_use: BTreeMap<u64, PathBuf>,
}

impl FileCache {
    pub fn new(disk: Arc<dyn Disk>, limit: usize) -> FileCache {
        assert!(limit > 0, "a cache of no files cannot open one");
        FileCache { disk, limit, tick: 0, open: BTreeMap::new(), by_use: BTreeMap::new() }
    }

    /// The handle of a file, opened with `mode` when it is not open yet.
    pub fn open(&mut self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>> {
        self.tick += 1;
        if let Some((last_use, file)) = self.open.get_mut(path) {
            let path = self.by_use.remove(last_use).expect("both maps hold the same files");
            self.by_use.insert(self.tick, path);
            *last_use = self.tick;
            return Ok(file.clone());
        }
        let file = self.disk.open(path, mode)?;
        if self.open.len() >= self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.open.remove(&oldest);
        }
        self.open.insert(path.to_path_buf(), (self.tick, file.clone()));
        self.by_use.insert(self.tick, path.to_path_buf());
        Ok(file)
    }

    /// Closes a file, before it is removed or renamed.
    pub fn forget(&mut self, path: &Path) {
        if let Some((last_use, _)) = self.open.remove(path) {
            self.by_use.remove(&last_use);
        }
    }
}

/// Files to sync, and what is durable once all of them are. Goes to a flusher thread.
#[derive(Debug, Clone)]
pub struct SyncBatch {
    pub files: Vec<Arc<dyn DiskFile>>,
    /// Everything below this position is durable after [`SyncBatch::sync`] (and the batches before it).
    pub end_offset: u64,
}

impl SyncBatch {
    /// Syncs every file; any error is fatal for the process.
    pub fn sync(&self) -> Result<u64> {
        for file in &self.files {
            file.sync()?;
        }
        Ok(self.end_offset)
    }
}

/// Where a chain lives and how it is cut.
#[derive(Debug, Clone)]
pub struct SegmentConfig {
    pub dir: PathBuf,
    pub segment_size_bytes: u64,
    pub open_files_max: usize,
    /// Reserve the space of a whole segment when it is created.
    pub allocate: bool,
}

/// One file of the chain: the positions it holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    pub start: u64,
    pub end: u64,
}

/// Reads positions of a chain without owning it: usable on any thread while the owner appends.
/// Bytes above the owner's `end_offset` are not data; readers must be told where it is.
#[derive(Debug)]
pub struct SegmentReader {
    config: SegmentConfig,
    cache: Mutex<FileCache>,
}

impl SegmentReader {
    pub fn new(disk: Arc<dyn Disk>, config: SegmentConfig) -> SegmentReader {
        let cache = Mutex::new(FileCache::new(disk, config.open_files_max));
        SegmentReader { config, cache }
    }

    /// Reads until the buffer is full or the data ends (end of the last file, or a gap); returns the count.
    pub fn read_at(&self, buf: &mut [u8], position: u64) -> Result<usize> {
        let size = self.config.segment_size_bytes;
        let mut done = 0;
        while done < buf.len() {
            let at = position + done as u64;
            let start = at - at % size;
            let room = size - (at - start);
            let want = (buf.len() - done).min(usize::try_from(room).unwrap_or(usize::MAX));
            let file = match self.file(start, OpenMode::Existing) {
                Ok(file) => file,
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error),
            };
            let count = file.read_at(&mut buf[done..done + want], at - start)?;
            done += count;
            if count < want {
                break;
            }
        }
        Ok(done)
    }

    fn path(&self, start: u64) -> PathBuf {
        self.config.dir.join(segment_name(start))
    }

    fn file(&self, start: u64, mode: OpenMode) -> Result<Arc<dyn DiskFile>> {
        self.cache().open(&self.path(start), mode)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, FileCache> {
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The chain and its one writer.
#[derive(Debug)]
pub struct SegmentChain {
    disk: Arc<dyn Disk>,
    reader: SegmentReader,
    segments: VecDeque<SegmentInfo>,
    gaps: Vec<Range<u64>>,
    dirty: BTreeSet<u64>,
}

impl SegmentChain {
    /// Opens the chain of a folder, which is created when absent. Changes no file.
    pub fn open(disk: Arc<dyn Disk>, config: SegmentConfig) -> Result<SegmentChain> {
        let size = config.segment_size_bytes;
        assert!(size > 0, "a segment holds at least one byte");
        disk.create_dir_all(&config.dir)?;
        let mut segments = VecDeque::new();
        let mut gaps = Vec::new();
        let entries = disk.list(&config.dir)?;
        let files = entries.iter().filter(|entry| !entry.is_dir);
        let mut files =
            files.filter_map(|entry| Some((parse_segment_name(&entry.name)?, entry.len))).peekable();
        while let Some((start, len)) = files.next() {
            let path = config.dir.join(segment_name(start));
            if start % size != 0 || start.checked_add(size).is_none() {
                return Err(StoreError::corrupt(&path, 0, "segment name does not fit the segment size"));
            }
            if len > size {
                return Err(StoreError::corrupt(&path, size, "segment is longer than the segment size"));
            }
            let end = start + len;
            if let Some((next, _)) = files.peek()
                && end < *next
            {
                gaps.push(end..*next);
            }
            segments.push_back(SegmentInfo { start, end });
        }
        let reader = SegmentReader::new(disk.clone(), config);
        Ok(SegmentChain { disk, reader, segments, gaps, dirty: BTreeSet::new() })
    }

    pub fn config(&self) -> &SegmentConfig {
        &self.reader.config
    }

    /// The first position held; a chain that never had a byte is at 0.
    pub fn start_offset(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.start)
    }

    /// The position of the next append.
    pub fn end_offset(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.end)
    }

    /// The files, oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = SegmentInfo> + ExactSizeIterator + '_ {
        self.segments.iter().copied()
    }

    /// Positions below `end_offset` that had no bytes when the chain was opened.
    pub fn gaps(&self) -> &[Range<u64>] {
        &self.gaps
    }

    /// How many bytes the current segment still takes. A caller whose records must not span two segments
    /// fills the rest first (see [`SegmentChain::append_zeros_to_boundary`]).
    pub fn remaining_in_segment(&self) -> u64 {
        let size = self.config().segment_size_bytes;
        size - self.end_offset() % size
    }

    /// Appends, across segment borders where needed, and returns the position of the first byte. After an error
    /// the end has not moved and the same append may be tried again (unless the error is fatal).
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let position = self.end_offset();
        let mut written = Vec::with_capacity(1);
        let mut rest = bytes;
        let mut at = position;
        while !rest.is_empty() {
            let size = self.config().segment_size_bytes;
            let start = at - at % size;
            let room = usize::try_from(size - (at - start)).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            let file = self.writable(start)?;
            self.dirty.insert(start);
            file.write_all_at(now, at - start)?;
            at += now.len() as u64;
            written.push(SegmentInfo { start, end: at });
            rest = later;
        }
        for segment in written {
            self.extend(segment);
        }
        assert_eq!(self.end_offset(), position + bytes.len() as u64);
        Ok(position)
    }

    /// Fills the current segment, so that the next append starts a new one: `head` and then zeros.
    /// Only the head is written; the zeros are a hole in the file.
    pub fn append_zeros_to_boundary(&mut self, head: &[u8]) -> Result<()> {
        let size = self.config().segment_size_bytes;
        let at = self.end_offset();
        let start = at - at % size;
        assert!(at > start && (head.len() as u64) <= start + size - at, "the head fits the open segment");
        let file = self.writable(start)?;
        self.dirty.insert(start);
        // What a failed write left behind must not show through the hole.
        file.truncate(at - start)?;
        file.write_all_at(head, at - start)?;
        file.truncate(size)?;
        self.extend(SegmentInfo { start, end: start + size });
        Ok(())
    }

    /// Makes the file that holds `position` as long as a segment, with zeros: what closing it had not finished.
    pub fn fill_segment(&mut self, position: u64) -> Result<()> {
        let size = self.config().segment_size_bytes;
        let start = position - position % size;
        let full = SegmentInfo { start, end: start + size };
        let Some(short) = self.segments.iter_mut().find(|segment| segment.start == start) else {
            return Ok(());
        };
        if short.end < full.end {
            self.reader.file(start, OpenMode::Existing)?.truncate(size)?;
            *short = full;
            self.dirty.insert(start);
            self.gaps.retain(|gap| gap.start / size != start / size);
        }
        Ok(())
    }

    /// Reads until the buffer is full or the chain ends.
    pub fn read_at(&self, buf: &mut [u8], position: u64) -> Result<usize> {
        if position < self.start_offset() {
            let path = self.reader.path(position);
            return Err(StoreError::new(Op::Read, &path, position, ErrorKind::NotFound));
        }
        let left = usize::try_from(self.end_offset().saturating_sub(position)).unwrap_or(usize::MAX);
        let count = buf.len().min(left);
        self.reader.read_at(&mut buf[..count], position)
    }

    /// Cuts everything from `position` on. Files above go first, newest first, so that a crash in between
    /// leaves a chain without a gap.
    pub fn truncate_at(&mut self, position: u64) -> Result<()> {
        assert!(position >= self.start_offset(), "truncating below the start would invent bytes");
        // The first file stays, empty if need be: its name is what remembers the position.
        while let Some(last) = self.segments.back().copied().filter(|last| last.start >= position)
            && self.segments.len() > 1
        {
            self.remove_file(last.start)?;
            self.segments.pop_back();
        }
        if let Some(last) = self.segments.back().copied()
            && last.end > position
        {
            self.reader.file(last.start, OpenMode::Existing)?.truncate(position - last.start)?;
            self.dirty.insert(last.start);
            self.segments.pop_back();
            self.segments.push_back(SegmentInfo { start: last.start, end: position });
        }
        self.gaps.retain(|gap| gap.start < self.segments.back().map_or(0, |last| last.end));
        Ok(())
    }

    /// Removes the files that lie wholly below `position`, oldest first, never the last one.
    pub fn remove_before(&mut self, position: u64) -> Result<Vec<SegmentInfo>> {
        let mut removed = Vec::new();
        while let (Some(first), Some(second)) = (self.segments.front().copied(), self.segments.get(1))
            && second.start <= position
        {
            self.remove_file(first.start)?;
            self.segments.pop_front();
            removed.push(first);
        }
        let start = self.start_offset();
        self.gaps.retain(|gap| gap.end > start);
        Ok(removed)
    }

    /// Drops everything and continues at `position`: a replica that joins late starts where the master does.
    /// A position inside a segment leaves the bytes before it as zeros. A crash in between leaves a part of the
    /// old chain, or an empty one: the caller repeats the call.
    pub fn reset_to(&mut self, position: u64) -> Result<()> {
        while let Some(last) = self.segments.back().copied() {
            self.remove_file(last.start)?;
            self.segments.pop_back();
        }
        self.gaps.clear();
        let size = self.config().segment_size_bytes;
        let first = position - position % size;
        self.writable(first)?.truncate(position - first)?;
        self.dirty.insert(first);
        self.extend(SegmentInfo { start: first, end: position });
        Ok(())
    }

    /// The files changed since the last call, to be synced on any thread. A failed sync is fatal, so nothing is
    /// ever put back.
    pub fn take_sync_batch(&mut self) -> Result<SyncBatch> {
        let end_offset = self.end_offset();
        let mut files = Vec::with_capacity(self.dirty.len());
        for start in std::mem::take(&mut self.dirty) {
            files.push(self.reader.file(start, OpenMode::Existing)?);
        }
        Ok(SyncBatch { files, end_offset })
    }

    /// Puts the files with bytes at or above `position` into the next sync batch: what an earlier process wrote may not
    /// be durable yet.
    pub fn mark_dirty_from(&mut self, position: u64) {
        self.dirty.extend(
            self.segments.iter().filter(|segment| segment.end > position).map(|segment| segment.start),
        );
    }

    /// Whether bytes were written that no sync batch holds yet.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn extend(&mut self, segment: SegmentInfo) {
        match self.segments.back_mut() {
            Some(last) if last.start == segment.start => *last = segment,
            _ => self.segments.push_back(segment),
        }
    }

    /// The file that starts at `start`, created with a durable name when the chain has not reached it yet.
    fn writable(&self, start: u64) -> Result<Arc<dyn DiskFile>> {
        if self.segments.back().is_some_and(|last| last.start >= start) {
            return self.reader.file(start, OpenMode::Existing);
        }
        let file = self.reader.file(start, OpenMode::Create)?;
        // Left by an append that failed after creating it.
        if !file.is_empty()? {
            file.truncate(0)?;
        }
        if self.config().allocate {
            file.allocate(self.config().segment_size_bytes)?;
        }
        self.disk.sync_dir(&self.config().dir)?;
        Ok(file)
    }

    /// Removes one file, durably: were two removals pending at once, a power cut could undo the first and keep the
    /// second, and leave a gap that looks like loss.
    fn remove_file(&mut self, start: u64) -> Result<()> {
        let path = self.reader.path(start);
        self.reader.cache().forget(&path);
        self.dirty.remove(&start);
        self.disk.remove(&path)?;
        self.disk.sync_dir(&self.config().dir)
    }
}

#[cfg(test)]
mod tests;
