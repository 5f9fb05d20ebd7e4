//! The key index: from the hash of a message key to the commit-log offsets of messages that may carry it.
//!
//! Owns one folder of sorted runs and a table in memory. Never reads the commit log: a lookup gives candidates, the caller reads
//! the records and compares the key. Never spawns a thread: [`IndexJob`] does the slow work wherever the caller runs it.
//! Called by the broker at dispatch and by queries.
//!
//! ```text
//! file:    <from, 20 digits>-<to, 20 digits>.run      covers the records of log positions [from, to)
//! header:  "LTIX" 4 | version u16 | tier u8 | 0 u8 | from u64 | to u64 | entries u64 | table crc32 | header crc32     at byte 0
//! blocks:  from byte 4096, 256 entries of 16 B: | hash u64 | commit log offset u64 |     sorted by both, little endian
//! table:   per block | first hash u64 | block crc32 |      after the last block, whose block number is rounded up
//! ```
//!
//! A full table in memory is closed and waits until its part of the log is flushed; then it is sealed into a run of tier 0. Sixteen
//! adjacent runs of a tier are merged into one of the next, up to tier 2 (16.7 million entries). At 100 million entries a lookup reads
//! about 36 blocks of 4 KiB.
//!
//! Crash story: a run is written under another name, synced, renamed; it is whole or absent. The tables in memory are lost
//! with the process: [`KeyIndex::open`] says which log ranges are missing, and the caller dispatches them again. A run that reaches
//! beyond the recovered end of the log is dropped, so only what is flushed is sealed. A damaged run is dropped and
//! its range is missing; a block that is damaged later makes lookups say which range they cannot see.

mod run;

use crate::disk::Disk;
use crate::error::{ErrorKind, Result};
use run::{Run, RunScan, RunWriter, run_name};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Entries after which a table in memory is closed.
pub const TABLE_ENTRIES: usize = 65_536;
/// Entries in memory after which [`KeyIndex::is_full`], so that nothing more should be stored until some are sealed.
pub const MEMORY_ENTRIES: usize = 16 * TABLE_ENTRIES;
/// Runs of one tier that are merged into one of the next.
pub const MERGE_RUNS: usize = 16;
/// Runs of this tier stay as they are, so that retention can drop them whole.
pub const TIER_MAX: u8 = 2;

/// The hash of a key. Its constants are part of the format: they never change.
pub fn key_hash(key: &[u8]) -> u64 {
    const SEED: u64 = 0xA076_1D64_78BD_642F;
    const STEP: u64 = 0xE703_7ED1_A0B4_28DB;
    const LAST: u64 = 0x8EBC_6AF0_9C88_C6E3;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ (product >> 64) as u64
    };
    let mut hash = SEED ^ (key.len() as u64).wrapping_mul(LAST);
    let mut chunks = key.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(*chunk.first_chunk().expect("chunks of eight"));
        hash = fold(hash ^ word, STEP) ^ word.rotate_left(29);
    }
    let mut rest = [0; 8];
    rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    let word = u64::from_le_bytes(rest);
    fold(fold(hash ^ word, STEP) ^ word.rotate_left(29) ^ SEED, LAST)
}

/// One key of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: u64,
    offset: u64,
}

impl Entry {
    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; 16]) -> Entry {
        let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("sixteen bytes"));
        Entry { hash: word(0), offset: word(8) }
    }
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only whole hashes are looked up");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

const NONE: u32 = u32::MAX;

/// The entries of the newest part of the log.
#[derive(Debug, Default)]
struct Table {
    /// Each with the place of the one before it of the same hash.
    entries: Vec<(Entry, u32)>,
    newest: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    range: Range<u64>,
}

impl Table {
    fn insert(&mut self, entry: Entry) {
        let place = u32::try_from(self.entries.len()).expect("a table is closed when it is full");
        let before = self.newest.insert(entry.hash, place).unwrap_or(NONE);
        self.entries.push((entry, before));
    }

    fn lookup(&self, hash: u64, limit: usize, out: &mut Vec<u64>) {
        let mut place = self.newest.get(&hash).copied().unwrap_or(NONE);
        while place != NONE && out.len() < limit {
            let (entry, before) = self.entries[place as usize];
            out.push(entry.offset);
            place = before;
        }
    }
}

/// Where the index lives.
#[derive(Debug, Clone)]
pub struct IndexConfig {
    pub dir: PathBuf,
    /// At least 1, at most [`TABLE_ENTRIES`].
    pub table_entries: usize,
}

impl IndexConfig {
    pub fn new(dir: PathBuf) -> IndexConfig {
        IndexConfig { dir, table_entries: TABLE_ENTRIES }
    }
}

/// Candidates for a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookup {
    /// Commit-log offsets, newest first, no duplicates.
    pub offsets: Vec<u64>,
    /// Log ranges the answer cannot see, because their run is damaged.
    pub unreadable: Vec<Range<u64>>,
}

/// Slow work that needs no access to the index; runs on any thread.
#[derive(Debug)]
pub struct IndexJob {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Seal(Arc<Table>),
    Merge(Vec<Arc<Run>>),
}

/// What a job made, to be handed to [`KeyIndex::install`].
#[derive(Debug)]
pub struct NewRun {
    run: Run,
}

impl IndexJob {
    pub fn run(self) -> Result<NewRun> {
        let run = match self.work {
            Work::Seal(table) => {
                let mut entries: Vec<Entry> = table.entries.iter().map(|(entry, _)| *entry).collect();
                entries.sort_unstable();
                let mut writer = RunWriter::create(self.disk, &self.dir, table.range.clone(), 0)?;
                entries.into_iter().try_for_each(|entry| writer.push(entry))?;
                writer.finish()?
            }
            Work::Merge(runs) => merge(self.disk, self.dir, runs)?,
        };
        Ok(NewRun { run })
    }
}

fn merge(disk: Arc<dyn Disk>, dir: PathBuf, runs: Vec<Arc<Run>>) -> Result<Run> {
    let first = runs.first().expect("a merge has inputs");
    let last = runs.last().expect("a merge has inputs");
    let (range, tier) = (first.range.start..last.range.end, first.tier + 1);
    let mut writer = RunWriter::create(disk, &dir, range, tier)?;
    let mut scans: Vec<RunScan> = runs.into_iter().map(RunScan::new).collect();
    let mut heads = BinaryHeap::new();
    for (input, scan) in scans.iter_mut().enumerate() {
        if let Some(entry) = scan.next()? {
            heads.push(Reverse((entry, input)));
        }
    }
    while let Some(Reverse((entry, input))) = heads.pop() {
        writer.push(entry)?;
        if let Some(entry) = scans[input].next()? {
            heads.push(Reverse((entry, input)));
        }
    }
    writer.finish()
}

/// The index and its one writer.
#[derive(Debug)]
pub struct KeyIndex {
    disk: Arc<dyn Disk>,
    config: IndexConfig,
    /// Where live dispatch writes.
    table: Table,
    /// Full tables, oldest first: under load the log's end is never flushed, but the end of an older table is.
    closed: VecDeque<Arc<Table>>,
    /// Entries of the closed tables.
    closed_entries: usize,
    /// A job seals the oldest closed table.
    is_sealing: bool,
    is_merging: bool,
    /// Sorted by range.
    runs: Vec<Arc<Run>>,
}

impl KeyIndex {
    /// Opens the index for a log that holds the positions of `log`. Also returns the parts of it that are not indexed, in
    /// order; the last one is where live dispatch continues and may be empty. For each of them: `start_at`,
    /// `insert`, `advance`, and, but for the last, `seal_job(.., true)`.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: IndexConfig,
        log: Range<u64>,
    ) -> Result<(KeyIndex, Vec<Range<u64>>)> {
        assert!((1..=TABLE_ENTRIES).contains(&config.table_entries));
        disk.create_dir_all(&config.dir)?;
        let mut runs: Vec<Arc<Run>> = Vec::new();
        for entry in disk.list(&config.dir)?.iter().filter(|entry| !entry.is_dir) {
            let path = config.dir.join(&entry.name);
            if !entry.name.ends_with(".run") {
                // Killed while writing.
                disk.remove(&path)?;
                continue;
            }
            match Run::open(disk.as_ref(), &path) {
                Ok(run) if run.range.end > log.end || run_name(&run.range) != entry.name => {
                    disk.remove(&path)?
                }
                Ok(run) => runs.push(Arc::new(run)),
                Err(error) if matches!(error.kind, ErrorKind::Corrupt(_)) => disk.remove(&path)?,
                Err(error) => return Err(error),
            }
        }
        runs.sort_by_key(|run| (run.range.start, Reverse(run.range.end)));
        let mut kept: Vec<Arc<Run>> = Vec::new();
        for run in runs {
            // Inputs of a merge that was finished just before a crash.
            if kept.last().is_some_and(|last| run.range.end <= last.range.end) {
                disk.remove(&run.path)?;
            } else {
                kept.push(run);
            }
        }
        let mut missing = Vec::new();
        let mut covered = log.start;
        for run in &kept {
            if run.range.start > covered {
                missing.push(covered..run.range.start);
            }
            covered = covered.max(run.range.end);
        }
        missing.push(covered..log.end.max(covered));
        let table = Table { range: covered..covered, ..Table::default() };
        let index = KeyIndex {
            disk,
            config,
            table,
            closed: VecDeque::new(),
            closed_entries: 0,
            is_sealing: false,
            is_merging: false,
            runs: kept,
        };
        Ok((index, missing))
    }

    /// Continues at another log position; the table must be empty (sealed, or nothing inserted yet).
    pub fn start_at(&mut self, log_position: u64) {
        assert!(self.table.entries.is_empty(), "what was inserted belongs to another range");
        self.table.range = log_position..log_position;
    }

    /// Adds one key of the record at an offset, at or above the position last advanced to.
    pub fn insert(&mut self, hash: u64, commitlog_offset: u64) {
        self.table.insert(Entry { hash, offset: commitlog_offset });
    }

    /// Whether so many entries wait in memory for the disk that the caller should store nothing more for now.
    pub fn is_full(&self) -> bool {
        self.closed_entries + self.table.entries.len() >= MEMORY_ENTRIES
    }

    /// States that every key of every record below a log position was inserted.
    pub fn advance(&mut self, log_position: u64) {
        assert!(log_position >= self.table.range.end, "the log is dispatched in order");
        self.table.range.end = log_position;
        if self.table.entries.len() >= self.config.table_entries {
            self.close_table();
        }
    }

    fn close_table(&mut self) {
        let end = self.table.range.end;
        let next = Table { range: end..end, ..Table::default() };
        let full = std::mem::replace(&mut self.table, next);
        self.closed_entries += full.entries.len();
        self.closed.push_back(Arc::new(full));
    }

    /// The position last advanced to.
    pub fn indexed_to(&self) -> u64 {
        self.table.range.end
    }

    /// Seals the oldest closed table (when there is none and `even_if_small`, what the open one holds), if all of it lies below the
    /// flushed position and no other seal is under way.
    pub fn seal_job(&mut self, flushed: u64, even_if_small: bool) -> Option<IndexJob> {
        if self.closed.is_empty() && even_if_small && !self.table.range.is_empty() {
            self.close_table();
        }
        let oldest =
            self.closed.front().filter(|table| table.range.end <= flushed && !self.is_sealing)?.clone();
        self.is_sealing = true;
        Some(self.job(Work::Seal(oldest)))
    }

    /// Sixteen adjacent runs of one tier, when there are any and no other merge is under way.
    pub fn merge_job(&mut self) -> Option<IndexJob> {
        let is_row = |runs: &&[Arc<Run>]| {
            let same = runs.iter().all(|run| run.tier == runs[0].tier && run.tier < TIER_MAX);
            same && runs.windows(2).all(|pair| pair[0].range.end == pair[1].range.start)
        };
        if self.is_merging {
            return None;
        }
        let inputs = self.runs.windows(MERGE_RUNS).find(is_row)?.to_vec();
        self.is_merging = true;
        Some(self.job(Work::Merge(inputs)))
    }

    fn job(&self, work: Work) -> IndexJob {
        IndexJob { disk: self.disk.clone(), dir: self.config.dir.clone(), work }
    }

    /// Takes over what a job made; inputs of a merge are removed. A job that failed is not installed: it is
    /// fatal when it was a sync, and otherwise given up with [`KeyIndex::abandon`].
    pub fn install(&mut self, new: NewRun) -> Result<()> {
        let run = Arc::new(new.run);
        let covers = |old: &Run| run.range.start <= old.range.start && old.range.end <= run.range.end;
        if run.tier == 0 {
            self.is_sealing = false;
            let sealed = self.closed.pop_front().expect("the table a job has sealed");
            self.closed_entries -= sealed.entries.len();
        } else {
            self.is_merging = false;
        }
        let (old, mut kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.runs).into_iter().partition(|old| covers(old));
        let at = kept.partition_point(|old| old.range.start < run.range.start);
        kept.insert(at, run);
        self.runs = kept;
        old.iter().try_for_each(|old| self.disk.remove(&old.path))
    }

    /// After a failed job (disk full): it may be tried again later.
    pub fn abandon(&mut self, was_merge: bool) {
        if was_merge {
            self.is_merging = false;
        } else {
            self.is_sealing = false;
        }
    }

    /// Up to `limit` candidates, newest first.
    pub fn lookup(&self, hash: u64, limit: usize) -> Result<Lookup> {
        let mut found = Lookup::default();
        self.table.lookup(hash, limit, &mut found.offsets);
        for table in self.closed.iter().rev() {
            table.lookup(hash, limit, &mut found.offsets);
        }
        for run in self.runs.iter().rev() {
            match run.lookup(hash, limit, &mut found.offsets) {
                Ok(()) => {}
                Err(error) if matches!(error.kind, ErrorKind::Corrupt(_)) => {
                    found.unreadable.push(run.range.clone());
                }
                Err(error) => return Err(error),
            }
        }
        found.offsets.sort_unstable_by_key(|offset| Reverse(*offset));
        found.offsets.dedup();
        Ok(found)
    }

    /// Drops the runs wholly below a log position; returns how many.
    pub fn remove_before(&mut self, log_position: u64) -> Result<usize> {
        // A merge would bring its inputs back.
        if self.is_merging {
            return Ok(0);
        }
        let count = self.runs.partition_point(|run| run.range.end <= log_position);
        for run in self.runs.drain(..count) {
            self.disk.remove(&run.path)?;
        }
        Ok(count)
    }

    /// Runs and their entries.
    pub fn size(&self) -> (usize, u64) {
        (self.runs.len(), self.runs.iter().map(|run| run.entries).sum())
    }
}

#[cfg(test)]
mod tests;
