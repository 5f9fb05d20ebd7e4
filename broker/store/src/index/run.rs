//! One sorted, immutable file of the key index.
//!
//! Owns the bytes drawn in `index.rs`: writing a run, opening it, searching it, reading it in order. Never changes a finished
//! file. Called by `KeyIndex` and its jobs.

use super::Entry;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"LTIX";
const FORMAT_VERSION: u16 = 1;
const ENTRY_BYTES: usize = 16;
pub(super) const BLOCK_ENTRIES: usize = 256;
const BLOCK_BYTES: usize = BLOCK_ENTRIES * ENTRY_BYTES;
/// The header has a block of its own, so that blocks are aligned.
const HEADER_BYTES: usize = 40;
const FENCE_BYTES: usize = 12;
/// Blocks read at once when a run is read in order.
const READ_BLOCKS: usize = 16;
/// Bytes written at once.
const WRITE_BYTES: usize = 1024 * 1024;
/// Largest run that is believed when opening: 2^32 entries.
const BLOCKS_MAX: u64 = 1 << 24;

/// A finished run. Of every block its first hash and checksum are in memory: 12 B per 4 KiB.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) range: Range<u64>,
    pub(super) tier: u8,
    pub(super) entries: u64,
    pub(super) path: PathBuf,
    file: Arc<dyn DiskFile>,
    fences: Vec<u64>,
    checksums: Vec<u32>,
}

pub(super) fn run_name(range: &Range<u64>) -> String {
    format!("{:020}-{:020}.run", range.start, range.end)
}

impl Run {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Run> {
        let file = disk.open(path, OpenMode::Existing)?;
        let damaged = |what| StoreError::corrupt(path, 0, what);
        let mut head = [0; HEADER_BYTES];
        if file.read_at(&mut head, 0)? < HEADER_BYTES || head[0..4] != MAGIC {
            return Err(damaged("not an index run"));
        }
        if crc32fast::hash(&head[..36]).to_le_bytes() != head[36..40] {
            return Err(damaged("index run header checksum"));
        }
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != FORMAT_VERSION {
            let kind = ErrorKind::VersionMismatch { found: version.into(), supported: FORMAT_VERSION.into() };
            return Err(StoreError::new(Op::Decode, path, 4, kind));
        }
        let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (range, entries) = (field(8)..field(16), field(24));
        let blocks = entries.div_ceil(BLOCK_ENTRIES as u64);
        if blocks > BLOCKS_MAX || range.is_empty() {
            return Err(damaged("index run header out of range"));
        }
        let mut table = vec![0; usize::try_from(blocks).unwrap_or(0) * FENCE_BYTES];
        let at = (1 + blocks) * BLOCK_BYTES as u64;
        if file.read_at(&mut table, at)? < table.len()
            || crc32fast::hash(&table).to_le_bytes() != head[32..36]
        {
            return Err(damaged("index run table checksum"));
        }
        let table = table.as_chunks::<FENCE_BYTES>().0;
        let fences = table.iter().map(|fence| u64::from_le_bytes(*fence[0..].first_chunk().expect("12 B")));
        let checksums =
            table.iter().map(|fence| u32::from_le_bytes(*fence[8..].first_chunk().expect("12 B")));
        let (fences, checksums) = (fences.collect(), checksums.collect());
        Ok(Run { range, tier: head[6], entries, path: path.to_path_buf(), file, fences, checksums })
    }

    /// Adds the offsets of a hash, newest first, until `out` holds `limit`.
    pub(super) fn lookup(&self, hash: u64, limit: usize, out: &mut Vec<u64>) -> Result<()> {
        let mut block = self.fences.partition_point(|first| *first <= hash);
        while block > 0 && out.len() < limit {
            block -= 1;
            let entries = self.read_blocks(block, 1)?;
            let start = entries.partition_point(|entry| entry.hash < hash);
            let own = entries[start..].iter().take_while(|entry| entry.hash == hash);
            let own: Vec<u64> = own.map(|entry| entry.offset).collect();
            out.extend(own.iter().rev().take(limit - out.len()));
            if start > 0 {
                break;
            }
        }
        Ok(())
    }

    fn read_blocks(&self, first: usize, count: usize) -> Result<Vec<Entry>> {
        let last = (first + count).min(self.fences.len());
        let end = (last * BLOCK_ENTRIES).min(usize::try_from(self.entries).unwrap_or(usize::MAX));
        let mut bytes = vec![0; (end - first * BLOCK_ENTRIES) * ENTRY_BYTES];
        let at = ((1 + first) * BLOCK_BYTES) as u64;
        let complete = self.file.read_at(&mut bytes, at)? == bytes.len();
        let sound = bytes.chunks(BLOCK_BYTES).zip(&self.checksums[first..last]);
        if !complete || !sound.into_iter().all(|(block, checksum)| crc32fast::hash(block) == *checksum) {
            return Err(StoreError::corrupt(&self.path, at, "index block checksum"));
        }
        Ok(bytes.as_chunks::<ENTRY_BYTES>().0.iter().map(Entry::decode).collect())
    }
}

/// Reads a run from its smallest entry to its largest.
#[derive(Debug)]
pub(super) struct RunScan {
    run: Arc<Run>,
    next_block: usize,
    entries: std::vec::IntoIter<Entry>,
}

impl RunScan {
    pub(super) fn new(run: Arc<Run>) -> RunScan {
        RunScan { run, next_block: 0, entries: Vec::new().into_iter() }
    }

    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        if self.entries.len() == 0 && self.next_block < self.run.fences.len() {
            self.entries = self.run.read_blocks(self.next_block, READ_BLOCKS)?.into_iter();
            self.next_block += READ_BLOCKS;
        }
        Ok(self.entries.next())
    }
}

/// Writes a run from sorted entries; nothing is visible before [`RunWriter::finish`].
#[derive(Debug)]
pub(super) struct RunWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    range: Range<u64>,
    tier: u8,
    file: Arc<dyn DiskFile>,
    temporary: PathBuf,
    at: u64,
    buffer: Vec<u8>,
    block_start: usize,
    entries: u64,
    last: Option<Entry>,
    table: Vec<u8>,
}

impl RunWriter {
    pub(super) fn create(disk: Arc<dyn Disk>, dir: &Path, range: Range<u64>, tier: u8) -> Result<RunWriter> {
        let temporary = dir.join(format!("{}.new", run_name(&range)));
        let file = disk.open(&temporary, OpenMode::Create)?;
        file.truncate(0)?;
        Ok(RunWriter {
            disk,
            dir: dir.to_path_buf(),
            range,
            tier,
            file,
            temporary,
            at: BLOCK_BYTES as u64,
            buffer: Vec::with_capacity(WRITE_BYTES + BLOCK_BYTES),
            block_start: 0,
            entries: 0,
            last: None,
            table: Vec::new(),
        })
    }

    /// Entries come in ascending order; one that is there already is left out.
    pub(super) fn push(&mut self, entry: Entry) -> Result<()> {
        if self.last == Some(entry) {
            return Ok(());
        }
        assert!(self.last.is_none_or(|last| last < entry), "a run is written in order");
        self.last = Some(entry);
        self.buffer.extend_from_slice(&entry.encode());
        self.entries += 1;
        if self.buffer.len() - self.block_start == BLOCK_BYTES {
            self.end_block();
            if self.buffer.len() >= WRITE_BYTES {
                self.write()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) {
        let block = &self.buffer[self.block_start..];
        self.table.extend_from_slice(&block[..8]);
        self.table.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
        self.block_start = self.buffer.len();
    }

    fn write(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        self.block_start = 0;
        Ok(())
    }

    /// Makes the run durable and gives it its name.
    pub(super) fn finish(mut self) -> Result<Run> {
        if self.buffer.len() > self.block_start {
            self.end_block();
        }
        self.write()?;
        let blocks = self.entries.div_ceil(BLOCK_ENTRIES as u64);
        self.file.write_all_at(&self.table, (1 + blocks) * BLOCK_BYTES as u64)?;
        let mut head = [0; HEADER_BYTES];
        head[0..4].copy_from_slice(&MAGIC);
        head[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        head[6] = self.tier;
        head[8..16].copy_from_slice(&self.range.start.to_le_bytes());
        head[16..24].copy_from_slice(&self.range.end.to_le_bytes());
        head[24..32].copy_from_slice(&self.entries.to_le_bytes());
        head[32..36].copy_from_slice(&crc32fast::hash(&self.table).to_le_bytes());
        let crc = crc32fast::hash(&head[..36]);
        head[36..40].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&head, 0)?;
        self.file.sync()?;
        let path = self.dir.join(run_name(&self.range));
        self.disk.rename(&self.temporary, &path)?;
        self.disk.sync_dir(&self.dir)?;
        Run::open(self.disk.as_ref(), &path)
    }
}
