//! Owns the agent's ledger on disk: sled 0.34, used in the one way that was measured to be safe. Never the only copy of
//! anything: journals, evidence log and verdict log can rebuild it, and it is given up at the first doubt.
//!
//! Decision (2026-11): sled, pinned, one tree, rows of at most 4 KiB, one batch per checkpoint, `flush` *and our own fsync*.
//! Because: on Linux its `flush` ends in `sync_file_range`, which is no barrier; larger values become files that are neither
//! synced nor reclaimed; damage shows as a panic or as rows that are silently gone; a crash while it writes its snapshot leaves
//! a file that makes it unopenable. Instead of: one key per message (a thousand times the disk). Revisit when: sled 1.0 is out.
//!
//! Crash story: a batch is recovered whole or not at all. Power loss may roll back to an earlier batch, whose position rolls
//! back with it. Everything else (a lost row, a flipped bit, a panic) is caught at open by checksums and the digest: the folder
//! is renamed to `<dir>.corrupt-<time>` and the ledger starts empty.

pub mod power_cut;

use super::rows::{Digest, row_hash, seal, unseal};
use super::{Change, KEY_BYTES_MAX, Ledger, LedgerError, OpenedLedger, Row, VALUE_BYTES_MAX};
use std::collections::HashMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::disk::{Disk, DiskFile};

/// Page cache of sled; it takes more than it is told, so it is told little.
const CACHE_BYTES: u64 = 16 << 20;
/// sled's background flush is its only built-in real fsync.
const FLUSH_EVERY_MS: u64 = 500;
/// Damaged ledgers that are kept for a look.
const SET_ASIDE_MAX: usize = 3;
/// How often and how long a closing ledger is waited for.
const UNLOCK_TRIES: u32 = 60;
const UNLOCK_WAIT: Duration = Duration::from_millis(50);
const DIGEST_KEY: &[u8] = b"\xffdigest";
const FORMAT_KEY: &[u8] = b"\xffformat";
const FORMAT: &[u8] = b"losstrace ledger 1";

/// Rows in sled.
pub struct SledLedger {
    db: sled::Db,
    /// One handle of sled's file for our fsync (an fsync covers the inode, whoever wrote).
    db_file: File,
    /// Hash of every row, so that the digest can follow changes.
    hashes: HashMap<Vec<u8>, u64>,
    digest: Digest,
    poisoned: bool,
    _lock: Arc<dyn DiskFile>,
}

/// Opens the ledger in `dir`; what cannot be trusted is set aside as `<dir>.corrupt-<wall ms>`. Blocks, and may panic inside
/// (caught): call it on a plain thread. `disk` is only used for the lock, `<dir>.lock`.
pub fn open(disk: &dyn Disk, dir: &Path, wall_ms: u64) -> Result<OpenedLedger, LedgerError> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(|error| io(parent, &error))?;
    }
    let lock = disk.lock(&beside(dir, ".lock")).map_err(|error| LedgerError::InUse(error.to_string()))?;
    let mut rebuilt = None;
    let opened = match guarded(|| open_checked(dir)) {
        Ok(opened) => opened,
        Err(LedgerError::InUse(text)) => return Err(LedgerError::InUse(text)),
        Err(error) => {
            set_aside(dir, wall_ms)?;
            rebuilt = Some(error.to_string());
            guarded(|| open_checked(dir))?
        }
    };
    let Checked { db, db_file, rows, hashes, digest } = opened;
    let mut ledger = SledLedger { db, db_file, hashes, digest, poisoned: false, _lock: lock };
    if rows.is_empty() {
        // from now on a ledger without its format row is one that lost it
        ledger.commit(&[])?;
    }
    Ok(OpenedLedger { ledger: Box::new(ledger), rows, rebuilt })
}

struct Checked {
    db: sled::Db,
    db_file: File,
    rows: Vec<Row>,
    hashes: HashMap<Vec<u8>, u64>,
    digest: Digest,
}

fn open_checked(dir: &Path) -> Result<Checked, LedgerError> {
    remove_half_snapshots(dir)?;
    let file = dir.join("db");
    let is_new = fs::metadata(&file).map_or(true, |meta| meta.len() == 0);
    let db = open_unlocked(dir)?;
    let db_file = File::open(&file).map_err(|error| io(&file, &error))?;
    db_file.sync_all().map_err(|error| io(&file, &error))?;
    for folder in [Some(dir), dir.parent()].into_iter().flatten() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io(folder, &error))?;
    }
    let checked = check_rows(&db, is_new)?;
    if has_blobs(dir) {
        return Err(LedgerError::Damaged("values outside the log".into()));
    }
    Ok(Checked { db_file, rows: checked.0, hashes: checked.1, digest: checked.2, db })
}

/// A ledger closed a moment ago in this process is let go by sled's own threads only a little later. We hold our own lock, so
/// it can be nobody else.
fn open_unlocked(dir: &Path) -> Result<sled::Db, LedgerError> {
    let config = sled::Config::new()
        .path(dir)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    for _ in 0..UNLOCK_TRIES {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                std::thread::park_timeout(UNLOCK_WAIT);
            }
            Err(error) => return Err(from_sled(&error)),
        }
    }
    Err(LedgerError::InUse(dir.display().to_string()))
}

type CheckedRows = (Vec<Row>, HashMap<Vec<u8>, u64>, Digest);

/// Reads every row and compares with the digest of the last batch.
fn check_rows(db: &sled::Db, is_new: bool) -> Result<CheckedRows, LedgerError> {
    let damaged = |what: &str| LedgerError::Damaged(what.to_owned());
    if db.tree_names().len() > 1 {
        return Err(damaged("more than one tree"));
    }
    let (mut rows, mut hashes, mut digest) = (Vec::new(), HashMap::new(), Digest::default());
    let (mut stated, mut format) = (None, None);
    for item in db.iter() {
        let (key, value) = item.map_err(|error| from_sled(&error))?;
        let payload = unseal(&key, &value).ok_or_else(|| damaged("row checksum"))?;
        match key.as_ref() {
            DIGEST_KEY => stated = Digest::decode(payload),
            FORMAT_KEY => format = Some(payload.to_vec()),
            _ => {
                let hash = row_hash(&key, &value);
                digest.add(hash);
                hashes.insert(key.to_vec(), hash);
                rows.push((key.to_vec(), payload.to_vec()));
            }
        }
    }
    match (stated, format.as_deref()) {
        (None, None) if is_new && rows.is_empty() => {}
        (Some(stated), Some(FORMAT)) if stated == digest => {}
        (_, Some(format)) if format != FORMAT => return Err(damaged("unknown format")),
        _ => return Err(damaged("rows do not match their digest")),
    }
    Ok((rows, hashes, digest))
}

impl SledLedger {
    fn write(&mut self, changes: &[Change]) -> Result<(), LedgerError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            assert!(key.len() <= KEY_BYTES_MAX && !key.starts_with(b"\xff"), "ledger key out of bounds");
            let old = match value {
                Some(payload) => {
                    assert!(payload.len() <= VALUE_BYTES_MAX, "ledger row of {} bytes", payload.len());
                    let value = seal(key, payload);
                    let hash = row_hash(key, &value);
                    self.digest.add(hash);
                    batch.insert(key.as_slice(), value);
                    self.hashes.insert(key.clone(), hash)
                }
                None => {
                    batch.remove(key.as_slice());
                    self.hashes.remove(key)
                }
            };
            if let Some(old) = old {
                self.digest.take(old);
            }
        }
        batch.insert(DIGEST_KEY, seal(DIGEST_KEY, &self.digest.encode()));
        batch.insert(FORMAT_KEY, seal(FORMAT_KEY, FORMAT));
        self.db.apply_batch(batch).map_err(|error| from_sled(&error))?;
        self.db.flush().map_err(|error| from_sled(&error))?;
        self.db_file.sync_all().map_err(|error| LedgerError::Io(format!("sync: {error}")))
    }
}

impl Ledger for SledLedger {
    fn commit(&mut self, changes: &[Change]) -> Result<(), LedgerError> {
        if self.poisoned {
            return Err(LedgerError::Poisoned);
        }
        self.poisoned = true;
        guarded(|| self.write(changes))?;
        self.poisoned = false;
        Ok(())
    }

    fn row_count(&self) -> u64 {
        self.digest.count
    }
}

/// A leftover of a crash during open, which sled would take for a snapshot.
fn remove_half_snapshots(dir: &Path) -> Result<(), LedgerError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(dir, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| io(dir, &error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path()).map_err(|error| io(&entry.path(), &error))?;
        }
    }
    Ok(())
}

fn has_blobs(dir: &Path) -> bool {
    fs::read_dir(dir.join("blobs")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Moves a damaged ledger out of the way and forgets the oldest of earlier ones.
fn set_aside(dir: &Path, wall_ms: u64) -> Result<(), LedgerError> {
    let mut target = beside(dir, &format!(".corrupt-{wall_ms:013}"));
    let mut serial = 1;
    while target.exists() {
        serial += 1;
        target = beside(dir, &format!(".corrupt-{wall_ms:013}-{serial}"));
    }
    fs::rename(dir, &target).map_err(|error| io(dir, &error))?;
    let mut kept = set_aside_before(dir)?;
    while kept.len() > SET_ASIDE_MAX {
        let oldest = kept.remove(0);
        fs::remove_dir_all(&oldest).map_err(|error| io(&oldest, &error))?;
    }
    Ok(())
}

fn set_aside_before(dir: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let prefix = beside(dir, ".corrupt-");
    let prefix = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).map_err(|error| io(parent, &error))? {
        let entry = entry.map_err(|error| io(parent, &error))?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    dir.with_file_name(name)
}

/// Damage in sled's file shows up as a panic more often than as an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(LedgerError::Panicked(text.to_owned()))
    })
}

fn from_sled(error: &sled::Error) -> LedgerError {
    match error {
        sled::Error::Corruption { .. } => LedgerError::Damaged(error.to_string()),
        _ => LedgerError::Io(error.to_string()),
    }
}

fn io(path: &Path, error: &std::io::Error) -> LedgerError {
    LedgerError::Io(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
