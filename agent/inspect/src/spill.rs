//! Owns sorting more rows than memory holds: rows are byte strings whose order is the order of their bytes, collected in one
//! arena, written as sorted runs into a scratch file when it is full, and merged. Memory does not grow with the rows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Rows held before they are written, in bytes; and as many spans as rows of the usual length make of it.
const ARENA_LEN: usize = 24 << 20;
const ROWS_MAX: usize = ARENA_LEN / 24;
/// Runs merged at once; each has a buffer.
const FAN_IN: usize = 64;
const BUFFER_LEN: usize = 128 << 10;
/// Longest row, in bytes: an id or a topic of a damaged record may be long.
pub const ROW_LEN_MAX: usize = 128 << 10;

/// Collects rows, then gives them back in order.
#[derive(Debug)]
pub struct Sorter {
    scratch: PathBuf,
    name: &'static str,
    arena: Vec<u8>,
    spans: Vec<(u32, u32)>,
    runs: Vec<PathBuf>,
    runs_made: u64,
    /// Bytes written to the scratch folder so far.
    pub spilled: u64,
}

impl Sorter {
    /// A sorter that writes into this folder, under this name.
    pub fn new(scratch: &Path, name: &'static str) -> Sorter {
        Sorter {
            scratch: scratch.to_owned(),
            name,
            arena: Vec::new(),
            spans: Vec::new(),
            runs: Vec::new(),
            runs_made: 0,
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
        let path = self.run_path();
        let mut out = BufWriter::with_capacity(BUFFER_LEN, File::create_new(&path)?);
        for span in &self.spans {
            let row = slice(&self.arena, *span);
            out.write_all(&(row.len() as u32).to_le_bytes())?;
            out.write_all(row)?;
            self.spilled += row.len() as u64 + 4;
        }
        out.flush()?;
        self.runs.push(path);
        self.arena.clear();
        self.spans.clear();
        Ok(())
    }

    fn run_path(&mut self) -> PathBuf {
        self.runs_made += 1;
        self.scratch.join(format!("{}-{}", self.name, self.runs_made))
    }

    /// Gives every row to `each`, in order, and removes what was written.
    ///
    /// # Errors
    /// When the scratch folder cannot be read or written, and those of `each`.
    pub fn drain(mut self, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.runs.is_empty() {
            self.sort();
            return self.spans.iter().try_for_each(|span| each(slice(&self.arena, *span)));
        }
        if !self.spans.is_empty() {
            self.spill()?;
        }
        (self.arena, self.spans) = (Vec::new(), Vec::new());
        while self.runs.len() > FAN_IN {
            let group: Vec<PathBuf> = self.runs.drain(..FAN_IN).collect();
            let path = self.run_path();
            let mut out = BufWriter::with_capacity(BUFFER_LEN, File::create_new(&path)?);
            merge(&group, &mut |row| {
                out.write_all(&(row.len() as u32).to_le_bytes())?;
                out.write_all(row)
            })?;
            out.flush()?;
            self.runs.push(path);
            group.iter().try_for_each(std::fs::remove_file)?;
        }
        merge(&self.runs, each)?;
        self.runs.iter().try_for_each(std::fs::remove_file)
    }
}

fn slice(arena: &[u8], (from, len): (u32, u32)) -> &[u8] {
    arena.get(from as usize..from as usize + len as usize).unwrap_or_default()
}

fn merge(runs: &[PathBuf], each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut readers = Vec::with_capacity(runs.len());
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for (index, path) in runs.iter().enumerate() {
        let mut reader = BufReader::with_capacity(BUFFER_LEN, File::open(path)?);
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
        let mut sorter = Sorter::new(scratch.path(), "rows");
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
