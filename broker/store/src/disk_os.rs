//! `OsDisk`: the real file system.
//!
//! Owns the translation of [`Disk`] into system calls; the only module of the project that touches files for
//! production data (beside the agent's sled). Never retries a failed call. Created by the binary.
//! Crash story: exactly the rules in `disk.rs`; the file system below is trusted to keep them.

use crate::disk::{DirEntry, Disk, DiskFile, DiskSpace, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

#[derive(Debug)]
struct OsFile {
    file: File,
    path: PathBuf,
}

fn fail(op: Op, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::from_io(op, path, 0, &error)
}

fn open_file(path: &Path, mode: OpenMode) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match mode {
        OpenMode::Existing => {}
        OpenMode::Create => {
            options.create(true).truncate(false);
        }
        OpenMode::CreateNew => {
            options.create_new(true);
        }
        OpenMode::CreatePrivate => {
            options.create_new(true).mode(0o600);
        }
    }
    options.open(path).map_err(fail(Op::Open, path))
}

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile { file: open_file(path, mode)?, path: path.to_path_buf() }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        let failed = fail(Op::List, dir);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Removed between the listing and the look at it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            entries.push(DirEntry { name, is_dir: meta.is_dir(), len: meta.len() });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(from, to).map_err(fail(Op::Rename, from))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        std::fs::remove_file(path).map_err(fail(Op::Remove, path))
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        std::fs::remove_dir(dir).map_err(fail(Op::Remove, dir))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        File::open(dir).and_then(|handle| handle.sync_all()).map_err(fail(Op::SyncDir, dir))
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match std::fs::create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) => return Err(fail(Op::CreateDir, dir)(error)),
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn space(&self, dir: &Path) -> Result<DiskSpace> {
        let stat = rustix::fs::statvfs(dir).map_err(|error| fail(Op::Space, dir)(error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(DiskSpace { total_bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) })
    }

    fn lock(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let file = open_file(path, OpenMode::Create)?;
        match file.try_lock() {
            Ok(()) => Ok(Arc::new(OsFile { file, path: path.to_path_buf() })),
            Err(TryLockError::WouldBlock) => Err(StoreError::new(Op::Lock, path, 0, ErrorKind::Locked)),
            Err(TryLockError::Error(error)) => Err(fail(Op::Lock, path)(error)),
        }
    }
}

impl OsFile {
    fn failed(&self, op: Op, offset: u64) -> impl Fn(io::Error) -> StoreError + '_ {
        move |error| StoreError::from_io(op, &self.path, offset, &error)
    }
}

impl DiskFile for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(Op::Read, offset)(error)),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(self.failed(Op::Write, offset))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(self.failed(Op::Sync, 0))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(self.failed(Op::Len, 0))?.len())
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(self.failed(Op::Truncate, len))
    }

    fn allocate(&self, len: u64) -> Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(self.failed(Op::Allocate, len)(error.into())),
        }
    }

    fn forget_cached(&self, offset: u64, len: u64) -> Result<()> {
        let len = std::num::NonZeroU64::new(len);
        rustix::fs::fadvise(&self.file, offset, len, rustix::fs::Advice::DontNeed)
            .map_err(|error| self.failed(Op::Read, offset)(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_what_is_written_and_short_reads_mean_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/b");
        OsDisk.create_dir_all(&dir).unwrap();
        let file = OsDisk.open(&dir.join("f"), OpenMode::CreateNew).unwrap();
        file.allocate(8192).unwrap();
        assert!(file.is_empty().unwrap(), "allocate must not change the length");
        file.write_all_at(b"hello", 3).unwrap();
        file.sync().unwrap();
        let mut buf = [9; 10];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8);
        assert_eq!(&buf[..8], b"\0\0\0hello");
        file.truncate(4).unwrap();
        assert_eq!(file.len().unwrap(), 4);
        assert_eq!(
            OsDisk.open(&dir.join("f"), OpenMode::CreateNew).unwrap_err().kind,
            ErrorKind::AlreadyExists
        );
        assert!(OsDisk.open(&dir.join("g"), OpenMode::Existing).unwrap_err().is_not_found());
    }

    #[test]
    fn names_are_listed_sorted_renamed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c"] {
            OsDisk.open(&folder.path().join(name), OpenMode::Create).unwrap();
        }
        OsDisk.rename(&folder.path().join("a"), &folder.path().join("c")).unwrap();
        OsDisk.create_dir_all(&folder.path().join("d")).unwrap();
        OsDisk.sync_dir(folder.path()).unwrap();
        let entries = OsDisk.list(folder.path()).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.is_dir)).collect();
        assert_eq!(names, [("b", false), ("c", false), ("d", true)]);
        OsDisk.remove(&folder.path().join("b")).unwrap();
        OsDisk.remove_dir(&folder.path().join("d")).unwrap();
        assert_eq!(OsDisk.list(folder.path()).unwrap().len(), 1);
        let space = OsDisk.space(folder.path()).unwrap();
        assert!(space.total_bytes >= space.free_bytes && space.total_bytes > 0);
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("LOCK");
        let held = OsDisk.lock(&path).unwrap();
        assert_eq!(OsDisk.lock(&path).unwrap_err().kind, ErrorKind::Locked);
        drop(held);
        OsDisk.lock(&path).unwrap();
    }
}
