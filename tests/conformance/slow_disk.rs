//! Owns a disk in memory whose syncs take as long as a test says.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::disk::{DirEntry, Disk, DiskFile, DiskSpace, OpenMode};
use store::disk_sim::SimDisk;
use store::error::Result;

#[derive(Debug, Clone)]
pub(crate) struct SlowDisk {
    disk: SimDisk,
    sync_ms: Arc<AtomicU64>,
}

impl SlowDisk {
    pub(crate) fn new() -> SlowDisk {
        SlowDisk { disk: SimDisk::new(), sync_ms: Arc::default() }
    }

    /// From now on.
    pub(crate) fn syncs_take(&self, time: Duration) {
        self.sync_ms.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SlowFile { file, sync_ms: self.sync_ms.clone() })
    }
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path, mode)?))
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.disk.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.disk.sync_dir(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn space(&self, dir: &Path) -> Result<DiskSpace> {
        self.disk.space(dir)
    }

    fn lock(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        self.disk.lock(path)
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn DiskFile>,
    sync_ms: Arc<AtomicU64>,
}

impl DiskFile for SlowFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        #[expect(clippy::disallowed_methods, reason = "a slow disk")]
        std::thread::sleep(Duration::from_millis(self.sync_ms.load(Ordering::Relaxed)));
        self.file.sync()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.file.truncate(len)
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.file.allocate(len)
    }
}
