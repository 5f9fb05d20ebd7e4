//! Logs for tests: small segments, records of any length.

use super::CommitLog;
use crate::disk_sim::SimDisk;
use lifecycle::identity::{Epoch, Incarnation, Lineage, LogPosition, TopicIncarnation};
use std::path::Path;
use std::sync::Arc;

pub(super) const SEGMENT: u64 = 4096;

pub(super) fn epoch(number: u64, run: u8) -> Epoch {
    Epoch { number, incarnation: Incarnation([run; 16]) }
}

pub(super) fn open(disk: &SimDisk, epochs: Vec<(Epoch, LogPosition)>) -> CommitLog {
    CommitLog::open(Arc::new(disk.clone()), Path::new("/log"), SEGMENT, epochs).unwrap()
}

pub(super) fn put(log: &mut CommitLog, len: usize, lineage: bool) {
    log.place(len, lineage).unwrap();
    let lineage = lineage.then(Lineage::default);
    log.push(TopicIncarnation(7), lineage.as_ref(), |out| out.resize(out.len() + len, len as u8));
}
