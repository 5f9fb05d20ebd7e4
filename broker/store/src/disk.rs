//! The only door to files: everything this project keeps on disk goes through [`Disk`].
//!
//! Owns the two traits and the durability rules they promise. Never retries, never caches. Called by every
//! module of this crate; `OsDisk` is the real one, `SimDisk` the simulated one, `UndoDisk` adds power cuts to
//! real processes.
//!
//! The rules a caller may rely on, and no others:
//! - written bytes survive the death of the process at once, a power cut only after [`DiskFile::sync`];
//! - a created, renamed or removed *name* survives a power cut only after [`Disk::sync_dir`] of its folder;
//! - [`Disk::create_dir_all`] is durable when it returns;
//! - until synced, any subset of the written sectors may survive, in any order.

use crate::error::Result;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// How to open a file. All modes read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// The file is created empty when it does not exist.
    Create,
    /// The file must not exist.
    CreateNew,
    /// The same, and nobody but its owner may read it.
    CreatePrivate,
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    pub len: u64,
}

/// Size of the file system below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

impl DiskSpace {
    /// Used part of the disk in percent, rounded up. A disk of unknown size counts as empty.
    pub fn used_percent(&self) -> u8 {
        let used = self.total_bytes.saturating_sub(self.free_bytes);
        if self.total_bytes == 0 {
            return 0;
        }
        u8::try_from((u128::from(used) * 100).div_ceil(u128::from(self.total_bytes))).unwrap_or(100)
    }
}

/// Folders and names.
pub trait Disk: Send + Sync + Debug {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>>;
    /// The names in a folder, sorted. Names that are not UTF-8 are not ours and are left out.
    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>>;
    /// Replaces `to` when it exists.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    fn remove(&self, path: &Path) -> Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, dir: &Path) -> Result<()>;
    fn sync_dir(&self, dir: &Path) -> Result<()>;
    fn create_dir_all(&self, dir: &Path) -> Result<()>;
    fn space(&self, dir: &Path) -> Result<DiskSpace>;
    /// Locks a file (created when absent) against every other process and handle; held until the handle is
    /// dropped. Fails with `Locked` at once when somebody else holds it.
    fn lock(&self, path: &Path) -> Result<Arc<dyn DiskFile>>;
}

/// One open file. All methods take `&self`: a flusher thread may sync while the core thread writes.
pub trait DiskFile: Send + Sync + Debug {
    fn path(&self) -> &Path;
    /// Reads until the buffer is full or the file ends; returns how many bytes were read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes everything; a gap before `offset` reads as zeros. After an error any part may be written.
    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()>;
    /// Everything written before this call, and the length, survives a power cut afterwards.
    fn sync(&self) -> Result<()>;
    fn len(&self) -> Result<u64>;
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Sets the length; a longer one reads as zeros.
    fn truncate(&self, len: u64) -> Result<()>;
    /// Reserves space for `len` bytes without changing the length, so that "disk full" comes here and not in
    /// the middle of an append. A file system that cannot do it ignores it.
    fn allocate(&self, len: u64) -> Result<()>;
    /// Asks the system to drop these bytes from its cache, so that the next read comes from the disk. An advice: what is not
    /// on disk yet stays, and a disk without a cache has nothing to do.
    fn forget_cached(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_percent_rounds_up_and_never_overflows() {
        let used = |total_bytes, free_bytes| DiskSpace { total_bytes, free_bytes }.used_percent();
        assert_eq!(used(0, 0), 0);
        assert_eq!(used(1000, 1000), 0);
        assert_eq!(used(1000, 999), 1);
        assert_eq!(used(u64::MAX, 0), 100);
        assert_eq!(used(10, 20), 0);
    }
}
