//! The undo log's bytes: one record per thing that a power cut would take back.
//!
//! Owns encoding, the file `undo.log` of the sidecar folder, and its compaction. Never touches the data folder. Called by
//! `UndoDisk` and by the undo.
//!
//! ```text
//! record:  | body bytes u32 | crc32 of the body | body: number u64 | kind u8 | fields |     little endian
//! ```

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::disk_os::OsDisk;
use crate::error::Result;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HEAD_BYTES: usize = 8;
/// The log is rewritten without its dead records when it grows beyond this, or twice what was alive last time.
const COMPACT_BYTES: u64 = 4 * 1024 * 1024;

/// What is taken back, or why earlier records need not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undo {
    /// The length before the first change since a sync.
    Len {
        inode: u64,
        len: u64,
    },
    /// Bytes before their first change since a sync.
    Bytes {
        inode: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    Create {
        path: PathBuf,
    },
    /// `replaced` is the inode that had the name `to`, 0 for none; it waits in the trash.
    Rename {
        from: PathBuf,
        to: PathBuf,
        inode: u64,
        replaced: u64,
    },
    /// The file waits in the trash.
    Remove {
        path: PathBuf,
        inode: u64,
    },
    /// Content records of the inode below this number are durable.
    Synced {
        inode: u64,
        before: u64,
    },
    /// Name records of the folder below this number are durable.
    DirSynced {
        dir: PathBuf,
        before: u64,
    },
    /// The inode is gone for good; its number may be used again.
    Forget {
        inode: u64,
    },
}

/// A numbered record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) undo: Undo,
}

impl Record {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEAD_BYTES]);
        out.extend_from_slice(&self.number.to_le_bytes());
        let (kind, numbers, blobs): (u8, [u64; 2], [&[u8]; 2]) = match &self.undo {
            Undo::Len { inode, len } => (1, [*inode, *len], [b"", b""]),
            Undo::Bytes { inode, offset, bytes } => (2, [*inode, *offset], [bytes, b""]),
            Undo::Create { path } => (3, [0, 0], [path_bytes(path), b""]),
            Undo::Rename { from, to, inode, replaced } => {
                (4, [*inode, *replaced], [path_bytes(from), path_bytes(to)])
            }
            Undo::Remove { path, inode } => (5, [*inode, 0], [path_bytes(path), b""]),
            Undo::Synced { inode, before } => (6, [*inode, *before], [b"", b""]),
            Undo::DirSynced { dir, before } => (7, [0, *before], [path_bytes(dir), b""]),
            Undo::Forget { inode } => (8, [*inode, 0], [b"", b""]),
        };
        out.push(kind);
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        for blob in blobs {
            let len = u32::try_from(blob.len()).expect("blobs are paths and pages");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(blob);
        }
        let body = out.len() - start - HEAD_BYTES;
        let crc = crc32fast::hash(&out[start + HEAD_BYTES..]);
        out[start..start + 4].copy_from_slice(&u32::try_from(body).expect("short records").to_le_bytes());
        out[start + 4..start + HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    }

    /// The first record of `bytes` and how long it is; `None` for anything that is not a whole record.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Record, usize)> {
        let len = usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()?;
        let crc = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEAD_BYTES..)?.get(..len)?;
        if crc32fast::hash(body) != crc {
            return None;
        }
        let number_at = |at: usize| Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let (number, kind, first, second) = (number_at(0)?, *body.get(8)?, number_at(9)?, number_at(17)?);
        let blob_at = |at: usize| {
            let len = usize::try_from(u32::from_le_bytes(*body.get(at..)?.first_chunk()?)).ok()?;
            body.get(at + 4..)?.get(..len)
        };
        let blob = blob_at(25)?;
        let path = || PathBuf::from(OsStr::from_bytes(blob));
        let undo = match kind {
            1 => Undo::Len { inode: first, len: second },
            2 => Undo::Bytes { inode: first, offset: second, bytes: blob.to_vec() },
            3 => Undo::Create { path: path() },
            4 => {
                let to = PathBuf::from(OsStr::from_bytes(blob_at(29 + blob.len())?));
                Undo::Rename { from: path(), to, inode: first, replaced: second }
            }
            5 => Undo::Remove { path: path(), inode: first },
            6 => Undo::Synced { inode: first, before: second },
            7 => Undo::DirSynced { dir: path(), before: second },
            8 => Undo::Forget { inode: first },
            _ => return None,
        };
        Some((Record { number, undo }, HEAD_BYTES + len))
    }
}

fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Leaves out what is durable or gone; keeps the order.
pub(super) fn live_records(records: Vec<Record>) -> Vec<Record> {
    let mut content_before: BTreeMap<u64, u64> = BTreeMap::new();
    let mut names_before: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for record in &records {
        match &record.undo {
            Undo::Synced { inode, before } => {
                let known = content_before.entry(*inode).or_insert(0);
                *known = (*known).max(*before);
            }
            Undo::Forget { inode } => {
                content_before.insert(*inode, record.number);
            }
            Undo::DirSynced { dir, before } => {
                let known = names_before.entry(dir.clone()).or_insert(0);
                *known = (*known).max(*before);
            }
            _ => {}
        }
    }
    let is_content = |inode: &u64, number| content_before.get(inode).is_none_or(|before| number >= *before);
    let is_name = |path: &Path, number| {
        let before = path.parent().and_then(|dir| names_before.get(dir));
        before.is_none_or(|before| number >= *before)
    };
    let is_live = |record: &Record| match &record.undo {
        Undo::Len { inode, .. } | Undo::Bytes { inode, .. } => is_content(inode, record.number),
        Undo::Create { path } | Undo::Remove { path, .. } => is_name(path, record.number),
        Undo::Rename { from, to, .. } => is_name(from, record.number) && is_name(to, record.number),
        Undo::Synced { .. } | Undo::DirSynced { .. } | Undo::Forget { .. } => false,
    };
    records.into_iter().filter(is_live).collect()
}

/// The log file. Records reach the operating system before the change they describe, so that a killed process
/// leaves at most one record whose change did not happen.
#[derive(Debug)]
pub(super) struct UndoLog {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    compact_at: u64,
    pub(super) next_number: u64,
}

impl UndoLog {
    /// Opens the log, cuts a half-written record, and returns what is in it.
    pub(super) fn open(sidecar: &Path) -> Result<(UndoLog, Vec<Record>)> {
        let path = sidecar.join("undo.log");
        let file = OsDisk.open(&path, OpenMode::Create)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
        file.read_at(&mut bytes, 0)?;
        let (mut records, mut at) = (Vec::new(), 0);
        while let Some((record, len)) = Record::decode(&bytes[at..]) {
            records.push(record);
            at += len;
        }
        file.truncate(at as u64)?;
        let next_number = records.last().map_or(0, |record| record.number) + 1;
        let log = UndoLog { path, file, len: at as u64, compact_at: COMPACT_BYTES, next_number };
        Ok((log, records))
    }

    /// Writes records in one piece.
    pub(super) fn append(&mut self, undos: Vec<Undo>) -> Result<()> {
        let mut bytes = Vec::new();
        for undo in undos {
            Record { number: self.next_number, undo }.encode(&mut bytes);
            self.next_number += 1;
        }
        self.file.write_all_at(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Rewrites the log without dead records once it is long; a rename makes that one step.
    pub(super) fn compact_when_long(&mut self) -> Result<()> {
        if self.len < self.compact_at {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        self.file.read_at(&mut bytes, 0)?;
        let (mut records, mut at) = (Vec::new(), 0);
        while let Some((record, len)) = Record::decode(&bytes[at..]) {
            records.push(record);
            at += len;
        }
        let mut kept = Vec::new();
        live_records(records).iter().for_each(|record| record.encode(&mut kept));
        let new = self.path.with_extension("new");
        let file = OsDisk.open(&new, OpenMode::Create)?;
        file.truncate(0)?;
        file.write_all_at(&kept, 0)?;
        OsDisk.rename(&new, &self.path)?;
        (self.file, self.len) = (file, kept.len() as u64);
        self.compact_at = COMPACT_BYTES.max(2 * self.len);
        Ok(())
    }
}
