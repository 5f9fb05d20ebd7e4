//! Takes back what the undo log says was not durable.
//!
//! Owns nothing; changes the data folder and empties the sidecar. Never runs beside a process that uses them. Contents first, by
//! inode, wherever the file is now; then names, newest first. Every step looks at what is there, so that a
//! record whose change never happened, and a second run, change nothing.

use super::inode_of;
use super::log::{Record, Undo, UndoLog, live_records};
use crate::disk::{Disk, OpenMode};
use crate::disk_os::OsDisk;
use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What was taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UndoReport {
    /// Files that lost content or length.
    pub files: Vec<PathBuf>,
    /// Created files that are gone, renamed and removed ones that are back.
    pub names: Vec<PathBuf>,
    pub bytes_restored: u64,
}

pub(super) fn undo(dir: &Path, sidecar: &Path) -> Result<UndoReport> {
    let trash = sidecar.join("trash");
    OsDisk.create_dir_all(&trash)?;
    let (_, records) = UndoLog::open(sidecar)?;
    let live = live_records(records);
    let mut report = UndoReport::default();
    let mut places = BTreeMap::new();
    find_inodes(dir, &mut places)?;
    find_inodes(&trash, &mut places)?;
    let mut files = BTreeSet::new();
    for record in live.iter().rev() {
        restore_content(record, &places, &mut files, &mut report)?;
    }
    report.files = files.into_iter().collect();
    for record in live.iter().rev() {
        restore_name(record, &trash, &mut report)?;
    }
    // The log goes first: without it the trash means nothing, without the trash the log would invent losses.
    OsDisk.remove(&sidecar.join("undo.log"))?;
    for entry in OsDisk.list(&trash)? {
        OsDisk.remove(&trash.join(&entry.name))?;
    }
    Ok(report)
}

/// Where each inode is now.
fn find_inodes(dir: &Path, places: &mut BTreeMap<u64, PathBuf>) -> Result<()> {
    for entry in OsDisk.list(dir)? {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            find_inodes(&path, places)?;
        } else if let Some(inode) = inode_of(&path) {
            places.insert(inode, path);
        }
    }
    Ok(())
}

fn restore_content(
    record: &Record,
    places: &BTreeMap<u64, PathBuf>,
    files: &mut BTreeSet<PathBuf>,
    report: &mut UndoReport,
) -> Result<()> {
    let (Undo::Len { inode, .. } | Undo::Bytes { inode, .. }) = &record.undo else { return Ok(()) };
    let Some(path) = places.get(inode) else { return Ok(()) };
    let file = OsDisk.open(path, OpenMode::Existing)?;
    match &record.undo {
        Undo::Len { len, .. } if file.len()? != *len => {
            file.truncate(*len)?;
            files.insert(path.clone());
        }
        Undo::Bytes { offset, bytes, .. } => {
            let mut now = vec![0; bytes.len()];
            let count = file.read_at(&mut now, *offset)?;
            if now != *bytes || count != bytes.len() {
                file.write_all_at(bytes, *offset)?;
                report.bytes_restored += bytes.len() as u64;
                files.insert(path.clone());
            }
        }
        _ => {}
    }
    Ok(())
}

fn restore_name(record: &Record, trash: &Path, report: &mut UndoReport) -> Result<()> {
    match &record.undo {
        Undo::Create { path } if inode_of(path).is_some() => {
            OsDisk.remove(path)?;
            report.names.push(path.clone());
        }
        Undo::Rename { from, to, inode, replaced } => {
            if inode_of(to) == Some(*inode) && inode_of(from).is_none() {
                OsDisk.rename(to, from)?;
                report.names.push(from.clone());
            }
            if *replaced != 0 {
                take_from_trash(trash, *replaced, to, report)?;
            }
        }
        Undo::Remove { path, inode } => take_from_trash(trash, *inode, path, report)?,
        _ => {}
    }
    Ok(())
}

fn take_from_trash(trash: &Path, inode: u64, path: &Path, report: &mut UndoReport) -> Result<()> {
    let kept = trash.join(inode.to_string());
    if inode_of(&kept) != Some(inode) {
        return Ok(());
    }
    if inode_of(path).is_some() {
        // Linked, but the name was never taken away.
        return OsDisk.remove(&kept);
    }
    if let Some(dir) = path.parent() {
        OsDisk.create_dir_all(dir)?;
    }
    OsDisk.rename(&kept, path)?;
    report.names.push(path.to_path_buf());
    Ok(())
}
