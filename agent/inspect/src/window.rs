//! Owns reading a log file in large pieces into one buffer, so that a scan neither allocates nor asks the system for each
//! record. Pure over [`Segments`]; a file may be cut while it is read, which is why nothing here is mapped.

use std::io;

/// Read at once, in bytes.
const PIECE: usize = 4 << 20;

/// Where one file of a log begins in the log, and how long it is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub base: u64,
    pub len: u64,
}

/// The files of one log, in order of their base.
pub trait Segments {
    fn segments(&self) -> &[Segment];

    /// Reads into `into` from `at` bytes into the file; fewer bytes than asked only at its end.
    ///
    /// # Errors
    /// The system's, when the bytes cannot be read.
    fn read_at(&self, segment: usize, at: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// A moving window over one file.
#[derive(Debug, Default)]
pub struct Window {
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
    segment: usize,
    piece: usize,
}

impl Window {
    /// A window for looking at single places: it reads little at once, in bytes.
    pub fn small() -> Window {
        Window { piece: 64 << 10, ..Window::default() }
    }

    /// Whether it holds bytes of this file.
    pub fn is_open(&self, segment: usize) -> bool {
        self.segment == segment
    }

    /// Forgets what was read.
    pub fn open(&mut self, segment: usize) {
        (self.segment, self.start, self.filled) = (segment, 0, 0);
    }

    /// Up to `len` bytes at `at`; fewer only at the end of the file.
    ///
    /// # Errors
    /// The source's.
    pub fn at(&mut self, source: &impl Segments, at: u64, len: usize) -> io::Result<&[u8]> {
        let held = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let enough = held.is_some_and(|skip| skip.saturating_add(len) <= self.filled);
        if !enough {
            self.refill(source, at, len)?;
        }
        let from = (at - self.start) as usize;
        let to = from.saturating_add(len).min(self.filled);
        Ok(self.buffer.get(from..to).unwrap_or_default())
    }

    /// As much as is held from `at` on, at least one byte unless the file ends there.
    ///
    /// # Errors
    /// The source's.
    pub fn rest(&mut self, source: &impl Segments, at: u64) -> io::Result<&[u8]> {
        self.at(source, at, 1)?;
        let from = (at - self.start) as usize;
        Ok(self.buffer.get(from..self.filled).unwrap_or_default())
    }

    fn refill(&mut self, source: &impl Segments, at: u64, len: usize) -> io::Result<()> {
        let wanted = len.max(if self.piece == 0 { PIECE } else { self.piece });
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let kept = match at.checked_sub(self.start).map(|skip| skip as usize) {
            Some(skip) if skip < self.filled => {
                self.buffer.copy_within(skip..self.filled, 0);
                self.filled - skip
            }
            _ => 0,
        };
        (self.start, self.filled) = (at, kept);
        while self.filled < wanted {
            let next = self.start + self.filled as u64;
            let Some(room) = self.buffer.get_mut(self.filled..wanted) else { break };
            match source.read_at(self.segment, next, room)? {
                0 => break,
                read => self.filled += read,
            }
        }
        Ok(())
    }
}
