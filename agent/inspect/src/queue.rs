//! Owns the walk through one consume queue: 20 bytes for each message, telling where its record is. Pure over [`Segments`].

use crate::record::{u32_at, u64_at};
use crate::window::{Segments, Window};
use std::io;

/// Bytes of one entry.
pub const UNIT_LEN: usize = 20;
/// What a broker writes before the first entry of a queue that does not begin at its file's beginning.
const FILLER_SIZE: u32 = i32::MAX as u32;

/// Where a queue says the record of one of its offsets is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Offset in the queue.
    pub index: u64,
    /// Position in the commit log.
    pub position: u64,
    /// Bytes of the record.
    pub size: u32,
    /// Hash of its tag; when it is due, in a delay queue.
    pub tag: i64,
}

/// Reads the entry at the front of `bytes`; `None` for one that was never written.
pub fn unit(bytes: &[u8], index: u64) -> Option<Unit> {
    let (position, size, tag) = (u64_at(bytes, 0)?, u32_at(bytes, 8)?, u64_at(bytes, 12)? as i64);
    let written = size > 0 && !(position == 0 && size == FILLER_SIZE);
    written.then_some(Unit { index, position, size, tag })
}

/// Gives every written entry to `each`, in order. Bytes that make no whole entry at a file's end are nobody's.
///
/// # Errors
/// When a file cannot be read, and those of `each`.
pub fn walk(
    source: &impl Segments,
    window: &mut Window,
    each: &mut dyn FnMut(Unit) -> io::Result<()>,
) -> io::Result<()> {
    for (number, segment) in source.segments().to_vec().iter().enumerate() {
        window.open(number);
        let mut at = 0;
        while at + UNIT_LEN as u64 <= segment.len {
            let bytes = window.at(source, at, UNIT_LEN)?;
            if bytes.len() < UNIT_LEN {
                break;
            }
            if let Some(unit) = unit(bytes, (segment.base + at) / UNIT_LEN as u64) {
                each(unit)?;
            }
            at += UNIT_LEN as u64;
        }
    }
    Ok(())
}
