//! The one error of the store: what was tried, where, and what went wrong.
//!
//! Owns the error type and the rule what a caller must do about it. Does no IO. Used by every module of
//! this crate and by its callers.

use std::path::{Path, PathBuf};

/// `Result` with the error of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What was being done when the error happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Open,
    Read,
    Write,
    Sync,
    SyncDir,
    Len,
    Truncate,
    Allocate,
    List,
    Rename,
    Remove,
    CreateDir,
    Space,
    Lock,
    Decode,
    Append,
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Op::Open => "open",
            Op::Read => "read",
            Op::Write => "write",
            Op::Sync => "sync",
            Op::SyncDir => "sync directory",
            Op::Len => "length",
            Op::Truncate => "truncate",
            Op::Allocate => "allocate",
            Op::List => "list",
            Op::Rename => "rename",
            Op::Remove => "remove",
            Op::CreateDir => "create directory",
            Op::Space => "free space",
            Op::Lock => "lock",
            Op::Decode => "decode",
            Op::Append => "append",
        };
        f.write_str(name)
    }
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    #[error("no space left on the disk")]
    NoSpace,
    #[error("not found")]
    NotFound,
    #[error("exists already")]
    AlreadyExists,
    #[error("damaged: {0}")]
    Corrupt(&'static str),
    #[error("in use by another process")]
    Locked,
    #[error("format version {found}, this program reads version {supported}")]
    VersionMismatch { found: u32, supported: u32 },
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// The operating system's error number, 0 when it gave none.
    #[error("input/output error (os error {0})")]
    Io(i32),
}

/// What the caller must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing is lost and nothing half done: the same call may succeed later (disk full).
    Retry,
    /// This request cannot be served; others can.
    Reject,
    /// What is on disk is no longer known, or must not be touched: stop the process.
    Fatal,
}

/// A failed operation of the store. `offset` is the position inside `path` (0 where it has no meaning).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op} {} at {offset}: {kind}", path.display())]
pub struct StoreError {
    pub op: Op,
    pub path: PathBuf,
    pub offset: u64,
    pub kind: ErrorKind,
}

impl StoreError {
    pub fn new(op: Op, path: &Path, offset: u64, kind: ErrorKind) -> StoreError {
        StoreError { op, path: path.to_path_buf(), offset, kind }
    }

    pub fn corrupt(path: &Path, offset: u64, what: &'static str) -> StoreError {
        StoreError::new(Op::Decode, path, offset, ErrorKind::Corrupt(what))
    }

    pub fn from_io(op: Op, path: &Path, offset: u64, error: &std::io::Error) -> StoreError {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io(error.raw_os_error().unwrap_or(0)),
        };
        StoreError::new(op, path, offset, kind)
    }

    /// After a failed sync the kernel may have dropped the pages and marked them clean: a second sync that
    /// succeeds proves nothing. So every failed sync is fatal, whatever its kind.
    pub fn disposition(&self) -> Disposition {
        match (self.op, self.kind) {
            (Op::Sync | Op::SyncDir, _) => Disposition::Fatal,
            (_, ErrorKind::NoSpace) => Disposition::Retry,
            (_, ErrorKind::Locked | ErrorKind::VersionMismatch { .. }) => Disposition::Fatal,
            (Op::Write | Op::Truncate | Op::Rename | Op::Remove, ErrorKind::Io(_)) => Disposition::Fatal,
            _ => Disposition::Reject,
        }
    }

    pub fn is_fatal(&self) -> bool {
        self.disposition() == Disposition::Fatal
    }

    /// Whether a read failed because of what is on the disk (EIO, ENODATA, EBADMSG, EILSEQ, EUCLEAN), not because of the process or
    /// the machine: the same bytes cannot be expected to come back.
    pub fn is_of_medium(&self) -> bool {
        self.op == Op::Read && matches!(self.kind, ErrorKind::Io(5 | 61 | 74 | 84 | 117))
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_sync_is_fatal_and_a_full_disk_is_not() {
        let at = |op, kind| StoreError::new(op, Path::new("/d/f"), 7, kind).disposition();
        assert_eq!(at(Op::Sync, ErrorKind::NoSpace), Disposition::Fatal);
        assert_eq!(at(Op::SyncDir, ErrorKind::NotFound), Disposition::Fatal);
        assert_eq!(at(Op::Write, ErrorKind::NoSpace), Disposition::Retry);
        assert_eq!(at(Op::Write, ErrorKind::Io(5)), Disposition::Fatal);
        assert_eq!(at(Op::Read, ErrorKind::Io(5)), Disposition::Reject);
        assert_eq!(at(Op::Lock, ErrorKind::Locked), Disposition::Fatal);
    }

    #[test]
    fn the_message_names_operation_place_and_reason() {
        let error = StoreError::corrupt(Path::new("/d/f"), 7, "bad checksum");
        assert_eq!(error.to_string(), "decode /d/f at 7: damaged: bad checksum");
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(StoreError::from_io(Op::Write, Path::new("/d/f"), 0, &full).kind, ErrorKind::NoSpace);
    }
}
