//! The data folder as a whole: whose it is, which format it has, and that only one process uses it.
//!
//! Owns the files `LOCK` and `LOSSTRACE`. Never touches anything else in the folder. Called first by whoever opens a
//! broker's or an agent's data.
//!
//! ```text
//! LOSSTRACE:  losstrace data folder, kind broker, format 1\n        (text, for people too)
//! ```
//!
//! Crash story: the marker is written beside its place, synced and renamed, so it is whole or absent. A folder
//! without marker is taken over only while it holds nothing else.

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the whole folder: rises when a file of an older version cannot be read any more.
pub const FOLDER_VERSION: u32 = 1;
const MARKER: &str = "LOSSTRACE";
const MARKER_NEW: &str = "LOSSTRACE.new";
const LOCK: &str = "LOCK";
const MARKER_BYTES_MAX: usize = 256;

/// A data folder that is ours and locked, as long as this value lives.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    _lock: Arc<dyn DiskFile>,
}

impl Folder {
    /// Opens or creates the folder. `kind` (say "broker") keeps two programs from taking each other's folder.
    pub fn open(disk: &dyn Disk, path: &Path, kind: &str) -> Result<Folder> {
        disk.create_dir_all(path)?;
        let entries = disk.list(path)?;
        let is_ours = entries.iter().any(|entry| entry.name == MARKER);
        if !is_ours && entries.iter().any(|entry| ![LOCK, MARKER_NEW].contains(&entry.name.as_str())) {
            let kind = ErrorKind::Corrupt("folder is not empty and not a losstrace data folder");
            return Err(StoreError::new(Op::Open, path, 0, kind));
        }
        let lock = disk.lock(&path.join(LOCK))?;
        // Looked up again: another process may have made the marker before we got the lock.
        if disk.list(path)?.iter().any(|entry| entry.name == MARKER) {
            check_marker(disk, &path.join(MARKER), kind)?;
        } else {
            write_marker(disk, path, kind)?;
        }
        Ok(Folder { path: path.to_path_buf(), _lock: lock })
    }
}

fn write_marker(disk: &dyn Disk, dir: &Path, kind: &str) -> Result<()> {
    let new = dir.join(MARKER_NEW);
    let file = disk.open(&new, OpenMode::Create)?;
    file.truncate(0)?;
    let text = format!("losstrace data folder, kind {kind}, format {FOLDER_VERSION}\n");
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync()?;
    disk.rename(&new, &dir.join(MARKER))?;
    disk.sync_dir(dir)
}

fn check_marker(disk: &dyn Disk, path: &Path, kind: &str) -> Result<()> {
    let mut bytes = [0; MARKER_BYTES_MAX];
    let count = disk.open(path, OpenMode::Existing)?.read_at(&mut bytes, 0)?;
    let text = std::str::from_utf8(&bytes[..count]).unwrap_or_default();
    let fields = text.strip_prefix("losstrace data folder, kind ").and_then(|rest| rest.strip_suffix('\n'));
    let Some((found_kind, found)) = fields.and_then(|fields| fields.split_once(", format ")) else {
        return Err(StoreError::corrupt(path, 0, "marker of the data folder"));
    };
    let Ok(found) = found.parse::<u32>() else {
        return Err(StoreError::corrupt(path, 0, "marker of the data folder"));
    };
    if found != FOLDER_VERSION {
        let kind = ErrorKind::VersionMismatch { found, supported: FOLDER_VERSION };
        return Err(StoreError::new(Op::Open, path, 0, kind));
    }
    if found_kind != kind {
        return Err(StoreError::corrupt(path, 0, "data folder of another kind"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk_sim::{SimDisk, SimFaults};

    const DIR: &str = "/data";

    fn open(disk: &SimDisk) -> Result<Folder> {
        Folder::open(disk, Path::new(DIR), "broker")
    }

    fn put(disk: &SimDisk, name: &str, bytes: &[u8]) {
        disk.create_dir_all(Path::new(DIR)).unwrap();
        let file = disk.open(&Path::new(DIR).join(name), OpenMode::Create).unwrap();
        file.truncate(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }

    #[test]
    fn one_process_at_a_time() {
        let disk = SimDisk::new();
        let folder = open(&disk).unwrap();
        assert_eq!(open(&disk).unwrap_err().kind, ErrorKind::Locked);
        drop(folder);
        open(&disk).unwrap();
    }

    #[test]
    fn another_version_another_kind_and_foreign_folders_are_refused() {
        let disk = SimDisk::new();
        open(&disk).unwrap();
        assert!(Folder::open(&disk, Path::new(DIR), "agent").is_err());
        put(&disk, MARKER, b"losstrace data folder, kind broker, format 7\n");
        let kind = open(&disk).unwrap_err().kind;
        assert_eq!(kind, ErrorKind::VersionMismatch { found: 7, supported: 1 });
        for text in [&b""[..], b"hello", b"losstrace data folder, kind broker, format x\n", &[0xFF; 300]] {
            put(&disk, MARKER, text);
            assert!(matches!(open(&disk).unwrap_err().kind, ErrorKind::Corrupt(_)));
        }
        let foreign = SimDisk::new();
        put(&foreign, "holiday.jpg", b"x");
        assert!(matches!(open(&foreign).unwrap_err().kind, ErrorKind::Corrupt(_)));
        assert!(!foreign.files().iter().any(|(path, _)| path.ends_with(LOCK)), "nothing was touched");
    }

    #[test]
    fn a_power_cut_after_any_effect_leaves_a_folder_that_opens() {
        for effects in 0..12 {
            for seed in 0..20 {
                let disk = SimDisk::new();
                disk.set_faults(SimFaults { die_after_effects: Some(effects), ..SimFaults::default() });
                let finished = open(&disk).is_ok();
                disk.power_cut(seed);
                open(&disk).unwrap();
                assert!(finished || effects < 10);
            }
        }
    }
}
