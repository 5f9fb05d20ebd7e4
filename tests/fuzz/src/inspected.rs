//! What `inspect` reads of stores it did not write: a log, a queue, the offsets of groups.

use std::io;

use inspect::config;
use inspect::queue;
use inspect::scan::scan;
use inspect::window::{Segment, Segments, Window};

/// One file that begins at 0.
struct OneFile<'a> {
    segment: [Segment; 1],
    bytes: &'a [u8],
}

impl OneFile<'_> {
    fn of(bytes: &[u8]) -> OneFile<'_> {
        OneFile { segment: [Segment { base: 0, len: bytes.len() as u64 }], bytes }
    }
}

impl Segments for OneFile<'_> {
    fn segments(&self) -> &[Segment] {
        &self.segment
    }

    fn read_at(&self, _: usize, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

pub(crate) fn log(bytes: &[u8]) -> bool {
    let mut last_end = 0;
    let found = scan(
        &OneFile::of(bytes),
        &mut |record, _| {
            assert!(record.position >= last_end, "records overlap");
            last_end = record.position + u64::from(record.size);
            record.named();
            Ok(())
        },
        &mut |_| (),
    )
    .expect("memory is always readable");
    assert!(found.end == last_end && found.end <= bytes.len() as u64);
    found.records > 0
}

pub(crate) fn queue(bytes: &[u8]) -> bool {
    let mut units = 0;
    let walked = queue::walk(&OneFile::of(bytes), &mut Window::default(), &mut |unit| {
        assert!(unit.index < bytes.len() as u64 / queue::UNIT_LEN as u64);
        units += 1;
        Ok(())
    });
    walked.is_ok() && units > 0
}

pub(crate) fn offsets(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    drop((config::delay_offsets(text), config::topics(text)));
    config::group_offsets(text).is_ok_and(|offsets| !offsets.is_empty())
}
