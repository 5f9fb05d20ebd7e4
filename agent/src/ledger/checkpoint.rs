//! Owns the order in which a checkpoint becomes durable: raw frames, verdicts, ledger. Never decides what is in it. Called on
//! the checkpoint thread, which owns all three.
//!
//! Killed after the raw frames: they only add evidence. After the verdicts: the ledger's state is older than what was said;
//! the verdict log tells at the next start. After the ledger: the sources were not told, and keep their journals longer.

use super::raw_frames::RawFrames;
use super::verdict_log::{Record, VerdictLog};
use super::{Change, Ledger, LedgerError};
use store::error::StoreError;
use thiserror::Error;

/// Key of the row with the verdict log's [`super::verdict_log::Witness`].
pub const WITNESS_KEY: &[u8] = b"mverdicts";

/// One checkpoint.
#[derive(Debug, Default)]
pub struct Job {
    /// All raw frames to keep from now on (`raw_frames::encode_body`).
    pub raw_body: Vec<u8>,
    /// What the judge said since the last one.
    pub records: Vec<Record>,
    /// Rows that changed since the last one, with the positions they rest on.
    pub changes: Vec<Change>,
}

/// What became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// Rows in the ledger.
    pub rows: u64,
    /// Records in the verdict log.
    pub verdict_records: u64,
}

/// Why a checkpoint failed: always fatal, since what is on disk is no longer known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Raw frames.
    #[error("raw frames: {0}")]
    RawFrames(StoreError),
    /// The verdict log.
    #[error("verdict log: {0}")]
    Verdicts(StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Everything a checkpoint writes to.
pub struct Stores {
    /// Raw frames.
    pub raw: RawFrames,
    /// The verdict log.
    pub verdicts: VerdictLog,
    /// The ledger.
    pub ledger: Box<dyn Ledger>,
}

impl Stores {
    /// Makes one checkpoint durable.
    pub fn commit(&mut self, mut job: Job) -> Result<Durable, CheckpointError> {
        self.raw.write(&job.raw_body).map_err(CheckpointError::RawFrames)?;
        self.verdicts.append(&job.records).map_err(CheckpointError::Verdicts)?;
        if !job.records.is_empty() {
            job.changes.push((WITNESS_KEY.to_vec(), Some(self.verdicts.end().encode())));
        }
        if !job.changes.is_empty() {
            self.ledger.commit(&job.changes)?;
        }
        Ok(Durable { rows: self.ledger.row_count(), verdict_records: self.verdicts.end().count })
    }
}
