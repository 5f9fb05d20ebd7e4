//! Owns what has to happen to a log's folder before it is opened. Never reads records. Used by the evidence and verdict logs.

use std::path::Path;
use store::disk::{Disk, OpenMode};
use store::error::Result;

/// Bytes of a journal segment without a frame: only its header.
const EMPTY_SEGMENT_BYTES: u64 = 44;
/// How many of the newest files may hold bytes that a killed process wrote and never synced.
const UNSYNCED_FILES_MAX: usize = 2;

/// Every start opens a new segment: those without a frame go, or a restart loop would fill the folder. And what a killed
/// process left unsynced becomes durable, because it is about to be believed.
pub fn prepare(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.create_dir_all(dir)?;
    let entries = disk.list(dir)?;
    let (empty, kept): (Vec<_>, Vec<_>) =
        entries.iter().filter(|entry| !entry.is_dir).partition(|entry| entry.len <= EMPTY_SEGMENT_BYTES);
    for entry in &empty {
        disk.remove(&dir.join(&entry.name))?;
    }
    for entry in kept.iter().rev().take(UNSYNCED_FILES_MAX) {
        disk.open(&dir.join(&entry.name), OpenMode::Existing)?.sync()?;
    }
    if empty.is_empty() { Ok(()) } else { disk.sync_dir(dir) }
}
