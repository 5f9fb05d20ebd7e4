//! The consume queues: for every (topic, queue), where in the commit log its n-th message is.
//!
//! Owns one folder. Never reads the commit log; everything here is derived from it and can be made again by dispatching its
//! records once more. Called by the broker's core (append at dispatch, read at pull) and by recovery.
//!
//! ```text
//! file:  <dir>/<topic dir>/<queue id>-<first queue offset, 20 digits>      units_per_file units, the last one fewer
//! unit:  | commit log offset u64 | record size u32 | tag hash i64 |        20 B, big endian, as in Apache RocketMQ
//! ```
//!
//! The unit of queue offset `i` is at byte `(i mod units_per_file) * 20` of the file that starts at
//! `i - i mod units_per_file`: one read, whatever the size. A queue that starts at an offset inside a file leaves
//! zeros before it; a record size of 0 means "no unit".
//!
//! Crash story: units are written late (tail in memory) and synced later still. The caller's checkpoint holds a
//! log position below which all units are synced; [`ConsumeQueues::open`] drops every unit at or above it, and the caller dispatches
//! the log again from there. `min_offset` is remembered by files only: the caller applies its retention again after
//! opening, and gives a queue without units its place from its own state. A torn unit can, in theory, look like an old one at the very end of a queue; recovery checks the last
//! unit of each queue against the log.

mod queue;

use crate::disk::Disk;
use crate::error::{ErrorKind, Op, Result, StoreError};
use crate::segment::{FileCache, parse_segment_name};
use queue::{Queue, Shared};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of one unit.
pub const UNIT_BYTES: usize = 20;
/// Most queues of one broker.
pub const QUEUES_MAX: usize = 1_000_000;
/// Longest name of a topic's folder.
pub const TOPIC_DIR_BYTES_MAX: usize = 200;
/// Units read at once while searching.
const READ_UNITS: u64 = 512;

/// Where one message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    pub commitlog_offset: u64,
    pub size: u32,
    pub tag_hash: i64,
}

impl Unit {
    pub fn encode(&self) -> [u8; UNIT_BYTES] {
        let mut bytes = [0; UNIT_BYTES];
        bytes[0..8].copy_from_slice(&self.commitlog_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.tag_hash.to_be_bytes());
        bytes
    }

    /// `None` where no unit was written.
    pub fn decode(bytes: &[u8; UNIT_BYTES]) -> Option<Unit> {
        let commitlog_offset = u64::from_be_bytes(*bytes[0..].first_chunk()?);
        let size = u32::from_be_bytes(*bytes[8..].first_chunk()?);
        let tag_hash = i64::from_be_bytes(*bytes[12..].first_chunk()?);
        (size > 0).then_some(Unit { commitlog_offset, size, tag_hash })
    }
}

/// Where the queues live and how they are cut.
#[derive(Debug, Clone)]
pub struct ConsumeQueueConfig {
    pub dir: PathBuf,
    pub units_per_file: u64,
    pub open_files_max: usize,
    /// A queue's tail is written when it reaches this size.
    pub write_out_bytes: usize,
}

impl ConsumeQueueConfig {
    pub fn new(dir: PathBuf) -> ConsumeQueueConfig {
        ConsumeQueueConfig { dir, units_per_file: 300_000, open_files_max: 256, write_out_bytes: 4096 }
    }
}

/// Most bytes of one queue that wait in memory while the disk is full.
const TAIL_BYTES_MAX: usize = 1024 * 1024;

/// Names an open queue; valid until its topic is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueIndex(usize);

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    New,
    /// The same unit was there already, or the offset is below `min_offset`.
    Known,
    /// Another unit was there; the log is right and replaced it. Outside recovery this is a broken invariant.
    Repaired,
}

/// Files found when opening that contradict the checkpoint: synced units are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingUnits {
    pub topic_dir: String,
    pub queue_id: u32,
    /// These queue offsets are not there any more; the queue now starts at their end.
    pub offsets: std::ops::Range<u64>,
}

/// Files to sync, by path: thousands of queues must not hold thousands of handles. Goes to a flusher thread.
#[derive(Debug)]
pub struct QueueSync {
    disk: Arc<dyn Disk>,
    files: BTreeSet<PathBuf>,
    dirs: BTreeSet<PathBuf>,
}

impl QueueSync {
    /// Every unit appended before the batch was taken is durable afterwards. Any error is fatal.
    pub fn sync(&self) -> Result<()> {
        for path in &self.files {
            match self.disk.open(path, crate::disk::OpenMode::Existing) {
                Ok(file) => file.sync()?,
                // Removed by retention since.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for dir in &self.dirs {
            match self.disk.sync_dir(dir) {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        Ok(())
    }
}

/// All queues and their one writer.
#[derive(Debug)]
pub struct ConsumeQueues {
    shared: Shared,
    write_out_bytes: usize,
    queues: Vec<Option<Queue>>,
    by_name: BTreeMap<Arc<str>, BTreeMap<u32, QueueIndex>>,
    /// Queues with a tail.
    unwritten: BTreeSet<usize>,
}

impl ConsumeQueues {
    /// Opens all queues as they were for the log below `synced_log_position`; the caller dispatches again from there.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: ConsumeQueueConfig,
        synced_log_position: u64,
    ) -> Result<(ConsumeQueues, Vec<MissingUnits>)> {
        assert!(config.units_per_file > 0);
        disk.create_dir_all(&config.dir)?;
        let shared = Shared {
            cache: FileCache::new(disk.clone(), config.open_files_max),
            disk: disk.clone(),
            dir: config.dir.clone(),
            units_per_file: config.units_per_file,
            dirty_files: BTreeSet::new(),
            dirty_dirs: BTreeSet::new(),
        };
        let mut all = ConsumeQueues {
            shared,
            write_out_bytes: config.write_out_bytes,
            queues: Vec::new(),
            by_name: BTreeMap::new(),
            unwritten: BTreeSet::new(),
        };
        let mut missing = Vec::new();
        for topic in disk.list(&config.dir)?.into_iter().filter(|entry| entry.is_dir) {
            let mut files: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
            for file in disk.list(&config.dir.join(&topic.name))? {
                if let Some((queue_id, start)) = parse_file_name(&file.name) {
                    files.entry(queue_id).or_default().push((start, file.len));
                }
            }
            for (queue_id, files) in files {
                let index = all.create(&topic.name, queue_id)?;
                all.load(index, &files, synced_log_position, &mut missing)?;
            }
        }
        Ok((all, missing))
    }

    /// The queue of a topic's folder, made when absent: empty and without a file; its bounds are 0 until it has a place.
    pub fn create(&mut self, topic_dir: &str, queue_id: u32) -> Result<QueueIndex> {
        if let Some(index) = self.find(topic_dir, queue_id) {
            return Ok(index);
        }
        let limit = |what| StoreError::new(Op::Open, &self.shared.dir, 0, ErrorKind::Limit(what));
        let is_name = !topic_dir.is_empty() && topic_dir != "." && topic_dir != "..";
        if !is_name || topic_dir.len() > TOPIC_DIR_BYTES_MAX || topic_dir.contains(['/', '\0']) {
            return Err(limit("topic folder name"));
        }
        if self.queues.len() >= QUEUES_MAX {
            return Err(limit("number of queues"));
        }
        let name = self
            .by_name
            .get_key_value(topic_dir)
            .map_or_else(|| Arc::from(topic_dir), |(name, _)| name.clone());
        let index = QueueIndex(self.queues.len());
        self.queues.push(Some(Queue::empty(name.clone(), queue_id)));
        self.by_name.entry(name).or_default().insert(queue_id, index);
        Ok(index)
    }

    pub fn find(&self, topic_dir: &str, queue_id: u32) -> Option<QueueIndex> {
        self.by_name.get(topic_dir)?.get(&queue_id).copied()
    }

    /// All queues, sorted by topic folder and queue id.
    pub fn list(&self) -> impl Iterator<Item = (&str, u32, QueueIndex)> + '_ {
        let all = self.by_name.iter();
        all.flat_map(|(topic, queues)| queues.iter().map(|(id, index)| (topic.as_ref(), *id, *index)))
    }

    /// The first offset that may be read.
    pub fn min_offset(&self, index: QueueIndex) -> u64 {
        self.queue(index).min_offset
    }

    /// One more than the last offset.
    pub fn max_offset(&self, index: QueueIndex) -> u64 {
        self.queue(index).max_offset()
    }

    /// Sets the unit of a queue offset, in order; a gap is an error. A queue that was just made, or of which opening
    /// found no unit, starts where its first append or [`ConsumeQueues::reset_to`] says.
    pub fn append(&mut self, index: QueueIndex, offset: u64, unit: Unit) -> Result<Appended> {
        assert!(unit.size > 0, "a record has bytes");
        let (queue, shared) = self.parts(index);
        if !queue.is_placed {
            queue.reset_to(shared, offset)?;
        }
        let max_offset = queue.max_offset();
        if offset > max_offset {
            let kind = ErrorKind::Corrupt("gap in a consume queue");
            return Err(StoreError::new(Op::Append, &queue.dir(shared), offset, kind));
        }
        if offset < max_offset {
            if offset < queue.min_offset || queue.unit(shared, offset)? == Some(unit) {
                return Ok(Appended::Known);
            }
            queue.overwrite(shared, offset, unit)?;
            return Ok(Appended::Repaired);
        }
        queue.tail.extend_from_slice(&unit.encode());
        if queue.tail.len() < self.write_out_bytes {
            self.unwritten.insert(index.0);
            return Ok(Appended::New);
        }
        let (queue, shared) = self.parts(index);
        if let Err(error) = queue.write_out(shared) {
            // The log has the record, and a full disk passes: the unit waits in memory.
            let waits = matches!(error.kind, ErrorKind::NoSpace) && queue.tail.len() < TAIL_BYTES_MAX;
            if !waits {
                // As if the call had not happened; what was before it stays in the tail.
                queue.tail.truncate(queue.tail.len() - UNIT_BYTES);
            }
            self.unwritten.insert(index.0);
            return if waits { Ok(Appended::New) } else { Err(error) };
        }
        self.unwritten.remove(&index.0);
        Ok(Appended::New)
    }

    /// Reads up to `count` units from `offset` on. `NotFound` below `min_offset`, nothing at or above `max_offset`.
    pub fn read(&mut self, index: QueueIndex, offset: u64, count: u64, out: &mut Vec<Unit>) -> Result<()> {
        let (queue, shared) = self.parts(index);
        let fail = |kind| StoreError::new(Op::Read, &queue.dir(shared), offset, kind);
        if offset < queue.min_offset {
            return Err(fail(ErrorKind::NotFound));
        }
        let damaged = fail(ErrorKind::Corrupt("consume queue unit"));
        let mut bytes = Vec::new();
        queue.read_raw(shared, offset, count, &mut bytes)?;
        for unit in bytes.as_chunks::<UNIT_BYTES>().0 {
            out.push(Unit::decode(unit).ok_or_else(|| damaged.clone())?);
        }
        Ok(())
    }

    /// The unit of one offset, `None` outside the bounds.
    pub fn get(&mut self, index: QueueIndex, offset: u64) -> Result<Option<Unit>> {
        let (queue, shared) = self.parts(index);
        queue.unit(shared, offset)
    }

    /// The first offset whose record starts at or above a log position (`max_offset` when there is none).
    pub fn first_at_or_above(&mut self, index: QueueIndex, log_position: u64) -> Result<u64> {
        let (queue, shared) = self.parts(index);
        queue.first_at_or_above(shared, log_position)
    }

    /// Forgets the units from `offset` on.
    pub fn truncate(&mut self, index: QueueIndex, offset: u64) -> Result<()> {
        let (queue, shared) = self.parts(index);
        queue.truncate(shared, offset)
    }

    /// Raises `min_offset` and removes the files wholly below it; returns how many went.
    pub fn remove_below(&mut self, index: QueueIndex, min_offset: u64) -> Result<usize> {
        let (queue, shared) = self.parts(index);
        queue.remove_below(shared, min_offset)
    }

    /// Drops everything and continues, empty, at `offset`: a queue of a new epoch, or one to be built again.
    pub fn reset_to(&mut self, index: QueueIndex, offset: u64) -> Result<()> {
        self.unwritten.remove(&index.0);
        let (queue, shared) = self.parts(index);
        queue.reset_to(shared, offset)
    }

    /// Removes all queues of a topic's folder, and the folder.
    pub fn remove_topic(&mut self, topic_dir: &str) -> Result<()> {
        let Some(queues) = self.by_name.remove(topic_dir) else { return Ok(()) };
        for index in queues.into_values() {
            self.reset_to(index, 0)?;
            self.queues[index.0] = None;
        }
        let dir = self.shared.dir.join(topic_dir);
        self.shared.dirty_dirs.remove(&dir);
        match self.shared.disk.sync_dir(&dir) {
            Ok(()) => self.shared.disk.remove_dir(&dir),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Hands all tails to the operating system: out of reach of kill -9.
    pub fn write_out(&mut self) -> Result<()> {
        while let Some(index) = self.unwritten.first().copied() {
            let (queue, shared) = self.parts(QueueIndex(index));
            queue.write_out(shared)?;
            self.unwritten.remove(&index);
        }
        Ok(())
    }

    /// Writes out, then gives the files changed since the last call, to be synced on any thread.
    pub fn take_sync_batch(&mut self) -> Result<QueueSync> {
        self.write_out()?;
        let files = std::mem::take(&mut self.shared.dirty_files);
        let dirs = std::mem::take(&mut self.shared.dirty_dirs);
        Ok(QueueSync { disk: self.shared.disk.clone(), files, dirs })
    }

    fn queue(&self, index: QueueIndex) -> &Queue {
        self.queues[index.0].as_ref().expect("the topic of this queue was removed")
    }

    fn parts(&mut self, index: QueueIndex) -> (&mut Queue, &mut Shared) {
        let queue = self.queues[index.0].as_mut().expect("the topic of this queue was removed");
        (queue, &mut self.shared)
    }

    /// Takes over the files of a queue: sorted (start, length) pairs.
    fn load(
        &mut self,
        index: QueueIndex,
        files: &[(u64, u64)],
        synced: u64,
        missing: &mut Vec<MissingUnits>,
    ) -> Result<()> {
        let (queue, shared) = self.parts(index);
        let unit_bytes = UNIT_BYTES as u64;
        for (start, len) in files.iter().copied() {
            if start % shared.units_per_file != 0 || len > shared.units_per_file * unit_bytes {
                let path = queue.path(shared, start);
                return Err(StoreError::corrupt(&path, 0, "queue file does not fit the file size"));
            }
            if queue.files.is_empty() {
                (queue.min_offset, queue.written) = (start, start);
            }
            if start > queue.written {
                // Either newer names outlived older ones that were never synced: then drop the newer. Or older
                // files were removed and only some came back: then drop the older.
                if !is_synced(queue, shared, start, synced)? {
                    queue.remove_file(shared, start)?;
                    continue;
                }
                let offsets = queue.written..start;
                queue.reset_to(shared, start)?;
                if offsets.start % shared.units_per_file != 0 {
                    let topic_dir = queue.topic_dir.to_string();
                    missing.push(MissingUnits { topic_dir, queue_id: queue.queue_id, offsets });
                }
            }
            queue.files.push_back(start);
            queue.written = start + len / unit_bytes;
        }
        skip_zeros(queue, shared)?;
        queue.drop_from_log_position(shared, synced)?;
        queue.is_placed = queue.min_offset < queue.max_offset();
        if !queue.is_placed {
            // Zeros at the front may be lost units as well as offsets that never were: nothing tells where it starts.
            queue.reset_to(shared, 0)?;
            queue.is_placed = false;
        }
        Ok(())
    }
}

/// Whether the first unit of a file belongs to a record below the synced position. It lies in one sector, so it
/// is whole or absent.
fn is_synced(queue: &Queue, shared: &mut Shared, start: u64, synced: u64) -> Result<bool> {
    let file = shared.cache.open(&queue.path(shared, start), crate::disk::OpenMode::Existing)?;
    let mut bytes = [0; UNIT_BYTES];
    file.read_at(&mut bytes, 0)?;
    Ok(Unit::decode(&bytes).is_some_and(|unit| unit.commitlog_offset < synced))
}

/// Finds the first unit of a queue that does not start at a file's beginning.
fn skip_zeros(queue: &mut Queue, shared: &mut Shared) -> Result<()> {
    let mut bytes = Vec::new();
    while queue.min_offset < queue.written {
        bytes.clear();
        queue.read_raw(shared, queue.min_offset, READ_UNITS, &mut bytes)?;
        let units = bytes.as_chunks::<UNIT_BYTES>().0;
        let zeros = units.iter().take_while(|unit| Unit::decode(unit).is_none()).count();
        queue.min_offset += zeros as u64;
        if zeros < units.len() {
            return Ok(());
        }
    }
    Ok(())
}

fn parse_file_name(name: &str) -> Option<(u32, u64)> {
    let (queue_id, start) = name.split_once('-')?;
    Some((queue_id.parse().ok()?, parse_segment_name(start)?))
}

/// The path of a queue's file, for tests and tools.
pub fn file_path(dir: &Path, topic_dir: &str, queue_id: u32, start: u64) -> PathBuf {
    dir.join(topic_dir).join(format!("{queue_id}-{}", crate::segment::segment_name(start)))
}

#[cfg(test)]
mod tests;
