//! `SimDisk`: a disk in memory that can fail in every way a real one does.
//!
//! Owns the simulated files, what of them is durable, and the planned faults. Never touches the real disk or a
//! clock; everything random comes from the seed handed to [`SimDisk::power_cut`]. Used by the tests and by the
//! simulation. Clones share one disk.
//!
//! A power cut keeps, of what is not synced: per 4 KiB page the old bytes, the new bytes, or a mix of 512-byte
//! sectors; a length between the durable and the written one; any subset of the pending creations, renames and
//! removals. Handles opened before the cut fail from then on: their process is dead.

use crate::disk::{DirEntry, Disk, DiskFile, DiskSpace, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use inode::Inode;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const EIO: i32 = 5;
const EMFILE: i32 = 24;

/// A small seeded generator (splitmix64), for faults and tests only.
#[derive(Debug, Clone)]
pub struct SimRng(pub u64);

impl SimRng {
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit` (0 when `limit` is 0).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64().checked_rem(limit).unwrap_or(0)
    }
}

/// What was done so far; the base of "bytes and flushes per message" tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimCounters {
    pub writes: u64,
    pub bytes_written: u64,
    pub syncs: u64,
    pub dir_syncs: u64,
    pub reads: u64,
    /// Every operation that changes something or makes it durable: the boundaries of crash tests.
    pub effects: u64,
}

/// Planned faults. `None` means never.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimFaults {
    /// The disk is dead after this many further effects: everything fails with an IO error.
    pub die_after_effects: Option<u64>,
    /// "No space" once this many further bytes were written.
    pub no_space_after_bytes: Option<u64>,
    /// This many syncs succeed, the next one fails, and what it should have kept stays volatile.
    pub fail_sync_after: Option<u64>,
    /// Syncs succeed, and keep nothing: a disk, or a controller, that lies.
    pub syncs_lie: bool,
    /// A read that touches these bytes of a file fails.
    pub bad_bytes: Option<(u64, u64)>,
    /// The process has as many files open as it may.
    pub no_handles: bool,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            NameChange::Create(path, _) | NameChange::Remove(path) => path.parent() == Some(dir),
            NameChange::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    next_inode: u64,
    /// Counts power cuts; handles of an earlier life fail.
    life: u64,
    total_bytes: u64,
    counters: SimCounters,
    faults: SimFaults,
}

/// See the module text.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    inode: u64,
    life: u64,
    holds_lock: bool,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    pub fn new() -> SimDisk {
        let state = State { total_bytes: 1 << 40, ..State::default() };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    pub fn counters(&self) -> SimCounters {
        lock(&self.state).counters
    }

    /// Replaces the planned faults.
    pub fn set_faults(&self, faults: SimFaults) {
        lock(&self.state).faults = faults;
    }

    /// The size [`Disk::space`] reports.
    pub fn set_total_bytes(&self, total_bytes: u64) {
        lock(&self.state).total_bytes = total_bytes;
    }

    /// The process dies, the machine lives: nothing written is lost, old handles and locks are void.
    pub fn kill(&self) {
        let mut state = lock(&self.state);
        state.life += 1;
        state.locked.clear();
        state.faults = SimFaults::default();
        for inode in state.inodes.values_mut() {
            inode.handles = 0;
        }
    }

    /// The machine loses power. The same seed on the same state gives the same result.
    pub fn power_cut(&self, seed: u64) {
        let mut state = lock(&self.state);
        let mut rng = SimRng(seed);
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.pending) {
            if rng.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        for inode in state.inodes.values_mut() {
            inode.handles = 0;
            inode.power_cut(&mut rng);
        }
        let alive: BTreeSet<u64> = names.values().copied().collect();
        state.inodes.retain(|number, _| alive.contains(number));
        state.durable_names = names.clone();
        state.names = names;
        state.life += 1;
        state.locked.clear();
        state.faults = SimFaults::default();
    }

    /// Flips one bit, durably; says whether the file has that byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut state = lock(&self.state);
        let Some(inode) = state.names.get(path).copied().and_then(|number| state.inodes.get_mut(&number))
        else {
            return false;
        };
        let Some(byte) = usize::try_from(offset).ok().and_then(|offset| inode.data.get_mut(offset)) else {
            return false;
        };
        *byte ^= 1 << (bit % 8);
        true
    }

    /// All files with their lengths, sorted.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = lock(&self.state);
        let len = |number| state.inodes.get(number).map_or(0, |inode| inode.data.len() as u64);
        state.names.iter().map(|(path, number)| (path.clone(), len(number))).collect()
    }
}

impl State {
    /// Every changing operation passes here: it counts, and dies where a test wants it to.
    fn effect(&mut self, op: Op, path: &Path) -> Result<()> {
        if let Some(left) = &mut self.faults.die_after_effects {
            if *left == 0 {
                return Err(StoreError::new(op, path, 0, ErrorKind::Io(EIO)));
            }
            *left -= 1;
        }
        self.counters.effects += 1;
        Ok(())
    }

    fn alive(&self, op: Op, path: &Path) -> Result<()> {
        if self.faults.die_after_effects == Some(0) {
            return Err(StoreError::new(op, path, 0, ErrorKind::Io(EIO)));
        }
        Ok(())
    }

    /// Drops the content of files that no name, pending name or handle refers to.
    fn forget_unnamed(&mut self) {
        let mut named: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        named.extend(self.pending.iter().filter_map(|change| match change {
            NameChange::Create(_, inode) => Some(*inode),
            _ => None,
        }));
        self.inodes.retain(|number, inode| inode.handles > 0 || named.contains(number));
    }

    fn handle(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.handles += 1;
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>> {
        let mut state = lock(&self.state);
        state.alive(Op::Open, path)?;
        let fail = |kind| StoreError::new(Op::Open, path, 0, kind);
        if state.faults.no_handles {
            return Err(fail(ErrorKind::Io(EMFILE)));
        }
        let inode = match (state.names.get(path).copied(), mode) {
            (Some(_), OpenMode::CreateNew | OpenMode::CreatePrivate) => {
                return Err(fail(ErrorKind::AlreadyExists));
            }
            (Some(inode), _) => inode,
            (None, OpenMode::Existing) => return Err(fail(ErrorKind::NotFound)),
            (None, _) => {
                if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
                    return Err(fail(ErrorKind::NotFound));
                }
                state.effect(Op::Open, path)?;
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.change_name(NameChange::Create(path.to_path_buf(), inode));
                inode
            }
        };
        state.handle(inode);
        let life = state.life;
        let path = path.to_path_buf();
        Ok(Arc::new(SimFile { state: self.state.clone(), path, inode, life, holds_lock: false }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        let state = lock(&self.state);
        state.alive(Op::List, dir)?;
        if !state.dirs.contains(dir) {
            return Err(StoreError::new(Op::List, dir, 0, ErrorKind::NotFound));
        }
        let name =
            |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let len = |number| state.inodes.get(number).map_or(0, |inode| inode.data.len() as u64);
        let files = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let files =
            files.map(|(path, number)| DirEntry { name: name(path), is_dir: false, len: len(number) });
        let dirs = state.dirs.iter().filter(|path| path.parent() == Some(dir));
        let dirs = dirs.map(|path| DirEntry { name: name(path), is_dir: true, len: 0 });
        let mut entries: Vec<_> = files.chain(dirs).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        state.alive(Op::Rename, from)?;
        if !state.names.contains_key(from) {
            return Err(StoreError::new(Op::Rename, from, 0, ErrorKind::NotFound));
        }
        state.effect(Op::Rename, from)?;
        state.change_name(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        state.alive(Op::Remove, path)?;
        if !state.names.contains_key(path) {
            return Err(StoreError::new(Op::Remove, path, 0, ErrorKind::NotFound));
        }
        state.effect(Op::Remove, path)?;
        state.change_name(NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        state.effect(Op::Remove, dir)?;
        let full = state.names.keys().any(|path| path.parent() == Some(dir))
            || state.dirs.iter().any(|path| path.parent() == Some(dir));
        if full {
            return Err(StoreError::new(Op::Remove, dir, 0, ErrorKind::AlreadyExists));
        }
        if !state.dirs.contains(dir) {
            return Err(StoreError::new(Op::Remove, dir, 0, ErrorKind::NotFound));
        }
        // While the removal of its files is not durable the folder stays: a power cut may bring them back.
        if !state.pending.iter().any(|change| change.touches(dir)) {
            state.dirs.remove(dir);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        state.effect(Op::SyncDir, dir)?;
        state.counters.dir_syncs += 1;
        let pending = std::mem::take(&mut state.pending);
        let (durable, rest) = pending.into_iter().partition::<Vec<_>, _>(|change| change.touches(dir));
        state.pending = rest;
        for change in &durable {
            change.apply(&mut state.durable_names);
        }
        if durable.iter().any(|change| !matches!(change, NameChange::Create(..))) {
            state.forget_unnamed();
        }
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        let mut state = lock(&self.state);
        if state.dirs.contains(dir) {
            return state.alive(Op::CreateDir, dir);
        }
        state.effect(Op::CreateDir, dir)?;
        for parent in dir.ancestors() {
            state.dirs.insert(parent.to_path_buf());
        }
        Ok(())
    }

    fn space(&self, _dir: &Path) -> Result<DiskSpace> {
        let state = lock(&self.state);
        let used: u64 = state.inodes.values().map(|inode| inode.data.len() as u64).sum();
        let total_bytes = state.total_bytes;
        Ok(DiskSpace { total_bytes, free_bytes: total_bytes.saturating_sub(used) })
    }

    fn lock(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        self.open(path, OpenMode::Create)?;
        let mut state = lock(&self.state);
        if !state.locked.insert(path.to_path_buf()) {
            return Err(StoreError::new(Op::Lock, path, 0, ErrorKind::Locked));
        }
        let (life, inode) = (state.life, state.names.get(path).copied().unwrap_or_default());
        state.handle(inode);
        let path = path.to_path_buf();
        Ok(Arc::new(SimFile { state: self.state.clone(), path, inode, life, holds_lock: true }))
    }
}

impl SimFile {
    fn fail(&self, op: Op, offset: u64, kind: ErrorKind) -> StoreError {
        StoreError::new(op, &self.path, offset, kind)
    }

    /// The state, when this handle is still of this life and the disk is not dead.
    fn state(&self, op: Op) -> Result<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        if state.life != self.life || !state.inodes.contains_key(&self.inode) {
            return Err(self.fail(op, 0, ErrorKind::Io(EIO)));
        }
        state.alive(op, &self.path)?;
        Ok(state)
    }

    fn inode<'a>(&self, state: &'a mut State, op: Op) -> Result<&'a mut Inode> {
        state.inodes.get_mut(&self.inode).ok_or_else(|| self.fail(op, 0, ErrorKind::NotFound))
    }

    fn index(&self, op: Op, offset: u64) -> Result<usize> {
        usize::try_from(offset).map_err(|_| self.fail(op, offset, ErrorKind::Limit("file size")))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.life != self.life {
            return;
        }
        if self.holds_lock {
            state.locked.remove(&self.path);
        }
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            inode.handles -= 1;
            if inode.handles == 0 && !state.names.values().any(|number| *number == self.inode) {
                state.forget_unnamed();
            }
        }
    }
}

impl DiskFile for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.state(Op::Read)?;
        state.counters.reads += 1;
        if state.faults.bad_bytes.is_some_and(|(from, to)| offset < to && from < offset + buf.len() as u64) {
            return Err(StoreError::new(Op::Read, &self.path, offset, ErrorKind::Io(EIO)));
        }
        let start = self.index(Op::Read, offset)?;
        let data = self.inode(&mut state, Op::Read)?.data.get(start..).unwrap_or_default();
        let count = data.len().min(buf.len());
        buf[..count].copy_from_slice(&data[..count]);
        Ok(count)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut state = self.state(Op::Write)?;
        state.effect(Op::Write, &self.path)?;
        let mut fits = data.len();
        if let Some(left) = &mut state.faults.no_space_after_bytes {
            fits = fits.min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= fits as u64;
        }
        state.counters.writes += 1;
        state.counters.bytes_written += fits as u64;
        let start = self.index(Op::Write, offset)?;
        let inode = self.inode(&mut state, Op::Write)?;
        if inode.data.len() < start + fits {
            let len = inode.data.len();
            inode.touch(len.min(start), start + fits);
            inode.data.resize(start + fits, 0);
        }
        inode.touch(start, start + fits);
        inode.data[start..start + fits].copy_from_slice(&data[..fits]);
        if fits < data.len() {
            return Err(self.fail(Op::Write, offset, ErrorKind::NoSpace));
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.state(Op::Sync)?;
        state.effect(Op::Sync, &self.path)?;
        state.counters.syncs += 1;
        let mut failing = false;
        if let Some(left) = &mut state.faults.fail_sync_after {
            failing = *left == 0;
            *left = left.saturating_sub(1);
        }
        let lies = state.faults.syncs_lie;
        let inode = self.inode(&mut state, Op::Sync)?;
        inode.sync(failing || lies);
        if failing {
            return Err(self.fail(Op::Sync, 0, ErrorKind::Io(EIO)));
        }
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        let mut state = self.state(Op::Len)?;
        Ok(self.inode(&mut state, Op::Len)?.data.len() as u64)
    }

    fn truncate(&self, len: u64) -> Result<()> {
        let mut state = self.state(Op::Truncate)?;
        state.effect(Op::Truncate, &self.path)?;
        let len = self.index(Op::Truncate, len)?;
        self.inode(&mut state, Op::Truncate)?.set_len(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> Result<()> {
        let mut state = self.state(Op::Allocate)?;
        let have = self.inode(&mut state, Op::Allocate)?.data.len() as u64;
        match state.faults.no_space_after_bytes {
            Some(left) if len.saturating_sub(have) > left => {
                Err(self.fail(Op::Allocate, len, ErrorKind::NoSpace))
            }
            _ => Ok(()),
        }
    }
}

mod inode;
#[cfg(test)]
mod tests;
