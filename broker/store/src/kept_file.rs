//! Files that keep for people what has to be cut: written once, readable by their owner alone, with a CRC-32 over all before it as
//! their last four bytes.
//!
//! Crash story: written beside its place, synced and renamed. Until [`KeptFile::finish`] returns there is no file of that name; a
//! crash before means that the same file is made again.

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{Result, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much is held before it is written, and read at once.
const CHUNK: usize = 1 << 20;
const CRC_LEN: u64 = 4;

/// One being written.
pub(crate) struct KeptFile<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    part: PathBuf,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    crc: crc32fast::Hasher,
    buffer: Vec<u8>,
    written: u64,
}

impl<'a> KeptFile<'a> {
    /// Begins `name` + `suffix` in a folder, which is made when it is not there.
    pub(crate) fn create(
        disk: &'a dyn Disk,
        dir: &'a Path,
        name: &str,
        suffix: &str,
    ) -> Result<KeptFile<'a>> {
        let (path, part) = (dir.join(format!("{name}{suffix}")), dir.join(format!("{name}.part")));
        disk.create_dir_all(dir)?;
        match disk.remove(&part) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let file = disk.open(&part, OpenMode::CreatePrivate)?;
        let crc = crc32fast::Hasher::new();
        Ok(KeptFile { disk, dir, part, path, file, crc, buffer: Vec::new(), written: 0 })
    }

    /// Appends.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.crc.update(&self.buffer);
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// It is on disk under its name on return.
    pub(crate) fn finish(mut self) -> Result<PathBuf> {
        self.write()?;
        let crc = self.crc.finalize().to_be_bytes();
        self.file.write_all_at(&crc, self.written)?;
        self.file.sync()?;
        self.disk.rename(&self.part, &self.path)?;
        self.disk.sync_dir(self.dir)?;
        Ok(self.path)
    }
}

/// Opens one, and reads it once to check it. Answers also how many bytes there are before the checksum.
pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<(Arc<dyn DiskFile>, u64)> {
    let file = disk.open(path, OpenMode::Existing)?;
    let damaged = |at, what| StoreError::corrupt(path, at, what);
    let len = file.len()?.checked_sub(CRC_LEN).ok_or_else(|| damaged(0, "kept file is cut short"))?;
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let want = CHUNK.min(usize::try_from(len - at).unwrap_or(CHUNK));
        let got = file.read_at(buffer.get_mut(..want).unwrap_or_default(), at)?;
        if got == 0 {
            return Err(damaged(at, "kept file is cut short"));
        }
        crc.update(buffer.get(..got).unwrap_or_default());
        at += got as u64;
    }
    let mut told = [0; CRC_LEN as usize];
    if file.read_at(&mut told, len)? < told.len() || told != crc.finalize().to_be_bytes() {
        return Err(damaged(0, "kept file checksum"));
    }
    Ok((file, len))
}
