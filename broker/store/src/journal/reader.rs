//! Reads a journal in order, over segments and incarnations, while its writer goes on.
//!
//! Owns one place in the journal and one buffer of at most one frame or 256 KiB. Never blocks: at the live end
//! it answers `None`, and goes on when asked again.

use super::frame::{HEADER_BYTES, Scanned, SegmentScan};
use super::{JournalView, Segment};
use crate::disk::OpenMode;
use crate::error::{ErrorKind, Op, Result, StoreError};
use lifecycle::identity::Incarnation;
use lifecycle::position::Position;
use std::collections::VecDeque;
use std::ops::Range;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalItem<'a> {
    Frame {
        position: Position,
        is_reset_point: bool,
        payload: &'a [u8],
    },
    /// These frames existed and cannot be read (damaged, or removed by retention). The next frame is a reset point.
    Hole {
        incarnation: Incarnation,
        from: u64,
        to: u64,
    },
    /// Nothing of this incarnation follows; a newer one does.
    Closed {
        incarnation: Incarnation,
        last_sequence: u64,
        is_complete: bool,
    },
}

/// The same without the borrow.
enum Found {
    Frame { sequence: u64, is_reset_point: bool, payload: Range<usize> },
    Hole { incarnation: Incarnation, from: u64, to: u64 },
    Closed { incarnation: Incarnation, last_sequence: u64, is_complete: bool },
}

/// See the module text.
#[derive(Debug)]
pub struct JournalReader {
    view: JournalView,
    segment: Segment,
    scan: SegmentScan,
    /// Holes between segments that were not handed out yet.
    holes: VecDeque<(Incarnation, u64, u64)>,
    /// The end of `segment`'s incarnation was handed out.
    is_closed: bool,
}

impl JournalReader {
    pub(super) fn open(view: JournalView, position: Position) -> Result<JournalReader> {
        let wanted = position.sequence.max(1);
        let segment = {
            let segments = view.segments();
            let mut own = segments.iter().filter(|segment| segment.incarnation == position.incarnation);
            let missing = || StoreError::new(Op::Open, &view.dir, 0, ErrorKind::NotFound);
            let first = *own.next().ok_or_else(missing)?;
            own.take_while(|segment| segment.first_sequence <= wanted).last().copied().unwrap_or(first)
        };
        let scan = start_scan(&view, &segment)?;
        let mut reader = JournalReader { view, segment, scan, holes: VecDeque::new(), is_closed: false };
        if segment.first_sequence > wanted {
            reader.holes.push_back((segment.incarnation, wanted, segment.first_sequence - 1));
        }
        reader.seek_reset_point(wanted)?;
        Ok(reader)
    }

    /// Moves to the latest reset point at or before a sequence of this segment.
    fn seek_reset_point(&mut self, wanted: u64) -> Result<()> {
        let mut best = (HEADER_BYTES as u64, self.segment.first_sequence);
        loop {
            match self.scan.step()? {
                Scanned::Frame { sequence, .. } if sequence > wanted => break,
                Scanned::Frame { sequence, is_reset_point: true, payload } => {
                    best = (self.scan.frame_start(&payload), sequence);
                }
                Scanned::Frame { .. } | Scanned::Hole { .. } => {}
                Scanned::End => break,
            }
        }
        self.scan.seek(best.0, best.1);
        Ok(())
    }

    /// The next item, or `None` at the live end for now.
    #[expect(clippy::should_implement_trait, reason = "items borrow from the reader's buffer")]
    pub fn next(&mut self) -> Result<Option<JournalItem<'_>>> {
        let Some(found) = self.find()? else { return Ok(None) };
        Ok(Some(match found {
            Found::Frame { sequence, is_reset_point, payload } => JournalItem::Frame {
                position: Position { incarnation: self.segment.incarnation, sequence },
                is_reset_point,
                payload: &self.scan.bytes()[payload],
            },
            Found::Hole { incarnation, from, to } => JournalItem::Hole { incarnation, from, to },
            Found::Closed { incarnation, last_sequence, is_complete } => {
                JournalItem::Closed { incarnation, last_sequence, is_complete }
            }
        }))
    }

    fn find(&mut self) -> Result<Option<Found>> {
        loop {
            if let Some((incarnation, from, to)) = self.holes.pop_front() {
                return Ok(Some(Found::Hole { incarnation, from, to }));
            }
            match self.scan.step()? {
                Scanned::Frame { sequence, is_reset_point, payload } => {
                    return Ok(Some(Found::Frame { sequence, is_reset_point, payload }));
                }
                Scanned::Hole { from, to } => {
                    return Ok(Some(Found::Hole { incarnation: self.segment.incarnation, from, to }));
                }
                Scanned::End => {}
            }
            let (grown, next) = self.look_ahead();
            if let Some(segment) = grown {
                self.segment = segment;
                self.scan.limit = segment.len;
                continue;
            }
            let Some(next) = next else { return Ok(None) };
            if next.incarnation != self.segment.incarnation && !self.is_closed {
                self.is_closed = true;
                return Ok(Some(Found::Closed {
                    incarnation: self.segment.incarnation,
                    last_sequence: self.scan.sequence - 1,
                    is_complete: !self.segment.is_damaged,
                }));
            }
            self.enter(next)?;
        }
    }

    /// This segment when it has grown since, and the one after it.
    fn look_ahead(&self) -> (Option<Segment>, Option<Segment>) {
        let segments = self.view.segments();
        let at = segments.partition_point(|segment| segment.number < self.segment.number);
        let (own, later) = match segments.get(at) {
            Some(segment) if segment.number == self.segment.number => (Some(segment), segments.get(at + 1)),
            later => (None, later),
        };
        (own.filter(|segment| segment.len > self.scan.limit).copied(), later.copied())
    }

    fn enter(&mut self, next: Segment) -> Result<()> {
        let scan = match start_scan(&self.view, &next) {
            Ok(scan) => scan,
            // Retention was faster; the next look finds what is left.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let expected = if next.incarnation == self.segment.incarnation { self.scan.sequence } else { 1 };
        if next.first_sequence > expected {
            self.holes.push_back((next.incarnation, expected, next.first_sequence - 1));
        }
        (self.segment, self.scan, self.is_closed) = (next, scan, false);
        Ok(())
    }
}

fn start_scan(view: &JournalView, segment: &Segment) -> Result<SegmentScan> {
    let file = view.disk.open(&view.path(segment.number), OpenMode::Existing)?;
    let len = segment.len.max(HEADER_BYTES as u64);
    Ok(SegmentScan::new(file, (segment.incarnation, segment.first_sequence), len))
}
