//! One consume queue: its files, its unwritten tail, its bounds.
//!
//! Owns the arithmetic from queue offset to file and byte. Never decides when to sync. Called by `ConsumeQueues` only.

use super::{READ_UNITS, UNIT_BYTES, Unit};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use crate::segment::{FileCache, segment_name};
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

/// What all queues share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cache: FileCache,
    pub(super) dir: PathBuf,
    pub(super) units_per_file: u64,
    /// Files changed, and folders with a new name, since the last sync batch.
    pub(super) dirty_files: BTreeSet<PathBuf>,
    pub(super) dirty_dirs: BTreeSet<PathBuf>,
}

/// One queue. Units `[file start, written)` are in files, the rest in the tail.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) topic_dir: Arc<str>,
    pub(super) queue_id: u32,
    /// First unit of each file; all but the last are full.
    pub(super) files: VecDeque<u64>,
    pub(super) min_offset: u64,
    pub(super) written: u64,
    pub(super) tail: Vec<u8>,
    /// Whether the bounds mean something: a queue without units found on disk can be anywhere.
    pub(super) is_placed: bool,
}

impl Queue {
    pub(super) fn empty(topic_dir: Arc<str>, queue_id: u32) -> Queue {
        let (files, tail) = (VecDeque::new(), Vec::new());
        Queue { topic_dir, queue_id, files, min_offset: 0, written: 0, tail, is_placed: false }
    }

    pub(super) fn max_offset(&self) -> u64 {
        self.written + (self.tail.len() / UNIT_BYTES) as u64
    }

    pub(super) fn dir(&self, shared: &Shared) -> PathBuf {
        shared.dir.join(self.topic_dir.as_ref())
    }

    pub(super) fn path(&self, shared: &Shared, start: u64) -> PathBuf {
        self.dir(shared).join(format!("{}-{}", self.queue_id, segment_name(start)))
    }

    /// Reads up to `count` units at `offset` into `out`, as far as there are any. Zeroed units (lost pages) included.
    pub(super) fn read_raw(
        &self,
        shared: &mut Shared,
        offset: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let end = offset.saturating_add(count).min(self.max_offset());
        let mut at = offset;
        while at < end.min(self.written) {
            let start = at - at % shared.units_per_file;
            let stop = end.min(self.written).min(start + shared.units_per_file);
            let file = shared.cache.open(&self.path(shared, start), OpenMode::Existing)?;
            let filled = out.len();
            let bytes = usize::try_from(stop - at).unwrap_or(usize::MAX).saturating_mul(UNIT_BYTES);
            out.resize(filled + bytes, 0);
            file.read_at(&mut out[filled..], (at - start) * UNIT_BYTES as u64)?;
            at = stop;
        }
        if at < end {
            let byte = |offset: u64| usize::try_from(offset - self.written).unwrap_or(0) * UNIT_BYTES;
            out.extend_from_slice(&self.tail[byte(at)..byte(end)]);
        }
        Ok(())
    }

    /// The unit at an offset, `None` outside the bounds or where the unit was lost.
    pub(super) fn unit(&self, shared: &mut Shared, offset: u64) -> Result<Option<Unit>> {
        if offset < self.min_offset || offset >= self.max_offset() {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(UNIT_BYTES);
        self.read_raw(shared, offset, 1, &mut bytes)?;
        Ok(bytes.first_chunk().and_then(Unit::decode))
    }

    /// Replaces a unit inside the bounds.
    pub(super) fn overwrite(&mut self, shared: &mut Shared, offset: u64, unit: Unit) -> Result<()> {
        if offset >= self.written {
            let at = usize::try_from(offset - self.written).unwrap_or(0) * UNIT_BYTES;
            self.tail[at..at + UNIT_BYTES].copy_from_slice(&unit.encode());
            return Ok(());
        }
        let start = offset - offset % shared.units_per_file;
        let path = self.path(shared, start);
        let file = shared.cache.open(&path, OpenMode::Existing)?;
        shared.dirty_files.insert(path);
        file.write_all_at(&unit.encode(), (offset - start) * UNIT_BYTES as u64)
    }

    /// Hands the tail to the operating system, in one write per file.
    pub(super) fn write_out(&mut self, shared: &mut Shared) -> Result<()> {
        while !self.tail.is_empty() {
            let start = self.written - self.written % shared.units_per_file;
            let room = usize::try_from(start + shared.units_per_file - self.written).unwrap_or(usize::MAX);
            let bytes = self.tail.len().min(room.saturating_mul(UNIT_BYTES));
            let file = self.writable(shared, start)?;
            file.write_all_at(&self.tail[..bytes], (self.written - start) * UNIT_BYTES as u64)?;
            self.written += (bytes / UNIT_BYTES) as u64;
            self.tail.drain(..bytes);
        }
        // Thousands of idle queues must not each hold a buffer.
        self.tail = Vec::new();
        Ok(())
    }

    fn writable(&mut self, shared: &mut Shared, start: u64) -> Result<Arc<dyn DiskFile>> {
        let path = self.path(shared, start);
        let is_new = self.files.back() != Some(&start);
        if is_new {
            let dir = self.dir(shared);
            shared.disk.create_dir_all(&dir)?;
            shared.dirty_dirs.insert(dir);
        }
        let file = shared.cache.open(&path, if is_new { OpenMode::Create } else { OpenMode::Existing })?;
        if is_new {
            file.truncate(0)?;
            self.files.push_back(start);
        }
        shared.dirty_files.insert(path);
        Ok(file)
    }

    /// Forgets every unit from `offset` on; below `min_offset` the queue becomes empty at `offset`.
    pub(super) fn truncate(&mut self, shared: &mut Shared, offset: u64) -> Result<()> {
        if offset >= self.written {
            let keep = usize::try_from(offset - self.written).unwrap_or(usize::MAX);
            self.tail.truncate(keep.saturating_mul(UNIT_BYTES));
            return Ok(());
        }
        self.tail = Vec::new();
        while let Some(start) = self.files.back().copied().filter(|start| *start >= offset) {
            self.remove_file(shared, start)?;
            self.files.pop_back();
        }
        if let Some(start) = self.files.back().copied() {
            let path = self.path(shared, start);
            let file = shared.cache.open(&path, OpenMode::Existing)?;
            file.truncate((offset - start) * UNIT_BYTES as u64)?;
            shared.dirty_files.insert(path);
        }
        self.written = offset;
        self.min_offset = self.min_offset.min(offset);
        Ok(())
    }

    /// Raises the lower bound and removes the files wholly below it, but never the last one: it remembers where
    /// the queue is. Returns how many files went.
    pub(super) fn remove_below(&mut self, shared: &mut Shared, min_offset: u64) -> Result<usize> {
        self.min_offset = self.min_offset.max(min_offset.min(self.max_offset()));
        let mut removed = 0;
        while let (Some(first), Some(second)) = (self.files.front().copied(), self.files.get(1).copied())
            && second <= self.min_offset
        {
            self.remove_file(shared, first)?;
            self.files.pop_front();
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes all files and continues, empty, at `offset`.
    pub(super) fn reset_to(&mut self, shared: &mut Shared, offset: u64) -> Result<()> {
        while let Some(start) = self.files.back().copied() {
            self.remove_file(shared, start)?;
            self.files.pop_back();
        }
        (self.min_offset, self.written, self.tail) = (offset, offset, Vec::new());
        self.is_placed = true;
        Ok(())
    }

    pub(super) fn remove_file(&self, shared: &mut Shared, start: u64) -> Result<()> {
        let path = self.path(shared, start);
        shared.cache.forget(&path);
        shared.dirty_files.remove(&path);
        shared.dirty_dirs.insert(self.dir(shared));
        shared.disk.remove(&path)
    }

    /// Drops from the end what does not belong to a record below `log_position`. Lost pages leave zeros and
    /// torn sectors leave nonsense, so a unit ends the search only when it and the one before it are both sound and in
    /// order.
    pub(super) fn drop_from_log_position(&mut self, shared: &mut Shared, log_position: u64) -> Result<()> {
        let mut end = self.max_offset();
        let mut bytes = Vec::new();
        while end > self.min_offset {
            let from = end.saturating_sub(READ_UNITS).max(self.min_offset);
            bytes.clear();
            self.read_raw(shared, from, end - from, &mut bytes)?;
            let units: Vec<_> = bytes.as_chunks::<UNIT_BYTES>().0.iter().map(Unit::decode).collect();
            let is_sound = |index: usize| {
                let unit = units.get(index).copied().flatten()?;
                (unit.commitlog_offset < log_position).then_some(unit.commitlog_offset)
            };
            let keep = (0..units.len()).rev().find(|index| match (is_sound(*index), index.checked_sub(1)) {
                (None, _) => false,
                (Some(_), None) => from == self.min_offset,
                (Some(own), Some(before)) => is_sound(before).is_some_and(|before| before < own),
            });
            if let Some(keep) = keep {
                return self.truncate(shared, from + keep as u64 + 1);
            }
            // The first unit of this stretch may be sound; it is judged with its predecessor.
            end = if from == self.min_offset { from } else { from + 1 };
        }
        self.truncate(shared, end)
    }

    /// The first offset whose record starts at or above a log position.
    pub(super) fn first_at_or_above(&self, shared: &mut Shared, log_position: u64) -> Result<u64> {
        let (mut low, mut high) = (self.min_offset, self.max_offset());
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(unit) = self.unit(shared, middle)? else {
                let path = self.path(shared, middle - middle % shared.units_per_file);
                let kind = ErrorKind::Corrupt("consume queue unit");
                return Err(StoreError::new(Op::Read, &path, middle, kind));
            };
            if unit.commitlog_offset < log_position { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}
