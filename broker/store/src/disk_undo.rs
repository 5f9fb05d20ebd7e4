//! `UndoDisk`: the real disk, plus a note of everything a power cut would take back.
//!
//! Owns a sidecar folder (on the same file system as the data, outside the data folder) with an undo log and a trash. Never changes
//! what the data folder looks like while the process runs. Used by the demo and by crash tests on real processes: kill -9 the process,
//! call [`UndoDisk::undo`], and the data folder is as after the worst power cut: every file has the content and length
//! of its last sync, and names that were created, renamed or removed without a folder sync are back as they were.
//!
//! How: before a change happens, what it destroys is written to the log (old length once per sync, old bytes of a page once
//! per sync; removed and replaced files are linked into the trash first). A sync adds a record that voids
//! earlier ones. The undo applies what is not void, newest first. Files are known by inode number, so renames do not matter.
//!
//! Crash story: killed between any two system calls, the log holds at most one record whose change has not happened; undoing such a
//! record changes nothing. A process that starts again on the same sidecar continues the log. The undo itself may be killed and run
//! again. The sidecar survives kill -9, not a real power cut: it is never synced.

mod log;
mod undo;

pub use undo::UndoReport;

use crate::disk::{DirEntry, Disk, DiskFile, DiskSpace, OpenMode};
use crate::disk_os::OsDisk;
use crate::error::{Op, Result, StoreError};
use log::{Undo, UndoLog, live_records};
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Old bytes are kept in pieces of this size.
const PAGE: u64 = 4096;

/// What was noted about a file since its last sync.
#[derive(Debug)]
struct Noted {
    len: u64,
    pages: BTreeSet<u64>,
}

/// A removed or replaced file: gone for good once its folder is synced after this number.
#[derive(Debug)]
struct Trashed {
    number: u64,
    dir: PathBuf,
    inode: u64,
}

#[derive(Debug)]
struct State {
    log: UndoLog,
    trash: PathBuf,
    noted: BTreeMap<u64, Noted>,
    trashed: Vec<Trashed>,
    /// Inodes without any name, of which handles may still be open.
    nameless: BTreeSet<u64>,
    #[cfg(test)]
    die_after_steps: Option<u64>,
}

/// See the module text.
#[derive(Debug, Clone)]
pub struct UndoDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct UndoFile {
    file: Arc<dyn DiskFile>,
    inode: u64,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The inode that has a name now.
fn inode_of(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|meta| meta.ino())
}

impl UndoDisk {
    /// Opens or continues the sidecar folder.
    pub fn open(sidecar: &Path) -> Result<UndoDisk> {
        let trash = sidecar.join("trash");
        OsDisk.create_dir_all(&trash)?;
        let (log, records) = UndoLog::open(sidecar)?;
        let mut trashed = Vec::new();
        for record in live_records(records) {
            let (path, inode) = match record.undo {
                Undo::Remove { path, inode } => (path, inode),
                Undo::Rename { to, replaced, .. } if replaced != 0 => (to, replaced),
                _ => continue,
            };
            let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
            trashed.push(Trashed { number: record.number, dir, inode });
        }
        let (noted, nameless) = (BTreeMap::new(), BTreeSet::new());
        let mut state = State {
            log,
            trash,
            noted,
            trashed,
            nameless,
            #[cfg(test)]
            die_after_steps: None,
        };
        // Killed after a folder sync, before the trash was emptied.
        for entry in OsDisk.list(&state.trash)? {
            let inode = entry.name.parse().unwrap_or(0);
            if !state.trashed.iter().any(|trashed| trashed.inode == inode) {
                state.empty_trash(inode)?;
            }
        }
        Ok(UndoDisk { state: Arc::new(Mutex::new(state)) })
    }

    /// Takes back, in the data folder, everything that was not synced, and empties the sidecar. No process may use
    /// either at the same time.
    pub fn undo(dir: &Path, sidecar: &Path) -> Result<UndoReport> {
        undo::undo(dir, sidecar)
    }

    fn wrap(&self, state: &mut State, file: Arc<dyn DiskFile>, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let inode = inode_of(path)
            .ok_or_else(|| StoreError::new(Op::Open, path, 0, crate::error::ErrorKind::NotFound))?;
        // A number that had no name has one again: the file system has reused it.
        if state.nameless.remove(&inode) {
            state.noted.remove(&inode);
        }
        Ok(Arc::new(UndoFile { file, inode, state: self.state.clone() }))
    }

    fn open_with(
        &self,
        path: &Path,
        open: impl FnOnce() -> Result<Arc<dyn DiskFile>>,
    ) -> Result<Arc<dyn DiskFile>> {
        let mut state = lock(&self.state);
        if inode_of(path).is_none() {
            state.append(Undo::Create { path: path.to_path_buf() }, path)?;
        }
        let file = open()?;
        self.wrap(&mut state, file, path)
    }
}

impl State {
    /// Keeps a file that is about to lose its name.
    fn keep(&mut self, path: &Path, inode: u64) -> Result<()> {
        let number = self.log.next_number - 1;
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        self.trashed.push(Trashed { number, dir, inode });
        match std::fs::hard_link(path, self.trash.join(inode.to_string())) {
            // Left by an attempt that was killed before it took the name away.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(StoreError::from_io(Op::Remove, path, 0, &error)),
            Ok(()) => self.step(path),
        }
    }

    /// Drops a file from the trash; with its last name it is gone, and its number may be used again.
    fn empty_trash(&mut self, inode: u64) -> Result<()> {
        let kept = self.trash.join(inode.to_string());
        let Ok(meta) = std::fs::symlink_metadata(&kept) else { return Ok(()) };
        if meta.nlink() == 1 {
            self.log.append(vec![Undo::Forget { inode }])?;
            self.noted.remove(&inode);
            self.nameless.insert(inode);
            self.step(&kept)?;
        }
        OsDisk.remove(&kept)
    }

    /// Tests kill the process here: between a record and the change it describes.
    fn step(&mut self, path: &Path) -> Result<()> {
        #[cfg(test)]
        if let Some(left) = &mut self.die_after_steps {
            if *left == 0 {
                return Err(StoreError::corrupt(path, 0, "killed by the test"));
            }
            *left -= 1;
        }
        assert!(!path.as_os_str().is_empty());
        Ok(())
    }

    fn append(&mut self, undo: Undo, path: &Path) -> Result<()> {
        self.step(path)?;
        self.log.append(vec![undo])?;
        self.step(path)
    }

    /// Notes the length and the old bytes of a range before they change.
    fn note(&mut self, file: &dyn DiskFile, inode: u64, from: u64, to: u64) -> Result<()> {
        if self.nameless.contains(&inode) {
            return Ok(());
        }
        let mut undos = Vec::new();
        let noted = match self.noted.entry(inode) {
            Entry::Occupied(noted) => noted.into_mut(),
            Entry::Vacant(vacant) => {
                let len = file.len()?;
                undos.push(Undo::Len { inode, len });
                vacant.insert(Noted { len, pages: BTreeSet::new() })
            }
        };
        for page in from / PAGE..to.min(noted.len).div_ceil(PAGE) {
            if !noted.pages.insert(page) {
                continue;
            }
            let offset = page * PAGE;
            let mut bytes = vec![0; usize::try_from(PAGE.min(noted.len - offset)).unwrap_or(0)];
            let count = file.read_at(&mut bytes, offset)?;
            bytes.truncate(count);
            undos.push(Undo::Bytes { inode, offset, bytes });
        }
        if undos.is_empty() {
            return Ok(());
        }
        self.log.append(undos).inspect_err(|_| {
            // Nothing is noted when the log is not written; the change must not happen.
            self.noted.remove(&inode);
        })
    }
}

impl Disk for UndoDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>> {
        if mode == OpenMode::Existing {
            let file = OsDisk.open(path, mode)?;
            return self.wrap(&mut lock(&self.state), file, path);
        }
        self.open_with(path, || OsDisk.open(path, mode))
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        OsDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        let Some(inode) = inode_of(from) else {
            return OsDisk.rename(from, to);
        };
        let replaced = inode_of(to).filter(|replaced| *replaced != inode);
        let (from_path, to_path) = (from.to_path_buf(), to.to_path_buf());
        let undo = Undo::Rename { from: from_path, to: to_path, inode, replaced: replaced.unwrap_or(0) };
        state.append(undo, from)?;
        if let Some(replaced) = replaced {
            state.keep(to, replaced)?;
        }
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(inode) = inode_of(path) {
            state.append(Undo::Remove { path: path.to_path_buf(), inode }, path)?;
            state.keep(path, inode)?;
        }
        OsDisk.remove(path)
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        OsDisk.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        OsDisk.sync_dir(dir)?;
        let before = state.log.next_number;
        state.append(Undo::DirSynced { dir: dir.to_path_buf(), before }, dir)?;
        let trashed = std::mem::take(&mut state.trashed);
        for trashed in trashed {
            if trashed.dir != dir || trashed.number >= before {
                state.trashed.push(trashed);
                continue;
            }
            state.empty_trash(trashed.inode)?;
        }
        state.log.compact_when_long()
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        OsDisk.create_dir_all(dir)
    }

    fn space(&self, dir: &Path) -> Result<DiskSpace> {
        OsDisk.space(dir)
    }

    fn lock(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        self.open_with(path, || OsDisk.lock(path))
    }
}

impl DiskFile for UndoFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut state = lock(&self.state);
        state.note(self.file.as_ref(), self.inode, offset, offset + data.len() as u64)?;
        state.step(self.file.path())?;
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        // Changes that come while the sync runs are not part of it: they are noted afresh.
        let before = {
            let mut state = lock(&self.state);
            state.noted.remove(&self.inode);
            state.log.next_number
        };
        self.file.sync()?;
        let mut state = lock(&self.state);
        if !state.nameless.contains(&self.inode) {
            state.step(self.file.path())?;
            state.log.append(vec![Undo::Synced { inode: self.inode, before }])?;
        }
        state.log.compact_when_long()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        let mut state = lock(&self.state);
        state.note(self.file.as_ref(), self.inode, len, u64::MAX)?;
        state.step(self.file.path())?;
        self.file.truncate(len)
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.file.allocate(len)
    }
}

#[cfg(test)]
mod tests;
