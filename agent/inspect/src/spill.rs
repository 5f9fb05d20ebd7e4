//! Owns sorting more rows than memory holds: rows are byte strings whose order is the order of their bytes, collected in one
//! arena, written as sorted runs into a scratch file when it is full, and merged. Memory does not grow with the rows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Rows held before they are written, in bytes; and as many spans as rows of the usual length make of it.
const ARENA_LEN: usize = 24 << 20;
const ROWS_MAX: usize = ARENA_LEN / 24;
/// Runs of one level before they are merged into one of the next.
const FAN_IN: usize = 32;
const BUFFER_LEN: usize = 64 << 10;
/// Longest row, in bytes: an id or a topic of a damaged record may be long.
pub const ROW_LEN_MAX: usize = 128 << 10;

/// Collects rows, then gives them back in order. Its files have no names: nothing stays, however the process ends.
#[derive(Debug)]
pub struct Sorter {
    scratch: PathBuf,
    arena: Vec<u8>,
    spans: Vec<(u32, u32)>,
    /// Sorted runs; those of level n + 1 hold [`FAN_IN`] times as much as those of level n.
    levels: Vec<Vec<File>>,
    /// Bytes written to the scratch folder so far.
    pub spilled: u64,
}

impl Sorter {
    /// A sorter that writes into this folder.
    pub fn new(scratch: &Path) -> Sorter {
        Sorter {
            scratch: scratch.to_owned(),
            arena: Vec::new(),
            spans: Vec::new(),
            levels: Vec::new(),
            spilled: 0,
        }
    }

    /// Takes a row.
    ///
    /// # Errors
    /// When the scratch folder cannot be written, or the row is longer than [`ROW_LEN_MAX`].
    pub fn push(&mut self, row: &[u8]) -> io::Result<()> {
        if row.len() > ROW_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "row too long to sort"));
        }
        if self.arena.len() + row.len() > ARENA_LEN || self.spans.len() >= ROWS_MAX {
            self.spill()?;
        }
        self.spans.push((self.arena.len() as u32, row.len() as u32));
        self.arena.extend_from_slice(row);
        Ok(())
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        self.spans.sort_unstable_by(|a, b| slice(arena, *a).cmp(slice(arena, *b)));
    }

    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        let mut run = Run::create(&self.scratch)?;
        self.spans.iter().try_for_each(|span| run.push(slice(&self.arena, *span)))?;
        self.arena.clear();
        self.spans.clear();
        self.keep(run, 0)
    }

    fn keep(&mut self, run: Run, level: usize) -> io::Result<()> {
        self.spilled += run.len;
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        let Some(runs) = self.levels.get_mut(level) else { return Ok(()) };
        runs.push(run.done()?);
        if runs.len() < FAN_IN {
            return Ok(());
        }
        let full = std::mem::take(runs);
        let mut merged = Run::create(&self.scratch)?;
        merge(full, &mut |row| merged.push(row))?;
        self.keep(merged, level + 1)
    }

    /// Gives every row to `each`, in order.
    ///
    /// # Errors
    /// When the scratch folder cannot be read or written, and those of `each`.
    pub fn drain(mut self, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.levels.is_empty() {
            self.sort();
            return self.spans.iter().try_for_each(|span| each(slice(&self.arena, *span)));
        }
        if !self.spans.is_empty() {
            self.spill()?;
        }
        (self.arena, self.spans) = (Vec::new(), Vec::new());
        merge(self.levels.into_iter().flatten().collect(), each)
    }
}

/// A run being written.
struct Run {
    out: BufWriter<File>,
    len: u64,
}

impl Run {
    fn create(scratch: &Path) -> io::Result<Run> {
        Ok(Run { out: BufWriter::with_capacity(BUFFER_LEN, tempfile::tempfile_in(scratch)?), len: 0 })
    }

    fn push(&mut self, row: &[u8]) -> io::Result<()> {
        self.len += row.len() as u64 + 4;
        self.out.write_all(&(row.len() as u32).to_le_bytes())?;
        self.out.write_all(row)
    }

    fn done(self) -> io::Result<File> {
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }
}

fn slice(arena: &[u8], (from, len): (u32, u32)) -> &[u8] {
    arena.get(from as usize..from as usize + len as usize).unwrap_or_default()
}

fn merge(runs: Vec<File>, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut readers = Vec::with_capacity(runs.len());
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for (index, run) in runs.into_iter().enumerate() {
        let mut reader = BufReader::with_capacity(BUFFER_LEN, run);
        let mut row = Vec::new();
        if next(&mut reader, &mut row)? {
            heads.push(Reverse((row, index)));
        }
        readers.push(reader);
    }
    while let Some(Reverse((mut row, index))) = heads.pop() {
        each(&row)?;
        if let Some(reader) = readers.get_mut(index)
            && next(reader, &mut row)?
        {
            heads.push(Reverse((row, index)));
        }
    }
    Ok(())
}

fn next(reader: &mut impl Read, row: &mut Vec<u8>) -> io::Result<bool> {
    let mut len = [0; 4];
    match reader.read_exact(&mut len) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    row.resize(u32::from_le_bytes(len) as usize, 0);
    reader.read_exact(row)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rows_than_fit_come_back_in_order_and_nothing_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(scratch.path());
        let mut wanted = 0u64;
        for n in 0..4_000_000u64 {
            let row = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            wanted = wanted.wrapping_add(u64::from_be_bytes(row));
            sorter.push(&row).unwrap();
        }
        assert!(sorter.spilled > 0);
        let (mut last, mut count, mut sum) = (0, 0, 0u64);
        sorter
            .drain(&mut |row| {
                let number = u64::from_be_bytes(row.try_into().unwrap());
                assert!(number >= last);
                (last, count, sum) = (number, count + 1, sum.wrapping_add(number));
                Ok(())
            })
            .unwrap();
        assert_eq!((count, sum), (4_000_000, wanted));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
