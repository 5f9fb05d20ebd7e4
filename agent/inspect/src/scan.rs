//! Owns the walk through a commit log: every whole record in order, every range that is none, and where the log ends. After
//! damage it looks for the next record that says it is where it is. Pure over [`Segments`].

use crate::record::{self, Flaw, HEAD_LEN, Head, Record};
use crate::window::{Segments, Window};
use memchr::memmem;
use std::io;
use wire::message::{MAGIC_V1, MAGIC_V2};

/// Ranges of damage kept one by one; what follows is added to the last.
const DAMAGES_MAX: usize = 10_000;
/// Known records kept to compare two logs by.
const MARKS_MAX: usize = 4_096;
const MARK_STRIDE: u64 = 64 << 10;

/// What is wrong with a range of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// A record whose end never reached the disk; nothing follows it.
    Torn,
    /// No records, though records follow.
    Corrupt,
    /// Zeros, though records follow.
    Zeroed,
    /// A file is missing, or shorter than the next one's name says.
    Missing,
    /// Two files claim the same range.
    Overlap,
    /// The system would not read it.
    Unreadable,
    /// Whole records of an older time: the log ended before them when it was last written.
    Leftover,
}

impl Wrong {
    pub fn text(self) -> &'static str {
        match self {
            Wrong::Torn => "torn",
            Wrong::Corrupt => "corrupt",
            Wrong::Zeroed => "zeroed",
            Wrong::Missing => "missing",
            Wrong::Overlap => "overlapping",
            Wrong::Unreadable => "unreadable",
            Wrong::Leftover => "leftover",
        }
    }
}

/// A range of positions in the log that holds no record that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub from: u64,
    pub to: u64,
    pub wrong: Wrong,
    /// Queue and queue offset of the record that began there, when its head could be read.
    pub place: Option<(u32, u64)>,
}

/// What the walk learnt besides the records.
#[derive(Clone, Debug, Default)]
pub struct LogSummary {
    /// Position of the first byte there is.
    pub min: u64,
    /// Position after the last whole record.
    pub end: u64,
    pub records: u64,
    /// Bytes looked at.
    pub bytes: u64,
    pub damages: Vec<Damage>,
    /// Damage beyond the limit was added to the last range.
    pub damages_merged: bool,
    /// Position and [`Record::mark`] of records all over the log.
    pub marks: Vec<(u64, u64)>,
    pub newest_store_ms: i64,
}

impl LogSummary {
    /// The damage this position is in.
    pub fn damage_at(&self, position: u64) -> Option<&Damage> {
        let index = self.damages.partition_point(|damage| damage.to <= position);
        self.damages.get(index).filter(|damage| damage.from <= position)
    }

    /// Whether the log ends in a record that was begun and not finished.
    pub fn is_torn(&self) -> bool {
        self.damages.iter().any(|damage| damage.wrong == Wrong::Torn)
    }
}

/// Walks a log; `sink` gets each record and whether its body is intact, `progress` the bytes done so far.
///
/// # Errors
/// Only those of `sink`: what cannot be read is damage.
pub fn scan(
    source: &impl Segments,
    sink: &mut dyn FnMut(&Record<'_>, bool) -> io::Result<()>,
    progress: &mut dyn FnMut(u64),
) -> io::Result<LogSummary> {
    let mut walk = Walk { stride: MARK_STRIDE, ..Walk::default() };
    let segments = source.segments().to_vec();
    let first = segments.first().map_or(0, |segment| segment.base);
    (walk.found.min, walk.found.end) = (first, first);
    let mut reached = first;
    for (index, segment) in segments.iter().enumerate() {
        if segment.base > reached {
            walk.suspect(reached, segment.base, Wrong::Missing, None);
        } else if segment.base < reached {
            walk.suspect(segment.base, reached, Wrong::Overlap, None);
        }
        walk.window.open(index);
        walk.file(source, segment.base, segment.len, sink, progress)?;
        if walk.is_over {
            break;
        }
        reached = segment.base.saturating_add(segment.len);
        walk.found.bytes += segment.len;
    }
    Ok(walk.finish())
}

#[derive(Default)]
struct Walk {
    window: Window,
    found: LogSummary,
    /// Not known yet whether records follow.
    pending: Vec<Damage>,
    last_store_ms: i64,
    stride: u64,
    is_over: bool,
}

impl Walk {
    fn file(
        &mut self,
        source: &impl Segments,
        base: u64,
        len: u64,
        sink: &mut dyn FnMut(&Record<'_>, bool) -> io::Result<()>,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut at = 0;
        let mut told = 0;
        while at < len && !self.is_over {
            if at - told >= 16 << 20 {
                progress(self.found.bytes + at);
                told = at;
            }
            let Ok(bytes) = self.window.at(source, at, HEAD_LEN) else {
                self.suspect(base + at, base + len, Wrong::Unreadable, None);
                return Ok(());
            };
            match record::head(bytes) {
                Head::Blank => return Ok(()),
                Head::Zero => {
                    let run = self.zeros_until(source, at, len);
                    // the size of a record begins with zeros too
                    let first = run.saturating_sub(3).max(at + 1);
                    let found =
                        (first..run).filter(|_| run < len).find(|to| self.is_record(source, base, *to));
                    let to = found.unwrap_or(run);
                    self.suspect(base + at, base + to, Wrong::Zeroed, None);
                    at = to;
                }
                Head::Record { size } => {
                    let Ok(bytes) = self.window.at(source, at, size) else {
                        self.suspect(base + at, base + len, Wrong::Unreadable, None);
                        return Ok(());
                    };
                    let whole = (bytes.len() == size).then(|| Record::read(bytes, base + at));
                    match whole {
                        Some(Ok(record)) => {
                            // Borrowed from the window, which only this struct's other fields are written beside.
                            let intact = record.body_is_intact();
                            if note(&mut self.found, &mut self.pending, self.last_store_ms, &record) {
                                self.is_over = true;
                                return Ok(());
                            }
                            self.last_store_ms = record.store_ms;
                            mark(&mut self.found, &mut self.stride, &record);
                            sink(&record, intact)?;
                            at += size as u64;
                        }
                        flaw => {
                            let place = match flaw {
                                Some(Err(Flaw::Position)) => None,
                                _ => record::place_in_head(bytes, base + at),
                            };
                            let (to, is_zero_after) = self.resume(source, base, at, len);
                            let wrong = if is_zero_after || to == len { Wrong::Torn } else { Wrong::Corrupt };
                            self.suspect(base + at, base + to, wrong, place);
                            at = to;
                        }
                    }
                }
                Head::Unknown => {
                    let (to, _) = self.resume(source, base, at, len);
                    self.suspect(base + at, base + to, Wrong::Corrupt, None);
                    at = to;
                }
            }
        }
        progress(self.found.bytes + at.min(len));
        Ok(())
    }

    fn suspect(&mut self, from: u64, to: u64, wrong: Wrong, place: Option<(u32, u64)>) {
        if self.pending.len() < DAMAGES_MAX {
            self.pending.push(Damage { from, to, wrong, place });
        } else if let Some(last) = self.pending.last_mut() {
            last.to = last.to.max(to);
        }
    }

    /// The end of a run of zeros, within the file.
    fn zeros_until(&mut self, source: &impl Segments, from: u64, len: u64) -> u64 {
        let mut at = from;
        while at < len {
            let Ok(bytes) = self.window.rest(source, at) else { return at };
            if bytes.is_empty() {
                return len;
            }
            let run = zero_run(bytes);
            at += run as u64;
            if run < bytes.len() {
                return at;
            }
        }
        len
    }

    /// Where the next whole record is, and whether only zeros are there instead. Without either, the end of the file.
    fn resume(&mut self, source: &impl Segments, base: u64, damaged: u64, len: u64) -> (u64, bool) {
        let finders =
            [MAGIC_V1, MAGIC_V2].map(|magic| memmem::Finder::new(&magic.to_be_bytes()).into_owned());
        let mut at = damaged + 1;
        let mut last_written = damaged;
        while at < len {
            let Ok(bytes) = self.window.rest(source, at) else { break };
            if bytes.len() < HEAD_LEN {
                break;
            }
            let held = bytes.len();
            if let Some(written) = bytes.iter().rposition(|byte| *byte != 0) {
                last_written = last_written.max(at + written as u64);
            }
            let hits = finders.iter().filter_map(|finder| finder.find(bytes.get(4..).unwrap_or_default()));
            let Some(hit) = hits.min() else {
                at += (held - HEAD_LEN + 1) as u64;
                continue;
            };
            let candidate = at + hit as u64;
            if self.is_record(source, base, candidate) {
                return (candidate, false);
            }
            at = candidate + 1;
        }
        if last_written + 1 < len { (last_written + 1, true) } else { (len, false) }
    }

    fn is_record(&mut self, source: &impl Segments, base: u64, at: u64) -> bool {
        let Ok(bytes) = self.window.at(source, at, HEAD_LEN) else { return false };
        let Head::Record { size } = record::head(bytes) else { return false };
        let Ok(bytes) = self.window.at(source, at, size) else { return false };
        bytes.len() == size && Record::read(bytes, base + at).is_ok_and(|record| record.body_is_intact())
    }

    /// What is still pending is behind the end, and only a record that was begun there is damage.
    fn finish(mut self) -> LogSummary {
        let mut pending = std::mem::take(&mut self.pending).into_iter();
        if !self.is_over
            && let Some(first) = pending.find(|damage| damage.wrong != Wrong::Zeroed)
            && first.from == self.found.end
        {
            keep(&mut self.found, first);
        }
        self.found
    }
}

/// Counts a record in; true when it is a leftover of an older time, so that the log ended before it.
fn note(found: &mut LogSummary, pending: &mut Vec<Damage>, last_store_ms: i64, record: &Record<'_>) -> bool {
    if !pending.is_empty() {
        if record.store_ms < last_store_ms && found.records > 0 {
            let (from, to) = (found.end, record.position);
            keep(found, Damage { from, to, wrong: Wrong::Leftover, place: None });
            return true;
        }
        for mut damage in pending.drain(..) {
            if damage.wrong == Wrong::Torn {
                damage.wrong = Wrong::Corrupt;
            }
            keep(found, damage);
        }
    }
    found.records += 1;
    found.end = record.position.saturating_add(u64::from(record.size));
    found.newest_store_ms = found.newest_store_ms.max(record.store_ms);
    false
}

fn keep(found: &mut LogSummary, damage: Damage) {
    let is_full = found.damages.len() >= DAMAGES_MAX;
    match found.damages.last_mut() {
        Some(last) if last.to == damage.from && last.wrong == damage.wrong => last.to = damage.to,
        Some(last) if is_full => {
            last.to = last.to.max(damage.to);
            found.damages_merged = true;
        }
        _ => found.damages.push(damage),
    }
}

fn mark(found: &mut LogSummary, stride: &mut u64, record: &Record<'_>) {
    let due = found.marks.last().is_none_or(|(at, _)| record.position / *stride > *at / *stride);
    if !due {
        return;
    }
    found.marks.push((record.position, record.mark()));
    if found.marks.len() >= MARKS_MAX {
        let mut nth = 0;
        found.marks.retain(|_| {
            nth += 1;
            nth % 2 == 1
        });
        *stride *= 2;
    }
}

fn zero_run(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut run = 0;
    for chunk in bytes.chunks(ZEROS.len()) {
        if ZEROS.get(..chunk.len()) != Some(chunk) {
            return run + chunk.iter().take_while(|byte| **byte == 0).count();
        }
        run += chunk.len();
    }
    run
}

/// What is at a position of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkAt {
    /// A whole record, and where the next one should be.
    Record {
        mark: u64,
        next: u64,
    },
    /// Filler; the log goes on in the next file.
    NextFile(u64),
    Nothing,
}

/// Looks at one position.
///
/// # Errors
/// The source's.
pub fn mark_at(source: &impl Segments, window: &mut Window, position: u64) -> io::Result<MarkAt> {
    let segments = source.segments();
    let after = segments.partition_point(|segment| segment.base <= position);
    let Some((index, segment)) = after.checked_sub(1).and_then(|index| Some((index, segments.get(index)?)))
    else {
        return Ok(MarkAt::Nothing);
    };
    if !window.is_open(index) {
        window.open(index);
    }
    let at = position - segment.base;
    if at >= segment.len {
        return Ok(MarkAt::Nothing);
    }
    match record::head(window.at(source, at, HEAD_LEN)?) {
        Head::Record { size } => {
            let bytes = window.at(source, at, size)?;
            let record =
                Record::read(bytes, position).ok().filter(|record| record.size as usize == bytes.len());
            let next = position.saturating_add(size as u64);
            Ok(record.map_or(MarkAt::Nothing, |record| MarkAt::Record { mark: record.mark(), next }))
        }
        Head::Blank => Ok(segments.get(after).map_or(MarkAt::Nothing, |next| MarkAt::NextFile(next.base))),
        _ => Ok(MarkAt::Nothing),
    }
}
