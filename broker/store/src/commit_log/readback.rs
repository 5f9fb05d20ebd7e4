//! Reads a flushed part of a log back from its files and says where it holds no readable record. Never changes a file and never
//! decides what stood at a damaged place: that is in the consume queues. Ordered by the broker's core, carried out on a thread of
//! its own, a bounded number of bytes at a time.
//!
//! A place is damaged where neither a whole record of the epoch that owns it stands (header checksum over everything, salted with
//! position and epoch; the RocketMQ body checksum) nor the filler at a segment's end. What cannot be read at all (an error of the
//! disk, a file that is too short) is damaged too, to the page.
//!
//! Each file is opened anew for each order: a copy that is cut and fed again has new files under old names. The pages are dropped
//! from the system's cache first, so that what is read comes from the disk; where the system does not do that (pages in use, a file
//! system without it), or a controller answers from its own cache, a spoilt medium behind them is found in a later round.

use super::{CommitLog, FILLER, HEADER_LEN, Header, ReadAt, Window, check_record, epoch_at};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{Result, StoreError};
use crate::segment::{SegmentConfig, segment_name};
use lifecycle::identity::{Epoch, LogPosition};
use lifecycle::ranges::Ranges;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::message::StoredMessage;

/// What the disk cannot read is found out in pieces of this size.
const PAGE: usize = 4096;
/// How far apart magics may stand that are looked at in one go.
const SEARCH_BYTES: usize = 64 * 1024;

/// Where reading back stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Everything below was looked at.
    pub at: LogPosition,
    /// A damaged place that began here has not ended yet.
    pub damaged_from: Option<LogPosition>,
}

/// An order to read a part of a log back.
#[derive(Debug)]
pub struct Readback {
    disk: Arc<dyn Disk>,
    segments: SegmentConfig,
    epochs: Vec<(Epoch, LogPosition)>,
    from: Place,
    to: LogPosition,
    bytes_max: u64,
}

/// Bytes that hold no readable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// First of them.
    pub from: LogPosition,
    /// One past the last: the next readable record, or where reading ended.
    pub to: LogPosition,
    /// All signs say that only a segment's padding stood there, which is nobody's.
    pub is_padding: bool,
}

/// What reading back found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadBack {
    /// Where to go on.
    pub place: Place,
    /// Damaged places that have ended, in order.
    pub damaged: Vec<Damage>,
    /// Bytes read from files.
    pub bytes: u64,
    /// Of the damaged ones, bytes that could not even be read.
    pub unreadable_bytes: u64,
    /// Why nothing was found out: no fault of the disk (too many open files, no permission). To be tried again from the same place.
    pub failed: Option<StoreError>,
}

impl CommitLog {
    /// An order to go on from `from`, not beyond `to`, which is flushed and a border between records, for about `bytes_max` bytes:
    /// a record that begins below that is read whole.
    pub fn read_back(
        &self,
        disk: &Arc<dyn Disk>,
        from: Place,
        (to, bytes_max): (LogPosition, u64),
    ) -> Readback {
        assert!(bytes_max > 0, "an order without bytes never ends");
        let (segments, epochs) = (self.chain.config().clone(), self.epochs.clone());
        Readback { disk: disk.clone(), segments, epochs, from, to, bytes_max }
    }
}

/// What stands at a place.
enum Stands {
    /// A record, or filler, so long.
    Good(u64),
    /// A record that is as it was written, and was written with a body that does not fit its checksum.
    Spoilt(u64),
    Nothing,
}

impl Readback {
    /// Reads. Errors of the disk are findings.
    pub fn run(&self) -> ReadBack {
        let stop = LogPosition(self.from.at.0.saturating_add(self.bytes_max)).min(self.to);
        let log = Files {
            order: self,
            stop: stop.0,
            open: RefCell::default(),
            unreadable: RefCell::default(),
            bytes: RefCell::default(),
            failed: RefCell::default(),
        };
        let mut window = Window::default();
        let mut found = ReadBack::default();
        let Place { at: LogPosition(mut at), damaged_from } = self.from;
        let mut damaged = damaged_from.map(|from| from.0);
        while at < stop.0 {
            match self.stands_at(&log, &mut window, at, damaged.is_some()) {
                Stands::Good(len) => {
                    if let Some(from) = damaged.take() {
                        found.damaged.push(self.damage(&log, from, at));
                    }
                    at += len;
                }
                Stands::Spoilt(len) => {
                    damaged.get_or_insert(at);
                    at += len;
                }
                Stands::Nothing => {
                    damaged.get_or_insert(at);
                    at = next_magic(&mut window, &log, at + 1);
                }
            }
        }
        let at = at.min(self.to.0);
        if at == self.to.0
            && let Some(from) = damaged.take()
        {
            found.damaged.push(self.damage(&log, from, at));
        }
        log.drop_cached(self.from.at.0, at);
        if let Some(error) = log.failed.take() {
            let bytes = log.bytes.into_inner();
            return ReadBack { place: self.from, bytes, failed: Some(error), ..ReadBack::default() };
        }
        found.place = Place { at: LogPosition(at), damaged_from: damaged.map(LogPosition) };
        found.bytes = log.bytes.into_inner();
        found.unreadable_bytes = log.unreadable.into_inner().len();
        found
    }

    /// `searching`: `at` need not be a border between records.
    fn stands_at(&self, log: &Files<'_>, window: &mut Window, at: u64, searching: bool) -> Stands {
        let size = self.segments.segment_size_bytes;
        let left = size - at % size;
        let room = left.min(self.to.0 - at);
        if left < 4 {
            return if searching { Stands::Nothing } else { Stands::Good(left) };
        }
        let head = get(window, log, at, HEADER_LEN.min(usize::try_from(room).unwrap_or(HEADER_LEN)));
        if head.get(..4) == Some(&FILLER.to_be_bytes()) {
            // a message may hold these four bytes; nothing but zeros follows them in a filler
            let is_filler =
                left <= super::copy::PIECE_LEN_MAX as u64 && is_zeros(window, log, at + 4, at + left);
            return if is_filler { Stands::Good(left) } else { Stands::Nothing };
        }
        let Some(header) = Header::decode(&head).filter(|header| header.total_len() as u64 <= room) else {
            return Stands::Nothing;
        };
        let len = header.total_len() as u64;
        let bytes = get(window, log, at, header.total_len());
        let record = check_record(epoch_at(&self.epochs, LogPosition(at)), &header, at, bytes);
        let Some(record) = record.filter(|_| log.unreadable.borrow().within(at, at + len).is_empty()) else {
            return Stands::Nothing;
        };
        match StoredMessage::decode(&record.record) {
            Ok((message, _)) if message.body_is_intact() => Stands::Good(len),
            _ => Stands::Spoilt(len),
        }
    }

    fn damage(&self, log: &Files<'_>, from: u64, to: u64) -> Damage {
        let is_padding = self.is_padding(log, from, to);
        Damage { from: LogPosition(from), to: LogPosition(to), is_padding }
    }

    /// A filler whose mark or zeros are spoilt: it reaches to the segment's end, and the record behind it had no room there.
    fn is_padding(&self, log: &Files<'_>, from: u64, to: u64) -> bool {
        let size = self.segments.segment_size_bytes;
        let mut window = Window::default();
        if !to.is_multiple_of(size) || to - from > size - from % size || to >= self.to.0 {
            return false;
        }
        let next = get(&mut window, log, to, HEADER_LEN);
        let Some(next) = Header::decode(&next).filter(|next| next.total_len() as u64 > to - from) else {
            return false;
        };
        let bytes = get(&mut window, log, to, next.total_len());
        if check_record(epoch_at(&self.epochs, LogPosition(to)), &next, to, bytes).is_none() {
            return false;
        }
        let marked = get(&mut window, log, from, 4) == FILLER.to_be_bytes().as_slice();
        marked || is_zeros(&mut window, log, from + 4, to)
    }
}

/// The log's bytes, as far as they can be read; zeros for the rest, which is written down.
struct Files<'a> {
    order: &'a Readback,
    /// How far is read ahead.
    stop: u64,
    open: RefCell<BTreeMap<u64, Option<Arc<dyn DiskFile>>>>,
    unreadable: RefCell<Ranges>,
    bytes: RefCell<u64>,
    failed: RefCell<Option<StoreError>>,
}

impl ReadAt for Files<'_> {
    fn end(&self) -> u64 {
        self.stop
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> Result<usize> {
        let size = self.order.segments.segment_size_bytes;
        let most = usize::try_from(self.order.to.0.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let mut done = 0;
        while done < most {
            let here = at + done as u64;
            let room = usize::try_from(size - here % size).unwrap_or(usize::MAX);
            let len = room.min(most - done);
            if let Some(piece) = buf.get_mut(done..done + len) {
                self.read_piece(piece, here);
            }
            done += len;
        }
        Ok(done)
    }
}

impl Files<'_> {
    /// Reads within one file.
    fn read_piece(&self, piece: &mut [u8], at: u64) {
        let size = self.order.segments.segment_size_bytes;
        *self.bytes.borrow_mut() += piece.len() as u64;
        let file = self.file(at - at % size);
        let Some(file) = file else {
            return self.note_unreadable(piece, at);
        };
        // an advice: where it is not taken, the page may come from the cache, as the module says
        drop(file.forget_cached(at % size, piece.len() as u64));
        match file.read_at(piece, at % size) {
            Ok(got) => {
                let rest = piece.get_mut(got..).unwrap_or_default();
                self.note_unreadable(rest, at + got as u64);
            }
            Err(error) if error.is_of_medium() => {
                tracing::warn!(%error, position = at, "a part of the log cannot be read: page by page");
                self.read_pages(file.as_ref(), piece, at);
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&self, error: StoreError) {
        self.failed.borrow_mut().get_or_insert(error);
    }

    fn read_pages(&self, file: &dyn DiskFile, piece: &mut [u8], at: u64) {
        let size = self.order.segments.segment_size_bytes;
        let mut done = 0;
        while done < piece.len() {
            let here = at + done as u64;
            let to_border = PAGE - usize::try_from(here % PAGE as u64).unwrap_or(0);
            let end = (done + to_border).min(piece.len());
            let Some(page) = piece.get_mut(done..end) else { return };
            let got = file.read_at(page, here % size).unwrap_or(0);
            self.note_unreadable(page.get_mut(got..).unwrap_or_default(), here + got as u64);
            done = end;
        }
    }

    fn note_unreadable(&self, rest: &mut [u8], at: u64) {
        if !rest.is_empty() {
            rest.fill(0);
            self.unreadable.borrow_mut().insert(at, at + rest.len() as u64);
        }
    }

    fn file(&self, segment: u64) -> Option<Arc<dyn DiskFile>> {
        let opened = || {
            let path = self.order.segments.dir.join(segment_name(segment));
            match self.order.disk.open(&path, OpenMode::Existing) {
                Ok(file) => Some(file),
                Err(error) => {
                    if !error.is_not_found() {
                        self.fail(error);
                    }
                    None
                }
            }
        };
        self.open.borrow_mut().entry(segment).or_insert_with(opened).clone()
    }

    /// What was read once a day has no place in the cache, but for the segment that is written to: its readers are near.
    fn drop_cached(&self, from: u64, to: u64) {
        let size = self.order.segments.segment_size_bytes;
        let newest = self.order.to.0.saturating_sub(1);
        for (segment, file) in self.open.borrow().iter() {
            let is_written_to = *segment == newest - newest % size;
            let (first, last) = (from.max(*segment), to.min(segment + size));
            if let Some(file) = file.as_ref().filter(|_| !is_written_to && first < last) {
                drop(file.forget_cached(first - segment, last - first));
            }
        }
    }
}

/// Up to `len` bytes at `at`; fewer only where the flushed part ends.
fn get(window: &mut Window, log: &Files<'_>, at: u64, len: usize) -> bytes::Bytes {
    // what cannot be read is zeros and a note, never an error
    window.get(log, at, len).unwrap_or_default()
}

/// The next place that may be a border between records, or where this order ends.
fn next_magic(window: &mut Window, log: &Files<'_>, from: u64) -> u64 {
    window.next_candidate(log, from).unwrap_or(log.stop)
}

fn is_zeros(window: &mut Window, log: &Files<'_>, from: u64, to: u64) -> bool {
    let mut at = from;
    while at < to {
        let len = SEARCH_BYTES.min(usize::try_from(to - at).unwrap_or(SEARCH_BYTES));
        let bytes = get(window, log, at, len);
        if bytes.is_empty() || bytes.iter().any(|byte| *byte != 0) {
            return false;
        }
        at += bytes.len() as u64;
    }
    log.unreadable.borrow().within(from, to).is_empty()
}

#[cfg(test)]
mod tests;
